"""CSV files of unknown origin: their rows, or one line that says why not."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from bce.engine.errors import TableError


def read_rows(path: str | os.PathLike[str], expected: str) -> list[list[str]]:
    """The rows of a CSV file in UTF-8, with or without its mark, less those that are empty.

    Args:
        path: the file.
        expected: what it should be, for messages: "a taxonomy".

    Raises:
        TableError: the file cannot be read, is not text, or has a field of more than 128 KB.
    """
    file = Path(path)
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            return [row for row in csv.reader(stream) if row]
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror})", file) from None
    except UnicodeDecodeError:
        raise TableError(f"is not UTF-8 text: expected {expected} as CSV", file) from None
    except csv.Error as error:
        raise TableError(f"is not CSV ({error}): expected {expected}", file) from None
