"""One style for all pictures: Okabe and Ito's colours, which tell apart under any colour vision, few lines, units."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bce.engine.files import beside

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito 2008, the darker ones first."""
GREY = "#8A8A8A"
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")

_STYLE = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#5A5A5A",
    "legend.frameon": False,
    "figure.dpi": 130.0,
    "savefig.dpi": 130.0,
    "axes.prop_cycle": cycler(color=COLOURS),
}


@contextmanager
def picture(path: str | os.PathLike[str], width: float, height: float) -> Iterator[Figure]:
    """A figure in the house's style, written as PNG beside ``path`` and renamed when it is done.

    Args:
        path: of the PNG.
        width, height: in inches, at 130 dots an inch.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with beside(path) as partial:
            figure.savefig(partial, format="png")


def probe_bars(
    path: str | os.PathLike[str],
    blocks: Sequence[str],
    scores: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    chance: float,
    title: str,
    chosen: Sequence[str] = (),
) -> None:
    """Top-1 of each block as bars, with the spread over repeats; chosen blocks are marked.

    Args:
        path: of the PNG.
        blocks: names, in the order of the network.
        scores: mean and standard deviation per block, by name of the metric.
        chance: top-1 of guessing.
        title: says on what.
        chosen: blocks to tap.
    """
    with picture(path, max(5.0, 1.5 + 0.36 * len(blocks)), 4.0) as figure:
        axes = figure.subplots()
        x = np.arange(len(blocks))
        bar = 0.8 / len(scores)
        for number, (metric, (mean, spread)) in enumerate(scores.items()):
            at = x + (number - (len(scores) - 1) / 2) * bar
            axes.bar(at, mean, bar, yerr=spread, color=COLOURS[number], label=metric,
                     error_kw={"elinewidth": 1, "ecolor": "#303030"})  # fmt: skip
        axes.axhline(chance, color=GREY, linestyle="--", linewidth=1, label="chance")
        top = max(float((mean + spread).max()) for mean, spread in scores.values())
        for name in chosen:
            axes.annotate("★", (list(blocks).index(name), top + 0.02), ha="center", va="bottom", color=COLOURS[3])
        axes.set_xticks(x, [name.removeprefix("block_") for name in blocks])
        axes.set_ylim(0, min(1.1, top + 0.12))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("block" + (" (★: advised)" if chosen else ""))
        axes.set_ylabel("5-NN top-1 (share of clips)")
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=len(scores) + 1)


def scatter_grid(
    path: str | os.PathLike[str],
    points: Mapping[str, NDArray[np.float32]],
    labels: Sequence[str],
    title: str,
) -> None:
    """A panel of 2-D points per block, coloured and marked by class, with one legend.

    Args:
        path: of the PNG.
        points: float32 [n, 2] by the panel's title.
        labels: the class of each point.
        title: above all panels.
    """
    names = list(dict.fromkeys(sorted(labels)))
    looks = [(COLOURS[i % 7], MARKERS[i // 7 % len(MARKERS)]) for i in range(len(names))]
    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    with picture(path, 4.2 * columns + 1.8, 4.0 * rows + 0.6) as figure:
        panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        of = np.array(labels)
        for axes, (name, xy) in zip(panels, points.items(), strict=False):
            for label, (colour, marker) in zip(names, looks, strict=True):
                mine = of == label
                axes.scatter(*xy[mine].T, s=22, c=colour, marker=marker, alpha=0.85, linewidths=0.4, edgecolors="white",
                             label=label)  # fmt: skip
            axes.set_title(name)
            _no_units(axes)
        for axes in panels[len(points) :]:
            axes.set_visible(False)
        handles, texts = panels[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside right upper", fontsize=8, ncols=-(-len(names) // 32))
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")


def _no_units(axes: Axes) -> None:
    """UMAP's axes have none."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("UMAP 1 (no unit)", color=GREY, fontsize=8)
    axes.set_ylabel("UMAP 2 (no unit)", color=GREY, fontsize=8)


def curves(path: str | os.PathLike[str], log: Sequence[Mapping[str, Any]], title: str) -> None:
    """Loss and macro AUC over epochs, a line per fold.

    Args:
        path: of the PNG.
        log: ``{"fold", "epoch", "loss", "auc"}`` per epoch.
        title: above both panels.
    """
    with picture(path, 8.6, 3.6) as figure:
        left, right = figure.subplots(1, 2)
        for fold in sorted({line["fold"] for line in log}):
            mine = [line for line in log if line["fold"] == fold]
            epochs = [line["epoch"] for line in mine]
            colour = COLOURS[fold % len(COLOURS)]
            left.plot(epochs, [line["loss"] for line in mine], color=colour, label=f"fold {fold + 1}")
            auc = [line["auc"] for line in mine]
            right.plot(epochs, auc, color=colour)
            best = int(np.nanargmax(auc)) if np.isfinite(auc).any() else 0
            right.plot(epochs[best], auc[best], "o", color=colour, markersize=5)
        left.set_title("loss on the training rows")
        left.set_ylabel("binary cross-entropy (nats per class)")
        right.set_title("fold left out (dot: kept)")
        right.set_ylabel("macro ROC-AUC")
        for axes in (left, right):
            axes.set_xlabel("epoch")
        figure.legend(loc="outside right upper")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
