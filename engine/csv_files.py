"""CSV files of unknown origin: their rows with the lines that they end on, or one line that says why not."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from bce.engine.errors import TableError


def read_rows(path: str | os.PathLike[str], expected: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file in UTF-8, with or without its mark, less those that are empty.

    Args:
        path: the file.
        expected: what it should be, for messages: "a taxonomy".

    Yields:
        the line that a row ends on, from 1, and its fields.

    Raises:
        TableError: the file cannot be read, is not text, or not CSV: a field has more than 128 KB, a quote is never
            closed (else it swallows the rest of the file).
    """
    file = Path(path)
    line = 0
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                line = reader.line_num
                if row:
                    yield line, row
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror or error})", file) from None
    except UnicodeDecodeError:
        raise TableError(f"is not UTF-8 text: expected {expected} as CSV", file) from None
    except csv.Error as error:
        raise TableError(f"line {line + 1} is not CSV ({error}): expected {expected}", file) from None
