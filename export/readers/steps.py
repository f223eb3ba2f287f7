"""The steps of a network as terms: what :mod:`bce.export.readers.terms` builds and families recognise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bce.export.readers.functions import function_name

Pairs = tuple[tuple[int, int], tuple[int, int]]
ReduceKind = Literal["mean", "sum", "max", "l2"]


@dataclass(frozen=True, eq=False)
class Term:
    """One step of the network; compared by identity."""

    inputs: tuple[Term, ...]

    def __str__(self) -> str:
        return type(self).__name__.lower()


class Input(Term):
    """The input of the network, such as a spectrogram."""


@dataclass(frozen=True, eq=False)
class Conv(Term):
    """``scale * conv(x, kernel) + shift``; a dense layer is a 1x1 convolution.

    kernel [out, in / groups, time, mel]; scale and shift float64 [out]; ``epsilon`` is that of the BatchNorm node it
    contains, if there was one.
    """

    kernel: NDArray[Any]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    stride: tuple[int, int] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    groups: int = 1
    epsilon: float | None = None

    def __str__(self) -> str:
        return f"a {self.kernel.shape[2]}x{self.kernel.shape[3]} convolution"


@dataclass(frozen=True, eq=False)
class Pad(Term):
    """Zeros around the map, (begin, end) along time and mel."""

    padding: Pairs

    def __str__(self) -> str:
        return "zero padding"


@dataclass(frozen=True, eq=False)
class Func(Term):
    """An elementwise function, known by its samples on the grid."""

    samples: NDArray[Any]

    @property
    def name(self) -> str:
        """The function's common name, or "an unknown function"."""
        return function_name(self.samples)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Affine(Term):
    """``scale * x + shift`` on something else than a convolution; arrays broadcast over the channel axes."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def __str__(self) -> str:
        return "a scaling or an offset"


@dataclass(frozen=True, eq=False)
class Reduce(Term):
    """Mean, sum, maximum or Euclidean length over axes: a set of "t", "m", "c"."""

    kind: ReduceKind
    over: frozenset[str]

    def __str__(self) -> str:
        return f"a {self.kind}"


@dataclass(frozen=True, eq=False)
class Binary(Term):
    """Sum or product of two terms."""

    op: Literal["add", "mul"]

    def __str__(self) -> str:
        return {"add": "a sum", "mul": "a product"}[self.op]


@dataclass(frozen=True, eq=False)
class Pool(Term):
    """The mean or the largest of every few positions, (time, mel), which do not overlap."""

    kind: Literal["mean", "max"]
    size: tuple[int, int]

    def __str__(self) -> str:
        return f"a {self.kind} of {self.size[0]}x{self.size[1]} positions"


@dataclass(frozen=True, eq=False)
class Joined(Term):
    """The channels of several maps, one after the other."""

    def __str__(self) -> str:
        return "several maps joined"


@dataclass(frozen=True, eq=False)
class Opaque(Term):
    """Anything else, by the name that the file gives it."""

    what: str

    def __str__(self) -> str:
        return self.what
