"""Ways to run the network over the same audio: the stock graph, other runtimes, and the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bce.engine.audio.reader import AudioBlock, AudioReader
from bce.engine.errors import AudioError, BceError, OptionsError
from bce.engine.frontends.perch import Frontend
from bce.engine.geometry import WINDOW_SAMPLES, plan_windows
from bce.engine.GONE import WINDOW_S
from bce.engine.network.bundle import Bundle
from bce.engine.network.model import Model
from bce.engine.network.openvino_backbone import OpenVinoBackbone
from bce.engine.recording import Recording
from bce.engine.run.engine import Engine, EngineOptions

BATCH = 12
"""Windows a call in the stock way: the twelve of a one-minute recording."""


class NotHere(Exception):
    """A contestant cannot take part, with the reason."""


@dataclass(frozen=True)
class Contestant:
    """One way to run.

    Attributes:
        name: as in the table.
        threads: how many it may use.
        run: goes over all the audio once, and returns how many windows it ran.
        note: what is special about it.
    """

    name: str
    threads: int
    run: Callable[[], int]
    note: str = ""


@dataclass(frozen=True)
class Audio:
    """The audio of all contestants: audio blocks for the engine, their windows for everyone else.

    Attributes:
        blocks: stretches of recordings.
        shifts_s: test-time shifts.
        waveforms: float32 [windows, 160000], chunk by chunk for each shift.
    """

    blocks: tuple[AudioBlock, ...]
    shifts_s: tuple[float, ...]
    waveforms: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = []
        for block in self.blocks:
            plan = plan_windows(block.first_chunk, block.chunks, self.shifts_s, block.total_samples)
            starts = plan.starts[plan.index].T.ravel() - block.start_sample
            parts += [block.samples[start : start + WINDOW_SAMPLES] for start in starts]
        object.__setattr__(self, "waveforms", np.stack(parts))


def load_audio(recordings: Sequence[Recording], windows: int, shifts_s: tuple[float, ...], multiple: int) -> Audio:
    """Read about so many windows: equal audio blocks of at most a minute, as many as a multiple of ``multiple``.

    Raises:
        OptionsError: the recordings do not have enough audio.
    """
    per_minute = round(60 / WINDOW_S) * len(shifts_s)
    blocks = multiple * max(1, round(windows / per_minute / multiple))
    chunks = min(12, max(1, round(windows / len(shifts_s) / blocks)))
    context_s = max(abs(shift) for shift in shifts_s)
    found: list[AudioBlock] = []
    for recording in recordings:
        try:
            with AudioReader(recording.path, context_s, block_chunks=chunks) as reader:
                found += [block for block in reader if block.chunks == chunks]
        except AudioError as error:
            raise OptionsError(error.reason, error.path) from None
        if len(found) >= blocks:
            return Audio(tuple(found[:blocks]), shifts_s)
    raise OptionsError(
        f"the recordings have {len(found)} stretches of {chunks * WINDOW_S:g} s, {blocks} are needed for"
        f" {windows} windows: give more audio or ask for fewer windows"
    )


def onnx_runtime(
    name: str, model: Path, inputs: NDArray[np.float32], threads: int, batch: int, note: str = ""
) -> Contestant:
    """A graph under ONNX Runtime as it is used today: all its outputs, N threads inside one call."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    key = session.get_inputs()[0].name
    return Contestant(name, threads, lambda: _in_batches(inputs, batch, lambda x: session.run(None, {key: x})), note)


def _in_batches(inputs: NDArray[np.float32], batch: int, call: Callable[[NDArray[np.float32]], Any]) -> int:
    for start in range(0, len(inputs), batch):
        call(inputs[start : start + batch])
    return len(inputs)


def litert(name: str, model: Path, inputs: NDArray[np.float32], threads: int) -> Contestant:
    """A TFLite file that takes one waveform, under LiteRT (or TensorFlow's interpreter) with XNNPACK.

    Raises:
        NotHere: neither is installed, or it cannot run the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tensorflow.lite import Interpreter
        except ImportError:
            raise NotHere("neither ai-edge-litert nor tensorflow is installed") from None
    try:
        interpreter = Interpreter(model_path=str(model), num_threads=threads)
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, [1, *inputs.shape[1:]])
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise NotHere(f"LiteRT cannot run {model.name}: {str(error).strip().splitlines()[0]}") from None

    def call(window: NDArray[np.float32]) -> None:
        interpreter.set_tensor(index, window)
        interpreter.invoke()

    return Contestant(name, threads, lambda: _in_batches(inputs, 1, call), f"{model.name}, one window a call")


def openvino(
    name: str, model: Path, inputs: NDArray[np.float32], threads: int, batch: int, note: str = ""
) -> Contestant:
    """A graph under OpenVINO, computing in float32.

    Raises:
        NotHere: it is not installed, or it cannot compile the graph.
    """
    try:
        import openvino as ov
    except ImportError:
        raise NotHere("openvino is not installed") from None
    core = ov.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    try:
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise NotHere(f"OpenVINO cannot compile {model.name}: {str(error).strip().splitlines()[0]}") from None
    return Contestant(name, threads, lambda: _in_batches(inputs, batch, lambda x: request.infer([x])), note)


def engine(bundle: Bundle, precision: str, audio: Audio, threads: int) -> Contestant:
    """``bce``: log-mel, backbone and head of audio blocks, on as many Python threads."""
    runner = Engine(bundle, EngineOptions(threads=threads, shifts_s=audio.shifts_s, precision=precision))
    pool = ThreadPoolExecutor(threads)

    def go() -> int:
        return sum(pool.map(lambda block: runner.compute(block, audio.shifts_s).windows, audio.blocks))

    return Contestant(f"bce {precision}", threads, go, "log-mel, backbone and head")


def backbone(bundle: Bundle, precision: str, mels: NDArray[np.float32], threads: int) -> Contestant:
    """``bce``'s backbone alone, one window a call: what the matrix-product bound is compared with."""
    return _one_by_one(f"bce {precision}, backbone alone", Model(bundle, precision).features, mels, threads)


def openvino_backbone(name: str, bundle: Bundle, precision: str, mels: NDArray[np.float32], threads: int) -> Contestant:
    """The same as ``bce-infer --backend openvino`` runs it, but unchecked: seeded weights would not pass in bfloat16.

    Raises:
        NotHere: OpenVINO is not installed, or the CPU has no such precision.
    """
    try:
        other = OpenVinoBackbone(bundle.backbone(), precision, threads)
    except BceError as error:
        raise NotHere(error.reason) from None
    return _one_by_one(name, other.run, mels, threads)


def _one_by_one(
    name: str, call: Callable[[NDArray[np.float32]], Any], mels: NDArray[np.float32], threads: int
) -> Contestant:
    pool = ThreadPoolExecutor(threads)

    def go() -> int:
        for _ in pool.map(lambda index: call(mels[index : index + 1]), range(len(mels))):
            pass
        return len(mels)

    return Contestant(name, threads, go, "log-mel not counted")


def log_mels(bundle: Bundle, audio: Audio) -> NDArray[np.float32]:
    """Log-mel [windows, 500, 128] of the distinct windows."""
    found = []
    for block in audio.blocks:
        plan = plan_windows(block.first_chunk, block.chunks, audio.shifts_s, block.total_samples)
        frontend = Frontend(block.samples, bundle.manifest.preparation, block.start_sample)
        for start in plan.starts:
            found.append(np.empty((500, 128), np.float32))
            frontend.window(int(start), out=found[-1])
    return np.stack(found)
