"""Perch v2's log-mel of single frames: the constants of its frontend, and the fast way through them.

Structure and constants: google-research/perch ``chirp/models/frontend.py`` (SimpleMelspec) as the published model uses
it: 640-sample frames every 320 samples at 32 kHz, symmetric Hann window divided by its sum, FFT of 1024, magnitudes,
128 triangular bands between 60 and 16,000 Hz on the HTK mel scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.butterflies import ROW, complex_pairs
from bce.engine.frontends.fft import FFT_SIZE, FRAME, HALF, HOP, TILE, new_tiles, spectra, tiles_of
from bce.engine.frontends.lanes import LANES, at_least, load, root, store_across, zeros
from bce.engine.frontends.logarithms import log
from bce.engine.jit import kernel

SAMPLE_RATE = 32_000
BINS = FFT_SIZE // 2 + 1
BANDS = 128
LOWEST_HZ = 60.0
HIGHEST_HZ = 16_000.0
LOG_SCALE = 0.1
SMALLEST = 1e-30
"""Stands for a mel magnitude of zero where a gain is added afterwards."""
SMALLEST_LEVEL = LOG_SCALE * math.log(SMALLEST)
BATCH = 16
"""Tiles that are made at a time where only their levels are wanted: half a megabyte, which stays in the cache."""


def hann() -> NDArray[np.float64]:
    """The analysis window [640]: symmetric Hann, divided by its sum of 319.5."""
    window = np.hanning(FRAME)
    return window / window.sum()


def mel_matrix() -> NDArray[np.float64]:
    """Weights [513 bins, 128 bands]: triangles that are linear on the HTK mel scale, no area normalisation."""
    bins, edges = _bins()[:, None], _edges()
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    weights = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    weights[0] = 0.0
    return weights


def _bins() -> NDArray[np.float64]:
    """In mel [513]."""
    return np.asarray(_mel(np.arange(BINS) * (SAMPLE_RATE / FFT_SIZE)))


def _edges() -> NDArray[np.float64]:
    """In mel [130]: band ``b`` rises from edge ``b`` to edge ``b + 1`` and falls to edge ``b + 2``."""
    return np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)


def _mel(hertz: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def mel_levels(samples: NDArray[np.float32], lowest: float = SMALLEST_LEVEL) -> NDArray[np.float32]:
    """Log-mel of all whole frames of some samples, the first frame at the first sample.

    Args:
        samples: float32 [samples], at least 640.
        lowest: value that none falls below.

    Returns:
        float32 [frames, 128], frames = (samples - 320) // 320: a tenth of the natural logarithm of the mel magnitudes.
        A full-scale tone has the magnitude 0.5; magnitudes are within 1e-6 of their float64 value, relatively, before
        the result is rounded; those under 1e-19 may count as 1e-30. The FFT is computed in float64.
    """
    samples = np.ascontiguousarray(samples, np.float32)
    out = np.empty(((len(samples) - FRAME) // HOP + 1, BANDS), np.float32)
    tiles, nothing = new_tiles(BATCH), np.zeros(BATCH)
    for first in range(0, len(out), BATCH * LANES):
        part = out[first : first + BATCH * LANES]
        spectra(samples[first * HOP :], len(part), HANN, nothing, tiles)
        levels(tiles, 0, nothing, 0.0, lowest, part)
    return out


def levels(
    tiles: NDArray[np.float32],
    first: int,
    shifts: NDArray[np.float64],
    gain: float,
    lowest: float,
    out: NDArray[np.float32],
) -> None:
    """Log-mel of frames that follow on each other: ``max(0.1 ln(mel) + gain, lowest)``.

    Args:
        tiles: their spectra, of the window :func:`hann` unless ``shifts`` is 0.
        first: the first frame, counted from place 0; places behind the last begin anew at 0.
        shifts: float64 [tiles that hold the frames], what is added to the samples of each tile's frames.
        gain: see above.
        lowest: likewise.
        out: float32 [frames, 128], C-contiguous, to write into.
    """
    tile, skipped = divmod(first, LANES)
    if len(shifts) < tiles_of(skipped + len(out)) or not out.flags.c_contiguous:
        raise ValueError(f"{len(shifts)} shifts for {len(out)} frames from {skipped} on, or their rows are not dense")
    limits = np.array([gain, lowest], np.float32)
    _levels_kernel(tiles.reshape(-1), tile, skipped, len(out), shifts, _WAVE, *_MEL, limits, out.reshape(-1))


def _mel_tables() -> tuple[NDArray[Any], ...]:
    """The first bin behind each edge [130]; of each bin [2 x 512] its weights in the band that falls and that rises."""
    begins = np.minimum(np.searchsorted(_bins(), _edges()), HALF)
    matrix = np.pad(mel_matrix(), ((0, 0), (1, 1)))  # with bands of nothing at both ends
    weights = np.zeros((HALF, 2), np.float32)
    for interval in range(BANDS + 1):
        bins = slice(begins[interval], begins[interval + 1])
        weights[bins] = matrix[bins, interval : interval + 2]
    return begins, weights.reshape(-1)


HANN = hann()
_WAVE = complex_pairs(np.fft.rfft(HANN, FFT_SIZE)[:HALF]).astype(np.float32)  # the spectrum of samples of 1
_MEL = _mel_tables()


@kernel()
def _levels_kernel(tiles, tile, skipped, frames, shifts, wave, begins, weights, limits, out):  # type: ignore[no-untyped-def]
    """See :func:`levels`; ``limits`` are gain and lowest.

    Between two edges one band falls and the next one rises: each magnitude is used as soon as it is there.
    """
    for at in range((skipped + frames + LANES - 1) // LANES):
        base = (tile + at) * TILE % len(tiles)
        shift = np.float32(shifts[at])
        frame = at * LANES - skipped
        begin, end = max(0, -frame), min(LANES, frames - frame)
        rose = zeros()
        for interval in range(BANDS + 1):
            falling, rising = rose, zeros()
            for k in range(begins[interval], begins[interval + 1]):
                re = load(tiles, base + k * ROW) + shift * wave[2 * k]
                im = load(tiles, base + k * ROW + LANES) + shift * wave[2 * k + 1]
                magnitude = root(re * re + im * im)
                falling = falling + magnitude * weights[2 * k]
                rising = rising + magnitude * weights[2 * k + 1]
            rose = rising
            if interval:
                level = at_least(log(at_least(falling, _SMALLEST)) * _LOG_SCALE + limits[0], limits[1])
                store_across(out, frame * BANDS + interval - 1, BANDS, begin, end, level)


_SMALLEST, _LOG_SCALE = np.float32(SMALLEST), np.float32(LOG_SCALE)
