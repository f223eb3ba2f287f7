"""Labelled recordings in BirdCLEF layout, real or synthetic.

Focal clips carry the labels of a whole recording (one class that was meant, others behind it); labelled soundscapes
carry labels window by window, which :mod:`bce.tools.data.labels` reads. A plain folder of class folders is a set
of clips too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.audio.recordings import audio_files
from bce.engine.errors import OptionsError, TableError, one_line
from bce.engine.taxonomy import Taxonomy
from bce.tools.data.labels import WindowLabels, read_labels
from bce.tools.data.tables import read_table

TAXONOMY = "taxonomy.csv"
TRAIN = "train.csv"
TRAIN_AUDIO = "train_audio"
TRAIN_SOUNDSCAPES = "train_soundscapes"
TRAIN_LABELS = "train_soundscapes_labels.csv"
TEST_SOUNDSCAPES = "test_soundscapes"
TEST_LABELS = "test_labels.csv"
SECONDARY = "secondary_labels"
QUOTES = "a field that holds commas, such as a list, goes into quotes"

_LABEL = re.compile(r"'[^']*'|\"[^\"]*\"")
_LIST = re.compile(rf"\[\s*+(?:(?:{_LABEL.pattern})\s*+(?:,\s*+(?:{_LABEL.pattern})\s*+)*+,?\s*+)?+\]")

CLIP_S = 30
"""Of a focal clip so much is learnt from; the species that it is named after may be silent later."""


@dataclass(frozen=True, eq=False)
class Clips:
    """Focal clips, in the order of their table or of their paths.

    Attributes:
        paths: the recordings.
        labels: the class that each clip was made for.
        secondary: other classes heard in it; empty where nothing is known.
        path: the table or folder that they came from.
    """

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    secondary: tuple[frozenset[str], ...]
    path: Path

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes with clips, sorted."""
        return tuple(sorted(set(self.labels)))

    def present(self, classes: Sequence[str], *, secondary: bool = False) -> NDArray[np.bool_]:
        """Which classes each clip has, bool [clips, classes]. Labels of other classes are passed over.

        Args:
            classes: in output order.
            secondary: count the classes heard behind the one that was meant, too.
        """
        place = {name: i for i, name in enumerate(classes)}
        present = np.zeros((len(self), len(classes)), dtype=bool)
        for row, (label, others) in enumerate(zip(self.labels, self.secondary, strict=True)):
            heard = {label, *others} if secondary else {label}
            present[row, [place[name] for name in heard if name in place]] = True
        return present

    def truth(self, classes: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """What a window of each clip may be taught: which classes it has, and where that is to be believed.

        The class meant is taken to be there in each window; those behind it sing somewhere in the clip.

        Returns:
            present and known, each bool [clips, classes].
        """
        main, heard = self.present(classes), self.present(classes, secondary=True)
        return main, ~heard | main

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> Clips:
        """Some of the clips, in the order given."""
        chosen = [int(row) for row in rows]
        return Clips(
            tuple(self.paths[i] for i in chosen),
            tuple(self.labels[i] for i in chosen),
            tuple(self.secondary[i] for i in chosen),
            self.path,
        )


@dataclass(frozen=True, eq=False)
class Soundscapes:
    """Recordings with labelled windows.

    Attributes:
        windows: the labelled windows.
        folder: where the recordings lie.
    """

    windows: WindowLabels
    folder: Path

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The labelled recordings, each once, in the order in which they first appear."""
        return tuple(dict.fromkeys(self.folder / recording.path for recording in self.windows.recordings))

    @cached_property
    def recording(self) -> NDArray[np.int64]:
        """The place in ``paths`` of each window's recording, int64 [windows]: for folds grouped by recording."""
        place = {path: i for i, path in enumerate(self.paths)}
        return np.array([place[self.folder / recording.path] for recording in self.windows.recordings], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a folder in BirdCLEF layout holds; what is not there is None."""

    root: Path
    taxonomy: Taxonomy
    clips: Clips | None
    train: Soundscapes | None
    test: Soundscapes | None

    @cached_property
    def unseen_sites(self) -> frozenset[str]:
        """Sites of the test recordings that no labelled training recording comes from."""
        seen = set(self.train.windows.sites) if self.train else set()
        return frozenset(site for site in (self.test.windows.sites if self.test else ()) if site and site not in seen)


def read_dataset(root: str | os.PathLike[str], rule: NameRule = BIRDCLEF) -> Dataset:
    """Read all that a folder in BirdCLEF layout holds: taxonomy, focal clips, labelled soundscapes, hidden answers.

    Raises:
        OptionsError: the folder is missing, or holds no labelled recordings.
        TableError: a table is not what it should be, or names a recording that is not there.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise OptionsError("is no folder: expected a data set in BirdCLEF layout", folder)
    taxonomy = Taxonomy.read(folder / TAXONOMY)
    clips = read_clips(folder) if (folder / TRAIN_AUDIO).is_dir() else None
    train, test = (
        read_soundscapes(folder / table, folder / recordings, rule) if (folder / table).is_file() else None
        for table, recordings in ((TRAIN_LABELS, TRAIN_SOUNDSCAPES), (TEST_LABELS, TEST_SOUNDSCAPES))
    )
    if clips is None and train is None and test is None:
        raise OptionsError(
            f"holds neither {TRAIN_AUDIO}, {TRAIN_LABELS} nor {TEST_LABELS}: nothing is labelled", folder
        )
    return Dataset(folder, taxonomy, clips, train, test)


def read_clips(root: str | os.PathLike[str]) -> Clips:
    """Find focal clips: those of ``train.csv`` beside ``train_audio``, else the recordings in class folders.

    Args:
        root: a data set in BirdCLEF layout, or a folder whose folders are named after the classes of the recordings in
            them.

    Raises:
        OptionsError: the folder is missing, or holds no clips.
        TableError: ``train.csv`` lacks a column, or names a clip that is not there.
    """
    folder = Path(root)
    if (folder / TRAIN).is_file():
        return _clips_of_table(folder / TRAIN, folder / TRAIN_AUDIO)
    if (folder / TRAIN_AUDIO).is_dir():
        folder = folder / TRAIN_AUDIO
    if not folder.is_dir():
        raise OptionsError("is no folder: expected clips in folders named after their classes", folder)
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    paths = sorted(path for name in folders for path in audio_files(name) if path.parent == name)
    if not paths:
        raise OptionsError("holds no clips: expected recordings in folders named after their classes", folder)
    return Clips(tuple(paths), tuple(path.parent.name for path in paths), (frozenset(),) * len(paths), folder)


def read_soundscapes(
    labels: str | os.PathLike[str], folder: str | os.PathLike[str], rule: NameRule = BIRDCLEF
) -> Soundscapes:
    """Read labelled windows and find their recordings.

    Args:
        labels: a table like ``train_soundscapes_labels.csv``.
        folder: where the recordings lie.
        rule: how to read site and time from the file names.

    Raises:
        TableError: the table is not what it should be, or names a recording that is not there.
    """
    soundscapes = Soundscapes(read_labels(labels, rule), Path(folder))
    _check_there(soundscapes.paths, Path(labels))
    return soundscapes


def _clips_of_table(table: Path, audio: Path) -> Clips:
    paths, labels, secondary = [], [], []
    rows = read_table(table, ("primary_label", "filename"), "focal clips", optional=(SECONDARY,), hint=QUOTES)
    for line, row in rows:
        if not row["primary_label"] or not row["filename"]:
            raise TableError(f"line {line} names no clip or no class", table)
        paths.append(audio / row["filename"])
        labels.append(row["primary_label"])
        secondary.append(_label_list(row.get(SECONDARY, ""), line, table))
    if not paths:
        raise TableError("has no rows: expected focal clips", table)
    _check_there(paths, table)
    return Clips(tuple(paths), tuple(labels), tuple(secondary), table)


def _label_list(text: str, line: int, table: Path) -> frozenset[str]:
    """Labels out of a Python list as text, "['abc', 'def']"; nothing and "['']" are none."""
    if text.strip() and not _LIST.fullmatch(text.strip()):
        raise TableError(
            f"line {line} has the secondary labels {one_line(text, 40)!r}, expected a list such as ['abc', 'def']",
            table,
        )
    return frozenset(label[1:-1] for label in _LABEL.findall(text)) - {""}


def _check_there(paths: Sequence[Path], table: Path) -> None:
    # Path.is_file raises for a name that is too long; such a file is not there either
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        first = one_line(str(missing[0]), 300)
        raise TableError(f"names {len(missing)} of {len(paths)} recordings that are not there, first {first}", table)
