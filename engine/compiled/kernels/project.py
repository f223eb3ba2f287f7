"""A block's projection: products without activation, plus the block's input where it is added.

    for row: for tile of the row:
        sums = bias + weights x pixels;  output = sums (+ input);  copy = output in bfloat16, for the next expansion

A map without zeros around is one long row.
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.kernels.product import Tile, share_of_next, start_of
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.maps import SIZES, Element

CACHED = 600 << 10
"""Bytes of a map that stay in the second cache: the pixels of a larger one are fetched ahead."""


@dataclass(frozen=True)
class Project:
    """Shapes of a projection; strides in bytes.

    Attributes:
        channels: of the input.
        width, height: pixels of a row, and rows.
        vectors: of output channels, computed together.
        element: of the input and the weights.
        row_in, vector_in: strides of the input.
        row_out, vector_out: strides of the output, float32.
        vector_copy: stride of the copy in bfloat16; 0 for none. Its rows follow each other, as the output's then do.
        row_added, vector_added: strides of what is added, float32; 0 for nothing.
    """

    channels: int
    width: int
    height: int
    vectors: int
    element: Element
    row_in: int
    vector_in: int
    row_out: int
    vector_out: int
    vector_copy: int = 0
    row_added: int = 0
    vector_added: int = 0


def project(module: Module, isa: Isa, spec: Project) -> str:
    """Write the kernel: (x, weights, bias, out, copy, added); what is not there may be any address.

    For whole numbers ``bias`` holds scales and offsets, see :meth:`~.product.Tile.values`.
    """
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "w", "b", "o!", "c!", "r"])
    x, weights, bias, out, copy, added = f.arguments
    lanes = Lanes(f, isa)
    pixel_in = isa.lanes * SIZES[spec.element]
    size = min(isa.pixels[spec.vectors], spec.width)
    tiles = -(-spec.width // size)
    large = spec.channels * spec.width * spec.height * SIZES[spec.element] > CACHED

    with f.loop(spec.height) as down, f.loop(tiles) as across:
        first = across.index * size
        if spec.width % size:  # the last tile begins earlier, and does some pixels again
            first = f.smallest(first, spec.width - size)
        start = start_of(lanes, spec.element, spec.vectors, bias)
        tile = Tile(f, isa, spec.element, [pixel_in * p for p in range(size)], start)
        number = down.index * tiles + across.index
        all_tiles = tiles * spec.height
        ahead = share_of_next(weights, spec.channels, spec.element, spec.vectors, isa, all_tiles, number)
        pixels = x.at(down.index * spec.row_in, first * pixel_in)
        tile.over_channels(pixels, weights, spec.channels, spec.vector_in, ahead, next_pixels=large)
        values = tile.values(bias)
        if spec.vector_added:
            place = added.at(down.index * spec.row_added, first * isa.bytes)
            for n, value in enumerate(values):
                pixel, j = divmod(n, spec.vectors)
                values[n] = value + lanes.load(place.at(isa.bytes * pixel + spec.vector_added * j))
        place = out.at(down.index * spec.row_out, first * isa.bytes)
        for n, value in enumerate(values):
            pixel, j = divmod(n, spec.vectors)
            lanes.store(place.at(isa.bytes * pixel + spec.vector_out * j), value)
        if spec.vector_copy:
            half = isa.bytes // 2
            place = copy.at(down.index * (spec.row_out // 2), first * half)
            for n, value in enumerate(values):
                pixel, j = divmod(n, spec.vectors)
                lanes.store(place.at(half * pixel + spec.vector_copy * j), value, "bf16")
    f.done()
    return name
