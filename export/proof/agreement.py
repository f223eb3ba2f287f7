"""How near features and scores are to trusted ones: distances, the order of the scores, the best class of a window.

NaN in any number makes every figure that rests on it NaN, and so misses every limit.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

LOUD = 0.25
"""A window is loud where a class has at least this probability."""
LOWEST = 5.0
"""The percentile of the classes that stands for the worst of them."""

Array = NDArray[np.floating]
Float64 = NDArray[np.float64]


@np.errstate(invalid="ignore", over="ignore")  # infinities, and what is too large, are found and not said
def relative_l2_each(found: Array, trusted: Array) -> Float64:
    """||found - trusted|| / ||trusted|| of every window, float64 [windows], 0 or more.

    Args:
        found, trusted: features [windows, width].

    Returns:
        0 where both are zero, infinite where only the trusted ones are.

    Raises:
        ValueError: they are not of one shape with two axes, or hold nothing.
    """
    found, trusted = _pair(found, trusted)
    return _ratio(_difference(found, trusted), np.linalg.norm(trusted, axis=1))


def rank_correlation_each(found: Array, trusted: Array) -> Float64:
    """Spearman's correlation of every column that varies in the trusted ones, float64 [columns that do], -1..1.

    Args:
        found, trusted: scores [rows, columns]; equal ones share their mean rank.

    Returns:
        0 for a column that is constant in ``found`` alone.

    Raises:
        ValueError: they are not of one shape with two axes, or hold nothing.
    """
    found, trusted = _pair(found, trusted)
    varies = (trusted != trusted[:1]).any(axis=0)
    # a column at a time lies in one stretch of memory
    ranks = (rankdata(np.ascontiguousarray(scores.T[varies]), axis=1) for scores in (found, trusted))
    one, other = (rank - (len(found) + 1) / 2 for rank in ranks)
    products, scale = (one * other).sum(axis=1), np.sqrt((one * one).sum(axis=1) * (other * other).sum(axis=1))
    return np.divide(products, scale, out=np.zeros_like(scale), where=scale != 0)


@dataclass(frozen=True)
class Distance:
    """Relative L2 of some windows, each 0 or more; infinite where the trusted numbers have no size.

    Attributes:
        typical: the median over the windows.
        pooled: of all windows together.
        worst: the largest of a window.
    """

    typical: float
    pooled: float
    worst: float

    @classmethod
    @np.errstate(invalid="ignore", over="ignore")
    def of_features(cls, found: Array, trusted: Array) -> Distance:
        """Of features [windows, width], see :func:`relative_l2_each`.

        Raises:
            ValueError: they are not of one shape with two axes, or hold nothing.
        """
        found, trusted = _pair(found, trusted)
        size = np.linalg.norm(trusted, axis=1)
        return cls._of(_difference(found, trusted), size, size)

    @classmethod
    @np.errstate(invalid="ignore", over="ignore")
    def of_logits(cls, found: Array, trusted: Array) -> Distance:
        """Of logits [windows, classes], both less each class' mean in the trusted ones: a common offset flatters.

        A window's difference is divided by the root mean square, over the windows, of the lengths of the trusted rows:
        a window that happens to lie near the mean has next to no length of its own.

        Raises:
            ValueError: they are not of one shape with two axes, or hold nothing.
        """
        found, trusted = _pair(found, trusted)
        centred = trusted - trusted[:1]  # of a constant class exactly 0, which its mean is not
        centred -= centred.mean(axis=0)
        size = np.linalg.norm(centred, axis=1)
        return cls._of(_difference(found, trusted), np.full(len(size), np.sqrt((size**2).mean())), size)

    @classmethod
    def _of(cls, difference: Float64, divisor: Float64, size: Float64) -> Distance:
        each = _ratio(difference, divisor)
        (pooled,) = _ratio(np.linalg.norm(difference[None], axis=1), np.linalg.norm(size[None], axis=1))
        return cls(float(np.median(each)), float(pooled), float(each.max()))


@dataclass(frozen=True)
class Agreement:
    """Logits of some windows beside those that are trusted.

    Attributes:
        windows: how many.
        loud: how many of them have a trusted class of at least :data:`LOUD`.
        distance: of the logits.
        rank_correlation: Spearman's of each class' scores over the windows, -1..1, averaged over the classes that vary
            in the trusted ones; a class that is constant in the others alone counts as 0. Macro ROC-AUC sees nothing
            else. NaN when none varies.
        rank_correlation_worst: the 5th percentile over those classes.
        top1: share of windows whose best class is kept, 0..1; of equal ones the first is the best.
        top1_loud: the same of the loud windows; None if there are none.
        regret: the most, in trusted probability, that the best class of a loud window lacks to the trusted best one,
            0..1: next to nothing where two classes are as likely. None without loud windows.
        largest_change: of a probability, 0..1.
    """

    windows: int
    loud: int
    distance: Distance
    rank_correlation: float
    rank_correlation_worst: float
    top1: float
    top1_loud: float | None
    regret: float | None
    largest_change: float

    @classmethod
    def between(cls, found: Array, trusted: Array) -> Agreement:
        """Compare logits [windows, classes], in float64.

        Raises:
            ValueError: they are not of one shape with two axes, or hold nothing.
        """
        found, trusted = _pair(found, trusted)
        ranks = rank_correlation_each(found, trusted)
        kept = np.where(
            np.isnan(found).any(axis=1) | np.isnan(trusted).any(axis=1),
            np.nan,
            found.argmax(axis=1) == trusted.argmax(axis=1),
        )
        likely = expit(trusted)
        loud = ~(likely.max(axis=1) < LOUD)  # so that NaN is loud, and heard of
        return cls(
            windows=len(trusted),
            loud=int(loud.sum()),
            distance=Distance.of_logits(found, trusted),
            rank_correlation=float(ranks.mean()) if len(ranks) else math.nan,
            rank_correlation_worst=float(np.percentile(ranks, LOWEST)) if len(ranks) else math.nan,
            top1=float(kept.mean()),
            top1_loud=float(kept[loud].mean()) if loud.any() else None,
            regret=float((_lost(likely, found) + 0 * kept)[loud].max()) if loud.any() else None,
            largest_change=float(np.abs(expit(found) - likely).max()),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has neither NaN nor infinity: both are None."""
        return _finite(asdict(self))

    def lines(self, what: str = "windows") -> list[str]:
        """For people; ``what`` names the windows where they are another thing, such as rows."""
        off = self.distance
        loud = "none has" if self.top1_loud is None else f"{_count(self.top1_loud, self.loud)} with"
        return [
            f"logits         relative L2 {off.pooled:.2g} over all {what}, median {off.typical:.2g}, "
            f"worst {off.worst:.2g} (less each class' mean)",
            f"order          rank correlation of a class over the {what} {_rank(self.rank_correlation)} in the mean, "
            f"{_rank(self.rank_correlation_worst)} at the 5th percentile",
            f"best class     kept in {_count(self.top1, self.windows)} {what} "
            f"({loud} a probability of {LOUD:g} or more)",
            f"probabilities  change by {self.largest_change:.2g} at most",
        ]

    def __str__(self) -> str:
        return (
            f"relative L2 {self.distance.pooled:.2g} (worst {self.distance.worst:.2g}), rank correlation "
            f"{_rank(self.rank_correlation)} (5th percentile {_rank(self.rank_correlation_worst)}), best class kept in "
            f"{_count(self.top1, self.windows)} windows, probabilities within {self.largest_change:.2g}"
        )


def _lost(likely: Float64, found: Float64) -> Float64:
    """What the best class of ``found`` lacks to the trusted best one, in trusted probability, [windows]."""
    chosen: Float64 = np.take_along_axis(likely, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    return likely.max(axis=1) - chosen


def _pair(found: Array, trusted: Array) -> tuple[Float64, Float64]:
    """Both in float64."""
    if found.shape != trusted.shape or found.ndim != 2 or not found.size:
        raise ValueError(f"arrays of shapes {found.shape} and {trusted.shape}, expected the same [windows, width]")
    return found.astype(np.float64), trusted.astype(np.float64)


def _difference(found: Float64, trusted: Float64) -> Float64:
    """||found - trusted|| of every window."""
    length: Float64 = np.linalg.norm(found - trusted, axis=1)
    return length


def _ratio(difference: Float64, size: Float64) -> Float64:
    """Element by element; 0 where both are 0, infinite where only the size is."""
    without_size = np.where(difference == 0, 0.0, difference * np.inf)
    return np.divide(difference, size, out=without_size, where=size != 0)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rank(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.5f}"


def _count(share: float, of: int) -> str:
    return f"an unknown number of {of}" if math.isnan(share) else f"{round(share * of)} of {of}"
