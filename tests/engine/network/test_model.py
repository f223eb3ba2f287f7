"""A bundle's network, refused where its graphs do not fit each other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bce.engine.errors import BundleError
from bce.engine.files import sha256
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.model import Model

onnx = pytest.importorskip("onnx", reason="heads are written with onnx")


def with_head(folder: Path, feature: str, output: str, classes: int) -> Bundle:
    """The embedded bundle with another head: some numbers of a feature, under a name."""
    from onnx import helper

    shutil.copytree(DEFAULT_BUNDLE, folder)
    graph = helper.make_graph(
        [helper.make_node("Split", [feature], [output, "rest"], axis=1, split=[classes, 48 - classes])],
        "head",
        [helper.make_tensor_value_info(feature, onnx.TensorProto.FLOAT, ["batch", 48])],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", classes])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8), folder / "head.onnx")
    manifest = Bundle.load(DEFAULT_BUNDLE).manifest
    manifest = replace(manifest, files=manifest.files | {"head.onnx": sha256(folder / "head.onnx")})
    (folder / "bundle.json").write_text(manifest.to_json())
    assert json.loads((folder / "bundle.json").read_text())["head"]["kind"] == "attention"
    return Bundle.load(folder)


@pytest.mark.parametrize(
    ("feature", "output", "classes", "says"),
    [
        ("block_3", "logits", 24, r"head\.onnx: wants block_3, which the backbone does not give"),
        ("block_21", "scores", 24, r"head\.onnx: puts out scores, expected logits"),
        ("block_21", "logits", 7, r"classes\.csv: has 24 classes, but 'head' gives 7 scores"),
    ],
)
def test_a_head_that_does_not_fit_is_named(tmp_path: Path, feature: str, output: str, classes: int, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        Model(with_head(tmp_path / "b", feature, output, classes))


def test_a_head_that_fits_is_taken(tmp_path: Path) -> None:
    assert Model(with_head(tmp_path / "b", "block_21", "logits", 24)).classes == 24
