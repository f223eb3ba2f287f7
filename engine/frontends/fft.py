"""Spectra of overlapping frames: a real FFT of 1024 points in float64, of eight frames at a time, side by side.

The 640 samples of a frame are taken as 320 complex numbers, even samples real and odd ones imaginary. Their FFT of 512
points, three passes of radix 8 that decimate in frequency, gives the transforms E and O of the even and of the odd
samples, and the spectrum is ``E(k) + exp(-2 pi i k / 1024) O(k)``. The first pass knows that 3 of its 8 numbers are 0.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.lanes import LANES, load, load_across, store
from bce.engine.jit import kernel

FRAME = 640
HOP = 320
FFT_SIZE = 1024
HALF = FFT_SIZE // 2
ROW = 2 * LANES
"""Numbers of one bin of a tile: the real parts of its frames, then the imaginary ones."""
TILE = HALF * ROW
_ROOT_HALF = math.sqrt(0.5)


def tiles_of(frames: int) -> int:
    """Tiles that so many frames take: a tile is the spectra of 8 frames."""
    return -(-frames // LANES)


def new_tiles(count: int) -> NDArray[np.float32]:
    """Room for the spectra of so many tiles: float32 [tiles, 512 bins x 2 x 8 frames]."""
    return np.empty((count, TILE), np.float32)


def spectra(
    samples: NDArray[np.float32],
    frames: int,
    window: NDArray[np.float64],
    offsets: NDArray[np.float64],
    tiles: NDArray[np.float32],
    place: int = 0,
) -> None:
    """The spectra of the frames at samples 0, 320, 640, ...

    What is written of a frame depends on its own samples and offset only, and on nothing beside it.

    Args:
        samples: float32 [samples], C-contiguous, at least 320 (frames + 1).
        frames: how many, from 1 on.
        window: float64 [640], what the samples of a frame are multiplied by.
        offsets: float64 [tiles], what is subtracted from the samples of each tile before that.
        tiles: to write into, see :func:`new_tiles`: bins 1 to 511, as no band has those at the ends.
        place: of the first tile; those behind the last begin anew at 0.
    """
    if len(samples) < HOP * (frames + 1) or frames < 1 or len(offsets) < tiles_of(frames):
        raise ValueError(f"{frames} frames of {len(samples)} samples and {len(offsets)} offsets")
    _spectra_kernel(samples, frames, window, offsets, _TURNS, _ROW_OF_BIN, _HALF_TURNS, tiles.reshape(-1), place)


def complex_pairs(values: Any) -> NDArray[np.float64]:
    """Complex [n] -> float64 [2 n]: real and imaginary parts in turn."""
    return np.ascontiguousarray(np.stack([np.real(values), np.imag(values)], axis=-1)).reshape(-1)


def _turns(size: int) -> Any:
    """What the eight results [size / 8, 8] of the butterflies of a pass are turned by."""
    return np.exp(-2j * np.pi * np.outer(np.arange(size // 8), np.arange(8)) / size)


_BINS = np.arange(HALF)
_ROW_OF_BIN = 64 * (_BINS % 8) + 8 * (_BINS // 8 % 8) + _BINS // 64
_HALF_TURNS = complex_pairs(np.exp(-2j * np.pi * np.arange(HALF // 2 + 1) / FFT_SIZE))
_TURNS = complex_pairs(np.concatenate([_turns(512), _turns(64)]))


@numba.njit(forceinline=True)
def _sum(a, b):  # type: ignore[no-untyped-def]
    return a[0] + b[0], a[1] + b[1]


@numba.njit(forceinline=True)
def _difference(a, b):  # type: ignore[no-untyped-def]
    return a[0] - b[0], a[1] - b[1]


@numba.njit(forceinline=True)
def _turned_difference(a, b):  # type: ignore[no-untyped-def]
    """-i (a - b)"""
    return a[1] - b[1], b[0] - a[0]


@numba.njit(forceinline=True)
def _transform_4(a, b, c, d):  # type: ignore[no-untyped-def]
    """DFT of four complex numbers, each (real, imaginary)."""
    ac, ac_, bd, bd_ = _sum(a, c), _difference(a, c), _sum(b, d), _turned_difference(b, d)
    return _sum(ac, bd), _sum(ac_, bd_), _difference(ac, bd), _difference(ac_, bd_)


@numba.njit(forceinline=True)
def _transform_8(even, odd):  # type: ignore[no-untyped-def]
    """DFT of eight complex numbers from those of the even and of the odd ones."""
    e0, e1, e2, e3 = even
    o0, o1, o2, o3 = odd
    o1 = (o1[0] + o1[1]) * _ROOT_HALF, (o1[1] - o1[0]) * _ROOT_HALF
    o2 = o2[1], o2[0]  # imaginary part to be subtracted, see below
    o3 = (o3[1] - o3[0]) * _ROOT_HALF, (o3[0] + o3[1]) * _ROOT_HALF  # likewise
    return (
        _sum(e0, o0),
        _sum(e1, o1),
        (e2[0] + o2[0], e2[1] - o2[1]),
        (e3[0] + o3[0], e3[1] - o3[1]),
        _difference(e0, o0),
        _difference(e1, o1),
        (e2[0] - o2[0], e2[1] + o2[1]),
        (e3[0] - o3[0], e3[1] + o3[1]),
    )


@numba.njit(forceinline=True)
def _complex(z, row):  # type: ignore[no-untyped-def]
    return load(z, row * ROW), load(z, row * ROW + LANES)


@numba.njit(forceinline=True)
def _keep(z, row, value):  # type: ignore[no-untyped-def]
    store(z, row * ROW, value[0])
    store(z, row * ROW + LANES, value[1])


@numba.njit(forceinline=True)
def _keep_turned(z, row, value, turns, at):  # type: ignore[no-untyped-def]
    cosine, sine = turns[2 * at], turns[2 * at + 1]
    store(z, row * ROW, value[0] * cosine - value[1] * sine)
    store(z, row * ROW + LANES, value[0] * sine + value[1] * cosine)


@numba.njit(forceinline=True)
def _read_8(z, row, step):  # type: ignore[no-untyped-def]
    """DFT of every ``step``-th row from one on."""
    return _transform_8(
        _transform_4(
            _complex(z, row), _complex(z, row + 2 * step), _complex(z, row + 4 * step), _complex(z, row + 6 * step)
        ),
        _transform_4(
            _complex(z, row + step),
            _complex(z, row + 3 * step),
            _complex(z, row + 5 * step),
            _complex(z, row + 7 * step),
        ),
    )


@numba.njit(forceinline=True)
def _keep_8(z, row, step, values, turns, at):  # type: ignore[no-untyped-def]
    _keep(z, row, values[0])
    _keep_turned(z, row + step, values[1], turns, at + 1)
    _keep_turned(z, row + 2 * step, values[2], turns, at + 2)
    _keep_turned(z, row + 3 * step, values[3], turns, at + 3)
    _keep_turned(z, row + 4 * step, values[4], turns, at + 4)
    _keep_turned(z, row + 5 * step, values[5], turns, at + 5)
    _keep_turned(z, row + 6 * step, values[6], turns, at + 6)
    _keep_turned(z, row + 7 * step, values[7], turns, at + 7)


@numba.njit(forceinline=True)
def _windowed(z, row, window):  # type: ignore[no-untyped-def]
    re, im = _complex(z, row)
    return re * window[2 * row], im * window[2 * row + 1]


@kernel()
def _spectra_kernel(samples, frames, window, offsets, turns, row_of_bin, half_turns, tiles, place):  # type: ignore[no-untyped-def]
    """See :func:`spectra`. A row of z is a complex number of each of eight frames."""
    z = np.empty(HALF * ROW)
    for tile in range((frames + LANES - 1) // LANES):
        first = tile * LANES
        last = min(LANES, frames - first) - 1
        for i in range(0, FRAME, LANES):
            columns = load_across(samples, first * HOP + i, HOP, last)
            at = i * LANES
            store(z, at, columns[0] - offsets[tile])
            store(z, at + 1 * LANES, columns[1] - offsets[tile])
            store(z, at + 2 * LANES, columns[2] - offsets[tile])
            store(z, at + 3 * LANES, columns[3] - offsets[tile])
            store(z, at + 4 * LANES, columns[4] - offsets[tile])
            store(z, at + 5 * LANES, columns[5] - offsets[tile])
            store(z, at + 6 * LANES, columns[6] - offsets[tile])
            store(z, at + 7 * LANES, columns[7] - offsets[tile])

        for p in range(64):  # of the rows p, p + 64, ... those from p + 320 on are 0
            a, b, c = _windowed(z, p, window), _windowed(z, p + 64, window), _windowed(z, p + 128, window)
            d, e = _windowed(z, p + 192, window), _windowed(z, p + 256, window)
            ae, ae_ = _sum(a, e), _difference(a, e)
            c_, d_ = (c[1], c[0]), (d[1], d[0])  # -i c and -i d, but for the sign of their imaginary parts
            even = _sum(ae, c), (ae_[0] + c_[0], ae_[1] - c_[1]), _difference(ae, c), (ae_[0] - c_[0], ae_[1] + c_[1])
            odd = _sum(b, d), (b[0] + d_[0], b[1] - d_[1]), _difference(b, d), (b[0] - d_[0], b[1] + d_[1])
            _keep_8(z, p, 64, _transform_8(even, odd), turns, 8 * p)
        for q in range(0, HALF, 64):
            for p in range(8):
                _keep_8(z, q + p, 8, _read_8(z, q + p, 8), turns, 512 + 8 * p)
            for row in range(q, q + 64, 8):
                v = _read_8(z, row, 1)
                _keep(z, row, v[0])
                _keep(z, row + 1, v[1])
                _keep(z, row + 2, v[2])
                _keep(z, row + 3, v[3])
                _keep(z, row + 4, v[4])
                _keep(z, row + 5, v[5])
                _keep(z, row + 6, v[6])
                _keep(z, row + 7, v[7])

        base = (place + tile) * TILE % len(tiles)
        for k in range(1, HALF // 2 + 1):
            re, im = _complex(z, row_of_bin[k])
            mirror_re, mirror_im = _complex(z, row_of_bin[HALF - k])
            cosine, sine = half_turns[2 * k] * 0.5, half_turns[2 * k + 1] * 0.5
            even_re, even_im = (re + mirror_re) * 0.5, (im - mirror_im) * 0.5
            odd_re, odd_im = im + mirror_im, mirror_re - re
            turned_re, turned_im = odd_re * cosine - odd_im * sine, odd_re * sine + odd_im * cosine
            here, there = base + k * ROW, base + (HALF - k) * ROW
            store(tiles, here, even_re + turned_re)
            store(tiles, here + LANES, even_im + turned_im)
            store(tiles, there, even_re - turned_re)
            store(tiles, there + LANES, turned_im - even_im)
