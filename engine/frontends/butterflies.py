"""DFTs of eight complex numbers, each of eight frames side by side: what FFTs in numba kernels are made of.

A row of a flat array is one complex number of each of eight frames: their real parts, then their imaginary ones.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.lanes import LANES, load, store

ROW = 2 * LANES
"""Numbers of a row."""
_ROOT_HALF = math.sqrt(0.5)


def complex_pairs(values: Any) -> NDArray[np.float64]:
    """Complex [n] -> float64 [2 n]: real and imaginary parts in turn."""
    return np.ascontiguousarray(np.stack([np.real(values), np.imag(values)], axis=-1)).reshape(-1)


def turns_of(size: int) -> Any:
    """What the eight results [size / 8, 8] of the butterflies of a pass are turned by."""
    return np.exp(-2j * np.pi * np.outer(np.arange(size // 8), np.arange(8)) / size)


@numba.njit(forceinline=True)
def plus(a, b):  # type: ignore[no-untyped-def]
    return a[0] + b[0], a[1] + b[1]


@numba.njit(forceinline=True)
def minus(a, b):  # type: ignore[no-untyped-def]
    return a[0] - b[0], a[1] - b[1]


@numba.njit(forceinline=True)
def turned_minus(a, b):  # type: ignore[no-untyped-def]
    """-i (a - b)"""
    return a[1] - b[1], b[0] - a[0]


@numba.njit(forceinline=True)
def transform_4(a, b, c, d):  # type: ignore[no-untyped-def]
    """DFT of four complex numbers, each (real, imaginary)."""
    ac, ac_, bd, bd_ = plus(a, c), minus(a, c), plus(b, d), turned_minus(b, d)
    return plus(ac, bd), plus(ac_, bd_), minus(ac, bd), minus(ac_, bd_)


@numba.njit(forceinline=True)
def transform_8(even, odd):  # type: ignore[no-untyped-def]
    """DFT of eight complex numbers from those of the even and of the odd ones."""
    e0, e1, e2, e3 = even
    o0, o1, o2, o3 = odd
    o1 = (o1[0] + o1[1]) * _ROOT_HALF, (o1[1] - o1[0]) * _ROOT_HALF
    o2 = o2[1], o2[0]  # imaginary part to be subtracted, see below
    o3 = (o3[1] - o3[0]) * _ROOT_HALF, (o3[0] + o3[1]) * _ROOT_HALF  # likewise
    return (
        plus(e0, o0),
        plus(e1, o1),
        (e2[0] + o2[0], e2[1] - o2[1]),
        (e3[0] + o3[0], e3[1] - o3[1]),
        minus(e0, o0),
        minus(e1, o1),
        (e2[0] - o2[0], e2[1] + o2[1]),
        (e3[0] - o3[0], e3[1] + o3[1]),
    )


@numba.njit(forceinline=True)
def get(z, row):  # type: ignore[no-untyped-def]
    return load(z, row * ROW), load(z, row * ROW + LANES)


@numba.njit(forceinline=True)
def put(z, row, value):  # type: ignore[no-untyped-def]
    store(z, row * ROW, value[0])
    store(z, row * ROW + LANES, value[1])


@numba.njit(forceinline=True)
def put_turned(z, row, value, turns, at):  # type: ignore[no-untyped-def]
    cosine, sine = turns[2 * at], turns[2 * at + 1]
    store(z, row * ROW, value[0] * cosine - value[1] * sine)
    store(z, row * ROW + LANES, value[0] * sine + value[1] * cosine)


@numba.njit(forceinline=True)
def transform_rows(z, row, step):  # type: ignore[no-untyped-def]
    """DFT of every ``step``-th row from one on."""
    return transform_8(
        transform_4(get(z, row), get(z, row + 2 * step), get(z, row + 4 * step), get(z, row + 6 * step)),
        transform_4(
            get(z, row + step),
            get(z, row + 3 * step),
            get(z, row + 5 * step),
            get(z, row + 7 * step),
        ),
    )


@numba.njit(forceinline=True)
def transform_neighbours(z, row):  # type: ignore[no-untyped-def]
    """DFT of eight rows side by side, in their place: the last pass of an FFT."""
    v = transform_rows(z, row, 1)
    put(z, row, v[0])
    put(z, row + 1, v[1])
    put(z, row + 2, v[2])
    put(z, row + 3, v[3])
    put(z, row + 4, v[4])
    put(z, row + 5, v[5])
    put(z, row + 6, v[6])
    put(z, row + 7, v[7])


@numba.njit(forceinline=True)
def put_8(z, row, step, values, turns, at):  # type: ignore[no-untyped-def]
    put(z, row, values[0])
    put_turned(z, row + step, values[1], turns, at + 1)
    put_turned(z, row + 2 * step, values[2], turns, at + 2)
    put_turned(z, row + 3 * step, values[3], turns, at + 3)
    put_turned(z, row + 4 * step, values[4], turns, at + 4)
    put_turned(z, row + 5 * step, values[5], turns, at + 5)
    put_turned(z, row + 6 * step, values[6], turns, at + 6)
    put_turned(z, row + 7 * step, values[7], turns, at + 7)
