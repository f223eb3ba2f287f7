"""Weights in the order in which the kernels read them, and the one block of memory that holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.kernels.product import steps_of
from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.layers import Array, Pointwise, Rounded
from bce.engine.compiled.maps import DEPTHS, LINE, Element, levels


class Weights:
    """Arrays side by side in memory, each on a cache line; all callers share it."""

    def __init__(self) -> None:
        self._arrays: list[tuple[int, NDArray[Any]]] = []
        self._memory: NDArray[np.uint8] | None = None
        self.bytes = 0

    def put(self, array: NDArray[Any]) -> int:
        """A place for an array, in bytes from the first."""
        place = self.bytes
        self._arrays.append((place, np.ascontiguousarray(array)))
        self.bytes += -(-array.nbytes // LINE) * LINE
        return place

    def memory(self) -> NDArray[np.uint8]:
        """All of them, in memory that begins on a cache line: the same each time, when nothing more is put.

        Each array is let go as soon as it is there, so that there are never two of all.
        """
        if self._memory is None:
            self._memory = aligned(self.bytes)
        while self._arrays:
            place, array = self._arrays.pop()
            self._memory[place : place + array.nbytes] = array.reshape(-1).view(np.uint8)
        return self._memory


def aligned(size: int) -> NDArray[np.uint8]:
    """Bytes of zero that begin on a cache line."""
    whole = np.zeros(size + LINE, np.uint8)
    start = -whole.ctypes.data % LINE
    return whole[start : start + size]


def padded(values: Array, size: int) -> Array:
    """A vector with zeros behind it."""
    return np.pad(values, (0, size - len(values))).astype(np.float32)


def packed(weight: Array, element: Element, vectors: int, isa: Isa) -> NDArray[Any]:
    """Weights of a product, [out, in], as [panel][step][vector][lane][channels of a step].

    Args:
        weight: [out, in].
        element: of the result; bfloat16 as uint16.
        vectors: of output channels in a panel.
        isa: the vector form.
    """
    grouped = _grouped(weight, element, vectors, isa)
    return grouped if element == "f32" else bfloat16(grouped)


def packed_whole(values: NDArray[Any], element: Element, vectors: int, isa: Isa) -> NDArray[Any]:
    """Whole weights of a product, [out, in], in the same order."""
    return _grouped(values, element, vectors, isa)


def packed_apart(weight: Array, vectors: int, isa: Isa) -> Array:
    """Weights whose gate is multiplied in before they become bfloat16: float32 [panel][step][vector][2][lane]."""
    return np.ascontiguousarray(_grouped(weight, "bf16", vectors, isa).swapaxes(3, 4))


def packed_depthwise(weight: Array, bias: Array, vectors: int, isa: Isa) -> Array:
    """Weights [channels, k, k] and bias as [vector][k * k taps, bias][lane]."""
    channels = len(bias)
    rows = np.zeros((vectors * isa.lanes, weight[0].size + 1), np.float32)
    rows[:channels, :-1] = weight.reshape(channels, -1)
    rows[:channels, -1] = bias
    return np.ascontiguousarray(rows.reshape(vectors, isa.lanes, -1).swapaxes(1, 2))


def packed_taps(weight: Array, vectors: int, panels: int, isa: Isa) -> Array:
    """The stem's weights [out, k, k] as [panel][tap][vector][lane]."""
    rows = np.zeros((panels * vectors * isa.lanes, weight[0].size), np.float32)
    rows[: len(weight)] = weight.reshape(len(weight), -1)
    return np.ascontiguousarray(rows.reshape(panels, vectors, isa.lanes, -1).transpose(0, 3, 1, 2))


def packed_planes(weight: Array, channels: int, groups: int) -> Array:
    """Weights [out, in, height, width] as [group][in][height][width][channel of the group]."""
    rows = np.zeros((groups * channels, *weight.shape[1:]), np.float32)
    rows[: len(weight)] = weight
    return np.ascontiguousarray(np.moveaxis(rows.reshape(groups, channels, *weight.shape[1:]), 1, -1))


def bfloat16(values: Array) -> NDArray[np.uint16]:
    """float32 rounded to the nearest bfloat16, ties to even; finite numbers only."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def rounded_of(layer: Pointwise, element: Element) -> Rounded:
    """A layer's whole weights: the bytes that it brings, else the nearest."""
    if layer.rounded is not None and element == "i8":
        return layer.rounded
    return nearest(layer.weight, levels(element, layer.weight.shape[1]).weight)


def nearest(weight: NDArray[np.floating], largest: int) -> Rounded:
    """Weights [out, in] as the nearest whole numbers of -largest..largest with a scale for each output."""
    scale = scale_of(weight, largest)
    values = np.rint(weight.astype(np.float64) / scale[:, None].astype(np.float64)).clip(-largest, largest)
    return Rounded(values.astype(np.int8) if largest < 128 else values.astype(np.int16), scale)


def scale_of(weight: NDArray[np.floating], largest: int) -> Array:
    """The scale of each output with which its largest weight is the largest number; of zeros, some above 0."""
    most = np.abs(weight.astype(np.float64)).max(axis=1, initial=0.0)
    scale: Array = (np.where(most > 0, most, 1.0) / largest).astype(np.float32)
    return np.maximum(scale, np.finfo(np.float32).tiny)


def _grouped(weight: NDArray[Any], element: Element, vectors: int, isa: Isa) -> NDArray[Any]:
    outputs, inputs = weight.shape
    depth, steps = DEPTHS[element], steps_of(inputs, element)
    panels = -(-outputs // (isa.lanes * vectors))
    rows = np.zeros((panels * vectors * isa.lanes, steps * depth), weight.dtype)
    rows[:outputs, :inputs] = weight
    shape = (panels, vectors, isa.lanes, steps, depth)
    return np.ascontiguousarray(rows.reshape(shape).transpose(0, 3, 1, 2, 4))
