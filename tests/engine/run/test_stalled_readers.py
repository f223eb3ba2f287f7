"""Readers that deliver nothing, in a pass of the scheduler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.pipes import dead_pipe
from support.scheduling import GRID, RATE, rows, run, write

from bce.engine.audio.reader import AudioBlock, AudioReader
from bce.engine.recording import Recording
from bce.engine.results import BlockResult
from bce.engine.run.pace import SteadyPace, Stop
from bce.engine.run.scheduler import Scheduler

STALL_S = 0.5
"""Short, and long enough for a healthy reader on a busy machine."""


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Readers of "opening" never open, those of "reading" deliver their first block alone, until the event is set."""
    from bce.engine.run import scheduler

    release = threading.Event()

    class Stalling(AudioReader):
        closed: ClassVar[list[str]] = []

        def __init__(self, path: Path, *more: Any) -> None:
            if path.stem.startswith("opening"):
                release.wait(20)
            super().__init__(path, *more)
            self._given = 0

        def __next__(self) -> AudioBlock:
            self._given += 1
            if self.path.stem.startswith("reading") and self._given == 2:
                release.wait(20)
            return super().__next__()

        def close(self) -> None:
            self.closed.append(self.path.stem)
            super().close()

    monkeypatch.setattr(scheduler, "AudioReader", Stalling)
    yield release
    release.set()


def test_a_stalled_reader_fails_its_recording_and_no_other(tmp_path: Path, stalling: threading.Event) -> None:
    names = ["opening", "a", "reading", "b"]
    recordings = [write(tmp_path, name, 90.0 if name == "reading" else 10.0, 0.1) for name in names]
    results = run(recordings, threads=1, stall_s=STALL_S)
    assert [r.status for r in results] == ["failed", "ok", "short_read", "ok"]
    assert results[0].reason == results[2].reason == f"delivered nothing for {STALL_S} s"
    assert [len(r.logits) for r in results] == [0, 2, 12, 2]  # what was delivered before stays
    assert (results[0].promised_chunks, results[2].promised_chunks) == (None, 18)


def test_another_worker_takes_the_place_of_one_that_a_reader_holds(tmp_path: Path, stalling: threading.Event) -> None:
    together = threading.Barrier(2, timeout=20)

    def meet(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        together.wait()  # passes only when two are computed at a time
        return rows(block)

    recordings = [write(tmp_path, name, 5.0, 0.1) for name in ("opening1", "opening2", "a", "b", "c", "d")]
    results = run(recordings, meet, threads=2, stall_s=STALL_S)
    assert [r.status for r in results] == ["failed", "failed", "ok", "ok", "ok", "ok"]


def test_a_worker_that_comes_back_from_a_stalled_reader_closes_it_and_ends(
    tmp_path: Path, stalling: threading.Event
) -> None:
    from bce.engine.run import scheduler

    before = set(threading.enumerate())
    assert run([write(tmp_path, "opening", 5.0, 0.1)], threads=1, stall_s=0.2)[0].status == "failed"
    held = [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("bce-worker")]
    stalling.set()
    for thread in held:
        thread.join(10)
    assert not any(thread.is_alive() for thread in held)
    assert scheduler.AudioReader.closed.count("opening") == 1  # type: ignore[attr-defined]


def test_closing_the_iterator_does_not_wait_for_a_stalled_reader(tmp_path: Path, stalling: threading.Event) -> None:
    recordings = [write(tmp_path, "a", 5.0, 0.1), write(tmp_path, "opening", 5.0, 0.1)]
    parts = Scheduler(recordings, lambda b, s: rows(b), SteadyPace((0.0,)), 1, Stop(), 2, RATE, GRID, STALL_S).parts()
    next(parts)
    parts.close()  # returns before the reader does
    assert not stalling.is_set()


def test_a_pipe_that_nobody_fills_fails(tmp_path: Path) -> None:
    recordings = [Recording(tmp_path / "pipe.wav", "pipe"), write(tmp_path, "a", 5.0, 0.1)]
    with dead_pipe(tmp_path / "pipe.wav"):
        results = run(recordings, threads=1, stall_s=STALL_S)
    assert [r.status for r in results] == ["failed", "ok"]
    assert results[0].reason


def test_a_stall_is_seen_while_nobody_waits_for_a_part(tmp_path: Path, stalling: threading.Event) -> None:
    recordings = [write(tmp_path, name, 5.0, value) for name, value in (("a", 0.1), ("opening", 0.2), ("b", 0.3))]
    reached = threading.Event()

    def compute(block: AudioBlock, shifts: tuple[float, ...]) -> BlockResult:
        if block.samples[0] > 0.25:
            reached.set()
        return rows(block)

    parts = Scheduler(recordings, compute, SteadyPace((0.0,)), 1, Stop(), 2, RATE, GRID, 0.2).parts()
    next(parts)
    assert reached.wait(20)
    parts.close()
