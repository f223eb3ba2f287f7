"""Labelled rows of block features, and the folds that they are split into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.tools.learn.options import GroupBy


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled rows to learn from, a chunk each.

    Attributes:
        features: float32 [rows, width] by block, in the order that the head takes them.
        present: bool [rows, classes].
        known: bool [rows, classes]: where ``present`` is to be believed.
        recording: int64 [rows], any number that tells recordings apart.
        site: of each row; "" where it is not known.
        soundscape: bool [rows]: rows of soundscapes, labelled window by window; the others are of focal clips.
    """

    features: dict[str, NDArray[np.float32]]
    present: NDArray[np.bool_]
    known: NDArray[np.bool_]
    recording: NDArray[np.int64]
    site: NDArray[np.str_]
    soundscape: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    @property
    def blocks(self) -> dict[str, int]:
        return {name: x.shape[1] for name, x in self.features.items()}

    @property
    def judged(self) -> NDArray[np.bool_]:
        """The rows that AUC is taken on: the soundscapes', or all where there are none."""
        return self.soundscape if self.soundscape.any() else np.ones(len(self), bool)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the soundscapes, sorted."""
        return tuple(sorted(set(self.site[self.soundscape].tolist())))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Examples:
        return Examples(
            {name: x[rows] for name, x in self.features.items()},
            self.present[rows],
            self.known[rows],
            self.recording[rows],
            self.site[rows],
            self.soundscape[rows],
        )

    @staticmethod
    def join(parts: Sequence[Examples]) -> Examples:
        """All rows of some examples with the same blocks and classes; their recordings stay apart."""
        above, recordings = 0, []
        for part in parts:
            recordings.append(part.recording + above)
            above += int(part.recording.max(initial=-1)) + 1
        return Examples(
            {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
            np.concatenate([part.present for part in parts]),
            np.concatenate([part.known for part in parts]),
            np.concatenate(recordings),
            np.concatenate([part.site for part in parts]),
            np.concatenate([part.soundscape for part in parts]),
        )


def split(examples: Examples, folds: int, by: GroupBy, seed: int) -> NDArray[np.int64]:
    """The fold of each row, int64 [rows], each group in one fold.

    Focal clips are dealt class by class, so that each fold has its share of each. Soundscapes are dealt at random, or
    by site with the largest site first to the smallest fold.

    Raises:
        OptionsError: there are fewer recordings, or fewer sites, than folds.
    """
    rng = np.random.default_rng([seed, folds])
    fold = np.zeros(len(examples), np.int64)
    _, first, of = np.unique(examples.recording, return_index=True, return_inverse=True)
    if len(first) < folds:
        raise OptionsError(f"{len(first)} recordings cannot make {folds} folds")
    order = rng.permutation(len(first))
    main = examples.present[first].argmax(axis=1)
    clips = [place for place in order if not examples.soundscape[first[place]]]
    soundscapes = [place for place in order if examples.soundscape[first[place]]]
    per_recording = np.zeros(len(first), np.int64)
    per_recording[sorted(clips, key=lambda place: main[place])] = np.arange(len(clips)) % folds
    per_recording[soundscapes] = np.arange(len(soundscapes)) % folds
    fold = per_recording[of]
    if by == "site" and examples.soundscape.any():
        sites, count = np.unique(examples.site[examples.soundscape], return_counts=True)
        if len(sites) < folds:
            raise OptionsError(f"{len(sites)} sites cannot make {folds} folds")
        size = np.zeros(folds, np.int64)
        for place in np.argsort(-count, kind="stable"):
            smallest = int(size.argmin())
            size[smallest] += count[place]
            fold[examples.soundscape & (examples.site == sites[place])] = smallest
    return fold


def fold_count(examples: Examples, folds: int, by: GroupBy) -> int:
    """The folds that were asked for, but no more than there are sites to hold out."""
    sites = len(examples.sites)
    return min(folds, sites) if by == "site" and sites else folds
