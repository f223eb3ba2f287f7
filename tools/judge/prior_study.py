"""What post-processing is worth on labelled scores, judged on recordings and sites that its tables have not seen.

Leave one recording out: the scores of a recording get a prior counted without it. Leave one site out: without its whole
site, so that the prior rests on the hour alone, as at a site without labels. A row's own labels never reach its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bce.engine.errors import TableError
from bce.engine.post.priors import Priors, Shrinkage
from bce.engine.post.steps import Groups, smooth_taxonomy, smooth_time
from bce.tools.data.labels import WindowLabels
from bce.tools.judge.matching import NOTHING_TO_JUDGE, Matched
from bce.tools.judge.options import StudyOptions
from bce.tools.metrics import Ranking, Resamples, interval, mean, within_groups

Unit = Literal["recording", "site"]
SMALLEST_PROBABILITY = 1e-12
DEFAULT_ORDER = ("prior", "gaussian", "taxonomy")
UNSEEN_SHARES = (1.0, 0.4, 0.0)


def fit_priors(labels: WindowLabels, classes: Sequence[str], shrinkage: Shrinkage | None = None) -> Priors:
    """Count the priors of labelled windows, each by the hour in which it starts.

    Raises:
        TableError: no name tells a site or an hour.
    """
    if all(site is None for site in labels.sites) and all(hour is None for hour in labels.hours):
        raise TableError(
            f"no name such as '{labels.recordings[0].path}' tells a site or a time: give --name-pattern", labels.path
        )
    return Priors.count(classes, labels.present(classes), labels.sites, labels.hours, shrinkage)


def held_out_log_odds(
    labels: WindowLabels, matched: Matched, unit: Unit, shrinkage: Shrinkage | None = None, unseen: str | None = None
) -> NDArray[np.float64]:
    """Each row's log-odds from all labelled windows but those of its recording or site.

    Args:
        labels: all labelled windows.
        matched: the rows.
        unit: what is left out for each row.
        shrinkage: the weights of the prior.
        unseen: a site that is left out for every row as well.

    Returns:
        float64 [rows, classes].
    """
    everything = fit_priors(labels, matched.classes, shrinkage)
    present = labels.present(matched.classes)
    site = np.array(labels.named_sites)
    owner = np.array([r.stem for r in labels.recordings]) if unit == "recording" else site
    row_owner = np.array(matched.stems if unit == "recording" else matched.sites)
    out = np.empty_like(matched.scores)
    for name in np.unique(row_owner):
        held = np.flatnonzero((owner == name) | (site == unseen))
        sites, hours = [labels.sites[i] for i in held], [labels.hours[i] for i in held]
        priors = everything.without(Priors.count(matched.classes, present[held], sites, hours))
        for row in np.flatnonzero(row_owner == name):
            recording = matched.recordings[row]
            table, which, _ = priors.for_chunks(recording.site, recording.start_time, matched.start_s[row : row + 1])
            out[row] = table[which[0]]
    return out


def as_logits(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Scores as logits, and whether they were probabilities: all within 0..1."""
    if scores.min(initial=0.0) < 0 or scores.max(initial=0.0) > 1:
        return scores, False
    return logit(scores), True


def logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p - log(1 - p), with p kept 1e-12 away from 0 and 1."""
    p = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    out: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return out


@dataclass(frozen=True)
class Chain:
    """Steps in order: "prior" and "gaussian" on logits, "gaussian on p" and "taxonomy" on probabilities."""

    steps: tuple[str, ...]
    strength: float = 0.0

    def __str__(self) -> str:
        names = [f"prior {self.strength:g}" if step == "prior" else step for step in self.steps]
        return " > ".join(names) or "raw"


def chains(strengths: Sequence[float], with_taxonomy: bool) -> list[Chain]:
    """Every step alone and in every order that makes sense.

    Steps that are linear on one scale change places freely and stand in one order only: prior and Gaussian on logits
    (but for a recording that meets two hours), Gaussian and taxonomy on probabilities.
    """
    orders: list[tuple[str, ...]] = [(), ("gaussian",), ("gaussian on p",)]
    with_prior: list[tuple[str, ...]] = [("prior",), ("prior", "gaussian"), ("prior", "gaussian on p")]
    if with_taxonomy:
        orders += [("taxonomy",), ("gaussian", "taxonomy"), ("taxonomy", "gaussian"), ("gaussian on p", "taxonomy")]
        with_prior += [
            ("prior", "taxonomy"),
            DEFAULT_ORDER,
            ("prior", "gaussian on p", "taxonomy"),
            ("prior", "taxonomy", "gaussian"),
            ("taxonomy", "prior"),
            ("taxonomy", "prior", "gaussian"),
        ]
    return [Chain(order) for order in orders] + [Chain(order, s) for order in with_prior for s in strengths]


def run_chain(
    chain: Chain,
    logits: NDArray[np.float64],
    offsets: NDArray[np.int64],
    log_odds: NDArray[np.float64],
    groups: Sequence[Groups],
    sigma: float,
) -> NDArray[np.float64]:
    """Scores [rows, classes] after the steps of a chain, as probabilities or logits, whichever its last step gives."""
    scores, is_logits = logits, True
    for step in chain.steps:
        wants_logits = step in ("prior", "gaussian")
        if is_logits != wants_logits:
            scores, is_logits = (logit(scores) if wants_logits else expit(scores)), wants_logits
        if step == "prior":
            scores = scores + chain.strength * log_odds
        elif step == "taxonomy":
            scores = smooth_taxonomy(scores, groups)
        else:
            scores = smooth_time(scores, offsets, sigma)
    return scores


@dataclass(frozen=True)
class Estimate:
    """A mean AUC, its 95 % interval, and the interval of its difference to raw on the same resamples."""

    auc: float
    low: float
    high: float
    gain_low: float
    gain_high: float

    def __str__(self) -> str:
        return f"{self.auc:.4f} [{self.low:.3f}, {self.high:.3f}] ({self.gain_low:+.3f}, {self.gain_high:+.3f})"


@dataclass(frozen=True, eq=False)
class Judge:
    """Rows in the order of their recordings, with truth and resamples, to judge scores on.

    Attributes:
        matched: the rows, recording by recording.
        logits: float64 [rows, classes].
        offsets: int64 [recordings + 1]: recording i has the rows offsets[i] to offsets[i + 1].
        scored: classes with positives and negatives, bool [classes].
        drawn: bootstrap over recordings.
    """

    matched: Matched
    logits: NDArray[np.float64]
    offsets: NDArray[np.int64]
    scored: NDArray[np.bool_]
    drawn: Resamples

    @classmethod
    def of(cls, matched: Matched, resamples: int) -> Judge:
        """Put the rows in order and draw resamples.

        Raises:
            TableError: no class has both positives and negatives.
        """
        order = np.lexsort((matched.start_s, np.unique(matched.stems, return_inverse=True)[1]))
        matched = matched.take(order)
        stems = np.array(matched.stems)
        offsets = np.concatenate([[0], np.flatnonzero(stems[1:] != stems[:-1]) + 1, [len(stems)]]).astype(np.int64)
        scored = np.asarray(matched.present.any(axis=0) & ~matched.present.all(axis=0))
        if not scored.any():
            raise TableError(NOTHING_TO_JUDGE)
        drawn = Resamples.draw(matched.stems, resamples)
        return cls(matched, as_logits(matched.scores)[0], offsets, scored, drawn)

    def pooled(self, scores: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Macro AUC over all rows, and in each resample."""
        ranking = Ranking.of(self.matched.present[:, self.scored], scores[:, self.scored])
        return mean(ranking.auc()), self.drawn.macro_auc(ranking)

    def within_sites(self, scores: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Mean over sites of the macro AUC within each, and in each resample."""
        present, scores = self.matched.present[:, self.scored], scores[:, self.scored]
        return within_groups(present, scores, self.matched.sites, self.drawn)


def _estimate(found: tuple[float, NDArray[np.float64]], raw: NDArray[np.float64]) -> Estimate:
    auc, values = found
    return Estimate(auc, *interval(values), *interval(values - raw))


def study(
    judge: Judge,
    labels: WindowLabels,
    groups: Sequence[Groups],
    options: StudyOptions,
) -> list[tuple[str, list[Estimate]]]:
    """Judge every chain of steps.

    Returns:
        for each chain: leaving one recording out and leaving one site out, macro AUC over all rows; and leaving one
        site out, the mean over sites of the macro AUC within each.
    """
    by_recording, by_site = (
        held_out_log_odds(labels, judge.matched, unit, options.shrinkage) for unit in get_args(Unit)
    )
    raw, raw_within = judge.pooled(judge.logits)[1], judge.within_sites(judge.logits)[1]
    out = []
    for chain in chains(options.strengths, bool(groups)):
        scores = run_chain(chain, judge.logits, judge.offsets, by_recording, groups, options.sigma)
        recording = site = _estimate(judge.pooled(scores), raw)
        if "prior" in chain.steps:
            scores = run_chain(chain, judge.logits, judge.offsets, by_site, groups, options.sigma)
            site = _estimate(judge.pooled(scores), raw)
        out.append((str(chain), [recording, site, _estimate(judge.within_sites(scores), raw_within)]))
    return out


def study_unseen(
    judge: Judge,
    labels: WindowLabels,
    groups: Sequence[Groups],
    options: StudyOptions,
) -> list[tuple[str, list[Estimate]]]:
    """Judge strengths for known and unknown sites, with each site in turn the only one without labels.

    All rows are scored with tables that lack the site, and their own recording; the rows of the site get the strength
    for unknown sites.

    Returns:
        for each pair of strengths: the mean over sites of the macro AUC over all rows, for the prior alone and for all
        steps in the default order.
    """
    sites = np.array(judge.matched.sites)
    names = np.unique(sites)
    log_odds = {
        name: held_out_log_odds(labels, judge.matched, "recording", options.shrinkage, name) for name in names.tolist()
    }
    raw = judge.pooled(judge.logits)[1]
    out = []
    for known, unknown in [(s, share * s) for s in options.strengths for share in UNSEEN_SHARES]:
        estimates = []
        for order in (("prior",), DEFAULT_ORDER if groups else DEFAULT_ORDER[:2]):
            found = []
            for name, table in log_odds.items():
                boost = np.where(sites == name, unknown, known)[:, None] * table
                scores = run_chain(Chain(order, 1.0), judge.logits, judge.offsets, boost, groups, options.sigma)
                found.append(judge.pooled(scores))
            aucs, values = zip(*found, strict=True)
            estimates.append(_estimate((float(np.mean(aucs)), np.mean(values, axis=0)), raw))
        out.append((f"known={known:g},unknown={unknown:g}", estimates))
    return out


def as_markdown(title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Estimate]]]) -> list[str]:
    """Estimates as a table for the docs."""
    head = [f"| {' | '.join((title, *columns))} |", "| --- |" + " --- |" * len(columns)]
    return head + [f"| {name} | {' | '.join(map(str, estimates))} |" for name, estimates in rows]
