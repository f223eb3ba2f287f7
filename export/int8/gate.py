"""What an int8 form may change, on windows that its calibration never saw: in the middle and at worst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.export.proof.agreement import Agreement, Distance

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Limits:
    """What passes.

    Attributes:
        typical: relative L2 of an output, the median over recorded windows.
        worst: of a single window, quiet ones among them. Of an output that is the scores it is not asked.
        rank_correlation: Spearman's of a class' scores over recorded windows, averaged over the classes.
        top1_loud: share of the windows with a probability of 0.25 or more whose best class is kept,
        regret: unless the class that takes its place was as likely, to so much.
        largest_change: of a probability.
    """

    typical: float = 0.05
    worst: float = 0.22
    rank_correlation: float = 0.99
    top1_loud: float = 0.99
    regret: float = 0.02
    largest_change: float = 0.1


LIMITS = Limits()
"""A published dynamic int8 form of Perch v2 has a relative L2 of about 0.12 and gives another best class for 7 % of
windows. Of BirdNET v2.4, which is trained, ranks and best classes are kept where features are within 0.06."""
AIM = Limits(typical=0.025, worst=0.18, rank_correlation=0.992, largest_change=0.08)
"""What is asked for on the windows that a choice is made on, so that others keep the limits."""


@dataclass(frozen=True)
class Quality:
    """An int8 form beside float32.

    Attributes:
        windows, quiet: how many were compared, and how many of them were made quiet or silent.
        outputs: of each output but the scores, the distance.
        scores: of the logits, on the recorded windows; None without scores.
        worst: the largest relative L2 of a window, of any output; of the scores where they are the only one.
    """

    windows: int
    quiet: int
    outputs: dict[str, Distance]
    scores: Agreement | None
    worst: float

    def misses(self, limits: Limits) -> Iterator[str]:
        """What is too far, each in words; NaN is."""
        for name, distance in self.outputs.items():
            if not distance.typical <= limits.typical:
                yield f"relative L2 of {name} {distance.typical:.3f}, allowed {limits.typical:g}"
        if not self.worst <= limits.worst:
            yield f"relative L2 of the worst window {self.worst:.3f}, allowed {limits.worst:g}"
        scores = self.scores
        if scores is None:
            return
        if not scores.distance.typical <= 2 * limits.typical:
            yield f"relative L2 of the logits {scores.distance.typical:.3f}, allowed {2 * limits.typical:g}"
        if not scores.rank_correlation >= limits.rank_correlation:
            yield f"rank correlation {scores.rank_correlation:.4f}, needed {limits.rank_correlation:g}"
        loud, regret = scores.top1_loud, scores.regret
        if loud is not None and not loud >= limits.top1_loud and not (regret is not None and regret <= limits.regret):
            yield f"best class kept in {loud:.1%} of loud windows, needed {limits.top1_loud:.0%}"
        if not scores.largest_change <= limits.largest_change:
            yield f"a probability changes by {scores.largest_change:.2f}, allowed {limits.largest_change:g}"

    def to_dict(self) -> dict[str, Any]:
        """For ``parity.json``."""
        return {
            "windows": self.windows,
            "quiet": self.quiet,
            "outputs": {name: asdict(distance) for name, distance in self.outputs.items()},
            "scores": None if self.scores is None else self.scores.to_dict(),
            "worst": self.worst,
        }

    def __str__(self) -> str:
        named = dict(self.outputs) or {"logits": self.scores.distance if self.scores else Distance(0, 0, 0)}
        name, distance = max(named.items(), key=lambda item: item[1].typical)
        said = f"{name} relative L2 {distance.typical:.3f}, worst window {self.worst:.3f}"
        if self.scores is not None:
            loud = "" if self.scores.top1_loud is None else f", best class of loud windows {self.scores.top1_loud:.1%}"
            said += (
                f", rank correlation {self.scores.rank_correlation:.4f}{loud}, "
                f"probabilities within {self.scores.largest_change:.2f}"
            )
        return said


def judge(found: Arrays, trusted: Arrays, quiet: NDArray[np.bool_], scores: str | None) -> Quality:
    """Compare outputs by name, each [windows, width].

    Args:
        found: of the int8 form.
        trusted: in float32.
        quiet: which windows were made quiet or silent: there only the distance counts.
        scores: the output that is logits of classes; None without one.
    """
    loud = ~quiet
    outputs, worst = {}, []
    for name, expected in trusted.items():
        if name != scores:
            outputs[name] = Distance.of_features(found[name][loud], expected[loud])
            worst.append(Distance.of_features(found[name], expected).worst)
        elif len(trusted) == 1:
            worst.append(Distance.of_logits(found[name], expected).worst)
    agreement = None if scores is None else Agreement.between(found[scores][loud], trusted[scores][loud])
    return Quality(len(quiet), int(quiet.sum()), outputs, agreement, float(np.max(worst)))
