"""Find recordings in files and folders: the one walk that all commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.errors import OptionsError
from bce.engine.recording import Recording

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"}
)


class NoRecordingsError(OptionsError):
    """The paths exist, but hold no recording."""


def audio_files(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file, whatever its suffix, or the files of a folder and the folders in it that have an audio suffix.

    Hidden files and folders are passed over, among them the ``._name.wav`` that macOS leaves on cards. The order is the
    natural one (2 before 10), a folder's own files before those of its folders.

    Raises:
        OptionsError: there is no such path, or a folder cannot be listed.
    """
    root = Path(path)
    if not root.exists():
        raise OptionsError("does not exist", root)
    if not root.is_dir():
        yield root
        return

    def fail(error: OSError) -> None:
        raise OptionsError(f"cannot be listed ({error.strerror})", error.filename)

    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        for name in sorted(files, key=_natural):
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(folder, name)


def find_recordings(paths: Sequence[str | os.PathLike[str]], rule: NameRule = BIRDCLEF) -> list[Recording]:
    """Find the recordings of files and folders.

    Args:
        paths: files, taken whatever their suffix, and folders, walked for files with an audio suffix; hidden files and
            folders are passed over.
        rule: how to read the names.

    Returns:
        The recordings by file number, then start time, then path in natural order (2 before 10).

    Raises:
        OptionsError: a path does not exist, two recordings have one stem, or (:class:`NoRecordingsError`) there is
            none.
    """
    by_stem: dict[str, Recording] = {}
    for given in paths:
        for path in audio_files(given):
            recording = rule.read(path)
            other = by_stem.setdefault(recording.stem, recording)
            if other is not recording and not path.samefile(other.path):
                raise OptionsError(
                    f"has the same name as {other.path}, so that their rows could not be told apart", path
                )
    if not by_stem:
        places = ", ".join(os.fspath(path) for path in paths) or "nothing was given"
        raise NoRecordingsError(f"no recordings found ({places}): expected audio files or folders that hold some")
    return sorted(by_stem.values(), key=_order)


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
