"""Weights out of a published file, whatever its form.

:func:`read_source` looks at the file, chooses the reader, and returns a :class:`SourceModel`: the weights that every
reader fills alike, where they come from, and a way to run the source itself, so that what is made of the weights can
be compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.engine.files import sha256
from bce.export.perch.download import PUBLISHED
from bce.export.perch.weights import Weights

PERCH_LICENCE = "Apache-2.0"


class CannotRun(ExportError):
    """A source was read but cannot be run on this machine."""


class Reference(Protocol):
    """The source itself, run on windows. An attribute ``notes``, if there is one, holds lines for the proof."""

    def __call__(self, waveforms: NDArray[np.float32], /) -> dict[str, NDArray[np.float32]]:
        """Run the source.

        Args:
            waveforms: samples [n, 160000] at 32 kHz; n may be any positive number.

        Returns:
            "spectrogram" [n, 500, 128]; "block_{k}" [n, channels], the mean over time and mel, for every requested
            block; "embedding" [n, 1536] and "label" [n, classes] where requested and where the source has them.
        """
        ...


Runner = Callable[[Sequence[int], Sequence[str]], Reference | None]


def _cannot_run(blocks: Sequence[int], outputs: Sequence[str]) -> Reference | None:
    return None


@dataclass(frozen=True)
class SourceModel:
    """A published file that has been read and found to be the expected network.

    Attributes:
        path: the file or folder.
        sha256: of the file; of the list of its files for a folder.
        form: "onnx", "saved_model" or "tflite".
        licence: "Apache-2.0" for the published files, else what the file says, else "unknown".
        notice: what the file wants to be shown wherever its scores are; empty otherwise.
        weights: checked by :func:`bce.export.perch.weights.check`.
        runner: what :meth:`reference` calls; each reader gives its own.
        notes: what the proof of a bundle should say of this source, a line each.
        lossy: whether its weights were rounded to fewer bits than the published ones.
    """

    path: Path
    sha256: str
    form: str
    licence: str
    notice: str
    weights: Weights
    runner: Runner = field(default=_cannot_run, repr=False, compare=False)
    notes: tuple[str, ...] = ()
    lossy: bool = False

    def reference(self, blocks: Sequence[int], outputs: Sequence[str] = ()) -> Reference | None:
        """The source itself, ready to run, or None when its form cannot run here.

        Args:
            blocks: the blocks whose features are wanted, any of 0..25.
            outputs: any of "embedding" and "label"; those that the source does not have are left out.

        Raises:
            CannotRun: with the reason, where there is one to tell.
        """
        return self.runner(blocks, outputs)


def read_source(path: str | Path) -> SourceModel:
    """Read a published Perch v2 file.

    Raises:
        ExportError: the file is missing, damaged, of another kind, or not the expected network; the message names
            the first thing that differs.
    """
    path = Path(path)
    if path.is_dir():
        return _saved_model(path)
    if not path.is_file():
        raise ExportError("does not exist: give a Perch v2 ONNX or TFLite file, or a SavedModel folder", path)
    if _is_tflite(path):
        return _tflite(path)
    from bce.export.readers.onnx_reader import read_onnx

    found = read_onnx(path)
    digest = sha256(path)
    published = any(digest == file.sha256 for file in PUBLISHED.values())
    stated = next((found.metadata[key] for key in ("license", "licence") if found.metadata.get(key)), "unknown")
    return SourceModel(
        path=path,
        sha256=digest,
        form="onnx",
        licence=PERCH_LICENCE if published else stated,
        notice=found.metadata.get("notice", ""),
        weights=found.weights,
        runner=found.reference,
    )


def _saved_model(path: Path) -> SourceModel:
    from bce.export.perch.saved_model import read_saved_model

    found = read_saved_model(path)
    return SourceModel(path, found.digest, "saved_model", "unknown", "", found.weights, found.reference, found.notes)


def _is_tflite(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8)[4:] == b"TFL3" or path.suffix == ".tflite"


def _tflite(path: Path) -> SourceModel:
    from bce.export.readers.tflite_reader import read_tflite

    found = read_tflite(path)
    notes, lossy = found.notes, bool(found.notes)
    return SourceModel(path, sha256(path), "tflite", "unknown", "", found.weights, found.reference, notes, lossy)
