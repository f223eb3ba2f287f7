"""Scores and labels of the same windows, brought together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.arrays import read_arrays
from bce.engine.errors import OptionsError, TableError
from bce.engine.recording import Recording
from bce.engine.tables.scores import ScoreTable, read_scores
from bce.tools.data.labels import MOST_DIGITS, WindowLabels

NOTHING_TO_JUDGE = "no class has both positives and negatives in the rows that scores and labels share"


@dataclass(frozen=True, eq=False)
class Matched:
    """The rows that scores and labels both have.

    Attributes:
        classes: class labels, in the scores' order.
        scores: float64 [rows, classes].
        present: bool [rows, classes].
        recordings: the recording of each row.
        start_s: start of each row's chunk, int64 [rows].
        only_scores: rows of the scores without labels.
        only_labels: labelled windows without scores.
        unknown: labels that are no class of the scores.
    """

    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    recordings: tuple[Recording, ...]
    start_s: NDArray[np.int64]
    only_scores: int
    only_labels: int
    unknown: tuple[str, ...]

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(recording.stem for recording in self.recordings)

    @property
    def sites(self) -> tuple[str, ...]:
        """The site of each row; "?" where the name does not tell."""
        return tuple(recording.site or "?" for recording in self.recordings)

    def take(self, rows: NDArray[np.int64]) -> Matched:
        """The same rows in another order."""
        recordings = tuple(self.recordings[row] for row in rows)
        return replace(
            self,
            scores=self.scores[rows],
            present=self.present[rows],
            recordings=recordings,
            start_s=self.start_s[rows],
        )


def match(table: ScoreTable, labels: WindowLabels) -> Matched:
    """Bring scores and labels together by row id, in the order of the scores.

    Raises:
        TableError: they have no row in common, or the scores' rows end where no labelled window can end: they are of
            chunks of another length.
    """
    ends = (name.rpartition("_")[2] for name in table.row_ids)
    step_s = math.gcd(*(int(end) for end in ends if end.isdecimal() and len(end) <= MOST_DIGITS))
    if step_s % labels.chunk_s:
        raise TableError(
            f"has rows every {step_s} s, {labels.path} labels windows of {labels.chunk_s} s: not the same chunks",
            table.path,
        )
    place = {name: i for i, name in enumerate(labels.row_ids)}
    pairs = [(row, place[name]) for row, name in enumerate(table.row_ids) if name in place]
    if not pairs:
        raise TableError(f"has no row in common with {labels.path}, e.g. '{labels.row_ids[0]}'", table.path)
    rows, windows = (list(column) for column in zip(*pairs, strict=True))
    return Matched(
        table.classes,
        table.scores[rows],
        labels.present(table.classes)[windows],
        tuple(labels.recordings[w] for w in windows),
        labels.start_s[windows],
        len(table.row_ids) - len(rows),
        len(labels.row_ids) - len(rows),
        tuple(labels.unknown(table.classes)),
    )


def read_table(text: str) -> ScoreTable:
    """A score table from ``.csv``, ``.parquet``, or ``FILE.npz:ARRAY`` with arrays ``row_ids`` and ``classes`` beside.

    Raises:
        TableError: it is not a table of scores, an id is there twice, or a score is NaN or infinite.
    """
    name, colon, array = text.rpartition(":")
    if not (colon and name.lower().endswith(".npz")):
        if text.lower().endswith(".npz"):
            raise OptionsError("is a .npz file: name the array of scores too, as FILE.npz:ARRAY", text)
        return read_scores(text)
    path = Path(name)
    content = read_arrays(path, "a .npz file of plain arrays")
    for needed in ("row_ids", "classes", array):
        if needed not in content:
            raise TableError(f"has no array '{needed}', it has {', '.join(content)}", path)
    names = [content["row_ids"], content["classes"]]
    found = content[array]
    if any(of.ndim != 1 or of.dtype.kind != "U" for of in names) or found.dtype.kind not in "fiub":
        raise TableError(f"expected texts in row_ids and classes, a row each, and numbers in {array}", path)
    ids, classes = (tuple(of.tolist()) for of in names)
    scores = found.astype(np.float64)
    if scores.shape != (len(ids), len(classes)):
        raise TableError(f"array '{array}' has shape {scores.shape}, expected ({len(ids)}, {len(classes)})", path)
    if len(set(ids)) != len(ids) or len(set(classes)) != len(classes):
        raise TableError("has a row id or a class more than once", path)
    if not np.isfinite(scores).all():
        raise TableError(f"array '{array}' holds NaN or infinite values", path)
    return ScoreTable(ids, classes, scores, path)
