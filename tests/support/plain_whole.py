"""Forward passes in float64 whose products are of bytes: the definition, product by product."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import plain_mbconv
from support.plain_mbconv import convolved, sigmoid, spatial, swish

from bce.engine.compiled.layers import Block, Layers, PatchHead, Pointwise
from bce.engine.compiled.products import products

Floats = NDArray[Any]
LOWEST_SWISH = -0.278464542761073796


def whole_weights(weight: Floats, rounded: Any) -> Floats:
    """The integers that a product brings, or the nearest with the largest of each output as 127."""
    if rounded is not None:
        return rounded.values.astype(np.float64) * rounded.scale[:, None]
    scale = np.abs(weight.astype(np.float64)).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1
    return np.rint(weight / scale) * scale


def as_bytes(x: Floats, low: float) -> Floats:
    """The steps of a range from ``low`` to the largest number that are nearest to numbers."""
    low, high = min(0.0, low), max(1e-6, float(x.max()))
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def product(layer: Pointwise, x: Floats, low: float) -> Floats:
    channels, *size = x.shape
    found = whole_weights(layer.weight, layer.rounded) @ as_bytes(x.reshape(channels, -1), low)
    return (found + layer.bias[:, None]).reshape(-1, *size)


def forward(layers: Layers, x: Floats, chosen: Collection[str]) -> list[Floats]:
    """The outputs where the products of these names are of bytes."""
    names = {id(layer): name for name, layer in products(layers).items()}

    def of_bytes(layer: Pointwise) -> bool:
        return names.get(id(layer)) in chosen

    def pointwise(layer: Pointwise, y: Floats) -> Floats:
        return product(layer, y, float(y.min())) if of_bytes(layer) else plain(layer, y)

    def mbconv(block: Block, y: Floats) -> Floats:
        before, gate = y, np.ones(1)
        if block.expand is not None:
            y = swish(pointwise(block.expand, y))
        y = swish(spatial(block.depthwise, y))
        if block.gate is not None:
            mean = y.mean(axis=(1, 2), keepdims=True)
            gate = sigmoid(plain(block.gate.expand, swish(plain(block.gate.reduce, mean))))
        low = LOWEST_SWISH * float(gate.max())
        y = product(block.project, y * gate, low) if of_bytes(block.project) else plain(block.project, y * gate)
        return before + y if block.residual else y

    def patch_head(head: PatchHead, y: Floats) -> Floats:
        if "head" not in chosen:
            return plain_head(head, y)
        seen = np.maximum(y * head.scale[:, None, None] + head.shift[:, None, None], 0)
        rounded = head.rounded
        weight = whole_weights(products(layers)["head"].weight, rounded)
        taps = weight.reshape(len(weight), head.kernel, head.kernel, -1).transpose(0, 3, 1, 2)
        return np.maximum(convolved(taps, head.bias, 1, (0, 0, 0, 0), as_bytes(seen, 0.0)), 0)

    plain, plain_head = plain_mbconv.pointwise, plain_mbconv.patch_head
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_mbconv, "pointwise", pointwise)
        patch.setattr(plain_mbconv, "mbconv", mbconv)
        patch.setattr(plain_mbconv, "patch_head", patch_head)
        return plain_mbconv.forward(replace(layers), x)
