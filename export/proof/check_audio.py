"""Windows to prove a conversion on: recordings of the user's or natural-like synthetic audio, and extremes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from bce.engine.audio.reader import AudioReader
from bce.engine.audio.recordings import audio_files
from bce.engine.errors import AudioError
from bce.engine.geometry import ChunkGrid, WindowSpec

WINDOWS_PER_RECORDING = 4
MOST_RECORDINGS = 12
"""Windows are taken from this many recordings at most, spread evenly over those given: a proof, not a survey."""


@dataclass(frozen=True)
class CheckInput:
    """Some windows under one name: float32 [windows, samples]. ``natural`` ones must pass end to end."""

    name: str
    natural: bool
    waveforms: NDArray[np.float32]


def check_inputs(window: WindowSpec, recordings: Sequence[str | os.PathLike[str]] = ()) -> list[CheckInput]:
    """The windows of a proof: natural ones first, then the extremes.

    Args:
        window: rate and length of the model's windows.
        recordings: files and folders of recordings; none for synthetic audio.

    Raises:
        OptionsError: a path does not exist.
        AudioError: a folder holds no recordings, or a recording cannot be read.
    """
    natural = list(_recorded(window, recordings)) if recordings else list(_synthetic(window))
    return natural + list(_extremes(window, natural[0].waveforms[0]))


def _recorded(window: WindowSpec, paths: Sequence[str | os.PathLike[str]]) -> Iterator[CheckInput]:
    found = [file for path in paths for file in recordings_in(path)]
    spread = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_RECORDINGS)).round().astype(int))
    for place in spread:
        path = found[place]
        with AudioReader(path, window.sample_rate, ChunkGrid(window.window_s)) as reader:
            samples = next(reader).samples
        windows = samples.reshape(-1, window.samples)
        chosen = np.unique(np.linspace(0, len(windows) - 1, WINDOWS_PER_RECORDING).round().astype(int))
        yield CheckInput(path.name, True, np.ascontiguousarray(windows[chosen]))


def recordings_in(path: str | os.PathLike[str]) -> list[Path]:
    """The recordings of a path. Names may repeat, unlike in a run: no rows are named after them.

    Raises:
        OptionsError: there is no such path.
        AudioError: it holds no recordings.
    """
    files = list(audio_files(path))
    if not files:
        raise AudioError("holds no recordings to check with", path)
    return files


def _synthetic(window: WindowSpec) -> Iterator[CheckInput]:
    """Seeded audio with the spectra and envelopes of soundscapes: a falling noise floor under calls of some kinds."""
    rng = np.random.default_rng(20)
    time_s = np.arange(window.samples) / window.sample_rate

    def floor(level: float) -> NDArray[np.float64]:
        noise = signal.lfilter([1.0], [1.0, -0.95], rng.standard_normal(window.samples))
        return level * noise / np.abs(noise).max()

    def calls(low_hz: float, high_hz: float, rate_hz: float, harmonics: int) -> NDArray[np.float64]:
        sweep = low_hz + (high_hz - low_hz) * signal.sawtooth(2 * np.pi * rate_hz * time_s, 0.5) / 2
        phase = 2 * np.pi * np.cumsum(sweep) / window.sample_rate
        envelope = np.clip(np.sin(2 * np.pi * rate_hz / 3 * time_s), 0, None) ** 2
        return envelope * sum(np.sin(k * phase) / k**2 for k in range(1, harmonics + 1))

    for name, waveform in (
        ("whistles", floor(0.02) + 0.3 * calls(3000, 4500, 1.7, 1)),
        ("harmonic calls", floor(0.05) + 0.2 * calls(600, 900, 2.3, 6)),
        ("trills", floor(0.01) + 0.1 * calls(5000, 8000, 14.0, 2)),
        ("rain", floor(0.2) + 0.05 * rng.standard_normal(window.samples)),
        ("distant", floor(0.004) + 0.002 * calls(2000, 2600, 1.1, 3)),
    ):
        yield CheckInput(f"synthetic {name}", True, waveform.astype(np.float32)[None])


def _extremes(window: WindowSpec, natural: NDArray[np.float32]) -> Iterator[CheckInput]:
    rng = np.random.default_rng(21)
    time_s = np.arange(window.samples) / window.sample_rate
    loud = natural / max(float(np.abs(natural).max()), 1e-6)
    for name, waveform in (
        ("silence", np.zeros(window.samples)),
        ("DC offset", np.clip(natural * 0.5 + 0.5, -1, 1)),
        ("clipping", np.clip(loud * 20, -1, 1)),
        ("full-scale noise", rng.uniform(-1, 1, window.samples)),
        ("full-scale 1 kHz tone", np.sin(2 * np.pi * 1000 * time_s)),
        ("full-scale 11 kHz tone", np.sin(2 * np.pi * 11_025 * time_s)),
    ):
        yield CheckInput(name, False, np.asarray(waveform, np.float32)[None])
