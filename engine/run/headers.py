"""What the headers of a run's recordings promise: known in the background, or when somebody asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from bce.engine.audio.reader import AudioReader
from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.run.pace import Stop
from bce.engine.run.stalls import THREAD_PREFIX, Stalled, attempt

HEADER_S = 10.0
"""A header that takes longer is not known."""
MOST_STALLED = 8
"""Headers, before none is looked at any more."""
_POLL_S = 0.1

T = TypeVar("T")


def looked_at(
    recordings: Iterable[Recording], look: Callable[[Recording], T], patience_s: float
) -> Iterator[tuple[Recording, T | None]]:
    """What ``look`` says of each recording, one after the other; None where it raises or takes too long.

    After :data:`MOST_STALLED` that took too long none is looked at any more: their disk is gone.
    """
    stalled = 0
    for recording in recordings:
        found: T | None = None
        if stalled < MOST_STALLED:
            try:
                found = attempt(partial(look, recording), patience_s)
            except Stalled:
                stalled += 1
            except Exception:  # whatever a decoder finds: it is for the run itself to say what is wrong
                found = None
        yield recording, found


class Headers:
    """Reads the headers of all recordings of a run, in a thread of its own.

    Args:
        recordings: all recordings of the run.
        sample_rate, grid: as the run reads them.
        stop: of the run: once it has a reason, headers that are not read yet are not waited for.
        patience_s: that the run has with its readers; no header may take longer.

    Attributes:
        chunks: chunks that each header promises, by stem, as far as the reading got.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        sample_rate: int,
        grid: ChunkGrid,
        stop: Stop,
        patience_s: float = HEADER_S,
    ) -> None:
        self.chunks: dict[str, int] = {}
        self._recordings = recordings
        self._sample_rate = sample_rate
        self._grid = grid
        self._stop = stop
        self._patience_s = min(patience_s, HEADER_S)
        self._started = False
        self._done = threading.Event()

    def start(self, patience_s: float = HEADER_S) -> None:
        """Begin to read, unless that was begun before; a header may take ``patience_s`` at most."""
        if not self._started:
            self._started = True
            threading.Thread(
                target=self._read, args=[min(patience_s, self._patience_s)], name=f"{THREAD_PREFIX}headers", daemon=True
            ).start()

    def all(self) -> Mapping[str, int]:
        """:attr:`chunks` when all that can be read is read, or the run was stopped."""
        self.start()
        while self._stop.reason is None and not self._done.wait(_POLL_S):
            pass
        return self.chunks

    def _read(self, patience_s: float) -> None:
        for recording, promised in looked_at(self._recordings, self._promised, patience_s):
            if promised is not None:
                self.chunks[recording.stem] = promised
        self._done.set()

    def _promised(self, recording: Recording) -> int | None:
        with AudioReader(recording.path, self._sample_rate, self._grid) as reader:
            return reader.promised_chunks
