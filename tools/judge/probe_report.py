"""A probe's figures as a table, advice and pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.engine.files import write_text
from bce.tools.judge.options import ProbeOptions
from bce.tools.judge.probe import ProbeResult
from bce.tools.plots import probe_bars, scatter_grid


def write_probe(out: Path, result: ProbeResult, options: ProbeOptions, title: str, lines: Sequence[str]) -> None:
    """Write ``probe.csv``, ``probe.md`` and ``probe.png`` into a folder.

    Args:
        out: the folder, made where it is missing.
        result: of the probe.
        options: how it was run.
        title: says which network on which clips.
        lines: the advice, see :func:`advice`.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "probe.csv", as_csv(result))
    write_text(out / "probe.md", as_markdown(result, f"Probe: {title}", options, lines))
    bars = {metric: (s.mean(axis=0), s.std(axis=0)) for metric, s in result.scores.items()}
    about = f"{title}: {result.classes} classes x {result.clips} clips"
    probe_bars(out / "probe.png", result.blocks, bars, 1 / result.classes, about, result.advised)


def write_umap(
    path: Path, features: Mapping[str, NDArray[np.floating]], labels: Sequence[str], options: ProbeOptions, title: str
) -> None:
    """Draw the clips of as many classes as the probe draws, a panel for each block.

    Args:
        path: of the PNG.
        features: [clips, width] by block.
        labels: the class of each clip.
        options: of the probe.
        title: says which network on which clips.
    """
    names = sorted(set(labels))[: options.classes]
    rows = np.flatnonzero(np.isin(labels, names))
    points = umap_points({name: x[rows] for name, x in features.items()}, list(features), options.seed)
    scatter_grid(path, points, [labels[int(row)] for row in rows], f"UMAP of block features: {title}")


def as_csv(result: ProbeResult) -> str:
    """block, then mean and spread of each metric; in the order of the network."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["block", *(f"{metric}_{what}" for metric in result.scores for what in ("mean", "std"))])
    for i, name in enumerate(result.blocks):
        values = [value for s in result.scores.values() for value in (s[:, i].mean(), s[:, i].std())]
        writer.writerow([name, *(f"{value:.4f}" for value in values)])
    return text.getvalue()


def advice(result: ProbeResult, taps: Mapping[str, float] | None = None, all_blocks: int | None = None) -> list[str]:
    """What the figures say, in a few lines.

    Args:
        result: of a probe.
        taps: a trained head's block weights, to set beside the ranking.
        all_blocks: how many blocks the network has; None where that is not known.
    """
    metric = next(iter(result.scores))
    ranking = result.ranking(metric)
    name, mean, spread = ranking[0]
    near = [block for block, value, _ in ranking[1:] if value >= mean - spread]
    lines = [
        f"best block by {metric}: {name}, top-1 {mean:.3f} +- {spread:.3f} "
        f"(chance {1 / result.classes:.3f}); as good within its spread: {', '.join(near) or 'none'}"
    ]
    if mean < 2 / result.classes:
        lines.append("warning: hardly better than chance; these features do not tell the classes apart")
    taps_text = ",".join(sorted((b.removeprefix("block_") for b in result.advised), key=int))
    joined = " -> ".join(f"{value:.3f}" for value in result.joint)
    lines.append(f"blocks to tap: --blocks {taps_text} (top-1 as each is joined: {joined}; chosen on these very clips)")
    if all_blocks is not None and len(result.blocks) < all_blocks:
        lines.append(
            f"the bundle gives {len(result.blocks)} of {all_blocks} blocks: export --blocks all to see the rest"
        )
    if taps:
        order = [block for block, *_ in ranking if block in taps]
        by_weight = sorted(taps, key=lambda block: -taps[block])
        lines.append(
            f"trained head's weights: {', '.join(f'{b} {taps[b]:.2f}' for b in by_weight)}; "
            f"the probe ranks them {', '.join(order)}"
        )
    return lines


def as_markdown(result: ProbeResult, title: str, options: ProbeOptions, lines: Sequence[str]) -> str:
    """The table, the best block first."""
    metrics = list(result.scores)
    ranks = {metric: {name: (m, s) for name, m, s in result.ranking(metric)} for metric in metrics}
    rows = [
        f"| {name} | " + " | ".join(f"{ranks[m][name][0]:.3f} ± {ranks[m][name][1]:.3f}" for m in metrics) + " |"
        for name, *_ in result.ranking(metrics[0])
    ]
    head = [f"| block | {' | '.join(metrics)} |", "|---|" + "---|" * len(metrics)]
    about = (
        f"{options.neighbours}-NN top-1 of {result.classes} classes x {result.clips} clips, {options.method}; mean ± "
        f"standard deviation over {options.repeats} draws. Chance is {1 / result.classes:.3f}."
    )
    return "\n".join([f"# {title}", "", about, "", *head, *rows, "", *(f"- {line}" for line in lines), ""])


def umap_points(
    features: Mapping[str, NDArray[np.floating]], blocks: Sequence[str], seed: int
) -> dict[str, NDArray[np.float32]]:
    """2-D UMAP (McInnes et al. 2018) of the clips by block, by cosine distance; the same for the same seed."""
    import warnings

    from umap import UMAP

    points = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a seed makes it use one thread, which is meant
        for name in blocks:
            n = len(features[name])
            reducer = UMAP(n_neighbors=min(15, n - 1), min_dist=0.15, metric="cosine", random_state=seed)
            points[name.replace("_", " ")] = reducer.fit_transform(features[name]).astype(np.float32)
    return points


def head_weights(path: Path) -> dict[str, float]:
    """The block weights that training noted in a checkpoint.

    Raises:
        OptionsError: it keeps none.
        ExportError: it is no checkpoint of a head.
    """
    from bce.export.heads.checkpoints import load_checkpoint

    facts = load_checkpoint(path).facts
    weights = facts.get("block_weights")
    if not isinstance(weights, dict) or not all(isinstance(value, int | float) for value in weights.values()):
        raise OptionsError(f"keeps no block weights, only {json.dumps(sorted(facts))}", path)
    return {str(name): float(value) for name, value in weights.items()}
