"""``bce-infer`` as a program that may die, and what it left behind: read with nothing of ``bce``."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.bench.processes import infer_command

Rows = dict[str, NDArray[np.float64]]
"""Of each recording, by its stem, its rows as logits: [rows, classes]."""
QUICK = ("--raw", "--shifts", "1")
"""A window per row and no post-processing, so that a row depends on its own audio alone."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        code: exit code; -9 if it was killed by signal 9.
        errors: what it wrote to standard error.
        hung: it was killed because it ran over the limit.
    """

    code: int
    errors: str
    hung: bool = False

    @property
    def traceback(self) -> bool:
        """Whether it died of an exception that nobody expected."""
        return "Traceback (most recent call last)" in self.errors

    @property
    def last_line(self) -> str:
        """The last thing it said."""
        return (self.errors.strip().splitlines() or ["(nothing)"])[-1]


def start(arguments: Sequence[str | os.PathLike[str]]) -> subprocess.Popen[bytes]:
    """Start ``bce-infer``; its standard error is kept for :func:`ended`."""
    return subprocess.Popen(
        infer_command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_hear_hangups,
    )


def _hear_hangups() -> None:
    """An attack may itself run under nohup, whose children ignore that signal as they should."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ended(process: subprocess.Popen[bytes], limit_s: float) -> Ended:
    """Wait for a program's end, or end it."""
    hung = False
    try:
        _, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        hung = True
        process.kill()
        _, errors = process.communicate()
    return Ended(process.returncode, (errors or b"").decode(errors="replace"), hung)


def read_rows(table: Path) -> Rows:
    """The rows of a score table.

    Raises:
        ValueError: rows of a recording are not the chunks from its start on, each once, or a score is not within 0..1.
        OSError: it cannot be read.
    """
    found: dict[str, list[list[float]]] = {}
    step = 0
    with table.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        next(lines, None)
        for name, *scores in lines:
            stem, _, end = name.rpartition("_")
            rows = found.setdefault(stem, [])
            step = step or int(end)
            if int(end) != step * (len(rows) + 1):
                raise ValueError(f"{name} follows on row {len(rows)} of its recording")
            rows.append([float(score) for score in scores])
    return {stem: _logits(np.array(rows), stem) for stem, rows in found.items()}


def _logits(scores: NDArray[np.float64], stem: str) -> NDArray[np.float64]:
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores of {stem} are not within 0..1")
    scores = np.clip(scores, 1e-12, 1 - 1e-12)
    return np.log(scores) - np.log1p(-scores)


def read_report(path: Path) -> dict[str, dict[str, Any]]:
    """What a run's report says of each recording, by its stem.

    Raises:
        ValueError: it is not a report.
        OSError: it cannot be read.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))["recordings"]
    return {Path(entry["recording"]).stem: entry for entry in entries}


def computed_rows(report: Path) -> dict[str, int]:
    """How many rows of each recording a run computed, by its report."""
    return {stem: entry["rows"] - entry["filled"] for stem, entry in read_report(report).items()}


def each(jobs: Sequence[Callable[[], Any]], at_once: int) -> list[Any]:
    """The results of independent jobs, some at a time, in order."""
    with ThreadPoolExecutor(at_once) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]
