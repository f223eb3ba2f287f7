"""Heads that end in a function of their logits, and heads of TensorFlow's where it is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="heads need the extra bce[export]")

import onnxruntime as ort  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bce.engine.errors import ExportError  # noqa: E402
from bce.export.heads.endings import check_range, take_off_sigmoid  # noqa: E402
from bce.export.heads.loading import load_head  # noqa: E402

KERNEL = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


def graph(*ends: str) -> onnx.ModelProto:
    """features [batch, 4] @ KERNEL, and one operator after the other."""
    names = ["product", *(f"x{place}" for place in range(1, len(ends))), "logits"][-len(ends) - 1 :]
    nodes = [helper.make_node("MatMul", ["features", "kernel"], [names[0]])]
    nodes += [helper.make_node(op, [a], [b]) for op, a, b in zip(ends, names, names[1:], strict=False)]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("features", 4), ("logits", 3))
    ]
    kernel = numpy_helper.from_array(KERNEL, "kernel")
    made = helper.make_graph(nodes, "head", values[:1], values[1:], [kernel])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("ends", [("Sigmoid",), ("Sigmoid", "Identity"), ("Sigmoid", "Identity", "Flatten")])
def test_a_sigmoid_is_taken_off_exactly(ends: tuple[str, ...]) -> None:
    model = graph(*ends)
    assert take_off_sigmoid(model)
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32) * 9
    found = ort.InferenceSession(model.SerializeToString()).run(None, {"features": x})[0]
    np.testing.assert_allclose(found, x @ KERNEL, rtol=1e-5, atol=1e-5)
    assert not take_off_sigmoid(model)


@pytest.mark.parametrize("ends", [(), ("Identity",), ("Sigmoid", "Neg"), ("Relu",)])
def test_logits_are_left_alone(ends: tuple[str, ...]) -> None:
    model = graph(*ends)
    before = model.SerializeToString()
    assert not take_off_sigmoid(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("end", ["Softmax", "LogSoftmax", "HardSigmoid", "Tanh"])
def test_what_leaves_no_logits_is_refused_by_name(end: str) -> None:
    with pytest.raises(ExportError, match=f"ends in {end}, behind which there are no logits"):
        take_off_sigmoid(graph(end, "Identity"))


def test_probabilities_are_told_by_their_range() -> None:
    logits = np.array([[0.2, 0.9], [0.4, 1.5]])
    check_range(logits)
    check_range(-logits)
    with pytest.raises(ExportError, match=r"within 0.2..1 on random features: they are probabilities"):
        check_range(np.minimum(logits, 1))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("head.keras", "a Keras head needs TensorFlow to be read"),
        ("head.tflite", "a TFLite head needs TensorFlow to be read"),
        ("folder", "a head as a SavedModel needs TensorFlow to be read"),
        ("head.h5", "is a Keras head in the old HDF5 format: save it as .keras"),
        ("head.onnx", "is an ONNX file: heads are checkpoints"),
        ("none.keras", "there is no such head"),
    ],
)
def test_a_head_is_called_what_it_is(name: str, reason: str, tmp_path: Path) -> None:
    if "needs TensorFlow" in reason and importlib.util.find_spec("tensorflow") is not None:
        pytest.skip("TensorFlow is installed")
    if name == "folder":
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
    elif name != "none.keras":
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ExportError, match=reason) as raised:
        load_head(str(tmp_path / name), ("a",), "none")
    assert raised.value.path == str(tmp_path / name)
