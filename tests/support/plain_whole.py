"""Forward passes in float64 whose products are of whole numbers: the definition, product by product."""

from __future__ import annotations

from collections.abc import Mapping
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


def most_of(element: str, channels: int) -> int:
    """The largest weight, and number of 16 bits: so that no sum over the channels is 2^31."""
    return 127 if element == "i8" else min(int(np.sqrt((2**31 - 1) / channels)), 32767)


def whole_weights(weight: Floats, rounded: Any, element: str) -> Floats:
    """The integers that a product brings, or the nearest with the largest of each output as the largest weight."""
    if rounded is not None and element == "i8":
        return rounded.values.astype(np.float64) * rounded.scale[:, None]
    scale = np.abs(weight.astype(np.float64)).max(axis=1, keepdims=True) / most_of(element, weight.shape[1])
    scale[scale == 0] = 1
    return np.rint(weight / scale) * scale


def as_whole(x: Floats, low: float, element: str, channels: int) -> Floats:
    """The steps of a range from ``low`` to the largest number that are nearest to numbers."""
    low, high = min(0.0, low), max(1e-6, float(x.max()))
    most = most_of(element, channels)
    bottom, top = (0, 255) if element == "i8" else (-most, most)
    scale = (high - low) / (top - bottom)
    zero = np.rint(bottom - low / scale)
    return (np.clip(np.rint(x / scale) + zero, bottom, top) - zero) * scale


def product(layer: Pointwise, x: Floats, low: float, element: str) -> Floats:
    channels, *size = x.shape
    whole = as_whole(x.reshape(channels, -1), low, element, channels)
    found = whole_weights(layer.weight, layer.rounded, element) @ whole
    return (found + layer.bias[:, None]).reshape(-1, *size)


def forward(layers: Layers, x: Floats, chosen: Mapping[str, str]) -> list[Floats]:
    """The outputs where products have elements by their names, "f32" or whole ones."""
    names = {id(layer): name for name, layer in products(layers).items()}

    def element(layer: Pointwise) -> str:
        return chosen.get(names.get(id(layer), ""), "f32")

    def pointwise(layer: Pointwise, y: Floats) -> Floats:
        kind = element(layer)
        return plain(layer, y) if kind == "f32" else product(layer, y, float(y.min()), kind)

    def mbconv(block: Block, y: Floats) -> Floats:
        before, gate = y, np.ones(1)
        if block.expand is not None:
            y = swish(pointwise(block.expand, y))
        y = swish(spatial(block.depthwise, y))
        if block.gate is not None:
            mean = y.mean(axis=(1, 2), keepdims=True)
            gate = sigmoid(plain(block.gate.expand, swish(plain(block.gate.reduce, mean))))
        low = LOWEST_SWISH * float(gate.max())
        kind = element(block.project)
        y = plain(block.project, y * gate) if kind == "f32" else product(block.project, y * gate, low, kind)
        return before + y if block.residual else y

    def patch_head(head: PatchHead, y: Floats) -> Floats:
        kind = chosen.get("head", "f32")
        if kind == "f32":
            return plain_head(head, y)
        seen = np.maximum(y * head.scale[:, None, None] + head.shift[:, None, None], 0)
        layer = products(layers)["head"]
        weight = whole_weights(layer.weight, head.rounded, kind)
        taps = weight.reshape(len(weight), head.kernel, head.kernel, -1).transpose(0, 3, 1, 2)
        return np.maximum(
            convolved(taps, head.bias, 1, (0, 0, 0, 0), as_whole(seen, 0.0, kind, layer.weight.shape[1])), 0
        )

    plain, plain_head = plain_mbconv.pointwise, plain_mbconv.patch_head
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_mbconv, "pointwise", pointwise)
        patch.setattr(plain_mbconv, "mbconv", mbconv)
        patch.setattr(plain_mbconv, "patch_head", patch_head)
        return plain_mbconv.forward(replace(layers), x)
