"""What the engine says of one recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.recordings import Recording
from bce.engine.network.model import Features

Status = Literal["ok", "short_read", "failed", "not_run"]


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
class RecordingResult:
    """What became of one recording.

    Attributes:
        recording: which.
        status: "ok"; "short_read": it ended early, the chunks before that are here; "failed": no chunk could be
            read; "not_run": the run was stopped before its first chunk.
        reason: why it is not ok, in one line; None when it is.
        logits: float32 [chunks, classes], mean over the shifts; chunk i covers seconds 5 i to 5 i + 5.
        promised_chunks: how many the file's header promises; None when it cannot be opened.
        features: by output name, [chunks, width] or [windows, width]; empty unless asked for.
        window_start_s: with features per window, the start of each window in seconds; else empty.
        shifts: (chunks, shifts in seconds) of each audio block, in order.
        source_rate: sample rate of the file in Hz; None when it cannot be opened.
        promised_s: duration by the header; None when it cannot be opened.
        delivered_s: duration as decoded.
        windows: how many windows went through the network.
        seconds: where the time went.
    """

    recording: Recording
    status: Status
    reason: str | None
    logits: NDArray[np.float32]
    promised_chunks: int | None = None
    features: Features = field(default_factory=dict)
    window_start_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    shifts: tuple[tuple[int, tuple[float, ...]], ...] = ()
    source_rate: int | None = None
    promised_s: float | None = None
    delivered_s: float = 0.0
    windows: int = 0
    seconds: StageSeconds = field(default_factory=StageSeconds)

    @property
    def chunks_by_shifts(self) -> dict[int, int]:
        """How many chunks were run with how many shifts: {5: 12}."""
        counts: dict[int, int] = {}
        for chunks, shifts_s in self.shifts:
            counts[len(shifts_s)] = counts.get(len(shifts_s), 0) + chunks
        return counts

    @property
    def nbytes(self) -> int:
        """Bytes that the result's arrays hold."""
        return self.logits.nbytes + sum(values.nbytes for values in self.features.values())


@dataclass(frozen=True)
class BlockResult:
    """What the network says of one audio block; fields as in :class:`RecordingResult`."""

    logits: NDArray[np.float32]
    features: Features
    window_start_s: NDArray[np.float64]
    shifts_s: tuple[float, ...]
    windows: int
    seconds: StageSeconds
