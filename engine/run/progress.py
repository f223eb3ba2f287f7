"""How a run shows itself: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO, cast

from tqdm import tqdm

from bce.engine.results import Outcome
from bce.engine.screen import Screen, printable

_LINE_EVERY_S = 15.0


class Progress:
    """Recordings done, speed as a multiple of real time, and the time left. A screen that is gone ends no run.

    Args:
        total: number of recordings.
        quiet: show nothing.
        stream: where to, by default standard error, so that standard output stays for results.
    """

    def __init__(self, total: int, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = Screen(stream or sys.stderr)
        self._total = total
        self._done = 0
        self._audio_s = 0.0
        self._began = self._last_line = time.monotonic()
        self._bar = None
        self._lines = not quiet and not self._stream.isatty()
        if not quiet and not self._lines:
            self._bar = tqdm(
                total=total, unit="recording", file=cast(TextIO, self._stream), dynamic_ncols=True, smoothing=0.1
            )

    def update(self, outcome: Outcome) -> None:
        """Count a recording that has ended."""
        self._done += 1
        self._audio_s += outcome.delivered_s
        now = time.monotonic()
        speed = self._audio_s / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{speed:.0f}x real time", refresh=False)
            self._bar.update()
        elif self._lines and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            left_s = (now - self._began) / self._done * (self._total - self._done)
            self._stream.say(f"{self._done}/{self._total} recordings, {speed:.0f}x real time, {duration(left_s)} left")

    def say(self, line: str) -> None:
        """Print a line, unless quiet, without breaking the bar."""
        if self._bar is not None:
            self._bar.write(printable(line), file=cast(TextIO, self._stream))
        elif self._lines:
            self._stream.say(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """A duration for people: 7.3 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
