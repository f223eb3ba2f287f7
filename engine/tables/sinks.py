"""Where a run's parts go: the protocol, and the sink of score tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from bce.engine.geometry import ChunkGrid
from bce.engine.post.postprocessor import ScoredPart
from bce.engine.tables.expected_rows import ExpectedRows
from bce.engine.tables.schema import whole_chunk_s
from bce.engine.tables.score_writer import ScoreWriter, WriteSummary
from bce.engine.tables.submissions import SampleSubmission

P = TypeVar("P", contravariant=True)


class Sink(Protocol[P]):
    """Takes the parts of a run in order. No final name ever holds half a result: :meth:`finish` gives it."""

    def add(self, part: P) -> None:
        """Take the next part."""

    def finish(self) -> None:
        """The run is over: write what is still to be written, and give files their names."""

    def abort(self) -> None:
        """Something failed: leave nothing behind that could pass for a result."""


class ScoreTableSink:
    """Writes the score table of a run (see :class:`bce.engine.tables.score_writer.ScoreWriter`).

    Args:
        out: a ``.csv`` or ``.parquet`` file.
        classes: the labels of the columns.
        grid: the run's chunks.
        expected: which rows the table has.
        sample: a sample submission, whose order of rows and classes is then the table's.
        fills: whether rows that were not computed are filled; asked at the end.
        safe, notice: see :class:`bce.engine.tables.score_files.ScoreFileWriter`.

    Attributes:
        summary: what was written; None before :meth:`finish`.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        classes: Sequence[str],
        grid: ChunkGrid,
        expected: ExpectedRows,
        sample: SampleSubmission | None,
        fills: Callable[[], bool],
        *,
        safe: bool = False,
        notice: str = "",
    ) -> None:
        self._writer = ScoreWriter(out, classes, grid, sample, safe=safe, notice=notice)
        self._chunk_s = whole_chunk_s(grid)
        self._expected = expected
        self._fills = fills
        self.summary: WriteSummary | None = None

    def add(self, part: ScoredPart) -> None:
        """Take the rows of a part, and with the last one of a recording those that are missing."""
        recording, first, chunks = part.recording, part.first_chunk, len(part.scores)
        computed = self._expected.computed(recording, first, chunks)
        if len(computed):
            self._writer.add(recording, part.scores[computed - first], (computed + 1) * self._chunk_s)
        if part.outcome is not None:
            missing = self._expected.missing(recording, part.outcome, first + chunks)
            if len(missing):
                self._writer.add_missing(recording, (missing + 1) * self._chunk_s)

    def finish(self) -> None:
        """Write the table."""
        self.summary = self._writer.close(fill=self._fills())

    def abort(self) -> None:
        """Leave nothing behind."""
        self._writer.discard()
