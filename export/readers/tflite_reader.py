"""A Perch v2 TFLite file as weights, and the file itself under LiteRT as a reference to compare with.

Nothing relies on names, as in :mod:`bce.export.readers.onnx_reader`: the stem is the first two-dimensional convolution
of one channel, the log-mel is what it is computed from, and from there :mod:`bce.export.perch.recognise` follows the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.perch.architecture import FRAMES, MELS
from bce.export.perch.recognise import recognise
from bce.export.perch.weights import Weights
from bce.export.readers.taps import Taps, find_taps
from bce.export.readers.terms import LogMel, Tensor
from bce.export.readers.tflite_graph import EXTRA, Operator, TensorInfo, TfliteGraph, dequantised
from bce.export.readers.tflite_terms import translate

WINDOW_SAMPLES = 160_000

_LAYOUT = {"TRANSPOSE", "RESHAPE", "EXPAND_DIMS", "SQUEEZE", "CAST", "PAD", "PADV2", "QUANTIZE", "DEQUANTIZE"}
_CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class TfliteSource:
    """What was found in a TFLite file, and how to run it.

    Attributes:
        path: the file.
        weights: the network's weights.
        batch: how many windows the file takes at once.
        log_mel: index of the log-mel's tensor.
        taps: where the network's outputs are, by tensor index.
        notes: what the proof of a bundle should say of this source.
    """

    path: Path
    weights: Weights
    batch: int
    log_mel: int
    taps: Taps[int]
    notes: tuple[str, ...]

    def reference(self, blocks: Sequence[int], outputs: Sequence[str]) -> Callable[[Array], dict[str, Array]]:
        """The file under LiteRT with the wanted tensors as outputs, its weights in float32.

        Raises:
            CannotRun: LiteRT is not installed, or does not know an operator of the file.
        """
        taps = self.taps.wanted(tuple(blocks), tuple(outputs))
        graph = TfliteGraph(self.path)
        tensors = list(dict.fromkeys([self.log_mel, *(tap.value for tap in taps.values())]))
        interpreter = _interpreter(graph.with_outputs(tensors), self.path)
        (waveform,) = graph.inputs
        del graph  # with a classifier it holds 400 MB

        def run(waveforms: Array) -> dict[str, Array]:
            found: dict[str, list[Array]] = {name: [] for name in ("spectrogram", *taps)}
            for start in range(0, len(waveforms), self.batch):
                windows = np.asarray(waveforms[start : start + self.batch], np.float32)
                count = len(windows)
                full = np.zeros((self.batch, WINDOW_SAMPLES), np.float32)
                full[:count] = windows
                interpreter.set_tensor(waveform, full)
                interpreter.invoke()
                arrays = {index: interpreter.get_tensor(index) for index in tensors}
                found["spectrogram"].append(arrays[self.log_mel][:count].reshape(count, FRAMES, MELS))
                for name, tap in taps.items():
                    found[name].append(tap.features(arrays[tap.value][:count]))
            return {name: np.concatenate(parts) for name, parts in found.items()}

        return run


def read_tflite(path: Path) -> TfliteSource:
    """Read a Perch v2 TFLite file.

    Args:
        path: a file that takes waveforms [batch, 160000], whatever its names and lowering, with weights in float32,
            float16 or int8.

    Raises:
        ExportError: the file is no whole TFLite file, or its network is not Perch's; the reason names what differs.
    """
    graph = TfliteGraph(path)
    try:
        batch = _batch(graph)
        log_mel, tensor = _log_mel(graph, batch)
        terms, tensors = translate(graph, log_mel, tensor)
        ends = [terms.resolve(tensors[index]) for index in graph.outputs if index in tensors]
        assert isinstance(tensor.term, LogMel)
        network = recognise(tensor.term, ends)
        taps = find_taps(network, terms, tensors)
        known = {log_mel, taps.embedding.value, *([] if taps.label is None else [taps.label.value])}
        logits = [i for i in graph.outputs if i in tensors and i not in known and len(graph.tensors[i].shape) == 2]
        if network.label is None and logits:
            name = graph.tensors[logits[0]].name
            raise ExportError(
                f"classifier: expected '{name}' to come from prototypes, found another kind of classifier"
            )
    except ExportError as error:
        raise ExportError(error.reason, path) from None
    return TfliteSource(path, network.weights, batch, log_mel, taps, tuple(_losses(graph)))


def _batch(graph: TfliteGraph) -> int:
    if len(graph.inputs) != 1:
        found = ", ".join(graph.tensors[i].name for i in graph.inputs) or "none"
        raise ExportError(f"expected one input, the waveforms, found {found}")
    info = graph.tensors[graph.inputs[0]]
    if info.dtype != "f4" or len(info.shape) != 2 or info.shape[1] != WINDOW_SAMPLES:
        raise ExportError(
            f"input '{info.name}': expected float32 [batch, {WINDOW_SAMPLES}] (5 s at 32 kHz), "
            f"found {np.dtype(info.dtype).name if info.dtype else 'another type'} {list(info.shape)}"
        )
    return max(info.shape[0], 1)


def _log_mel(graph: TfliteGraph, batch: int) -> tuple[int, Tensor]:
    """The log-mel's tensor: what the stem is computed from, as far back as its size is that of a log-mel."""
    stem = next((op for op in graph.operators if _is_stem(graph, op)), None)
    if stem is None:
        raise ExportError("stem: expected a two-dimensional convolution of one channel, found none")
    chain = [stem.inputs[0]]
    while chain[-1] in graph.producer and graph.producer[chain[-1]].name in _LAYOUT:
        chain.append(graph.producer[chain[-1]].inputs[0])
    fitting = [index for index in chain if _size(graph, index) == (batch, FRAMES, MELS) and index not in graph.inputs]
    if not fitting:
        found = ", ".join(str(list(graph.tensors[index].shape)) for index in chain)
        raise ExportError(f"log-mel: expected [{batch}, {FRAMES}, {MELS}] (time, mel), found {found}")
    labels = iter("tm")
    shape = graph.tensors[fitting[-1]].shape
    axes = ((("n", batch),), *(((next(labels), size),) if size > 1 else () for size in shape[1:]))
    return fitting[-1], Tensor(LogMel(()), axes)


def _size(graph: TfliteGraph, index: int) -> tuple[int, ...]:
    shape = graph.tensors[index].shape
    return (*shape[:1], *(n for n in shape[1:] if n != 1))


def _is_stem(graph: TfliteGraph, op: Operator) -> bool:
    if op.name not in _CONVOLUTIONS or op.inputs[0] not in graph.varying:
        return False
    kernel, channels = graph.tensors[op.inputs[1]].shape, graph.tensors[op.inputs[0]].shape[-1:]
    return len(kernel) == 4 and min(kernel[1:3]) > 1 and channels == (1,)


def _losses(graph: TfliteGraph) -> list[str]:
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
    from bce.export.sources import CannotRun

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
