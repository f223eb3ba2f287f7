"""What BirdNET v2.4 has learnt of its spectrograms: windows, mel bands, powers, and the file that holds them."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.arrays import read_arrays as read_file
from bce.engine.errors import BundleError, TableError
from bce.engine.files import write_bytes
from bce.engine.frontends.cosines import GRAIN
from bce.engine.geometry import WindowSpec

WINDOW = WindowSpec(48_000, 3.0)
BANDS = 96
FRAMES = 511
_COUNT = 2
_WHAT = "a file of BirdNET's two spectrograms"


@dataclass(frozen=True, eq=False)
class Branch:
    """One spectrogram: ``scale |m|^(2 exponent) + shift`` of each mel sum m over the real part of a frame's spectrum.

    Attributes:
        length: samples of a frame, a multiple of 1024 (2048, 1024).
        step: samples from a frame to the next (278, 280); a window of 3 s holds 511 frames.
        window: float32 [length], what the samples of a frame are multiplied by.
        mel: float32 [96, length / 2 + 1], weights of the bins, low band first.
        exponent: between 0 and 1.
        scale: see above.
        shift: likewise.

    Raises:
        BundleError: something of it is not as said here.
    """

    length: int
    step: int
    window: NDArray[np.float32]
    mel: NDArray[np.float32]
    exponent: float
    scale: float
    shift: float

    def __post_init__(self) -> None:
        longest = WINDOW.samples - (FRAMES - 1)
        if self.length % GRAIN or not 0 < self.length <= longest:
            raise BundleError(f"frames of {self.length} samples, expected a multiple of {GRAIN} up to {longest}")
        most = (WINDOW.samples - self.length) // (FRAMES - 1)
        if not 1 <= self.step <= most:
            raise BundleError(f"frames of {self.length} samples every {self.step}, expected every 1 to {most}")
        for name, shape in (("window", (self.length,)), ("mel", (BANDS, self.length // 2 + 1))):
            array: NDArray[Any] = getattr(self, name)
            if array.dtype != np.float32 or array.shape != shape:
                raise BundleError(f"'{name}' is {array.dtype} {list(array.shape)}, expected float32 {list(shape)}")
            if not np.isfinite(array).all():
                raise BundleError(f"'{name}' holds numbers that are not finite")
            object.__setattr__(self, name, np.ascontiguousarray(array))
        if not 0 < self.exponent < 1:
            raise BundleError(f"the exponent {self.exponent:g} is not between 0 and 1")
        for name in ("scale", "shift"):
            if not math.isfinite(getattr(self, name)):
                raise BundleError(f"'{name}' is {getattr(self, name)}, expected a finite number")


def write_arrays(branches: Sequence[Branch], path: str | os.PathLike[str]) -> None:
    """Write the branches to a ``.npz`` file: the same bytes for the same branches, whenever and wherever.

    Raises:
        BundleError: they are not two.
    """
    if len(branches) != _COUNT:
        raise BundleError(f"{len(branches)} spectrograms, expected {_COUNT}", path)
    arrays: dict[str, NDArray[Any]] = {}
    for number, branch in enumerate(branches, start=1):
        arrays[f"window_{number}"], arrays[f"mel_{number}"] = branch.window, branch.mel
        arrays[f"numbers_{number}"] = np.array([branch.step, branch.exponent, branch.scale, branch.shift], np.float64)
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())


def read_arrays(path: str | os.PathLike[str]) -> tuple[Branch, ...]:
    """Read the two branches that :func:`write_arrays` wrote.

    Raises:
        BundleError: the file cannot be read, is damaged, or holds something else.
    """
    file = Path(path)
    try:
        arrays = read_file(file, _WHAT)
    except TableError as error:
        raise BundleError(error.reason, file) from None
    expected = {f"{name}_{number}" for name in ("window", "mel", "numbers") for number in range(1, _COUNT + 1)}
    if set(arrays) != expected:
        raise BundleError(f"is not {_WHAT}: expected the arrays {', '.join(sorted(expected))}", file)
    return tuple(_branch(arrays, number, file) for number in range(1, _COUNT + 1))


def _branch(arrays: dict[str, NDArray[Any]], number: int, file: Path) -> Branch:
    window, mel, numbers = (arrays[f"{name}_{number}"] for name in ("window", "mel", "numbers"))
    if numbers.dtype != np.float64 or numbers.shape != (4,) or not np.isfinite(numbers).all():
        raise BundleError(f"'numbers_{number}' is not four finite float64: step, exponent, scale, shift", file)
    step, exponent, scale, shift = numbers.tolist()
    if not step.is_integer():
        raise BundleError(f"'numbers_{number}' has the step {step:g}, expected a whole number", file)
    try:
        return Branch(window.size, int(step), window, mel, exponent, scale, shift)
    except BundleError as error:
        raise BundleError(f"spectrogram {number}: {error.reason}", file) from None
