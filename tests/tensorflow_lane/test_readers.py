"""A TFLite file of no known family, through what every reader gives: terms, taps, and the file itself.

``tests/export/readers/test_onnx_reader.py`` does the same with ONNX.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.plain_network import BIAS, EXPECTED, KERNEL, MEL, check

from bce.engine.errors import ExportError
from bce.engine.geometry import WindowSpec
from bce.export.readers.base import Expectation, Reader


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


def test_a_file_is_terms_and_runs_itself(tmp_path: Path) -> None:
    from bce.export.readers.tflite_reader import open_tflite

    reader: Reader = open_tflite
    opened = reader(write(tmp_path / "a.tflite"), EXPECTED)
    assert (opened.form, opened.batch, opened.lossy, opened.notes, opened.named) == ("tflite", 1, False, (), False)
    assert [output.rank for output in opened.outputs.values()] == [2]
    check(opened, 3)


def test_what_a_family_does_not_expect_is_refused(tmp_path: Path) -> None:
    from bce.export.readers.tflite_reader import open_tflite

    path = write(tmp_path / "a.tflite")
    with pytest.raises(ExportError, match=r"expected float32 \[batch, 1600\] \(0.2 s at 8 kHz\)"):
        open_tflite(path, Expectation(WindowSpec(8_000, 0.2), (20, 10), "picture", 1e-5))
    with pytest.raises(ExportError, match=r"picture: expected \[1, 10, 20\] \(time, mel\), found"):
        open_tflite(path, Expectation(WindowSpec(8_000, 0.1), (10, 20), "picture", 1e-5))
