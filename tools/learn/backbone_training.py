"""Training of a small network of Perch v2's layout from scratch, on labelled windows.

The network learns to name the species of windows: a linear layer on the means of the tapped blocks' maps, and one on
the embedding, under binary cross-entropy. Both layers are thrown away. What is kept is the backbone, written as an ONNX
file with the structure of Perch's published one, so that ``bce-export`` reads it like any other.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from bce.export.perch.architecture import architecture
from bce.export.perch.backbone import Backbone, extract, pooled
from bce.export.perch.published_graph import write_onnx
from bce.tools.learn.augment import Batch, augment, draw
from bce.tools.learn.backbone_windows import TrainingWindows, Windows
from bce.tools.learn.options import BackboneOptions
from bce.tools.learn.torch_settings import torch_set_to
from bce.tools.metrics import macro_auc

TAPS = (21, 24, 25)


class Classifier(nn.Module):
    """A backbone under two linear layers: one on the means of the tapped blocks, one on the embedding."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        blocks = backbone.architecture.blocks
        self.backbone = backbone
        self.norm = nn.BatchNorm1d(sum(blocks[tap].out_channels for tap in TAPS))
        self.on_taps = nn.Linear(self.norm.num_features, classes)
        self.on_embedding = nn.Linear(backbone.architecture.head_channels, classes)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone.block_maps(inputs)
        taps = torch.cat([pooled(maps[tap]) for tap in TAPS], dim=1)
        return self.on_taps(self.norm(taps)), self.on_embedding(pooled(self.backbone.head(maps[-1])))


def masked_bce(logits: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy over what is known."""
    loss = F.binary_cross_entropy_with_logits(logits, batch.present.float(), reduction="none")
    return (loss * batch.known).sum() / batch.known.sum()


@torch.no_grad()
def scores(model: Classifier, windows: Windows, batch: int = 16) -> NDArray[np.float32]:
    """The logits of the tapped blocks' layer, float32 [windows, classes], in evaluation mode."""
    model.eval()
    parts = [
        model(torch.from_numpy(windows.inputs[at : at + batch].astype(np.float32)))[0].numpy()
        for at in range(0, len(windows), batch)
    ]
    model.train()
    return np.concatenate(parts)


def train_backbone(
    windows: TrainingWindows,
    options: BackboneOptions,
    after_check: Callable[[Backbone, dict[str, float]], None] = lambda backbone, figures: None,
    *,
    quiet: bool = True,
) -> tuple[Backbone, float]:
    """Train a backbone.

    Args:
        windows: to learn from and to judge by.
        options: how.
        after_check: called with the backbone and the figures at each validation.
        quiet: show no progress.

    Returns:
        The backbone in evaluation mode, and the macro AUC on the held-out soundscapes (NaN without any).
    """
    _keep_freed_memory()
    with torch_set_to(options.threads, flush_denormal=True):
        return _train(windows, options, after_check, quiet)


def _train(
    windows: TrainingWindows,
    options: BackboneOptions,
    after_check: Callable[[Backbone, dict[str, float]], None],
    quiet: bool,
) -> tuple[Backbone, float]:
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    held = windows.held
    model = Classifier(Backbone(architecture(options.width)), windows.sources[0].present.shape[1])
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.steps, pct_start=0.2
    )
    model.train()
    auc, losses, began = float("nan"), [], time.monotonic()
    with tqdm(total=options.steps, unit="batch", disable=True if quiet else None) as bar:
        for step in range(1, options.steps + 1):
            batch = augment(draw(windows.sources, windows.balance, options.batch, rng), options, rng)
            on_taps, on_embedding = model(batch.inputs)
            loss = masked_bce(on_taps, batch) + 0.5 * masked_bce(on_embedding, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.update()
            if step * options.checks // options.steps > (step - 1) * options.checks // options.steps:
                if held is not None:
                    auc = macro_auc(held.present, scores(model, held))
                figures = {"step": step, "loss": float(np.mean(losses)), "auc": auc, "s": time.monotonic() - began}
                bar.set_postfix(loss=figures["loss"], auc=auc)
                losses.clear()
                after_check(model.backbone, figures)
    return model.backbone.eval(), auc


def _keep_freed_memory() -> None:
    """Let glibc reuse large blocks: fresh pages for every activation cost a fifth of the time."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def write_source(backbone: Backbone, path: Path, notice: str, licence: str = "") -> None:
    """Write a backbone as a file of the published structure, without a classifier."""
    training = backbone.training
    path.parent.mkdir(parents=True, exist_ok=True)
    write_onnx(extract(backbone.eval()), path, notice=notice, licence=licence)
    backbone.train(training)
