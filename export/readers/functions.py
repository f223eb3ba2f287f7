"""Elementwise functions known by their values on a grid, whatever operators a file writes them with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = np.linspace(-9.0, 9.0, 64)
"""Where elementwise functions are sampled; it has no zero, so that ``x / x`` forms stay defined."""

ROUNDING = 1e-13
"""What a few operations in float64 may add to samples, relative to the largest of them: no factor and no offset."""
_STRAIGHT = 1e-9
_SUBNORMAL = float(np.finfo(np.float64).tiny)
"""Samples below this are rounded to multiples of the smallest number: steps that are no function either."""


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x))."""
    return 1.0 / (1.0 + np.exp(-x))


FUNCTIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "swish": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
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


def function_name(samples: NDArray[Any]) -> str:
    """The common name of a function by its samples on the grid, or "an unknown function"."""
    with np.errstate(all="ignore"):
        for name, function in FUNCTIONS.items():
            if same_function(samples, function(GRID)):
                return name
    return "an unknown function"


def line(samples: NDArray[Any], rounding: float = ROUNDING) -> tuple[float, float] | None:
    """(factor, offset) where samples on the grid lie on a line, else None.

    Args:
        samples: the values on the grid.
        rounding: how far from 1 a factor, and from 0 an offset relative to the samples, may be and still be none.
    """
    if samples.dtype != np.float64 or not np.isfinite(samples).all():
        return None
    factor = float((samples[-1] - samples[0]) / (GRID[-1] - GRID[0]))
    offset = float(samples[0] + samples[-1]) / 2
    size = abs(factor) * GRID[-1] + abs(offset)
    if not np.allclose(samples, factor * GRID + offset, rtol=0, atol=max(_STRAIGHT * size, _SUBNORMAL)):
        return None
    return 1.0 if abs(factor - 1.0) < rounding else factor, 0.0 if abs(offset) < rounding * size else offset


def inside_sigmoid(samples: NDArray[Any]) -> tuple[float, float] | None:
    """(factor, offset) of x where samples on the grid are a sigmoid of a line, else None."""
    if samples.dtype != np.float64:
        return None
    with np.errstate(all="ignore"):
        # far from zero a sigmoid is so near to 0 or 1 that its inverse has few digits left
        found = line(-np.log(1.0 / samples - 1.0), rounding=_STRAIGHT)
    return found if found is not None and found[0] != 0.0 else None
