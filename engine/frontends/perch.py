"""Perch v2's log-mel, exact per window, with the spectra of an audio block shared by all its windows.

A window of 5 s at 32 kHz has 500 frames; frame ``t`` covers its samples ``320 t - 160 .. 320 t + 479``. Windows start
on the 320-sample grid, so the 498 inner frames of a window are frames of the block, computed once: the gain of a
window is added to their logarithms, its mean is subtracted from their spectra. The first and the last frame see zeros
outside the window and are computed for each window apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.frontends.base import FrontendSpec, check_settings
from bce.engine.frontends.fft import FFT_SIZE, FRAME, HOP, new_tiles, spectra, tiles_of
from bce.engine.frontends.lanes import LANES
from bce.engine.frontends.melbank import (
    BANDS,
    HANN,
    LOG_SCALE,
    SAMPLE_RATE,
    SMALLEST_LEVEL,
    hann,
    levels,
    mel_levels,
    mel_matrix,
)
from bce.engine.geometry import WindowSpec

Preparation = Literal["none", "peak", "hoplite"]
"""What is done to the samples of each window first. ``none``: nothing; ``peak``: scaled to a peak of 0.25; ``hoplite``:
mean removed, then scaled to a peak of 0.25 (perch-hoplite ``normalize_audio``). A silent window stays silent."""

KIND = "perch_log_mel"
INPUT = "log_mel"
"""What Perch's backbone graphs call their input."""
WINDOW = WindowSpec(SAMPLE_RATE, 5.0)
FRAMES = WINDOW.samples // HOP
SHAPE = (FRAMES, BANDS)
"""(time, mel) of a window: 500 x 128."""
PAD = (FRAME - HOP) // 2
INNER = FRAMES - 2
"""Frames of a window that lie inside of it."""
FLOOR = 1e-5
TARGET_PEAK = 0.25
LOWEST = LOG_SCALE * float(np.log(FLOOR))
_LOWEST_ROW = np.full(BANDS, LOWEST, np.float32)  # a row: numpy takes twice as long with a scalar
_OPENING = np.where(np.arange(FRAME) < PAD, 0, HANN)
_CLOSING = np.where(np.arange(FRAME) >= FRAME - PAD, 0, HANN)


class PerchFrontend:
    """The frontend of Perch bundles.

    Args:
        preparation: see :data:`Preparation`.
    """

    def __init__(self, preparation: Preparation) -> None:
        if preparation not in get_args(Preparation):
            raise ValueError(f"preparation is {preparation!r}, expected one of {', '.join(get_args(Preparation))}")
        self.preparation = preparation

    @property
    def shape(self) -> tuple[int, ...]:
        """(500, 128): time, mel."""
        return SHAPE

    def open(self, samples: NDArray[np.float32], first_sample: int = 0) -> LogMelBlock:
        """Begin with an audio block; ``first_sample`` is a multiple of 320."""
        return LogMelBlock(samples, self.preparation, first_sample)


def make(window: WindowSpec, settings: Mapping[str, Any], folder: Path | None = None) -> PerchFrontend:
    """See :data:`bce.engine.frontends.base.KINDS`. The one setting is ``preparation``."""
    if window != WINDOW:
        raise BundleError(
            f"field 'window' is {window.window_s:g} s at {window.sample_rate} Hz, the frontend '{KIND}' takes "
            f"{WINDOW.window_s:g} s at {WINDOW.sample_rate} Hz"
        )
    check_settings(KIND, settings, {"preparation": get_args(Preparation)})
    return PerchFrontend(settings["preparation"])


def spec(preparation: Preparation) -> FrontendSpec:
    """How a manifest names this frontend."""
    return FrontendSpec(KIND, {"preparation": preparation})


class LogMelBlock:
    """The log-mel windows of one audio block.

    Args:
        samples: float32 [samples], 32 kHz mono, at least one window (160,000 samples).
        preparation: see :data:`Preparation`.
        first_sample: position of ``samples[0]`` in the recording, a multiple of 320.
    """

    def __init__(self, samples: NDArray[np.float32], preparation: Preparation, first_sample: int = 0) -> None:
        if first_sample % HOP or len(samples) < WINDOW.samples:
            raise ValueError(
                f"a block of {len(samples)} samples at {first_sample}: expected at least {WINDOW.samples}, starting at "
                f"a multiple of {HOP}"
            )
        self._samples = np.ascontiguousarray(samples, np.float32)
        self._first_sample = first_sample
        self._peaks = None if preparation == "none" else _Peaks(self._samples)
        self._centred = _CentredFrames(self._samples) if preparation == "hoplite" else None
        self._rows: NDArray[np.float32] | None = None
        if self._centred is None:
            self._rows = mel_levels(self._samples[PAD:], LOWEST if self._peaks is None else SMALLEST_LEVEL)

    def window(self, start: int, out: NDArray[np.float32]) -> None:
        """The log-mel of the window that starts at a sample of the recording.

        Args:
            start: first sample, a multiple of 320, with the whole window inside the block.
            out: float32 [500, 128] (time, mel), C-contiguous, to write into: values of at least 0.1 ln(1e-5) = -1.1513.
        """
        at = start - self._first_sample
        if at % HOP or not 0 <= at <= len(self._samples) - WINDOW.samples:
            raise ValueError(f"a window at sample {start} is off the {HOP}-sample grid or outside the block")
        frame, mean, gain = at // HOP, 0.0, 0.0
        if self._centred is not None:
            mean = self._centred.mean(frame)
        if self._peaks is not None:
            gain = LOG_SCALE * float(np.log(_gain(self._peaks.of_window(frame, mean))))
        inner = out[1:-1]
        if self._centred is not None:
            self._centred.levels(frame, mean, gain, inner)
        elif self._rows is not None:
            rows = self._rows[frame : frame + INNER]
            if self._peaks is None:
                inner[:] = rows
            else:
                np.add(rows, np.float32(gain), out=inner)
                np.maximum(inner, _LOWEST_ROW, out=inner)
        edge, tile = np.zeros(FRAME, np.float32), new_tiles(1)
        for row, inside, window, place in (
            (out[:1], self._samples[at : at + FRAME - PAD], _OPENING, slice(PAD, None)),
            (out[-1:], self._samples[at + WINDOW.samples + PAD - FRAME : at + WINDOW.samples], _CLOSING, slice(-PAD)),
        ):
            edge[place] = inside  # what else it holds, the part of the window multiplies by 0
            spectra(edge, 1, window, np.array([mean]), tile)
            levels(tile, 0, _NOTHING, gain, LOWEST, row)


_NOTHING = np.zeros(1)


class _Peaks:
    """The highest and lowest sample of every 320, from which those of windows follow.

    Args:
        samples: float32 [samples], of a block.
    """

    def __init__(self, samples: NDArray[np.float32]) -> None:
        hops = _hops(samples)
        self._highest, self._lowest = hops.max(axis=1), hops.min(axis=1)

    def of_window(self, first: int, mean: float) -> float:
        """The largest magnitude of the window that begins with a hop, when a mean is subtracted."""
        part = slice(first, first + FRAMES)
        return max(float(self._highest[part].max()) - mean, mean - float(self._lowest[part].min()))


class _CentredFrames:
    """The inner frames of windows whose means are removed: X - m W, where X is the spectrum of a frame and W that of a
    frame of ones.

    The means that X has lost already are those of some frames nearby, so that little is to be subtracted and float32
    holds it. The spectra of about one window are kept, as windows come in order.

    Args:
        samples: float32 [samples], of a block.
    """

    def __init__(self, samples: NDArray[np.float32]) -> None:
        self._sums: NDArray[np.float64] = _hops(samples).sum(axis=1, dtype=np.float64)
        begins = np.arange(0, len(self._sums), LANES)
        self._means = np.add.reduceat(self._sums, begins) / (HOP * np.diff(begins, append=len(self._sums)))
        self._samples = samples[PAD:]
        self._frames = (len(samples) - PAD - FRAME) // HOP + 1
        self._tiles = new_tiles(tiles_of(INNER + LANES - 1))
        self._held = range(0)

    def mean(self, first: int) -> float:
        """Of the samples of the window that begins with a hop."""
        return float(self._sums[first : first + FRAMES].sum()) / WINDOW.samples

    def levels(self, first: int, mean: float, gain: float, out: NDArray[np.float32]) -> None:
        """Log-mel of the frames of a window that follow on its first one: float32 [498, 128]."""
        begin, end = first // LANES, tiles_of(first + INNER)
        self._hold(begin, end)
        levels(self._tiles, first, self._means[begin:end] - mean, gain, LOWEST, out)

    def _hold(self, begin: int, end: int) -> None:
        """Have the spectra of some tiles, each at the place that its number gives."""
        if not self._held.start <= begin <= self._held.stop:
            self._held = range(begin, begin)
        new = self._held.stop
        if new < end:
            frames = min(end * LANES, self._frames) - new * LANES
            spectra(self._samples[new * LANES * HOP :], frames, HANN, self._means[new:end], self._tiles, new)
            self._held = range(max(self._held.start, end - len(self._tiles)), end)


def log_mel(window: NDArray[np.float32], preparation: Preparation) -> NDArray[np.float32]:
    """The log-mel of one window: float32 [160000] -> float32 [500, 128], as the engine computes it."""
    out = np.empty(SHAPE, np.float32)
    LogMelBlock(window, preparation).window(0, out)
    return out


def prepare(window: NDArray[np.floating], preparation: Preparation) -> NDArray[np.float64]:
    """Apply a preparation to the samples of one window, in float64 (see :data:`Preparation`)."""
    samples = np.asarray(window, np.float64)
    if preparation == "hoplite":
        samples = samples - samples.mean()
    return samples if preparation == "none" else samples * _gain(float(np.abs(samples).max()))


def log_mel_reference(window: NDArray[np.floating], preparation: Preparation) -> NDArray[np.float64]:
    """The definition, in float64 and slow: what :class:`LogMelBlock` must equal.

    Args:
        window: [160000] samples, 32 kHz mono, full scale +-1.
        preparation: see :data:`Preparation`.

    Returns:
        float64 [500, 128] (time, mel).
    """
    padded = np.pad(prepare(window, preparation), PAD)
    magnitudes = np.abs(np.fft.rfft(_frames(padded) * hann(), FFT_SIZE))
    return LOG_SCALE * np.log(np.maximum(magnitudes @ mel_matrix(), FLOOR))


def _gain(peak: float) -> float:
    """What brings a peak to 0.25; 1 for silence."""
    return TARGET_PEAK / peak if peak > 0 else 1.0


def _hops(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """All whole hops [hops, 320] of some samples, as a view."""
    return samples[: len(samples) // HOP * HOP].reshape(-1, HOP)


def _frames(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """All whole frames [frames, 640] of some samples, as a view."""
    return sliding_window_view(samples, FRAME)[::HOP]
