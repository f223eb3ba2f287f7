"""Detections: what a run hears, a line for each class and chunk with a score of at least a threshold."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from numbers import Real
from pathlib import Path

import numpy as np

from bce.engine.errors import OptionsError, TableError, shown
from bce.engine.files import Beside
from bce.engine.geometry import ChunkGrid
from bce.engine.post.postprocessor import ScoredPart
from bce.engine.tables.score_files import defused
from bce.engine.taxonomy import COMMON_NAME, LABEL, SCIENTIFIC_NAME, Taxonomy

COLUMNS = ("path", "site", "time", "start_s", "end_s", LABEL, SCIENTIFIC_NAME, COMMON_NAME, "score")
THRESHOLD = 0.25
"""What BirdNET's own tools have as their default."""


class DetectionSink:
    """Writes detections as CSV, recording by recording, chunk by chunk, the highest score first.

    Args:
        out: a ``.csv`` file.
        taxonomy: the classes of the scores.
        grid: the run's chunks.
        threshold: of the scores, above 0 and at most 1.
        safe: put an apostrophe before names that a spreadsheet would take for a formula.

    Attributes:
        count: detections so far.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        taxonomy: Taxonomy,
        grid: ChunkGrid,
        threshold: float = THRESHOLD,
        *,
        safe: bool = False,
    ) -> None:
        path = check_detections(out, threshold)
        empty = ("",) * len(taxonomy)
        names = (taxonomy.labels, taxonomy.scientific_names, taxonomy.columns.get(COMMON_NAME, empty))
        self._names = list(zip(*names, strict=True))
        self._grid = grid
        self._threshold = threshold
        self._safe = safe
        self.count = 0
        self._file = Beside(path)
        if self._file.trouble is not None:  # nothing has run yet: say it now
            trouble = self._file.trouble
            self._file.discard()
            raise trouble
        self._write([COLUMNS])

    def add(self, part: ScoredPart) -> None:
        """Append the detections of a part.

        Raises:
            TableError: its scores are not finite.
        """
        self._write(self._rows(part))

    def finish(self) -> None:
        """Give the file its name."""
        self._file.keep()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._file.discard()

    def _rows(self, part: ScoredPart) -> Iterator[tuple[str, ...]]:
        recording = part.recording
        if not np.isfinite(part.scores).all():
            raise TableError("has scores that are NaN or infinite", recording.path)
        starts = self._grid.start_s(part.first_chunk, len(part.scores))
        chunks, classes = np.nonzero(part.scores >= self._threshold)
        for place in np.lexsort((-part.scores[chunks, classes], chunks)):
            chunk, start_s = chunks[place], float(starts[chunks[place]])
            begin = _clock(recording.start_time, start_s)
            score = part.scores[chunk, classes[place]]
            self.count += 1
            yield (
                recording.path_text,
                recording.site or "",
                begin,
                f"{start_s:.10g}",
                f"{start_s + self._grid.chunk_s:.10g}",
                *self._names[classes[place]],
                f"{score:.4f}",
            )

    def _write(self, rows: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(defused(row) if self._safe else row for row in rows)
        if content := text.getvalue():
            self._file.write(content.encode())


def _clock(start: datetime | None, seconds: float) -> str:
    """So many seconds after a start, to the second: 2025-06-06T03:00:07Z; empty where that is not known."""
    try:
        return (
            ""
            if start is None
            else (start + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
        )
    except OverflowError:  # a clock that was never set
        return ""


def check_detections(path: str | os.PathLike[str], threshold: float) -> Path:
    """The path as a Path, if detections can be written to it.

    Raises:
        OptionsError: it does not end in ``.csv``, or the threshold is out of range.
    """
    file = Path(path)
    if file.suffix.lower() != ".csv":
        raise OptionsError("detections are written as CSV: give a name that ends in .csv", file)
    if not isinstance(threshold, Real) or isinstance(threshold, bool) or not 0 < threshold <= 1:
        raise OptionsError(f"threshold is {shown(threshold)}, it must be above 0 and at most 1")
    return file
