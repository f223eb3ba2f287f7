"""A recording and what its name says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Recording:
    """A recording and what its name says.

    Attributes:
        path: the file.
        stem: the file's name without its suffix, as text (see :func:`as_text`); unique in a run, because rows are named
            after it.
        file_id: number of the file in its data set; None where the name has none.
        site: where it was recorded; None where the name does not tell.
        start_time: of the first sample, in UTC (aware); None where the name does not tell.
    """

    path: Path
    stem: str
    file_id: int | None = None
    site: str | None = None
    start_time: datetime | None = None

    @property
    def path_text(self) -> str:
        """The path as text that any table can hold."""
        return as_text(str(self.path))


def as_text(name: str) -> str:
    r"""A file's name as text that any table can hold.

    Bytes that are not UTF-8, which Python keeps as lone surrogates, become the escapes that it shows for them.

    >>> as_text("caf\udce9")
    'caf\\udce9'
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
