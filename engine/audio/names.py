"""How recorders name their files: site, date, time and number out of a name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from bce.engine.errors import OptionsError
from bce.engine.recording import Recording, as_text

MATCHING_S = 10.0
"""So long a pattern may take for all names of a run; a healthy one reads a hundred thousand in a tenth of it."""
MOST_DIGITS = 18
"""A longer number is none that a recorder counts: it is not read as one."""
_TRIAL = """
import json, re, sys
pattern, stems = json.load(sys.stdin)
search = re.compile(pattern).search
for stem in stems:
    search(stem)
"""


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
        except (re.error, OverflowError, RecursionError) as error:
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

    def read_all(self, paths: Iterable[Path]) -> list[Recording]:
        """The recordings of many names, in their order.

        Python's regular expressions know no time limit, and a pattern such as ``(a+)+$`` takes for ever on some names:
        another process tries it on all of them first. The house's own pattern needs no trial.

        Raises:
            OptionsError: the pattern takes more than :data:`MATCHING_S` seconds on these names.
        """
        paths = list(paths)
        if paths and self.pattern != BIRDCLEF.pattern:
            self._try(sorted({as_text(path.stem) for path in paths}))
        return [self.read(path) for path in paths]

    def _try(self, stems: list[str]) -> None:
        asked = json.dumps([self.pattern, stems]).encode()
        try:
            command = [sys.executable, "-I", "-S", "-c", _TRIAL]
            subprocess.run(command, input=asked, stderr=subprocess.DEVNULL, timeout=MATCHING_S, check=False)
        except subprocess.TimeoutExpired:
            raise OptionsError(
                f"name pattern '{self.pattern}' takes more than {MATCHING_S:g} s to read the names of these"
                " recordings: a repeat of what repeats itself, such as (a+)+, can take for ever"
            ) from None

    def read(self, path: Path) -> Recording:
        """A recording with what its name tells; what the name does not tell is None.

        Where names or pattern come from outside, :meth:`read_all` has a time limit.
        """
        stem = as_text(path.stem)
        match = self._regex.search(stem)
        found = match.groupdict() if match else {}
        number = found.get("id") or ""
        return Recording(
            path=path,
            stem=stem,
            file_id=int(number) if number.isdecimal() and len(number) <= MOST_DIGITS else None,
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
