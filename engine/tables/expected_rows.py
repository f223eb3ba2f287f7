"""Which rows a table must have, whatever becomes of the recordings."""

from __future__ import annotations

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
        promised: chunks by stem of recordings that cannot be opened but whose header was read once; may grow.
        fills: whether recordings that were not run still get their rows; asked when one ends.

    Raises:
        TableError: the sample's rows are not on the grid.
    """

    def __init__(
        self, grid: ChunkGrid, sample: SampleSubmission | None, promised: Mapping[str, int], fills: Callable[[], bool]
    ) -> None:
        self._sampled = None if sample is None else sample.positions(grid)
        self._promised = promised
        self._fills = fills
        self._unknown = grid.chunks(60.0)
        """Chunks of a recording that cannot be opened and that nothing names: those of one minute."""
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
        promised = outcome.promised_chunks
        if promised is None:
            promised = self._promised.get(recording.stem, self._unknown)
        if outcome.status == "not_run" and not self._fills():
            promised = 0
        return np.arange(chunks, max(promised, chunks), dtype=np.int64)
