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
        stem: the file's name without its suffix; unique in a run, because rows are named after it.
        file_id: number of the file in its data set; None where the name has none.
        site: where it was recorded; None where the name does not tell.
        start_time: of the first sample, in UTC (aware); None where the name does not tell.
    """

    path: Path
    stem: str
    file_id: int | None = None
    site: str | None = None
    start_time: datetime | None = None
