"""Batches of windows of Perch's family, changed as sound would be changed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bce.engine.frontends.perch import LOG_SCALE, LOWEST
from bce.tools.learn.backbone_windows import Windows
from bce.tools.learn.options import BackboneOptions

_NEPER_PER_DB = LOG_SCALE * math.log(10) / 20
"""What 1 dB is in Perch's inputs: a scaled natural logarithm of the magnitude."""
_POWER = 2 / LOG_SCALE
"""Times an input, the logarithm of the power."""


@dataclass(frozen=True)
class Batch:
    """inputs float32 [n, time, mel]; present and known bool [n, classes]."""

    inputs: Tensor
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
        torch.from_numpy(np.concatenate([part.inputs for part in parts]).astype(np.float32)),
        torch.from_numpy(np.concatenate([part.present for part in parts])),
        torch.from_numpy(np.concatenate([part.known for part in parts])),
    )


def augment(batch: Batch, options: BackboneOptions, rng: np.random.Generator) -> Batch:
    """Turn windows around in time, add others to some, change their level, hide a band of some.

    Another window is added as sound is, power to power, after its background has been brought to about the same level;
    what is in either is then in both.
    """
    x, present, known = batch.inputs, batch.present, batch.known
    n, frames, mels = x.shape
    x = torch.stack([row.roll(int(by), 0) for row, by in zip(x, rng.integers(frames, size=n), strict=True)])
    other = torch.from_numpy(rng.permutation(n))
    background = x.flatten(1).median(dim=1).values
    level = torch.from_numpy(rng.uniform(-6, 6, n).astype(np.float32)) * _NEPER_PER_DB
    second = x[other] + (background - background[other] + level)[:, None, None]
    mixed = torch.from_numpy(rng.random(n) < options.mix)
    x = torch.where(mixed[:, None, None], torch.logaddexp(_POWER * x, _POWER * second) / _POWER, x)
    joined = present | present[other]
    known = torch.where(mixed[:, None], (known & known[other]) | joined, known)
    present = torch.where(mixed[:, None], joined, present)
    gain = rng.uniform(-options.gain_db, options.gain_db, n).astype(np.float32) * _NEPER_PER_DB
    x = x + torch.from_numpy(gain)[:, None, None]
    for row in np.flatnonzero(rng.random(n) < 0.3):
        low = int(rng.integers(mels - 10))
        x[row, :, low : low + int(rng.integers(3, 10))] = x[row].median()
    return Batch(x.clamp_min(LOWEST), present, known)
