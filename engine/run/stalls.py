"""Readers that deliver nothing: a dead mount, a pipe that nobody fills. They are left behind, the run goes on.

A thread inside a read that never returns cannot be ended. It is a daemon, holds what it has, and is not waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from bce.engine.errors import AudioError
from bce.engine.run.job import Job

STALL_S = 120.0
"""A reader may deliver nothing for so long."""
LEAST_S = 10.0
"""Patience falls to this, where it began above."""
THREAD_PREFIX = "bce-"
"""Of the names of all threads that the engine starts."""
_LOOK_S = 0.1
"""How often it is worth looking."""
_MOST_S = 1.0
"""Between two looks at most so much time counts."""

T = TypeVar("T")


class Stalled(AudioError):
    """A reader delivers nothing."""


def reason(seconds: float) -> str:
    """Why a recording whose reader stalled has failed."""
    return f"delivered nothing for {round(seconds, 1):g} s"


@dataclass(frozen=True)
class _Wait:
    progress: float
    since: float
    patience_s: float


class StallWatch:
    """Finds the jobs whose reader delivers nothing.

    Time counts while somebody looks: a process that was stopped, or a machine that slept, is no reader's fault. Each
    stall halves the patience with the waits that begin after it, down to :data:`LEAST_S`: where a mount is dead, many
    recordings lie on it.

    Args:
        stall_s: patience with the first, in seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s = stall_s
        self._least_s = min(stall_s, LEAST_S)
        self._clock = clock
        self._looked = clock()
        self._now = 0.0
        self._waits: dict[int, _Wait] = {}
        """By a job's index: where its reader stood when it was last seen to deliver."""

    def stalled(self, jobs: Iterable[Job]) -> list[tuple[Job, str]]:
        """The jobs that have stalled, and with how much patience, as a reason."""
        passed = self._clock() - self._looked
        if passed < _LOOK_S:
            return []
        self._looked += passed
        self._now += min(passed, _MOST_S)
        found, waits = [], dict[int, _Wait]()
        for job in jobs:
            if not job.decoding:
                continue
            wait = self._waits.get(job.index)
            if wait is None or wait.progress != job.progress:
                wait = _Wait(job.progress, self._now, self.patience_s)
            elif self._now - wait.since >= wait.patience_s:
                found.append((job, reason(wait.patience_s)))
                self.patience_s = max(self._least_s, self.patience_s / 2)
            waits[job.index] = wait
        self._waits = waits
        return found


def attempt(do: Callable[[], T], patience_s: float) -> T:
    """What ``do`` returns or raises, in a thread that is left behind if it takes longer.

    Raises:
        Stalled: it does.
    """
    done: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            done.append((do(), None))
        except BaseException as error:  # whoever waits gets it
            done.append((None, error))

    thread = threading.Thread(target=run, name=f"{THREAD_PREFIX}attempt", daemon=True)
    thread.start()
    thread.join(patience_s)
    if not done:
        raise Stalled(reason(patience_s))
    value, error = done[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
