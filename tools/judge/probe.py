"""``bce-tools probe``: which blocks of a network tell classes apart, by nearest neighbours, before anything is trained.

Each clip is one vector per block: the mean of its chunks' pooled features. A clip is right when the vote of its 5
nearest other clips names its class. No training, so nothing but the features can be good or bad.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path
from bce.tools.commands.train import write_text
from bce.tools.data.datasets import Clips, read_clips
from bce.tools.learn.features import FeatureOptions, add_feature_options, read_features
from bce.tools.plots import probe_bars, scatter_grid

Metric = Literal["cosine", "euclidean"]
Method = Literal["leave-one-out", "split"]
ALL_BLOCKS = 26
MOST_ADVISED = 3
WORTH = 0.005
"""Top-1 that a further block must add to be advised."""


@dataclass(frozen=True)
class ProbeOptions:
    """How to probe.

    Attributes:
        classes: drawn in each repeat, from those with enough clips; fewer where there are fewer.
        clips: drawn of each class, at least 2; fewer where the smallest drawn class has fewer.
        neighbours: that vote.
        metrics: of distance.
        method: "leave-one-out", or "split": half of each class' clips are neighbours for the other half.
        repeats: draws of classes, clips and halves.
        seed: of the draws.
    """

    classes: int = 30
    clips: int = 20
    neighbours: int = 5
    metrics: tuple[Metric, ...] = ("cosine", "euclidean")
    method: Method = "leave-one-out"
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("classes", 2), ("clips", 2), ("neighbours", 1), ("repeats", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise OptionsError(f"{name} is {getattr(self, name)}, it must be at least {low}")
        if self.method not in get_args(Method):
            raise OptionsError(f"method {self.method!r} is unknown: choose {' or '.join(get_args(Method))}")
        for metric in self.metrics:
            if metric not in get_args(Metric):
                raise OptionsError(f"metric {metric!r} is unknown: choose {' or '.join(get_args(Metric))}")


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Top-1 of each block.

    Attributes:
        blocks: names, in the order of the network.
        scores: float64 [repeats, blocks] by metric.
        classes, clips: how many were drawn in each repeat.
        advised: blocks to tap, the best first, chosen by the first metric.
        joint: top-1 of the first 1, 2, ... advised blocks together.
    """

    blocks: tuple[str, ...]
    scores: dict[str, NDArray[np.float64]]
    classes: int
    clips: int
    advised: tuple[str, ...]
    joint: tuple[float, ...]

    def ranking(self, metric: str) -> list[tuple[str, float, float]]:
        """(block, mean, standard deviation over repeats), the best first."""
        mean, spread = self.scores[metric].mean(axis=0), self.scores[metric].std(axis=0)
        order = np.argsort(-mean, kind="stable")
        return [(self.blocks[i], float(mean[i]), float(spread[i])) for i in order]


def distances(x: NDArray[np.floating], y: NDArray[np.floating], metric: Metric) -> NDArray[np.float64]:
    """Of each row of x [n, width] to each of y [m, width]: 1 - cosine, or squared Euclidean; float64 [n, m]."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if metric == "cosine":
        a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
        return 1 - a @ b.T
    return np.maximum(np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T, 0)


def vote(distance: NDArray[np.float64], labels: NDArray[np.int64], neighbours: int) -> NDArray[np.int64]:
    """The class that most of the nearest neighbours have; of classes with as many votes, the one met first.

    Args:
        distance: [n, m]; infinite where a row is no neighbour.
        labels: of the m possible neighbours, from 0.
        neighbours: that vote.

    Returns:
        int64 [n].
    """
    nearest = labels[np.argsort(distance, axis=1, kind="stable")[:, :neighbours]]
    count = (nearest[:, :, None] == nearest[:, None, :]).sum(axis=2)  # votes for the class of each neighbour
    return nearest[np.arange(len(nearest)), count.argmax(axis=1)]


def top1(
    x: NDArray[np.floating], labels: NDArray[np.int64], metric: Metric, neighbours: int, half: NDArray[np.bool_] | None
) -> float:
    """Share of clips that their neighbours name rightly.

    Args:
        x: features [clips, width].
        labels: classes from 0, [clips].
        metric: of distance.
        neighbours: that vote.
        half: the clips that are neighbours to the others; None for leave-one-out.
    """
    if half is None:
        distance = distances(x, x, metric)
        np.fill_diagonal(distance, np.inf)
        return float((vote(distance, labels, neighbours) == labels).mean())
    found = vote(distances(x[~half], x[half], metric), labels[half], neighbours)
    return float((found == labels[~half]).mean())


@dataclass(frozen=True, eq=False)
class _Draw:
    """The clips of one repeat: their places, classes from 0, and the half that are neighbours."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    half: NDArray[np.bool_] | None


def _draws(labels: Sequence[str], options: ProbeOptions) -> list[_Draw]:
    names, count = np.unique(np.asarray(labels), return_counts=True)
    usable = names[count >= min(options.clips, max(2, int(np.median(count))))]
    if len(usable) < 2:
        raise OptionsError(f"{len(names)} classes, {len(usable)} with enough clips: a probe needs at least 2")
    of = np.asarray(labels)
    clips = min(options.clips, int(count[np.isin(names, usable)].min()))
    draws = []
    for repeat in range(options.repeats):
        rng = np.random.default_rng([options.seed, repeat])
        chosen = rng.choice(usable, min(options.classes, len(usable)), replace=False)
        rows = np.concatenate([rng.choice(np.flatnonzero(of == name), clips, replace=False) for name in chosen])
        half = None
        if options.method == "split":
            half = np.concatenate([rng.permutation(clips) < clips // 2 for _ in chosen])
        draws.append(_Draw(rows, np.repeat(np.arange(len(chosen)), clips), half))
    return draws


def probe(
    features: Mapping[str, NDArray[np.floating]], labels: Sequence[str], options: ProbeOptions | None = None
) -> ProbeResult:
    """Probe every block.

    Args:
        features: [clips, width] by block, in the order of the network.
        labels: the class of each clip.
        options: how.

    Raises:
        OptionsError: fewer than two classes have enough clips.
    """
    options = options or ProbeOptions()
    draws = _draws(labels, options)

    def mean_top1(x: NDArray[np.floating], metric: Metric) -> list[float]:
        return [top1(x[d.rows], d.labels, metric, options.neighbours, d.half) for d in draws]

    scores: dict[str, NDArray[np.float64]] = {
        metric: np.array([mean_top1(x, metric) for x in features.values()]).T for metric in options.metrics
    }
    blocks = tuple(features)
    metric = options.metrics[0]
    # blocks are joined at one scale, or the one with the largest numbers would decide alone
    unit = {name: x / np.sqrt(np.square(x - x.mean(axis=0)).sum(axis=1).mean() + 1e-30) for name, x in features.items()}
    advised = [blocks[int(scores[metric].mean(axis=0).argmax())]]
    joint = [float(scores[metric].mean(axis=0).max())]
    while len(advised) < min(MOST_ADVISED, len(blocks)):
        tried = {
            name: float(np.mean(mean_top1(np.concatenate([unit[b] for b in (*advised, name)], axis=1), metric)))
            for name in blocks
            if name not in advised
        }
        name = max(tried, key=lambda block: tried[block])
        if tried[name] < joint[-1] + WORTH:
            break
        advised.append(name)
        joint.append(tried[name])
    return ProbeResult(
        blocks, scores, int(draws[0].labels.max()) + 1, len(draws[0].rows) // (int(draws[0].labels.max()) + 1),
        tuple(advised), tuple(joint),
    )  # fmt: skip


def as_csv(result: ProbeResult) -> str:
    """block, then mean and spread of each metric; in the order of the network."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["block", *(f"{metric}_{what}" for metric in result.scores for what in ("mean", "std"))])
    for i, name in enumerate(result.blocks):
        values = [value for s in result.scores.values() for value in (s[:, i].mean(), s[:, i].std())]
        writer.writerow([name, *(f"{value:.4f}" for value in values)])
    return text.getvalue()


def advice(result: ProbeResult, taps: Mapping[str, float] | None = None) -> list[str]:
    """What the figures say, in a few lines.

    Args:
        result: of a probe.
        taps: a trained head's block weights, to set beside the ranking.
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
    if len(result.blocks) < ALL_BLOCKS:
        lines.append(
            f"the bundle gives {len(result.blocks)} of {ALL_BLOCKS} blocks: export --blocks all to see the rest"
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


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bce-tools probe``."""
    defaults = ProbeOptions()
    parser = subparsers.add_parser(
        "probe",
        help="which blocks tell classes apart: a kNN probe",
        description="Top-1 of nearest neighbours on each block's pooled features. Use a bundle that was exported with "
        "--blocks all. Writes probe.csv, probe.md, probe.png and umap.png.",
    )
    add: Callable[..., argparse.Action] = parser.add_argument
    add("data", type=Path, metavar="DIR", help="a data set in BirdCLEF layout, or a folder of class folders")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for table and pictures")
    add("--classes", type=int, default=defaults.classes, help="in each draw (default: %(default)s)")
    add("--clips", type=int, default=defaults.clips, help="of each class (default: %(default)s)")
    add("--neighbours", type=int, default=defaults.neighbours, help="that vote (default: %(default)s)")
    add("--metrics", default=",".join(defaults.metrics), help="the first one ranks (default: %(default)s)")
    add("--method", choices=get_args(Method), default=defaults.method, help="(default: %(default)s)")
    add("--repeats", type=int, default=defaults.repeats, help="draws (default: %(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    add("--umap", default="21,24,25", metavar="LIST", help="blocks to draw, or none (default: %(default)s)")
    add("--compare-head", type=Path, metavar="CHECKPOINT", help="a trained head, to set its block weights beside this")
    add_feature_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> list[str]:
    options = ProbeOptions(
        arguments.classes,
        arguments.clips,
        arguments.neighbours,
        tuple(arguments.metrics.split(",")),
        arguments.method,
        arguments.repeats,
        arguments.seed,
    )
    bundle = Bundle.load(bundle_path(arguments.bundle))
    drawn = [] if arguments.umap == "none" else [f"block_{item.strip()}" for item in arguments.umap.split(",")]
    drawn = [name for name in drawn if name in bundle.manifest.blocks]
    features, labels = clip_features(
        read_clips(arguments.data), bundle, arguments.cache, arguments.threads, quiet=arguments.quiet
    )
    result = probe(features, labels, options)
    lines = advice(result, _head_weights(arguments.compare_head))
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    title = f"{bundle.manifest.name} on {arguments.data.resolve().name}"
    write_text(out / "probe.csv", as_csv(result))
    write_text(out / "probe.md", as_markdown(result, f"Probe: {title}", options, lines))
    bars = {metric: (s.mean(axis=0), s.std(axis=0)) for metric, s in result.scores.items()}
    probe_bars(
        out / "probe.png", result.blocks, bars, 1 / result.classes,
        f"{title}: {result.classes} classes x {result.clips} clips", result.advised,
    )  # fmt: skip
    written = "probe.csv, probe.md, probe.png"
    if drawn:
        names = sorted(set(labels))[: options.classes]
        rows = np.flatnonzero(np.isin(labels, names))
        points = umap_points({name: features[name][rows] for name in drawn}, drawn, options.seed)
        scatter_grid(out / "umap.png", points, [labels[row] for row in rows], f"UMAP of block features: {title}")
        written += ", umap.png"
    notice = [f"{bundle.manifest.name}: {bundle.manifest.notice}"] if bundle.manifest.notice else []
    return [*notice, *lines, f"wrote {written} to {out}"]


def clip_features(
    clips: Clips, bundle: Bundle, cache: Path | None, threads: int, *, quiet: bool = True
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """One vector per clip and block, and the clips' classes; clips that cannot be read are left out."""
    table = read_features(clips.paths, bundle, cache, FeatureOptions(threads), quiet=quiet)
    features, places = table.per_recording()
    return features, [clips.labels[place] for place in places]


def _head_weights(path: Path | None) -> dict[str, float] | None:
    """The block weights that training noted in a checkpoint."""
    if path is None:
        return None
    from bce.export.heads.checkpoints import load_checkpoint

    facts = load_checkpoint(path).facts
    weights = facts.get("block_weights")
    if not isinstance(weights, dict):
        raise OptionsError(f"keeps no block weights, only {json.dumps(sorted(facts))}", path)
    return {str(name): float(value) for name, value in weights.items()}
