"""A recording on its way through the scheduler: blocks in any order in, parts in order out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.reader import AudioReader
from bce.engine.recording import Recording
from bce.engine.results import BlockResult, Outcome, Part, Shifts, StageSeconds, Status


@dataclass
class Job:
    """A recording on its way. Fields change under the scheduler's condition only.

    Attributes:
        index: its place in the output.
        recording: which.
        reader: None before it is opened, and where it cannot be.
        decoding: a worker has the reader.
        worker: which, the last one that had it.
        left_behind: the reader stalled, and that worker with it.
        exhausted: nothing more will be decoded.
        stopped: the run was stopped before its end.
        abandoned: what is in flight is not waited for.
        in_flight: blocks that are being computed.
        blocks: computed blocks by their first chunk, until a part takes them.
        given: chunks that parts have taken.
        error: why nothing more can be decoded.
    """

    index: int
    recording: Recording
    reader: AudioReader | None = None
    decoding: bool = True
    worker: threading.Thread | None = None
    left_behind: bool = False
    exhausted: bool = False
    stopped: bool = False
    abandoned: bool = False
    in_flight: int = 0
    blocks: dict[int, BlockResult] = field(default_factory=dict)
    given: int = 0
    decode_s: float = 0.0
    error: str | None = None
    _shifts: list[tuple[int, Shifts]] = field(default_factory=list)
    _windows: int = 0
    _seconds: StageSeconds = field(default_factory=StageSeconds)

    @property
    def done(self) -> bool:
        """Whether nothing more will be computed, or waited for."""
        return self.abandoned or (self.exhausted and not self.in_flight)

    @property
    def promised_chunks(self) -> int | None:
        """By the header; None where it cannot be read or does not say."""
        return None if self.reader is None else self.reader.promised_chunks

    @property
    def progress(self) -> float:
        """Seconds that were decoded, -1 before the recording is open."""
        return -1.0 if self.reader is None else self.reader.delivered_s

    @property
    def held(self) -> int:
        """Chunks that are computed and that no part has taken."""
        return sum(len(block.logits) for block in self.blocks.values())

    def has(self, chunks: int) -> bool:
        """Whether so many chunks could be given out now, none missing between them."""
        return sum(len(block.logits) for block in self._gapless()) >= chunks

    def take(self, most: int, no_rows: NDArray[np.float32], stop_reason: str | None) -> Part:
        """The next part: what follows on what was given out, up to ``most`` chunks; the last one has the outcome.

        Args:
            most: chunks, at least those of one block.
            no_rows: float32 [0, classes].
            stop_reason: why the run was stopped, for a job that was.
        """
        first, blocks, chunks = self.given, list[BlockResult](), 0
        for block in self._gapless():
            if chunks + len(block.logits) > most:
                break
            blocks.append(block)
            chunks += len(block.logits)
        for block in blocks:
            del self.blocks[self.given]
            self.given += len(block.logits)
            self._shifts.append((len(block.logits), block.shifts_s))
            self._windows += block.windows
            self._seconds += block.seconds
        ended = self.done and not self.has(1)
        return Part(
            recording=self.recording,
            first_chunk=first,
            logits=np.concatenate([no_rows, *(block.logits for block in blocks)]),
            features={
                name: np.concatenate([block.features[name] for block in blocks])
                for name in (blocks[0].features if blocks else ())
            },
            window_start_s=np.concatenate([np.empty(0), *(block.window_start_s for block in blocks)]),
            outcome=self._outcome(stop_reason) if ended else None,
        )

    def _gapless(self) -> Iterator[BlockResult]:
        """The blocks that follow on what was given out; an abandoned job may have gaps."""
        chunk = self.given
        while chunk in self.blocks:
            block = self.blocks[chunk]
            yield block
            chunk += len(block.logits)

    def _outcome(self, stop_reason: str | None) -> Outcome:
        reader = self.reader
        reason = self.error or (None if reader is None else reader.problem)
        if self.stopped:
            reason = f"the run was stopped: {stop_reason}"
        status: Status = "ok"
        if reason is not None:
            status = "short_read" if self.given else "not_run" if self.stopped else "failed"
        return Outcome(
            status=status,
            reason=reason,
            stopped=self.stopped,
            promised_chunks=self.promised_chunks,
            shifts=tuple(self._shifts),
            source_rate=None if reader is None else reader.source_rate,
            promised_s=None if reader is None else reader.promised_s,
            delivered_s=0.0 if reader is None else reader.delivered_s,
            notes=() if reader is None else reader.notes,
            windows=self._windows,
            seconds=self._seconds + StageSeconds(decode=self.decode_s),
        )
