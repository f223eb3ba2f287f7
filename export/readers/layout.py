"""What the axes of an array hold, and what transposes and reshapes make of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

Atom = tuple[str, int]
"""What an axis holds and how much of it: ("t", 249). Channels that were split are "c" and "c'"."""

Axes = tuple[tuple[Atom, ...], ...]
"""Each axis holds none (a unit axis), one, or several atoms (merged axes)."""


def sizes(axes: Axes) -> tuple[int, ...]:
    """The shape of an array with these axes."""
    return tuple(math.prod(size for _, size in axis) for axis in axes)


def reshaped(axes: Axes, dims: Sequence[int]) -> Axes | None:
    """Merge, split or insert axes; None where that mixes what they hold.

    Args:
        axes: before.
        dims: the new shape, of as many numbers.
    """
    atoms = [atom for axis in axes for atom in axis]
    new: list[tuple[Atom, ...]] = []
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
        new.append(tuple(axis))
    if not new or any(size != 1 for _, size in atoms):
        return None
    return (*new[:-1], (*new[-1], *atoms))


def aligned(axes: Axes, rank: int) -> Axes:
    """With unit axes before them, as broadcasting adds them."""
    return ((),) * (rank - len(axes)) + axes


def leading_units(shape: tuple[int, ...], rank: int) -> int:
    """How many leading unit axes a constant has beyond a rank."""
    extra = max(0, len(shape) - rank)
    return extra if all(n == 1 for n in shape[:extra]) else 0
