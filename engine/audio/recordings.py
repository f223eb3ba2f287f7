"""Find recordings in files and folders: the one walk that all commands share."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.errors import OptionsError
from bce.engine.recording import Recording

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"}
)


LEADS_NOWHERE = "is a link that leads nowhere"
NOT_A_FILE = "is a pipe or a device: recordings are read from files"


class NoRecordingsError(OptionsError):
    """The paths exist, but hold no recording."""


PassedOver = Callable[[OptionsError], None]
"""Told of what a walk goes past: the path and the reason."""


def refuse(trouble: OptionsError) -> None:
    """Go past nothing: what cannot be walked is an error."""
    raise trouble


def audio_files(path: str | os.PathLike[str], passed_over: PassedOver = refuse) -> Iterator[Path]:
    """A file, whatever its suffix, or the files of a folder and the folders in it that have an audio suffix.

    Hidden files and folders are passed over, among them the ``._name.wav`` that macOS leaves on cards. The order is the
    natural one (2 before 10), a folder's own files before those of its folders. Links to folders are followed, after
    all else, and no folder is walked twice.

    Args:
        path: a file or a folder.
        passed_over: told of a folder inside that cannot be listed, of a link that leads nowhere or back to where it
            lies, and of a pipe or device with an audio suffix; they are refused where nobody listens.

    Raises:
        OptionsError: there is no such path, it is a pipe or device, or the folder itself cannot be listed.
    """
    root = Path(path)
    try:
        kind = root.stat().st_mode
    except OSError as error:
        gone = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
        raise OptionsError(LEADS_NOWHERE if root.is_symlink() else gone, root) from None
    if not stat.S_ISDIR(kind):
        if not stat.S_ISREG(kind):
            raise OptionsError(NOT_A_FILE, root)
        yield root
        return

    def fail(error: OSError) -> None:
        trouble = OptionsError(f"cannot be listed ({error.strerror})", error.filename)
        if Path(error.filename) == root:
            raise trouble
        passed_over(trouble)

    to_walk, walked = [os.fspath(root)], set[str]()
    while to_walk:
        for folder, folders, files in os.walk(to_walk.pop(0), onerror=fail):
            real = os.path.realpath(folder)
            if real in walked:
                folders.clear()
                continue
            walked.add(real)
            folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
            for link in (link for name in folders if os.path.islink(link := os.path.join(folder, name))):
                if os.path.join(real, "").startswith(os.path.join(os.path.realpath(link), "")):
                    passed_over(OptionsError("is a link to a folder that it lies in", link))
                else:
                    to_walk.append(link)
            for name in sorted(files, key=_natural):
                if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                    file = Path(folder, name)
                    if (trouble := _no_recording(file)) is None:
                        yield file
                    else:
                        passed_over(OptionsError(trouble, file))


def _no_recording(file: Path) -> str | None:
    """Why what a folder lists cannot be a recording. One that exists and cannot be read is one that fails."""
    try:
        return None if stat.S_ISREG(file.stat().st_mode) else NOT_A_FILE
    except OSError:
        return LEADS_NOWHERE if file.is_symlink() else None


def find_recordings(
    paths: Sequence[str | os.PathLike[str]], rule: NameRule = BIRDCLEF, passed_over: PassedOver = refuse
) -> list[Recording]:
    """Find the recordings of files and folders.

    Args:
        paths: files, taken whatever their suffix, and folders, walked for files with an audio suffix; hidden files and
            folders are passed over.
        rule: how to read the names.
        passed_over: as for :func:`audio_files`.

    Returns:
        The recordings by file number, then start time, then path in natural order (2 before 10).

    Raises:
        OptionsError: as :func:`audio_files`; two recordings have one stem; the rule takes too long; or
            (:class:`NoRecordingsError`) there is none.
    """
    by_stem: dict[str, Recording] = {}
    for recording in rule.read_all(path for given in paths for path in audio_files(given, passed_over)):
        other = by_stem.setdefault(recording.stem, recording)
        if other is not recording and not _same(recording.path, other.path):
            raise OptionsError(
                f"has the same name as {other.path}, so that their rows could not be told apart", recording.path
            )
    if not by_stem:
        places = ", ".join(os.fspath(path) for path in paths) or "nothing was given"
        raise NoRecordingsError(f"no recordings found ({places}): expected audio files or folders that hold some")
    return sorted(by_stem.values(), key=_order)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one has vanished meanwhile
        return os.path.realpath(one) == os.path.realpath(other)


def _order(recording: Recording) -> tuple[object, ...]:
    number = recording.file_id
    start = recording.start_time
    return (
        (number is None, number or 0),
        (start is None, start or datetime.max.replace(tzinfo=UTC)),
        [_natural(part) for part in recording.path.parts],
    )


def _natural(text: str) -> tuple[list[str | int], str]:
    """Sorting key with digits as numbers; the text itself decides between ``7`` and ``07``."""
    return [int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", text)], text
