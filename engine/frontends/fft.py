"""Spectra of overlapping frames: a real FFT of 1024 points in float64, of eight frames at a time, side by side.

The 640 samples of a frame are taken as 320 complex numbers, even samples real and odd ones imaginary. Their FFT of 512
points, three passes of radix 8 that decimate in frequency, gives the transforms E and O of the even and of the odd
samples, and the spectrum is ``E(k) + exp(-2 pi i k / 1024) O(k)``. The first pass knows that 3 of its 8 numbers are 0.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.butterflies import (
    ROW,
    complex_pairs,
    get,
    minus,
    plus,
    put_8,
    transform_8,
    transform_neighbours,
    transform_rows,
    turns_of,
)
from bce.engine.frontends.lanes import LANES, load_across, store, wide
from bce.engine.jit import kernel

FRAME = 640
HOP = 320
FFT_SIZE = 1024
HALF = FFT_SIZE // 2
TILE = HALF * ROW


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


_BINS = np.arange(HALF)
_ROW_OF_BIN = 64 * (_BINS % 8) + 8 * (_BINS // 8 % 8) + _BINS // 64
_HALF_TURNS = complex_pairs(np.exp(-2j * np.pi * np.arange(HALF // 2 + 1) / FFT_SIZE))
_TURNS = complex_pairs(np.concatenate([turns_of(512), turns_of(64)]))


@numba.njit(forceinline=True)
def _windowed(z, row, window):  # type: ignore[no-untyped-def]
    re, im = get(z, row)
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
            store(z, at, wide(columns[0]) - offsets[tile])
            store(z, at + 1 * LANES, wide(columns[1]) - offsets[tile])
            store(z, at + 2 * LANES, wide(columns[2]) - offsets[tile])
            store(z, at + 3 * LANES, wide(columns[3]) - offsets[tile])
            store(z, at + 4 * LANES, wide(columns[4]) - offsets[tile])
            store(z, at + 5 * LANES, wide(columns[5]) - offsets[tile])
            store(z, at + 6 * LANES, wide(columns[6]) - offsets[tile])
            store(z, at + 7 * LANES, wide(columns[7]) - offsets[tile])

        for p in range(64):  # of the rows p, p + 64, ... those from p + 320 on are 0
            a, b, c = _windowed(z, p, window), _windowed(z, p + 64, window), _windowed(z, p + 128, window)
            d, e = _windowed(z, p + 192, window), _windowed(z, p + 256, window)
            ae, ae_ = plus(a, e), minus(a, e)
            c_, d_ = (c[1], c[0]), (d[1], d[0])  # -i c and -i d, but for the sign of their imaginary parts
            even = plus(ae, c), (ae_[0] + c_[0], ae_[1] - c_[1]), minus(ae, c), (ae_[0] - c_[0], ae_[1] + c_[1])
            odd = plus(b, d), (b[0] + d_[0], b[1] - d_[1]), minus(b, d), (b[0] - d_[0], b[1] + d_[1])
            put_8(z, p, 64, transform_8(even, odd), turns, 8 * p)
        for q in range(0, HALF, 64):
            for p in range(8):
                put_8(z, q + p, 8, transform_rows(z, q + p, 8), turns, 512 + 8 * p)
            for row in range(q, q + 64, 8):
                transform_neighbours(z, row)

        base = (place + tile) * TILE % len(tiles)
        for k in range(1, HALF // 2 + 1):
            re, im = get(z, row_of_bin[k])
            mirror_re, mirror_im = get(z, row_of_bin[HALF - k])
            cosine, sine = half_turns[2 * k] * 0.5, half_turns[2 * k + 1] * 0.5
            even_re, even_im = (re + mirror_re) * 0.5, (im - mirror_im) * 0.5
            odd_re, odd_im = im + mirror_im, mirror_re - re
            turned_re, turned_im = odd_re * cosine - odd_im * sine, odd_re * sine + odd_im * cosine
            here, there = base + k * ROW, base + (HALF - k) * ROW
            store(tiles, here, even_re + turned_re)
            store(tiles, here + LANES, even_im + turned_im)
            store(tiles, there, even_re - turned_re)
            store(tiles, there + LANES, turned_im - even_im)
