"""Which windows the chunks and shifts of a recording need.

A chunk is 5 s of output, a window 5 s of input. Every chunk is scored on one window per shift: its own 5 s moved by the
shift, and moved back into the recording where that would leave it. Windows that coincide are run once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.engine.network.bundle import SAMPLE_RATE, WINDOW_S

WINDOW_SAMPLES = round(WINDOW_S * SAMPLE_RATE)
CHUNK_SAMPLES = WINDOW_SAMPLES
SHIFT_STEP_S = 0.01
SHIFT_STEP_SAMPLES = round(SHIFT_STEP_S * SAMPLE_RATE)

SHIFT_SETS: dict[int, tuple[float, ...]] = {1: (0.0,), 3: (-1.0, 0.0, 1.0), 5: (-2.0, -1.0, 0.0, 1.0, 2.0)}


def parse_shifts(text: str) -> tuple[float, ...]:
    """Read the shifts of a command line: the name of a set (``1``, ``3``, ``5``) or seconds (``-2.5,0,2.5``).

    Returns:
        The shifts in seconds, in the order given: multiples of 10 ms, at most one window to either side, all different.

    Raises:
        OptionsError: the text is neither, or a shift is off the 10-ms grid, too far, or given twice.
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
        OptionsError: there is none, or one is off the grid, more than one window away, or given twice.
    """
    if not shifts_s:
        raise OptionsError("shifts: at least one is needed; 0 is the chunk itself")
    exact: list[float] = []
    for shift in shifts_s:
        if not abs(shift) <= WINDOW_S:
            raise OptionsError(f"shift {shift:g} s is outside -{WINDOW_S:g}..{WINDOW_S:g} s")
        steps = round(shift / SHIFT_STEP_S)
        if not math.isclose(steps * SHIFT_STEP_S, shift, abs_tol=1e-9):
            raise OptionsError(f"shift {shift:g} s is not a multiple of {SHIFT_STEP_S} s")
        if steps / 100 in exact:
            raise OptionsError(f"shift {shift:g} s is given twice")
        exact.append(steps / 100)
    return tuple(exact)


@dataclass(frozen=True)
class WindowPlan:
    """The distinct windows of some chunks, and which of them each chunk and shift uses.

    Attributes:
        starts: int64 [windows], first sample of each window in the padded recording; distinct, ascending.
        index: int64 [chunks, shifts], positions in ``starts``.
    """

    starts: NDArray[np.int64]
    index: NDArray[np.int64]


def plan_windows(
    first_chunk: int, chunks: int, shifts_s: Sequence[float], total_samples: int | None = None
) -> WindowPlan:
    """Plan the windows of consecutive chunks: chunk start + shift, moved into the recording.

    Args:
        first_chunk: position of the first chunk in the recording.
        chunks: how many chunks, at least 1.
        shifts_s: seconds, multiples of 10 ms (see :func:`parse_shifts`).
        total_samples: length of the padded recording at 32 kHz, at least one window; None where the end is too far
            away to matter.
    """
    shifts = np.array([round(shift / SHIFT_STEP_S) * SHIFT_STEP_SAMPLES for shift in shifts_s], dtype=np.int64)
    first = np.arange(first_chunk, first_chunk + chunks, dtype=np.int64) * CHUNK_SAMPLES
    wanted = np.maximum(first[:, None] + shifts, 0)
    if total_samples is not None:
        wanted = np.minimum(wanted, total_samples - WINDOW_SAMPLES)
    starts, index = np.unique(wanted, return_inverse=True)
    return WindowPlan(starts, index.reshape(wanted.shape).astype(np.int64, copy=False))
