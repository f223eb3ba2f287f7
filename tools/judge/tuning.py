"""Values of post-processing chosen on labelled scores, as they do best where one site has no labels.

Each site in turn is the one without labels: no row's prior has seen it, nor the row's own recording, and its rows get
the strength for unknown sites. What counts is the macro ROC-AUC over all rows, averaged over these turns; of candidates
that it cannot tell from the best, the plainest is chosen. A choice among many flatters itself, so it is also made
without each site and judged inside that site alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import TableError
from bce.engine.post.options import PostprocessOptions
from bce.engine.post.steps import postprocess, taxonomy_groups
from bce.engine.taxonomy import Level, Taxonomy
from bce.tools.data.labels import WindowLabels
from bce.tools.judge.gain import Gain
from bce.tools.judge.options import TuneOptions
from bce.tools.judge.prior_study import Judge, held_out_log_odds
from bce.tools.metrics import Ranking, Resamples, interval, mean

WORTH = 0.0005
"""Macro ROC-AUC that a further step, or more of one, must add."""
TUNED_LEVELS: tuple[Level, ...] = ("genus", "class")


@dataclass(frozen=True, eq=False)
class Tuned:
    """What was chosen, and what it is worth.

    Attributes:
        chosen: the values.
        tried: how many candidates there were.
        pooled: over all rows, the mean of the turns: on the rows that the choice was made on.
        defaults: the same for the default values.
        unseen: inside each site, by what was chosen without it; the mean over sites.
    """

    chosen: PostprocessOptions
    tried: int
    pooled: Gain
    defaults: Gain
    unseen: Gain


def candidates(options: TuneOptions, taxonomy: Taxonomy) -> list[PostprocessOptions]:
    """All that are tried: raw first, the defaults last."""
    strengths = [(0.0, 0.0)]
    strengths += [(s, share * s) for s in options.strengths if s for share in options.unknown_shares]
    gaussians = [(0.0, PostprocessOptions.smooth_on)]
    gaussians += [(sigma, on) for sigma in options.sigmas if sigma for on in options.smooth_on]
    levels = [level for level in TUNED_LEVELS if taxonomy.has_level(level)]
    amounts = list(product(sorted({0.0, *options.amounts}), repeat=len(levels)))
    grid = [
        replace(
            PostprocessOptions.raw(),
            prior_known=known,
            prior_unknown=unknown,
            sigma=sigma,
            smooth_on=on,
            taxonomy=tuple((n, a) for n, a in zip(levels, of, strict=True) if a),
        )
        for (known, unknown), (sigma, on), of in product(strengths, gaussians, amounts)
    ]
    default = PostprocessOptions(taxonomy=tuple(item for item in PostprocessOptions.taxonomy if item[0] in levels))
    return [*grid, default]


def plainest(tried: Sequence[PostprocessOptions], auc: NDArray[np.float64]) -> PostprocessOptions:
    """Of those within :data:`WORTH` of the best AUC the one with the fewest steps, then the one that does least.

    Args:
        tried: the candidates.
        auc: of each, [candidates].
    """

    def effort(place: int) -> tuple[float, ...]:
        values = tried[place]
        steps = values.uses_prior + (values.sigma > 0) + len(values.levels)
        return steps, values.sigma, values.prior_known, sum(amount for _, amount in values.levels), -auc[place]

    return tried[min(np.flatnonzero(auc >= auc.max() - WORTH).tolist(), key=effort)]


class _Turns:
    """Scores of candidates with each site in turn as the one without labels."""

    def __init__(self, judge: Judge, labels: WindowLabels, taxonomy: Taxonomy, options: TuneOptions) -> None:
        self.judge = judge
        self.site = np.array(judge.matched.sites)
        self.sites: list[str] = np.unique(self.site).tolist()
        if len(self.sites) < 2:
            raise TableError(f"all rows are of the site '{self.sites[0]}': tuning takes turns at two or more")
        for name in self.sites:
            others = judge.matched.present[self.site != name]
            if not (others.any(axis=0) & ~others.all(axis=0)).any():
                raise TableError(
                    f"without the site '{name}' no class has positives and negatives: more sites are needed"
                )
        self._taxonomy = taxonomy
        self._log_odds = {
            name: held_out_log_odds(labels, judge.matched, "recording", options.shrinkage, name) for name in self.sites
        }

    def ranking(self, values: PostprocessOptions, unlabelled: str, rows: NDArray[np.bool_] | None = None) -> Ranking:
        """All rows, or some of them, in the order of their scores after post-processing."""
        strength = np.where(self.site == unlabelled, values.prior_unknown, values.prior_known)[:, None]
        logits = self.judge.logits + strength * self._log_odds[unlabelled]
        scores = postprocess(logits, self.judge.offsets, values, taxonomy_groups(self._taxonomy, values))
        chosen = np.ones(len(scores), bool) if rows is None else rows
        scored = self.judge.scored
        return Ranking.of(self.judge.matched.present[chosen][:, scored], scores[chosen][:, scored])


def tune(judge: Judge, labels: WindowLabels, taxonomy: Taxonomy, options: TuneOptions) -> Tuned:
    """Choose values of post-processing.

    Args:
        judge: rows with raw scores and truth, which must not come from a head that has seen them.
        labels: all labelled windows, for the priors.
        taxonomy: of the scores' classes, in their order.
        options: what to try.

    Raises:
        TableError: the rows are of one site alone, or without one of the sites nothing is left to judge by.
    """
    turns = _Turns(judge, labels, taxonomy, options)
    tried = candidates(options, taxonomy)
    pooled, without = _pooled(turns, tried)
    chosen = plainest(tried, pooled)
    return Tuned(
        chosen,
        len(tried),
        _pooled_gain(turns, chosen),
        _pooled_gain(turns, tried[-1]),
        _unseen_gain(turns, [plainest(tried, auc) for auc in without]),
    )


def _pooled(turns: _Turns, tried: Sequence[PostprocessOptions]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each candidate the mean AUC over the turns, [candidates], and without each site's rows and turn, [sites,
    candidates]."""
    sites = len(turns.sites)
    every = np.zeros((len(tried), sites))
    others = np.full((sites, len(tried), sites), np.nan)  # [left out, candidate, turn]
    kept = [(turns.site != name).astype(np.float64) for name in turns.sites]
    for turn, unlabelled in enumerate(turns.sites):
        for number, values in enumerate(tried):
            ranking = turns.ranking(values, unlabelled)
            every[number, turn] = mean(ranking.auc())
            for left_out in range(sites):
                if left_out != turn:
                    others[left_out, number, turn] = mean(ranking.auc(kept[left_out]))
    return every.mean(axis=1), np.nanmean(others, axis=2)


def _pooled_gain(turns: _Turns, values: PostprocessOptions) -> Gain:
    drawn, raw = turns.judge.drawn, PostprocessOptions.raw()
    before = turns.ranking(raw, turns.sites[0])  # without a prior all turns are the same
    after = [turns.ranking(values, name) for name in turns.sites]
    difference = np.mean([drawn.macro_auc(r) for r in after], axis=0) - drawn.macro_auc(before)
    return Gain(float(np.mean([mean(r.auc()) for r in after])), mean(before.auc()), *interval(difference))


def _unseen_gain(turns: _Turns, chosen: Sequence[PostprocessOptions]) -> Gain:
    """Inside each site by the values that were chosen without it."""
    found, differences = [], []
    for name, values in zip(turns.sites, chosen, strict=True):
        rows = turns.site == name
        drawn = Resamples(turns.judge.drawn.weight[:, rows])
        after, before = (turns.ranking(v, name, rows) for v in (values, PostprocessOptions.raw()))
        found.append((mean(after.auc()), mean(before.auc())))
        differences.append(drawn.macro_auc(after) - drawn.macro_auc(before))
    inside = np.array(found)
    per_resample = np.array([mean(column) for column in np.array(differences).T])
    return Gain(mean(inside[:, 0]), mean(inside[:, 1]), *interval(per_resample))


def as_post(values: PostprocessOptions) -> dict[str, Any]:
    """The values as a manifest's field ``post`` has them, but those of the range model, which nobody tuned."""
    tuned = {name: value for name, value in asdict(values).items() if not name.startswith("range_")}
    return tuned | {"taxonomy": dict(values.taxonomy), "exclude": list(values.exclude)}


def describe(tuned: Tuned) -> list[str]:
    """What was chosen and what it is worth, as lines of text."""
    chosen = tuned.chosen
    taxonomy = ", ".join(f"{level} {amount:g}" for level, amount in chosen.levels) or "off"
    gaussian = f"sigma {chosen.sigma:g} on {chosen.smooth_on}" if chosen.sigma else "off"
    lines = [
        f"chosen of {tuned.tried}: prior {chosen.prior_known:g} at sites with labels, {chosen.prior_unknown:g} at "
        f"others; Gaussian {gaussian}; taxonomy {taxonomy}",
        "macro ROC-AUC, each site in turn without labels, and the gain over raw [95 % bootstrap over recordings]",
    ]
    for what, gain in (
        ("all rows, chosen values (on the rows that they were chosen on)", tuned.pooled),
        ("all rows, default values", tuned.defaults),
        ("inside the site, values chosen without it", tuned.unseen),
    ):
        lines.append(f"{gain.before:.4f} -> {gain.auc:.4f}  {gain}  {what}")
    return lines
