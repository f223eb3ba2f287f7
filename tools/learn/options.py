"""How heads and backbones are trained. Nothing here loads torch: ``--help`` reads the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from bce.engine.errors import OptionsError
from bce.tools.ranges import LARGEST_SEED, MOST_THREADS, check_ranges

if TYPE_CHECKING:
    from bce.export.heads.modules import HeadConfig

GroupBy = Literal["recording", "site"]

SMALLEST_RATE, LARGEST_RATE = 1e-8, 10.0
"""Of learning: outside of these AdamW stands still or diverges."""

WIDEST_HEAD = 16_384


def _default_head() -> HeadConfig:
    from bce.export.heads.modules import HeadConfig

    return HeadConfig()


@dataclass(frozen=True)
class TrainOptions:
    """How heads are trained.

    Attributes:
        head: kind and sizes.
        folds: parts that the recordings are split into; one head is trained without each.
        group_by: what stays in one fold: a recording, or all soundscapes of a site.
        epochs: at most; the learning rate falls as a cosine over all of them.
        patience: epochs without a better macro AUC on the fold left out, after which training stops.
        batch: rows.
        soundscape_share: of each batch, where there are both clips and soundscapes.
        balanced: draw focal clips so that each class is met equally often.
        mixup: parameter of the Beta distribution of mixup; 0 for none.
        learning_rate, weight_decay: of AdamW.
        score_heads: so many heads, each from a training with other seeds, score a row out of fold, by their mean.
        seed: of folds, weights and batches.
        threads: of torch.
    """

    head: HeadConfig = field(default_factory=_default_head)
    folds: int = 5
    group_by: GroupBy = "recording"
    epochs: int = 30
    patience: int = 8
    batch: int = 128
    soundscape_share: float = 0.2
    balanced: bool = True
    mixup: float = 0.0
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    score_heads: int = 1
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        check_ranges(
            self,
            folds=(2, 1000),
            epochs=(1, 100_000),
            patience=(1, 100_000),
            batch=(2, 1_000_000),
            soundscape_share=(0, 1),
            mixup=(0, 100),
            learning_rate=(SMALLEST_RATE, LARGEST_RATE),
            weight_decay=(0, 1),
            score_heads=(1, 1000),
            seed=(0, LARGEST_SEED),
            threads=(1, MOST_THREADS),
        )
        check_ranges(self.head, d=(1, WIDEST_HEAD), ffn=(1, WIDEST_HEAD))
        if self.group_by not in get_args(GroupBy):
            raise OptionsError(f"folds by {self.group_by!r}: choose {' or '.join(get_args(GroupBy))}")

    def seeded(self, number: int) -> TrainOptions:
        """The same with the seed that comes so many after its own; after the largest comes 0."""
        return replace(self, seed=(self.seed + number) % (LARGEST_SEED + 1))


@dataclass(frozen=True)
class BackboneOptions:
    """How to train.

    Attributes:
        width: of the network, see :func:`bce.export.perch.architecture.architecture`; Perch's own is 1.2.
        steps: batches.
        batch: windows in a batch, half of them from soundscapes where there are both.
        learning_rate: the highest of a one-cycle schedule.
        weight_decay: of AdamW.
        mix: share of windows that another window is added to.
        gain_db: windows are made louder or softer by up to this much.
        held_out: every this many-th soundscape is kept for validation.
        checks: how often the validation AUC is taken.
        seed: of weights, batches and augmentation.
        threads: of torch.
    """

    width: float = 0.25
    steps: int = 640
    batch: int = 32
    learning_rate: float = 6e-3
    weight_decay: float = 0.02
    mix: float = 0.5
    gain_db: float = 8.0
    held_out: int = 10
    checks: int = 8
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        from bce.export.perch.architecture import PERCH_WIDTH

        if not 0 < self.width <= PERCH_WIDTH:
            raise OptionsError(f"width is {self.width}, it must be above 0 and at most {PERCH_WIDTH}")
        check_ranges(
            self,
            steps=(1, 10_000_000),
            batch=(2, 100_000),
            learning_rate=(SMALLEST_RATE, LARGEST_RATE),
            weight_decay=(0, 1),
            mix=(0, 1),
            gain_db=(0, 60),
            held_out=(2, 1_000_000),
            checks=(1, 10_000_000),
            seed=(0, LARGEST_SEED),
            threads=(1, MOST_THREADS),
        )
