"""Score tables that fit into memory: rows (a recording's chunks) x classes.

:mod:`bce.engine.tables.score_files` reads and writes the others batch by batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.tables.schema import batch_rows
from bce.engine.tables.score_files import ScoreFile, ScoreFileWriter


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """A score table in memory.

    Attributes:
        row_ids: one id per row, all different.
        classes: one label per column, in order.
        scores: float64 [rows, classes], no NaN.
        path: the file it came from, for messages.
    """

    row_ids: tuple[str, ...]
    classes: tuple[str, ...]
    scores: NDArray[np.float64]
    path: Path | None = None

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each row id."""
        return {name: row for row, name in enumerate(self.row_ids)}


def read_scores(path: str | os.PathLike[str]) -> ScoreTable:
    """Read a whole score table, CSV or parquet.

    Raises:
        OptionsError: the file's ending names no format.
        TableError: it is not a score table, an id is there twice, or a score is not a number.
    """
    file = ScoreFile.open(path)
    ids = tuple(file.row_ids().to_pylist())
    empty = np.zeros((0, len(file.classes)))
    return ScoreTable(ids, file.classes, np.concatenate([empty, *file.batches()]), file.path)


def write_scores(path: str | os.PathLike[str], table: ScoreTable) -> None:
    """Write a whole score table, CSV or parquet by the path's ending, beside and then renamed."""
    rows = batch_rows(len(table.classes))
    with ScoreFileWriter(path, table.classes) as sink:
        for start in range(0, len(table.row_ids), rows):
            sink.write(table.row_ids[start : start + rows], table.scores[start : start + rows])
