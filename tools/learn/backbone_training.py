"""``bce-tools backbone``: train a small network of Perch v2's 26-block layout from scratch, on labelled recordings.

The network learns to name the species of 5-s windows: a linear layer on the means of the tapped blocks' maps, and one
on the embedding, under binary cross-entropy. Both layers are thrown away. What is kept is the backbone, written as
an ONNX file with the structure of Perch's published one, so that ``bce-export`` reads it like any other.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from bce.engine.audio.reader import AudioReader
from bce.engine.errors import OptionsError
from bce.engine.frontends.perch import LOWEST, Frontend, Preparation
from bce.engine.geometry import CHUNK_SAMPLES
from bce.engine.run.engine import usable_cpus
from bce.export.perch.architecture import PERCH_WIDTH, architecture
from bce.export.perch.backbone import Backbone, extract, pooled
from bce.export.perch.published_graph import write_onnx
from bce.tools.data.datasets import Clips, Dataset, Soundscapes, read_dataset
from bce.tools.metrics import macro_auc

TAPS = (21, 24, 25)
CLIP_CHUNKS = 6
"""Chunks of a focal clip that are used: its first 30 s."""

_NEPER_PER_DB = 0.1 * math.log(10) / 20
"""What 1 dB is in Perch's log-mel: a tenth of the natural logarithm of the magnitude."""

Say = Callable[[str], None]


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
        if not 0 < self.width <= PERCH_WIDTH:
            raise OptionsError(f"width is {self.width}, it must be above 0 and at most {PERCH_WIDTH}")
        for name, low in (("steps", 1), ("batch", 2), ("held_out", 2), ("checks", 1), ("threads", 1)):
            if getattr(self, name) < low:
                raise OptionsError(f"{name} is {getattr(self, name)}, it must be at least {low}")


@dataclass(frozen=True, eq=False)
class Windows:
    """Labelled windows in memory, 128 kB each.

    Attributes:
        log_mel: float16 [windows, 500, 128].
        present: bool [windows, classes].
        known: bool [windows, classes]: where ``present`` is to be believed. A focal clip's other species sing
            somewhere in it, not in each of its windows.
    """

    log_mel: NDArray[np.float16]
    present: NDArray[np.bool_]
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.present)

    def take(self, rows: NDArray[np.integer]) -> Windows:
        return Windows(self.log_mel[rows], self.present[rows], self.known[rows])


def chunks_of(path: Path, limit: int | None = None, preparation: Preparation = "none") -> NDArray[np.float16]:
    """The log-mel of a recording's chunks, float16 [chunks, 500, 128]; a last chunk that is mostly padding is left out.

    Raises:
        AudioError: the recording cannot be read.
    """
    windows: list[NDArray[np.float32]] = []
    with AudioReader(path) as reader:
        for block in reader:
            frontend = Frontend(block.samples, preparation, block.start_sample)
            windows += [
                frontend.window((block.first_chunk + chunk) * CHUNK_SAMPLES)
                for chunk in range(block.chunks)
                if limit is None or block.first_chunk + chunk < limit
            ]
            if limit is not None and len(windows) >= limit:
                break
        whole = max(1, round(reader.delivered_s / 5))
    return np.stack(windows[:whole]).astype(np.float16)


def clip_windows(clips: Clips, classes: tuple[str, ...], *, quiet: bool = True) -> Windows:
    """The windows of focal clips: the class meant is there in each, those behind it are not known."""
    main, heard = clips.present(classes), clips.present(classes, secondary=True)
    parts = [chunks_of(path, CLIP_CHUNKS) for path in tqdm(clips.paths, unit="clip", disable=True if quiet else None)]
    of = np.repeat(np.arange(len(clips)), [len(part) for part in parts])
    return Windows(np.concatenate(parts), main[of], (~heard | main)[of])


def soundscape_windows(
    soundscapes: Soundscapes, classes: tuple[str, ...], *, quiet: bool = True
) -> tuple[Windows, NDArray[np.int64]]:
    """The labelled windows of soundscapes, and the place of each one's recording."""
    rows, parts = [], []
    chunk = soundscapes.windows.start_s // 5
    for place, path in enumerate(tqdm(soundscapes.paths, unit="recording", disable=True if quiet else None)):
        log_mel = chunks_of(path)
        own = np.flatnonzero(soundscapes.recording == place)
        own = own[chunk[own] < len(log_mel)]
        rows.append(own)
        parts.append(log_mel[chunk[own]])
    order = np.concatenate(rows)
    present = soundscapes.windows.present(classes)[order]
    return Windows(np.concatenate(parts), present, np.ones_like(present)), soundscapes.recording[order]


class Classifier(nn.Module):
    """A backbone under two linear layers: one on the means of the tapped blocks, one on the embedding."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        blocks = backbone.architecture.blocks
        self.backbone = backbone
        self.norm = nn.BatchNorm1d(sum(blocks[tap].out_channels for tap in TAPS))
        self.on_taps = nn.Linear(self.norm.num_features, classes)
        self.on_embedding = nn.Linear(backbone.architecture.head_channels, classes)

    def forward(self, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone.block_maps(log_mel)
        taps = torch.cat([pooled(maps[tap]) for tap in TAPS], dim=1)
        return self.on_taps(self.norm(taps)), self.on_embedding(pooled(self.backbone.head(maps[-1])))


@dataclass(frozen=True)
class Batch:
    """log_mel float32 [n, 500, 128]; present and known bool [n, classes]."""

    log_mel: Tensor
    present: Tensor
    known: Tensor


def draw(sources: list[Windows], balance: list[NDArray[np.float64]], batch: int, rng: np.random.Generator) -> Batch:
    """An equal share of each source, windows drawn by their weight in ``balance``."""
    shares = np.full(len(sources), batch // len(sources))
    shares[: batch % len(sources)] += 1
    parts = [
        source.take(rng.choice(len(source), share, replace=share > len(source), p=weight))
        for source, weight, share in zip(sources, balance, shares, strict=True)
    ]
    return Batch(
        torch.from_numpy(np.concatenate([part.log_mel for part in parts]).astype(np.float32)),
        torch.from_numpy(np.concatenate([part.present for part in parts])),
        torch.from_numpy(np.concatenate([part.known for part in parts])),
    )


def augment(batch: Batch, options: BackboneOptions, rng: np.random.Generator) -> Batch:
    """Turn windows around in time, add others to some, change their level, hide a band of some.

    Another window is added as sound is, power to power, after its background has been brought to about the same level;
    what is in either is then in both.
    """
    x, present, known = batch.log_mel, batch.present, batch.known
    n, frames, mels = x.shape
    x = torch.stack([row.roll(int(by), 0) for row, by in zip(x, rng.integers(frames, size=n), strict=True)])
    other = torch.from_numpy(rng.permutation(n))
    background = x.flatten(1).median(dim=1).values
    level = torch.from_numpy(rng.uniform(-6, 6, n).astype(np.float32)) * _NEPER_PER_DB
    second = x[other] + (background - background[other] + level)[:, None, None]
    mixed = torch.from_numpy(rng.random(n) < options.mix)
    x = torch.where(mixed[:, None, None], torch.logaddexp(20 * x, 20 * second) / 20, x)
    joined = present | present[other]
    known = torch.where(mixed[:, None], (known & known[other]) | joined, known)
    present = torch.where(mixed[:, None], joined, present)
    gain = rng.uniform(-options.gain_db, options.gain_db, n).astype(np.float32) * _NEPER_PER_DB
    x = x + torch.from_numpy(gain)[:, None, None]
    for row in np.flatnonzero(rng.random(n) < 0.3):
        low = int(rng.integers(mels - 10))
        x[row, :, low : low + int(rng.integers(3, 10))] = x[row].median()
    return Batch(x.clamp_min(LOWEST), present, known)


def masked_bce(logits: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy over what is known."""
    loss = F.binary_cross_entropy_with_logits(logits, batch.present.float(), reduction="none")
    return (loss * batch.known).sum() / batch.known.sum()


@torch.no_grad()
def scores(model: Classifier, windows: Windows, batch: int = 16) -> NDArray[np.float32]:
    """The logits of the tapped blocks' layer, float32 [windows, classes], in evaluation mode."""
    model.eval()
    parts = [
        model(torch.from_numpy(windows.log_mel[at : at + batch].astype(np.float32)))[0].numpy()
        for at in range(0, len(windows), batch)
    ]
    model.train()
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class TrainingWindows:
    """What a backbone learns from.

    Attributes:
        sources: windows of soundscapes and of focal clips, where there are some; a batch has an equal share of each.
        balance: the chance of each window of each source, float64 [windows].
        held: windows of soundscapes to judge by; None where there are none.
    """

    sources: list[Windows]
    balance: list[NDArray[np.float64]]
    held: Windows | None


def read_windows(data: Dataset, options: BackboneOptions, *, quiet: bool = True) -> TrainingWindows:
    """All labelled windows of a data set, into memory.

    Raises:
        OptionsError: the data set has nothing to train on.
    """
    classes = data.taxonomy.labels
    sources: list[Windows] = []
    balance: list[NDArray[np.float64]] = []
    held: Windows | None = None
    if data.train is not None:
        every, recording = soundscape_windows(data.train, classes, quiet=quiet)
        is_held = recording % options.held_out == options.held_out - 1
        held = every.take(np.flatnonzero(is_held)) if is_held.any() else None
        sources.append(every.take(np.flatnonzero(~is_held)))
        balance.append(np.full(len(sources[-1]), 1 / len(sources[-1])))
    if data.clips is not None:
        sources.append(clip_windows(data.clips, classes, quiet=quiet))
        present = sources[-1].present
        weight = (present / np.maximum(present.sum(axis=0), 1)).sum(axis=1)
        balance.append(weight / weight.sum())
    if not sources:
        raise OptionsError("has neither focal clips nor labelled soundscapes to train on", data.root)
    return TrainingWindows(sources, balance, held)


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
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    _keep_freed_memory()
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
            on_taps, on_embedding = model(batch.log_mel)
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


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bce-tools backbone``."""
    defaults = BackboneOptions()
    parser = subparsers.add_parser(
        "backbone",
        help="train a small backbone of Perch v2's layout",
        description="Train a small network of Perch v2's 26-block layout on labelled recordings, and write it as an "
        "ONNX file that bce-export reads like Perch's own. The log lies beside it.",
    )
    add: Callable[..., argparse.Action] = parser.add_argument
    add("data", type=Path, metavar="DIR", help="a data set in BirdCLEF layout")
    add("--out", type=Path, required=True, metavar="ONNX", help="the network")
    add("--notice", default="", help="shown wherever scores of this network are")
    add("--licence", default="", help="of this network, kept in the file")
    add("--width", type=float, default=defaults.width, help="of the network; Perch's is 1.2 (default: %(default)s)")
    add("--steps", type=int, default=defaults.steps, help="batches (default: %(default)s)")
    add("--batch", type=int, default=defaults.batch, help="windows in a batch (default: %(default)s)")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="the highest (default: %(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    add("--threads", type=int, default=min(defaults.threads, usable_cpus()), help="(default: %(default)s)")
    add("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> list[str]:
    options = BackboneOptions(
        width=arguments.width,
        steps=arguments.steps,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    out: Path = arguments.out
    log = [json.dumps({"options": asdict(options), "torch": torch.__version__})]

    def after_check(backbone: Backbone, figures: dict[str, float]) -> None:
        # an interrupt loses what came after the last check, not the run
        write_source(backbone, out, arguments.notice, arguments.licence)
        log.append(json.dumps({name: round(value, 5) for name, value in figures.items()}))
        _write(out.with_suffix(".jsonl"), "\n".join(log) + "\n")

    began = time.monotonic()
    windows = read_windows(read_dataset(arguments.data), options, quiet=arguments.quiet)
    backbone, auc = train_backbone(windows, options, after_check, quiet=arguments.quiet)
    write_source(backbone, out, arguments.notice, arguments.licence)
    return [
        f"{sum(p.numel() for p in backbone.parameters()):,} weights, {time.monotonic() - began:.0f} s; "
        f"macro ROC-AUC {auc:.4f} on held-out soundscapes",
        f"wrote {out}",
    ]


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
