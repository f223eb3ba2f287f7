"""BirdCLEF's macro ROC-AUC: the mean of the classes' areas under the ROC curve, over classes with a positive.

A class that is present in every row has no AUC and is left out as well. Ties between a positive and a negative count
half, as in :func:`sklearn.metrics.roc_auc_score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import TableError
from bce.engine.jit import kernel

DECIMALS = 6


@kernel()
def _weighted_auc(order, last_of_tie, present, weight, out):  # type: ignore[no-untyped-def]
    """AUC of each class with rows counted ``weight`` times; NaN without positives or negatives."""
    classes, rows = order.shape
    for c in range(classes):
        below, positives, tied_positives, tied_negatives, area = 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(rows):
            r = order[c, i]
            if present[c, r]:
                tied_positives += weight[r]
            else:
                tied_negatives += weight[r]
            if last_of_tie[c, i]:
                area += tied_positives * (below + 0.5 * tied_negatives)
                positives += tied_positives
                below += tied_negatives
                tied_positives = tied_negatives = 0.0
        out[c] = area / (positives * below) if positives > 0 and below > 0 else np.nan


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores sorted once, so that many resamples of the rows are cheap.

    Attributes:
        order: rows by rising score, int32 [classes, rows].
        last_of_tie: where the next row has a larger score, bool [classes, rows].
        present: the truth, bool [classes, rows].
    """

    order: NDArray[np.int32]
    last_of_tie: NDArray[np.bool_]
    present: NDArray[np.bool_]

    @classmethod
    def of(cls, present: NDArray[np.bool_], scores: NDArray[np.floating]) -> Ranking:
        """Sort [rows, classes] of truth and scores.

        Raises:
            TableError: the shapes differ, or a score is NaN.
        """
        if present.shape != scores.shape:
            raise TableError(f"truth of shape {present.shape} does not fit scores of shape {scores.shape}")
        if np.isnan(scores).any():
            raise TableError("scores hold NaN: ROC-AUC needs numbers")
        columns = np.ascontiguousarray(scores.T)
        order = np.argsort(columns, axis=1, kind="stable").astype(np.int32)
        ordered = np.take_along_axis(columns, order, axis=1)
        last = np.ones(order.shape, dtype=bool)
        last[:, :-1] = ordered[:, 1:] > ordered[:, :-1]
        return cls(order, last, np.ascontiguousarray(present.T, dtype=bool))

    def auc(self, weight: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
        """AUC of each class, float64 [classes]; NaN where a class has no positive or no negative.

        Args:
            weight: how often each row counts, [rows]; once if not given.
        """
        out = np.empty(len(self.order))
        rows = self.order.shape[1]
        ones = np.ones(rows) if weight is None else np.asarray(weight, dtype=np.float64)
        _weighted_auc(self.order, self.last_of_tie, self.present, ones, out)
        return out


def auc_per_class(present: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """ROC-AUC of each class of [rows, classes]; NaN where a class has no positive or no negative."""
    return Ranking.of(present, scores).auc()


def macro_auc(present: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Mean ROC-AUC over the classes that have one; NaN if none has."""
    return mean(auc_per_class(present, scores))


def mean(values: NDArray[np.float64]) -> float:
    """The mean of what is not NaN; NaN if all is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


@dataclass(frozen=True, eq=False)
class Resamples:
    """Bootstrap over recordings: a recording's windows are alike, so rows must not be drawn one by one.

    Attributes:
        weight: how often each row counts in each resample, float64 [resamples, rows].
    """

    weight: NDArray[np.float64]

    @classmethod
    def draw(cls, recordings: Sequence[str], resamples: int, seed: int = 0) -> Resamples:
        """Draw as many recordings as there are, with replacement.

        Args:
            recordings: the name of each row's recording.
            resamples: how many times.
            seed: the same seed gives the same resamples, so that two methods can be compared on them.
        """
        names, owner = np.unique(np.asarray(recordings, dtype=np.str_), return_inverse=True)
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
        return cls(drawn[:, owner].astype(np.float64))

    def macro_auc(self, ranking: Ranking) -> NDArray[np.float64]:
        """Macro ROC-AUC in each resample, over the classes that have positives and negatives in it."""
        return np.array([mean(ranking.auc(weight)) for weight in self.weight])


def interval(values: NDArray[np.float64], coverage: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap values; NaN values are passed over."""
    if not np.isfinite(values).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(values, [50 * (1 - coverage), 50 * (1 + coverage)])
    return float(low), float(high)


def within_groups(
    present: NDArray[np.bool_], scores: NDArray[np.floating], groups: Sequence[str], resamples: Resamples | None = None
) -> tuple[float, NDArray[np.float64]]:
    """Mean over groups of rows (sites) of the macro AUC within each, and the same in each resample.

    Classes are compared only inside a group, so that what holds for a whole group alike counts for nothing.
    """
    owner = np.asarray(groups, dtype=np.str_)
    values, drawn = [], []
    for name in np.unique(owner):
        rows = owner == name
        ranking = Ranking.of(present[rows], scores[rows])
        value = mean(ranking.auc())
        if not np.isnan(value):
            values.append(value)
            if resamples is not None:
                drawn.append(Resamples(resamples.weight[:, rows]).macro_auc(ranking))
    per_resample = np.array([mean(column) for column in np.array(drawn).T]) if drawn else np.zeros(0)
    return mean(np.array(values)), per_resample


@dataclass(frozen=True)
class Ties:
    """Ties that cost AUC.

    Attributes:
        constant: scored classes with one score in every row.
        tied: other scored classes in which a positive and a negative have the same score.
        rounded: whether all scores have at most 6 decimals.
    """

    constant: int
    tied: int
    rounded: bool


def count_ties(present: NDArray[np.bool_], scores: NDArray[np.floating]) -> Ties:
    """Look for ties between positives and negatives in [rows, classes]."""
    constant = tied = 0
    for c in np.flatnonzero(present.any(axis=0) & ~present.all(axis=0)):
        column = scores[:, c]
        if column.min() == column.max():
            constant += 1
        elif len(np.intersect1d(column[present[:, c]], column[~present[:, c]])):
            tied += 1
    return Ties(constant, tied, bool((np.round(scores, DECIMALS) == scores).all()))
