"""BirdNET v2.4's two spectrograms of a window: mel bands of the real part of the spectrum, raised to a small power.

Structure: BirdNET-Analyzer, ``birdnet_analyzer/model.py`` and the graph of the published file. A window of 3 s at 48
kHz is brought to -1 .. 1 by its own least and largest sample, so that windows share nothing. Empty bands hold only the
rounding of what stands before the FFT, and the power lifts that into the picture: samples and frames are rounded to
float32 at each step as the source does it, all that follows up to the mel sums is float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, shown
from bce.engine.files import sha256
from bce.engine.frontends.base import FrontendSpec, check_settings
from bce.engine.frontends.branches import BANDS, FRAMES, WINDOW, Branch, read_arrays, write_arrays
from bce.engine.frontends.cosines import bins_written, cosines, room, tables
from bce.engine.frontends.lanes import LANES, load, magnitude, narrow, store, wide, zeros
from bce.engine.frontends.logarithms import power, power_constants
from bce.engine.geometry import WindowSpec
from bce.engine.jit import kernel

KIND = "birdnet_v24"
INPUT = "spectrogram"
"""What BirdNET's backbone graphs call their input."""
SHAPE = (2, BANDS, FRAMES)
"""(branch, mel from high to low, time) of a window: 2 x 96 x 511."""
ARRAYS = "frontend.npz"
"""The file of a bundle that holds the branches."""

__all__ = [
    "ARRAYS",
    "INPUT",
    "KIND",
    "SHAPE",
    "WINDOW",
    "BirdnetFrontend",
    "Branch",
    "make",
    "read_arrays",
    "spec",
    "write_arrays",
]


class BirdnetFrontend:
    """The frontend of BirdNET bundles.

    Args:
        branches: the two spectrograms.
    """

    def __init__(self, branches: Sequence[Branch]) -> None:
        if len(branches) != SHAPE[0]:
            raise ValueError(f"{len(branches)} branches, expected {SHAPE[0]}")
        self._branches = tuple(_Prepared(branch) for branch in branches)

    @property
    def shape(self) -> tuple[int, ...]:
        """(2, 96, 511): branch, mel, time."""
        return SHAPE

    def open(self, samples: NDArray[np.float32], first_sample: int = 0) -> SpectrogramBlock:
        """Begin with an audio block."""
        return SpectrogramBlock(self._branches, samples, first_sample)


def make(window: WindowSpec, settings: Mapping[str, Any], folder: Path | None) -> BirdnetFrontend:
    """See :data:`bce.engine.frontends.base.KINDS`. The one setting is ``arrays``: the SHA-256 of the branches' file."""
    if window != WINDOW:
        raise BundleError(
            f"field 'window' is {window.window_s:g} s at {window.sample_rate} Hz, the frontend '{KIND}' takes "
            f"{WINDOW.window_s:g} s at {WINDOW.sample_rate} Hz"
        )
    check_settings(KIND, settings, {"arrays": (settings.get("arrays"),)})
    if folder is None:
        raise BundleError(f"the frontend '{KIND}' needs the folder of its bundle, where its {ARRAYS} lies")
    file = folder / ARRAYS
    try:
        digest = sha256(file)
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror}), the frontend '{KIND}' needs it", file) from None
    if digest != settings["arrays"]:
        raise BundleError(
            f"is not the file that field 'frontend.arrays' names: its SHA-256 is {digest}, expected "
            f"{shown(settings['arrays'])}: export the bundle again",
            file,
        )
    return BirdnetFrontend(read_arrays(file))


def spec(arrays: Path) -> FrontendSpec:
    """How a manifest names this frontend, with the branches in a file."""
    return FrontendSpec(KIND, {"arrays": sha256(arrays)})


class SpectrogramBlock:
    """The spectrograms of one audio block's windows, which share nothing.

    Args:
        branches: of the frontend.
        samples: float32 [samples], 48 kHz mono, at least one window (144,000 samples).
        first_sample: position of ``samples[0]`` in the recording.
    """

    def __init__(self, branches: Sequence[_Prepared], samples: NDArray[np.float32], first_sample: int = 0) -> None:
        if len(samples) < WINDOW.samples:
            raise ValueError(f"a block of {len(samples)} samples, expected at least {WINDOW.samples}")
        self._branches = branches
        self._samples = np.ascontiguousarray(samples, np.float32)
        self._first_sample = first_sample

    def window(self, start: int, out: NDArray[np.float32]) -> None:
        """The spectrograms of the window that starts at a sample of the recording.

        Args:
            start: first sample, any, with the whole window inside the block.
            out: float32 [2, 96, 511] (branch, mel from high to low, time), C-contiguous, to write into.
        """
        at = start - self._first_sample
        if not 0 <= at <= len(self._samples) - WINDOW.samples:
            raise ValueError(f"a window at sample {start} is outside the block")
        if out.shape != SHAPE or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"an output {out.dtype} {list(out.shape)}, expected dense float32 {list(SHAPE)}")
        samples = normalised(self._samples[at : at + WINDOW.samples])
        for branch, picture in zip(self._branches, out, strict=True):
            branch.fill(samples, picture)


def normalised(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples of a window from -1 to 1, each step rounded to float32: float32 [144000] -> the same.

    Silence becomes -1 everywhere.
    """
    lowest = window.min()
    limits = np.array([lowest, (window.max() - lowest) + np.float32(1e-6)], np.float32)
    out = np.empty_like(window)
    _normalise_kernel(window, limits, out)
    return out


class _Prepared:
    """A branch as the kernel takes it.

    Args:
        branch: see :class:`Branch`.
    """

    def __init__(self, branch: Branch) -> None:
        self._step, self._window = branch.step, branch.window
        used = [np.flatnonzero(row) for row in branch.mel]
        begins = [int(bins[0]) if len(bins) else 0 for bins in used]
        ends = [int(bins[-1]) + 1 if len(bins) else 0 for bins in used]
        pieces = [row[begin:end] for row, begin, end in zip(branch.mel, begins, ends, strict=True)]
        self._mel = np.array([begins, ends], np.intp), np.concatenate(pieces).astype(np.float64)
        highest = max(1, *ends) - 1
        self._tables = tables(branch.length, highest)
        self._rooms = (*room(branch.length), LANES * bins_written(highest))
        self._constants = np.array([*power_constants(2 * branch.exponent), branch.scale, branch.shift], np.float32)

    def fill(self, samples: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """The picture of normalised samples: float32 [144000] -> ``out``, float32 [96, 511]."""
        *scratch, bins = _vectors(self._rooms)
        _branch_kernel(
            samples,
            self._step,
            self._window,
            self._tables,
            tuple(scratch),
            bins,
            *self._mel,
            self._constants,
            out.reshape(-1),
        )


def _vectors(sizes: Sequence[int]) -> list[NDArray[np.float64]]:
    """Room for so many numbers, multiples of 8: vectors that lie across two lines of the cache take a tenth longer."""
    numbers = np.empty(sum(sizes) + LANES)
    begin = -numbers.ctypes.data // numbers.itemsize % LANES
    return np.split(numbers[begin : begin + sum(sizes)], np.cumsum(sizes)[:-1])


@kernel()
def _normalise_kernel(samples, limits, out):  # type: ignore[no-untyped-def]
    """See :func:`normalised`; ``limits`` are the least sample and the divisor."""
    for at in range(0, samples.shape[0], LANES):
        store(out, at, ((load(samples, at) - limits[0]) / limits[1] - np.float32(0.5)) * np.float32(2))


@kernel()
def _branch_kernel(samples, step, window, tables, scratch, bins, limits, weights, constants, out):  # type: ignore[no-untyped-def]
    """One branch's picture, from low bands to high ones; the last eight frames overlap those before them."""
    for tile in range(0, FRAMES, LANES):
        frame = min(tile, FRAMES - LANES)
        cosines(samples, frame * step, step, window, tables, scratch, bins)
        at = 0
        for band in range(BANDS):
            mel = wide(zeros())
            for k in range(limits[0, band], limits[1, band]):
                mel = mel + load(bins, k * LANES) * weights[at]
                at += 1
            level = power(magnitude(narrow(mel)), constants[0], constants[1], constants[2])
            store(out, (BANDS - 1 - band) * FRAMES + frame, level * constants[3] + constants[4])
