"""What a proof allows: a gate compares two arrays and says whether they may differ as much.

Where two float32 programs differ by more than a gate's first limit, both are held against the exact numbers: the bundle
is let pass where it is about as near to them as the source is, up to a second limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bce.export.sources import SPECTROGRAM, Source

BACKBONE, END_TO_END, HEAD = "backbone", "end_to_end", "head"
"""What a proof measures beside the spectrogram, the network's input: the backbone, fed the source's input; both
together; a trained head."""

SPECTROGRAM_MAX_ABS = 2e-4
"""Of the network's input on natural audio. Perch's own two published forms differ by as much from each other
(a dense DFT against an FFT, both float32); loud sounds beside near-silent bands make the largest differences."""
SPECTROGRAM_ROUNDING_MAX_ABS = 2e-3
"""Near the logarithm's floor a source's own float32 DFT can be further than that from the exact spectrogram (published
ports differ by up to 1.6e-3 on quiet clips). There the bundle must be within the first limit of the exact one and
within this of the source."""
BACKBONE_RELATIVE_L2 = 1e-5
"""Of each output for equal inputs: float32 sums in another order give about 1e-6, a wrong padding gives 0.2."""
ROUNDING_RATIO = 10.0
ROUNDING_RELATIVE_L2 = 1e-4
ROUNDING_RELATIVE_L2_EXTREMES = 1e-2
"""Digital silence and full-scale noise can lose more than 1e-5 to float32 rounding, in the source as much as in the
bundle. Where that happens the definition is run in float64: the bundle may be ``ROUNDING_RATIO`` times as far from it
as the source is, and this far from the source, on natural audio and on extremes. The report has the limit applied."""
LONG_SUM_RELATIVE_L2 = 1e-4
"""A mean over a map of the first blocks adds up ten thousand numbers and more in float32. On digital silence they are
all equal, so that all roundings go one way: such a mean may be this far from the exact one, however near the source
happens to be."""
END_TO_END_RELATIVE_L2 = 1e-4
"""Of each output for equal samples, on natural audio: what is left of the input's differences."""
HEAD_RELATIVE_L2 = 1e-5
"""Of a trained head's logits, ONNX Runtime against where it was trained."""
OTHER_RUNTIME_RELATIVE_L2 = 1e-4
"""Instead of 1e-5 where the source runs elsewhere than in ONNX Runtime, or the numbers come from another published
form: kernels of other libraries add up in other orders, and weights on two ways are rounded twice."""

CONSTANT = 1e-6
"""A number of an output that varies less over the check windows, silence and noise among them, relative to its largest
value: it is the same, but for float32 rounding."""
CONSTANT_SHARE = 0.5
"""The largest share of an output's numbers that may be the same on all check windows. A source whose weights were
zeroed gives constants, which a bundle repeats exactly: agreement alone says nothing of it."""

Array = NDArray[np.floating]
Unit = Literal["max_abs", "relative_l2"]


@dataclass(frozen=True)
class Verdict:
    """What a gate found.

    Attributes:
        max_abs: largest absolute difference.
        relative_l2: see :func:`relative_l2`.
        limit: what was allowed in the end; None where the difference is only reported.
        passed: False when the gate was missed.
        rounded: whether it passed only because the source is as far from exact.
    """

    max_abs: float
    relative_l2: float
    limit: float | None
    passed: bool
    rounded: bool = False


@dataclass(frozen=True)
class Rounding:
    """What float32 rounding of a source excuses.

    Attributes:
        limit: how far the bundle may then be from the source.
        ratio: how many times as far from exact as the source the bundle may be,
        floor: and how far in any case.
    """

    limit: float
    ratio: float = 0.0
    floor: float = 0.0


@dataclass(frozen=True)
class Gate:
    """How far two arrays may be from each other.

    Attributes:
        unit: the distance that the gate is about.
        limit: the largest that passes; None where the difference is only reported.
        rounding: what rounding excuses; None for nothing.
    """

    unit: Unit
    limit: float | None
    rounding: Rounding | None = None

    def judge(self, found: Array, expected: Array, truth: Callable[[], Array] | None = None) -> Verdict:
        """Compare two arrays of one shape. NaN misses every limit.

        Args:
            found: the bundle's.
            expected: the source's.
            truth: gives the exact numbers; called only where the first limit is missed.
        """
        value = self.distance(found, expected)
        limit, rounded = self.limit, False
        if limit is not None and value > limit and self.rounding is not None and truth is not None:
            exact = truth()
            allowed = max(self.rounding.floor, self.rounding.ratio * self.distance(expected, exact))
            if self.distance(found, exact) <= allowed:
                limit = max(limit, self.rounding.limit)
                rounded = value <= limit
        passed = limit is None or value <= limit
        return Verdict(max_abs(found, expected), relative_l2(found, expected), limit, passed, rounded)

    def distance(self, found: Array, expected: Array) -> float:
        """The distance of two arrays in the gate's unit."""
        return max_abs(found, expected) if self.unit == "max_abs" else relative_l2(found, expected)


@dataclass(frozen=True)
class Limits:
    """What each gate allows at first; None where differences are only reported."""

    spectrogram_max_abs: float | None = SPECTROGRAM_MAX_ABS
    backbone_relative_l2: float | None = BACKBONE_RELATIVE_L2
    end_to_end_relative_l2: float | None = END_TO_END_RELATIVE_L2
    head_relative_l2: float | None = HEAD_RELATIVE_L2
    end_to_end_on_extremes: float | None = None

    @classmethod
    def between(cls, source: Source[Any], against: Source[Any]) -> Limits:
        """For a source whose bundle is compared with the numbers of a file, itself or another form of it.

        A file whose weights were rounded has a rounded frontend too, which the bundle has not: only the backbone can
        be the same. Against another form of it nothing can, so that the differences are its loss.
        """
        if source.lossy or against.lossy:
            return cls(None, OTHER_RUNTIME_RELATIVE_L2 if source is against else None, None)
        same = source.form == against.form == "onnx"
        return cls() if same else cls(backbone_relative_l2=OTHER_RUNTIME_RELATIVE_L2)

    def gate(self, measure: str, natural: bool) -> Gate:
        """The gate of a measure, on natural audio or on extremes: there inputs, and what comes of them, may differ."""
        if measure == SPECTROGRAM:
            limit = self.spectrogram_max_abs if natural else None
            return Gate("max_abs", limit, Rounding(SPECTROGRAM_ROUNDING_MAX_ABS, floor=limit or 0.0))
        if measure == END_TO_END:
            return Gate("relative_l2", self.end_to_end_relative_l2 if natural else self.end_to_end_on_extremes)
        if measure == HEAD:
            return Gate("relative_l2", self.head_relative_l2)
        rounding = Rounding(ROUNDING_RELATIVE_L2, ROUNDING_RATIO)
        if not natural:
            rounding = Rounding(ROUNDING_RELATIVE_L2_EXTREMES, ROUNDING_RATIO, LONG_SUM_RELATIVE_L2)
        return Gate("relative_l2", self.backbone_relative_l2, rounding)


def max_abs(found: Array, expected: Array) -> float:
    """The largest absolute difference, in float64."""
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())


def relative_l2(found: Array, expected: Array) -> float:
    """||found - expected|| / ||expected|| over whole arrays, in float64; infinite when only ``expected`` is zero."""
    difference = float(np.linalg.norm(found.astype(np.float64).ravel() - expected.astype(np.float64).ravel()))
    length = float(np.linalg.norm(expected.astype(np.float64).ravel()))
    if length:
        return difference / length
    return 0.0 if difference == 0 else float("inf")


def constant_share(values: Array) -> float:
    """The share of the columns of values [windows, width] that hear nothing, see :data:`CONSTANT`; 0 for one window."""
    if len(values) < 2 or not values.size:
        return 0.0
    numbers = values.astype(np.float64)
    return float((np.ptp(numbers, axis=0) <= CONSTANT * np.abs(numbers).max(axis=0)).mean())
