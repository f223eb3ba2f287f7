"""Where a bundle may be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

from bce.engine.errors import BundleError
from bce.engine.network.bundle import CLASSES, MANIFEST, PARITY, PRIORS, bundle_around

Given = str | os.PathLike[str]


class BundleOptions(Protocol):
    """What the options of every family's exports have in common."""

    @property
    def out(self) -> Given:
        """The bundle's folder."""

    @property
    def force(self) -> bool:
        """Whether a bundle that is there is replaced."""

    @property
    def inputs(self) -> tuple[Given, ...]:
        """Every file and folder that is read, apart from recordings."""

    @property
    def recordings(self) -> tuple[Given, ...]:
        """Recordings and folders of them that are read."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Of the backbone: "fp32", and "int8" beside it where wanted."""

    @property
    def calibrate(self) -> tuple[Given, ...]:
        """Recordings and folders on which int8 is made and judged."""

    @property
    def priors(self) -> Given | None:
        """A table of site and hour to go into the bundle."""


def check_place(options: BundleOptions) -> None:
    """Refuse early to write where something is, or where nothing can be written.

    Raises:
        BundleError: naming the place and what is in the way.
    """
    out = Path(options.out)
    place = Path(os.path.realpath(out))
    for given in options.inputs:
        source = Path(os.path.realpath(given))
        if place in (source, *source.parents):
            raise BundleError(f"is to be written, and is or holds the input {given}: choose another place", out)
        if source in place.parents and source.is_dir():
            raise BundleError(f"lies in the input {given}: choose another place", out)
    for given in options.recordings:
        source = Path(os.path.realpath(given))
        if place in (source, *source.parents):
            raise BundleError(f"is to be written, and is or holds the recordings {given}: choose another place", out)
    if (around := bundle_around(place.parent)) is not None:
        raise BundleError(f"lies in the bundle {around}: choose another place", out)
    there = next(folder for folder in place.parents if os.path.lexists(folder))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise BundleError(f"cannot be written: {there} is not a folder that can be written to", out)
    if not os.path.lexists(out):
        return
    if not (out / MANIFEST).is_file():
        raise BundleError("is there and is not a bundle: choose another place, it is left alone", out)
    if not options.force:
        raise BundleError("is there already: choose another place, or --force to replace it", out)
    if strange := _not_of_the_bundle(out):
        raise BundleError(f"holds {strange[0]}, which is no part of the bundle and would be deleted: move it away", out)


def _not_of_the_bundle(folder: Path) -> list[str]:
    """What lies in a bundle's folder and is none of its files."""
    try:
        files = set(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        files = {CLASSES, PRIORS, PARITY, *(path.name for path in folder.glob("*.onnx"))}
    return sorted(set(os.listdir(folder)) - files - {MANIFEST})
