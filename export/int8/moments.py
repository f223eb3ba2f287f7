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
_LEAST = 1e-12
"""A window's mean square is taken to be at least this: it may be 0."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a product's input x over the pixels of all windows, each window divided by the root of its mean square.

    The errors that count are relative to a window's own outputs: without the division loud windows alone would say
    where rounding may err.

    Attributes:
        hessian: float64 [in, in], the mean of x x^T.
        mean: float64 [in], that of x, in which a window weighs as in ``hessian``.
    """

    hessian: NDArray[np.float64]
    mean: NDArray[np.float64]


class _Sums:
    """Of one product."""

    def __init__(self, channels: int) -> None:
        self.products = torch.zeros(channels, channels)
        self.values = torch.zeros(channels, dtype=torch.float64)
        self.pixels = 0
        self.weight = 0.0

    def add(self, x: Tensor) -> None:
        """What some windows feed the product, [n, pixels, channels]."""
        weight = 1 / x.square().mean(dim=(1, 2)).clamp(min=_LEAST)
        rows = (x * weight.sqrt()[:, None, None]).flatten(0, 1)
        self.products.addmm_(rows.T, rows)
        self.values += (x.sum(dim=1) * weight[:, None]).double().sum(dim=0)
        self.pixels += len(rows)
        self.weight += float(weight.double().sum()) * x.shape[1]

    def moments(self) -> Moments:
        hessian = self.products.numpy().astype(np.float64) / self.pixels
        return Moments(hessian, self.values.numpy() / self.weight)


def hessians(forward: Forward, inputs: Array | Iterable[Array], most_pixels: int = MOST_PIXELS) -> dict[str, Moments]:
    """The moments of every product's input.

    Args:
        forward: the network, run as it is.
        inputs: float32 [n, *input_shape], or several such batches.
        most_pixels: of a window that count.
    """
    rng = np.random.default_rng(SEED)
    sums = {name: _Sums(layer.weight.shape[1]) for name, layer in forward.layers.items()}

    def take(name: str, x: Tensor) -> None:
        if x.shape[1] > most_pixels:
            x = x[:, torch.from_numpy(np.sort(rng.choice(x.shape[1], most_pixels, replace=False)))]
        sums[name].add(x)

    with torch.inference_mode():
        for batch in [inputs] if isinstance(inputs, np.ndarray) else inputs:
            captured(forward, batch, take)
    return {name: sums.pop(name).moments() for name in forward.names}
