"""What post-processing is worth on labelled scores, judged on recordings and sites that its tables have not seen.

Leave one recording out: the scores of a recording get a prior counted without it. Leave one site out: without its whole
site, so that the prior rests on the hour alone, as at a site without labels. A row's own labels never reach its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bce.engine.errors import TableError
from bce.engine.postprocess import Groups, smooth_taxonomy, smooth_time
from bce.engine.priors import Priors, Shrinkage
from bce.tools.evaluate import Matched
from bce.tools.labels import WindowLabels
from bce.tools.metrics import Ranking, Resamples, interval, mean, within_groups

Unit = Literal["recording", "site"]
SMALLEST_PROBABILITY = 1e-12


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
    labels: WindowLabels, matched: Matched, unit: Unit, shrinkage: Shrinkage | None = None
) -> NDArray[np.float64]:
    """Each row's log-odds from all labelled windows but those of its recording or site.

    Returns:
        float64 [rows, classes].
    """
    everything = fit_priors(labels, matched.classes, shrinkage)
    present = labels.present(matched.classes)
    owner = np.array([r.stem if unit == "recording" else (r.site or "?") for r in labels.recordings])
    row_owner = np.array(matched.stems if unit == "recording" else matched.sites)
    out = np.empty_like(matched.scores)
    for name in np.unique(row_owner):
        held = np.flatnonzero(owner == name)
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

    Prior and Gaussian are both linear on logits and change places freely (but for a recording that meets two hours),
    so that they stand in one order only.
    """
    orders: list[tuple[str, ...]] = [(), ("gaussian",), ("gaussian on p",)]
    if with_taxonomy:
        orders += [("taxonomy",), ("gaussian", "taxonomy"), ("taxonomy", "gaussian"), ("taxonomy", "gaussian on p")]
    with_prior: list[tuple[str, ...]] = [("prior",), ("prior", "gaussian"), ("prior", "gaussian on p")]
    if with_taxonomy:
        with_prior += [
            ("prior", "taxonomy"),
            ("prior", "gaussian", "taxonomy"),
            ("prior", "gaussian on p", "taxonomy"),
            ("prior", "taxonomy", "gaussian on p"),
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


def study(
    matched: Matched,
    labels: WindowLabels,
    groups: Sequence[Groups],
    strengths: Sequence[float],
    sigma: float,
    shrinkage: Shrinkage | None = None,
    resamples: int = 1000,
) -> list[tuple[Chain, dict[str, Estimate]]]:
    """Judge chains of steps by four estimates each.

    Returns:
        for each chain, by "recording" and "site" (what was left out), pooled over all rows and, with " within",
        the mean over sites of the macro AUC within each.
    """
    rows = np.lexsort((matched.start_s, np.unique(matched.stems, return_inverse=True)[1]))
    present, logits = matched.present[rows], as_logits(matched.scores)[0][rows]
    stems, sites = np.array(matched.stems)[rows], np.array(matched.sites)[rows]
    changes = np.flatnonzero(stems[1:] != stems[:-1]) + 1
    offsets = np.concatenate([[0], changes, [len(rows)]]).astype(np.int64)
    drawn = Resamples.draw(stems.tolist(), resamples)
    units: tuple[Unit, ...] = ("recording", "site")
    log_odds = {unit: held_out_log_odds(labels, matched, unit, shrinkage)[rows] for unit in units}
    out: list[tuple[Chain, dict[str, Estimate]]] = []
    raw: dict[str, NDArray[np.float64]] = {}
    for chain in chains(strengths, bool(groups)):
        found: dict[str, Estimate] = {}
        for unit in units:
            if unit == "site" and "prior" not in chain.steps:
                found |= {"site": found["recording"], "site within": found["recording within"]}
                continue
            scores = run_chain(chain, logits, offsets, log_odds[unit], groups, sigma)
            ranking = Ranking.of(present, scores)
            pooled = mean(ranking.auc()), drawn.macro_auc(ranking)
            within = within_groups(present, scores, sites.tolist(), drawn)
            for name, (auc, values) in (("pooled", pooled), ("within", within)):
                gain = interval(values - raw.setdefault(name, values))
                found[unit if name == "pooled" else f"{unit} within"] = Estimate(auc, *interval(values), *gain)
        out.append((chain, found))
    return out


def as_markdown(found: Sequence[tuple[Chain, dict[str, Estimate]]]) -> list[str]:
    """The study as a table for the docs."""
    names = ("recording", "site", "site within")
    titles = ("leave one recording out", "leave one site out", "leave one site out, within sites")
    lines = [f"| steps | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
    return lines + [f"| {chain} | {' | '.join(str(estimates[name]) for name in names)} |" for chain, estimates in found]
