"""Recordings for tests of the reader, and what it makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from bce.engine.audio.decoder import Decoder
from bce.engine.audio.reader import AudioReader
from bce.engine.errors import AudioError
from bce.engine.geometry import ChunkGrid

RATE = 32_000
CHUNK = 5 * RATE
GRID = ChunkGrid(5.0)


def sweep(duration_s: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Samples [frames, channels]: a wandering tone in noise, different in every channel."""
    random = np.random.default_rng(seed)
    time = np.arange(round(duration_s * rate)) / rate
    tone = 0.2 * np.sin(2 * np.pi * 700 * time + 60 * np.sin(3 * time))
    return (tone[:, None] + 0.02 * random.standard_normal((len(time), channels))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def read(path: Path, context_s: float = 0.0, block_chunks: int = 12):
    with AudioReader(path, RATE, GRID, context_s, block_chunks) as reader:
        return list(reader), reader


def joined(blocks) -> np.ndarray:
    """The padded recording, put together from blocks that may overlap."""
    whole = np.full(blocks[-1].total_samples, np.nan, np.float32)
    for block in blocks:
        part = whole[block.start_sample : block.start_sample + len(block.samples)]
        known = ~np.isnan(part)
        np.testing.assert_array_equal(part[known], block.samples[known])
        part[:] = block.samples
    assert not np.isnan(whole).any()
    return whole


def decoded(path: Path) -> tuple[np.ndarray, str | None]:
    """All that a recording gives at its own rate, and what is wrong with it."""
    try:
        decoder = Decoder(path)
    except AudioError as error:
        return np.empty(0, np.float32), error.reason
    pieces = list(decoder.mono())
    decoder.close()
    return np.concatenate([np.empty(0, np.float32), *pieces]), decoder.problem
