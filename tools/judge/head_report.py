"""What trained heads are worth: out of fold, on sites held out, and beside a plain baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bce.tools.learn.examples import Examples, fold_count, split
from bce.tools.learn.options import GroupBy, TrainOptions
from bce.tools.learn.training_set import TrainingSet
from bce.tools.metrics import Ranking, Resamples, interval, macro_auc, mean

RESAMPLES = 500
CLEAR = 0.01
"""A difference between out-of-fold and held-out-site AUC under this is not worth a warning."""


def report_lines(
    data: TrainingSet,
    options: TrainOptions,
    logits: Mapping[GroupBy, NDArray[np.floating]],
    fold_auc: Sequence[float],
    weights: Sequence[dict[str, float]],
    baseline: tuple[str, NDArray[np.floating]] | None = None,
) -> list[str]:
    """The report as markdown: AUC out of fold and on held-out sites, a warning where they part, block weights.

    Args:
        data: what was learnt from.
        options: how.
        logits: of every row by heads that have not seen it, [rows, classes], by what stayed in one fold.
        fold_auc: of each fold's head on the rows that it has not seen.
        weights: what each fold's head takes from each block.
        baseline: a block, and the logits of a plain model on it in the same folds.
    """
    examples = data.examples
    by_recording, by_site = logits.get("recording"), logits.get("site")
    rows = examples.judged
    sites = len(examples.sites)
    what = "soundscape windows" if examples.soundscape.any() else "chunks of focal clips"

    def auc(logits: NDArray[np.floating]) -> float:
        return macro_auc(examples.present[rows], logits[rows])

    lines = [
        f"# {options.head.kind} head, {len(data.classes)} classes, {options.folds} folds by {options.group_by}",
        "",
        f"{int((~examples.soundscape).sum())} chunks of focal clips, {int(examples.soundscape.sum())} soundscape "
        f"windows of {sites} sites; judged on {int(rows.sum())} {what}.",
        *([f"Scores are means over {options.score_heads} heads."] if options.score_heads > 1 else []),
        "",
        "| held out | macro ROC-AUC | mean of the folds' own | accuracy on clips |",
        "|---|---|---|---|",
    ]

    def row(title: str, logits: NDArray[np.floating], by: GroupBy) -> str:
        right = accuracy(examples, logits)
        fold = split(examples, fold_count(examples, options.folds, by), by, options.seed)
        own = [rows & (fold == number) for number in range(fold.max() + 1)]
        folds = mean(np.array([macro_auc(examples.present[of], logits[of]) for of in own if of.any()]))
        return f"| {title} | {auc(logits):.4f} | {folds:.4f} | {'-' if np.isnan(right) else f'{right:.4f}'} |"

    if by_recording is not None:
        lines.append(row("recordings (out of fold)", by_recording, "recording"))
    if by_site is not None:
        lines.append(row("sites", by_site, "site"))
    if baseline is not None:
        title = f"{options.group_by}s, logistic regression on {baseline[0]}"
        lines.append(row(title, baseline[1], options.group_by))
    lines += ["", f"Folds: {', '.join(f'{value:.4f}' for value in fold_auc)}.", ""]
    if by_recording is not None and by_site is not None:
        gap = auc(by_recording) - auc(by_site)
        low, high = disagreement(examples, by_recording, by_site)
        lines.append(f"Out of fold minus held-out site: {gap:+.4f} [{low:+.4f}, {high:+.4f}] (95 % over recordings).")
        if gap > CLEAR and low > 0:
            lines.append(
                "**Warning:** the out-of-fold AUC does not carry over to new sites: believe the lower figure, and do "
                "not choose between models by the higher one."
            )
    elif examples.soundscape.any():
        lines.append("No held-out-site AUC: it was not asked for, or there is one site only.")
    lines += ["", "| block | weight (mean of folds) | range |", "|---|---|---|"]
    for name in weights[0]:
        values = [weight[name] for weight in weights]
        lines.append(f"| {name} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} |")
    lines += ["", *(f"Left out: {path}: {reason}" for path, reason in data.failed.items())]
    return lines


def accuracy(examples: Examples, logits: NDArray[np.floating]) -> float:
    """Share of focal clips whose class has the largest mean logit over the clip; NaN without clips."""
    clips = np.flatnonzero(~examples.soundscape)
    if not len(clips):
        return float("nan")
    _, first, of = np.unique(examples.recording[clips], return_index=True, return_inverse=True)
    total = np.zeros((len(first), logits.shape[1]))
    np.add.at(total, of, logits[clips] / np.bincount(of)[of][:, None])
    return float((total.argmax(axis=1) == examples.present[clips][first].argmax(axis=1)).mean())


def disagreement(examples: Examples, oof: NDArray[np.floating], by_site: NDArray[np.floating]) -> tuple[float, float]:
    """95 % bootstrap interval over recordings of how much higher the first AUC is than the second."""
    rows = examples.judged
    resamples = Resamples.draw([str(r) for r in examples.recording[rows]], RESAMPLES)
    first, second = (resamples.macro_auc(Ranking.of(examples.present[rows], x[rows])) for x in (oof, by_site))
    return interval(first - second)
