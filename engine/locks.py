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
    descriptor, place = _lock(Path(path))
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # its folder has gone
                os.unlink(place)
            os.close(descriptor)


def _lock(path: Path) -> tuple[int | None, Path]:
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    place = Path(os.path.realpath(path.parent)) / f".bce-{name}.lock"
    while fcntl is not None:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise OptionsError(f"{holder} is writing it: wait for its end, or give another name", path) from None
        except OSError:
            os.close(descriptor)
            os.unlink(place)
            break
        if _is_there(place, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
            return descriptor, place
        os.close(descriptor)  # whoever held it removed it between the two calls
    return None, place


def _is_there(place: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(place), os.fstat(descriptor))
    except FileNotFoundError:
        return False
