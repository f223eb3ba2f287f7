"""Labelled windows of soundscapes: BirdCLEF's ``train_soundscapes_labels.csv`` as it really is.

The table has ``filename,start,end,primary_label`` with times as ``HH:MM:SS`` and labels joined by ``;``. Every row of
the published file is there twice. How long the windows are, the rows say: 5 s in BirdCLEF's, another length elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.errors import TableError, one_line
from bce.engine.recording import Recording
from bce.engine.tables.schema import row_id
from bce.tools.data.tables import read_table

COLUMNS = ("filename", "start", "end", "primary_label")
SEVERAL_LABELS = "several labels go into one field, joined by semicolons (a;b)"
MOST_DIGITS = 9
"""Of the parts of a time: thirty years in seconds."""


@dataclass(frozen=True, eq=False)
class WindowLabels:
    """Labelled windows of one length, each once, in the order in which they first appear.

    Attributes:
        recordings: the recording of each window, with what its name tells.
        chunk_s: length of every window in whole seconds; windows start at multiples of it.
        start_s: the start of each window in its recording, int64 [windows].
        labels: the classes present in each window; empty where nothing was heard.
        repeated: rows of the file that named a window again.
        path: the file.
    """

    recordings: tuple[Recording, ...]
    chunk_s: int
    start_s: NDArray[np.int64]
    labels: tuple[frozenset[str], ...]
    repeated: int
    path: Path

    @cached_property
    def row_ids(self) -> tuple[str, ...]:
        """The row id of each window."""
        return tuple(row_id(r.stem, s + self.chunk_s) for r, s in zip(self.recordings, self.start_s, strict=True))

    @property
    def sites(self) -> tuple[str | None, ...]:
        return tuple(recording.site for recording in self.recordings)

    @property
    def named_sites(self) -> tuple[str, ...]:
        """The site of each window; "?" where the name does not tell."""
        return tuple(recording.site or "?" for recording in self.recordings)

    @property
    def chunks(self) -> NDArray[np.int64]:
        """The place of each window in its recording, int64 [windows]."""
        return self.start_s // self.chunk_s

    @cached_property
    def hours(self) -> tuple[int | None, ...]:
        """The hour of day (UTC) in which each window starts."""
        return tuple(hour_of(r, int(s)) for r, s in zip(self.recordings, self.start_s, strict=True))

    def present(self, classes: Sequence[str]) -> NDArray[np.bool_]:
        """Which classes each window has, bool [windows, classes]. Labels of other classes are passed over."""
        place = {name: i for i, name in enumerate(classes)}
        present = np.zeros((len(self.labels), len(classes)), dtype=bool)
        for row, labels in enumerate(self.labels):
            present[row, [place[label] for label in labels if label in place]] = True
        return present

    def unknown(self, classes: Sequence[str]) -> list[str]:
        """Labels that are not among the classes, sorted."""
        return sorted(set().union(*self.labels) - set(classes))


def hour_of(recording: Recording, start_s: int) -> int | None:
    """The hour of day (UTC, 0..23) at a second of a recording; None where its name tells no time."""
    start = recording.start_time
    if start is None:
        return None
    return (start.hour * 3600 + start.minute * 60 + start.second + start_s) // 3600 % 24


def read_labels(path: str | os.PathLike[str], rule: NameRule = BIRDCLEF) -> WindowLabels:
    """Read labelled windows. Rows that name one window again add their labels to it.

    Args:
        path: the CSV file.
        rule: how to read site and time from the file names.

    Raises:
        TableError: the file is no such table (see :func:`bce.tools.data.tables.read_table`), or a row is not about a
            window like that of the first row: as long, and starting at a multiple of this length.
    """
    file = Path(path)
    names: dict[str, None] = {}
    windows: dict[tuple[str, int], set[str]] = {}
    chunk_s = first = rows = 0
    for line, row in read_table(file, COLUMNS, "labelled windows", hint=SEVERAL_LABELS):
        name, rows = row["filename"], rows + 1
        if not Path(name).stem:
            raise TableError(f"line {line} names no recording", file)
        if any(letter < " " for letter in name):
            raise TableError(f"line {line} names a recording with a line break or a control character", file)
        start_s, end_s = (_seconds(row[column], line, file) for column in ("start", "end"))
        about = f"line {line} is about {row['start'].strip()} to {row['end'].strip()}"
        if end_s <= start_s:
            raise TableError(f"{about}, expected a window that ends after its start", file)
        if not first:
            chunk_s, first = end_s - start_s, line
        if end_s - start_s != chunk_s:
            raise TableError(f"{about}, expected a window of {chunk_s} s as in line {first}", file)
        if start_s % chunk_s:
            raise TableError(f"{about}, expected a window of {chunk_s} s that starts at a multiple of its length", file)
        names.setdefault(name)
        labels = (label.strip() for label in row["primary_label"].split(";"))
        windows.setdefault((name, start_s), set()).update(label for label in labels if label)
    if not windows:
        raise TableError("has no rows: expected labelled windows", file)
    recordings = dict(zip(names, rule.read_all(map(Path, names)), strict=True))
    return WindowLabels(
        tuple(recordings[name] for name, _ in windows),
        chunk_s,
        np.array([start_s for _, start_s in windows], dtype=np.int64),
        tuple(frozenset(labels) for labels in windows.values()),
        rows - len(windows),
        file,
    )


def _seconds(text: str, line: int, path: Path) -> int:
    parts = text.strip().split(":")
    if not (1 <= len(parts) <= 3 and all(part.isascii() and part.isdigit() for part in parts)):
        raise TableError(f"line {line} has the time '{one_line(text, 40)}', expected HH:MM:SS", path)
    if max(map(len, parts)) > MOST_DIGITS:
        raise TableError(f"line {line} has the time '{one_line(text, 40)}', which no recording is as long as", path)
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return seconds
