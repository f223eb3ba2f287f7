"""Windows and chunks: what a model is fed, what a run puts out, and which windows the chunks and shifts need.

A window is a stretch of audio that a network is fed, of the length that its bundle says. A chunk is a row of the
output, of the length that the run's grid says. A chunk has one window where it is as long, several that lie evenly in
it where it is longer, one around its middle where it is shorter; of several none lies in the zeros behind the audio.
It is scored on all of them for each shift: moved by the shift, and moved back into the recording where that would leave
it. Windows that coincide are run once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError, shown

SHIFT_STEP_S = 0.01
"""Shifts and windows start on a grid of 10 ms, on which frontends share frames."""
MIN_TAIL_S = 1.0
"""A tail of a recording that is shorter than this makes no chunk."""
RESOLUTION_S = 5e-6
"""Durations are taken to this: they are quotients of frames and rates, not exact."""
MOST_WINDOW_SAMPLES = 1 << 24
"""Of a window: minutes at any rate. An audio block of a dozen windows still fits into memory."""
MOST_CHUNK_S = 600.0
"""Of a chunk that is asked for: a thread holds one at least as audio, 115 MB at 48 kHz."""
MOST_SAMPLES = 1 << 31
"""Of a chunk: fewer than half a day at 48 kHz, and what an index of 32 bits can hold."""

SHIFT_SETS: dict[int, tuple[float, ...]] = {1: (0.0,), 3: (-1.0, 0.0, 1.0), 5: (-2.0, -1.0, 0.0, 1.0, 2.0)}


@dataclass(frozen=True)
class WindowSpec:
    """How the windows of a model look.

    Attributes:
        sample_rate: in Hz.
        window_s: length in seconds, a whole number of samples.

    Raises:
        OptionsError: a value is not above 0, or the window is not a whole number of samples, or more than 2^24.
    """

    sample_rate: int
    window_s: float

    def __post_init__(self) -> None:
        if not self.sample_rate > 0:
            raise OptionsError(f"sample rate is {self.sample_rate} Hz, it must be above 0")
        if _whole_samples("windows", self.window_s, self.sample_rate) > MOST_WINDOW_SAMPLES:
            raise OptionsError(f"windows of {self.window_s:g} s have more than {MOST_WINDOW_SAMPLES} samples")

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.window_s * self.sample_rate)

    def samples_in(self, seconds: float) -> int:
        """The number of samples that is nearest to a length or a position in seconds."""
        return round(seconds * self.sample_rate)


@dataclass(frozen=True)
class ChunkGrid:
    """How a run cuts recordings into rows: chunks of one length from the start on, the last padded with zeros.

    Attributes:
        chunk_s: length of a chunk in seconds, above 0.

    Raises:
        OptionsError: it is not above 0.
    """

    chunk_s: float

    def __post_init__(self) -> None:
        if not 0 < self.chunk_s < math.inf:
            raise OptionsError(f"chunks of {self.chunk_s:g} s: the length must be above 0")

    def chunks(self, duration_s: float) -> int:
        """Chunks of a recording: one per whole chunk, and one for a tail of at least 1 s (or of a chunk below that)."""
        whole = math.floor((duration_s + RESOLUTION_S) / self.chunk_s)
        tail_s = duration_s + RESOLUTION_S - whole * self.chunk_s
        return whole + (tail_s >= min(MIN_TAIL_S, self.chunk_s))

    def samples(self, sample_rate: int) -> int:
        """Samples of a chunk at a rate.

        Raises:
            OptionsError: it is not a whole number of them.
        """
        return _whole_samples("chunks", self.chunk_s, sample_rate)

    def start_s(self, first_chunk: int, chunks: int) -> NDArray[np.float64]:
        """Where consecutive chunks start in the recording, in seconds, float64 [chunks]."""
        return np.arange(first_chunk, first_chunk + chunks, dtype=np.float64) * np.float64(self.chunk_s)


def _whole_samples(what: str, seconds: float, sample_rate: int) -> int:
    samples = seconds * sample_rate
    if not (1 <= samples < MOST_SAMPLES and math.isclose(samples, round(samples), rel_tol=1e-9)):
        raise OptionsError(f"{what} of {seconds:g} s are not a whole number of samples at {sample_rate} Hz")
    return round(samples)


def parse_shifts(text: str) -> tuple[float, ...]:
    """Read the shifts of a command line: the name of a set (``1``, ``3``, ``5``) or seconds (``-2.5,0,2.5``).

    Returns:
        The shifts in seconds, in the order given: multiples of 10 ms, all different.

    Raises:
        OptionsError: the text is neither, or a shift is off the 10-ms grid or given twice.
    """
    if "," not in text:
        if text.strip() in map(str, SHIFT_SETS):
            return SHIFT_SETS[int(text)]
        raise OptionsError(
            f"shifts '{text}': expected {', '.join(map(str, SHIFT_SETS))}, or seconds with commas such as -2.5,0,2.5"
        )
    try:
        shifts = tuple(float(item) for item in text.split(","))
    except ValueError:
        raise OptionsError(f"shifts '{text}': expected numbers of seconds with commas, such as -2.5,0,2.5") from None
    return check_shifts(shifts)


def check_shifts(shifts_s: Sequence[float]) -> tuple[float, ...]:
    """Return the shifts, exactly on the 10-ms grid, in the order given.

    Raises:
        OptionsError: there is none, or one is off the grid or given twice.
    """
    if not shifts_s:
        raise OptionsError("shifts: at least one is needed; 0 is the chunk itself")
    exact: dict[float, None] = {}
    for shift in shifts_s:
        if not isinstance(shift, Real):
            raise OptionsError(f"shift {shown(shift)} is not a number of seconds")
        steps = round(shift / SHIFT_STEP_S) if math.isfinite(shift / SHIFT_STEP_S) else 0
        if not math.isclose(steps * SHIFT_STEP_S, shift, abs_tol=1e-9):
            raise OptionsError(f"shift {shift:g} s is not a multiple of {SHIFT_STEP_S} s")
        if steps / 100 in exact:
            raise OptionsError(f"shift {shift:g} s is given twice")
        exact[steps / 100] = None
    return tuple(exact)


def check_chunk(chunk_s: float) -> float:
    """Return the length of a chunk.

    Raises:
        OptionsError: it is no number above 0 and up to ten minutes, or no multiple of 10 ms.
    """
    if not isinstance(chunk_s, Real) or isinstance(chunk_s, bool):
        raise OptionsError(f"chunk is {shown(chunk_s)}, it must be a number of seconds")
    grid = ChunkGrid(float(chunk_s))
    if not math.isclose(round(grid.chunk_s / SHIFT_STEP_S) * SHIFT_STEP_S, grid.chunk_s, abs_tol=1e-9):
        raise OptionsError(f"chunks of {chunk_s:g} s: the length must be a multiple of {SHIFT_STEP_S} s")
    if grid.chunk_s > MOST_CHUNK_S:
        raise OptionsError(f"chunks of {chunk_s:g} s: the length must be at most {MOST_CHUNK_S:g} s")
    return grid.chunk_s


def check_reach(shifts_s: Sequence[float], window: WindowSpec) -> None:
    """Refuse shifts that leave their chunk altogether.

    Raises:
        OptionsError: one is further than a window's length.
    """
    for shift in shifts_s:
        if abs(shift) > window.window_s:
            raise OptionsError(f"shift {shift:g} s is outside -{window.window_s:g}..{window.window_s:g} s")


def window_offsets(window: WindowSpec, grid: ChunkGrid, step_s: float | None = None) -> tuple[float, ...]:
    """Where the windows of a chunk begin, in seconds from its own beginning, multiples of 10 ms.

    Args:
        window: the model's windows.
        grid: the run's chunks.
        step_s: how far apart windows may begin in a chunk that is longer than they are; None for their length, so that
            nothing is left out. There are as few as that takes, evenly, the first and the last at the chunk's ends.
    """
    room_s = grid.chunk_s - window.window_s
    if room_s <= 0:
        return (round(room_s / 2 / SHIFT_STEP_S) / 100,)
    count = math.ceil(room_s / (window.window_s if step_s is None else step_s) - 1e-9) + 1
    return tuple(round(place * room_s / (count - 1) / SHIFT_STEP_S) / 100 for place in range(count))


def overhang_s(window: WindowSpec, grid: ChunkGrid) -> float:
    """How far windows reach beyond their chunk apart from shifts, where they are longer than chunks."""
    return max(0.0, window.window_s - grid.chunk_s)


@dataclass(frozen=True)
class WindowPlan:
    """The distinct windows of some chunks, and which of them each chunk uses.

    Attributes:
        starts: int64 [windows], first sample of each window in the padded recording; distinct, ascending.
        index: int64 [chunks, shifts x windows of a chunk], positions in ``starts``; those of a shift side by side.
    """

    starts: NDArray[np.int64]
    index: NDArray[np.int64]


def plan_windows(
    window: WindowSpec,
    grid: ChunkGrid,
    first_chunk: int,
    chunks: int,
    shifts_s: Sequence[float],
    total_samples: int | None = None,
    offsets_s: Sequence[float] = (0.0,),
    audio_samples: int | None = None,
) -> WindowPlan:
    """Plan the windows of consecutive chunks: chunk start + shift + offset, moved into the recording.

    Args:
        window: the model's windows.
        grid: the run's chunks.
        first_chunk: position of the first chunk in the recording.
        chunks: how many chunks, at least 1.
        shifts_s: seconds, multiples of 10 ms (see :func:`parse_shifts`).
        total_samples: length of the padded recording at the windows' rate, at least one window; None where the end is
            too far away to matter.
        offsets_s: where the windows of a chunk begin in it, see :func:`window_offsets`.
        audio_samples: where the audio ends and the padding begins; None where that is too far away to matter. Of the
            windows of a longer chunk those that would reach beyond end there, or begin with the chunk.
    """
    first = np.arange(first_chunk, first_chunk + chunks, dtype=np.int64) * grid.samples(window.sample_rate)
    offsets = np.array([window.samples_in(offset) for offset in offsets_s], dtype=np.int64)
    inside = np.broadcast_to(offsets, (chunks, len(offsets)))
    if audio_samples is not None:
        most_s = np.maximum(audio_samples - window.samples - first, 0) / window.sample_rate
        steps = np.floor(most_s / SHIFT_STEP_S + 1e-6)
        most = np.round(steps * (SHIFT_STEP_S * window.sample_rate)).astype(np.int64)
        inside = np.minimum(inside, most[:, None])
    shifts = np.array([window.samples_in(shift) for shift in shifts_s], dtype=np.int64)
    moved = first[:, None, None] + shifts[:, None] + inside[:, None, :]
    wanted = np.maximum(moved.reshape(chunks, -1), 0)
    if total_samples is not None:
        wanted = np.minimum(wanted, total_samples - window.samples)
    starts, index = np.unique(wanted, return_inverse=True)
    return WindowPlan(starts, index.reshape(wanted.shape).astype(np.int64, copy=False))
