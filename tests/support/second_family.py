"""A model of another family than Perch: 48 kHz, 3 s, an input [2, 30, 16] of band powers, and a small seeded network.

Everything is written down twice: as the engine runs it (a frontend, an ONNX graph, a bundle), and as :func:`naive`,
which takes a whole file apart window by window in numpy and shares no code with the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.geometry import WindowSpec
from bce.engine.network.bundle import Bundle

KIND = "band_powers"
RATE, WINDOW_S = 48_000, 3
SHAPE = (2, 30, 16)
FRAME = RATE * WINDOW_S // SHAPE[1]
WIDTHS = {"block_1": 10, "embedding": 8, "species": 5}
CLASSES = ("a", "b", "c", "d", "e")


class BandPowers:
    """The frontend: log powers of 16 equal bands in 30 frames, and the frames' peaks beside them."""

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.shape = SHAPE

    def open(self, samples: NDArray[np.float32], first_sample: int = 0) -> BandPowersBlock:
        return BandPowersBlock(samples, first_sample, self.floor)


class BandPowersBlock:
    def __init__(self, samples: NDArray[np.float32], first_sample: int, floor: float) -> None:
        self.samples, self.first_sample, self.floor = samples, first_sample, floor

    def window(self, start: int, out: NDArray[np.float32]) -> None:
        at = start - self.first_sample
        out[:] = features_of(self.samples[at : at + RATE * WINDOW_S], self.floor)


def features_of(window: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    frames = window.reshape(SHAPE[1], FRAME).astype(np.float64)
    power = np.abs(np.fft.rfft(frames, axis=1)[:, 1:]) ** 2 / FRAME
    bands = power.reshape(SHAPE[1], SHAPE[2], -1).mean(axis=2)
    peaks = np.broadcast_to(np.abs(frames).max(axis=1)[:, None], bands.shape)
    return np.stack([np.log(floor + bands), peaks]).astype(np.float32)


def make(window: WindowSpec, settings: Mapping[str, Any], folder: Path | None = None) -> BandPowers:
    if window != WindowSpec(RATE, WINDOW_S):
        raise BundleError("field 'window' is not that of band powers")
    return BandPowers(float(settings["floor"]))


def weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    size = int(np.prod(SHAPE))
    return {
        "first": (rng.standard_normal((size, 10)) / np.sqrt(size)).astype(np.float32),
        "second": (rng.standard_normal((10, 8)) / np.sqrt(10)).astype(np.float32),
        "third": rng.standard_normal((8, 5)).astype(np.float32),
    }


def network(inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """The network in float64: inputs [windows, 2, 30, 16] -> its outputs; the last one is probabilities."""
    w = {name: array.astype(np.float64) for name, array in weights().items()}
    block = np.tanh(inputs.reshape(len(inputs), -1).astype(np.float64) @ w["first"])
    embedding = np.maximum(block @ w["second"], 0)
    return {"block_1": block, "embedding": embedding, "species": 1 / (1 + np.exp(-(embedding @ w["third"])))}


def write_bundle(
    folder: Path,
    shifts_s: tuple[float, ...] = (-1.0, 0.0, 1.0),
    reduce: str = "mean",
    *,
    batch: str | int = "batch",
    classes: tuple[str, ...] = CLASSES,
    apart: bool = False,
) -> Bundle:
    """The family as a bundle of schema 2, written by hand.

    Args:
        folder: to make.
        shifts_s, reduce: of its placing.
        batch: first dimension of the graph's input and outputs.
        classes: of its class table.
        apart: keep the graph's weights in another file.
    """
    import onnx
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Flatten", ["patches"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "first"], ["sum_1"]),
        helper.make_node("Tanh", ["sum_1"], ["block_1"]),
        helper.make_node("MatMul", ["block_1", "second"], ["sum_2"]),
        helper.make_node("Relu", ["sum_2"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "third"], ["sum_3"]),
        helper.make_node("Sigmoid", ["sum_3"], ["species"]),
    ]
    graph = helper.make_graph(
        nodes,
        "second_family",
        [helper.make_tensor_value_info("patches", onnx.TensorProto.FLOAT, [batch, *SHAPE])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, n]) for name, n in WIDTHS.items()],
        [numpy_helper.from_array(array, name) for name, array in weights().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    folder.mkdir(parents=True)
    if apart:
        onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        (folder / "net.onnx").write_bytes(model.SerializeToString())
    rows = [f"{name},Genus{i // 2} species{i},Aves" for i, name in enumerate(classes)]
    (folder / "classes.csv").write_text("\n".join(["primary_label,scientific_name,class_name", *rows]) + "\n")
    files = {name: sha256((folder / name).read_bytes()).hexdigest() for name in ("net.onnx", "classes.csv")}
    kinds = {"block_1": "block", "embedding": "embedding", "species": "logits"}
    manifest = {
        "schema": 2,
        "name": "second family",
        "source": {"file": "none", "sha256": "", "form": "onnx", "licence": "CC0-1.0", "may_redistribute": True},
        "family": "band_powers",
        "window": {"sample_rate": RATE, "window_s": WINDOW_S},
        "input": {"name": "patches", "shape": list(SHAPE)},
        "frontend": {"kind": KIND, "floor": 1e-6},
        "outputs": [{"name": name, "kind": kinds[name], "width": width} for name, width in WIDTHS.items()],
        "score": {"output": "species", "space": "probability"},
        "placing": {"shifts_s": list(shifts_s), "reduce": reduce},
        "head": {"kind": "own"},
        "variants": {"fp32": "net.onnx"},
        "files": files,
        "notice": "seeded weights: scores mean nothing",
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return Bundle.load(folder)


def naive(audio: Path, shifts_s: tuple[float, ...]) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """A whole file, one window at a time: logits [chunks, classes], and the features as means over the shifts."""
    samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    seconds = len(samples) / rate
    mono = samples.mean(axis=1, dtype=np.float64).astype(np.float32)
    mono = mono if rate == RATE else soxr.resample(mono, rate, RATE, "HQ")
    chunks = int(seconds // WINDOW_S) + (seconds % WINDOW_S >= 1)
    length = chunks * WINDOW_S * RATE
    mono = np.pad(mono, (0, max(0, length - len(mono))))[:length]
    logits, means = [], {name: [] for name in WIDTHS}
    for chunk in range(chunks):
        starts = [min(max(round((chunk * WINDOW_S + s) * RATE), 0), length - WINDOW_S * RATE) for s in shifts_s]
        out = network(np.stack([features_of(mono[at : at + WINDOW_S * RATE], 1e-6) for at in starts]))
        own = np.log(out["species"] / (1 - out["species"]))
        logits.append(own.mean(axis=0))
        for name, values in out.items():
            means[name].append(values.mean(axis=0))
    return np.array(logits), {name: np.array(rows) for name, rows in means.items()}
