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
import scipy.fft
from numpy.typing import NDArray

from bce.engine.bundle import SAMPLE_RATE

FRAME = 640
HOP = 320
FFT_SIZE = 1024
BINS = FFT_SIZE // 2 + 1
BANDS = 128
LOWEST_HZ = 60.0
HIGHEST_HZ = 16_000.0
BATCH = 64  # frames whose samples and spectra stay in the cache between the steps


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


_HANN = hann()
_MATRIX = mel_matrix()
_FIRST = (_MATRIX > 0).argmax(axis=0)
_COUNT = (_MATRIX > 0).sum(axis=0)
_WEIGHTS = _MATRIX.T[_MATRIX.T > 0]  # band after band: a band's bins are neighbours


def mel_spectra(frames: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Mel magnitudes of frames.

    Args:
        frames: [frames, 640] samples, usually a strided view of a recording; computed in float64.

    Returns:
        float64 [frames, 128], at least 0; a full-scale tone gives 0.5.
    """
    mel = np.empty((len(frames), BANDS))
    windowed = np.empty((min(BATCH, len(frames)), FRAME))
    for at in range(0, len(frames), BATCH):
        batch = frames[at : at + BATCH]
        spectra = scipy.fft.rfft(np.multiply(batch, _HANN, out=windowed[: len(batch)]), FFT_SIZE)
        _bands_of_spectra(spectra, _FIRST, _COUNT, _WEIGHTS, mel[at : at + BATCH])
    return mel


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # sums of non-negative terms: order is harmless
def _bands_of_spectra(
    spectra: NDArray[np.complex128],
    first: NDArray[np.int64],
    count: NDArray[np.int64],
    weights: NDArray[np.float64],
    mel: NDArray[np.float64],
) -> None:
    magnitude = np.empty(BINS)
    for frame in range(len(spectra)):
        for k in range(BINS):
            value = spectra[frame, k]
            magnitude[k] = math.sqrt(value.real * value.real + value.imag * value.imag)
        at = 0
        for band in range(BANDS):
            total = 0.0
            for k in range(count[band]):
                total += weights[at + k] * magnitude[first[band] + k]
            mel[frame, band] = total
            at += count[band]
