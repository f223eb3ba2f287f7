"""Find recordings, and read site and start time from their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from bce.engine.errors import OptionsError

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"}
)


class NoRecordingsError(OptionsError):
    """The paths exist, but hold no recording."""


@dataclass(frozen=True)
class Recording:
    """A recording and what its name says.

    Attributes:
        path: the file.
        stem: the file's name without its suffix; unique in a run, because rows are named after it.
        file_id: number of the file in its data set; None where the name has none.
        site: where it was recorded; None where the name does not tell.
        start_time: of the first sample, in UTC (aware); None where the name does not tell.
    """

    path: Path
    stem: str
    file_id: int | None = None
    site: str | None = None
    start_time: datetime | None = None


@dataclass(frozen=True)
class NameRule:
    """How recorders name their files.

    Attributes:
        pattern: regular expression that is searched for in the stem, with any of the named groups ``site``, ``date``
            (YYYYMMDD), ``time`` (HHMMSS or HHMM) and ``id`` (a number). Signs between the digits of date and time are
            allowed. A start time needs both date and time.
        utc_offset_h: hours by which the recorder's clock was ahead of UTC, -14..14.

    Raises:
        OptionsError: the pattern is not a regular expression, lacks all of these groups, has another one, or the offset
            is out of range.
    """

    pattern: str
    utc_offset_h: float = 0.0

    GROUPS = ("site", "date", "time", "id")

    def __post_init__(self) -> None:
        try:
            names = set(self._regex.groupindex)
        except re.error as error:
            raise OptionsError(f"name pattern '{self.pattern}' is not a regular expression: {error}") from None
        if not names or not names <= set(self.GROUPS):
            raise OptionsError(
                f"name pattern '{self.pattern}' has the named groups {', '.join(sorted(names)) or '(none)'}: expected "
                f"some of {', '.join(f'(?P<{group}>...)' for group in self.GROUPS)}"
            )
        if not abs(self.utc_offset_h) <= 14:
            raise OptionsError(f"UTC offset {self.utc_offset_h} is outside -14..14 hours")

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def read(self, path: Path) -> Recording:
        """A recording with what its name tells; what the name does not tell is None."""
        match = self._regex.search(path.stem)
        found = match.groupdict() if match else {}
        number = found.get("id") or ""
        return Recording(
            path=path,
            stem=path.stem,
            file_id=int(number) if number.isdecimal() else None,
            site=found.get("site") or None,
            start_time=self._start_time(found.get("date"), found.get("time")),
        )

    def _start_time(self, date: str | None, time: str | None) -> datetime | None:
        digits = [re.sub(r"\D", "", text or "") for text in (date, time)]
        if len(digits[0]) != 8 or len(digits[1]) not in (4, 6):
            return None
        try:
            local = datetime.strptime("".join(digits).ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            return local - timedelta(hours=self.utc_offset_h)
        except (ValueError, OverflowError):  # no such day or hour: a clock that was never set, or other digits
            return None


BIRDCLEF = NameRule(r"^BC\d{4}_[A-Za-z]+_(?P<id>\d+)_(?P<site>S\d+)_(?P<date>\d{8})_(?P<time>\d{6})$")
"""``BC2026_Train_0001_S08_20250606_030007``: times are UTC, numbers have four digits or more."""


def name_rule(pattern: str | None, utc_offset_h: float) -> NameRule:
    """The rule of ``--name-pattern`` and ``--utc-offset``; BirdCLEF's pattern if none is given."""
    return NameRule(BIRDCLEF.pattern if pattern is None else pattern, utc_offset_h)


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
        for path in _files(Path(given)):
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


def _files(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise OptionsError("does not exist", path)
    if not path.is_dir():
        yield path
        return

    def fail(error: OSError) -> None:
        raise OptionsError(f"cannot be listed ({error.strerror})", error.filename)

    for folder, folders, files in os.walk(path, onerror=fail):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        for name in sorted(files, key=_natural):
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(folder, name)


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
