"""The steps of post-processing: prior, range, Gaussian over time, sigmoid, taxonomy, in this order.

- The prior is evidence in log-odds, so it is added to logits; so is the range model's, where it serves as a prior.
- The Gaussian runs over a recording's chunks, on logits by default: averaging evidence lets one clear chunk lift its
  neighbours without being flattened first. Edges repeat; zeros would pull the first and last chunk towards 0.5.
- Taxonomy smoothing averages what relatives score, which only means something on one scale: on probabilities.
- A masked class is not there: it has no part in the means of its relatives and ends at :data:`MASKED`, whatever the
  Gaussian, which keeps to a class, has made of its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bce.engine.errors import OptionsError, shown
from bce.engine.post.options import PostprocessOptions
from bce.engine.taxonomy import Taxonomy

# Numba is imported where a kernel is called: reading options, or --help, must not wait for it.

F = TypeVar("F", bound=np.floating)

TRUNCATE = 4.0
MASKED = 0.0
"""The score of a class that is not there: below all that is heard, as the sigmoid of a logit is never 0."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of one level for smoothing: int32 [classes] (-1: left alone), members of each group, the amount."""

    group: NDArray[np.int32]
    size: NDArray[np.float64]
    amount: float

    @classmethod
    def of(cls, ids: NDArray[np.int32], amount: float) -> Self:
        """Groups from ids (-1: none). Groups with one member are left alone: their mean is the member itself."""
        members = np.bincount(ids[ids >= 0], minlength=1)
        single = (ids < 0) | (members[np.maximum(ids, 0)] < 2)
        return cls(np.where(single, -1, ids).astype(np.int32), np.maximum(members, 1).astype(np.float64), amount)

    def without(self, classes: NDArray[np.bool_]) -> Self:
        """The same groups without some classes, bool [classes]."""
        return self.of(np.where(classes, -1, self.group).astype(np.int32), self.amount)


def taxonomy_groups(taxonomy: Taxonomy, options: PostprocessOptions) -> list[Groups]:
    """The groups that the options smooth over, in order.

    Raises:
        TableError: the taxonomy does not have a level.
        OptionsError: an excluded name is no group of any level that is smoothed.
    """
    named = {name for level, _ in options.levels for name in taxonomy.group_names(level)}
    for name in options.exclude:
        if options.levels and name not in named:
            raise OptionsError(f"cannot exclude {shown(name)} from taxonomy smoothing: no group has this name")
    return [Groups.of(taxonomy.groups(level, options.exclude), amount) for level, amount in options.levels]


def gaussian_radius(sigma: float) -> int:
    """How many chunks to either side the Gaussian reaches: 4 sigma, rounded."""
    return int(TRUNCATE * sigma + 0.5)


def gaussian_weights(sigma: float) -> NDArray[np.float64]:
    """Weights of a Gaussian cut at 4 sigma, as scipy's ``gaussian_filter1d`` has them; float64, odd length."""
    radius = gaussian_radius(sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def smooth_time(scores: NDArray[F], offsets: NDArray[np.int64], sigma: float) -> NDArray[F]:
    """Gaussian over each recording's chunks, edges repeated.

    Args:
        scores: float32 or float64 [rows, classes].
        offsets: int64 [recordings + 1]: recording i has the rows offsets[i] to offsets[i + 1].
        sigma: in chunks; 0 returns the scores.
    """
    from bce.engine.post.kernels import smooth_rows

    if sigma == 0:
        return scores
    scores = np.ascontiguousarray(scores)
    out = np.empty_like(scores)
    smooth_rows(scores, np.asarray(offsets, dtype=np.int64), gaussian_weights(sigma), out)
    return out


def smooth_taxonomy(probabilities: NDArray[F], groups: Sequence[Groups]) -> NDArray[F]:
    """Pull each class towards the mean of its group, one level after the other; float32 or float64 [rows, classes]."""
    from bce.engine.post.kernels import pull_to_groups

    out = np.array(probabilities, order="C")
    for level in groups:
        pull_to_groups(out, level.group, level.size, level.amount)
    return out


def add_prior(logits: NDArray[np.floating], table: NDArray[np.float64], row: NDArray[np.int32]) -> NDArray[np.float64]:
    """Logits [rows, classes] with a prior's log-odds added, in float64.

    Args:
        logits: [rows, classes].
        table: what is added, float64 [k, classes].
        row: which row of the table each row of the logits gets, int32 [rows].
    """
    from bce.engine.post.kernels import add_rows

    out = np.array(logits, dtype=np.float64, order="C")
    add_rows(out, table, row)
    return out


def postprocess(
    logits: NDArray[np.floating],
    offsets: NDArray[np.int64],
    options: PostprocessOptions,
    groups: Sequence[Groups] = (),
    masked: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Logits, with their prior where there is one, to probabilities.

    Args:
        logits: [rows, classes], finite; the recordings' chunks one after the other.
        offsets: int64 [recordings + 1]: recording i has the rows offsets[i] to offsets[i + 1].
        options: sigma and what the Gaussian averages.
        groups: levels of taxonomy smoothing (:func:`taxonomy_groups`).
        masked: classes that are not there, bool [classes]: their scores are :data:`MASKED`.

    Returns:
        float64 [rows, classes] within 0..1.
    """
    scores = np.array(logits, dtype=np.float64, order="C")
    if options.smooth_on == "logits":
        scores = smooth_time(scores, offsets, options.sigma)
    scores = np.asarray(expit(scores), dtype=np.float64)
    if options.smooth_on == "probabilities":
        scores = smooth_time(scores, offsets, options.sigma)
    if masked is not None:
        groups = [level.without(masked) for level in groups]
    if groups:
        scores = smooth_taxonomy(scores, groups)
    if masked is not None:
        scores[:, masked] = MASKED
    return scores
