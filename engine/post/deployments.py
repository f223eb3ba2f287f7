"""Where recordings were made: a table of sites, or one place for all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import combinations
from pathlib import Path
from typing import Self

from bce.engine.csv_files import read_rows
from bce.engine.errors import OptionsError, TableError, one_line
from bce.engine.post.range_model import check_degrees
from bce.engine.recording import Recording

NEEDED = ("site", "latitude", "longitude")
OPTIONAL = ("start", "end")


@dataclass(frozen=True)
class Place:
    """A place in degrees: latitude -90..90, north positive; longitude -180..180, east positive.

    A run that is told one place was made there as a whole: :meth:`place_of` is the same for all of its recordings.

    Raises:
        OptionsError: one of them is out of range.
    """

    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        check_degrees(self.latitude, self.longitude)

    def __str__(self) -> str:
        return f"{self.latitude:g}, {self.longitude:g}"

    def place_of(self, recording: Recording) -> Place:
        """Where a recording was made."""
        return self


def parse_place(text: str) -> Place:
    """A place out of ``46.5,6.2``.

    Raises:
        OptionsError: the text is none.
    """
    latitude, comma, longitude = text.partition(",")
    try:
        degrees = float(latitude), float(longitude)
    except ValueError:
        degrees = (math.nan, math.nan)
    if not comma or not all(map(math.isfinite, degrees)):
        shown = one_line(text)
        raise OptionsError(f"place '{shown}' is not LAT,LON: expected degrees such as 46.5,6.2 or -19.5,-56.5")
    return Place(*degrees)


@dataclass(frozen=True)
class Deployment:
    """A recorder at a site.

    Attributes:
        site: as recordings name it.
        place: where that is.
        start, end: the first and the last day in UTC; None where it was there before, or after.
    """

    site: str
    place: Place
    start: date | None = None
    end: date | None = None

    def covers(self, time: datetime | None) -> bool:
        """Whether it was there at a time (aware); of a time that is not known there is nothing to say against it."""
        if time is None:
            return True
        day = time.astimezone(UTC).date()
        return (self.start is None or self.start <= day) and (self.end is None or day <= self.end)

    def meets(self, other: Deployment) -> bool:
        """Whether both were there on some day."""
        return (self.start or date.min) <= (other.end or date.max) and (other.start or date.min) <= (
            self.end or date.max
        )


@dataclass(frozen=True)
class Deployments:
    """A table of them: ``site, latitude, longitude``, and where wanted ``start, end``; other columns are left alone.

    A site may have several lines whose days do not meet: a recorder that was moved.

    Attributes:
        deployments: in the table's order.
        path: the table.
    """

    deployments: tuple[Deployment, ...]
    path: Path
    _by_site: Mapping[str, tuple[Deployment, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_site: dict[str, tuple[Deployment, ...]] = {}
        for deployment in self.deployments:
            by_site[deployment.site] = (*by_site.get(deployment.site, ()), deployment)
        object.__setattr__(self, "_by_site", by_site)

    def __str__(self) -> str:
        count = len(self._by_site)
        return f"{count} site{'s' * (count > 1)} of {self.path.name}"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table; columns of other names are left alone.

        Raises:
            TableError: it cannot be read, lacks a column or has one twice, has no line, a line has another number of
                fields, no site, or a value that is none; or two lines tell of one site on the same day.
        """
        file = Path(path)
        rows = read_rows(file, "a table of deployments")
        line, header = next(rows, (1, []))
        names = [name.strip() for name in header]
        for name in NEEDED:
            if name not in names:
                found = one_line(", ".join(names)) or "nothing"
                raise TableError(f"lacks the column '{name}': expected {', '.join(NEEDED)}, found {found}", file)
        for name in (*NEEDED, *OPTIONAL):
            if names.count(name) > 1:
                raise TableError(f"has the column '{name}' twice", file)
        deployments: list[Deployment] = []
        lines: list[int] = []
        for line, row in rows:
            if len(row) != len(names):
                raise TableError(f"line {line} has {len(row)} fields, expected {len(names)} as in the first line", file)
            values = {name: value.strip() for name, value in zip(names, row, strict=True)}
            try:
                deployments.append(_deployment(values))
            except OptionsError as error:
                raise TableError(f"line {line}: {error.reason}", file) from None
            lines.append(line)
        if not deployments:
            raise TableError("has no deployments: expected a line for each site", file)
        _check_apart(deployments, lines, file)
        return cls(tuple(deployments), file)

    def place_of(self, recording: Recording) -> Place | None:
        """Where a recording was made; None where its site is not in the table, or was elsewhere on that day.

        A recording without a time takes its site's place if the site has but one.
        """
        there = [one for one in self._by_site.get(recording.site or "", ()) if one.covers(recording.start_time)]
        places = {one.place for one in there}
        return places.pop() if len(places) == 1 else None


Places = Place | Deployments
"""Where a run's recordings were made."""


def _check_apart(deployments: Iterable[Deployment], lines: Iterable[int], file: Path) -> None:
    """Refuse two lines for one site on the same day."""
    by_site: dict[str, list[tuple[int, Deployment]]] = {}
    for line, deployment in zip(lines, deployments, strict=True):
        by_site.setdefault(deployment.site, []).append((line, deployment))
    for site, found in by_site.items():
        for (first, one), (second, other) in combinations(found, 2):
            if one.meets(other):
                raise TableError(
                    f"lines {first} and {second} both tell of site '{one_line(site)}': give each its own days with "
                    "start and end, or one line",
                    file,
                )


def _deployment(values: Mapping[str, str]) -> Deployment:
    """A line of the table.

    Raises:
        OptionsError: naming the value that is none.
    """
    if not values["site"]:
        raise OptionsError("has no site")
    latitude, longitude = (_number(values[name], name) for name in ("latitude", "longitude"))
    start, end = (_day(values.get(name, ""), name) for name in ("start", "end"))
    if start is not None and end is not None and end < start:
        raise OptionsError(f"the end {end} comes before the start {start}")
    return Deployment(values["site"], Place(latitude, longitude), start, end)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionsError(f"{name} is '{one_line(text)}', expected a number such as -19.5") from None


def _day(text: str, name: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise OptionsError(f"{name} is '{one_line(text)}', expected a day such as 2025-11-30") from None
