"""Site x hour priors: how often each class was labelled at a site and an hour of day, as log-odds for the logits.

The table holds counts of labelled windows; probabilities come from them by shrinkage, from the global rate over the
hour (UTC) and the site to the pair of both. The formula is that of the public BirdCLEF+ 2026 kernels
(``prior_fusion``): with n the labelled windows of the hour, site or pair,

    p = global rate
    p = w * hour rate + (1 - w) * p          w = n / (n + 8)     if the hour has labels
    p = w * site rate + (1 - w) * p          w = n / (n + 8)     if the site has labels
    p = w * site-hour rate + (1 - w) * p     w = n / (n + 4)     if the pair has labels
    log-odds = log p - log(1 - p)            p clipped to 1e-4 .. 1 - 1e-4

where hour rates (0 for hours without labels) are smoothed around the clock by a Gaussian of 1.5 hours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from bce.engine.arrays import read_arrays
from bce.engine.errors import OptionsError, TableError, one_line
from bce.engine.files import beside

HOURS = 24
HOUR_SIGMA = 1.5
CLIP = 1e-4
FORMAT = 1
MOST_WINDOWS = 1 << 40
"""In a cell of a table: sums stay exact."""
_ARRAYS = {
    "format": ("i", 0),
    "classes": ("U", 1),
    "sites": ("U", 1),
    "windows": ("i", 2),
    "positives": ("i", 3),
    "shrinkage": ("f", 1),
}
"""Of a file: the kind of numbers or texts of each array, and its dimensions."""

Basis = Literal["site-hour", "site and hour", "site", "hour", "global"]
"""What a prior rests on: the pair; both, but never together; one of the two; or neither (the same everywhere)."""


@dataclass(frozen=True)
class Shrinkage:
    """How many labelled windows weigh as much as the coarser estimate; larger is more careful.

    Raises:
        OptionsError: one of them is not above 0.
    """

    hour: float = 8.0
    site: float = 8.0
    site_hour: float = 4.0

    def __post_init__(self) -> None:
        for name, value in (("hour", self.hour), ("site", self.site), ("site-hour", self.site_hour)):
            if not 0 < value < float("inf"):
                raise OptionsError(f"prior shrinkage {name}={value:g} is not above 0")


@dataclass(frozen=True, eq=False)
class Priors:
    """Counts of labelled windows by site and hour.

    Attributes:
        classes: class labels.
        sites: names of the sites that have labels.
        windows: labelled windows, int64 [sites + 1, 25]: the last row is windows of no known site, the last column
            windows of no known hour; both count for the coarser rates only.
        positives: of these, windows with the class present, int64 [sites + 1, 25, classes].
        shrinkage: the weights of the formula.
        path: the file they came from, for messages; None when they were counted.
    """

    classes: tuple[str, ...]
    sites: tuple[str, ...]
    windows: NDArray[np.int64]
    positives: NDArray[np.int64]
    shrinkage: Shrinkage = field(default_factory=Shrinkage)
    path: Path | None = None

    @classmethod
    def count(
        cls,
        classes: Sequence[str],
        present: NDArray[np.generic],
        sites: Sequence[str | None],
        hours: Sequence[int | None],
        shrinkage: Shrinkage | None = None,
    ) -> Self:
        """Count labelled windows.

        Args:
            classes: class labels.
            present: [windows, classes], true where the class is present.
            sites: the site of each window, None where it is not known.
            hours: the hour of day (UTC, 0..23) of each window, None where it is not known.
            shrinkage: the weights of the formula.
        """
        names = tuple(sorted({site for site in sites if site is not None}))
        place = {name: i for i, name in enumerate(names)}
        s = np.array([len(names) if site is None else place[site] for site in sites], dtype=np.int64)
        h = np.array([HOURS if hour is None else hour for hour in hours], dtype=np.int64)
        windows = np.zeros((len(names) + 1, HOURS + 1), dtype=np.int64)
        positives = np.zeros((len(names) + 1, HOURS + 1, len(classes)), dtype=np.int64)
        np.add.at(windows, (s, h), 1)
        np.add.at(positives, (s, h), np.asarray(present, dtype=bool))
        return cls(tuple(classes), names, windows, positives, shrinkage or Shrinkage())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table written by :meth:`save`.

        Raises:
            TableError: the file is missing, is not such a table, or its arrays do not fit together.
        """
        file = Path(path)
        found = read_arrays(file, "a file of priors")
        for name, (kind, dimensions) in _ARRAYS.items():
            if name not in found:
                raise TableError(f"lacks the array '{name}': make priors with bce-tools priors", file)
            if found[name].size and found[name].dtype.kind != kind:
                held = one_line(str(found[name].dtype))
                raise TableError(f"array '{name}' holds {held}: make priors with bce-tools priors", file)
            if found[name].ndim != dimensions:
                raise TableError(f"array '{name}' has {found[name].ndim} dimensions, expected {dimensions}", file)
        if found["format"] != FORMAT:
            raise TableError(f"has format {found['format']}, this version reads {FORMAT}", file)
        classes, sites = tuple(found["classes"].tolist()), tuple(found["sites"].tolist())
        shape = (len(sites) + 1, HOURS + 1)
        for name, expected in (("windows", shape), ("positives", (*shape, len(classes))), ("shrinkage", (3,))):
            if found[name].shape != expected:
                raise TableError(f"array '{name}' has shape {found[name].shape}, expected {expected}", file)
        windows, positives = found["windows"].astype(np.int64), found["positives"].astype(np.int64)
        if len(set(classes)) != len(classes) or len(set(sites)) != len(sites):
            raise TableError("names a class or a site twice", file)
        if windows.min(initial=0) < 0 or windows.max(initial=0) > MOST_WINDOWS:
            raise TableError(f"counts fewer than 0 or more than {MOST_WINDOWS} windows", file)
        if positives.min(initial=0) < 0 or (positives > windows[..., None]).any():
            raise TableError("counts a class in fewer than 0 or more than all windows", file)
        try:
            shrinkage = Shrinkage(*map(float, found["shrinkage"]))
        except OptionsError as error:
            raise TableError(error.reason, file) from None
        return cls(classes, sites, windows, positives, shrinkage, file)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as ``.npz``, beside and then renamed."""
        weights = self.shrinkage
        with beside(path) as partial, open(partial, "wb") as stream:
            np.savez_compressed(
                stream,
                format=np.array(FORMAT),
                classes=np.array(self.classes, dtype=np.str_),
                sites=np.array(self.sites, dtype=np.str_),
                windows=self.windows,
                positives=self.positives,
                shrinkage=np.array([weights.hour, weights.site, weights.site_hour]),
            )

    def for_classes(self, classes: Sequence[str]) -> Self:
        """The same table for other classes or another order.

        Raises:
            TableError: naming the first class that the table does not have.
        """
        place = {name: i for i, name in enumerate(self.classes)}
        for name in classes:
            if name not in place:
                raise TableError(
                    f"the priors do not know the class '{one_line(name)}': make them with the bundle's taxonomy",
                    self.path,
                )
        chosen = self.positives[..., [place[name] for name in classes]]
        return type(self)(tuple(classes), self.sites, self.windows, chosen, self.shrinkage, self.path)

    def without(self, other: Priors) -> Self:
        """The table less the windows of another one with the same classes, for leaving out a recording or a site."""
        rows = [self.sites.index(site) for site in other.sites] + [len(self.sites)]
        windows, positives = self.windows.copy(), self.positives.copy()
        windows[rows] -= other.windows
        positives[rows] -= other.positives
        return type(self)(self.classes, self.sites, windows, positives, self.shrinkage, self.path)

    def knows_site(self, site: str | None) -> bool:
        """Whether the site has labelled windows."""
        return bool(self.windows[self._site(site)].sum()) if site in self.sites else False

    def log_odds(self, site: str | None, hour: int | None) -> tuple[NDArray[np.float64], Basis]:
        """The prior of a site and an hour.

        Args:
            site: the site; None, or one without labels, rests on the hour.
            hour: hour of day in UTC, 0..23; None, or one without labels, rests on the site.

        Returns:
            log-odds float64 [classes], within +-9.21, and what they rest on.
        """
        key = (self._site(site), HOURS if hour is None else hour)
        if key not in self._cache:
            self._cache[key] = self._log_odds(*key)
        return self._cache[key]

    def for_chunks(
        self, site: str | None, start_time: datetime | None, start_s: NDArray[np.floating] | NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int32], list[Basis]]:
        """The priors of a recording's chunks, each by the hour in which it starts.

        Args:
            site: the recording's site, or None.
            start_time: the recording's start, or None.
            start_s: the start of each chunk in seconds [chunks].

        Returns:
            log-odds float64 [k, classes], one row for each hour that the recording meets; which of them each chunk has,
            int32 [chunks]; and what each of them rests on.
        """
        if start_time is None:
            hours = np.full(len(start_s), HOURS)
        else:
            second = start_time.hour * 3600 + start_time.minute * 60 + start_time.second
            hours = ((second + np.asarray(start_s)) // 3600 % HOURS).astype(np.int64)
        met, row = np.unique(hours, return_inverse=True)
        found = [self.log_odds(site, None if hour == HOURS else int(hour)) for hour in met]
        table = np.array([log_odds for log_odds, _ in found]).reshape(len(found), len(self.classes))
        return table, row.astype(np.int32), [basis for _, basis in found]

    def _site(self, site: str | None) -> int:
        return self.sites.index(site) if site in self.sites else len(self.sites)

    @cached_property
    def _cache(self) -> dict[tuple[int, int], tuple[NDArray[np.float64], Basis]]:
        return {}

    @cached_property
    def _hour_rates(self) -> NDArray[np.float64]:
        """float64 [24, classes], smoothed around the clock."""
        from scipy.ndimage import gaussian_filter1d

        rates = _rate(self.positives[:, :HOURS].sum(axis=0), self.windows[:, :HOURS].sum(axis=0))
        smoothed: NDArray[np.float64] = gaussian_filter1d(rates, HOUR_SIGMA, axis=0, mode="wrap")
        return smoothed

    def _log_odds(self, site: int, hour: int) -> tuple[NDArray[np.float64], Basis]:
        weights = self.shrinkage
        p = _rate(self.positives.sum(axis=(0, 1)), self.windows.sum())
        n_hour = self.windows[:, hour].sum() if hour < HOURS else 0
        n_site = self.windows[site].sum() if site < len(self.sites) else 0
        n_pair = self.windows[site, hour] if n_hour and n_site else 0
        if n_hour:
            w = n_hour / (n_hour + weights.hour)
            p = w * self._hour_rates[hour] + (1 - w) * p
        if n_site:
            w = n_site / (n_site + weights.site)
            p = w * _rate(self.positives[site].sum(axis=0), n_site) + (1 - w) * p
        if n_pair:
            w = n_pair / (n_pair + weights.site_hour)
            p = w * _rate(self.positives[site, hour], n_pair) + (1 - w) * p
        p = np.clip(p, CLIP, 1 - CLIP)
        basis: Basis = "global"
        if n_pair:
            basis = "site-hour"
        elif n_site and n_hour:
            basis = "site and hour"
        elif n_site:
            basis = "site"
        elif n_hour:
            basis = "hour"
        return np.log(p) - np.log1p(-p), basis


def _rate(positives: NDArray[np.int64], windows: NDArray[np.int64] | np.int64 | int) -> NDArray[np.float64]:
    """positives / windows, 0 where there are none."""
    n = np.maximum(windows, 1)
    return positives / (n[..., None] if np.ndim(n) else n)
