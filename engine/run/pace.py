"""Who decides how much of a run is run, and when it stops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from bce.engine.recording import Recording
from bce.engine.results import Shifts


@dataclass
class Stop:
    """The run's stop switch; safe to set from a signal handler or another thread.

    Attributes:
        reason: set: no further audio block is taken, what is in flight is finished.
        cut: set as well: audio blocks in flight end after their next window, with the chunks that are complete.
        abandon: set as well: what is in flight is not waited for either (a reader may hang for ever).
        deadline: the stop is a deadline's: what is left is to be filled, not left out.
    """

    reason: str | None = None
    cut: bool = False
    abandon: bool = False
    deadline: bool = False

    @property
    def fills(self) -> bool:
        """Whether what was not run still gets its rows: it does unless someone interrupted the run."""
        return self.reason is None or self.deadline


class Pace(Protocol):
    """Who decides how much is run. Called from several threads, one at a time."""

    @property
    def reach_s(self) -> float:
        """The furthest that a shift may reach, in seconds: how much context an audio block needs."""

    @property
    def patience_s(self) -> float:
        """How long a reader may deliver nothing at most, in seconds."""

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
    patience_s = math.inf

    @property
    def reach_s(self) -> float:
        return max(map(abs, self.shifts_s))

    def opened(self, recording: Recording, promised_chunks: int | None) -> None: ...

    def shifts(self, recording: Recording, chunks: int) -> Shifts:
        return self.shifts_s

    def computed(self, recording: Recording, chunks: int, shifts_s: Shifts, windows: int) -> None: ...

    def finished(self, recording: Recording) -> None: ...

    def tick(self) -> None: ...
