"""The table that a run writes at its end, out of rows that came recording by recording, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bce.engine.errors import TableError
from bce.engine.files import Scratch
from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.tables.schema import META, batch_rows, check_format, row_id, whole_chunk_s
from bce.engine.tables.score_files import ScoreFileWriter
from bce.engine.tables.submissions import SampleSubmission


@dataclass(frozen=True)
class WriteSummary:
    """What a table holds.

    Attributes:
        rows: rows written.
        filled: of these, rows that were not computed but filled.
        left_out: computed rows that the sample submission does not ask for.
    """

    rows: int
    filled: int
    left_out: int = 0


class ScoreWriter:
    """Collects a run's rows and writes them as one table at the end, in bounded memory.

    Rows come recording by recording, in output order, and lie in a nameless file until :meth:`close` writes the table
    beside its place and renames it: only then are the fills known, and the order of a sample submission. Rows that were
    not computed get the per-class mean of the rows that were; where there are none, 1 / classes, as BirdCLEF's own
    sample submission has it.

    As a context manager it closes at the end of the block and leaves nothing behind when the block raises.

    Args:
        out: a ``.csv`` (a submission) or a ``.parquet`` file (which also holds path, site and times of each row).
        classes: the labels of the columns, in the order of the scores.
        grid: the chunks of the rows.
        sample: if given, the table gets exactly its rows and its order of rows and classes.
        safe, notice: see :class:`bce.engine.tables.score_files.ScoreFileWriter`.

    Raises:
        OptionsError: ``out`` ends in neither, or the chunks are not whole seconds long.
        TableError: the sample's classes are not the run's.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        classes: Sequence[str],
        grid: ChunkGrid,
        sample: SampleSubmission | None = None,
        *,
        safe: bool = False,
        notice: str = "",
    ) -> None:
        self.out = check_format(out)
        self._safe, self._notice = safe, notice
        self._chunk_s = whole_chunk_s(grid)
        self.classes = tuple(classes)
        self._sample = sample
        if sample is not None:
            sample.check_classes(self.classes)
        self._spool = Scratch(self.out.parent)
        self._sum = np.zeros(len(self.classes))
        self._recordings: list[Recording] = []
        self._ends: list[NDArray[np.int64]] = []
        self._computed: list[bool] = []

    def add(self, recording: Recording, scores: NDArray[np.floating] | None, end_s: NDArray[np.int64]) -> None:
        """Add a recording's rows.

        Args:
            recording: the recording.
            scores: [chunks, classes], finite; None when they could not be computed, as :meth:`add_missing`.
            end_s: the end second of each chunk, int64 [chunks].

        Raises:
            TableError: the scores are not [chunks, classes], or not finite.
        """
        ends = np.asarray(end_s, dtype=np.int64)
        if scores is not None:
            if scores.shape != (len(ends), len(self.classes)):
                raise TableError(
                    f"has scores of shape {scores.shape}, expected ({len(ends)}, {len(self.classes)})", recording.path
                )
            if not np.isfinite(scores).all():
                raise TableError("has scores that are NaN or infinite", recording.path)
            rows = np.ascontiguousarray(scores, dtype=np.float64)
            self._spool.write(rows.data)
            self._sum += rows.sum(axis=0)
        self._recordings.append(recording)
        self._ends.append(ends)
        self._computed.append(scores is not None)

    def add_missing(self, recording: Recording, end_s: NDArray[np.int64]) -> None:
        """Add a recording's rows without scores: they are filled at the end."""
        self.add(recording, None, end_s)

    def close(self, *, fill: bool = True) -> WriteSummary:
        """Write the table.

        Args:
            fill: fill rows that were not computed (those given to :meth:`add_missing` and those that only the sample
                has). Without it they are left out, for a run that was interrupted.

        Raises:
            OSError: it cannot have its name; see :meth:`bce.engine.files.Beside.keep`.
        """
        rows = self._rows(fill)
        n_computed, n_classes = rows.n_computed, len(self.classes)
        fill_value = self._sum / n_computed if n_computed else np.full(n_classes, 1 / n_classes)
        columns = self.classes if self._sample is None else self._sample.classes
        column_of = {name: i for i, name in enumerate(self.classes)}
        permutation = np.array([column_of[name] for name in columns])

        content = self._spool.content() if n_computed else b""
        spool = np.frombuffer(content, np.float64).reshape(n_computed, n_classes)
        step = batch_rows(n_classes)
        with ScoreFileWriter(self.out, columns, meta=True, safe=self._safe, notice=self._notice) as sink:
            for start in range(0, len(rows.ids), step):
                place = rows.place[start : start + step]
                scores = np.broadcast_to(fill_value, (len(place), n_classes)).copy()
                scores[place >= 0] = spool[place[place >= 0]]
                owners = [None if r < 0 else self._recordings[r] for r in rows.recording[start : start + step]]
                meta = _meta(owners, rows.end_s[start : start + step], self._chunk_s)
                sink.write(rows.ids.slice(start, step), scores[:, permutation], meta)
        self.discard()
        filled = int((rows.place < 0).sum())
        return WriteSummary(len(rows.ids), filled, n_computed - (len(rows.ids) - filled))

    def _rows(self, fill: bool) -> _Rows:
        """The rows of the table to write, in order."""
        counts = [len(ends) for ends in self._ends]
        recording = np.repeat(np.arange(len(counts)), counts)
        end_s = np.concatenate([np.zeros(0, np.int64), *self._ends])
        computed = np.repeat(np.array(self._computed, dtype=bool), counts)
        place = np.where(computed, np.cumsum(computed) - 1, -1)
        stems = [recording.stem for recording in self._recordings]
        ids = pa.array([row_id(stems[r], e) for r, e in zip(recording, end_s, strict=True)], pa.string())
        if self._sample is not None:
            wanted = self._sample.row_ids
            order = pc.index_in(wanted, value_set=ids).fill_null(-1).to_numpy()
            absent = order < 0
            ids, end_s = wanted, self._sample.end_s
            recording = np.where(absent, -1, np.append(recording, -1)[order])
            place = np.where(absent, -1, np.append(place, -1)[order])
        rows = _Rows(ids, end_s, recording, place, int(computed.sum()))
        return rows if fill else rows.where(rows.place >= 0)

    def discard(self) -> None:
        """Forget the rows."""
        self._spool.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        elif not self._spool.closed:
            self.close()


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows to write: id, end second, which recording's (-1: none), place in the spool (-1: to fill)."""

    ids: pa.Array
    end_s: NDArray[np.int64]
    recording: NDArray[np.int64]
    place: NDArray[np.int64]
    n_computed: int

    def where(self, kept: NDArray[np.bool_]) -> _Rows:
        ids = self.ids.filter(pa.array(kept))
        return _Rows(ids, self.end_s[kept], self.recording[kept], self.place[kept], self.n_computed)


def _meta(owners: Sequence[Recording | None], end_s: NDArray[np.int64], chunk_s: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([None if o is None else o.path_text for o in owners], pa.string()),
            pa.array([None if o is None else o.site for o in owners], pa.string()),
            pa.array([None if o is None else o.start_time for o in owners], META.field("start_time").type),
            pa.array(end_s - chunk_s),
            pa.array(end_s),
        ],
        schema=META,
    )
