"""The smallest bundle that has everything: a network of one matrix at 8 kHz, a head, classes, priors, tuned values.

Windows of 1 s, four features, three classes. It takes a few milliseconds to write, to load and to run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bce.engine.post.priors import Priors

RATE, WINDOW_S, FEATURES = 8_000, 1, 4
CLASSES = ("a", "b", "c")
TAXONOMY = "primary_label,scientific_name,class_name\na,Aus bus,Aves\nb,Aus cus,Aves\nc,Dus eus,Amphibia\n"


def graph(
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any]],
    nodes: list[onnx.NodeProto],
    tensors: Mapping[str, np.ndarray] | None = None,
    *,
    kind: int = onnx.TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model out of names, shapes, nodes and constants."""
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (tensors or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def weights(rows: int, columns: int) -> np.ndarray:
    return (np.random.default_rng(rows).standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)


def backbone(features: int = FEATURES, source: str = "samples", target: str = "block_1") -> onnx.ModelProto:
    """[batch, samples] times a matrix, its tanh."""
    nodes = [helper.make_node("MatMul", [source, "w"], ["sum"]), helper.make_node("Tanh", ["sum"], [target])]
    shapes = {source: ["batch", RATE * WINDOW_S]}, {target: ["batch", features]}
    return graph(*shapes, nodes, {"w": weights(RATE * WINDOW_S, features)})


def head(classes: int = len(CLASSES), source: str = "block_1", target: str = "logits") -> onnx.ModelProto:
    """[batch, features] times a matrix."""
    nodes = [helper.make_node("MatMul", [source, "w"], [target])]
    return graph({source: ["batch", FEATURES]}, {target: ["batch", classes]}, nodes, {"w": weights(FEATURES, classes)})


def manifest(files: Mapping[str, str]) -> dict[str, Any]:
    """``bundle.json`` for files with these SHA-256s."""
    return {
        "schema": 2,
        "name": "tiny",
        "source": {"file": "none", "sha256": "0" * 64, "form": "onnx", "licence": "CC0-1.0", "may_redistribute": True},
        "family": "tiny",
        "window": {"sample_rate": RATE, "window_s": WINDOW_S},
        "input": {"name": "samples", "shape": [RATE * WINDOW_S]},
        "frontend": {"kind": "waveform"},
        "outputs": [{"name": "block_1", "kind": "block", "width": FEATURES}],
        "score": {"output": "head", "unknown": ["c"]},
        "placing": {"shifts_s": [0.0, 0.5], "reduce": "mean"},
        "head": {"kind": "attention", "folds": 1, "parameters": 12},
        "variants": {"fp32": "net.onnx", "int8": "net8.onnx"},
        "files": dict(files),
        "post": {"sigma": 2.0, "taxonomy": {"genus": 0.1}, "exclude": ["Dus"]},
        "notice": "seeded weights: scores mean nothing",
    }


def write_files(folder: Path) -> None:
    """Every file of the bundle but its manifest."""
    folder.mkdir(parents=True)
    (folder / "net.onnx").write_bytes(backbone().SerializeToString())
    (folder / "net8.onnx").write_bytes(backbone().SerializeToString())
    (folder / "head.onnx").write_bytes(head().SerializeToString())
    (folder / "classes.csv").write_text(TAXONOMY)
    (folder / "parity.json").write_text("{}\n")
    Priors.count(CLASSES, np.eye(3, dtype=bool), ["S1", "S1", "S2"], [1, 2, 3]).save(folder / "priors.npz")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that lies in the folder, but of the manifest."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != "bundle.json")
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in files}


def seal(folder: Path) -> None:
    """Write a manifest that vouches for the files as they are, as whoever tampers with a bundle does."""
    (folder / "bundle.json").write_text(json.dumps(manifest(hashes(folder))))
