"""One process at a time writes a file: who comes second is refused before it runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bce.engine.errors import OptionsError
from bce.engine.files import StrPath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(path: StrPath) -> Iterator[None]:
    """Hold a place to write for the time of the block.

    The system's lock on a small hidden file beside it does that. It ends with the process, however that ends: a file
    that a killed run leaves behind holds nothing. On file systems without locks nothing is held.

    Raises:
        OptionsError: another process holds it; with its number.
    """
    if fcntl is None:
        yield
        return
    place = Path(path)
    name = f".bce-{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16]}.lock"
    folder = os.open(place.parent, os.O_RDONLY)  # by which it is found again where it is renamed meanwhile
    try:
        lock = _lock(place, name, folder)
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):  # its folder has gone
                    os.unlink(name, dir_fd=folder)
                os.close(lock)
    finally:
        os.close(folder)


def _lock(path: Path, name: str, folder: int) -> int | None:
    """The open, locked file; None where there are no locks."""
    while True:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(lock)
            raise OptionsError(f"{holder} is writing it: wait for its end, or give another name", path) from None
        except OSError:
            os.close(lock)
            os.unlink(name, dir_fd=folder)
            return None
        if _is_there(name, folder, lock):
            with suppress(OSError):  # the disk is full: it holds without saying who
                os.ftruncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
            return lock
        os.close(lock)  # whoever held it removed it between the two calls


def _is_there(name: str, folder: int, lock: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=folder), os.fstat(lock))
    except FileNotFoundError:
        return False
