"""What calibration windows are cut from: recordings that are no copies of each other, and windows that sound."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.reader import AudioReader
from bce.engine.audio.recordings import audio_files
from bce.engine.errors import AudioError, OptionsError
from bce.engine.geometry import ChunkGrid, WindowSpec, plan_windows

Samples = NDArray[np.float32]

SILENT_DB = -80.0
"""RMS about the mean, re full scale: what lies below has less than 3 bits of 16 that move."""
_PEEK = 1 << 16
"""Bytes at the beginning, middle and end of a file, by which most that differ are told apart."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A window that sounds.

    Attributes:
        start: its first sample in the recording.
        samples: float32 [samples] at the window's rate.
        level_db: see :func:`level_db`.
    """

    start: int
    samples: Samples
    level_db: float


@dataclass(frozen=True, eq=False)
class Heard:
    """What was found in a recording.

    Attributes:
        path: of it.
        source_rate: of the file, in Hz.
        spread: windows that sound, spread evenly over those that do.
        quietest: those of the lowest level, lowest first.
        sounding, silent: how many windows there are of either kind.
        whole: whether the recording was read to its end.
    """

    path: Path
    source_rate: int
    spread: tuple[Cut, ...]
    quietest: tuple[Cut, ...]
    sounding: int
    silent: int
    whole: bool


def counted(count: int, what: str) -> str:
    """A number of things: "1 window", "2 windows"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def level_db(samples: Samples) -> float:
    """RMS about the mean in dB re full scale: a constant is silent."""
    exact = samples.astype(np.float64)
    return float(20 * np.log10(max(float(exact.std()), 1e-10)))


def recordings_of(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[Path], int]:
    """The recordings of files and folders, of several with the same bytes the first; and how many were copies.

    Raises:
        OptionsError: a path does not exist, or none was given.
        AudioError: one holds no recordings.
    """
    found: list[Path] = []
    for path in paths:
        here = list(audio_files(path))
        if not here:
            raise AudioError(
                "holds no recordings to calibrate int8 on: give audio files, or folders that hold some", path
            )
        found += here
    if not found:
        raise OptionsError("no recordings to calibrate int8 on: give audio files, or folders that hold some")
    # most files differ in their sizes, and almost all others in a few places of them
    alike: list[list[int]] = [list(range(len(found)))]
    for key in (_size, _peek, _digest):
        alike = [same for places in alike for same in _alike(places, [key(found[place]) for place in places])]
    copies = {place for places in alike for place in places[1:]}
    return [path for place, path in enumerate(found) if place not in copies], len(copies)


def _alike(places: Sequence[int], keys: Sequence[Hashable]) -> list[list[int]]:
    """The places whose keys are those of others."""
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in zip(places, keys, strict=True):
        by_key[key].append(place)
    return [same for same in by_key.values() if len(same) > 1]


def _size(path: Path) -> Hashable:
    try:
        return path.stat().st_size
    except OSError:
        return path  # nothing else is like it; reading it says what is wrong


def _peek(path: Path) -> Hashable:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            parts = []
            for place in (0, size // 2, max(0, size - _PEEK)):
                file.seek(place)
                parts.append(sha256(file.read(_PEEK)).digest())
            return tuple(parts)
    except OSError:
        return path


def _digest(path: Path) -> Hashable:
    state = sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                state.update(piece)
    except OSError:
        return path
    return state.digest()


def heard(path: Path, window: WindowSpec, wanted: int, most_s: float) -> Heard:
    """The windows of a recording that sound, decoded and placed as the engine does it: some of them all over it.

    Args:
        path: of the recording.
        window: rate and length.
        wanted: at least so many, where there are as many, and at most twice; and as many of the quietest.
        most_s: of its audio are read, from the beginning, to the end of an audio block.

    Raises:
        AudioError: it cannot be read, or not to its end.
    """
    grid = ChunkGrid(window.window_s)
    spread: list[Cut] = []
    quietest: list[Cut] = []
    sounding = silent = 0
    every = 1  # of the windows that sound, this one is kept
    with AudioReader(path, window.sample_rate, grid) as reader:
        whole = False
        for block in reader:
            starts = plan_windows(window, grid, block.first_chunk, block.chunks, (0.0,), block.total_samples).starts
            for start in starts:
                at = int(start) - block.start_sample
                samples = block.samples[at : at + window.samples]
                level = level_db(samples)
                if level < SILENT_DB:
                    silent += 1
                    continue
                kept = sounding % every == 0
                sounding += 1
                if kept or len(quietest) < wanted or level < quietest[-1].level_db:
                    cut = Cut(int(start), samples.copy(), level)
                    quietest = sorted([*quietest, cut], key=lambda one: one.level_db)[:wanted]
                    spread += [cut] if kept else []
                if len(spread) > 2 * wanted:
                    spread, every = spread[::2], 2 * every
            whole = block.is_last
            if (block.first_chunk + block.chunks) * grid.chunk_s >= most_s:
                break
        if reader.problem is not None:
            raise AudioError(reader.problem, path)
        return Heard(path, reader.source_rate, tuple(spread), tuple(quietest), sounding, silent, whole)
