"""The engine: a bundle over recordings, one result per recording, in order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.reader import AudioBlock
from bce.engine.audio.recordings import Recording, find_recordings
from bce.engine.errors import OptionsError
from bce.engine.frontends.perch import Frontend
from bce.engine.geometry import SHIFT_SETS, check_shifts, plan_windows
from bce.engine.network.bundle import Bundle
from bce.engine.network.model import BACKENDS, Features, Model
from bce.engine.results import BlockResult, RecordingResult, StageSeconds
from bce.engine.run.scheduler import Pace, Scheduler, SteadyPace, Stop

FeaturesPer = Literal["chunk", "window"]


def usable_cpus() -> int:
    """The number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class EngineOptions:
    """How to run.

    Attributes:
        threads: busy threads in all, at least 1; default: the CPUs that this process may use.
        shifts_s: test-time shifts of each chunk's window, in seconds; logits are averaged over them.
        precision: which backbone of the bundle; "bf16" is its float32 one in bfloat16, with the openvino backend only.
        backend: what runs the backbone, "onnxruntime" or "openvino".
        features: keep the backbone's features as a mean over a chunk's shifts ("chunk") or one by one ("window").
    """

    threads: int = field(default_factory=usable_cpus)
    shifts_s: tuple[float, ...] = SHIFT_SETS[5]
    precision: str = "fp32"
    features: FeaturesPer | None = None
    backend: str = "onnxruntime"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise OptionsError(f"threads is {self.threads}, it must be at least 1")
        if self.features not in (None, *get_args(FeaturesPer)):
            raise OptionsError(f"features is {self.features!r}, it must be one of {', '.join(get_args(FeaturesPer))}")
        if self.backend not in BACKENDS:
            raise OptionsError(f"backend is {self.backend!r}, it must be one of {', '.join(BACKENDS)}")
        if self.precision == "bf16" and self.backend != "openvino":
            raise OptionsError("bf16 needs --backend openvino: ONNX Runtime has no bfloat16 on CPUs")
        check_shifts(self.shifts_s)


class Engine:
    """Runs a bundle over recordings.

    >>> engine = Engine(Bundle.load("perch_bundle"), EngineOptions(threads=2))
    >>> for result in engine.run(["soundscapes/"]):
    ...     print(result.recording.stem, result.logits.shape)
    """

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        self.bundle = bundle
        self.options = options or EngineOptions()
        self.model = Model(bundle, self.options.precision, self.options.backend, self.options.threads)
        self.stop_switch = Stop()

    def stop(self, reason: str, *, abandon: bool = False) -> None:
        """Take no further audio block. :meth:`run` then yields what is in flight and marks the rest "not_run".

        Safe to call from a signal handler or another thread. With ``abandon``, what is in flight is not waited for.
        """
        self.stop_switch.reason = reason
        self.stop_switch.abandon = abandon

    def close(self) -> None:
        """Give back the network's memory, some 200 MB. Nothing can run afterwards."""
        del self.model

    def run(
        self,
        recordings: Sequence[Recording | str | os.PathLike[str]],
        pace: Pace | None = None,
    ) -> Iterator[RecordingResult]:
        """Yield one result per recording, in order, as they are done; memory is bounded.

        Args:
            recordings: recordings, or files and folders to find them in.
            pace: decides on shifts as the run goes on; default: the options' shifts for all.

        Raises:
            OptionsError: a path is missing, or nothing is found.
        """
        given = [item for item in recordings if isinstance(item, Recording)]
        paths = [item for item in recordings if not isinstance(item, Recording)]
        if paths:
            given += find_recordings(paths)
        scheduler = Scheduler(
            given,
            self.compute,
            pace or SteadyPace(self.options.shifts_s),
            self.options.threads,
            self.stop_switch,
            self.model.classes,
        )
        return scheduler.results()

    def compute(self, block: AudioBlock, shifts_s: tuple[float, ...]) -> BlockResult:
        """Log-mel, features and logits of one audio block."""
        clock = time.perf_counter
        began = clock()
        plan = plan_windows(block.first_chunk, block.chunks, shifts_s, block.total_samples)
        frontend = Frontend(block.samples, self.bundle.manifest.preparation, block.start_sample)
        frontend_s = clock() - began
        inference_s = 0.0
        log_mel = np.empty((1, 500, 128), np.float32)
        rows: list[Features] = []
        for start in plan.starts:
            began = clock()
            frontend.window(int(start), out=log_mel[0])
            middle = clock()
            rows.append(self.model.features(log_mel))
            frontend_s += middle - began
            inference_s += clock() - middle
        began = clock()
        features = {name: np.concatenate([row[name] for row in rows]) for name in self.model.outputs}
        logits = _mean_over_shifts(self.model.logits(features), plan.index)
        inference_s += clock() - began
        kept: Features = {}
        if self.options.features == "window":
            kept = features
        elif self.options.features == "chunk":
            kept = {name: _mean_over_shifts(values, plan.index) for name, values in features.items()}
        return BlockResult(
            logits,
            kept,
            plan.starts / self.bundle.manifest.sample_rate if self.options.features == "window" else np.empty(0),
            shifts_s,
            len(plan.starts),
            StageSeconds(0.0, frontend_s, inference_s),
        )


def _mean_over_shifts(values: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.float32]:
    """[windows, width] and index [chunks, shifts] -> [chunks, width]; the sum is in float64."""
    return values[index].mean(axis=1, dtype=np.float64).astype(np.float32)
