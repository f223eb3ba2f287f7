"""Flat stretches: where the samples of a recording stand still for long, which no microphone does."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LEAST_S = 5.0
"""Shorter stretches are passed over: fades and gates of recorders make some."""


@dataclass
class FlatStretches:
    """Finds stretches of one repeated value in a recording that comes in pieces.

    Args:
        rate: of the samples, in Hz.

    Attributes:
        found: (first sample, samples, value) of each flat stretch that has ended.
    """

    rate: int
    found: list[tuple[int, int, float]] = field(default_factory=list)
    _seen: int = 0
    _start: int = 0
    _value: float = float("nan")
    """Of the stretch that goes on at the end of what was seen, and that began at ``_start``."""

    def add(self, mono: NDArray[np.float32]) -> None:
        """Take the next samples, float32 [samples]."""
        if not len(mono):
            return
        last = len(mono) - 1
        if 0 < last < self._least and mono[0] != np.float32(self._value) and mono[last] != mono[last - 1]:
            # nothing goes on from before or behind, and what lies between is too short
            self._end(self._seen)
            self._start, self._value = self._seen + last, float(mono[last])
            self._seen += len(mono)
            return
        changes = np.concatenate([mono[:1] != np.float32(self._value), mono[1:] != mono[:-1]])
        if changes.any():
            first, last = int(changes.argmax()), len(changes) - 1 - int(changes[::-1].argmax())
            self._end(self._seen + first)
            if len(changes) - np.count_nonzero(changes) + 1 >= self._least:  # else there is none between the two
                edges = np.flatnonzero(changes)
                for long in np.flatnonzero(np.diff(edges) >= self._least):
                    start, end = int(edges[long]), int(edges[long + 1])
                    self.found.append((self._seen + start, end - start, float(mono[start])))
            self._start, self._value = self._seen + last, float(mono[-1])
        self._seen += len(mono)

    def note(self) -> str | None:
        """What was found, in one line; None where nothing was. Asked when the recording has ended."""
        self._end(self._seen)
        self._start = self._seen
        if not self.found:
            return None
        start, samples, value = max(self.found, key=lambda stretch: stretch[1])
        seconds = samples / self.rate
        text = f"the value {value:g} is repeated for {seconds:.3f} s from {start / self.rate:.3f} s on"
        if len(self.found) > 1:
            total = sum(samples for _, samples, _ in self.found) / self.rate
            text += f", the longest of {len(self.found)} flat stretches of {total:.3f} s together"
        return text

    @property
    def _least(self) -> float:
        return LEAST_S * self.rate

    def _end(self, at: int) -> None:
        if at - self._start >= self._least:
            self.found.append((self._start, at - self._start, self._value))
