"""The deadline: throughput so far, how many shifts can still be afforded, and when to stop.

The promise is a complete table in time. :class:`Budget` paces the scheduler: it predicts the finish from the windows
per second of the recent past, gives every coming audio block the largest set of shifts with which all that is left
still fits, goes back to more when the machine recovers, and stops the run when time is up, so that what is left can
be filled and written.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from bce.engine.audio.reader import chunks_of_a_block
from bce.engine.errors import OptionsError, shown
from bce.engine.geometry import SHIFT_SETS, ChunkGrid, WindowSpec, plan_windows
from bce.engine.recording import Recording
from bce.engine.results import Shifts
from bce.engine.run.pace import Stop

RECENT_S = 60.0
"""Speed is that of the last minute, so that a machine that slows down half-way is noticed."""
MARGIN = 1.03
"""What is left is taken to last this much longer than predicted: the speed to come is not known."""
RECOUNT_S = 0.5
"""What waits is counted this often: the list may be long."""
RESERVE_MINUTES, RESERVE_SHARE = 3.0, 0.25
"""The reserve where none is given: so much, but no larger share of the budget."""
PATIENCE_SHARE, LEAST_PATIENCE_S = 0.1, 2.0
"""A reader may deliver nothing for this share of the time for reading and computing, and for so long in any case."""
CUT, ABANDON = 1 / 6, 1 / 3
"""Shares of the reserve: blocks in flight may take this to end by themselves, and to end at all."""
OUT_OF_TIME = "the time budget is used up"


@dataclass(frozen=True)
class BudgetOptions:
    """How long a run may take.

    Attributes:
        minutes: from the start of the process to its end, above 0.
        reserve_minutes: kept for post-processing and writing, at least 0 and less than ``minutes``; None for 3 minutes,
            or a quarter of the budget where that is less.
    """

    minutes: float
    reserve_minutes: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("budget", self.minutes), ("reserve", self.reserve_minutes)):
            if (name, value) != ("reserve", None) and (not isinstance(value, Real) or isinstance(value, bool)):
                raise OptionsError(f"{name} is {shown(value)}, it must be a number of minutes")
        if not 0 < self.minutes < float("inf"):
            raise OptionsError(f"budget of {self.minutes:g} minutes: it must be above 0")
        if self.reserve_minutes is not None and not 0 <= self.reserve_minutes < self.minutes:
            raise OptionsError(
                f"reserve of {self.reserve_minutes:g} minutes: it must be at least 0 and less than the budget's"
                f" {self.minutes:g}"
            )

    @property
    def reserve_s(self) -> float:
        """The reserve in seconds."""
        if self.reserve_minutes is None:
            return min(RESERVE_MINUTES, RESERVE_SHARE * self.minutes) * 60
        return self.reserve_minutes * 60

    @property
    def working_s(self) -> float:
        """The time for reading and computing, in seconds from the start of the process."""
        return self.minutes * 60 - self.reserve_s


def process_began() -> float:
    """When this process started, on the clock of :func:`time.monotonic`.

    Where the system does not tell (only Linux does), the moment of the call.
    """
    now = time.monotonic()
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return now


def shift_ladder(shifts_s: Shifts, window: WindowSpec) -> tuple[Shifts, ...]:
    """The shifts that were asked for, then the standard sets with fewer that stay within a window: 5 -> 3 -> 1."""
    fewer = [shifts for size, shifts in sorted(SHIFT_SETS.items(), reverse=True) if size < len(shifts_s)]
    return (shifts_s, *(shifts for shifts in fewer if max(map(abs, shifts)) <= window.window_s))


class Budget:
    """A pace that keeps a deadline (see :class:`bce.engine.run.pace.Pace`).

    Args:
        options: minutes and reserve.
        shifts_s: the shifts that were asked for.
        recordings: all recordings of the run.
        stop: given a reason when time is up, then "cut" and "abandon" when what is in flight does not end either.
        window: the model's windows.
        grid: the run's chunks.
        offsets_s: where the windows of a chunk begin in it.
        promised: chunks by stem, as far as they are known; may grow during the run.
        began: when the process started, on ``clock``.
        clock: seconds, monotonic.

    Attributes:
        patience_s: how long a reader may deliver nothing.
    """

    def __init__(
        self,
        options: BudgetOptions,
        shifts_s: Shifts,
        recordings: Sequence[Recording],
        stop: Stop,
        window: WindowSpec,
        grid: ChunkGrid,
        *,
        offsets_s: Sequence[float] = (0.0,),
        promised: Mapping[str, int],
        began: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ladder = shift_ladder(shifts_s, window)
        self._block_chunks = count = chunks_of_a_block(grid)
        block = max(count * grid.samples(window.sample_rate), window.samples)
        self._windows_per_chunk = {
            shifts: len(plan_windows(window, grid, 0, count, shifts, block, offsets_s).starts) / count
            for shifts in self._ladder
        }
        self._stop = stop
        self._clock = clock
        self._time_is_up = began + options.working_s
        self._cut = self._time_is_up + CUT * options.reserve_s
        self._abandon = self._time_is_up + ABANDON * options.reserve_s
        self.patience_s = max(PATIENCE_SHARE * options.working_s, LEAST_PATIENCE_S)
        self._promised = promised
        self._unopened = dict.fromkeys(recording.stem for recording in recordings)
        self._waiting = (-1.0, 0.0)  # when it was counted, and how many chunks
        self._left: dict[str, int] = {}
        self._windows_in_flight = 0.0
        self._windows_done = 0
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def reach_s(self) -> float:
        return max(abs(shift) for shifts in self._ladder for shift in shifts)

    def opened(self, recording: Recording, promised_chunks: int | None) -> None:
        self._unopened.pop(recording.stem, None)
        self._left[recording.stem] = self._block_chunks if promised_chunks is None else promised_chunks

    def shifts(self, recording: Recording, chunks: int) -> Shifts:
        """The largest set of shifts with which all that is left ends in time; the smallest if none does."""
        if not self._recent:
            self._recent.append((self._clock(), 0))
        chosen = next((s for s in self._ladder if self.predicted_end(s) <= self._time_is_up), self._ladder[-1])
        self._left[recording.stem] = max(0, self._left[recording.stem] - chunks)
        self._windows_in_flight += chunks * self._windows_per_chunk[chosen]
        return chosen

    def computed(self, recording: Recording, chunks: int, shifts_s: Shifts, windows: int) -> None:
        now = self._clock()
        self._windows_in_flight -= chunks * self._windows_per_chunk[shifts_s]
        self._windows_done += windows
        self._recent.append((now, self._windows_done))
        # two points stay: slow blocks can be further apart than the span
        while len(self._recent) > 2 and now - self._recent[1][0] > RECENT_S:
            self._recent.popleft()

    def finished(self, recording: Recording) -> None:
        self._unopened.pop(recording.stem, None)  # it may have stalled before it was open
        self._left.pop(recording.stem, None)

    def tick(self) -> None:
        now = self._clock()
        if now >= self._time_is_up and self._stop.reason is None:
            self._stop.deadline = True
            self._stop.reason = OUT_OF_TIME
        if self._stop.reason is not None:
            self._stop.cut |= now >= self._cut
            self._stop.abandon |= now >= self._abandon

    def predicted_end(self, shifts_s: Shifts) -> float:
        """When the run would end if all that has not begun got these shifts; 0 before anything is measured."""
        (first_at, first_windows), (last_at, last_windows) = self._recent[0], self._recent[-1]
        if last_windows == first_windows:
            return 0.0
        seconds_per_window = (last_at - first_at) / (last_windows - first_windows)
        windows = self._chunks_left() * self._windows_per_chunk[shifts_s] + self._windows_in_flight
        return self._clock() + MARGIN * windows * seconds_per_window

    def _chunks_left(self) -> float:
        """Chunks that have not begun, of opened recordings and of those that wait."""
        now = self._clock()
        if now - self._waiting[0] >= RECOUNT_S:
            self._waiting = (now, self._chunks_waiting())
        return sum(self._left.values()) + self._waiting[1]

    def _chunks_waiting(self) -> float:
        """Recordings whose header is not read yet count as the others do on average."""
        waiting = self._unopened
        known = [self._promised[stem] for stem in waiting if stem in self._promised]
        typical = sum(known) / len(known) if known else self._block_chunks
        return sum(known) + (len(waiting) - len(known)) * typical
