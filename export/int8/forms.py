"""A product as the kernels compute it in a lower precision, written out in float32."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bce.engine.compiled.layers import Pointwise, Rounded
from bce.engine.compiled.maps import Element, levels
from bce.engine.compiled.packing import rounded_of
from bce.export.int8.forward import Array, Product

LEAST_HIGH = 1e-6
"""A window's largest value is taken to be at least this, so that a step is never 0."""


def integer_product(rounded: Rounded, bias: Array, element: Element = "i8") -> Product:
    """Activations as whole numbers in the window's own range, whole weights, sums, float32 results.

    Args:
        rounded: the weights.
        bias: [out], in place of the layer's.
        element: of both; of bytes the sums are exact here too.
    """
    to = levels(element, rounded.values.shape[1])
    values = torch.from_numpy(rounded.values.astype(np.float32))
    scale, offset = torch.from_numpy(np.array(rounded.scale, np.float32)), torch.from_numpy(np.array(bias, np.float32))

    def product(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
        least, most = torch.aminmax(x.reshape(len(x), -1), dim=1)
        low = (least if bound is None else bound).clamp(max=0)[:, None, None]
        step = (most.clamp(min=LEAST_HIGH)[:, None, None] - low) / to.steps
        zero = torch.round(to.bottom - low / step)
        whole = torch.addcmul(zero, x, 1 / step).round_().clamp_(to.bottom, to.bottom + to.steps).sub_(zero)
        return functional.linear(whole, values).mul_(scale * step).add_(offset)

    return product


def word_product(layer: Pointwise) -> Product:
    """The same with 16 bits for both, as many of them as the sums can hold: nearly exact."""
    return integer_product(rounded_of(layer, "i16"), layer.bias, "i16")
