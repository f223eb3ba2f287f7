"""What becomes of a finished map: its mean, and how a ProtoPNet classifier sees it."""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import FLOAT, Function, Module
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.kernels.product import Tile
from bce.engine.compiled.lanes import Isa, Lanes


@dataclass(frozen=True)
class Mean:
    """Shapes of a mean over a float32 map; strides in bytes.

    Attributes:
        vectors: of channels.
        height, width: of the map.
        row, vector: strides of the map.
    """

    vectors: int
    height: int
    width: int
    row: int
    vector: int


def mean(module: Module, isa: Isa, spec: Mean) -> str:
    """Write the kernel: (map, out)."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "o!"])
    x, out = f.arguments
    lanes = Lanes(f, isa)
    together = next(n for n in (4, 3, 2, 1) if spec.width % n == 0)
    with f.loop(spec.vectors) as over:
        with f.loop(spec.height, [lanes.zero()] * together) as down:
            row = x.at(over.index * spec.vector, down.index * spec.row)
            with f.loop(spec.width, down.values, step=together) as across:
                place = row.at(across.index * isa.bytes)
                across.carry([value + lanes.load(place.at(isa.bytes * n)) for n, value in enumerate(across.values)])
            down.carry(across.values)
        total = lanes.sum(down.values)
        lanes.store(out.at(over.index * isa.bytes), total * (1 / (spec.height * spec.width)))
    f.done()
    return name


@dataclass(frozen=True)
class Lengths:
    """Shapes of the lengths of all pixels' channel vectors in a flat float32 map.

    Attributes:
        vectors: of channels.
        pixels: of each.
        epsilon: added to a length.
    """

    vectors: int
    pixels: int
    epsilon: float


def lengths(module: Module, isa: Isa, spec: Lengths) -> str:
    """Write the kernel: (map, out); ``out`` float32 [pixels] gets 1 / (length + epsilon)."""
    name = name_of(spec).replace(".", "p")
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "o!"])
    x, out = f.arguments
    lanes = Lanes(f, isa)
    with f.loop(spec.pixels) as over:
        pixel = x.at(over.index * isa.bytes)
        with f.loop(spec.vectors, [lanes.zero()]) as loop:
            values = lanes.load(pixel.at(loop.index * (spec.pixels * isa.bytes)))
            loop.carry([lanes.fma(values, values, loop.values[0])])
        add = f"llvm.vector.reduce.fadd.v{isa.lanes}f32"
        squared = f.intrinsic(FLOAT, add, "float 0.0", loop.values[0])
        root = f.intrinsic(FLOAT, "llvm.sqrt.f32", squared)
        inverse = f.constant(FLOAT, 1.0) / (root + spec.epsilon)
        out.at(over.index * 4).store(inverse, 4)
    f.done()
    return name


@dataclass(frozen=True)
class Nearest:
    """Shapes of the largest product of each prototype over all pixels.

    Attributes:
        channels: of the map, flat and float32.
        pixels: of it.
        vectors: of prototypes, computed together.
    """

    channels: int
    pixels: int
    vectors: int


def nearest(module: Module, isa: Isa, spec: Nearest) -> str:
    """Write the kernel for one panel: (map, weights, inverse lengths, out)."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "w", "n", "o!"])
    x, weights, inverse, out = f.arguments
    lanes = Lanes(f, isa)
    size = min(isa.pixels[spec.vectors], spec.pixels)
    lowest = lanes.constant(-3e38)
    with f.loop(-(-spec.pixels // size), [lowest] * spec.vectors) as loop:
        first = loop.index * size
        if spec.pixels % size:
            first = f.smallest(first, spec.pixels - size)
        tile = Tile(f, isa, "f32", [isa.bytes * p for p in range(size)], [lanes.zero()] * spec.vectors)
        tile.over_channels(x.at(first * isa.bytes), weights, spec.channels, spec.pixels * isa.bytes)
        best = list(loop.values)
        for n, value in enumerate(tile.sums):
            pixel, j = divmod(n, spec.vectors)
            factor = lanes.broadcast(inverse.at(first * 4, 4 * pixel))
            best[j] = lanes.largest(best[j], value * factor)
        loop.carry(best)
    for j, value in enumerate(loop.values):
        lanes.store(out.at(isa.bytes * j), value)
    f.done()
    return name
