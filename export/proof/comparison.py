"""What a proof measures, what it allows, and the report that it leaves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ParityError
from bce.export.proof.check_audio import CheckInput
from bce.export.sources import SourceModel

SPECTROGRAM = "spectrogram"
SPECTROGRAM_MAX_ABS = 2e-4
"""Of the log-mel on natural audio. The source's own two published forms differ by as much from each other
(a dense DFT against an FFT, both float32); loud sounds beside near-silent bands make the largest differences."""
SPECTROGRAM_ROUNDING_MAX_ABS = 2e-3
"""Near the logarithm's floor a source's own float32 DFT can be further than that from the exact log-mel (published
ports differ by up to 1.6e-3 on quiet clips). There the bundle must be within ``SPECTROGRAM_MAX_ABS`` of the exact one
and within this of the source."""
BACKBONE_RELATIVE_L2 = 1e-5
"""Of each output for equal log-mels: float32 sums in another order give about 1e-6, a wrong padding gives 0.2."""
ROUNDING_RATIO = 10.0
ROUNDING_RELATIVE_L2 = 1e-4
ROUNDING_RELATIVE_L2_EXTREMES = 1e-2
"""Digital silence and full-scale noise can lose more than 1e-5 to float32 rounding, in the source as much as in the
bundle. Where that happens the definition is run in float64: the bundle may be ``ROUNDING_RATIO`` times as far from it
as the source is, and this far from the source, on natural audio and on extremes. The report has the limit applied."""
END_TO_END_RELATIVE_L2 = 1e-4
"""Of each output for equal samples, on natural audio: what is left of the log-mel's differences."""
HEAD_RELATIVE_L2 = 1e-5
"""Of a trained head's logits, ONNX Runtime against torch."""

OTHER_RUNTIME_RELATIVE_L2 = 1e-4
"""Instead of 1e-5 where the source runs elsewhere than in ONNX Runtime, or the numbers come from another published
form: kernels of other libraries add up in other orders, and weights on two ways are rounded twice."""

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Limits:
    """What each gate allows on natural audio; None where differences are only reported."""

    spectrogram_max_abs: float | None = SPECTROGRAM_MAX_ABS
    backbone_relative_l2: float | None = BACKBONE_RELATIVE_L2
    end_to_end_relative_l2: float | None = END_TO_END_RELATIVE_L2
    head_relative_l2: float = HEAD_RELATIVE_L2

    @classmethod
    def between(cls, source: SourceModel, against: SourceModel) -> Limits:
        """For a source whose bundle is compared with the numbers of a file, itself or another form of it.

        A file whose weights were rounded has a rounded frontend too, which the bundle has not: only the backbone can
        be the same. Against another form of it nothing can, so that the differences are its loss.
        """
        if source.lossy or against.lossy:
            return cls(None, OTHER_RUNTIME_RELATIVE_L2 if source is against else None, None)
        same = source.form == against.form == "onnx"
        return cls() if same else cls(backbone_relative_l2=OTHER_RUNTIME_RELATIVE_L2)


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Comparison:
    """One array of the bundle beside one of the source.

    Attributes:
        measure: "spectrogram", "backbone" (fed the source's log-mel), "end_to_end" or "head".
        output: the array's name: "block_21", "label", ...
        against: where the expected numbers come from.
        input: name of the windows.
        natural: whether they are natural audio.
        batch: windows in one call.
        windows: how many were compared.
        max_abs: largest absolute difference.
        relative_l2: ||found - expected|| / ||expected|| over the whole array.
        limit: what the gate allows; None where the difference is only reported.
        passed: False when a gate was missed.
    """

    measure: str
    output: str
    against: str
    input: str
    natural: bool
    batch: int
    windows: int
    max_abs: float
    relative_l2: float
    limit: float | None
    passed: bool

    @property
    def gated_value(self) -> float:
        """The number that the gate is about."""
        return self.max_abs if self.measure == SPECTROGRAM else self.relative_l2

    def __str__(self) -> str:
        kind = "max abs" if self.measure == SPECTROGRAM else "relative L2"
        return (
            f"{self.measure} {self.output} on {self.input} (batch {self.batch}): {kind} {self.gated_value:.2e}, "
            f"allowed {self.limit:.0e}"
        )


@dataclass(frozen=True)
class ParityReport:
    """Every comparison of an export. ``numbers`` is False when the source could not be run; ``int8`` is what
    :meth:`bce.export.proof.calibration.Quality.to_dict` says, None without an int8 backbone."""

    source: str
    preparation: str
    numbers: bool
    structure: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = field(default=())
    limits: Limits = DEFAULT_LIMITS
    int8: dict[str, Any] | None = None

    @property
    def failures(self) -> tuple[Comparison, ...]:
        return tuple(comparison for comparison in self.comparisons if not comparison.passed)

    @property
    def rounded(self) -> tuple[Comparison, ...]:
        """What passed only because the source is as far from exact as the bundle."""
        first = {SPECTROGRAM: self.limits.spectrogram_max_abs, "backbone": self.limits.backbone_relative_l2}
        return tuple(
            comparison
            for comparison in self.comparisons
            if comparison.limit is not None
            and comparison.passed
            and (limit := first.get(comparison.measure)) is not None
            and comparison.gated_value > limit
        )

    def summary(self) -> dict[str, float]:
        """The largest difference of each measure, on natural audio and on extremes."""
        worst: dict[str, float] = {}
        for comparison in self.comparisons:
            unit = "max_abs" if comparison.measure == SPECTROGRAM else "relative_l2"
            key = f"{comparison.measure}_{unit}" + ("" if comparison.natural else "_extremes")
            worst[key] = max(worst.get(key, 0.0), comparison.gated_value)
        if self.int8 is not None:
            worst["int8_relative_l2"] = max(self.int8["relative_l2"].values())
            if self.int8["rank_correlation"] is not None:
                worst["int8_rank_correlation"] = self.int8["rank_correlation"]
        return worst

    def require(self) -> None:
        """Refuse a bundle that missed a gate.

        Raises:
            ParityError: listing every failing output with its worst difference.
        """
        worst: dict[tuple[str, str], Comparison] = {}
        for failure in self.failures:
            key = (failure.measure, failure.output)
            if key not in worst or not failure.gated_value <= worst[key].gated_value:
                worst[key] = failure
        if worst:
            raise ParityError(
                f"the bundle does not give the numbers of its source: {'; '.join(map(str, worst.values()))}",
                self.source,
            )

    def to_json(self) -> str:
        content: dict[str, Any] = {
            "source": self.source,
            "preparation": self.preparation,
            "status": "numbers compared" if self.numbers else "structure checked, numbers not",
            "limits": asdict(self.limits),
            "summary": self.summary(),
            "structure": self.structure,
            "int8": self.int8,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
        return json.dumps(content, indent=1) + "\n"


def relative_l2(found: Array, expected: Array) -> float:
    """||found - expected|| / ||expected|| over whole arrays, in float64; infinite when only ``expected`` is zero."""
    difference = float(np.linalg.norm(found.astype(np.float64).ravel() - expected.astype(np.float64).ravel()))
    length = float(np.linalg.norm(expected.astype(np.float64).ravel()))
    if length:
        return difference / length
    return 0.0 if difference == 0 else float("inf")


def compared(
    measure: str,
    output: str,
    against: str,
    item: CheckInput,
    batch: int,
    found: Array,
    expected: Array,
    limit: float | None,
) -> Comparison:
    """Two arrays of the same shape beside each other. NaN misses every limit."""
    max_abs = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
    relative = relative_l2(found, expected)
    value = max_abs if measure == SPECTROGRAM else relative
    passed = limit is None or value <= limit
    return Comparison(
        measure, output, against, item.name, item.natural, batch, len(found), max_abs, relative, limit, passed
    )
