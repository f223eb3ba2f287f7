"""Worker threads over audio blocks, results in the order of the recordings.

Decoding is sequential per recording, inference is not. A worker takes the next audio block of the earliest open
recording whose reader is free, or opens the next recording, and computes the block after it has let the reader go.
So many short recordings and one long recording both keep every thread busy, in memory that depends on the number
of threads and not on the length of the list.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bce.engine.audio.reader import AudioBlock, AudioReader, expected_chunks
from bce.engine.audio.recordings import Recording
from bce.engine.errors import AudioError
from bce.engine.results import BlockResult, RecordingResult, StageSeconds, Status

Shifts = tuple[float, ...]


class Pace(Protocol):
    """Who decides how much is run. Called from several threads, one at a time."""

    @property
    def reach_s(self) -> float:
        """The furthest that a shift may reach, in seconds: how much context an audio block needs."""

    def opened(self, recording: Recording, promised_chunks: int | None) -> None:
        """A recording's header has been read; None when it promises nothing."""

    def shifts(self, recording: Recording, chunks: int) -> Shifts:
        """The shifts of an audio block that begins now."""

    def computed(self, recording: Recording, chunks: int, shifts_s: Shifts, windows: int) -> None:
        """An audio block is done."""

    def finished(self, recording: Recording) -> None:
        """No more will come of a recording."""

    def tick(self) -> None:
        """Called a few times a second while the run lasts."""


@dataclass(frozen=True)
class SteadyPace:
    """The same shifts for all, however long it takes."""

    shifts_s: Shifts

    @property
    def reach_s(self) -> float:
        return max(map(abs, self.shifts_s))

    def opened(self, recording: Recording, promised_chunks: int | None) -> None: ...

    def shifts(self, recording: Recording, chunks: int) -> Shifts:
        return self.shifts_s

    def computed(self, recording: Recording, chunks: int, shifts_s: Shifts, windows: int) -> None: ...

    def finished(self, recording: Recording) -> None: ...

    def tick(self) -> None: ...


_PENDING_BYTES = 64 << 20
"""Finished results may wait for a slow earlier recording up to this size before workers pause."""
THREAD_PREFIX = "bce-"
"""Of the names of all threads that the engine starts."""
_POLL_S = 0.2
"""How soon a stop that was asked for from a signal handler is seen."""


@dataclass
class Stop:
    """The run's stop switch; safe to set from a signal handler or another thread.

    Attributes:
        reason: set: no further audio block is taken, what is in flight is finished.
        abandon: set as well: what is in flight is not waited for either (a reader may hang for ever).
    """

    reason: str | None = None
    abandon: bool = False


@dataclass
class _Job:
    """A recording on its way. Fields change under the scheduler's condition only."""

    index: int
    recording: Recording
    reader: AudioReader | None = None
    decoding: bool = True
    exhausted: bool = False
    stopped: bool = False
    in_flight: int = 0
    blocks: dict[int, BlockResult] = field(default_factory=dict)
    decode_s: float = 0.0
    error: str | None = None


class Scheduler:
    """One pass over a list of recordings.

    Args:
        recordings: in output order.
        compute: log-mel, features and logits of an audio block; called from worker threads.
        pace: asked for the shifts of each audio block.
        threads: how many workers.
        stop: looked at before each audio block.
        classes: number of classes, for recordings without any row.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        compute: Callable[[AudioBlock, Shifts], BlockResult],
        pace: Pace,
        threads: int,
        stop: Stop,
        classes: int,
    ) -> None:
        self._recordings = recordings
        self._compute = compute
        self._pace = pace
        self._threads = threads
        self._stop = stop
        self._no_rows = np.empty((0, classes), np.float32)
        self._changed = threading.Condition()
        self._open: list[_Job] = []
        self._next_index = 0
        self._finished: dict[int, RecordingResult] = {}
        self._pending_bytes = 0
        self._crash: BaseException | None = None
        self._closed = False

    def results(self) -> Iterator[RecordingResult]:
        """Yield one result per recording, in order. Closing the iterator ends the workers after their block."""
        workers = [
            threading.Thread(target=self._work, name=f"{THREAD_PREFIX}worker-{number}", daemon=True)
            for number in range(self._threads)
        ]
        for worker in workers:
            worker.start()
        try:
            for index in range(len(self._recordings)):
                yield self._wait_for(index)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            for worker in workers if not self._stop.abandon else ():
                worker.join()

    def _wait_for(self, index: int) -> RecordingResult:
        with self._changed:
            while True:
                self._pace.tick()
                if self._crash is not None:
                    raise self._crash
                if index in self._finished:
                    result = self._finished.pop(index)
                    self._pending_bytes -= result.nbytes
                    self._changed.notify_all()
                    return result
                if self._stop.reason is not None:
                    if index >= self._next_index:
                        return self._result(_Job(index, self._recordings[index], stopped=True))
                    self._stop_open_jobs()
                    if index in self._finished:
                        continue
                    if self._stop.abandon:
                        job = next(job for job in self._open if job.index == index)
                        job.stopped = True
                        self._open.remove(job)
                        return self._result(job)
                self._changed.wait(_POLL_S)

    def _work(self) -> None:
        try:
            while (job := self._take()) is not None:
                self._step(job)
        except BaseException as error:  # whatever it is, the caller of results() gets it
            with self._changed:
                self._crash = error
                self._changed.notify_all()

    def _take(self) -> _Job | None:
        """The job whose next audio block this worker shall decode; None when there is nothing left to do."""
        with self._changed:
            while True:
                if self._closed or self._crash is not None or self._stop.reason is not None:
                    return None
                for job in self._open:
                    if not job.decoding and not job.exhausted:
                        job.decoding = True
                        return job
                if self._next_index < len(self._recordings) and self._pending_bytes < _PENDING_BYTES:
                    job = _Job(self._next_index, self._recordings[self._next_index])
                    self._next_index += 1
                    self._open.append(job)
                    return job
                if self._next_index == len(self._recordings) and all(job.exhausted for job in self._open):
                    return None
                self._changed.wait(_POLL_S)

    def _step(self, job: _Job) -> None:
        """Decode one audio block of a job, let the reader go, and compute the block."""
        began = time.perf_counter()
        opened = job.reader is not None
        block = self._decode(job)
        with self._changed:
            if not opened:
                self._pace.opened(job.recording, _promised_chunks(job.reader))
            job.decode_s += time.perf_counter() - began
            job.decoding = False
            job.exhausted = block is None or block.is_last
            job.in_flight += block is not None
            self._finish_if_done(job)
            self._changed.notify_all()
            if block is None:
                return
            shifts_s = self._pace.shifts(job.recording, block.chunks)
        result = self._compute(block, shifts_s)
        with self._changed:
            self._pace.computed(job.recording, block.chunks, shifts_s, result.windows)
            job.blocks[block.first_chunk] = result
            job.in_flight -= 1
            self._finish_if_done(job)
            self._changed.notify_all()

    def _decode(self, job: _Job) -> AudioBlock | None:
        try:
            if job.reader is None:
                job.reader = AudioReader(job.recording.path, self._pace.reach_s)
            return next(job.reader, None)
        except AudioError as error:
            job.error = error.reason
        except Exception as error:
            # a decoder can fail in ways of its own: the recording fails with what it said, the run goes on
            job.error = f"cannot be decoded ({type(error).__name__}: {error})"
        return None

    def _stop_open_jobs(self) -> None:
        """After a stop nothing more is read; a job ends when its blocks in flight are computed."""
        for job in list(self._open):
            if not job.decoding and not job.exhausted:
                job.exhausted = job.stopped = True
                self._finish_if_done(job)

    def _finish_if_done(self, job: _Job) -> None:
        if job not in self._open or not job.exhausted or job.in_flight:
            return
        self._open.remove(job)
        self._pace.finished(job.recording)
        if job.reader is not None:
            job.reader.close()
        result = self._result(job)
        self._finished[job.index] = result
        self._pending_bytes += result.nbytes

    def _result(self, job: _Job) -> RecordingResult:
        blocks = [job.blocks[first] for first in _gapless(job.blocks)]
        reader = job.reader
        reason = job.error or (None if reader is None else reader.problem)
        if job.stopped:
            reason = f"the run was stopped: {self._stop.reason}"
        status: Status = "ok"
        if reason is not None:
            status = "short_read" if blocks else "not_run" if job.stopped else "failed"
        return RecordingResult(
            recording=job.recording,
            status=status,
            reason=reason,
            logits=np.concatenate([self._no_rows, *(block.logits for block in blocks)]),
            promised_chunks=_promised_chunks(reader),
            features={
                name: np.concatenate([block.features[name] for block in blocks])
                for name in (blocks[0].features if blocks else ())
            },
            window_start_s=np.concatenate([np.empty(0), *(block.window_start_s for block in blocks)]),
            shifts=tuple((len(block.logits), block.shifts_s) for block in blocks),
            source_rate=None if reader is None else reader.source_rate,
            promised_s=None if reader is None else reader.promised_s,
            delivered_s=0.0 if reader is None else reader.delivered_s,
            windows=sum(block.windows for block in blocks),
            seconds=sum((block.seconds for block in blocks), StageSeconds(decode=job.decode_s)),
        )


def _promised_chunks(reader: AudioReader | None) -> int | None:
    return None if reader is None or reader.promised_s is None else expected_chunks(reader.promised_s)


def _gapless(blocks: dict[int, BlockResult]) -> list[int]:
    """First chunks of the blocks that follow each other from the start; an abandoned job may have gaps."""
    firsts: list[int] = []
    chunk = 0
    while chunk in blocks:
        firsts.append(chunk)
        chunk += len(blocks[chunk].logits)
    return firsts
