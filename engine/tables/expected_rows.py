"""Which rows a table must have, whatever becomes of the recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.results import Outcome
from bce.engine.tables.submissions import SampleSubmission


class ExpectedRows:
    """Which chunks a table must have of a recording.

    Args:
        grid: the run's chunks.
        sample: a sample submission, whose rows are then the table's.
        promised: chunks by stem that the headers of the run's recordings promise, asked for when one has none to tell;
            may grow once the run is stopped.
        fills: whether recordings that were not run still get their rows; asked when one ends.

    Raises:
        TableError: the sample's rows are not on the grid.
    """

    def __init__(
        self,
        grid: ChunkGrid,
        sample: SampleSubmission | None,
        promised: Callable[[], Mapping[str, int]],
        fills: Callable[[], bool],
    ) -> None:
        self._sampled = None if sample is None else sample.positions(grid)
        self._promised = promised
        self._fills = fills
        self._minute = grid.chunks(60.0)
        self._usual: int | None = None
        """The commonest length of the run by its headers, once somebody asked."""
        self._delivered = Counter[int]()
        """How many recordings that ended well had so many chunks."""
        self._answered: tuple[Recording, NDArray[np.int64]] | None = None

    def computed(self, recording: Recording, first_chunk: int, chunks: int) -> NDArray[np.int64]:
        """Positions of the chunks, of some that were computed, that the table has: int64, rising."""
        positions = np.arange(first_chunk, first_chunk + chunks, dtype=np.int64)
        if self._sampled is None:
            return positions
        return positions[np.isin(positions, self._sampled[recording.stem])]

    def missing(self, recording: Recording, outcome: Outcome, chunks: int) -> NDArray[np.int64]:
        """Positions of the chunks that the table has and that were not computed.

        What is promised may grow while a run lasts: who asks of one recording again, table and report, hears the same.

        Args:
            recording: which has ended.
            outcome: what became of it.
            chunks: how many were computed.
        """
        if self._answered is None or self._answered[0] is not recording:
            self._answered = (recording, self._missing(recording, outcome, chunks))
        return self._answered[1]

    def _missing(self, recording: Recording, outcome: Outcome, chunks: int) -> NDArray[np.int64]:
        if self._sampled is not None:
            wanted = self._sampled[recording.stem]
            return wanted[wanted >= chunks]
        promised = outcome.promised_chunks or 0
        if outcome.status == "ok":
            self._delivered[chunks] += 1
        elif outcome.status == "not_run" and not self._fills():
            promised = 0
        elif not promised:
            promised = self._promise(recording.stem)
        return np.arange(chunks, max(promised, chunks), dtype=np.int64)

    def _promise(self, stem: str) -> int:
        """Chunks of a recording that is not whole and that promised none when it was opened, if it could be.

        It is taken to be as long as most recordings of the run: by their headers, else by what those before it
        delivered, else a minute. So a file that is empty, damaged or too short for a chunk has its rows all the same.
        """
        promised = self._promised()
        if own := promised.get(stem):
            return own
        if self._usual is None:
            self._usual = _commonest(Counter(list(promised.values())))
        return self._usual or _commonest(self._delivered) or self._minute


def _commonest(lengths: Counter[int]) -> int | None:
    """The commonest length above 0, of equally common ones the middle, of two the longer; None where there is none."""
    most = max((count for chunks, count in lengths.items() if chunks), default=0)
    common = sorted(chunks for chunks, count in lengths.items() if chunks and count == most)
    return common[len(common) // 2] if common else None
