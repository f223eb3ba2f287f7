"""A TFLite file of no known family, through what every reader gives: terms, taps, and the file itself.

``tests/export/readers/test_onnx_reader.py`` does the same with ONNX.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bce.engine.errors import ExportError
from bce.engine.geometry import WindowSpec
from bce.export.readers.base import Expectation, Reader
from bce.export.readers.taps import find_taps, run_taps
from bce.export.readers.terms import Conv, Func, Reduce

EXPECTED = Expectation(WindowSpec(8_000, 0.1), (20, 10), "picture", 1e-5)
RNG = np.random.default_rng(4)
MEL = RNG.standard_normal((40, 10)).astype(np.float32)
KERNEL = RNG.standard_normal((6, 1, 3, 3)).astype(np.float32)
BIAS = RNG.standard_normal(6).astype(np.float32)


def write(path: Path) -> Path:
    """Frames of 40 samples times a matrix, its tanh; one convolution at stride 2, swish, the mean of the map."""
    import tensorflow as tf

    def serve(sound: tf.Tensor) -> tf.Tensor:
        picture = tf.tanh(tf.tensordot(tf.reshape(sound, (-1, 20, 40)), MEL, 1))
        maps = tf.nn.conv2d(picture[..., None], KERNEL.transpose(2, 3, 1, 0), 2, "VALID") + BIAS
        return tf.reduce_mean(tf.nn.silu(maps), axis=(1, 2))

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([1, 800], tf.float32, name="sound")])
    concrete = module.serve.get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert())
    return path


def computed(waveforms: np.ndarray) -> dict[str, np.ndarray]:
    """The same in numpy."""
    picture = np.tanh(waveforms.astype(np.float64).reshape(-1, 20, 40) @ MEL)
    patches = np.lib.stride_tricks.sliding_window_view(picture, (3, 3), axis=(1, 2))[:, ::2, ::2]
    maps = np.einsum("ntmij,cij->nctm", patches, KERNEL[:, 0]) + BIAS[:, None, None]
    maps = maps / (1 + np.exp(-maps))
    return {"spectrogram": picture, "vector": maps.mean(axis=(2, 3))}


def test_a_file_is_terms_and_runs_itself(tmp_path: Path) -> None:
    from bce.export.readers.tflite_reader import open_tflite

    reader: Reader = open_tflite
    opened = reader(write(tmp_path / "a.tflite"), EXPECTED)
    assert (opened.form, opened.batch, opened.lossy, opened.notes, opened.named) == ("tflite", 1, False, (), False)
    assert [output.rank for output in opened.outputs.values()] == [2]
    (end,) = opened.ends
    assert isinstance(end, Reduce)
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

    taps = find_taps(opened, {"vector": end, "mean of the map": swish})
    waveforms = (0.1 * RNG.standard_normal((3, 800))).astype(np.float32)
    found = run_taps(opened.run, opened.spectrogram, taps, EXPECTED.spectrogram)(waveforms)
    expected = computed(waveforms)
    assert found.keys() == {"spectrogram", "vector", "mean of the map"}
    for name, array in (expected | {"mean of the map": expected["vector"]}).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5)


def test_what_a_family_does_not_expect_is_refused(tmp_path: Path) -> None:
    from bce.export.readers.tflite_reader import open_tflite

    path = write(tmp_path / "a.tflite")
    with pytest.raises(ExportError, match=r"expected float32 \[batch, 1600\] \(0.2 s at 8 kHz\)"):
        open_tflite(path, Expectation(WindowSpec(8_000, 0.2), (20, 10), "picture", 1e-5))
    with pytest.raises(ExportError, match=r"picture: expected \[1, 10, 20\] \(time, mel\), found"):
        open_tflite(path, Expectation(WindowSpec(8_000, 0.1), (10, 20), "picture", 1e-5))
