"""BirdNET's frontend and network by their definitions, in float64: what a proof compares with where float32 rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bce.engine.frontends.birdnet import SHAPE, Branch
from bce.export.birdnet.architecture import OUTPUTS
from bce.export.birdnet.backbone import Backbone
from bce.export.birdnet.weights import Weights
from bce.export.classes import ClassMap
from bce.export.torch_graph import one_thread

Array = NDArray[np.floating]


def exact_spectrograms(branches: Sequence[Branch], waveforms: NDArray[np.float32]) -> Array:
    """The network's inputs for windows [n, 144000], float64 [n, 2, 96, 511] (branch, mel from high to low, time).

    Samples and frames are rounded to float32 as in the source: in a band without sound the network sees nothing but
    that rounding, raised to a power of 0.4.
    """
    return np.stack([np.stack([_spectrogram(branch, window) for branch in branches]) for window in waveforms])


def _spectrogram(branch: Branch, window: NDArray[np.float32]) -> Array:
    x = window - window.min()
    y = (x / (x.max() + np.float32(1e-6)) - np.float32(0.5)) * np.float32(2)
    frames = sliding_window_view(y, branch.length)[:: branch.step][: SHAPE[2]] * branch.window
    # the real part of the transform, not its magnitude: TensorFlow's cast of a complex number drops the rest
    real = np.fft.rfft(frames.astype(np.float64), axis=1).real
    mel = real @ branch.mel.T.astype(np.float64)
    return ((mel * mel) ** branch.exponent * branch.scale + branch.shift).T[::-1]


class Exact:
    """The torch definition in float64, built when it is first asked for.

    Args:
        weights: of the network.
        class_map: the classes of its logits; None for all.
    """

    def __init__(self, weights: Weights, class_map: ClassMap | None = None) -> None:
        self._weights = weights
        self._class_map = class_map
        self._backbone: Backbone | None = None

    def __call__(self, spectrograms: Array) -> dict[str, Array]:
        """Every output for inputs [n, 2, 96, 511], float64."""
        with one_thread(), torch.no_grad():
            if self._backbone is None:
                self._backbone = Backbone(self._weights, self._class_map).eval().double()
            outputs = self._backbone(torch.from_numpy(np.ascontiguousarray(spectrograms)).double())
        return dict(zip(OUTPUTS, (output.numpy() for output in outputs), strict=True))
