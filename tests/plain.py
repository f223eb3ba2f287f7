"""Post-processing and the metric as slow, plain Python and numpy: what the engine's results are compared with.

Nothing here imports the engine. Loops are wanted: each line should be readable against the formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def gaussian(scores: np.ndarray, offsets: Sequence[int], sigma: float) -> np.ndarray:
    """Gaussian over the rows of each recording, cut at 4 sigma, edges repeated."""
    radius = int(4 * sigma + 0.5)
    out = np.empty(scores.shape)
    for first, end in pairwise(offsets):
        for row in range(first, end):
            total, norm = np.zeros(scores.shape[1]), 0.0
            for step in range(-radius, radius + 1):
                weight = math.exp(-0.5 * (step / sigma) ** 2)
                neighbour = min(max(row + step, first), end - 1)
                total += weight * scores[neighbour].astype(np.float64)
                norm += weight
            out[row] = total / norm
    return out


def taxonomy(probabilities: np.ndarray, names: Sequence[str], amount: float, exclude: Sequence[str] = ()) -> np.ndarray:
    """Pull each class towards the mean of those with its group's name, for groups of two and more."""
    out = np.array(probabilities, dtype=np.float64)
    for name in set(names) - set(exclude):
        members = [c for c, own in enumerate(names) if own == name]
        if len(members) > 1:
            mean = probabilities[:, members].astype(np.float64).mean(axis=1, keepdims=True)
            out[:, members] = (1 - amount) * probabilities[:, members] + amount * mean
    return out


def prior_log_odds(
    windows: Sequence[tuple[str | None, int | None, set[int]]], classes: int, site: str | None, hour: int | None
) -> np.ndarray:
    """Log-odds of each class at a site and an hour, out of labelled windows (site, hour, classes present)."""

    def rate(chosen: list[set[int]], c: int) -> float:
        return sum(c in present for present in chosen) / len(chosen) if chosen else 0.0

    of_hour = [[p for _, h, p in windows if h == number] for number in range(24)]
    of_site = [p for s, _, p in windows if s == site and site is not None]
    of_pair = [p for s, h, p in windows if s == site and h == hour and site is not None and hour is not None]
    out = np.empty(classes)
    for c in range(classes):
        p = rate([present for _, _, present in windows], c)
        if hour is not None and of_hour[hour]:
            smooth = norm = 0.0
            for step in range(-6, 7):
                weight = math.exp(-0.5 * (step / 1.5) ** 2)
                smooth += weight * rate(of_hour[(hour + step) % 24], c)
                norm += weight
            w = len(of_hour[hour]) / (len(of_hour[hour]) + 8)
            p = w * smooth / norm + (1 - w) * p
        if of_site:
            w = len(of_site) / (len(of_site) + 8)
            p = w * rate(of_site, c) + (1 - w) * p
        if of_pair:
            w = len(of_pair) / (len(of_pair) + 4)
            p = w * rate(of_pair, c) + (1 - w) * p
        p = min(max(p, 1e-4), 1 - 1e-4)
        out[c] = math.log(p / (1 - p))
    return out


def chunk_hour(start_time: datetime | None, start_s: int) -> int | None:
    return None if start_time is None else (start_time + timedelta(seconds=int(start_s))).hour


def pipeline(
    logits: np.ndarray,
    log_odds: np.ndarray | None,
    strength: float,
    sigma: float,
    groups: Sequence[tuple[Sequence[str], float]],
) -> np.ndarray:
    """One recording's logits [chunks, classes] to probabilities: prior, Gaussian, sigmoid, taxonomy.

    Args:
        log_odds: [chunks, classes], or None for no prior.
        groups: the name of each class' group and the amount, level after level.
    """
    scores = np.asarray(logits, dtype=np.float64)
    if log_odds is not None:
        scores = scores + strength * log_odds
    if sigma:
        scores = gaussian(scores, [0, len(scores)], sigma)
    scores = sigmoid(scores)
    for names, amount in groups:
        scores = taxonomy(scores, names, amount)
    return scores
