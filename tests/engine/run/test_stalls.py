"""Which readers have stalled, with a clock that the tests turn; attempts that are given up."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from bce.engine.errors import AudioError
from bce.engine.recording import Recording
from bce.engine.run.job import Job
from bce.engine.run.stalls import Stalled, StallWatch, attempt


class Turned:
    """A watch over jobs of which each delivers when the test says so."""

    def __init__(self, stall_s: float, jobs: int = 1) -> None:
        self.now = 100.0
        self.watch = StallWatch(stall_s, lambda: self.now)
        self.jobs = [Job(number, Recording(Path(str(number)), str(number))) for number in range(jobs)]

    def deliver(self, number: int, seconds: float) -> None:
        self.jobs[number].reader = SimpleNamespace(delivered_s=seconds)  # type: ignore[assignment]

    def pass_by(self, seconds: float, step: float = 0.5) -> list[tuple[int, str]]:
        found = []
        for _ in range(round(seconds / step)):
            self.now += step
            for job, reason in self.watch.stalled(job for job in self.jobs if not job.left_behind):
                job.decoding, job.left_behind = False, True
                found.append((job.index, reason))
        return found


def test_a_reader_that_never_opens_or_stops_delivering_has_stalled() -> None:
    turned = Turned(120, jobs=2)
    turned.deliver(1, 0.0)
    assert turned.pass_by(60) == []
    turned.deliver(1, 0.5)
    assert turned.pass_by(59) == []
    assert turned.pass_by(2) == [(0, "delivered nothing for 120 s")]
    assert turned.pass_by(58) == []
    assert turned.pass_by(2) == [(1, "delivered nothing for 120 s")]


def test_a_slow_reader_that_delivers_has_not_stalled() -> None:
    turned = Turned(10)
    for step in range(100):
        turned.deliver(0, 0.5 * step)
        assert turned.pass_by(9) == []


def test_nobody_decodes_nobody_stalls() -> None:
    turned = Turned(10)
    turned.jobs[0].decoding = False
    assert turned.pass_by(100) == []
    turned.jobs[0].decoding = True  # it is taken up again: the time before does not count
    assert turned.pass_by(9) == []
    assert turned.pass_by(3) == [(0, "delivered nothing for 10 s")]


def test_a_process_that_was_stopped_blames_no_reader() -> None:
    turned = Turned(120)
    assert turned.pass_by(100) == []
    turned.now += 100_000  # SIGSTOP, then SIGCONT
    assert turned.pass_by(10) == []
    assert turned.pass_by(10) == [(0, "delivered nothing for 120 s")]


def test_every_stall_halves_the_patience_with_the_next() -> None:
    """A dead mount with 20 recordings on it, one after the other."""
    turned = Turned(80, jobs=20)
    for job in turned.jobs[1:]:
        job.decoding = False
    waits = []
    for job in turned.jobs:
        job.decoding = True
        began, found = turned.now, []
        while not found:
            found = turned.pass_by(0.5)
        waits.append(turned.now - began)
    assert waits == pytest.approx([80, 40, 20, *[10] * 17], abs=1.0)
    turned = Turned(3, jobs=2)  # who has less patience keeps it
    assert [index for index, _ in turned.pass_by(4)] == [0, 1]


def test_an_attempt_gives_the_value_or_the_error_or_is_given_up() -> None:
    assert attempt(lambda: 7, 10) == 7
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 // 0, 10)
    release = threading.Event()
    with pytest.raises(Stalled, match=r"delivered nothing for 0\.1 s"):
        attempt(release.wait, 0.1)
    release.set()
    assert issubclass(Stalled, AudioError)
