"""Training of heads on block features: folds by recording, soundscapes in every batch, early stop on macro AUC.

The recipe is the one that the BirdCLEF+ 2026 system behind this project was trained with (frozen backbone, BCE, a fifth
of each batch from labelled soundscapes), see ``docs/training.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bce.engine.errors import OptionsError
from bce.export.heads.checkpoints import AttentionHead, Head, HeadConfig, ScalarMixHead, build_head
from bce.tools.metrics import macro_auc

GroupBy = Literal["recording", "site"]
Log = Callable[[dict[str, Any]], None]
FEWEST_STEPS = 20
"""Batches of an epoch; with few rows more than one look at each."""


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
        seed: of folds, weights and batches.
        threads: of torch.
    """

    head: HeadConfig = field(default_factory=HeadConfig)
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
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        for name, low in (("folds", 2), ("epochs", 1), ("patience", 1), ("batch", 2), ("seed", 0), ("threads", 1)):
            if getattr(self, name) < low:
                raise OptionsError(f"{name} is {getattr(self, name)}, it must be at least {low}")
        if not 0 <= self.soundscape_share <= 1:
            raise OptionsError(f"soundscape share is {self.soundscape_share}, it must be 0 to 1")
        if self.mixup < 0:
            raise OptionsError(f"mixup is {self.mixup}, it must be 0 or more")
        if self.group_by not in get_args(GroupBy):
            raise OptionsError(f"folds by {self.group_by!r}: choose {' or '.join(get_args(GroupBy))}")


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled rows to learn from, a chunk each.

    Attributes:
        features: float32 [rows, width] by block, in the order that the head takes them.
        present: bool [rows, classes].
        known: bool [rows, classes]: where ``present`` is to be believed.
        recording: int64 [rows], any number that tells recordings apart.
        site: of each row; "" where it is not known.
        soundscape: bool [rows]: rows of soundscapes, labelled window by window; the others are of focal clips.
    """

    features: dict[str, NDArray[np.float32]]
    present: NDArray[np.bool_]
    known: NDArray[np.bool_]
    recording: NDArray[np.int64]
    site: NDArray[np.str_]
    soundscape: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    @property
    def blocks(self) -> dict[str, int]:
        return {name: x.shape[1] for name, x in self.features.items()}

    @property
    def judged(self) -> NDArray[np.bool_]:
        """The rows that AUC is taken on: the soundscapes', or all where there are none."""
        return self.soundscape if self.soundscape.any() else np.ones(len(self), bool)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Examples:
        return Examples(
            {name: x[rows] for name, x in self.features.items()},
            self.present[rows],
            self.known[rows],
            self.recording[rows],
            self.site[rows],
            self.soundscape[rows],
        )

    @staticmethod
    def join(parts: Sequence[Examples]) -> Examples:
        """All rows of some examples with the same blocks and classes; their recordings stay apart."""
        above, recordings = 0, []
        for part in parts:
            recordings.append(part.recording + above)
            above += int(part.recording.max(initial=-1)) + 1
        return Examples(
            {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
            np.concatenate([part.present for part in parts]),
            np.concatenate([part.known for part in parts]),
            np.concatenate(recordings),
            np.concatenate([part.site for part in parts]),
            np.concatenate([part.soundscape for part in parts]),
        )


def split(examples: Examples, folds: int, by: GroupBy, seed: int) -> NDArray[np.int64]:
    """The fold of each row, int64 [rows], each group in one fold.

    Focal clips are dealt class by class, so that each fold has its share of each. Soundscapes are dealt at random, or
    by site with the largest site first to the smallest fold.

    Raises:
        OptionsError: there are fewer recordings, or fewer sites, than folds.
    """
    rng = np.random.default_rng([seed, folds])
    fold = np.zeros(len(examples), np.int64)
    _, first, of = np.unique(examples.recording, return_index=True, return_inverse=True)
    if len(first) < folds:
        raise OptionsError(f"{len(first)} recordings cannot make {folds} folds")
    order = rng.permutation(len(first))
    main = examples.present[first].argmax(axis=1)
    clips = [place for place in order if not examples.soundscape[first[place]]]
    soundscapes = [place for place in order if examples.soundscape[first[place]]]
    per_recording = np.zeros(len(first), np.int64)
    per_recording[sorted(clips, key=lambda place: main[place])] = np.arange(len(clips)) % folds
    per_recording[soundscapes] = np.arange(len(soundscapes)) % folds
    fold = per_recording[of]
    if by == "site" and examples.soundscape.any():
        sites, count = np.unique(examples.site[examples.soundscape], return_counts=True)
        if len(sites) < folds:
            raise OptionsError(f"{len(sites)} sites cannot make {folds} folds")
        size = np.zeros(folds, np.int64)
        for place in np.argsort(-count, kind="stable"):
            smallest = int(size.argmin())
            size[smallest] += count[place]
            fold[examples.soundscape & (examples.site == sites[place])] = smallest
    return fold


def tensors(examples: Examples) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(x)) for x in examples.features.values()]


@torch.no_grad()
def logits_of(head: Head, examples: Examples) -> NDArray[np.float32]:
    """The head's logits, float32 [rows, classes], in evaluation mode."""
    head.eval()
    return head(tensors(examples)).numpy()


@dataclass(frozen=True, eq=False)
class FoldResult:
    """A trained head.

    Attributes:
        head: with the weights of its best epoch, in evaluation mode.
        auc: macro AUC on the rows left out that are judged.
        epoch: the best one, from 1.
        rows: the rows left out, int64.
        logits: of those, float32 [rows, classes].
    """

    head: Head
    auc: float
    epoch: int
    rows: NDArray[np.int64]
    logits: NDArray[np.float32]


def train_folds(examples: Examples, options: TrainOptions, log: Log = lambda line: None) -> Iterator[FoldResult]:
    """Train one head without each fold, in turn.

    Args:
        examples: what to learn from.
        options: how.
        log: takes ``{"fold", "epoch", "loss", "auc", "learning_rate"}`` after each epoch.

    Raises:
        OptionsError: the folds cannot be made.
    """
    fold = split(examples, options.folds, options.group_by, options.seed)
    torch.set_num_threads(options.threads)
    for number in range(options.folds):
        left_out = np.flatnonzero(fold == number)
        yield train_one(examples, left_out, replace(options, seed=options.seed + number), log, number)


def train_one(
    examples: Examples, left_out: NDArray[np.int64], options: TrainOptions, log: Log = lambda line: None, fold: int = 0
) -> FoldResult:
    """Train one head on all rows but some, and stop early on those."""
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    kept = np.setdiff1d(np.arange(len(examples)), left_out)
    train, held = examples.take(kept), examples.take(left_out)
    judged = held.judged
    head = build_head(options.head, tuple(examples.blocks.values()), examples.present.shape[1])
    inputs = tensors(train)
    head.fit(inputs)
    present = torch.from_numpy(train.present.astype(np.float32))
    known = torch.from_numpy(train.known.astype(np.float32))
    steps = max(FEWEST_STEPS, math.ceil(len(train) / options.batch))
    optimizer = torch.optim.AdamW(head.parameters(), options.learning_rate, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * steps)
    sampler = Sampler(train, options)
    best = (-1.0, 0, head.state_dict())
    for epoch in range(1, options.epochs + 1):
        head.train()
        losses = []
        for _ in range(steps):
            rows = torch.from_numpy(sampler.draw(rng))
            x, y, w = [f[rows] for f in inputs], present[rows], known[rows]
            if options.mixup:
                x, y, w = _mixed(x, y, w, options.mixup, rng)
            loss = F.binary_cross_entropy_with_logits(head(x), y, reduction="none")
            loss = (loss * w).sum() / w.sum().clamp_min(1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        auc = macro_auc(held.present[judged], logits_of(head, held)[judged])
        log({"fold": fold, "epoch": epoch, "loss": float(np.mean(losses)), "auc": auc,
             "learning_rate": schedule.get_last_lr()[0]})  # fmt: skip
        if auc > best[0]:
            best = (auc, epoch, {name: value.clone() for name, value in head.state_dict().items()})
        elif epoch - best[1] >= options.patience:
            break
    head.load_state_dict(best[2])
    return FoldResult(head.eval(), best[0], best[1], left_out, logits_of(head, held))


class Sampler:
    """Rows of batches: a share from soundscapes, the rest from focal clips, balanced by class where that is wanted."""

    def __init__(self, examples: Examples, options: TrainOptions) -> None:
        self._soundscapes = np.flatnonzero(examples.soundscape)
        self._clips = np.flatnonzero(~examples.soundscape)
        share = options.soundscape_share
        if not len(self._soundscapes) or not len(self._clips):
            share = float(len(self._soundscapes) > 0)
        self._from_soundscapes = round(share * options.batch)
        self._from_clips = options.batch - self._from_soundscapes
        present = examples.present[self._clips]
        weight = (
            (present / np.maximum(present.sum(axis=0), 1)).sum(axis=1) if options.balanced else np.ones(len(present))
        )
        self._weight = weight / weight.sum() if weight.sum() else None

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The rows of one batch, with replacement."""
        rows = []
        if self._from_soundscapes:
            rows.append(rng.choice(self._soundscapes, self._from_soundscapes))
        if self._from_clips:
            rows.append(rng.choice(self._clips, self._from_clips, p=self._weight))
        return np.concatenate(rows)


def _mixed(
    x: list[Tensor], y: Tensor, w: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): each row with another by a share from Beta(alpha, alpha); what is not known in either
    is not known."""
    share = torch.from_numpy(rng.beta(alpha, alpha, (len(y), 1)).astype(np.float32))
    other = torch.from_numpy(rng.permutation(len(y)))
    mixed = [share * f + (1 - share) * f[other] for f in x]
    return mixed, share * y + (1 - share) * y[other], w * w[other]


@torch.no_grad()
def block_weights(head: Head, examples: Examples) -> dict[str, float]:
    """How much a trained head takes from each block, summing to 1.

    Of a scalar mix, its softmax weights. Of attention, what [CLS] attends to each block's token: the mean over rows and
    attention heads, without its look at itself.
    """
    head.eval()
    if isinstance(head, ScalarMixHead):
        weights = head.block_weights()
    else:
        assert isinstance(head, AttentionHead)
        x = head.standardised(tensors(examples))
        tokens = torch.stack([token(block) for token, block in zip(head.tokens, x, strict=True)], dim=1)
        cls = head.cls.expand(len(examples), 1, -1)
        tokens = head.norm_attention(torch.cat([cls, tokens + head.block_embedding], dim=1))
        shape = (head.config.heads, head.config.d // head.config.heads)
        query = head.query(tokens[:, :1]).unflatten(2, shape).transpose(1, 2)
        key = head.key_value(tokens).chunk(2, dim=2)[0].unflatten(2, shape).transpose(1, 2)
        attention = (query @ key.transpose(2, 3) * shape[1] ** -0.5).softmax(dim=3)
        weights = attention[:, :, 0, 1:].mean(dim=(0, 1))
        weights = weights / weights.sum()
    return {name: float(weight) for name, weight in zip(examples.features, weights, strict=True)}
