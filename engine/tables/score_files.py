"""Score tables as files: submission CSV and parquet, read and written batch by batch.

A table has a column ``row_id`` (``<stem>_<end second>``) and one column of scores per class. Parquet may also hold the
columns of :data:`META`. Scores are float64 all the way: CSV gets the shortest digits that read back as the same number,
because every tie that rounding makes costs AUC.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bce.engine.errors import TableError, first_line, has_controls, one_line, shown
from bce.engine.files import Beside
from bce.engine.tables.schema import BATCH_BYTES, META, ROW_ID, batch_rows, check_format


@dataclass(frozen=True)
class ScoreFile:
    """A score table on disk, read batch by batch. Open it with :meth:`open`."""

    path: Path
    classes: tuple[str, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table's header.

        Raises:
            OptionsError: the file's ending names no format.
            TableError: the file is missing or is not a score table.
        """
        file = check_format(path)
        if not file.is_file():
            raise TableError("is not there: expected a score table", file)
        names = _csv_header(file) if file.suffix.lower() == ".csv" else _parquet_header(file)
        if ROW_ID not in names:
            raise TableError(f"has no column '{ROW_ID}': expected a score table", file)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise TableError(f"has the column {shown(twice[0])} twice", file)
        strange = [name for name in names if not name or has_controls(name)]
        if strange:
            raise TableError(f"has a column called {shown(strange[0])}: expected the label of a class", file)
        classes = tuple(name for name in names if name != ROW_ID and name not in META.names)
        if not classes:
            raise TableError(f"has no column of scores beside '{ROW_ID}'", file)
        return cls(file, classes)

    def row_ids(self) -> pa.Array:
        """All row ids, as an Arrow string array.

        Raises:
            TableError: an id is there twice, or empty.
        """
        parts = [pa.array([], pa.string())]
        for batch in self._batches([ROW_ID]):
            try:
                parts.append(batch.column(0).cast(pa.string()))
                parts[-1].validate(full=True)
            except pa.ArrowException as error:
                raise TableError(f"has a row id that is no text ({first_line(error, 200)})", self.path) from None
        ids = pa.concat_arrays(parts)
        if ids.null_count or pc.any(pc.equal(ids, "")).as_py():
            raise TableError("has a row without a row id", self.path)
        if pc.count_distinct(ids).as_py() != len(ids):
            values, counts = pc.value_counts(ids).flatten()
            first = values.filter(pc.greater(counts, 1))[0].as_py()
            raise TableError(f"has the row id {shown(first)} more than once", self.path)
        return ids

    def batches(self) -> Iterator[NDArray[np.float64]]:
        """The scores from the first row to the last, in batches of float64 [rows, classes].

        Raises:
            TableError: a score is not a number, or is NaN, infinite or empty.
        """
        start = 0
        for batch in self._batches(list(self.classes)):
            try:
                columns = [c.cast(pa.float64()).to_numpy(zero_copy_only=False) for c in batch.columns]
            except pa.ArrowException as error:
                raise TableError(f"has a score that is not a number ({first_line(error, 200)})", self.path) from None
            scores = np.stack(columns).T
            if not np.isfinite(scores).all():
                row, column = np.argwhere(~np.isfinite(scores))[0]
                raise TableError(
                    f"data row {start + row + 1} has no finite number for class {shown(self.classes[column])} "
                    "(NaN, infinite or empty)",
                    self.path,
                )
            start += len(scores)
            yield scores

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            if self.path.suffix.lower() == ".parquet":
                # Buffering ahead keeps the whole file in memory.
                with pq.ParquetFile(self.path, pre_buffer=False) as file:
                    yield from (
                        batch.select(columns)
                        for batch in file.iter_batches(batch_size=batch_rows(len(self.classes)), columns=columns)
                    )
                return
            names = _csv_header(self.path)
            with pyarrow.csv.open_csv(
                self.path,
                pyarrow.csv.ReadOptions(column_names=names, skip_rows=1, block_size=BATCH_BYTES),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=columns,
                    column_types={name: pa.string() if name == ROW_ID else pa.float64() for name in columns},
                ),
            ) as reader:
                yield from reader
        except Exception as error:  # of damaged bytes: Arrow's own, and those of what it calls
            if "Empty CSV file" in str(error):
                return
            raise TableError(f"is not a score table, or damaged ({first_line(error, 200)})", self.path) from None


def _csv_header(path: Path) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            return next(csv.reader(stream), [])
    except UnicodeDecodeError:
        raise TableError("is not CSV text: expected a score table", path) from None
    except csv.Error as error:
        raise TableError(f"is not CSV ({error}): expected a score table", path) from None
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror})", path) from None


def _parquet_header(path: Path) -> list[str]:
    try:
        schema = pq.read_schema(path)
        names = [str(name) for name in schema.names]
    except Exception as error:  # as above
        raise TableError(f"is not a parquet file, or damaged ({first_line(error, 200)})", path) from None
    for name, kind in zip(names, schema.types, strict=True):
        if name == ROW_ID:
            text = kind.value_type if pa.types.is_dictionary(kind) else kind
            fits, expected = pa.types.is_string(text) or pa.types.is_large_string(text), "row ids"
        else:
            fits, expected = pa.types.is_floating(kind) or pa.types.is_integer(kind), "scores"
        if not fits and name not in META.names:
            raise TableError(f"column {shown(name)} holds {one_line(str(kind))}, expected {expected}", path)
    return names


class ScoreFileWriter:
    """Writes a score table batch by batch, as a context manager.

    Leaving it without an error gives the file its name; leaving it with one removes what was written.

    Args:
        path: the file to write; its ending chooses the format.
        classes: the labels of the columns.
        meta: whether batches bring the columns of :data:`META` (CSV leaves them out).
        safe: put an apostrophe before names in CSV that a spreadsheet would take for a formula (:data:`FORMULA`).
        notice: what is to be shown wherever the scores are; kept in the metadata of parquet (CSV has no place for it).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        classes: Sequence[str],
        *,
        meta: bool = False,
        safe: bool = False,
        notice: str = "",
    ) -> None:
        self._path = check_format(path)
        self._csv = self._path.suffix.lower() == ".csv"
        self._safe = safe and self._csv
        self._meta = META if meta and not self._csv else pa.schema([])
        scores = [pa.field(name, pa.float64()) for name in classes]
        told = {"notice": notice} if notice else None
        self._schema = pa.schema([pa.field(ROW_ID, pa.string()), *self._meta, *scores], metadata=told)

    def __enter__(self) -> Self:
        self._file = Beside(self._path)
        try:
            if self._csv:
                header = io.StringIO(newline="")
                names = self._schema.names
                csv.writer(header, lineterminator="\n").writerow(defused(names) if self._safe else names)
                self._file.write(header.getvalue().encode("utf-8"))
            else:
                # Scores hardly repeat: a dictionary of them costs time and space for nothing.
                texts = [field.name for field in self._schema if field.type == pa.string()]
                self._parquet = pq.ParquetWriter(self._file, self._schema, compression="zstd", use_dictionary=texts)
        except BaseException:
            self._file.discard()
            raise
        return self

    def write(
        self, row_ids: Sequence[str] | pa.Array, scores: NDArray[np.float64], meta: pa.RecordBatch | None = None
    ) -> None:
        """Append rows: their ids, float64 [rows, classes], and for parquet with meta a batch of :data:`META`."""
        ids = row_ids if isinstance(row_ids, pa.Array) else pa.array(row_ids, pa.string())
        extra = [] if meta is None or not len(self._meta) else meta.columns
        columns = np.ascontiguousarray(np.asarray(scores, dtype=np.float64).T)
        table = pa.Table.from_arrays([ids, *extra, *(pa.array(column) for column in columns)], schema=self._schema)
        if not self._csv:
            self._parquet.write_table(table, row_group_size=max(1, len(ids)))
            return
        if self._safe:
            ids = pa.array(defused(ids.to_pylist()), pa.string())
            table = table.set_column(0, ROW_ID, ids)
        # Arrow either quotes every text or none, and refuses to write one that needs quotes without them.
        special = pc.any(pc.match_substring_regex(ids, '[,"\r\n]')).as_py()
        style = "needed" if special else "none"
        options = pyarrow.csv.WriteOptions(include_header=False, quoting_style=style)
        pyarrow.csv.write_csv(table, self._file, options)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if not self._csv:
                    self._parquet.close()
                self._file.keep()
        finally:
            if not self._csv:
                self._parquet.is_open = False  # else it writes its end when it is collected
            self._file.discard()


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is a formula to a spreadsheet (OWASP, "CSV Injection")."""


def defused(cells: Sequence[str]) -> list[str]:
    return [f"'{cell}" if cell.startswith(FORMULA) else cell for cell in cells]
