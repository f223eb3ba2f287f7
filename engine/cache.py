"""The user's cache of object code and of the numbers that it is held to: files that nobody else can have written.

Native code runs with all that the user may do. A folder or a file that somebody else owns or may write to is not read.
The files that were used last are kept.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

from bce.engine.files import UNFINISHED, cache_folder, write_private

KERNELS, NUMBERS = ".kernels", ".numbers"
"""How the names of files end."""

KEPT = 128
"""So many files stay: about 25 MB of large networks."""

_KNOWS_OWNERS = hasattr(os, "geteuid")
"""Whether the system says whose a file is: on Windows nothing is kept."""


def read(name: str) -> bytes | None:
    """A file of the cache; None where it cannot be had, or others can have written it."""
    if not _KNOWS_OWNERS:
        return None
    try:
        folder = cache_folder("kernels")
        path = folder / name
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            if _strange_folder(folder) or _strange(path, os.fstat(file.fileno())):
                return None
            content = file.read()
        with suppress(OSError):  # on a disk that cannot be written
            os.utime(path)
        return content
    except OSError:
        return None


def write(name: str, content: bytes) -> None:
    """Put a file into the cache and remove the oldest ones; where that cannot be done, only say so."""
    if not _KNOWS_OWNERS:
        return
    folder = None
    try:
        folder = cache_folder("kernels")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if trouble := _strange_folder(folder):
            _say_once(trouble)
            return
        write_private(folder / name, content)
        _prune(folder)
    except OSError as error:
        _say_once(str(error) if folder is None else f"{folder}: {error.strerror}")


def _strange_folder(folder: Path) -> str:
    """The same of the folder itself: where it is a link, somebody may have put it there for another folder's files."""
    if folder.is_symlink():
        return f"{folder} is a link: remove it, or set XDG_CACHE_HOME"
    return _strange(folder, os.lstat(folder))


def _strange(path: Path, found: os.stat_result) -> str:
    """Who else can have written something; nothing where nobody can."""
    if found.st_uid != os.geteuid():
        return f"{path} belongs to another user: remove it, or set XDG_CACHE_HOME"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written to by other users: remove it, or set XDG_CACHE_HOME"
    return ""


def _prune(folder: Path) -> None:
    """Keep the files that were used last; what a killed process left of a file goes the same way."""
    found = []
    ours = (entry for entry in os.scandir(folder) if entry.name.endswith((KERNELS, NUMBERS, UNFINISHED)))
    for entry in ours:
        with suppress(OSError):  # another process removed it
            found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path))
    for _, path in sorted(found, reverse=True)[KEPT:]:
        with suppress(OSError):
            os.unlink(path)


@cache
def _say_once(reason: str) -> None:
    logging.getLogger(__name__).warning("nothing is kept for the next start, which takes seconds more: %s", reason)
