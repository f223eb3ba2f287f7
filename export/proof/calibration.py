"""How much of a backbone may become int8, decided on the user's recordings: as much as keeps a stated quality."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from scipy.stats import rankdata

from bce.engine.audio.reader import AudioReader
from bce.engine.errors import OptionsError, ParityError
from bce.engine.frontends.perch import Frontend, Preparation
from bce.engine.geometry import plan_windows
from bce.export.commands.options import LABEL
from bce.export.proof.check_audio import recordings_in
from bce.export.proof.comparison import relative_l2
from bce.export.proof.quantize import quantize_backbone

FIRST_BLOCKS = (8, 14, 19)
"""Where int8 may begin, fastest first. Before block 8 a window's maps are large and their channels few: int8 saves no
time there and makes most of the error."""

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
    log_mels: NDArray[np.float32],
    head: Path | None = None,
    say: Say = lambda line: None,
) -> Quality:
    """Write the fastest int8 form of a backbone that keeps the stated quality.

    Args:
        backbone: the fp32 graph.
        out: where the int8 graph goes.
        log_mels: float32 [windows, 500, 128], see :func:`calibration_windows`.
        head: a trained head, whose logits are then the scores.
        say: takes a line for each form tried.

    Raises:
        ParityError: no form keeps it; nothing was written.
    """
    expected = _outputs(backbone, head, log_mels)
    for first_block in FIRST_BLOCKS:
        products = quantize_backbone(backbone, out, first_block)
        quality = compare(_outputs(out, head, log_mels), expected, first_block, products)
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
) -> Quality:
    """int8 outputs beside fp32 ones, both by name, [windows, width]."""
    scores = next((name for name in ("logits", LABEL) if name in expected), None)
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


def calibration_windows(paths: Sequence[str | os.PathLike[str]], preparation: Preparation) -> NDArray[np.float32]:
    """log-mel windows float32 [windows, 500, 128] of recordings, decoded and prepared as the engine does it.

    At most 48 recordings, spread evenly over those found, and about 96 windows, spread evenly over their audio blocks.

    Raises:
        AudioError: a path is missing or a recording cannot be read.
        OptionsError: there are fewer than 8 windows.
    """
    files = [file for path in paths for file in recordings_in(Path(path))]
    spread = np.unique(np.linspace(0, len(files) - 1, min(len(files), MOST_RECORDINGS)).round().astype(int))
    each = max(1, MOST_WINDOWS // len(spread)) if len(spread) else 0
    windows = [window for place in spread for window in _windows(files[place], each, preparation)]
    if len(windows) < FEWEST_WINDOWS:
        raise OptionsError(f"--calibrate: {len(windows)} windows of 5 s, at least {FEWEST_WINDOWS} are needed")
    return np.stack(windows)


def _windows(path: Path, most: int, preparation: Preparation) -> Iterator[NDArray[np.float32]]:
    with AudioReader(path) as reader:
        for block in reader:
            starts = plan_windows(block.first_chunk, block.chunks, (0.0,), block.total_samples).starts
            chosen = np.unique(np.linspace(0, len(starts) - 1, min(len(starts), most)).round().astype(int))
            frontend = Frontend(block.samples, preparation, block.start_sample)
            for start in starts[chosen]:
                yield frontend.window(int(start))
            most -= len(chosen)
            if most <= 0:
                return


def _outputs(backbone: Path, head: Path | None, log_mels: NDArray[np.float32]) -> Arrays:
    """Every output of a backbone one window at a time, and the logits of a trained head."""
    session = _session(backbone)
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {"log_mel": window[None]}) for window in log_mels]
    arrays = {name: np.concatenate([row[place] for row in rows]) for place, name in enumerate(names)}
    if head is not None:
        trained = _session(head)
        features = {node.name: arrays[node.name] for node in trained.get_inputs()}
        arrays["logits"] = trained.run(["logits"], features)[0]
    return arrays


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
