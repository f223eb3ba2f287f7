"""An ONNX file of no known family, through what every reader gives: terms, taps, and the file itself.

``tests/tensorflow_lane/test_readers.py`` does the same with TFLite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="readers need the extra bce[export]")

from onnx import helper, numpy_helper  # noqa: E402
from support.plain_network import BIAS, EXPECTED, KERNEL, MEL, check  # noqa: E402

from bce.engine.errors import ExportError  # noqa: E402
from bce.engine.geometry import WindowSpec  # noqa: E402
from bce.export.readers.base import Expectation, Reader, in_batches  # noqa: E402
from bce.export.readers.onnx_reader import open_onnx  # noqa: E402


def write(path: Path, batch: int | str = "n") -> Path:
    """Frames of 40 samples times a matrix, its tanh; one convolution at stride 2, swish, the mean of the map."""
    arrays = {
        "mel": MEL,
        "kernel": KERNEL,
        "bias": BIAS,
        "frames": np.array([-1, 20, 40]),
        "one": np.array([1]),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Reshape", ["sound", "frames"], ["cut"]),
        helper.make_node("MatMul", ["cut", "mel"], ["bands"]),
        helper.make_node("Tanh", ["bands"], ["seen"]),
        helper.make_node("Unsqueeze", ["seen", "one"], ["image"]),
        helper.make_node("Conv", ["image", "kernel", "bias"], ["a"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        helper.make_node("Mul", ["a", "s"], ["map"]),
        helper.make_node("ReduceMean", ["map", "axes"], ["vector"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("sound", 1, [batch, 800])],
        [helper.make_tensor_value_info("vector", 1, [batch, 6]), onnx.ValueInfoProto(name="map")],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"licence": "mine"})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_a_file_is_terms_and_runs_itself(batch: int | str, tmp_path: Path) -> None:
    reader: Reader = open_onnx
    opened = reader(write(tmp_path / "a.onnx", batch), EXPECTED)
    assert (opened.form, opened.batch) == ("onnx", None if batch == "n" else batch)
    assert (opened.lossy, opened.notes, opened.metadata) == (False, (), {"licence": "mine"})
    assert [(output.name, output.rank) for output in opened.outputs.values()] == [("vector", 2), ("map", None)]
    check(opened, 5)


@pytest.mark.parametrize(
    ("window", "spectrogram", "message"),
    [
        (WindowSpec(8_000, 0.2), (20, 10), r"input 'sound': expected float \[batch, 1600\] \(0.2 s at 8 kHz\)"),
        (WindowSpec(8_000, 0.1), (10, 20), r"picture: expected \[1, 10, 20\] \(time, mel\), found \[1, 1, 20, 10\]"),
    ],
)
def test_what_a_family_does_not_expect_is_refused(
    window: WindowSpec, spectrogram: tuple[int, int], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.onnx")
    with pytest.raises(ExportError, match=message) as caught:
        open_onnx(path, Expectation(window, spectrogram, "picture", 1e-5))
    assert caught.value.path == str(path)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
@pytest.mark.parametrize("fixed", [True, False])
def test_any_number_of_windows_goes_through_batches(count: int, fixed: bool) -> None:
    sizes: list[int] = []

    def call(windows: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(windows))
        return {"twice": 2 * windows}

    waveforms = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    parts = list(in_batches(call, 3, fixed)(waveforms))
    np.testing.assert_array_equal(np.concatenate([part["twice"] for part in parts]), 2 * waveforms)
    assert all(size == 3 for size in sizes[:-1])
    assert sizes[-1] == (3 if fixed else (count - 1) % 3 + 1)


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """The same file with its weights in another one beside it."""
    model = onnx.load(write(tmp_path / "whole.onnx"))
    (tmp_path / "apart").mkdir()
    path = tmp_path / "apart" / "a.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_weights_may_lie_beside(apart: Path) -> None:
    opened = open_onnx(apart, EXPECTED)
    assert opened.beside == (apart.with_name("weights.bin"),)
    check(opened, 5)


def test_missing_and_damaged_weights_are_named(apart: Path) -> None:
    beside = apart.with_name("weights.bin")
    content = beside.read_bytes()
    beside.write_bytes(content[:-8])
    with pytest.raises(ExportError, match=r"a.onnx: keeps weights in 'weights.bin', which is cut short or damaged"):
        open_onnx(apart, EXPECTED)
    beside.unlink()
    with pytest.raises(ExportError, match=r"a.onnx: keeps weights in the file 'weights.bin', which is not beside it"):
        open_onnx(apart, EXPECTED)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "C:\\weights.bin", "x/../../y", "..\\y", ""])
def test_weights_outside_of_the_folder_are_refused(location: str, apart: Path) -> None:
    model = onnx.load(apart, load_external_data=False)
    (entry,) = (entry for entry in model.graph.initializer[0].external_data if entry.key == "location")
    entry.value = location
    apart.write_bytes(model.SerializeToString())
    apart.parent.with_name("weights.bin").write_bytes(b"x" * 9999)
    with pytest.raises(ExportError, match="expected the name of a file in its own folder"):
        open_onnx(apart, EXPECTED)
