"""No frontend at all: the network takes the samples of a window as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.base import check_settings
from bce.engine.geometry import WindowSpec


class Waveform:
    """The frontend of networks that compute their own spectrogram. It has no settings.

    Args:
        window: of the bundle.
    """

    def __init__(self, window: WindowSpec) -> None:
        self._samples = window.samples

    @property
    def shape(self) -> tuple[int, ...]:
        """[samples] of a window."""
        return (self._samples,)

    def open(self, samples: NDArray[np.float32], first_sample: int = 0) -> WaveformBlock:
        """Begin with an audio block."""
        return WaveformBlock(samples, first_sample)


class WaveformBlock:
    """The windows of one audio block."""

    def __init__(self, samples: NDArray[np.float32], first_sample: int) -> None:
        self._samples = samples
        self._first_sample = first_sample

    def window(self, start: int, out: NDArray[np.float32]) -> None:
        """Copy a window's samples, float32 [samples]."""
        at = start - self._first_sample
        out[:] = self._samples[at : at + len(out)]


def make(window: WindowSpec, settings: Mapping[str, Any], folder: Path | None = None) -> Waveform:
    """See :data:`bce.engine.frontends.base.KINDS`."""
    check_settings("waveform", settings, {})
    return Waveform(window)
