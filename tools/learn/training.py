"""Training of heads on block features: folds by recording, soundscapes in every batch, early stop on macro AUC.

The recipe is the one that the BirdCLEF+ 2026 system behind this project was trained with (frozen backbone, BCE, a fifth
of each batch from labelled soundscapes), see ``docs/training.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bce.export.heads.modules import AttentionHead, Head, ScalarMixHead, build_head
from bce.tools.learn.examples import Examples, split
from bce.tools.learn.options import TrainOptions
from bce.tools.metrics import macro_auc

Log = Callable[[dict[str, Any]], None]
FEWEST_STEPS = 20
"""Batches of an epoch; with few rows more than one look at each."""


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
    """Train one head without each fold, in turn, on the threads that torch is set to.

    Args:
        examples: what to learn from.
        options: how.
        log: takes ``{"fold", "epoch", "loss", "auc", "learning_rate"}`` after each epoch.

    Raises:
        OptionsError: the folds cannot be made.
    """
    fold = split(examples, options.folds, options.group_by, options.seed)
    for number in range(options.folds):
        left_out = np.flatnonzero(fold == number)
        yield train_one(examples, left_out, options.seeded(number), log, number)


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
