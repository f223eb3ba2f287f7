"""A network as plain terms, whatever file form, layout or lowering it was written in.

A reader walks its file's graph from the log-mel onward and says what it sees through :class:`Terms`; what comes out is
a small graph of :class:`Term` in which three things no longer show:

- **Layout.** A :class:`Tensor` carries for each axis what it holds (batch, time, mel, channels), so transposes and
  reshapes change the axes and not the term.
- **Lowering of activations.** Elementwise operations on one term are evaluated on a grid of numbers. What the samples
  equal in the end is what the function is: ``x * sigmoid(x)``, ``x / (1 + exp(-x))`` and a fused swish are one.
- **Place of the normalisation.** Factors and offsets per channel behind a convolution become its scale and shift.

What cannot be said in terms is :class:`Opaque`; whether that matters is for whoever reads the terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[tuple[int, int], tuple[int, int]]
ReduceKind = Literal["mean", "sum", "max", "l2"]
Numbers = NDArray[np.float64] | float

GRID = np.linspace(-9.0, 9.0, 64)
"""Where elementwise functions are sampled; it has no zero, so that ``x / x`` forms stay defined."""


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-x))


_FUNCTIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "swish": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "hard swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "tanh": np.tanh,
    "GELU": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "square": np.square,
}


def same_function(samples: NDArray[Any], expected: NDArray[Any], where: Any = slice(None)) -> bool:
    """Whether samples on the grid are those of a function, to float32's precision."""
    return bool(np.allclose(samples[where], expected[where], rtol=2e-6, atol=1e-9))


@dataclass(frozen=True, eq=False)
class Term:
    """One step of the network; compared by identity."""

    inputs: tuple[Term, ...]

    def __str__(self) -> str:
        return type(self).__name__.lower()


class LogMel(Term):
    """The input of the network."""


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
        with np.errstate(all="ignore"):
            for name, function in _FUNCTIONS.items():
                if same_function(self.samples, function(GRID)):
                    return name
        return "an unknown function"

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
class Opaque(Term):
    """Anything else, by the name that the file gives it."""

    what: str

    def __str__(self) -> str:
        return self.what


Atom = tuple[str, int]
"""What an axis holds and how much of it: ("t", 249). Channels that were split are "c" and "c'"."""

Axes = tuple[tuple[Atom, ...], ...]


@dataclass(frozen=True)
class Tensor:
    """A value of the file's graph: a term in a layout, perhaps under an elementwise function still being collected.

    Each axis holds none (a unit axis), one, or several atoms (merged axes); ``axes`` is None for an opaque term.
    """

    term: Term
    axes: Axes | None
    samples: NDArray[Any] | None = None

    @property
    def layout(self) -> Axes:
        assert self.axes is not None
        return self.axes

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(math.prod(size for _, size in axis) for axis in self.layout)

    @property
    def on_grid(self) -> NDArray[Any]:
        return GRID if self.samples is None else self.samples


class Terms:
    """Builds terms; equal steps on one term are one term."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Term] = {}

    def _one(self, key: tuple[Any, ...], term: Callable[[], Term]) -> Term:
        if key not in self._known:
            self._known[key] = term()
        return self._known[key]

    # --- elementwise -------------------------------------------------------------------------------------------

    def resolve(self, x: Tensor) -> Term:
        """The term of a tensor, with the function that was collected on it."""
        if x.samples is None:
            return x.term
        samples = x.samples
        return self._one((x.term, samples.tobytes(), str(samples.dtype)), lambda: self._function(x.term, samples))

    def known(self, x: Tensor) -> Term | None:
        """Like :meth:`resolve`, but None where that would make a new term."""
        return x.term if x.samples is None else self._known.get((x.term, x.samples.tobytes(), str(x.samples.dtype)))

    def settled(self, x: Tensor) -> Tensor:
        """The tensor with a collected factor and offset made part of its term, for functions to build on."""
        if x.samples is None or _line(x.samples) is None:
            return x
        return Tensor(self.resolve(x), x.axes)

    def _function(self, term: Term, samples: NDArray[Any]) -> Term:
        line = _line(samples)
        if line is not None:
            return self.affine(term, *line)
        with np.errstate(all="ignore"):
            # an offset inside a sigmoid's decomposition belongs to the layer before it
            inner = _line(-np.log(1.0 / samples - 1.0)) if samples.dtype == np.float64 else None
        if inner is not None and inner[0] != 0.0:
            term, samples = self.affine(term, *inner), _sigmoid(GRID)
            return self._one((term, "sigmoid"), lambda: Func((term,), samples))
        return Func((term,), samples)

    def affine(self, term: Term, scale: Numbers, shift: Numbers) -> Term:
        """Factors and offsets per channel, joined with those that are there already."""
        if np.all(scale == 1.0) and not np.any(shift):
            return term
        if isinstance(term, Conv) and np.ndim(scale) <= 1 and np.ndim(shift) <= 1:
            return replace(term, scale=term.scale * scale, shift=term.shift * scale + shift)
        if isinstance(term, Affine):
            scale, shift = term.scale * scale, term.shift * scale + shift
            (term,) = term.inputs
        if np.allclose(scale, 1.0, rtol=0, atol=1e-6) and not np.any(shift):
            return term
        return Affine((term,), np.asarray(scale), np.asarray(shift))

    def per_channel(self, x: Tensor, scale: NDArray[Any] | float, shift: NDArray[Any] | float) -> Tensor | None:
        """``scale * x + shift`` with arrays that broadcast against x; None unless they vary along channels only."""
        arrays = []
        for value in (scale, shift):
            array = np.asarray(value, np.float64)
            if array.ndim:
                channels = [[size for label, size in axis if label.startswith("c")] for axis in x.layout]
                array = array.reshape(array.shape[_leading_units(array.shape, len(channels)) :])
                try:
                    array = np.broadcast_to(array, [math.prod(sizes) for sizes in channels]).reshape(
                        [n for sizes in channels for n in sizes]
                    )
                except ValueError:
                    return None
            arrays.append(array)
        return Tensor(self.affine(self.resolve(x), arrays[0], arrays[1]), x.axes)

    def elementwise(
        self, operands: Sequence[Tensor | NDArray[Any]], evaluate: Callable[[list[NDArray[Any]]], NDArray[Any]]
    ) -> Tensor | None:
        """A function of one term and of numbers; None when the operands are anything else."""
        tensors = [x for x in operands if isinstance(x, Tensor)]
        first = max(tensors, key=lambda x: len(x.layout))
        if any(x.term is not first.term or x.axes != first.axes for x in tensors):
            return None
        if not all(isinstance(x, Tensor) or _uniform(x, first.dims) for x in operands):
            return None
        arrays = [x.on_grid if isinstance(x, Tensor) else _number(x) for x in operands]
        with np.errstate(all="ignore"):
            samples = evaluate(arrays)
        rank = max([len(first.layout), *(np.ndim(x) for x in operands if not isinstance(x, Tensor))])
        axes = ((),) * (rank - len(first.layout)) + first.layout
        return Tensor(first.term, axes, np.asarray(samples)) if np.shape(samples) == GRID.shape else None

    def binary(self, op: Literal["add", "mul"], a: Tensor, b: Tensor) -> Tensor | None:
        """Sum or product of two different terms; None when their axes do not match."""
        rank = max(len(a.layout), len(b.layout))
        axes = []
        for left, right in zip(_aligned(a.layout, rank), _aligned(b.layout, rank), strict=True):
            if left and right and left != right:
                return None
            axes.append(left or right)
        left_term, right_term = self.resolve(a), self.resolve(b)
        term = self._one((op, left_term, right_term), lambda: Binary((left_term, right_term), op))
        return Tensor(term, tuple(axes))

    # --- layers ------------------------------------------------------------------------------------------------

    def conv(
        self,
        x: Tensor,
        kernel: NDArray[Any],
        bias: NDArray[Any] | None,
        stride: tuple[int, int],
        padding: Pairs,
        groups: int,
    ) -> Tensor | None:
        """A convolution of a map or a vector laid out as (batch, channel, time, mel); None for another layout."""
        if len(x.layout) != 4 or kernel.ndim != 4:
            return None
        batch, channel, *space = x.layout
        labels = [label for axis in space for label, _ in axis]
        if [a[0] for a in batch] != ["n"] or labels not in (["t", "m"], []) or len(channel) > 1:
            return None
        out = [
            (size + sum(pair) - k) // s + 1
            for size, pair, k, s in zip(x.dims[2:], padding, kernel.shape[2:], stride, strict=True)
        ]
        term = self.resolve(x)
        if isinstance(term, Pad):
            (a, b), (c, d) = (
                tuple(map(sum, zip(*pairs, strict=True))) for pairs in zip(term.padding, padding, strict=True)
            )
            padding = ((a, b), (c, d))
            (term,) = term.inputs
        axes = (batch, (("c", kernel.shape[0]),), *(((label, n),) for label, n in zip(labels, out, strict=False)))
        ones = np.ones(kernel.shape[0])
        shift = np.zeros(kernel.shape[0]) if bias is None else bias.astype(np.float64)
        node = Conv((term,), kernel, ones, shift, stride, padding, groups)
        return Tensor(node, axes if labels else (*axes, (), ()))

    def pad(self, x: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor | None:
        """Zeros around the map, (begin, end) for each axis of x; None for anything but time and mel."""
        by_label = dict.fromkeys("tm", (0, 0))
        axes = []
        for axis, pair in zip(x.layout, pairs, strict=True):
            if any(pair):
                if len(axis) != 1 or axis[0][0] not in by_label:
                    return None
                by_label[axis[0][0]] = pair
                axis = ((axis[0][0], axis[0][1] + sum(pair)),)
            axes.append(axis)
        term = self.resolve(x)
        return Tensor(Pad((term,), (by_label["t"], by_label["m"])), tuple(axes))

    def dense(self, x: Tensor, matrix: NDArray[Any], bias: NDArray[Any] | None = None) -> Tensor | None:
        """``x @ matrix + bias`` over the last axis, matrix [in, out]; None unless that axis holds the channels."""
        if matrix.ndim != 2 or [label for label, _ in x.layout[-1]] != ["c"]:
            return None
        outputs = matrix.shape[1]
        shift = np.zeros(outputs) if bias is None else np.broadcast_to(bias, (outputs,)).astype(np.float64)
        term = Conv((self.resolve(x),), matrix.T[:, :, None, None], np.ones(outputs), shift)
        return Tensor(term, (*x.layout[:-1], (("c", outputs),)))

    def reduce(self, x: Tensor, kind: ReduceKind, axes: Sequence[int], keepdims: bool) -> Tensor:
        """A mean, sum, maximum or length over axes; a sum over time or mel is a mean times their size."""
        chosen = {axis % len(x.layout) for axis in axes}
        atoms = [atom for i in chosen for atom in x.layout[i]]
        left = tuple(() if i in chosen else axis for i, axis in enumerate(x.layout) if keepdims or i not in chosen)
        if not atoms:
            return replace(x, axes=left)
        over = frozenset(label for label, _ in atoms)
        factor = None
        if kind == "sum" and over <= {"t", "m"}:
            kind, factor = "mean", GRID * math.prod(size for _, size in atoms)
        term = self.resolve(x)
        if isinstance(term, Reduce) and term.kind == kind and kind in ("mean", "max"):
            over |= term.over
            (term,) = term.inputs
        return Tensor(self._one((kind, over, term), lambda: Reduce((term,), kind, over)), left, factor)

    # --- layout ------------------------------------------------------------------------------------------------

    @staticmethod
    def transpose(x: Tensor, order: Sequence[int]) -> Tensor:
        return replace(x, axes=tuple(x.layout[i] for i in order))

    @staticmethod
    def reshape(x: Tensor, dims: Sequence[int]) -> Tensor | None:
        """Merge, split or insert axes; None where that mixes what the axes hold."""
        atoms = [atom for axis in x.layout for atom in axis]
        axes: list[tuple[Atom, ...]] = []
        for wanted in dims:
            axis: list[Atom] = []
            filled = 1
            while atoms and (filled < wanted or (filled == wanted == 1 and atoms[0][1] == 1 and not axis)):
                label, size = atoms.pop(0)
                if filled * size > wanted:
                    part = wanted // filled
                    if not label.startswith("c") or wanted % filled or size % part:
                        return None
                    atoms.insert(0, (label + "'", size // part))
                    size = part
                axis.append((label, size))
                filled *= size
            if filled != wanted:
                return None
            axes.append(tuple(axis))
        if not axes or any(size != 1 for _, size in atoms):
            return None
        return replace(x, axes=(*axes[:-1], (*axes[-1], *atoms)))

    def opaque(self, operands: Sequence[Any], what: str) -> Tensor:
        """A step that terms do not know."""
        return Tensor(Opaque(tuple(self.resolve(x) for x in operands if isinstance(x, Tensor)), what), None)


def _aligned(axes: Axes, rank: int) -> Axes:
    return ((),) * (rank - len(axes)) + axes


def _line(samples: NDArray[Any]) -> tuple[float, float] | None:
    """(factor, offset) where samples on the grid lie on a line, else None."""
    if samples.dtype != np.float64 or not np.isfinite(samples).all():
        return None
    factor = float((samples[-1] - samples[0]) / (GRID[-1] - GRID[0]))
    offset = float(samples[0] + samples[-1]) / 2
    size = abs(factor) * GRID[-1] + abs(offset)
    if not np.allclose(samples, factor * GRID + offset, rtol=0, atol=1e-9 * size):
        return None
    # float64's own rounding is no factor and no offset
    return 1.0 if abs(factor - 1.0) < 1e-9 else factor, 0.0 if abs(offset) < 1e-9 * size else offset


def _leading_units(shape: tuple[int, ...], rank: int) -> int:
    """How many leading unit axes a constant has beyond a rank."""
    extra = max(0, len(shape) - rank)
    return extra if all(n == 1 for n in shape[:extra]) else 0


def _uniform(array: NDArray[Any], dims: tuple[int, ...]) -> bool:
    """Whether a constant holds one number that does not make the other operand larger."""
    if array.size == 0 or not (array == array.flat[0]).all():
        return False
    shape = array.shape[_leading_units(array.shape, len(dims)) :]
    return len(shape) <= len(dims) and all(n in (1, d) for n, d in zip(shape[::-1], dims[::-1], strict=False))


def _number(array: NDArray[Any]) -> NDArray[Any]:
    number = array.reshape(-1)[0]
    return np.asarray(number, np.float64) if array.dtype.kind == "f" else np.asarray(number)
