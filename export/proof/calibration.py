"""How much of a backbone may become int8, decided on the user's recordings: as much as keeps a stated quality."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from bce.engine.audio.reader import AudioReader
from bce.engine.errors import OptionsError, ParityError
from bce.engine.frontends.base import Frontend
from bce.engine.geometry import ChunkGrid, WindowSpec, plan_windows
from bce.engine.network.bundle import LOGITS
from bce.engine.network.sessions import open_session
from bce.export.proof.check_audio import recordings_in
from bce.export.proof.gates import relative_l2
from bce.export.proof.quantize import BlockOf, quantize_backbone
from bce.export.proof.running import run_each

RELATIVE_L2_LIMIT = 0.1
"""Of each output against fp32. A published dynamic int8 form of Perch v2 has a cosine of 0.9927, about 0.12, and then
gives another best class for 7 % of windows; below 0.1 the features are nearer than that."""
RANK_CORRELATION_LIMIT = 0.95
"""Spearman's, of each class' scores over the windows, averaged over the classes: macro ROC-AUC sees nothing else."""

MOST_WINDOWS = 96
FEWEST_WINDOWS = 8
MOST_RECORDINGS = 48

Arrays = dict[str, NDArray[np.float32]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Int8:
    """How a family's network may become int8.

    Attributes:
        first_blocks: where int8 may begin, fastest first.
        block_of: see :data:`bce.export.proof.quantize.BlockOf`.
    """

    first_blocks: tuple[int, ...]
    block_of: BlockOf


@dataclass(frozen=True)
class Quality:
    """An int8 backbone beside its fp32 form, on recordings, one window a call.

    Attributes:
        first_block: the first block with int8 convolutions.
        products: how many convolutions and products are int8.
        windows: how many were compared.
        relative_l2: of each output, and of a trained head's "logits".
        rank_correlation: Spearman's of each class' scores over the windows, averaged; None without scores.
    """

    first_block: int
    products: int
    windows: int
    relative_l2: dict[str, float]
    rank_correlation: float | None

    @property
    def passed(self) -> bool:
        """Whether the stated quality is there; NaN is a miss."""
        near = all(value <= RELATIVE_L2_LIMIT for value in self.relative_l2.values())
        return near and (self.rank_correlation is None or self.rank_correlation >= RANK_CORRELATION_LIMIT)

    def __str__(self) -> str:
        name, worst = max(self.relative_l2.items(), key=lambda item: item[1])
        ranks = "" if self.rank_correlation is None else f", rank correlation {self.rank_correlation:.4f}"
        return f"int8 from block {self.first_block}: {name} relative L2 {worst:.3f}{ranks} on {self.windows} windows"

    def to_dict(self) -> dict[str, Any]:
        """For ``parity.json``."""
        limits = {"relative_l2": RELATIVE_L2_LIMIT, "rank_correlation": RANK_CORRELATION_LIMIT}
        return asdict(self) | {"limits": limits}


def quantize_within_limits(
    backbone: Path,
    out: Path,
    inputs: NDArray[np.float32],
    int8: Int8,
    scores: str | None = None,
    head: Path | None = None,
    say: Say = lambda line: None,
) -> Quality:
    """Write the fastest int8 form of a backbone that keeps the stated quality.

    Args:
        backbone: the fp32 graph.
        out: where the int8 graph goes.
        inputs: float32 [windows, *shape of one], see :func:`calibration_inputs`.
        int8: what may become int8.
        scores: the backbone's output that is the scores; None without one.
        head: a trained head, whose logits are then the scores.
        say: takes a line for each form tried.

    Raises:
        ParityError: no form keeps it; nothing was written.
    """
    scores = scores if head is None else LOGITS
    expected = _outputs(backbone, head, inputs)
    for first_block in int8.first_blocks:
        products = quantize_backbone(backbone, out, first_block, int8.block_of)
        quality = compare(_outputs(out, head, inputs), expected, first_block, products, scores)
        say(f"{quality}{'' if quality.passed else ': too far from fp32'}")
        if quality.passed:
            return quality
    out.unlink()
    raise ParityError(
        f"int8 is too far from fp32 on these recordings, however little of it ({quality}; allowed "
        f"{RELATIVE_L2_LIMIT:g} and {RANK_CORRELATION_LIMIT:g}): export with --precision fp32",
        backbone,
    )


def compare(
    found: Mapping[str, NDArray[np.float32]],
    expected: Mapping[str, NDArray[np.float32]],
    first_block: int,
    products: int,
    scores: str | None,
) -> Quality:
    """int8 outputs beside fp32 ones, both by name, [windows, width]; ``scores`` names those whose order counts."""
    return Quality(
        first_block,
        products,
        len(next(iter(expected.values()))),
        {name: relative_l2(found[name], array) for name, array in expected.items()},
        None if scores is None else rank_correlation(found[scores], expected[scores]),
    )


def rank_correlation(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Spearman's correlation of each column, averaged over the columns [windows, classes] that vary in ``expected``.

    A column that is constant only in ``found`` counts as 0; NaN when none varies.
    """
    varies = np.ptp(expected, axis=0) > 0
    if not varies.any():
        return float("nan")
    ranks = [rankdata(scores[:, varies], axis=0) for scores in (found, expected)]
    one, other = (rank - rank.mean(axis=0) for rank in ranks)
    scale = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return float(np.divide((one * other).sum(axis=0), scale, out=np.zeros_like(scale), where=scale > 0).mean())


def calibration_inputs(
    paths: Sequence[str | os.PathLike[str]], window: WindowSpec, frontend: Frontend
) -> NDArray[np.float32]:
    """Network inputs float32 [windows, *shape of one] of recordings, decoded and prepared as the engine does it.

    At most 48 recordings, spread evenly over those found, and about 96 windows, spread evenly over their audio blocks.

    Raises:
        AudioError: a folder holds no recordings, or a recording cannot be read.
        OptionsError: a path is missing, or there are fewer than 8 windows.
    """
    files = [file for path in paths for file in recordings_in(path)]
    spread = np.unique(np.linspace(0, len(files) - 1, min(len(files), MOST_RECORDINGS)).round().astype(int))
    each = max(1, MOST_WINDOWS // len(spread)) if len(spread) else 0
    inputs = [one for place in spread for one in _inputs(files[place], each, window, frontend)]
    if len(inputs) < FEWEST_WINDOWS:
        raise OptionsError(
            f"--calibrate: {len(inputs)} windows of {window.window_s:g} s, at least {FEWEST_WINDOWS} are needed"
        )
    return np.stack(inputs)


def _inputs(path: Path, most: int, window: WindowSpec, frontend: Frontend) -> Iterator[NDArray[np.float32]]:
    grid = ChunkGrid(window.window_s)
    with AudioReader(path, window.sample_rate, grid) as reader:
        for block in reader:
            starts = plan_windows(window, grid, block.first_chunk, block.chunks, (0.0,), block.total_samples).starts
            chosen = np.unique(np.linspace(0, len(starts) - 1, min(len(starts), most)).round().astype(int))
            opened = frontend.open(block.samples, block.start_sample)
            for start in starts[chosen]:
                out = np.empty(frontend.shape, np.float32)
                opened.window(int(start), out)
                yield out
            most -= len(chosen)
            if most <= 0:
                return


def _outputs(backbone: Path, head: Path | None, inputs: NDArray[np.float32]) -> Arrays:
    """Every output of a backbone one window at a time, and the logits of a trained head."""
    session = open_session(backbone)
    names = [output.name for output in session.get_outputs()]
    (entry,) = (node.name for node in session.get_inputs())
    rows = run_each(lambda one: session.run(names, {entry: one[None]}), inputs)
    arrays = {name: np.concatenate([row[place] for row in rows]) for place, name in enumerate(names)}
    if head is not None:
        trained = open_session(head)
        features = {node.name: arrays[node.name] for node in trained.get_inputs()}
        arrays[LOGITS] = trained.run([LOGITS], features)[0]
    return arrays
