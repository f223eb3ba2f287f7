"""An ONNX file of no known family, through what every reader gives: terms, taps, and the file itself.

``tests/tensorflow_lane/test_readers.py`` does the same with TFLite.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="readers need the extra bce[export]")

from onnx import helper, numpy_helper  # noqa: E402

from bce.engine.errors import ExportError  # noqa: E402
from bce.engine.geometry import WindowSpec  # noqa: E402
from bce.export.readers.base import Expectation, Opened, Reader, in_batches  # noqa: E402
from bce.export.readers.onnx_reader import open_onnx  # noqa: E402
from bce.export.readers.taps import find_taps, run_taps  # noqa: E402
from bce.export.readers.terms import Conv, Func, Reduce  # noqa: E402

EXPECTED = Expectation(WindowSpec(8_000, 0.1), (20, 10), "picture", 1e-5)
RNG = np.random.default_rng(4)
MEL = RNG.standard_normal((40, 10)).astype(np.float32)
KERNEL = RNG.standard_normal((6, 1, 3, 3)).astype(np.float32)
BIAS = RNG.standard_normal(6).astype(np.float32)


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


def computed(waveforms: np.ndarray) -> dict[str, np.ndarray]:
    """The same in numpy."""
    picture = np.tanh(waveforms.astype(np.float64).reshape(-1, 20, 40) @ MEL)
    patches = np.lib.stride_tricks.sliding_window_view(picture, (3, 3), axis=(1, 2))[:, ::2, ::2]
    maps = np.einsum("ntmij,cij->nctm", patches, KERNEL[:, 0]) + BIAS[:, None, None]
    maps = maps / (1 + np.exp(-maps))
    return {"spectrogram": picture, "vector": maps.mean(axis=(2, 3))}


def taps_of(opened: Opened[Any]) -> dict[str, Any]:
    """The network is what was written; where its vector is."""
    (end, *_) = (term for term in opened.ends if isinstance(term, Reduce))
    assert (end.kind, end.over) == ("mean", {"t", "m"})
    (swish,) = end.inputs
    assert isinstance(swish, Func)
    assert swish.name == "swish"
    (conv,) = swish.inputs
    assert isinstance(conv, Conv)
    assert conv.inputs == (opened.input,)
    np.testing.assert_array_equal(conv.kernel, KERNEL)
    np.testing.assert_allclose(conv.shift, BIAS)
    assert (conv.stride, conv.padding) == ((2, 2), ((0, 0), (0, 0)))
    return find_taps(opened, {"vector": end, "mean of the map": swish})


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_a_file_is_terms_and_runs_itself(batch: int | str, tmp_path: Path) -> None:
    reader: Reader = open_onnx
    opened = reader(write(tmp_path / "a.onnx", batch), EXPECTED)
    assert (opened.form, opened.batch) == ("onnx", None if batch == "n" else batch)
    assert (opened.lossy, opened.notes, opened.metadata) == (False, (), {"licence": "mine"})
    assert [(output.name, output.rank) for output in opened.outputs.values()] == [("vector", 2), ("map", None)]
    taps = taps_of(opened)
    waveforms = (0.1 * RNG.standard_normal((5, 800))).astype(np.float32)
    found = run_taps(opened.run, opened.spectrogram, taps, EXPECTED.spectrogram)(waveforms)
    expected = computed(waveforms)
    assert found.keys() == {"spectrogram", "vector", "mean of the map"}
    for name, array in (expected | {"mean of the map": expected["vector"]}).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)


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
