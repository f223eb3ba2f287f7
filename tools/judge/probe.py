"""Which blocks of a network tell classes apart, by nearest neighbours, before anything is trained.

Each clip is one vector per block: the mean of its chunks' pooled features. A clip is right when the vote of its 5
nearest other clips names its class. No training, so nothing but the features can be good or bad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.tools.judge.options import Metric, ProbeOptions

MOST_ADVISED = 3
WORTH = 0.005
"""Top-1 that a further block must add to be advised."""


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
