"""A TFLite file as a network of terms, and the file itself under LiteRT.

Nothing relies on names, as in :mod:`bce.export.readers.onnx_reader`: the stem is the first two-dimensional convolution
of one channel, and the spectrogram is what it is computed from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bce.engine.errors import ExportError
from bce.engine.geometry import WindowSpec
from bce.export.readers.base import Array, Expectation, Opened, Output, Run, in_batches, waveforms_of
from bce.export.readers.steps import Input
from bce.export.readers.terms import Tensor
from bce.export.readers.tflite_graph import EXTRA, Operator, TensorInfo, TfliteGraph, damage_told, dequantised
from bce.export.readers.tflite_terms import translate
from bce.export.sources import CannotRun

_LAYOUT = {"TRANSPOSE", "RESHAPE", "EXPAND_DIMS", "SQUEEZE", "CAST", "PAD", "PADV2", "QUANTIZE", "DEQUANTIZE"}
_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}


def open_tflite(path: Path, expected: Expectation) -> Opened[int]:
    """Open a TFLite file, see :class:`bce.export.readers.base.Reader`.

    Args:
        path: a file that takes waveforms [batch, samples], whatever its names and lowering, with weights in float32,
            float16 or int8.
        expected: what the family expects of it.

    Raises:
        ExportError: it is no whole TFLite file, its input is another, or it has no spectrogram.
    """
    with damage_told(path):
        return _opened(TfliteGraph(path), path, expected)


def _opened(graph: TfliteGraph, path: Path, expected: Expectation) -> Opened[int]:
    try:
        batch = check_waveforms(graph, expected.window)
        spectrogram = _spectrogram(graph, expected, batch)
    except ExportError as error:
        raise ExportError(error.reason, path) from None
    entry = Input(())
    tensor = Tensor(entry, expected.axes(batch, graph.tensors[spectrogram].shape))
    terms, tensors = translate(graph, spectrogram, tensor, expected.length_offset)

    def run(values: Sequence[int]) -> Run[int]:
        # opened anew: with a classifier the graph holds 400 MB, and most sources are never run
        return running(TfliteGraph(path), path, values, batch)

    return Opened(
        path=path,
        form="tflite",
        input=entry,
        spectrogram=spectrogram,
        terms=terms,
        tensors=tensors,
        outputs={index: _output(graph.tensors[index]) for index in graph.outputs if index in tensors},
        batch=batch,
        run=run,
        named=False,
        notes=tuple(losses(graph)),
        lossy=bool(graph.rounded),
    )


def running(graph: TfliteGraph, path: Path, values: Sequence[int], batch: int) -> Run[int]:
    """A file under LiteRT with the wanted tensors as its outputs, and weights in float32.

    Raises:
        CannotRun: LiteRT is not installed, or cannot run it.
    """
    interpreter = _interpreter(graph.with_outputs(values), path)
    (waveform,) = graph.inputs

    def call(windows: Array) -> Mapping[int, Array]:
        interpreter.set_tensor(waveform, windows)
        interpreter.invoke()
        return {index: interpreter.get_tensor(index) for index in values}

    return in_batches(call, batch, fixed=True)


def _output(info: TensorInfo) -> Output:
    return Output(info.name, len(info.shape))


def check_waveforms(graph: TfliteGraph, window: WindowSpec) -> int:
    """How many windows a file takes at once.

    Raises:
        ExportError: its input is another than waveforms [batch, samples of a window].
    """
    if len(graph.inputs) != 1:
        found = ", ".join(graph.tensors[i].name for i in graph.inputs) or "none"
        raise ExportError(f"expected one input, the waveforms, found {found}")
    info = graph.tensors[graph.inputs[0]]
    if info.dtype != "f4" or len(info.shape) != 2 or info.shape[1] != window.samples:
        raise ExportError(
            f"input '{info.name}': expected float32 {waveforms_of(window)}, "
            f"found {np.dtype(info.dtype).name if info.dtype else 'another type'} {list(info.shape)}"
        )
    return max(info.shape[0], 1)


def _spectrogram(graph: TfliteGraph, expected: Expectation, batch: int) -> int:
    """The spectrogram's tensor: what the stem is computed from, as far back as its size is right."""
    stem = next((op for op in graph.operators if _is_stem(graph, op)), None)
    if stem is None:
        raise ExportError("stem: expected a two-dimensional convolution of one channel, found none")
    chain = [stem.inputs[0]]
    while chain[-1] in graph.producer and graph.producer[chain[-1]].name in _LAYOUT:
        chain.append(graph.producer[chain[-1]].inputs[0])
    shapes = [graph.tensors[index].shape for index in chain]
    fitting = [
        index
        for index, shape in zip(chain, shapes, strict=True)
        if expected.fits(batch, shape) and index not in graph.inputs
    ]
    if not fitting:
        raise ExportError(expected.missed(batch, shapes))
    return fitting[-1]


def _is_stem(graph: TfliteGraph, op: Operator) -> bool:
    if op.name not in _CONVOLUTIONS or op.inputs[0] not in graph.varying:
        return False
    kernel, channels = graph.tensors[op.inputs[1]].shape, graph.tensors[op.inputs[0]].shape[-1:]
    return len(kernel) == 4 and min(kernel[1:3]) > 1 and channels == (1,)


def losses(graph: TfliteGraph) -> list[str]:
    """What the weights of the file lost when they were rounded to fewer bits, as far as they can tell."""
    lines = []
    for kind, indices in graph.rounded.items():
        stored = [graph.tensors[i] for i in indices]
        count = sum(info.stored.size for info in stored if info.stored is not None)
        errors = [_rounding(info) for info in stored]
        lines.append(
            f"lossy source: {count:,} weights in {len(indices)} tensors are rounded to {kind}, relative L2 about "
            f"{np.median(errors):.0e} in most tensors, {max(errors):.0e} in the worst"
        )
        if kind == "int8":
            lines.append("lossy source: the file rounds activations too when it runs, the bundle does not")
    return lines


def _rounding(info: TensorInfo) -> float:
    """The relative L2 error to be expected of a rounded constant: errors are spread evenly over a step."""
    assert info.stored is not None
    value = dequantised(info).astype(np.float64)
    if info.quantization is None:
        step = np.spacing(np.abs(info.stored)).astype(np.float64)
    else:
        step = np.broadcast_to(info.quantization.steps(value.ndim).astype(np.float64), value.shape)
    return float(np.linalg.norm(step) / np.sqrt(12.0) / max(float(np.linalg.norm(value)), 1e-30))


def _interpreter(content: bytes, path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise CannotRun(f"its own numbers need LiteRT: {EXTRA}", path) from None
    try:
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(". ")
        raise CannotRun(f"LiteRT cannot run it ({reason})", path) from None
    return interpreter
