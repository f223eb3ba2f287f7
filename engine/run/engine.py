"""The engine: a bundle over recordings, in order, in parts of at most an hour or a recording at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, Self, get_args

from bce.engine.audio.reader import AudioBlock
from bce.engine.audio.recordings import find_recordings
from bce.engine.errors import OptionsError, shown
from bce.engine.geometry import ChunkGrid, check_chunk, check_reach, check_shifts, overhang_s
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import objects_path
from bce.engine.network.member import Member
from bce.engine.network.runtimes import BACKENDS, PRECISIONS, check_backend
from bce.engine.recording import Recording
from bce.engine.results import BlockResult, Part, RecordingResult, Shifts, whole_recordings
from bce.engine.run.pace import Pace, SteadyPace, Stop
from bce.engine.run.scheduler import Scheduler
from bce.engine.run.stalls import STALL_S

MOST_THREADS = 1024
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
        shifts_s: test-time shifts of each chunk's window, in seconds; None for the bundle's own.
        precision: which backbone of the bundle, one of :data:`bce.engine.network.runtimes.PRECISIONS`; "bf16" is its
            float32 one in bfloat16.
        backend: what runs the backbone: "auto" is compiled kernels where there are any for the bundle, the precision
            and this CPU, and their numbers are ONNX Runtime's, else ONNX Runtime; or "compiled", "onnxruntime",
            "openvino".
        objects: a folder with kernels that were compiled ahead, never one in a bundle; default: ``$BCE_OBJECTS``.
        stall_s: a reader that delivers nothing for so many seconds fails its recording; above 0. A deadline may ask for
            less patience.
        chunk_s: length of the output's chunks in seconds, a multiple of 10 ms; None for the windows' length. A longer
            chunk has several windows, as the bundle's placing says, a shorter one a window around its middle.
        features: keep the backbone's features as a mean over a chunk's shifts ("chunk") or one by one ("window").

    Raises:
        OptionsError: naming a value that there is not. Whether the bundle has the precision, its engine says.
    """

    threads: int = field(default_factory=usable_cpus)
    shifts_s: Shifts | None = None
    precision: str = "fp32"
    features: FeaturesPer | None = None
    backend: str = "auto"
    stall_s: float = STALL_S
    objects: Path | None = field(default_factory=objects_path)
    chunk_s: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.threads, Integral) or isinstance(self.threads, bool) or self.threads < 1:
            raise OptionsError(f"threads is {shown(self.threads)}, it must be a whole number of at least 1")
        if self.threads > MOST_THREADS:
            raise OptionsError(f"threads is {shown(self.threads)}, it must be at most {MOST_THREADS:,}")
        if not isinstance(self.stall_s, Real) or isinstance(self.stall_s, bool):
            raise OptionsError(f"stall is {shown(self.stall_s)}, it must be a number of seconds")
        if not self.stall_s > 0:
            raise OptionsError(f"stall is {self.stall_s:g} s, it must be above 0")
        for name, value, allowed in (
            ("features", self.features, (None, *get_args(FeaturesPer))),
            ("backend", self.backend, BACKENDS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in allowed:
                raise OptionsError(f"{name} is {shown(value)}, it must be one of {', '.join(map(str, allowed))}")
        check_backend(self.backend, self.precision)
        if self.chunk_s is not None:
            check_chunk(self.chunk_s)
        if self.objects is not None:
            if not isinstance(self.objects, str | os.PathLike):
                raise OptionsError(f"objects is {shown(self.objects)}, it must be a folder")
            object.__setattr__(self, "objects", Path(self.objects))
        if self.shifts_s is not None:
            if not isinstance(self.shifts_s, Iterable):
                raise OptionsError(f"shifts are {self.shifts_s!r}, they must be a list of seconds")
            object.__setattr__(self, "shifts_s", check_shifts(self.shifts_s))  # exactly on their grid

    def shifts_for(self, bundle: Bundle) -> Shifts:
        """The shifts of a run with a bundle.

        Raises:
            OptionsError: one is further than a window's length.
        """
        manifest = bundle.manifest
        shifts_s = manifest.placing.shifts_s if self.shifts_s is None else self.shifts_s
        check_reach(shifts_s, manifest.window)
        return shifts_s

    def grid_for(self, bundle: Bundle) -> ChunkGrid:
        """The chunks of a run with a bundle.

        Raises:
            OptionsError: they are not whole numbers of samples at its rate.
        """
        if self.chunk_s is None:
            return bundle.manifest.grid
        grid = ChunkGrid(self.chunk_s)
        grid.samples(bundle.manifest.window.sample_rate)
        return grid


class Engine:
    """Runs a bundle over recordings.

    >>> with Engine(Bundle.load("perch_bundle"), EngineOptions(threads=2)) as engine:
    ...     for result in engine.run(["soundscapes/"]):
    ...         print(result.recording.stem, result.logits.shape)

    It makes one run at a time, and as many as one likes one after the other, until it is closed.

    Attributes:
        bundle: what runs.
        options: how.
        shifts_s: the test-time shifts.
        grid: the chunks of the output.
        stop_switch: of the run in progress, or of the next one.
    """

    def __init__(self, bundle: Bundle, options: EngineOptions | None = None) -> None:
        self.bundle = bundle
        self.options = options or EngineOptions()
        self.shifts_s = self.options.shifts_for(bundle)
        asked = self.options
        self.grid = asked.grid_for(bundle)
        self._member: Member | None = Member(
            bundle, asked.precision, asked.backend, asked.threads, asked.objects, self.grid
        )
        self.stop_switch = Stop()
        self._busy = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def member(self) -> Member:
        """The bundle's frontend and network.

        Raises:
            OptionsError: the engine is closed.
        """
        if self._member is None:
            raise OptionsError("the engine is closed: make another one", self.bundle.path)
        return self._member

    def stop(self, reason: str, *, abandon: bool = False) -> None:
        """Take no further audio block. What is in flight is still given out, the rest is marked "not_run".

        It ends the run in progress, or else the next one as soon as it begins; the run after that is whole.
        Safe to call from a signal handler or another thread. With ``abandon``, what is in flight is not waited for.
        """
        self.stop_switch.deadline = False
        self.stop_switch.reason = reason
        self.stop_switch.cut |= abandon  # a deadline may have cut it already
        self.stop_switch.abandon |= abandon

    def close(self) -> None:
        """Give back the network's memory, some 200 MB. Nothing can run afterwards; to close again does nothing."""
        self._member = None

    def score(
        self, recordings: Sequence[Recording | str | os.PathLike[str]], pace: Pace | None = None
    ) -> Generator[Part, None, None]:
        """Yield the rows of all recordings in order, in parts of at most an hour, as they are done.

        Memory is bounded, however many and however long the recordings are. The last part of each says what became of
        the recording.

        Args:
            recordings: recordings, or files and folders to find them in.
            pace: decides on shifts as the run goes on; default: :attr:`shifts_s` for all.

        Raises:
            OptionsError: a path is missing, nothing is found, the engine is closed; or, with the first part, that it
                has another run in progress.
        """
        _ = self.member  # a closed engine says so here
        given = [item for item in recordings if isinstance(item, Recording)]
        paths = [item for item in recordings if not isinstance(item, Recording)]
        if paths:
            given += find_recordings(paths)
        return self._parts(given, pace or SteadyPace(self.shifts_s))

    def _parts(self, recordings: Sequence[Recording], pace: Pace) -> Generator[Part, None, None]:
        """A run: its own pass of the scheduler, with a stop switch that nothing else gets."""
        if not self._busy.acquire(blocking=False):
            raise OptionsError("the engine has a run in progress: take all of its results, or close their iterator")
        stop = self.stop_switch
        try:
            scheduler = Scheduler(
                recordings,
                partial(self.compute, stop=stop),
                pace,
                self.options.threads,
                stop,
                self.member.model.classes,
                self.member.window.sample_rate,
                self.grid,
                min(self.options.stall_s, pace.patience_s),
                overhang_s(self.member.window, self.grid),
            )
            yield from scheduler.parts()
        finally:
            self.stop_switch = Stop()
            self._busy.release()

    def run(
        self, recordings: Sequence[Recording | str | os.PathLike[str]], pace: Pace | None = None
    ) -> Iterator[RecordingResult]:
        """Yield one result per recording, in order, as they are done: :meth:`score` with its parts joined.

        Args, errors: as :meth:`score`.
        """
        return whole_recordings(self.score(recordings, pace))

    def compute(self, block: AudioBlock, shifts_s: Shifts, stop: Stop | None = None) -> BlockResult:
        """Inputs, features and logits of one audio block, of its first chunks where the run is cut.

        Args:
            block: of a recording.
            shifts_s: the test-time shifts, in seconds.
            stop: of the run that the block belongs to, which the engine may have left behind; default: of this one.
        """
        switch = self.stop_switch if stop is None else stop
        return self.member.compute(block, shifts_s, self.options.features, lambda: switch.cut)
