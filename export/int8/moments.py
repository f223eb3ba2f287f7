"""What a network's products are fed on calibration windows: the second moments of their inputs, and the means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bce.export.int8.forward import Array, Forward, captured

MOST_PIXELS = 1500
"""Of a window and a product, drawn without return where there are more: neighbours say the same."""
SEED = 0


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a product's input x over the pixels of all windows.

    Attributes:
        hessian: float64 [in, in], the mean of x x^T.
        mean: float64 [in].
    """

    hessian: NDArray[np.float64]
    mean: NDArray[np.float64]


def hessians(forward: Forward, inputs: Array | Iterable[Array], most_pixels: int = MOST_PIXELS) -> dict[str, Moments]:
    """The moments of every product's input.

    Args:
        forward: the network, run as it is.
        inputs: float32 [n, *input_shape], or several such batches.
        most_pixels: of a window that count.
    """
    rng = np.random.default_rng(SEED)
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    counts = dict.fromkeys(forward.names, 0)

    def take(name: str, x: Tensor) -> None:
        pixels, channels = x.shape[1:]
        if pixels > most_pixels:
            x = x[:, torch.from_numpy(np.sort(rng.choice(pixels, most_pixels, replace=False)))]
        rows = x.reshape(-1, channels)
        if name not in sums:
            sums[name] = torch.zeros(channels, channels), torch.zeros(channels, dtype=torch.float64)
        product, total = sums[name]
        product.addmm_(rows.T, rows)
        total += rows.sum(dim=0)
        counts[name] += len(rows)

    with torch.inference_mode():
        for batch in [inputs] if isinstance(inputs, np.ndarray) else inputs:
            captured(forward, batch, take)
    found = {}
    for name in forward.names:
        product, total = sums.pop(name)
        found[name] = Moments(product.numpy().astype(np.float64) / counts[name], total.numpy() / counts[name])
    return found
