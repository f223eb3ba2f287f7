"""A product as the kernels compute it in a lower precision, written out in float32."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bce.engine.compiled.layers import Pointwise, Rounded
from bce.export.int8.forward import Array, Product

LEAST_HIGH = 1e-6
"""A window's largest value is taken to be at least this, so that a step is never 0."""


def integer_product(rounded: Rounded, bias: Array) -> Product:
    """Unsigned 8-bit activations in the window's own range, signed 8-bit weights, exact sums, float32 results.

    Args:
        rounded: the weights.
        bias: [out], in place of the layer's.
    """
    values = torch.from_numpy(rounded.values.astype(np.float32))
    scale, offset = torch.from_numpy(np.array(rounded.scale, np.float32)), torch.from_numpy(np.array(bias, np.float32))

    def product(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
        least, most = torch.aminmax(x.reshape(len(x), -1), dim=1)
        low = (least if bound is None else bound).clamp(max=0)[:, None, None]
        step = (most.clamp(min=LEAST_HIGH)[:, None, None] - low) / 255
        zero = torch.round(-low / step)
        whole = torch.addcmul(zero, x, 1 / step).round_().clamp_(0, 255).sub_(zero)
        return functional.linear(whole, values).mul_(scale * step).add_(offset)

    return product


def bfloat16_product(layer: Pointwise) -> Product:
    """Activations and weights in bfloat16, sums in float32."""
    weight, bias = _bfloat16(torch.from_numpy(np.array(layer.weight))), torch.from_numpy(np.array(layer.bias))

    def product(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
        return functional.linear(_bfloat16(x), weight, bias)

    return product


def _bfloat16(x: Tensor) -> Tensor:
    """The nearest values of bfloat16, in float32."""
    return x.bfloat16().float()
