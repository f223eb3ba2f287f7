"""What a run says of a recording: rows in parts as they are done, and what became of it in the end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bce.engine.recording import Recording

Status = Literal["ok", "short_read", "failed", "not_run"]

Features = dict[str, NDArray[np.float32]]
"""Outputs of a backbone by name: "block_21" [windows, 232], ..., "embedding"."""

Shifts = tuple[float, ...]
"""Test-time shifts in seconds."""


@dataclass(frozen=True)
class StageSeconds:
    """Thread-seconds per stage; waiting is in none of them."""

    decode: float = 0.0
    frontend: float = 0.0
    inference: float = 0.0

    def __add__(self, other: StageSeconds) -> StageSeconds:
        return StageSeconds(
            self.decode + other.decode, self.frontend + other.frontend, self.inference + other.inference
        )


@dataclass(frozen=True)
class BlockResult:
    """What a network says of one audio block.

    Attributes:
        logits: float32 [chunks, classes], reduced over the shifts.
        features: by output name, [chunks, width] or [windows, width]; empty unless asked for.
        window_start_s: with features per window, the start of each window in seconds; else empty.
        shifts_s: the shifts that were run.
        windows: how many windows went through the network.
        seconds: where the time went.
    """

    logits: NDArray[np.float32]
    features: Features
    window_start_s: NDArray[np.float64]
    shifts_s: Shifts
    windows: int
    seconds: StageSeconds

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays hold."""
        return self.logits.nbytes + sum(values.nbytes for values in self.features.values())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a recording.

    Attributes:
        status: "ok"; "short_read": it ended early, the chunks before that were delivered; "failed": no chunk could be
            read; "not_run": the run was stopped before its first chunk.
        reason: why it is not ok, in one line; None when it is.
        stopped: the run was stopped before the recording's end; ``reason`` says by what.
        promised_chunks: how many the file's header promises; None when it cannot be opened or does not say.
        shifts: (chunks, shifts in seconds) of each audio block, in order.
        source_rate: sample rate of the file in Hz; None when it cannot be opened.
        promised_s: duration by the header; None when it cannot be opened.
        delivered_s: duration as decoded.
        notes: what is worth knowing of the file and no error, one line each.
        windows: how many windows went through the network.
        seconds: where the time went.
    """

    status: Status
    reason: str | None = None
    stopped: bool = False
    promised_chunks: int | None = None
    shifts: tuple[tuple[int, Shifts], ...] = ()
    source_rate: int | None = None
    promised_s: float | None = None
    delivered_s: float = 0.0
    notes: tuple[str, ...] = ()
    windows: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)

    @property
    def chunks_by_shifts(self) -> dict[int, int]:
        """How many chunks were run with how many shifts: {5: 12}."""
        counts: dict[int, int] = {}
        for chunks, shifts_s in self.shifts:
            counts[len(shifts_s)] = counts.get(len(shifts_s), 0) + chunks
        return counts


@dataclass(frozen=True)
class Part:
    """Consecutive chunks of a recording: at most an hour of them, or one audio block where that is longer.

    Attributes:
        recording: which.
        first_chunk: position of the first chunk in the recording.
        logits: float32 [chunks, classes], reduced over the shifts.
        features: by output name, [chunks, width] or [windows, width]; empty unless asked for.
        window_start_s: with features per window, the start of each window in seconds; else empty.
        outcome: what became of the recording, with its last part; None before. The last part may have no chunks.
    """

    recording: Recording
    first_chunk: int
    logits: NDArray[np.float32]
    features: Features = field(default_factory=dict)
    window_start_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    outcome: Outcome | None = None

    @property
    def last(self) -> bool:
        """Whether the recording ends with this part."""
        return self.outcome is not None


@dataclass(frozen=True, kw_only=True)
class RecordingResult(Outcome):
    """A whole recording: what became of it, and all its rows.

    Attributes:
        recording: which.
        logits: float32 [chunks, classes], reduced over the shifts; row i is the chunk at position i.
        features: by output name, [chunks, width] or [windows, width]; empty unless asked for.
        window_start_s: with features per window, the start of each window in seconds; else empty.
    """

    recording: Recording
    logits: NDArray[np.float32]
    features: Features = field(default_factory=dict)
    window_start_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def whole_recordings(parts: Generator[Part, None, None]) -> Iterator[RecordingResult]:
    """Join the parts of each recording, as they come; whoever stops early stops what gives the parts."""
    held: list[Part] = []
    with closing(parts):
        for part in parts:
            held.append(part)
            if part.outcome is not None:
                yield _joined(held, part.outcome)
                held = []


def _joined(parts: list[Part], outcome: Outcome) -> RecordingResult:
    featured = [part for part in parts if part.features]
    return RecordingResult(
        recording=parts[0].recording,
        logits=np.concatenate([part.logits for part in parts]),
        features={
            name: np.concatenate([part.features[name] for part in featured])
            for name in (featured[0].features if featured else ())
        },
        window_start_s=np.concatenate([part.window_start_s for part in parts]),
        **vars(outcome),
    )
