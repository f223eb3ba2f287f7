"""Which species are likely at a place in a week: a small network beside BirdNET, in plain numpy.

With the arrays that a published file holds, in float32 and in the file's order of operations, for each of the inputs
x = latitude, longitude, week:

    u = (x + offset) * factor                        latitude, longitude and week brought to 0..1
    features = gain * sin(u * turn + phases)         48 of each; those of the week are 0 for the whole year
    hidden = relu(kernel hidden + bias)              dense layers in turn
    probability = sigmoid(kernel hidden + bias)      the last one, a row for each class
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bce.engine.arrays import read_arrays
from bce.engine.errors import BundleError, OptionsError, TableError, shown
from bce.engine.files import write_bytes

RANGE = "range.npz"
"""The range model's file in a bundle."""
WEEKS = 48
ALL_YEAR = -1
"""The week that stands for none."""
LATITUDE, LONGITUDE = 90.0, 180.0
INPUTS = 3

CACHED = 64
"""Places and weeks whose probabilities are kept: recordings come site by site."""

Product = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
_WEEKS_A_MONTH = 4
_FORMAT = 1
_WHAT = "a range model"


def week_of(day: date | None) -> int:
    """A date's week as BirdNET counts them: 48 a year, four a month, of 7 days and the last of what is left.

    BirdNET-Analyzer says of its option ``--week``: "Values in [1, 48] (4 weeks per month)", and no more; the days are
    those of eBird's bar charts: 1 to 7, 8 to 14, 15 to 21 and 22 to the end. (The package birdnetlib has another one,
    48 even parts of the year, which differs by one week at most.)

    Args:
        day: a date or a time; None where it is not known.

    Returns:
        1..48, or -1 (all year) for None.
    """
    if day is None:
        return ALL_YEAR
    return (day.month - 1) * _WEEKS_A_MONTH + min((day.day - 1) // 7 + 1, _WEEKS_A_MONTH)


def check_degrees(latitude: float, longitude: float) -> None:
    """Refuse what is no place.

    Raises:
        OptionsError: the latitude is outside -90..90, or the longitude outside -180..180.
    """
    for name, value, most in (("latitude", latitude, LATITUDE), ("longitude", longitude, LONGITUDE)):
        if not -most <= value <= most:  # nor is NaN
            raise OptionsError(f"{name} is {shown(value)}, expected {-most:g} to {most:g} degrees")


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense layer: kernel float32 [out, in], bias float32 [out]."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class RangeModel:
    """The network, see above.

    Attributes:
        offsets, factors: of latitude, longitude and week, float32 [3].
        turn: radians of a full turn.
        phases: float32 [n], of the n sines of each input.
        gain: of the features.
        layers: at least one; the last one has a row for each class, with the bias NaN where the model does not know it.

    Raises:
        BundleError: the arrays do not fit together, or hold numbers that are not finite.
    """

    offsets: NDArray[np.float32]
    factors: NDArray[np.float32]
    turn: np.float32
    phases: NDArray[np.float32]
    gain: np.float32
    layers: tuple[Dense, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise BundleError("has no layers")
        if self.phases.ndim != 1:
            raise BundleError(f"'phases' has the shape {list(self.phases.shape)}, expected one dimension")
        _check("offsets", self.offsets, (INPUTS,))
        _check("factors", self.factors, (INPUTS,))
        _check("phases", self.phases, self.phases.shape)
        _check("numbers", np.array([self.turn, self.gain]), (2,))
        width = INPUTS * len(self.phases)
        for number, layer in enumerate(self.layers, start=1):
            last = number == len(self.layers)
            rows = layer.bias.shape[0] if layer.bias.ndim else 0
            _check(f"kernel_{number}", layer.kernel, (rows, width))
            _check(f"bias_{number}", layer.bias, (rows,), unknown=last)
            width = rows

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            BundleError: the file cannot be read, is damaged, or its arrays do not fit together.
        """
        file = Path(path)
        try:
            arrays = read_arrays(file, _WHAT)
        except TableError as error:
            raise BundleError(error.reason, file) from None
        layers = sum(name.startswith("kernel_") for name in arrays)
        expected = {"format", "offsets", "factors", "phases", "numbers"}
        expected |= {f"{part}_{number}" for part in ("kernel", "bias") for number in range(1, layers + 1)}
        if set(arrays) != expected:
            raise BundleError(f"is not {_WHAT}: expected the arrays {', '.join(sorted(expected))}", file)
        if arrays["format"].tolist() != _FORMAT:
            raise BundleError(f"is {_WHAT} of another format than {_FORMAT}: it was written by another version", file)
        found = {name: _float32(name, array, file) for name, array in arrays.items() if name != "format"}
        if found["numbers"].shape != (2,):
            raise BundleError("'numbers' is not two numbers: turn and gain", file)
        pairs = [(found[f"kernel_{number}"], found[f"bias_{number}"]) for number in range(1, layers + 1)]
        turn, gain = found["numbers"]
        try:
            dense = tuple(Dense(kernel, bias) for kernel, bias in pairs)
            return cls(found["offsets"], found["factors"], turn, found["phases"], gain, dense)
        except BundleError as error:
            raise BundleError(error.reason, file) from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as ``.npz``: the same bytes for the same model, whenever and wherever.

        A kernel whose numbers are all those of float16, as in the published file, is kept as such.
        """
        arrays: dict[str, NDArray[Any]] = {
            "format": np.array(_FORMAT),
            "offsets": self.offsets,
            "factors": self.factors,
            "phases": self.phases,
            "numbers": np.array([self.turn, self.gain], np.float32),
        }
        for number, layer in enumerate(self.layers, start=1):
            arrays[f"kernel_{number}"], arrays[f"bias_{number}"] = _smallest(layer.kernel), layer.bias
        stream = io.BytesIO()
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        write_bytes(path, stream.getvalue())

    @property
    def classes(self) -> int:
        """How many there are, with those that are not known."""
        return len(self.layers[-1].bias)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which classes the model knows, bool [classes]."""
        return ~np.isnan(self.layers[-1].bias)

    def cut(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Self:
        """The model for other classes.

        Args:
            rows: for each class its place among the model's, -1 for one that the model does not know.
        """
        places, last = np.asarray(rows, dtype=np.int64), self.layers[-1]
        known = places >= 0
        kernel = np.where(known[:, None], last.kernel[places], np.float32(0))
        bias = np.where(known, last.bias[places], np.float32(np.nan))
        return replace(self, layers=(*self.layers[:-1], Dense(kernel, bias)))

    def probabilities(self, latitude: float, longitude: float, week: int = ALL_YEAR) -> NDArray[np.float32]:
        """How likely each class is to be met.

        Args:
            latitude: -90..90 degrees, north positive.
            longitude: -180..180 degrees, east positive.
            week: 1..48 (:func:`week_of`), -1 for the whole year.

        Returns:
            float32 [classes] within 0..1, NaN for classes that the model does not know; not to be written to.

        Raises:
            OptionsError: one of them is out of range.
        """
        check_degrees(latitude, longitude)
        if week != ALL_YEAR and not 1 <= week <= WEEKS:
            raise OptionsError(f"week is {shown(week)}, expected 1 to {WEEKS}, or {ALL_YEAR} for the whole year")
        key = (latitude, longitude, week)
        if key not in self._cache:
            if len(self._cache) == CACHED:
                self._cache.clear()
            (self._cache[key],) = self._at(np.array([key]), _plain_product)
            self._cache[key].flags.writeable = False
        return self._cache[key]

    @cached_property
    def _cache(self) -> dict[tuple[float, float, int], NDArray[np.float32]]:
        return {}

    def at(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """The probabilities of many places and weeks at once, unchecked; their last bits are BLAS' own.

        Args:
            points: latitude, longitude and week, [n, 3].

        Returns:
            float32 [n, classes].
        """
        return self._at(points, np.matmul)

    def _at(self, points: NDArray[np.floating], product: Product) -> NDArray[np.float32]:
        x = points.astype(np.float32)
        u = (x + self.offsets) * self.factors
        features = np.sin((u * self.turn)[..., None] + self.phases) * self.gain
        features[x[:, 2] == ALL_YEAR, 2] = 0
        hidden = features.reshape(len(x), -1)
        *dense, last = self.layers
        for layer in dense:
            hidden = np.maximum(product(hidden, layer.kernel.T) + layer.bias, np.float32(0))
        logits = product(hidden, last.kernel.T) + last.bias
        # exp overflows to inf for logits below -88, whose probability is 0 in float32
        with np.errstate(over="ignore"):
            found: NDArray[np.float32] = 1 / (1 + np.exp(-logits))
        return found


def _plain_product(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """a @ b without BLAS, which takes threads that a run has not given it, and gives other bits for each number."""
    found: NDArray[np.float32] = np.einsum("ni,io->no", a, b)
    return found


def _check(name: str, array: NDArray[Any], shape: tuple[int, ...], *, unknown: bool = False) -> None:
    """Refuse another shape, and numbers that are not finite; ``unknown``: but NaN."""
    if array.dtype != np.float32 or array.shape != shape:
        raise BundleError(f"'{name}' is {array.dtype} {list(array.shape)}, expected float32 {list(shape)}")
    finite = ~np.isinf(array) if unknown else np.isfinite(array)
    if not finite.all():
        raise BundleError(f"'{name}' holds numbers that are not finite")


def _float32(name: str, array: NDArray[Any], file: Path) -> NDArray[np.float32]:
    if array.dtype not in (np.float16, np.float32):
        raise BundleError(f"'{name}' is {array.dtype}, expected float16 or float32", file)
    return np.ascontiguousarray(array, dtype=np.float32)


def _smallest(kernel: NDArray[np.float32]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        half = kernel.astype(np.float16)
    return half if (half.astype(np.float32) == kernel).all() else kernel
