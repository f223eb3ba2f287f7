"""Labelled windows in memory, as a backbone of Perch's family takes them: what it learns from and is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bce.engine.audio.reader import AudioReader
from bce.engine.errors import OptionsError
from bce.engine.frontends.perch import SHAPE, WINDOW, PerchFrontend, Preparation
from bce.engine.geometry import ChunkGrid
from bce.tools.data.datasets import CLIP_S, Clips, Dataset, Soundscapes
from bce.tools.learn.options import BackboneOptions
from bce.tools.learn.training_set import check_chunks


@dataclass(frozen=True, eq=False)
class Windows:
    """Labelled windows in memory, 128 kB each.

    Attributes:
        inputs: float16 [windows, time, mel], what the network takes.
        present: bool [windows, classes].
        known: bool [windows, classes]: where ``present`` is to be believed. A focal clip's other species sing
            somewhere in it, not in each of its windows.
    """

    inputs: NDArray[np.float16]
    present: NDArray[np.bool_]
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: NDArray[np.integer]) -> Windows:
        return Windows(self.inputs[rows], self.present[rows], self.known[rows])


def chunks_of(path: Path, limit: int | None = None, preparation: Preparation = "none") -> NDArray[np.float16]:
    """The inputs of a recording's chunks, float16 [chunks, time, mel]; a last one that is mostly padding is left out.

    Args:
        path: the recording.
        limit: how many chunks at most.
        preparation: of each window.

    Raises:
        AudioError: the recording cannot be read.
    """
    frontend = PerchFrontend(preparation)
    found: list[NDArray[np.float16]] = []
    with AudioReader(path, WINDOW.sample_rate, ChunkGrid(WINDOW.window_s)) as reader:
        for block in reader:
            opened = frontend.open(block.samples, block.start_sample)
            for chunk in range(block.first_chunk, block.first_chunk + block.chunks):
                if limit is None or chunk < limit:
                    window = np.empty(SHAPE, np.float32)
                    opened.window(chunk * WINDOW.samples, window)
                    found.append(window.astype(np.float16))
            if limit is not None and len(found) >= limit:
                break
        whole = max(1, round(reader.delivered_s / WINDOW.window_s))
    return np.stack(found[:whole])


def clip_windows(clips: Clips, classes: tuple[str, ...], *, quiet: bool = True) -> Windows:
    """The windows of focal clips: the class meant is there in each, those behind it are not known."""
    present, known = clips.truth(classes)
    limit = round(CLIP_S / WINDOW.window_s)
    parts = [chunks_of(path, limit) for path in tqdm(clips.paths, unit="clip", disable=True if quiet else None)]
    of = np.repeat(np.arange(len(clips)), [len(part) for part in parts])
    return Windows(np.concatenate(parts), present[of], known[of])


def soundscape_windows(
    soundscapes: Soundscapes, classes: tuple[str, ...], *, quiet: bool = True
) -> tuple[Windows, NDArray[np.int64]]:
    """The labelled windows of soundscapes, and the place of each one's recording.

    Raises:
        TableError: the labels are of windows of another length.
    """
    check_chunks(soundscapes, WINDOW.window_s)
    rows, parts = [], []
    chunk = soundscapes.windows.chunks
    for place, path in enumerate(tqdm(soundscapes.paths, unit="recording", disable=True if quiet else None)):
        inputs = chunks_of(path)
        own = np.flatnonzero(soundscapes.recording == place)
        own = own[chunk[own] < len(inputs)]
        rows.append(own)
        parts.append(inputs[chunk[own]])
    order = np.concatenate(rows)
    present = soundscapes.windows.present(classes)[order]
    return Windows(np.concatenate(parts), present, np.ones_like(present)), soundscapes.recording[order]


@dataclass(frozen=True, eq=False)
class TrainingWindows:
    """What a backbone learns from.

    Attributes:
        sources: windows of soundscapes and of focal clips, where there are some; a batch has an equal share of each.
        balance: the chance of each window of each source, float64 [windows].
        held: windows of soundscapes to judge by; None where there are none.
    """

    sources: list[Windows]
    balance: list[NDArray[np.float64]]
    held: Windows | None


def read_windows(data: Dataset, options: BackboneOptions, *, quiet: bool = True) -> TrainingWindows:
    """All labelled windows of a data set, into memory.

    Raises:
        OptionsError: the data set has nothing to train on.
    """
    classes = data.taxonomy.labels
    sources: list[Windows] = []
    balance: list[NDArray[np.float64]] = []
    held: Windows | None = None
    if data.train is not None:
        every, recording = soundscape_windows(data.train, classes, quiet=quiet)
        is_held = recording % options.held_out == options.held_out - 1
        held = every.take(np.flatnonzero(is_held)) if is_held.any() else None
        sources.append(every.take(np.flatnonzero(~is_held)))
        balance.append(np.full(len(sources[-1]), 1 / len(sources[-1])))
    if data.clips is not None:
        sources.append(clip_windows(data.clips, classes, quiet=quiet))
        present = sources[-1].present
        weight = (present / np.maximum(present.sum(axis=0), 1)).sum(axis=1)
        balance.append(weight / weight.sum())
    if not sources:
        raise OptionsError("has neither focal clips nor labelled soundscapes to train on", data.root)
    return TrainingWindows(sources, balance, held)
