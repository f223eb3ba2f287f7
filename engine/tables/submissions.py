"""The sample submission: the rows and the order that a submission must have."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bce.engine.errors import TableError, shown
from bce.engine.geometry import ChunkGrid
from bce.engine.tables.schema import parse_row_id, whole_chunk_s
from bce.engine.tables.score_files import ScoreFile, ScoreFileWriter


@dataclass(frozen=True, eq=False)
class SampleSubmission:
    """The rows and the order of classes that a submission must have.

    Attributes:
        row_ids: Arrow string array, in order.
        classes: the labels of its columns, in order.
        path: the file.
    """

    row_ids: pa.Array
    classes: tuple[str, ...]
    path: Path

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a ``sample_submission.csv`` (or parquet): its ids and header, not its values.

        Raises:
            TableError: it is not a score table, or an id is there twice or not ``<stem>_<end second>``.
        """
        file = ScoreFile.open(path)
        sample = cls(file.row_ids(), file.classes, file.path)
        _ = sample._ends  # an id that cannot be read is refused here
        return sample

    @cached_property
    def _ends(self) -> list[tuple[str, int]]:
        try:
            return [parse_row_id(text) for text in self.row_ids.to_pylist()]
        except TableError as error:
            raise TableError(error.reason, self.path) from None

    @cached_property
    def end_s(self) -> NDArray[np.int64]:
        """The end second of each row, int64 [rows]."""
        return np.array([end_s for _, end_s in self._ends], dtype=np.int64)

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """The stems that the rows name, in the order in which they first appear."""
        return tuple(dict.fromkeys(stem for stem, _ in self._ends))

    def positions(self, grid: ChunkGrid) -> dict[str, NDArray[np.int64]]:
        """The chunks that each stem needs, as positions in the recording: stem -> int64 [chunks], rising.

        Raises:
            TableError: a row does not end where a chunk of the grid ends.
        """
        chunk_s = whole_chunk_s(grid)
        found: dict[str, list[int]] = {}
        for stem, end_s in self._ends:
            if end_s % chunk_s:
                raise TableError(
                    f"row id {shown(f'{stem}_{end_s}')} is not <stem>_<end second> with an end second of "
                    f"{chunk_s}, {2 * chunk_s}, {3 * chunk_s}, ...",
                    self.path,
                )
            found.setdefault(stem, []).append(end_s // chunk_s - 1)
        return {stem: np.array(sorted(places), dtype=np.int64) for stem, places in found.items()}

    def check_classes(self, classes: Collection[str]) -> None:
        """Refuse classes that are not the sample's; their order may differ.

        Raises:
            TableError: naming the first classes that only one side has.
        """
        lacking = [name for name in self.classes if name not in set(classes)]
        unknown = [name for name in classes if name not in set(self.classes)]
        if lacking or unknown:
            first = f"{shown(lacking[0])} is not among the run's" if lacking else f"it lacks {shown(unknown[0])}"
            raise TableError(
                f"has {len(self.classes)} classes that differ from the run's {len(classes)}: {first}", self.path
            )

    def write_unchanged(self, out: str | os.PathLike[str], *, safe: bool = False) -> None:
        """Write the sample's own rows and values to ``out``: the dry run of a notebook without recordings.

        Args:
            out: the table.
            safe: see :class:`bce.engine.tables.score_files.ScoreFileWriter`.
        """
        file = ScoreFile(self.path, self.classes)
        start = 0
        with ScoreFileWriter(out, self.classes, safe=safe) as sink:
            for scores in file.batches():
                sink.write(self.row_ids.slice(start, len(scores)), scores)
                start += len(scores)
