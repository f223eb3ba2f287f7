"""Perch v2's log-mel, exact per window, with the spectra of an audio block shared by all its windows.

A window of 5 s at 32 kHz has 500 frames; frame ``t`` covers its samples ``320 t - 160 .. 320 t + 479``. Windows start
on the 320-sample grid, so the 498 inner frames of a window are frames of the block and are computed once. The first and
the last frame see zeros outside the window and are computed for each window apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.frontends.base import FrontendSpec, check_settings
from bce.engine.frontends.melbank import BANDS, FFT_SIZE, FRAME, HOP, SAMPLE_RATE, hann, mel_matrix, mel_spectra
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
FLOOR = 1e-5
LOG_SCALE = 0.1
TARGET_PEAK = 0.25
LOWEST = LOG_SCALE * np.log(FLOOR)
SMALLEST = 1e-30  # stands for zero where a logarithm is scaled afterwards


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


def make(window: WindowSpec, settings: Mapping[str, Any]) -> PerchFrontend:
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
        self._samples = samples
        self._preparation = preparation
        self._first_sample = first_sample
        self._rows: NDArray[np.float32] | None = None
        if preparation == "none":
            self._rows = _log(mel_spectra(samples[PAD:]), FLOOR)
        elif preparation == "peak":
            self._rows = _log(mel_spectra(samples[PAD:]), SMALLEST)

    def window(self, start: int, out: NDArray[np.float32]) -> None:
        """The log-mel of the window that starts at a sample of the recording.

        Args:
            start: first sample, a multiple of 320, with the whole window inside the block.
            out: float32 [500, 128] (time, mel) to write into: values of at least 0.1 ln(1e-5) = -1.1513.
        """
        at = start - self._first_sample
        if at % HOP or not 0 <= at <= len(self._samples) - WINDOW.samples:
            raise ValueError(f"a window at sample {start} is off the {HOP}-sample grid or outside the block")
        samples = self._samples[at : at + WINDOW.samples]
        if self._rows is None:
            out[:] = _log(mel_spectra(np.pad(prepare(samples, self._preparation), PAD)), FLOOR)
            return
        rows = self._rows[at // HOP : at // HOP + FRAMES - 2]
        edges = np.zeros((2, FRAME))
        edges[0, PAD:] = samples[: FRAME - PAD]
        edges[1, :-PAD] = samples[PAD - FRAME :]
        edge_mel = mel_spectra(edges.ravel())[::2]  # the frame between them straddles both
        if self._preparation == "none":
            out[1:-1] = rows
            out[:: FRAMES - 1] = _log(edge_mel, FLOOR)
        else:
            gain = np.float32(LOG_SCALE * np.log(_gain(samples)))
            np.add(rows, gain, out=out[1:-1])
            out[:: FRAMES - 1] = _log(edge_mel, SMALLEST) + gain
            np.maximum(out, np.float32(LOWEST), out=out)


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
    return samples if preparation == "none" else samples * _gain(samples)


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


def _gain(samples: NDArray[np.floating]) -> float:
    """What brings the largest magnitude to 0.25; 1 for silence."""
    peak = max(float(samples.max()), -float(samples.min()))
    return TARGET_PEAK / peak if peak > 0 else 1.0


def _frames(samples: NDArray[np.floating]) -> NDArray[np.floating]:
    """All whole frames [frames, 640] of some samples, as a view."""
    return sliding_window_view(samples, FRAME)[::HOP]


def _log(mel: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    mel = np.maximum(mel, np.float32(floor))
    np.log(mel, out=mel)
    mel *= np.float32(LOG_SCALE)
    return mel
