"""A network as plain terms, whatever file form, layout or lowering it was written in.

A reader walks its file's graph from the network's input onward and says what it sees through :class:`Terms`; what
comes out is a small graph of :class:`Term` in which three things no longer show:

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

from bce.export.readers.functions import GRID, inside_sigmoid, line, sigmoid
from bce.export.readers.layout import Axes, aligned, leading_units, reshaped, sizes
from bce.export.readers.steps import (
    Affine,
    Binary,
    Conv,
    Func,
    Joined,
    Opaque,
    Pad,
    Pairs,
    Pool,
    Reduce,
    ReduceKind,
    Term,
)

Numbers = NDArray[np.float64] | float


@dataclass(frozen=True)
class Tensor:
    """A value of the file's graph: a term in a layout, perhaps under an elementwise function still being collected.

    ``axes`` is None for an opaque term.
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
        return sizes(self.layout)

    @property
    def on_grid(self) -> NDArray[Any]:
        return GRID if self.samples is None else self.samples

    def transposed(self, order: Sequence[int]) -> Tensor:
        """With its axes in another order."""
        return replace(self, axes=tuple(self.layout[i] for i in order))

    def reshaped(self, dims: Sequence[int]) -> Tensor | None:
        """With axes merged, split or inserted; None where that mixes what the axes hold."""
        axes = reshaped(self.layout, dims)
        return None if axes is None else replace(self, axes=axes)


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
        if x.samples is None or line(x.samples) is None:
            return x
        return Tensor(self.resolve(x), x.axes)

    def _function(self, term: Term, samples: NDArray[Any]) -> Term:
        straight = line(samples)
        if straight is not None:
            return self.affine(term, *straight)
        # an offset inside a sigmoid's decomposition belongs to the layer before it
        inner = inside_sigmoid(samples)
        if inner is not None:
            term, samples = self.affine(term, *inner), sigmoid(GRID)
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
                array = array.reshape(array.shape[leading_units(array.shape, len(channels)) :])
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
        for left, right in zip(aligned(a.layout, rank), aligned(b.layout, rank), strict=True):
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

    def pool(self, x: Tensor, kind: Literal["mean", "max"], size: tuple[int, int]) -> Tensor | None:
        """Means or maxima of a map laid out as (batch, channel, time, mel); None for another layout or a remainder."""
        if len(x.layout) != 4 or [[label for label, _ in axis] for axis in x.layout] != [["n"], ["c"], ["t"], ["m"]]:
            return None
        sizes = x.dims[2:]
        if any(n % k for n, k in zip(sizes, size, strict=True)):
            return None
        term = self.resolve(x)
        pooled = self._one((kind, size, term), lambda: Pool((term,), kind, size))
        space = tuple(((label, n // k),) for label, n, k in zip("tm", sizes, size, strict=True))
        return Tensor(pooled, (*x.layout[:2], *space))

    def join(self, tensors: Sequence[Tensor], axis: int) -> Tensor | None:
        """Maps side by side along their channels; None along another axis, or where they are of different sizes."""
        first, *others = tensors
        axis %= len(first.layout)
        if [label for label, _ in first.layout[axis]] != ["c"]:
            return None
        rest = [x.layout[:axis] + x.layout[axis + 1 :] for x in tensors]
        if any(layout != rest[0] for layout in rest[1:]) or any(len(x.layout[axis]) != 1 for x in others):
            return None
        channels = sum(x.dims[axis] for x in tensors)
        axes = (*first.layout[:axis], (("c", channels),), *first.layout[axis + 1 :])
        return Tensor(Joined(tuple(self.resolve(x) for x in tensors)), axes)

    def opaque(self, operands: Sequence[Any], what: str) -> Tensor:
        """A step that terms do not know."""
        return Tensor(Opaque(tuple(self.resolve(x) for x in operands if isinstance(x, Tensor)), what), None)


def _uniform(array: NDArray[Any], dims: tuple[int, ...]) -> bool:
    """Whether a constant holds one number that does not make the other operand larger."""
    if array.size == 0 or not (array == array.flat[0]).all():
        return False
    shape = array.shape[leading_units(array.shape, len(dims)) :]
    return len(shape) <= len(dims) and all(n in (1, d) for n, d in zip(shape[::-1], dims[::-1], strict=False))


def _number(array: NDArray[Any]) -> NDArray[Any]:
    number = array.reshape(-1)[0]
    return np.asarray(number, np.float64) if array.dtype.kind == "f" else np.asarray(number)
