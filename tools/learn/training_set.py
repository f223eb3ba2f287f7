"""From a folder of labelled recordings to rows that a head learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.errors import OptionsError, TableError
from bce.engine.network.bundle import Bundle
from bce.engine.tables.schema import row_id, whole_chunk_s
from bce.tools.data.datasets import CLIP_S, TAXONOMY, Clips, Soundscapes, read_clips, read_dataset
from bce.tools.learn.examples import Examples
from bce.tools.learn.features import FeatureOptions, FeatureTable, check_classes, read_features

OWN_WINDOW = (0.0,)
"""The shifts of a chunk's own window alone."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a folder gives to learn from.

    Attributes:
        examples: the rows.
        classes: in output order.
        row_ids: of each row: stem and end second.
        failed: recordings that could not be read, and why.
        shifted: the rows with the features of shifted windows, one entry for each shift that out-of-fold scores are a
            mean over; empty where they rest on the chunk's own window alone.
    """

    examples: Examples
    classes: tuple[str, ...]
    row_ids: tuple[str, ...]
    failed: dict[Path, str]
    shifted: tuple[Examples, ...] = ()


def read_training_set(
    root: Path,
    bundle: Bundle,
    cache: Path | None = None,
    options: FeatureOptions | None = None,
    *,
    score_shifts: tuple[float, ...] = OWN_WINDOW,
    rule: NameRule = BIRDCLEF,
    quiet: bool = True,
) -> TrainingSet:
    """Labels and features of a data set in BirdCLEF layout, or of a folder of class folders.

    Args:
        root: the folder.
        bundle: gives the features.
        cache, options, quiet: as in :func:`bce.tools.learn.features.read_features`.
        score_shifts: of the windows that out-of-fold scores are a mean over, in seconds.
        rule: how to read sites from the names of soundscapes.

    Raises:
        OptionsError: nothing there is labelled, a class has no clip that can be read, or the bundle's chunks are not
            whole seconds long.
        TableError: a table is not what it should be, or labels windows of another length than the bundle's.
    """
    clips: Clips | None
    train: Soundscapes | None
    if (root / TAXONOMY).is_file():
        data = read_dataset(root, rule)
        clips, train, classes = data.clips, data.train, data.taxonomy.labels
    else:
        clips, train = read_clips(root), None
        classes = clips.classes
    whole_chunk_s(bundle.manifest.grid)  # rows are named after whole seconds
    if train is not None:
        check_chunks(train, bundle.manifest.grid.chunk_s)
    parts: list[list[Examples]] = []
    ids: list[str] = []
    failed: dict[Path, str] = {}
    own = options or FeatureOptions()
    shifted = [] if score_shifts == OWN_WINDOW else [replace(own, shifts_s=(shift,)) for shift in score_shifts]
    for source in (clips, train):
        if source is None:
            continue
        of_source = []
        for one in (own, *shifted):
            table = read_features(source.paths, bundle, cache, one, quiet=quiet)
            if isinstance(source, Clips) and train is None:  # else the windows may have the class
                check_classes(source, table.failed)
            examples, row_ids = (
                _of_clips(source, table, classes) if isinstance(source, Clips) else _of_windows(source, table, classes)
            )
            of_source.append(examples)
        parts.append(of_source)
        ids += row_ids
        failed |= table.failed
    if not parts:
        raise OptionsError("has neither focal clips nor labelled soundscapes to train on", root)
    first, *others = (Examples.join(same) for same in zip(*parts, strict=True))
    return TrainingSet(first, classes, tuple(ids), failed, tuple(others))


def check_chunks(soundscapes: Soundscapes, chunk_s: float) -> None:
    """Refuse labels of windows that are not as long as a network's.

    Raises:
        TableError: naming both lengths.
    """
    windows = soundscapes.windows
    if windows.chunk_s != chunk_s:
        raise TableError(f"labels windows of {windows.chunk_s} s, the network hears {chunk_s:g} s", windows.path)


def _of_clips(clips: Clips, table: FeatureTable, classes: tuple[str, ...]) -> tuple[Examples, list[str]]:
    chunk_s = whole_chunk_s(table.grid)
    rows = np.flatnonzero(table.chunk * chunk_s < CLIP_S)
    of = table.recording[rows]
    present, known = clips.truth(classes)
    examples = Examples(
        {name: x[rows] for name, x in table.features.items()},
        present[of],
        known[of],
        of,
        np.full(len(rows), "", np.str_),
        np.zeros(len(rows), bool),
    )
    ends: NDArray[np.int64] = chunk_s * (table.chunk[rows] + 1)
    return examples, [row_id(clips.paths[r].stem, end_s) for r, end_s in zip(of, ends, strict=True)]


def _of_windows(soundscapes: Soundscapes, table: FeatureTable, classes: tuple[str, ...]) -> tuple[Examples, list[str]]:
    place = {(int(r), int(c)): row for row, (r, c) in enumerate(zip(table.recording, table.chunk, strict=True))}
    labelled = zip(soundscapes.recording, soundscapes.windows.chunks, strict=True)
    wanted = [place.get((int(r), int(c))) for r, c in labelled]
    windows = np.array([window for window, row in enumerate(wanted) if row is not None], dtype=np.int64)
    rows = np.array([row for row in wanted if row is not None], dtype=np.int64)
    present = soundscapes.windows.present(classes)[windows]
    examples = Examples(
        {name: x[rows] for name, x in table.features.items()},
        present,
        np.ones_like(present),
        soundscapes.recording[windows],
        np.array(soundscapes.windows.named_sites)[windows],
        np.ones(len(rows), bool),
    )
    return examples, [soundscapes.windows.row_ids[window] for window in windows]
