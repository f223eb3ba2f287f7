"""A Perch v2 ONNX file as weights, and the file itself as a reference to compare with.

Nothing relies on names: the stem is the first two-dimensional convolution of one channel, the log-mel is what it is
computed from, and from there :mod:`bce.export.perch.recognise` follows the network. The frontend before the log-mel is
not taken over; it is run once on silence to see that it makes a log-mel of the right size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.perch.architecture import FRAMES, MELS
from bce.export.perch.recognise import recognise
from bce.export.perch.weights import Weights
from bce.export.readers.onnx_graph import OnnxGraph, load
from bce.export.readers.onnx_terms import translate
from bce.export.readers.taps import Taps, find_taps
from bce.export.readers.terms import LogMel, Tensor

WINDOW_SAMPLES = 160_000
_BATCH = 4
"""Windows in one call of a source that takes any number: enough to keep it busy, few enough for little memory."""

_LAYOUT = {"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast", "Flatten", "Pad", "Dropout"}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class OnnxSource:
    """What was found in an ONNX file, and how to run it.

    Attributes:
        path: the file.
        metadata: the file's own key-value pairs.
        weights: the network's weights.
        batch: how many windows the file takes at once; None for any number.
    """

    path: Path
    metadata: dict[str, str]
    weights: Weights
    batch: int | None
    log_mel: str
    taps: Taps[str]

    def reference(self, blocks: Sequence[int], outputs: Sequence[str]) -> Callable[[Array], dict[str, Array]]:
        """The file under ONNX Runtime with the wanted values as outputs, and nothing computed that they don't need."""
        taps = self.taps.wanted(tuple(blocks), tuple(outputs))
        values = list(dict.fromkeys([self.log_mel, *(tap.value for tap in taps.values())]))
        graph = OnnxGraph(load(self.path))
        (waveform,) = (value.name for value in graph.inputs)
        running = graph.session(values)
        del graph  # with a classifier it holds 400 MB

        def run(waveforms: Array) -> dict[str, Array]:
            step = self.batch or _BATCH
            found: dict[str, list[Array]] = {name: [] for name in ("spectrogram", *taps)}
            for start in range(0, len(waveforms), step):
                windows = np.asarray(waveforms[start : start + step], np.float32)
                count = len(windows)
                if self.batch:
                    windows = np.concatenate([windows, np.zeros((step - count, WINDOW_SAMPLES), np.float32)])
                arrays = dict(zip(values, running.run(values, {waveform: windows}), strict=True))
                found["spectrogram"].append(arrays[self.log_mel][:count].reshape(count, FRAMES, MELS))
                for name, tap in taps.items():
                    found[name].append(tap.features(arrays[tap.value][:count]))
            return {name: np.concatenate(arrays) for name, arrays in found.items()}

        return run


def read_onnx(path: Path) -> OnnxSource:
    """Read a Perch v2 ONNX file.

    Args:
        path: an ONNX file that takes waveforms [batch, 160000], whatever its names, layouts and lowering.

    Raises:
        ExportError: the file is no whole ONNX file, or its network is not Perch's; the reason names what differs.
    """
    graph = OnnxGraph(load(path))
    metadata = {entry.key: entry.value for entry in graph.model.metadata_props}
    try:
        batch = _batch(graph)
        log_mel, tensor, known = _frontend(graph, batch or 1)
        terms, tensors = translate(graph, log_mel, tensor, known)
        ends = [terms.resolve(tensors[name]) for name in graph.outputs if name in tensors]
        assert isinstance(tensor.term, LogMel)
        network = recognise(tensor.term, ends)
        if "label" in tensors and network.label is None:
            raise ExportError("classifier: expected 'label' to come from prototypes, found another kind of classifier")
        taps = find_taps(network, terms, tensors)
    except ExportError as error:
        raise ExportError(error.reason, path) from None
    return OnnxSource(path, metadata, network.weights, batch, log_mel, taps)


def _batch(graph: OnnxGraph) -> int | None:
    """The batch size that the input is fixed to, if it is."""
    if len(graph.inputs) != 1:
        found = ", ".join(value.name for value in graph.inputs) or "none"
        raise ExportError(f"expected one input, the waveforms, found {found}")
    (value,) = graph.inputs
    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    shown = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in kind.shape.dim]
    if kind.elem_type != onnx.TensorProto.FLOAT or len(dims) != 2 or dims[1] not in (WINDOW_SAMPLES, None):
        name = onnx.TensorProto.DataType.Name(kind.elem_type).lower()
        raise ExportError(
            f"input '{value.name}': expected float [batch, {WINDOW_SAMPLES}] (5 s at 32 kHz), found {name} {shown}"
        )
    return dims[0] or None


def _frontend(graph: OnnxGraph, batch: int) -> tuple[str, Tensor, dict[str, NDArray[np.generic]]]:
    """The log-mel's name and tensor, and what the network takes from the frontend besides: numbers about shapes."""
    stem = next((node for node in graph.nodes if _is_stem(graph, node)), None)
    if stem is None:
        raise ExportError("stem: expected a two-dimensional convolution of one channel, found none")
    names = [stem.input[0]]
    while names[-1] in graph.producer and graph.producer[names[-1]].op_type in _LAYOUT:
        names.append(graph.producer[names[-1]].input[0])
    names = [name for name in names if name in graph.varying and name != graph.inputs[0].name]
    if not names:
        raise ExportError("log-mel: expected it to be computed from the waveforms, found the waveforms themselves")
    waveforms = {graph.inputs[0].name: np.zeros((batch, WINDOW_SAMPLES), np.float32)}
    try:
        arrays = graph.session(names).run(names, waveforms)
    except Exception as error:  # ONNX Runtime has no common class for its errors
        reason = str(error).splitlines()[0]
        raise ExportError(f"frontend: ONNX Runtime cannot run it on {WINDOW_SAMPLES} samples ({reason})") from None
    fitting = [
        (name, array) for name, array in zip(names, arrays, strict=True) if _size(array) == (batch, FRAMES, MELS)
    ]
    if not fitting:
        found = ", ".join(str(list(array.shape)) for array in arrays)
        raise ExportError(f"log-mel: expected [{batch}, {FRAMES}, {MELS}] (time, mel), found {found}")
    log_mel, array = fitting[-1]
    labels = iter("tm")
    axes = (
        (("n", batch),),
        *(((next(labels), size),) if size > 1 else () for size in array.shape[1:]),
    )
    return log_mel, Tensor(LogMel(()), axes), _shape_numbers(graph, log_mel, waveforms)


def _size(array: NDArray[np.generic]) -> tuple[int, ...]:
    return (array.shape[0], *(n for n in array.shape[1:] if n != 1))


def _is_stem(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    if node.op_type != "Conv" or node.input[0] not in graph.varying:
        return False
    kernel = graph.constant(node.input[1])
    return kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 1 and min(kernel.shape[2:]) > 1


def _shape_numbers(
    graph: OnnxGraph, log_mel: str, waveforms: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.generic]]:
    """Integers that the network takes from before the log-mel: the batch size, mostly, for reshapes."""
    network = graph.depending_on([log_mel])
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
