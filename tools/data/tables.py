"""CSV tables with a header, row by row: every row is as long as the header, or the table is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bce.engine.csv_files import read_rows
from bce.engine.errors import TableError


def read_table(
    path: Path, needed: Sequence[str], what: str, *, optional: Sequence[str] = (), hint: str = ""
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table that are not empty, each with the number of the line that it ends on.

    Args:
        path: the CSV file, UTF-8 with or without a byte order mark.
        needed: columns that must be there.
        what: the table is about, for messages: "labelled windows".
        optional: columns that are read where they are there.
        hint: said of a row with too many fields: where their number may come from.

    Yields:
        the line, from 1, and the values by column; those of columns that were not asked for too.

    Raises:
        TableError: the file cannot be read, is not CSV, lacks a column or names it twice, or a row has more or fewer
            fields than the header.
    """
    rows = read_rows(path, what)
    _, header = next(rows, (0, []))
    for column in needed:
        if column not in header:
            raise TableError(f"has no column '{column}': expected {', '.join(needed)}", path)
    for column in (*needed, *optional):
        if header.count(column) > 1:
            raise TableError(f"names the column '{column}' {header.count(column)} times in its header", path)
    for line, row in rows:
        if len(row) != len(header):
            about = f"line {line} has {len(row)} fields, the header has {len(header)}"
            raise TableError(f"{about}{': ' + hint if hint and len(row) > len(header) else ''}", path)
        yield line, dict(zip(header, row, strict=True))
