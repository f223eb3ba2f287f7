"""Ways to run the network over the same audio: the stock graph, other runtimes, and the engine itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.bench.backbones import BackboneAlone, NotHere, Run
from bce.engine.audio.reader import AudioBlock, AudioReader
from bce.engine.errors import AudioError, BceError, OptionsError
from bce.engine.geometry import ChunkGrid, WindowPlan, WindowSpec, plan_windows
from bce.engine.network.backbone import NAMES
from bce.engine.network.bundle import Bundle
from bce.engine.network.openvino_backbone import openvino_core
from bce.engine.network.sessions import open_stock
from bce.engine.recording import Recording
from bce.engine.run.engine import Engine, EngineOptions

ALONE = "backbone, "
"""How the names of contestants begin that are a backbone without frontend and head."""
BATCH = 12
"""Windows a call in the stock way: the twelve of a one-minute recording."""


@dataclass(frozen=True)
class Contestant:
    """One way to run.

    Attributes:
        name: as in the table.
        threads: how many it may use.
        run: goes over all the audio once, and returns how many windows it ran.
        note: what is special about it.
        form: what ran the backbone of ``bce`` as a whole.
        outputs: of a backbone alone, inputs [windows, *shape of one] -> its outputs.
    """

    name: str
    threads: int
    run: Callable[[], int]
    note: str = ""
    form: str = ""
    outputs: Run | None = None


@dataclass(frozen=True)
class Audio:
    """The audio of all contestants: audio blocks for the engine, their windows for everyone else.

    Attributes:
        blocks: stretches of recordings.
        shifts_s: test-time shifts.
        window: how the windows look; chunks are as long.
        waveforms: float32 [windows, samples], chunk by chunk for each shift.
    """

    blocks: tuple[AudioBlock, ...]
    shifts_s: tuple[float, ...]
    window: WindowSpec
    waveforms: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = []
        for block in self.blocks:
            plan = self.plan(block)
            starts = plan.starts[plan.index].T.ravel() - block.start_sample
            parts += [block.samples[start : start + self.window.samples] for start in starts]
        object.__setattr__(self, "waveforms", np.stack(parts))

    def plan(self, block: AudioBlock) -> WindowPlan:
        """The distinct windows of an audio block."""
        grid = ChunkGrid(self.window.window_s)
        return plan_windows(self.window, grid, block.first_chunk, block.chunks, self.shifts_s, block.total_samples)


def load_audio(
    recordings: Sequence[Recording], windows: int, shifts_s: tuple[float, ...], window: WindowSpec, multiple: int
) -> Audio:
    """Read about so many windows: equal audio blocks of at most a minute, as many as a multiple of ``multiple``.

    Raises:
        OptionsError: the recordings do not have enough audio.
    """
    per_minute = round(60 / window.window_s)
    blocks = multiple * max(1, round(windows / (per_minute * len(shifts_s)) / multiple))
    chunks = min(per_minute, max(1, round(windows / len(shifts_s) / blocks)))
    grid = ChunkGrid(window.window_s)
    context_s = max(abs(shift) for shift in shifts_s)
    found: list[AudioBlock] = []
    for recording in recordings:
        try:
            with AudioReader(recording.path, window.sample_rate, grid, context_s, block_chunks=chunks) as reader:
                found += [block for block in reader if block.chunks == chunks]
        except AudioError as error:
            raise OptionsError(error.reason, error.path) from None
        if len(found) >= blocks:
            return Audio(tuple(found[:blocks]), shifts_s, window)
    raise OptionsError(
        f"the recordings have {len(found)} stretches of {chunks * window.window_s:g} s, {blocks} are needed for"
        f" {windows} windows: give more audio or ask for fewer windows"
    )


def onnx_runtime(
    name: str, model: Path, inputs: NDArray[np.float32], threads: int, batch: int, note: str = ""
) -> Contestant:
    """A graph under ONNX Runtime as it is used today: all its outputs, N threads inside one call."""
    session = open_stock(model, threads)
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
        core = openvino_core()
    except OptionsError:
        raise NotHere("openvino is not installed") from None
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    try:
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise NotHere(f"OpenVINO cannot compile {model.name}: {str(error).strip().splitlines()[0]}") from None
    return Contestant(name, threads, lambda: _in_batches(inputs, batch, lambda x: request.infer([x])), note)


def engine(bundle: Bundle, precision: str, audio: Audio, threads: int, backend: str = "auto") -> Contestant:
    """``bce``: frontend, backbone and head of audio blocks, on as many Python threads.

    Raises:
        NotHere: the backend cannot run the precision on this CPU, or not with these weights.
    """
    options = EngineOptions(threads=threads, shifts_s=audio.shifts_s, precision=precision, backend=backend)
    try:
        runner = Engine(bundle, options)
    except BceError as error:
        raise NotHere(error.reason) from None
    pool = ThreadPoolExecutor(threads)

    def go() -> int:
        return sum(pool.map(lambda block: runner.compute(block, audio.shifts_s).windows, audio.blocks))

    name = engine_name(precision, backend)
    return Contestant(name, threads, go, form=str(runner.member.model.form))


def engine_name(precision: str, backend: str) -> str:
    """The name of a way to run ``bce``: what nobody has to ask for is not said."""
    return f"bce {precision}" if backend == "auto" else f"bce {precision}, {NAMES[backend]}"


def backbone(form: BackboneAlone, inputs: NDArray[np.float32], threads: int) -> Contestant:
    """A backbone without its frontend and head, one window a call, on as many Python threads."""
    pool = ThreadPoolExecutor(threads)

    def go() -> int:
        for _ in pool.map(lambda index: form.run(inputs[index : index + 1]), range(len(inputs))):
            pass
        return len(inputs)

    return Contestant(f"{ALONE}{form.name}", threads, go, outputs=form.run)


def network_inputs(bundle: Bundle, audio: Audio) -> NDArray[np.float32]:
    """What the bundle's frontend makes of the distinct windows, float32 [windows, *shape of one]."""
    frontend = bundle.frontend()
    found = []
    for block in audio.blocks:
        opened = frontend.open(block.samples, block.start_sample)
        for start in audio.plan(block).starts:
            found.append(np.empty(frontend.shape, np.float32))
            opened.window(int(start), found[-1])
    return np.stack(found)
