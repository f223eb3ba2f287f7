"""Macro ROC-AUC of a score table, per class, taxon class and site, with bootstrap intervals."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError, TableError
from bce.engine.files import beside, write_json
from bce.engine.taxonomy import Taxonomy
from bce.tools.judge.gain import Gain
from bce.tools.judge.matching import NOTHING_TO_JUDGE, Matched
from bce.tools.judge.nearness import Nearness
from bce.tools.judge.options import EvaluateOptions
from bce.tools.metrics import Ranking, Resamples, Ties, count_ties, interval, mean


@dataclass(frozen=True)
class Score:
    """A macro AUC, its 95 % bootstrap interval over recordings, and what it rests on."""

    auc: float
    low: float
    high: float
    classes: int
    rows: int
    recordings: int

    def __str__(self) -> str:
        return f"{self.auc:.4f}  [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Evaluation:
    """What ``bce-tools evaluate`` finds."""

    macro: Score
    per_class: dict[str, float]
    positives: dict[str, int]
    taxon_classes: dict[str, Score]
    sites: dict[str, Score]
    site_groups: dict[str, Score]
    ties: Ties
    only_scores: int
    only_labels: int
    unknown: tuple[str, ...] = ()
    gains: dict[str, Gain] = field(default_factory=dict)


def evaluate(
    matched: Matched,
    taxonomy: Taxonomy | None = None,
    options: EvaluateOptions | None = None,
    against: Matched | None = None,
) -> Evaluation:
    """Score matched rows.

    Args:
        matched: scores and truth.
        taxonomy: gives each class' taxon class; without it there is no breakdown by taxon class.
        options: how.
        against: the same rows with other scores, which the gain is taken over.

    Raises:
        TableError: no class has both positives and negatives, or the taxonomy lacks a class.
        OptionsError: an unseen site has no rows, or no other site has any.
    """
    options = options or EvaluateOptions()
    resamples, unseen_sites = options.resamples, options.unseen_sites
    aucs = Ranking.of(matched.present, matched.scores).auc()
    if np.isnan(aucs).all():
        raise TableError(NOTHING_TO_JUDGE)
    taxa: dict[str, NDArray[np.bool_]] = {}
    if taxonomy is not None:
        names = np.array(taxonomy.select(matched.classes).class_names)
        taxa = {name: names == name for name in sorted(set(names.tolist()))}
    site = np.array(matched.sites)
    every_row, every_class = np.ones(len(site), dtype=bool), np.ones(len(aucs), dtype=bool)
    found = ((name, _score(matched, every_row, chosen, resamples)) for name, chosen in taxa.items())
    groups = _site_groups(site, unseen_sites)
    return Evaluation(
        _score(matched, every_row, every_class, resamples),
        {name: float(auc) for name, auc in zip(matched.classes, aucs, strict=True) if not np.isnan(auc)},
        dict(zip(matched.classes, matched.present.sum(axis=0).tolist(), strict=True)),
        {name: score for name, score in found if score.classes},
        {name: _score(matched, site == name, every_class, resamples) for name in sorted(set(matched.sites))},
        {name: _score(matched, rows, every_class, resamples) for name, rows in groups.items()},
        count_ties(matched.present, matched.scores),
        matched.only_scores,
        matched.only_labels,
        matched.unknown,
        {}
        if against is None
        else {name: _gain(matched, against, rows, resamples) for name, rows in {"all": every_row, **groups}.items()},
    )


def _site_groups(site: NDArray[np.str_], unseen: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """The rows of seen and of unseen sites; nothing where no site is said to be unseen."""
    if not unseen:
        return {}
    there = sorted(set(site.tolist()))
    for name in unseen:
        if name not in there:
            raise OptionsError(f"unseen site '{name}' has no rows, there are {', '.join(there)}")
    is_unseen = np.isin(site, list(unseen))
    if is_unseen.all():
        raise OptionsError(f"all sites ({', '.join(there)}) are said to be unseen: name some of them")
    return {"seen": ~is_unseen, "unseen": is_unseen}


def _gain(matched: Matched, against: Matched, rows: NDArray[np.bool_], resamples: int) -> Gain:
    present = matched.present[rows]
    after, before = (Ranking.of(present, of.scores[rows]) for of in (matched, against))
    drawn = Resamples.draw([stem for stem, chosen in zip(matched.stems, rows, strict=True) if chosen], resamples)
    return Gain(mean(after.auc()), mean(before.auc()), *interval(drawn.macro_auc(after) - drawn.macro_auc(before)))


def _score(matched: Matched, rows: NDArray[np.bool_], classes: NDArray[np.bool_], resamples: int) -> Score:
    ranking = Ranking.of(matched.present[rows][:, classes], matched.scores[rows][:, classes])
    stems = [stem for stem, chosen in zip(matched.stems, rows, strict=True) if chosen]
    aucs = ranking.auc()
    low, high = interval(Resamples.draw(stems, resamples).macro_auc(ranking))
    return Score(mean(aucs), low, high, int((~np.isnan(aucs)).sum()), int(rows.sum()), len(set(stems)))


def describe(evaluation: Evaluation, against: str = "") -> list[str]:
    """The evaluation as lines of text; ``against`` names the scores that the gain is taken over."""
    e = evaluation
    lines = [
        f"macro ROC-AUC  {e.macro}  over {e.macro.classes} classes, {e.macro.rows} rows of {e.macro.recordings} "
        "recordings (95 % bootstrap over recordings)",
        f"exactly        {e.macro.auc:.10f}",
        f"left out       {e.only_scores} rows without labels, {e.only_labels} labelled windows without scores, "
        f"{len(e.positives) - e.macro.classes} classes without a positive or a negative",
    ]
    if e.unknown:
        lines.append(f"warning        {len(e.unknown)} labels are no class of the scores: {', '.join(e.unknown[:5])}")
    if e.ties.constant:
        lines.append(f"constant       {e.ties.constant} scored classes have one score in every row (AUC 0.5)")
    if e.ties.tied and e.ties.rounded:
        lines.append(
            f"warning        scores are rounded to 6 decimals or fewer, and {e.ties.tied} scored classes have ties "
            "between positives and negatives, which count half: write more digits"
        )
    elif e.ties.tied:
        lines.append(f"ties           {e.ties.tied} scored classes have ties between positives and negatives")
    for title, part in (("taxon class", e.taxon_classes), ("site", e.sites), ("sites", e.site_groups)):
        if part:
            lines += ["", f"{title:<14} AUC     95 %              classes   rows  recordings"]
            lines += [
                f"{name:<14} {s}  {s.classes:>7}  {s.rows:>5}  {s.recordings:>10}"
                if s.classes
                else f"{name:<14} -       no class with positives and negatives  {s.rows:>5}  {s.recordings:>10}"
                for name, s in part.items()
            ]
    if e.gains:
        where = {"all": "on all rows", "seen": "at seen sites", "unseen": "at unseen sites"}
        gains = ", ".join(f"{gain} {where[name]}" for name, gain in e.gains.items())
        lines += ["", f"gain over {against}: {gains} (95 % of paired resamples)"]
    return lines


def write_per_class(path: str | os.PathLike[str], evaluation: Evaluation, taxonomy: Taxonomy | None) -> None:
    """Write class, positives and AUC (empty where there is none) as CSV, beside and then renamed."""
    with beside(path) as partial, open(partial, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["primary_label", "scientific_name", "positives", "auc"])
        for name, positives in evaluation.positives.items():
            scientific = "" if taxonomy is None else taxonomy.scientific_names[taxonomy.index[name]]
            writer.writerow([name, scientific, positives, evaluation.per_class.get(name, "")])


def write_evaluation(
    path: str | os.PathLike[str], evaluation: Evaluation | None, nearness: Nearness | None = None
) -> None:
    """Write all of an evaluation as JSON, null where there is no AUC, and what was compared as ``agreement``."""
    content = {} if evaluation is None else _without_nan(asdict(evaluation))
    write_json(path, content | {"agreement": None if nearness is None else nearness.to_dict()})


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
