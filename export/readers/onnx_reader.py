"""An ONNX file as a network of terms, and the file itself under ONNX Runtime.

Nothing relies on names: the stem is the first two-dimensional convolution of one channel, and the spectrogram is what
it is computed from. The frontend before it is not taken over; it is run once on silence to see that it makes a
spectrogram of the right size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.readers.base import Array, Expectation, Opened, Output, Run, in_batches
from bce.export.readers.onnx_graph import OnnxGraph, load
from bce.export.readers.onnx_terms import translate
from bce.export.readers.steps import Input
from bce.export.readers.terms import Tensor

_BATCH = 4
"""Windows in one call of a file that takes any number: enough to keep it busy, few enough for little memory."""

_LAYOUT = {"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast", "Flatten", "Pad", "Dropout"}


def open_onnx(path: Path, expected: Expectation) -> Opened[str]:
    """Open an ONNX file, see :class:`bce.export.readers.base.Reader`.

    Args:
        path: a file that takes waveforms [batch, samples], whatever its names, layouts and lowering.
        expected: what the family expects of it.

    Raises:
        ExportError: it is no whole ONNX file, its input is another, or it has no spectrogram.
    """
    model, beside = load(path)
    graph = OnnxGraph(model)
    try:
        batch = _batch(graph, expected)
        spectrogram, shape = _spectrogram(graph, expected, batch or 1)
    except ExportError as error:
        raise ExportError(error.reason, path) from None
    silence = _silence(graph, expected, batch or 1)
    entry = Input(())
    tensor = Tensor(entry, expected.axes(batch or 1, shape))
    terms, tensors = translate(graph, spectrogram, tensor, _shape_numbers(graph, spectrogram, silence))

    def run(values: Sequence[str]) -> Run[str]:
        # opened anew: with a classifier the graph holds 400 MB, and most sources are never run
        return _running(OnnxGraph(load(path)[0]), values, batch)

    return Opened(
        path=path,
        form="onnx",
        input=entry,
        spectrogram=spectrogram,
        terms=terms,
        tensors=tensors,
        outputs={value.name: _output(value) for value in graph.model.graph.output if value.name in tensors},
        batch=batch,
        run=run,
        metadata={item.key: item.value for item in graph.model.metadata_props},
        beside=beside,
    )


def _running(graph: OnnxGraph, values: Sequence[str], batch: int | None) -> Run[str]:
    (waveform,) = (value.name for value in graph.inputs)
    session = graph.session(values)

    def call(windows: Array) -> Mapping[str, Array]:
        return dict(zip(values, session.run(values, {waveform: windows}), strict=True))

    return in_batches(call, batch or _BATCH, fixed=batch is not None)


def _output(value: onnx.ValueInfoProto) -> Output:
    kind = value.type.tensor_type
    return Output(value.name, len(kind.shape.dim) if kind.HasField("shape") else None)


def _batch(graph: OnnxGraph, expected: Expectation) -> int | None:
    """The batch size that the input is fixed to, if it is."""
    if len(graph.inputs) != 1:
        found = ", ".join(value.name for value in graph.inputs) or "none"
        raise ExportError(f"expected one input, the waveforms, found {found}")
    (value,) = graph.inputs
    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    shown = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(dims) != 2 or dims[1] not in (expected.window.samples, None):
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise ExportError(f"input '{value.name}': expected float {expected.input}, found {name} {shown}")
    return dims[0] or None


def _silence(graph: OnnxGraph, expected: Expectation, batch: int) -> dict[str, Array]:
    return {graph.inputs[0].name: np.zeros((batch, expected.window.samples), np.float32)}


def _spectrogram(graph: OnnxGraph, expected: Expectation, batch: int) -> tuple[str, tuple[int, ...]]:
    """The spectrogram's name and shape: what the stem is computed from, as far back as its size is right."""
    stem = next((node for node in graph.nodes if _is_stem(graph, node)), None)
    if stem is None:
        raise ExportError("stem: expected a two-dimensional convolution of one channel, found none")
    names = [stem.input[0]]
    while names[-1] in graph.producer and graph.producer[names[-1]].op_type in _LAYOUT:
        names.append(graph.producer[names[-1]].input[0])
    names = [name for name in names if name in graph.varying and name != graph.inputs[0].name]
    if not names:
        raise ExportError(
            f"{expected.name}: expected it to be computed from the waveforms, found the waveforms themselves"
        )
    try:
        arrays = graph.session(names).run(names, _silence(graph, expected, batch))
    except Exception as error:  # ONNX Runtime has no common class for its errors
        reason = str(error).splitlines()[0]
        samples = expected.window.samples
        raise ExportError(f"frontend: ONNX Runtime cannot run it on {samples} samples ({reason})") from None
    shapes = {name: tuple(array.shape) for name, array in zip(names, arrays, strict=True)}
    fitting = [name for name, shape in shapes.items() if expected.fits(batch, shape)]
    if not fitting:
        raise ExportError(expected.missed(batch, list(shapes.values())))
    return fitting[-1], shapes[fitting[-1]]


def _is_stem(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Conv" or node.input[0] not in graph.varying:
        return False
    kernel = graph.constant(node.input[1])
    return kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 1 and min(kernel.shape[2:]) > 1


def _shape_numbers(
    graph: OnnxGraph, spectrogram: str, waveforms: Mapping[str, Array]
) -> dict[str, NDArray[np.generic]]:
    """Integers that the network takes from before the spectrogram: the batch size, mostly, for reshapes."""
    network = graph.depending_on([spectrogram])
    names = {
        name
        for node in graph.nodes
        if network.intersection(node.output)
        for name in node.input
        if name in graph.varying and name not in network and name not in waveforms
    }
    if not names:
        return {}
    arrays = graph.session(sorted(names)).run(sorted(names), dict(waveforms))
    return {name: array for name, array in zip(sorted(names), arrays, strict=True) if array.dtype.kind == "i"}
