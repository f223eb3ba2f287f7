"""Files that are whole or not there: written beside their place and renamed, hashed, refused early.

Names beside a place are new ones that nobody can foresee, and are opened only where nothing has them: what lies there
is never written to, and a symbolic link is never followed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from bce.engine.errors import OptionsError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

StrPath = str | os.PathLike[str]

UNFINISHED = ".partial"
"""How the name of a file ends that is being written, or that a killed process left."""
_NAME_CHARS = 50
"""So much of a file's own name is in a name beside it: at four bytes a character, 255 bytes are never exceeded."""


class _Growing:
    """A file that is written from its beginning to its end, and moves to another folder when its own takes no more.

    A disk that fills in the ninth hour of a run, or a folder that is gone, costs the run nothing but its place.
    """

    trouble: OSError | None = None
    """Why the file is not in the folder where it was to be; None while it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._elsewhere = _rescue_folders()
        self._asked: list[str] = []
        try:
            self._file = self._open(folder)
        except OSError as error:
            self._move(error)

    def _open(self, folder: Path) -> io.FileIO:
        raise NotImplementedError

    def _drop(self, file: io.FileIO) -> None:
        with suppress(OSError):
            file.close()

    def write(self, content: Buffer) -> int:
        """Append all of some bytes."""
        bytes_ = memoryview(content)
        if not bytes_.nbytes:
            return 0
        bytes_ = bytes_.cast("B")
        at = 0
        while at < len(bytes_):
            try:
                at += self._file.write(bytes_[at:]) or 0
            except OSError as error:
                self._move(error)
        return at

    def flush(self) -> None:
        """Nothing waits."""

    def tell(self) -> int:
        """How many bytes were written."""
        return self._file.tell()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def discard(self) -> None:
        """Remove what was written, if that was not done and it was not kept."""
        if not self._file.closed:
            self._drop(self._file)

    def _move(self, trouble: OSError) -> None:
        """Go on in the first other folder that takes what there is so far.

        Raises:
            OSError: none does.
        """
        for folder in self._elsewhere:
            self._asked.append(str(folder))
            try:
                there = self._open(folder)
            except OSError:
                continue
            try:
                if hasattr(self, "_file"):
                    _copy(self._file, there)
                    self._drop(self._file)
            except OSError:
                self._drop(there)
                continue
            self._file, self.trouble = there, trouble
            return
        reason = f"{trouble.strerror or trouble}, and no other folder takes it (asked: {', '.join(self._asked)})"
        raise OSError(trouble.errno, reason, trouble.filename or str(self._folder))


class Beside(_Growing):
    """A file that grows beside its place, for writers that live longer than a block of code: itself a binary stream.

    Attributes:
        path: where the file belongs.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(os.path.realpath(path) if os.path.islink(path) else path)  # of a link: the file it points to
        super().__init__(self.path.parent)

    @property
    def partial(self) -> Path:
        """Where it is written."""
        return Path(cast(str, self._file.name))

    def _open(self, folder: Path) -> io.FileIO:
        return open(_beside(folder / self.path.name), "x+b", buffering=0)

    def _drop(self, file: io.FileIO) -> None:
        with suppress(OSError):
            file.truncate(0)  # its name may be out of reach: in a folder that was moved away
        super()._drop(file)
        with suppress(OSError):
            os.unlink(file.name)

    def keep(self) -> None:
        """The file is whole: give it its name.

        Raises:
            OSError: it cannot have it; then it is kept under another one, which the error tells.
        """
        if self.trouble is None:
            try:
                if self.tell():  # else others wrote it by its name, and closed it
                    os.fsync(self._file.fileno())  # what a disk elsewhere refuses late, it refuses before the renaming
                if os.name == "nt":  # where an open file has its name for good
                    self._file.close()
                os.replace(self.partial, self.path)
                self._file.close()
                return
            except OSError as error:
                if self._file.closed:
                    raise
                self._move(error)
        trouble = cast(OSError, self.trouble)
        stem, suffix = self.path.stem[:_NAME_CHARS], self.path.suffix
        rescued = self.partial.with_name(f"{stem}.rescued-{secrets.token_hex(4)}{suffix}").absolute()
        self._file.close()
        os.replace(self.partial, rescued)
        reason = f"{trouble.strerror or trouble}: what was to be written there is in {rescued}"
        raise OSError(trouble.errno, reason, str(self.path))


class Scratch(_Growing):
    """A file without a name in a folder, gone with the process however that ends."""

    def _open(self, folder: Path) -> io.FileIO:
        return tempfile.TemporaryFile(dir=folder, buffering=0)

    def content(self) -> mmap:
        """All that was written, mapped into memory; there must be something."""
        return mmap(self._file.fileno(), 0, access=ACCESS_READ)


def _rescue_folders() -> Iterator[Path]:
    """Where what was computed may go when its own folder takes it no more: folders of other disks, then memory."""
    with suppress(OSError):  # none that can be written
        yield Path(tempfile.gettempdir())
    with suppress(OSError):  # it has been removed
        yield Path.cwd()
    with suppress(RuntimeError):  # there is none
        yield Path.home()
    yield Path("/dev/shm")


def _copy(source: io.FileIO, target: io.FileIO) -> None:
    source.seek(0)
    with open(target.fileno(), "wb", closefd=False) as stream:
        shutil.copyfileobj(cast(IO[bytes], source), stream, 1 << 20)


def _beside(path: Path) -> Path:
    """A new name beside a path, never longer than a file system allows."""
    return path.with_name(f"{path.name[:_NAME_CHARS]}.{secrets.token_hex(4)}{UNFINISHED}")


@contextmanager
def beside(path: StrPath) -> Iterator[Path]:
    """A file beside ``path`` to write to. It becomes ``path`` at the end of the block, or is gone where that raises.

    Raises:
        OSError: it could not become ``path``; see :meth:`Beside.keep`.
    """
    file = Beside(path)
    try:
        yield file.partial
        file.keep()
    finally:
        file.discard()


def write_bytes(path: StrPath, content: bytes) -> None:
    """Write a file beside its place, then rename it."""
    with beside(path) as partial:
        partial.write_bytes(content)


def write_private(path: StrPath, content: bytes) -> None:
    """Write a file that nobody else may read or write beside its place, then rename it.

    Unlike the other ways it is there or it is not: what has no room in its folder is not kept elsewhere.

    Raises:
        OSError: it cannot be written.
    """
    partial = _beside(Path(path))
    with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        try:
            file.write(content)
            file.close()
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial)
            raise


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
    folder = _beside(place)
    place.parent.mkdir(parents=True, exist_ok=True)
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
    old = _beside(place)
    os.rename(place, old)
    try:
        os.rename(folder, place)
    except BaseException:
        os.rename(old, place)
        raise
    shutil.rmtree(old)


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/bce/<name>``, by default in ``~/.cache``: for what can be made anew. It need not exist.

    A relative ``$XDG_CACHE_HOME`` is ignored, as the XDG Base Directory Specification wants it.

    Raises:
        OSError: the user has no home.
    """
    try:
        named = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "bce" / name
    except RuntimeError as error:
        raise OSError(str(error)) from None


def check_place(out: StrPath) -> None:
    """Refuse a file that could not be written.

    Raises:
        OptionsError: its folder does not exist or is not writable, what is there is no regular file, or no file can
            have its name.
    """
    path = Path(out)
    folder = Path(os.path.realpath(path)).parent if os.path.islink(path) else path.absolute().parent
    if not os.path.isdir(folder):
        raise OptionsError("its folder does not exist: make it first", path)
    if not os.access(folder, os.W_OK):
        raise OptionsError("its folder is not writable: choose another place", path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise OptionsError(f"cannot be written ({error.strerror}): choose another name", path) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe, which would be replaced"
        raise OptionsError(f"is {what}, expected the name of a file to write", path)


def check_apart(outputs: Sequence[StrPath], inputs: Iterable[StrPath] = (), folders: Iterable[StrPath] = ()) -> None:
    """Refuse to write what would destroy something that is read, kept, or written as well.

    Links, hard links and other spellings count as the file that they lead to.

    Args:
        outputs: files and folders to write.
        inputs: files that are read.
        folders: to which nothing may be added, such as a bundle's.

    Raises:
        OptionsError: an output is an input, or a folder around one; lies in one of the folders; two outputs are one, or
            one is a folder around the other.
    """
    for number, out in enumerate(outputs):
        for folder in folders:
            if _holds(folder, out):
                raise OptionsError(f"lies in {os.fspath(folder)}, to which nothing is to be added: choose another", out)
        for other in outputs[:number]:
            if _holds(out, other) or _holds(other, out):
                raise OptionsError(f"and {os.fspath(other)} are both to be written: give them places apart", out)
    there = {_identity(out): out for out in outputs if os.path.exists(out)}  # what is not there can be no input
    around = [out for out in there.values() if os.path.isdir(out)]
    for item in inputs if there else ():
        taken = there.get(_identity(item)) or next((out for out in around if _holds(out, item)), None)
        if taken is not None:
            raise OptionsError(f"is to be read ({os.fspath(item)}): it would be overwritten, give another", taken)


def _identity(path: StrPath) -> tuple[int, int] | None:
    """What all names of a file have in common; None where it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _same(one: StrPath, other: StrPath) -> bool:
    with suppress(OSError):  # at least one is not there
        return os.path.samefile(one, other)
    return os.path.realpath(one).casefold() == os.path.realpath(other).casefold()


def _holds(folder: StrPath, path: StrPath) -> bool:
    """Whether a path is a folder, or lies in it at any depth."""
    real = Path(os.path.realpath(path))
    return any(_same(folder, place) for place in (path, real, *real.parents))


def sha256(path: StrPath) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
