"""Sounds for tests: seeded, different from each other, with structure that a network can follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

RATE = 32_000


def sound(seconds: float, seed: int, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Notes over noise, different for each seed; float64 [samples] or [samples, channels] below full scale."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    out = np.empty((len(t), channels))
    for channel in range(channels):
        tone, pace = rng.uniform(500, 7000), rng.uniform(0.5, 4.0)
        notes = np.sin(2 * np.pi * tone * t) * (np.sin(2 * np.pi * pace * t) > 0.3)
        out[:, channel] = 0.3 * notes + 0.02 * rng.standard_normal(len(t))
    return out[:, 0] if channels == 1 else out


def write_sound(path: Path, seconds: float, seed: int, rate: int = RATE, channels: int = 1) -> Path:
    """Write :func:`sound` in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = sound(seconds, seed, rate, channels)
    with soundfile.SoundFile(path, "w", rate, channels) as file:
        for start in range(0, len(samples), rate):  # libsndfile's Vorbis encoder overflows its stack on long writes
            file.write(samples[start : start + rate])
    return path
