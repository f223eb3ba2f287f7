"""The report that a proof leaves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from bce.engine.errors import ParityError
from bce.engine.network.bundle import LOGITS
from bce.export.proof.check_audio import CheckInput
from bce.export.proof.gates import CONSTANT_SHARE, SPECTROGRAM, Limits, Verdict

DEFAULT_LIMITS = Limits()
INT8_FORMS = ("kernels", "onnxruntime")
"""What an int8 form may be made for."""


@dataclass(frozen=True)
class Comparison:
    """One array of the bundle beside one of the source.

    Attributes:
        measure: "spectrogram", "backbone" (fed the source's input), "end_to_end" or "head".
        output: the array's name: "block_21", "label", ...
        against: where the expected numbers come from.
        input: name of the windows.
        natural: whether they are natural audio.
        batch: windows in one call.
        windows: how many were compared.
        max_abs, relative_l2, limit, passed, rounded: see :class:`bce.export.proof.gates.Verdict`.
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
    rounded: bool = False

    @classmethod
    def of(cls, measure: str, output: str, against: str, item: CheckInput, batch: int, verdict: Verdict) -> Comparison:
        """A verdict with what it is about."""
        windows = len(item.waveforms)
        return cls(measure, output, against, item.name, item.natural, batch, windows, **asdict(verdict))

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
    """Every comparison of an export.

    Attributes:
        source: what the numbers are those of.
        frontend: of the bundle.
        numbers: False when the source could not be run.
        structure: what was checked without numbers, a line each.
        comparisons: all of them.
        limits: what was allowed.
        int8: what :func:`bce.export.int8.making.make_int8` says; None without an int8 form.
        constant: the share of each output's numbers, and of a trained head's logits, that are the same on all windows.
        heads: the files of the trained head's folds.
    """

    source: str
    frontend: dict[str, Any]
    numbers: bool
    structure: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = field(default=())
    limits: Limits = DEFAULT_LIMITS
    int8: dict[str, Any] | None = None
    constant: dict[str, float] = field(default_factory=dict)
    heads: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Comparison, ...]:
        return tuple(comparison for comparison in self.comparisons if not comparison.passed)

    @property
    def rounded(self) -> tuple[Comparison, ...]:
        """What passed only because the source is as far from exact as the bundle."""
        return tuple(comparison for comparison in self.comparisons if comparison.rounded)

    def summary(self) -> dict[str, float]:
        """The largest difference of each measure, on natural audio and on extremes."""
        worst: dict[str, float] = {}
        for comparison in self.comparisons:
            unit = "max_abs" if comparison.measure == SPECTROGRAM else "relative_l2"
            key = f"{comparison.measure}_{unit}" + ("" if comparison.natural else "_extremes")
            worst[key] = max(worst.get(key, 0.0), comparison.gated_value)
        if self.int8 is not None:
            qualities = [made["quality"] for made in map(self.int8.get, INT8_FORMS) if made is not None]
            features = [distance for quality in qualities for distance in quality["outputs"].values()]
            features = features or [quality["scores"]["distance"] for quality in qualities]
            worst["int8_relative_l2"] = max(distance["typical"] for distance in features)
            worst["int8_worst_window"] = max(quality["worst"] for quality in qualities)
            if ranks := [q["scores"]["rank_correlation"] for q in qualities if q["scores"] is not None]:
                worst["int8_rank_correlation"] = min(ranks)
        return worst

    def require(self) -> None:
        """Refuse a bundle that missed a gate.

        Raises:
            ParityError: listing every failing output with its worst difference, or those that do not hear.
        """
        dead = [
            f"{name} ({share:.0%})"
            for name, share in self.constant.items()
            if name != LOGITS and share > CONSTANT_SHARE
        ]
        if dead:
            raise ParityError(
                "its numbers do not depend on the sound, most of these are the same for all check windows, silence and "
                f"noise among them: {', '.join(dead)}; the file is damaged, or its weights are not those of a trained "
                "network",
                self.source,
            )
        # a head that was trained on few classes may well have constant logits for the others: only all are too many
        if self.constant.get(LOGITS) == 1:
            raise ParityError(
                f"its numbers do not depend on the sound, all {LOGITS} are the same for all check windows, silence and "
                "noise among them; the head is damaged, or was not trained",
                ", ".join(self.heads) or self.source,
            )
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
            "frontend": self.frontend,
            "status": "numbers compared" if self.numbers else "structure checked, numbers not",
            "limits": asdict(self.limits),
            "summary": self.summary(),
            "structure": self.structure,
            "int8": self.int8,
            "constant": self.constant,
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
        return json.dumps(content, indent=1) + "\n"
