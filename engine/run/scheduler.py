"""Worker threads over audio blocks, parts in the order of the recordings.

Decoding is sequential per recording, inference is not. A worker takes the next audio block of the earliest open
recording whose reader is free, or opens the next recording, and computes the block after it has let the reader go.
So many short recordings and one long recording both keep every thread busy, in memory that depends on the number
of threads and neither on the length of the list nor on that of a recording.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence

import numpy as np

from bce.engine.audio.reader import AudioBlock, AudioReader, chunks_of_a_block
from bce.engine.errors import AudioError
from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.results import BlockResult, Part, Shifts
from bce.engine.run.job import Job
from bce.engine.run.pace import Pace, Stop
from bce.engine.run.stalls import STALL_S, THREAD_PREFIX, StallWatch

PART_S = 3600.0
"""A part holds at most so many seconds of a recording."""
_PENDING_BYTES = 64 << 20
"""Computed blocks may wait for a slow earlier recording up to this size before workers pause."""
_PENDING_RECORDINGS = 4096
"""Recordings, likewise: those that cannot be read take no bytes."""
_POLL_S = 0.2
"""How soon a stop that was asked for from a signal handler is seen."""


def part_chunks(grid: ChunkGrid) -> int:
    """Chunks of a whole part: as many audio blocks as an hour holds, at least one."""
    block = chunks_of_a_block(grid)
    return max(1, int(PART_S / grid.chunk_s) // block) * block


class Scheduler:
    """One pass over a list of recordings.

    Args:
        recordings: in output order.
        compute: what a network says of an audio block; called from worker threads.
        pace: asked for the shifts of each audio block.
        threads: how many workers.
        stop: looked at before each audio block.
        classes: number of classes, for recordings without any row.
        sample_rate: that ``compute`` wants, in Hz.
        grid: the chunks of the run.
        stall_s: a reader that delivers nothing for so long fails its recording; another worker takes the place of the
            one that hangs in it.
        overhang_s: how far windows reach beyond their chunks apart from shifts.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        compute: Callable[[AudioBlock, Shifts], BlockResult],
        pace: Pace,
        threads: int,
        stop: Stop,
        classes: int,
        sample_rate: int,
        grid: ChunkGrid,
        stall_s: float = STALL_S,
        overhang_s: float = 0.0,
    ) -> None:
        self._recordings = recordings
        self._compute = compute
        self._pace = pace
        self._threads = threads
        self._stop = stop
        self._no_rows = np.empty((0, classes), np.float32)
        self._sample_rate = sample_rate
        self._grid = grid
        self._overhang_s = overhang_s
        self._part_chunks = part_chunks(grid)
        self._changed = threading.Condition()
        self._jobs: dict[int, Job] = {}
        """By index: recordings that were begun and whose last part has not been given out."""
        self._next_index = 0
        self._wanted = 0
        """Index of the recording whose parts are given out."""
        self._pending_bytes = 0
        self._crash: BaseException | None = None
        self._closed = False
        self._stalls = StallWatch(stall_s)
        self._workers: list[threading.Thread] = []
        """Those that are to be waited for: not those that a reader holds."""

    def parts(self) -> Generator[Part, None, None]:
        """Yield the parts of all recordings, in order. Closing the iterator ends the workers after their block."""
        with self._changed:
            for _ in range(self._threads):
                self._start_worker()
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=[over], name=f"{THREAD_PREFIX}watcher", daemon=True)
        watcher.start()
        try:
            for index in range(len(self._recordings)):
                last = False
                while not last:
                    part = self._wait_for(index)
                    last = part.last
                    yield part
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            while not self._stop.abandon and self._workers and watcher.is_alive():
                self._workers[0].join(_POLL_S)
                with self._changed:
                    self._workers = [worker for worker in self._workers if worker.is_alive()]
            over.set()
            watcher.join()

    def _start_worker(self) -> None:
        worker = threading.Thread(target=self._work, name=f"{THREAD_PREFIX}worker", daemon=True)
        self._workers.append(worker)
        worker.start()

    def _watch(self, over: threading.Event) -> None:
        """Look while the run lasts: all workers may hang in readers while who takes the parts is busy elsewhere."""
        while not over.wait(_POLL_S):
            with self._changed:
                try:
                    self._look()
                except BaseException as error:  # whatever it is, the caller of parts() gets it
                    self._crash = error
                    self._changed.notify_all()
                    return

    def _look(self) -> None:
        """Look at the clock: is the time used up, has a reader stalled?"""
        self._pace.tick()
        for job, reason in self._stalls.stalled(self._jobs.values()):
            job.error = reason
            job.decoding, job.exhausted, job.left_behind = False, True, True
            self._close_if_done(job)
            self._workers = [worker for worker in self._workers if worker is not job.worker]
            self._start_worker()
            self._changed.notify_all()

    def _wait_for(self, index: int) -> Part:
        """The next part of a recording."""
        with self._changed:
            self._wanted = index
            self._changed.notify_all()
            while True:
                if self._crash is not None:
                    raise self._crash
                if self._stop.reason is not None:
                    if index >= self._next_index:
                        return self._take_part(Job(index, self._recordings[index], exhausted=True, stopped=True))
                    self._stop_open_jobs()
                job = self._jobs.get(index)
                if job is not None:
                    if self._stop.abandon and not job.done:
                        job.abandoned = job.stopped = True
                    if job.done or job.has(self._part_chunks):
                        return self._take_part(job)
                self._changed.wait(_POLL_S)

    def _take_part(self, job: Job) -> Part:
        before = sum(block.nbytes for block in job.blocks.values())
        part = job.take(self._part_chunks, self._no_rows, self._stop.reason)
        if part.last:
            self._jobs.pop(job.index, None)
            job.blocks.clear()
        self._pending_bytes -= before - sum(block.nbytes for block in job.blocks.values())
        self._changed.notify_all()
        return part

    def _work(self) -> None:
        try:
            while (job := self._take()) is not None and self._step(job):
                pass
        except BaseException as error:  # whatever it is, the caller of parts() gets it
            with self._changed:
                self._crash = error
                self._changed.notify_all()

    def _take(self) -> Job | None:
        """The job whose next audio block this worker shall decode; None when there is nothing left to do."""
        with self._changed:
            while True:
                if self._closed or self._crash is not None or self._stop.reason is not None:
                    return None
                for job in self._jobs.values():
                    if not job.decoding and not job.exhausted and self._has_room(job):
                        job.decoding, job.worker = True, threading.current_thread()
                        return job
                if self._next_index < len(self._recordings) and self._may_open():
                    job = Job(self._next_index, self._recordings[self._next_index], worker=threading.current_thread())
                    self._next_index += 1
                    self._jobs[job.index] = job
                    return job
                if self._next_index == len(self._recordings) and all(job.exhausted for job in self._jobs.values()):
                    return None
                self._changed.wait(_POLL_S)

    def _may_open(self) -> bool:
        """Whether another recording may be begun: not while much waits for an earlier one."""
        return self._pending_bytes < _PENDING_BYTES and len(self._jobs) < _PENDING_RECORDINGS

    def _has_room(self, job: Job) -> bool:
        """Whether a job may go on: always while little waits, and the one that is waited for until it holds a part.

        A part may still have a gap then: the block that fills it is in flight.
        """
        if self._pending_bytes < _PENDING_BYTES:
            return True
        return job.index == self._wanted and job.held < self._part_chunks

    def _step(self, job: Job) -> bool:
        """Decode one audio block of a job, let the reader go, and compute the block.

        Returns:
            whether this worker goes on: another one has its place if the reader held it for too long.
        """
        began = time.perf_counter()
        opened = job.reader is not None
        block, error = self._decode(job)
        with self._changed:
            if job.left_behind:
                if job.reader is not None:
                    job.reader.close()
                return False
            job.error = error
            if not opened:
                self._pace.opened(job.recording, job.promised_chunks)
            job.decode_s += time.perf_counter() - began
            job.decoding = False
            job.exhausted = block is None or block.is_last
            job.in_flight += block is not None
            self._close_if_done(job)
            self._changed.notify_all()
            if block is None:
                return True
            shifts_s = self._pace.shifts(job.recording, block.chunks)
        result = self._compute(block, shifts_s)
        with self._changed:
            self._pace.computed(job.recording, block.chunks, shifts_s, result.windows)
            job.in_flight -= 1
            job.stopped |= len(result.logits) < block.chunks  # it was cut
            if job.index in self._jobs and len(result.logits):  # else it was abandoned, or nothing came of it
                job.blocks[block.first_chunk] = result
                self._pending_bytes += result.nbytes
            self._close_if_done(job)
            self._changed.notify_all()
        return True

    def _decode(self, job: Job) -> tuple[AudioBlock | None, str | None]:
        """The next audio block, None after the last one, and what went wrong."""
        try:
            if job.reader is None:
                job.reader = AudioReader(
                    job.recording.path, self._sample_rate, self._grid, self._pace.reach_s + self._overhang_s
                )
            return next(job.reader, None), None
        except AudioError as error:
            return None, error.reason
        except Exception as error:
            # a decoder can fail in ways of its own: the recording fails with what it said, the run goes on
            return None, f"cannot be decoded ({type(error).__name__}: {error})"

    def _stop_open_jobs(self) -> None:
        """After a stop nothing more is read; a job ends when its blocks in flight are computed."""
        for job in self._jobs.values():
            if not job.decoding and not job.exhausted:
                job.exhausted = job.stopped = True
                self._close_if_done(job)

    def _close_if_done(self, job: Job) -> None:
        if job.done and not job.abandoned:  # an abandoned reader may still be in use
            self._pace.finished(job.recording)
            if job.reader is not None and not job.left_behind:
                job.reader.close()
