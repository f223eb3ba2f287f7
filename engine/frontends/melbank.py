"""Perch v2's mel spectrum of single frames: the constants of its frontend, and the fast way through them.

Structure and constants: google-research/perch ``chirp/models/frontend.py`` (SimpleMelspec) as the published model uses
it: 640-sample frames every 320 samples at 32 kHz, symmetric Hann window divided by its sum, FFT of 1024, magnitudes,
128 triangular bands between 60 and 16,000 Hz on the HTK mel scale.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bce.engine.jit import kernel

SAMPLE_RATE = 32_000
FRAME = 640
HOP = 320
FFT_SIZE = 1024
BINS = FFT_SIZE // 2 + 1
BANDS = 128
LOWEST_HZ = 60.0
HIGHEST_HZ = 16_000.0
LANES = 8  # float64 numbers that the widest registers hold


def hann() -> NDArray[np.float64]:
    """The analysis window [640]: symmetric Hann, divided by its sum of 319.5."""
    window = np.hanning(FRAME)
    return window / window.sum()


def mel_matrix() -> NDArray[np.float64]:
    """Weights [513 bins, 128 bands]: triangles that are linear on the HTK mel scale, no area normalisation."""
    bins = _mel(np.arange(BINS) * (SAMPLE_RATE / FFT_SIZE))[:, None]
    edges = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    weights[0] = 0.0
    return weights


def _mel(hertz: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def mel_spectra(samples: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Mel magnitudes of all whole frames of some samples, the first frame at the first sample.

    Args:
        samples: [samples], at least 640; the FFT is computed in float64.

    Returns:
        float32 [frames, 128], frames = (samples - 320) // 320; a full-scale tone gives 0.5, magnitudes under 1e-19 may
        give 0. Within 1e-6 of the float64 value, relatively.
    """
    mel = np.empty(((len(samples) - FRAME) // HOP + 1, BANDS), np.float32)
    _mel_kernel(np.ascontiguousarray(samples, np.float64), *_TABLES, mel)
    return mel


def _tables() -> tuple[NDArray[Any], ...]:
    """Constant arrays of the kernel, in the order of its arguments."""
    turns = np.exp(-2j * np.pi * np.arange(FFT_SIZE) / FFT_SIZE)
    row_of_bin = np.zeros(FFT_SIZE, np.int64)
    for digit in range(5):
        row_of_bin = 4 * row_of_bin + np.arange(FFT_SIZE) // 4**digit % 4
    bands = mel_matrix().T
    first, count = (bands > 0).argmax(axis=1), (bands > 0).sum(axis=1)
    halved = (bands[bands > 0] / 2).astype(np.float32)  # band after band; halved: see the magnitudes in the kernel
    return hann(), np.ascontiguousarray(turns.real), np.ascontiguousarray(turns.imag), row_of_bin, first, count, halved


_TABLES = _tables()


@numba.njit(inline="always")
def _radix4(z, base, quarter, cosine, sine, step):  # type: ignore[no-untyped-def]
    """One pass over ``4 * quarter`` rows of z in place, decimating in frequency.

    Inlined with constant sizes, because the compiler makes vectors of the lanes only where it sees that rows differ.
    """
    for p in range(quarter):
        c1, s1 = cosine[p * step], sine[p * step]
        c2, s2 = cosine[2 * p * step], sine[2 * p * step]
        c3, s3 = cosine[3 * p * step], sine[3 * p * step]
        row = base + p
        for lane in range(LANES):
            ar, ai = z[row, 0, lane], z[row, 1, lane]
            br, bi = z[row + quarter, 0, lane], z[row + quarter, 1, lane]
            cr, ci = z[row + 2 * quarter, 0, lane], z[row + 2 * quarter, 1, lane]
            dr, di = z[row + 3 * quarter, 0, lane], z[row + 3 * quarter, 1, lane]
            even_r, even_i, odd_r, odd_i = ar + cr, ai + ci, ar - cr, ai - ci
            sum_r, sum_i, turn_r, turn_i = br + dr, bi + di, bi - di, dr - br  # turn: -i (b - d)
            z[row, 0, lane] = even_r + sum_r
            z[row, 1, lane] = even_i + sum_i
            r, i = odd_r + turn_r, odd_i + turn_i
            z[row + quarter, 0, lane] = r * c1 - i * s1
            z[row + quarter, 1, lane] = r * s1 + i * c1
            r, i = even_r - sum_r, even_i - sum_i
            z[row + 2 * quarter, 0, lane] = r * c2 - i * s2
            z[row + 2 * quarter, 1, lane] = r * s2 + i * c2
            r, i = odd_r - turn_r, odd_i - turn_i
            z[row + 3 * quarter, 0, lane] = r * c3 - i * s3
            z[row + 3 * quarter, 1, lane] = r * s3 + i * c3


# Without nnan and ninf, reassociation and contraction only move the rounding.
@kernel(fastmath={"contract", "reassoc"})
def _mel_kernel(samples, window, cosine, sine, row_of_bin, first, count, weights, mel):  # type: ignore[no-untyped-def]
    """Mel magnitudes [frames, 128] of the frames at samples 0, 320, 640, ...; 16 frames at a time.

    Two real frames make one complex signal z = a + i b, eight such signals lie side by side in the lanes. The radix-4
    FFT leaves bin k in row ``row_of_bin[k]``; |A(k)| = |Z(k) + conj Z(-k)| / 2 and |B(k)| = |Z(k) - conj Z(-k)| / 2.
    """
    hops = np.zeros((HOP, 2 * LANES + 1))  # the samples of 17 hops, transposed: lanes are neighbours
    z = np.empty((FFT_SIZE, 2, LANES))
    magnitude = np.empty((BINS, 2 * LANES), np.float32)
    flat = magnitude.ravel()
    total = np.empty(2 * LANES, np.float32)
    for start in range(0, len(mel), 2 * LANES):
        frames = min(2 * LANES, len(mel) - start)
        for i in range(HOP):
            for hop in range(frames + 1):
                hops[i, hop] = samples[(start + hop) * HOP + i]
        for half in range(FRAME // HOP):
            for i in range(HOP):
                for lane in range(LANES):
                    z[half * HOP + i, 0, lane] = hops[i, half + lane] * window[half * HOP + i]
                    z[half * HOP + i, 1, lane] = hops[i, half + LANES + lane] * window[half * HOP + i]
        z[FRAME:] = 0.0

        _radix4(z, 0, 256, cosine, sine, 1)
        for q in range(0, 1024, 256):
            _radix4(z, q, 64, cosine, sine, 4)
            for r in range(q, q + 256, 64):
                _radix4(z, r, 16, cosine, sine, 16)
                for t in range(r, r + 64, 16):
                    _radix4(z, t, 4, cosine, sine, 64)
                    for u in range(t, t + 16, 4):
                        _radix4(z, u, 1, cosine, sine, 256)

        for k in range(BINS):
            row, mirror = row_of_bin[k], row_of_bin[(FFT_SIZE - k) % FFT_SIZE]
            for lane in range(LANES):
                zr, zi = z[row, 0, lane], z[row, 1, lane]
                mr, mi = z[mirror, 0, lane], z[mirror, 1, lane]
                magnitude[k, lane] = (zr + mr) ** 2 + (zi - mi) ** 2
                magnitude[k, LANES + lane] = (zr - mr) ** 2 + (zi + mi) ** 2
        for k in range(len(flat)):
            flat[k] = math.sqrt(flat[k])

        at = 0
        for band in range(BANDS):
            total[:] = 0.0
            for k in range(first[band], first[band] + count[band]):
                for lane in range(2 * LANES):
                    total[lane] += weights[at] * magnitude[k, lane]
                at += 1
            for frame in range(frames):
                mel[start + frame, band] = total[frame]
