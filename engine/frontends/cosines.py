"""The real part of the spectra of frames, X[k] = sum f[n] cos(2 pi k n / N), in float64, eight frames side by side.

A frame is even for a cosine: f[n] and f[N - n] count alike. With N = 64 R and n = R m + j, the samples with j and
those with R - j are added, which leaves the sequences j = 0 .. R / 2 of 64 numbers, and with their transforms E_j(k)

    X[k] = sum over j of Re(exp(-2 pi i j k / N) E_j(k))

of which a band-limited mel bank needs but some. Two sequences share one complex FFT of 64 points, two passes of radix
8. The sequences 0 and R / 2 are symmetric, so that their sum tells both: its transform is U + exp(i pi k / 64) V with
real U and V, the parts that they have in X (but at k = 0, where V is the plain sum of the sequence).

As with ``lanes.py``, numba's cache on disk does not see a change of this file: touch the kernels' file too.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.butterflies import (
    ROW,
    complex_pairs,
    get,
    put,
    put_8,
    transform_4,
    transform_8,
    transform_neighbours,
    turns_of,
)
from bce.engine.frontends.lanes import LANES, load, load_across, rounded_product, store, wide, zeros

POINTS = 64
"""Of each FFT."""
GRAIN = 1024
"""Lengths of frames are multiples of this: sequences come in eights."""
_MIDDLE = POINTS // 2
_BLOCK = (POINTS + 1) * LANES  # numbers of a sequence, and some between: 4096 bytes apart would share a cache's lines
_AT_ONCE = 3  # rotations

Tables = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def tables(length: int, highest_bin: int) -> Tables:
    """What :func:`cosines` multiplies by, for frames of a length and the bins up to one.

    Returns:
        Turns of the FFT; halves of exp(-2 pi i j r / length) for r = 0 .. 32 and each j < R / 2, where j = 0 has cos
        and 1 / (2 sin) of pi r / 64 instead; cos and sin of 2 pi j q / R, of each j three q side by side.
    """
    half = length // POINTS // 2
    r, j = np.arange(_MIDDLE + 1), np.arange(half + 1)
    twists = np.exp(-2j * np.pi * np.outer(r, j[:half]) / length) / 2
    angle = np.pi * r[1:] / POINTS
    twists[0, 0], twists[1:, 0] = 1, np.cos(angle) + 0.5j / np.sin(angle)
    q = np.arange(rotations(highest_bin))
    angles = np.exp(2j * np.pi * (np.outer(q, j) % (2 * half)) / (2 * half))
    rounds = angles.reshape(-1, _AT_ONCE, half + 1).transpose(0, 2, 1)
    return complex_pairs(turns_of(POINTS)), complex_pairs(twists), complex_pairs(rounds)


def rotations(highest_bin: int) -> int:
    """How many multiples of 64 bins are needed, from 0 on, so that none up to one is further than 32 from one."""
    needed = (highest_bin + POINTS - 1) // POINTS + 1
    return -(-needed // _AT_ONCE) * _AT_ONCE


def bins_written(highest_bin: int) -> int:
    """How many bins :func:`cosines` writes to, those above the highest one included."""
    return POINTS * (rotations(highest_bin) - 1) + _MIDDLE + 1


def room(length: int) -> tuple[int, int, int]:
    """Numbers of the scratch arrays that :func:`cosines` takes: sequences, transforms, parts."""
    half = length // POINTS // 2
    return (half + 2) * _BLOCK, half // 2 * POINTS * ROW, (half + 1) * ROW


@numba.njit
def cosines(samples, first, step, window, tables, scratch, bins):  # type: ignore[no-untyped-def]
    """X of the eight frames at samples first, first + step, ..., each sample times the window rounded to float32.

    Args:
        samples: float32 [samples]; the frames lie in it.
        first, step: see above.
        window: float32 [length].
        tables: see :func:`tables`.
        scratch: float64 arrays, see :func:`room`.
        bins: float64 [at least bins_written x 8], to write into.
    """
    turns, twists, rounds = tables
    sequences, transforms, parts = scratch
    half = window.shape[0] // (2 * POINTS)
    _fold(samples, first, step, window, half, sequences)
    middle = _pack(sequences, half)
    for pair in range(half // 2):
        _transform(sequences, pair, turns, transforms)
    for r in range(_MIDDLE + 1):
        _twist(transforms, half, r, twists, middle, parts)
        _rotate(parts, half, r, rounds, bins)


@numba.njit(forceinline=True)
def _added(columns, mirrored, i, samples_window, low, high):  # type: ignore[no-untyped-def]
    """The i-th sample of a group and the one that is as far from the frame's end."""
    there = rounded_product(mirrored[8 - i], samples_window[high + 8 - i])
    return wide(rounded_product(columns[i], samples_window[low + i])) + wide(there)


@numba.njit
def _fold(samples, first, step, window, half, sequences):  # type: ignore[no-untyped-def]
    """The sequences 1 .. R / 2 - 1; beside them the samples of sequence R / 2, and at R / 2 + 1 those of sequence 0."""
    length = window.shape[0]
    for m in range(POINTS):
        for group in range(0, half, LANES):
            low = 2 * half * m + group
            high = length - LANES - low
            near = load_across(samples, first + low, step, LANES - 1)
            far = load_across(samples, first + high, step, LANES - 1)
            at = group * _BLOCK + m * LANES
            begin = wide(rounded_product(near[0], window[low]))
            if group:
                store(sequences, at, load(sequences, at) + begin)
            else:
                store(sequences, (half + 1) * _BLOCK + m * LANES, begin)
            store(sequences, at + 1 * _BLOCK, _added(near, far, 1, window, low, high))
            store(sequences, at + 2 * _BLOCK, _added(near, far, 2, window, low, high))
            store(sequences, at + 3 * _BLOCK, _added(near, far, 3, window, low, high))
            store(sequences, at + 4 * _BLOCK, _added(near, far, 4, window, low, high))
            store(sequences, at + 5 * _BLOCK, _added(near, far, 5, window, low, high))
            store(sequences, at + 6 * _BLOCK, _added(near, far, 6, window, low, high))
            store(sequences, at + 7 * _BLOCK, _added(near, far, 7, window, low, high))
            store(sequences, at + 8 * _BLOCK, wide(rounded_product(far[0], window[high])))


@numba.njit
def _pack(sequences, half):  # type: ignore[no-untyped-def]
    """Sequence 0 becomes the sum of the sequences 0 and R / 2, made symmetric. Returns the sum of the latter."""
    zeroth, last = (half + 1) * _BLOCK, half * _BLOCK
    total = wide(zeros())
    for m in range(POINTS):
        opposite = zeroth + (POINTS - m) % POINTS * LANES
        middle = load(sequences, last + m * LANES)
        total = total + middle
        both = load(sequences, zeroth + m * LANES) + load(sequences, opposite)
        store(sequences, m * LANES, (both + middle + load(sequences, last + (POINTS - 1 - m) * LANES)) * 0.5)
    return total


@numba.njit(forceinline=True)
def _point(sequences, a, b, m):  # type: ignore[no-untyped-def]
    return load(sequences, a + m * LANES), load(sequences, b + m * LANES)


@numba.njit
def _transform(sequences, pair, turns, transforms):  # type: ignore[no-untyped-def]
    """FFT of sequence 2 pair + i times the next one; bin k lands in row 8 (k mod 8) + k / 8."""
    a, b, z = 2 * pair * _BLOCK, (2 * pair + 1) * _BLOCK, pair * POINTS
    for p in range(8):
        even = transform_4(
            _point(sequences, a, b, p),
            _point(sequences, a, b, p + 16),
            _point(sequences, a, b, p + 32),
            _point(sequences, a, b, p + 48),
        )
        odd = transform_4(
            _point(sequences, a, b, p + 8),
            _point(sequences, a, b, p + 24),
            _point(sequences, a, b, p + 40),
            _point(sequences, a, b, p + 56),
        )
        put_8(transforms, z + p, 8, transform_8(even, odd), turns, 8 * p)
    for row in range(z, z + POINTS, 8):
        transform_neighbours(transforms, row)


@numba.njit(forceinline=True)
def _put_twisted(parts, j, re, im, twists, at):  # type: ignore[no-untyped-def]
    cosine, sine = twists[2 * at], twists[2 * at + 1]
    put(parts, j, (re * cosine - im * sine, re * sine + im * cosine))


@numba.njit
def _twist(transforms, half, r, twists, middle, parts):  # type: ignore[no-untyped-def]
    """Rows j of parts: exp(-2 pi i j r / N) E_j(r); U in row 0 and V in row R / 2, where only real parts count."""
    row = r % 8 * 8 + r // 8
    mirror = (POINTS - r) % POINTS
    mirror = mirror % 8 * 8 + mirror // 8
    for pair in range(half // 2):
        here, there = get(transforms, pair * POINTS + row), get(transforms, pair * POINTS + mirror)
        re, im = here[0] + there[0], here[1] - there[1]
        if pair:
            _put_twisted(parts, 2 * pair, re, im, twists, r * half + 2 * pair)
        else:
            cosine, cosecant = twists[2 * r * half], twists[2 * r * half + 1]
            last = im * cosecant if r else middle
            put(parts, half, (last, last))
            put(parts, 0, (re * 0.5 - last * cosine, last))
        _put_twisted(parts, 2 * pair + 1, here[1] + there[1], there[0] - here[0], twists, r * half + 2 * pair + 1)


@numba.njit
def _rotate(parts, half, r, rounds, bins):  # type: ignore[no-untyped-def]
    """Bins 64 q + r and 64 q - r, three q at once: with parts a_j + i b_j and an angle w of 2 pi j q / R, the sum of
    a_j cos w plus or minus that of b_j sin w.
    """
    for begin in range(0, rounds.shape[0] // (2 * (half + 1)), _AT_ONCE):
        at = 2 * begin * (half + 1)
        end = at + 2 * _AT_ONCE * half
        first, last = load(parts, 0), load(parts, half * ROW)
        even_0 = first + last * rounds[end]
        even_1 = first + last * rounds[end + 2]
        even_2 = first + last * rounds[end + 4]
        odd_0, odd_1, odd_2 = wide(zeros()), wide(zeros()), wide(zeros())
        for j in range(1, half):
            at += 2 * _AT_ONCE
            re, im = get(parts, j)
            even_0, odd_0 = even_0 + re * rounds[at], odd_0 + im * rounds[at + 1]
            even_1, odd_1 = even_1 + re * rounds[at + 2], odd_1 + im * rounds[at + 3]
            even_2, odd_2 = even_2 + re * rounds[at + 4], odd_2 + im * rounds[at + 5]
        _put_both(bins, begin, r, even_0, odd_0)
        _put_both(bins, begin + 1, r, even_1, odd_1)
        _put_both(bins, begin + 2, r, even_2, odd_2)


@numba.njit(forceinline=True)
def _put_both(bins, q, r, even, odd):  # type: ignore[no-untyped-def]
    store(bins, (POINTS * q + r) * LANES, even + odd)
    store(bins, abs(POINTS * q - r) * LANES, even - odd)
