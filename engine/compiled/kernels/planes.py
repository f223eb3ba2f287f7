"""A strided convolution of a few planes, ReLU, and of each two pixels of a row the larger one and the mean.

for tile of the row: for plane: for row of the kernel:
    sums += weights x pixels
    output = relu(sums);  maxima, means = of neighbours

The zeros around the planes are in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.kernels.product import WORD, Tile
from bce.engine.compiled.lanes import Isa, Lanes


@dataclass(frozen=True)
class Planes:
    """Shapes of one row of the convolution's output; strides in bytes.

    Attributes:
        planes: channels of the input, each a plane of float32.
        high, wide: of the kernel.
        stride: in both directions.
        pixels: of a row after pooling: half of the convolution's.
        vectors: of output channels, all of them.
        plane_in, row_in: strides of the input.
        vector_out: of the output: maxima of all vectors, then means.
    """

    planes: int
    high: int
    wide: int
    stride: int
    pixels: int
    vectors: int
    plane_in: int
    row_in: int
    vector_out: int


def planes(module: Module, isa: Isa, spec: Planes) -> str:
    """Write the kernel: (x, weights, bias, out); weights are [plane][row of the kernel][tap][vector][lane]."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "w", "b", "o!"])
    x, weights, bias, out = f.arguments
    lanes = Lanes(f, isa)
    pairs = min(_pairs(isa, spec.vectors), spec.pixels)
    pixel_in = spec.stride * WORD
    taps = [WORD * tap for tap in range(spec.wide)]
    of_row = spec.wide * spec.vectors * isa.bytes
    with f.loop(-(-spec.pixels // pairs)) as across:
        first = across.index * pairs
        if spec.pixels % pairs:  # the last tile begins earlier, and does some pixels again
            first = f.smallest(first, spec.pixels - pairs)
        start = [lanes.load(bias.at(isa.bytes * j)) for j in range(spec.vectors)]
        tile = Tile(f, isa, "f32", [pixel_in * p for p in range(2 * pairs)], start)
        here = x.at(first * (2 * pixel_in))
        with f.loop(spec.planes, tile.sums) as plane:
            with f.loop(spec.high, plane.values) as down:
                tile.sums = list(down.values)
                row = here.at(plane.index * spec.plane_in, down.index * spec.row_in)
                mine = weights.at(plane.index * (spec.high * of_row), down.index * of_row)
                tile.over_taps(row, mine, taps)
                down.carry(tile.sums)
            plane.carry(down.values)
        done = [lanes.largest(value, lanes.zero()) for value in plane.values]
        target = out.at(first * isa.bytes)
        for pair in range(pairs):
            for j in range(spec.vectors):
                left, right = done[2 * pair * spec.vectors + j], done[(2 * pair + 1) * spec.vectors + j]
                place = target.at(pair * isa.bytes + j * spec.vector_out)
                lanes.store(place, lanes.largest(left, right))
                lanes.store(place.at(spec.vectors * spec.vector_out), (left + right) * 0.5)
    f.done()
    return name


def _pairs(isa: Isa, vectors: int) -> int:
    """Pairs of pixels of a tile: as many as there are registers for."""
    widest = max(isa.pixels)
    pixels = isa.pixels[vectors] if vectors <= widest else max(2, isa.pixels[widest] * widest // vectors)
    return max(1, pixels // 2)
