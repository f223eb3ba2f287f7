"""What all score tables have: formats, columns, and how a row is named."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa

from bce.engine.errors import OptionsError, TableError, shown
from bce.engine.geometry import ChunkGrid

ROW_ID = "row_id"
FORMATS = (".csv", ".parquet")

META = pa.schema(
    [
        ("path", pa.string()),
        ("site", pa.string()),
        ("start_time", pa.timestamp("us", tz="UTC")),
        ("chunk_start_s", pa.int64()),
        ("chunk_end_s", pa.int64()),
    ]
)
"""What parquet tables of a run also say of each row."""

BATCH_BYTES = 2 << 20
MOST_DIGITS = 9
"""Of an end second: recordings of up to 31 years."""


def batch_rows(classes: int) -> int:
    """How many rows of float64 scores are read or written at once: about 2 MB of them."""
    return max(1, BATCH_BYTES // (8 * max(1, classes)))


def check_format(path: str | os.PathLike[str]) -> Path:
    """The path as a Path, if its ending names a format of score tables.

    Raises:
        OptionsError: it ends neither in .csv nor in .parquet.
    """
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise OptionsError(f"ends in {shown(file.suffix)}: a score table is a .csv or a .parquet file", file)
    return file


def row_id(stem: str, end_s: int) -> str:
    """The id of a chunk's row: the recording's stem and the chunk's end in whole seconds."""
    return f"{stem}_{end_s}"


def parse_row_id(text: str) -> tuple[str, int]:
    """The stem and the end second of a row id.

    Raises:
        TableError: the id does not end in ``_`` and a whole number of seconds above 0.
    """
    stem, _, end = text.rpartition("_")
    if not (stem and end.isascii() and end.isdigit() and len(end) <= MOST_DIGITS and int(end) > 0):
        raise TableError(f"row id {shown(text)} is not <stem>_<end second>")
    return stem, int(end)


def whole_chunk_s(grid: ChunkGrid) -> int:
    """The length of a grid's chunks, where rows can be named after it.

    Raises:
        OptionsError: it is not a whole number of seconds.
    """
    if grid.chunk_s != int(grid.chunk_s):
        raise OptionsError(f"chunks of {grid.chunk_s:g} s: a score table names its rows by whole seconds")
    return int(grid.chunk_s)
