"""What a form of a network changes in its logits, as those see it who read its scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

LOUD = 0.25
"""A window is loud where a class has at least this probability."""


@dataclass(frozen=True)
class Changes:
    """Logits of some windows against those that are trusted.

    Attributes:
        windows: how many.
        relative_l2: of the logits less each class' mean over the windows: a common offset flatters.
        rank_correlation: Spearman's, of a window's classes, mean over windows.
        top1: share of windows whose best class is kept.
        loud, top1_loud: the same of windows with a class of at least :data:`LOUD`.
        largest_change: of a probability.
    """

    windows: int
    relative_l2: float
    rank_correlation: float
    top1: float
    loud: int
    top1_loud: float
    largest_change: float

    @classmethod
    def between(cls, trusted: NDArray[np.floating], found: NDArray[np.floating]) -> Changes:
        """Compare logits [windows, classes]."""
        trusted, found = trusted.astype(np.float64), found.astype(np.float64)
        centre = trusted.mean(axis=0)
        ranks = [rankdata(logits, axis=1) for logits in (trusted, found)]
        ranks = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
        correlation = (ranks[0] * ranks[1]).sum(axis=1) / np.sqrt(np.prod([(r * r).sum(axis=1) for r in ranks], axis=0))
        same = trusted.argmax(axis=1) == found.argmax(axis=1)
        loud = expit(trusted).max(axis=1) >= LOUD
        return cls(
            windows=len(trusted),
            relative_l2=float(np.linalg.norm(found - trusted) / np.linalg.norm(trusted - centre)),
            rank_correlation=float(correlation.mean()),
            top1=float(same.mean()),
            loud=int(loud.sum()),
            top1_loud=float(same[loud].mean()) if loud.any() else 1.0,
            largest_change=float(np.abs(expit(found) - expit(trusted)).max()),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
