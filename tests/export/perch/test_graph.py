"""Exported graphs, run by ONNX Runtime, against the torch definition with its BatchNorm apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need the extra bce[export]")

import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402
import onnxruntime as ort  # noqa: E402

from bce.engine.errors import ExportError  # noqa: E402
from bce.engine.taxonomy import Taxonomy  # noqa: E402
from bce.export.classes import NO_SIGNAL, ClassMap  # noqa: E402
from bce.export.perch import graph  # noqa: E402
from bce.export.perch.backbone import ProtoClassifier, build  # noqa: E402
from bce.export.perch.weights import Weights  # noqa: E402
from bce.export.torch_graph import torch_to_onnx  # noqa: E402

BLOCKS = (5, 21, 25)
MEMBERS = ((7,), (), (0, 3, 11), (3,), ())
NAMES = ("block_5", "block_21", "block_25", "embedding", "label")


@pytest.fixture(scope="module")
def class_map() -> ClassMap:
    labels = [f"c{index}" for index in range(len(MEMBERS))]
    return ClassMap(Taxonomy.from_columns({"primary_label": labels, "scientific_name": labels}), MEMBERS)


@pytest.fixture(scope="module")
def whole(small_weights: Weights, class_map: ClassMap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "backbone.onnx"
    outputs = ("blocks", "embedding", "label")
    assert graph.export_backbone(small_weights, path, BLOCKS, outputs, class_map) == NAMES
    return path


def log_mel(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).uniform(-1.15, 0.2, (batch, 500, 128)).astype(np.float32)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def defined(weights: Weights, x: np.ndarray) -> dict[str, np.ndarray]:
    """Plain means over the maps of the definition, and the whole classifier's logits."""
    backbone = build(weights)
    with torch.no_grad():
        maps = backbone.block_maps(torch.from_numpy(x))
        spatial = backbone.head(maps[-1])
        values = {f"block_{index}": feature_map.mean(dim=(2, 3)) for index, feature_map in enumerate(maps)}
        values["embedding"] = spatial.mean(dim=(2, 3))
        assert weights.prototypes is not None
        values["label"] = ProtoClassifier(weights.prototypes)(spatial)
    return {name: value.numpy() for name, value in values.items()}


@pytest.mark.parametrize("batch", [1, 3])
def test_outputs_are_those_of_the_definition(small_weights: Weights, whole: Path, batch: int) -> None:
    session = ort.InferenceSession(whole)
    found = dict(zip(NAMES, session.run(None, {"log_mel": log_mel(batch)}), strict=True))
    expected = defined(small_weights, log_mel(batch))
    for name in NAMES[:-1]:
        assert found[name].shape == expected[name].shape
        assert relative(found[name], expected[name]) < 1e-4
        assert relative(np.roll(found[name], 1, axis=1), expected[name]) > 0.1
    label = np.full((batch, len(MEMBERS)), NO_SIGNAL)
    for column, members in enumerate(MEMBERS):
        for index in members:
            label[:, column] = np.maximum(label[:, column], expected["label"][:, index])
    np.testing.assert_allclose(found["label"], label, atol=1e-4)
    assert (found["label"][:, [1, 4]] == NO_SIGNAL).all()


def test_names_shapes_and_one_file(small_weights: Weights, whole: Path) -> None:
    session = ort.InferenceSession(whole)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("log_mel", ["batch", 500, 128], "tensor(float)")
    ]
    widths = {block.name: block.out_channels for block in small_weights.architecture.blocks}
    widths |= {"embedding": small_weights.architecture.head_channels, "label": len(MEMBERS)}
    assert [(o.name, o.shape) for o in session.get_outputs()] == [(name, ["batch", widths[name]]) for name in NAMES]
    assert [file.name for file in whole.parent.iterdir()] == [whole.name]
    onnx.checker.check_model(onnx.load(whole), full_check=True)


def test_graph_is_canonical(small_weights: Weights, whole: Path) -> None:
    model = onnx.load(whole)
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["Conv"] == 1 + 24 + 26 * 4 + 1
    assert counts["Sigmoid"] == 78 + 26
    assert counts["GlobalAveragePool"] == 26 + len(BLOCKS) + 1
    assert not counts["BatchNormalization"] + counts["Pad"] + counts["ReduceMean"]
    by_kernel = [n for n in model.graph.node if n.op_type == "Conv" and "depthwise" in n.input[1]]
    assert len(by_kernel) == 26
    for node, block in zip(by_kernel, small_weights.architecture.blocks, strict=True):
        pads = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "pads")
        (top, bottom), (left, right) = block.padding
        assert pads == [top, left, bottom, right], block


def test_graph_ends_at_the_last_block(small_weights: Weights, tmp_path: Path) -> None:
    names = graph.export_backbone(small_weights, tmp_path / "b.onnx", (0, 5))
    assert names == ("block_0", "block_5")
    initializers = {initializer.name for initializer in onnx.load(tmp_path / "b.onnx").graph.initializer}
    assert any(".5." in name for name in initializers)
    assert not any(f".{later}." in name for name in initializers for later in range(6, 26))
    found = ort.InferenceSession(tmp_path / "b.onnx").run(None, {"log_mel": log_mel(2)})
    expected = defined(small_weights, log_mel(2))
    for name, value in zip(names, found, strict=True):
        assert relative(value, expected[name]) < 1e-5


def test_nothing_of_this_machine_is_in_the_file(whole: Path) -> None:
    content = whole.read_bytes()
    for trace in (b"stack_trace", b".py", b"/home", str(Path.cwd()).encode()):
        assert trace not in content


def test_exporting_is_silent_and_repeatable(
    small_weights: Weights, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    for name in ("a.onnx", "b.onnx"):
        graph.export_backbone(small_weights, tmp_path / name, (1,))
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_label_needs_a_classifier(small_weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no classifier"):
        graph.export_backbone(replace(small_weights, prototypes=None), tmp_path / "b.onnx", (1,), ("label",))


def test_other_graphs_are_refused(small_weights: Weights, tmp_path: Path) -> None:
    module, names = graph.definition(small_weights, (1,), ("blocks",))
    model = torch_to_onnx(module, torch.zeros(2, 500, 128), ["log_mel"], names)
    graph.check_canonical(model, small_weights, module)
    more, _ = graph.definition(small_weights, (2,), ("blocks",))
    with pytest.raises(ExportError, match="Conv nodes, expected"):
        graph.check_canonical(model, small_weights, more)
    last = next(node for node in reversed(model.graph) if node.op_type == "Conv")
    transpose = ir.node("Transpose", [last.inputs[0]], attributes={"perm": [0, 1, 2, 3]}, name="stray")
    last.replace_input_with(0, transpose.outputs[0])
    model.graph.insert_before(last, transpose)
    with pytest.raises(ExportError, match=r"Transpose \(stray\) among its convolutions"):
        graph.check_canonical(model, small_weights, module)


def test_widths_are_those_of_the_graph(small_weights: Weights, whole: Path) -> None:
    widths = graph.output_widths(small_weights.architecture, NAMES, len(MEMBERS))
    outputs = onnx.load(whole).graph.output
    assert list(widths.items()) == [(o.name, o.type.tensor_type.shape.dim[1].dim_value) for o in outputs]
