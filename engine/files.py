"""Files that are whole or not there: written beside their place and renamed, hashed, refused early."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bce.engine.errors import OptionsError

StrPath = str | os.PathLike[str]


class Beside:
    """A file that grows beside its place, for writers that live longer than a block of code.

    Attributes:
        path: where the file belongs.
        partial: where it is written.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self.partial = _partial(self.path)

    def keep(self) -> None:
        """The file is whole: give it its name."""
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Remove what was written; what stands at the place stays as it is."""
        self.partial.unlink(missing_ok=True)


@contextmanager
def beside(path: StrPath) -> Iterator[Path]:
    """A name beside ``path`` to write to. It becomes ``path`` at the end of the block, or is gone where that raises."""
    file = Beside(path)
    try:
        yield file.partial
        file.keep()
    except BaseException:
        file.discard()
        raise


def write_bytes(path: StrPath, content: bytes) -> None:
    """Write a file beside its place, then rename it."""
    with beside(path) as partial:
        partial.write_bytes(content)


def write_text(path: StrPath, text: str) -> None:
    """Write UTF-8 text beside its place, then rename it."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: StrPath, content: Any, indent: int = 2) -> None:
    """Write JSON with a final newline beside its place, then rename it."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


@contextmanager
def folder_beside(out: StrPath) -> Iterator[Path]:
    """A new folder beside ``out``, moved into its place at the end of the block, or gone where that raises.

    A folder that stands there already is moved away before and deleted after, or put back.
    """
    place = Path(os.path.realpath(out))  # of a link: the folder that it points to
    folder = _partial(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        _into_place(folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _into_place(folder: Path, place: Path) -> None:
    if not place.exists():
        os.rename(folder, place)
        return
    old = place.with_name(f"{place.name}.old-{os.getpid()}")
    os.rename(place, old)
    try:
        os.rename(folder, place)
    except BaseException:
        os.rename(old, place)
        raise
    shutil.rmtree(old)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial-{os.getpid()}")


def check_place(out: StrPath) -> None:
    """Refuse a file that could not be written.

    Raises:
        OptionsError: its folder does not exist or is not writable, or it is a folder itself.
    """
    path = Path(out)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OptionsError("its folder does not exist: make it first", path)
    if not os.access(folder, os.W_OK):
        raise OptionsError("its folder is not writable: choose another place", path)
    if path.is_dir():
        raise OptionsError("is a folder, expected the name of a file to write", path)


def sha256(path: StrPath) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
