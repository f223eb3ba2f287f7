"""A pass of the scheduler with a network that only says which block it was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from bce.engine.audio.reader import AudioBlock
from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.results import BlockResult, RecordingResult, StageSeconds, whole_recordings
from bce.engine.run.pace import SteadyPace, Stop
from bce.engine.run.scheduler import Scheduler

RATE = 32_000
GRID = ChunkGrid(5.0)


def write(folder: Path, name: str, seconds: float, value: float) -> Recording:
    """A recording of one constant value, so that a block tells whose it is."""
    path = folder / f"{name}.wav"
    soundfile.write(path, np.full(round(seconds * RATE), value, np.float32), RATE, subtype="FLOAT")
    return Recording(path, name)


def rows(block: AudioBlock) -> BlockResult:
    """A row per chunk: the recording's value, and which chunk it is."""
    chunks = np.arange(block.first_chunk, block.first_chunk + block.chunks, dtype=np.float32)
    values = np.full(block.chunks, block.samples[len(block.samples) // 8], np.float32)
    return BlockResult(
        np.stack([values, chunks], axis=1), {}, np.empty(0), (0.0,), block.chunks, StageSeconds(inference=1.0)
    )


def run(recordings: list[Recording], compute=lambda block, shifts: rows(block), **more) -> list[RecordingResult]:
    options = {"pace": SteadyPace((0.0,)), "threads": 2, "stop": Stop(), "classes": 2} | more
    return list(whole_recordings(Scheduler(recordings, compute, **options, sample_rate=RATE, grid=GRID).parts()))
