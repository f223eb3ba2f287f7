"""Published files as sources of bundles: what every family's reader fills alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError

UNKNOWN = "unknown"
"""The licence of a file that does not state one."""
PERMISSIVE = frozenset({"Apache-2.0"})
"""Licences that are known to let a bundle be passed on, by their SPDX names."""

SPECTROGRAM = "spectrogram"
"""What a reference calls the network's input."""

W = TypeVar("W")


class CannotRun(ExportError):
    """A source was read but cannot be run on this machine."""


class Reference(Protocol):
    """The source itself, run on windows. An attribute ``notes``, if there is one, holds lines for the proof."""

    def __call__(self, waveforms: NDArray[np.float32], /) -> dict[str, NDArray[np.float32]]:
        """Run the source.

        Args:
            waveforms: samples [n, samples of a window] at the family's rate; n may be any positive number.

        Returns:
            "spectrogram" [n, *shape of the network's input]; "block_{k}" [n, channels], the mean over time and mel, for
            every requested block; "embedding" [n, channels] and "label" [n, classes] where requested and where the
            source has them.
        """
        ...


Runner = Callable[[Sequence[int], Sequence[str]], Reference | None]


def _cannot_run(blocks: Sequence[int], outputs: Sequence[str]) -> Reference | None:
    return None


@dataclass(frozen=True)
class Source(Generic[W]):
    """A published file that has been read and found to be a family's network.

    Attributes:
        path: the file or folder.
        sha256: of the file; of the list of its files where there are several, see :func:`digest_of`.
        form: "onnx", "saved_model", "tflite", ...
        licence: that of the published file where it is one, else what the file says, else "unknown".
        notice: what the file wants to be shown wherever its scores are; empty otherwise.
        weights: the family's own, checked.
        runner: what :meth:`reference` calls; each reader gives its own.
        notes: what the proof of a bundle should say of this source, a line each.
        lossy: whether its weights were rounded to fewer bits than the published ones.
        may_redistribute: whether the licence lets a bundle be passed on; None where that is not known.
    """

    path: Path
    sha256: str
    form: str
    licence: str
    notice: str
    weights: W
    runner: Runner = field(default=_cannot_run, repr=False, compare=False)
    notes: tuple[str, ...] = ()
    lossy: bool = False
    may_redistribute: bool | None = None

    def reference(self, blocks: Sequence[int], outputs: Sequence[str] = ()) -> Reference | None:
        """The source itself, ready to run, or None when its form cannot run here.

        Args:
            blocks: the blocks whose features are wanted, by index.
            outputs: any of "embedding" and "label"; those that the source does not have are left out.

        Raises:
            CannotRun: with the reason, where there is one to tell.
        """
        return self.runner(blocks, outputs)


def redistribution(licence: str) -> bool | None:
    """Whether a licence lets a bundle be passed on; None for one that is not known here."""
    return True if licence in PERMISSIVE else None


def digest_of(files: Mapping[str, str]) -> str:
    """One SHA-256 for files: a single one's own, else that of the lines ``sha256sum`` prints for them, sorted by name.

    Args:
        files: the SHA-256 of each file by its name.
    """
    if len(files) == 1:
        return next(iter(files.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
