"""Maps as whole numbers, with the range of the map at hand, and what makes numbers of the sums of their products again.

    scale = (high - low) / steps;  zero = round(bottom - low / scale);  whole = round(x / scale) + zero
    sum of weights x = scale (sum of weights whole - zero x sum of weights)

The range holds 0, which is exact. Bytes have 255 steps from 0 on, 16 bits as many as a sum of products can hold
(:func:`bce.engine.compiled.maps.levels`). What is no number is no whole one: where it is in a map, the scale is none
either, and so is everything that is restored with it.
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import FLOAT, Function, Module, Value
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.maps import SIZES, Element

LOWEST_SWISH = -0.27846455
"""The least value of x / (1 + exp(-x)), rounded down."""
SMALLEST = 1e-6
"""The least upper end of a range: silence has one too."""
INVERSE, ZERO, SCALE, SHIFT = range(0, 16, 4)
"""Where a range's numbers are, float32: 1 / scale, zero, scale, -zero x scale."""
RANGE_BYTES = 16


@dataclass(frozen=True)
class Extent:
    """The range of a flat float32 map.

    Attributes:
        numbers: of the map in vectors, all of which follow each other.
        bottom, steps: of the whole numbers.
    """

    numbers: int
    bottom: int
    steps: int


def extent(module: Module, isa: Isa, spec: Extent) -> str:
    """Write the kernel: (map, range)."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "r!"])
    x, out = f.arguments
    lanes = Lanes(f, isa)
    together = next(n for n in (4, 3, 2, 1) if spec.numbers % n == 0)
    with f.loop(spec.numbers, [lanes.zero()] * (2 * together + 1), step=together) as loop:
        place = x.at(loop.index * isa.bytes)
        found = [lanes.load(place.at(isa.bytes * n)) for n in range(together)]
        low = [lanes.smallest(value, before) for value, before in zip(found, loop.values[:together], strict=True)]
        high = [lanes.largest(value, before) for value, before in zip(found, loop.values[together:-1], strict=True)]
        loop.carry([*low, *high, lanes.fma(lanes.sum(found), lanes.zero(), loop.values[-1])])
    low, high = loop.values[:together], loop.values[together:-1]
    lowest, highest = -lanes.largest_of([-value for value in low]), lanes.largest_of(high)
    _write_range(lanes, spec, lowest, highest, loop.values[-1], out)
    f.done()
    return name


@dataclass(frozen=True)
class Bound:
    """The range of a map of swishes times the gates of its channels, out of each channel's largest number.

    Attributes:
        vectors: of channels.
        gated: whether there are gates.
        bottom, steps: of the whole numbers.
    """

    vectors: int
    gated: bool
    bottom: int
    steps: int


def bound(module: Module, isa: Isa, spec: Bound) -> str:
    """Write the kernel: (maxima, sums, gate, range); without gates any address will do for them.

    The sums of the channels' numbers say whether all are numbers.
    """
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["m", "s", "g", "r!"])
    maxima, totals, factors, out = f.arguments
    lanes = Lanes(f, isa)
    first = lanes.zero() if spec.gated else lanes.constant(1.0)
    with f.loop(spec.vectors, [first, lanes.zero(), lanes.zero()]) as loop:
        gate, high, nothing = loop.values
        nothing = lanes.fma(lanes.load(totals.at(loop.index * isa.bytes)), lanes.zero(), nothing)
        value = lanes.load(maxima.at(loop.index * isa.bytes))
        if spec.gated:
            factor = lanes.load(factors.at(loop.index * isa.bytes))
            gate, value = lanes.largest(factor, gate), value * factor
        loop.carry([gate, lanes.largest(value, high), nothing])
    gate, high, nothing = loop.values
    _write_range(lanes, spec, gate * LOWEST_SWISH, high, nothing, out)
    f.done()
    return name


def _write_range(lanes: Lanes, spec: Extent | Bound, lowest: Value, highest: Value, nothing: Value, out: Value) -> None:
    """The numbers of a range, from vectors whose least and largest number are its ends; and zeros, or what is none."""
    f, n = lanes.f, lanes.isa.lanes
    low = f.intrinsic(FLOAT, f"llvm.vector.reduce.fmin.v{n}f32", lowest)
    high = f.intrinsic(FLOAT, f"llvm.vector.reduce.fmax.v{n}f32", highest)
    high = f.intrinsic(FLOAT, "llvm.maxnum.f32", high, f.constant(FLOAT, SMALLEST))
    width = high - low
    nought = f.intrinsic(FLOAT, f"llvm.vector.reduce.fadd.v{n}f32", "float 0.0", nothing)
    inverse, scale = f.constant(FLOAT, spec.steps) / width, width / spec.steps + nought
    zero = f.intrinsic(FLOAT, "llvm.rint.f32", -low * inverse + spec.bottom)
    for offset, value in ((INVERSE, inverse), (ZERO, zero), (SCALE, scale), (SHIFT, -zero * scale)):
        out.at(offset).store(value, 4)


@dataclass(frozen=True)
class Quantise:
    """A flat map as whole numbers.

    Attributes:
        element: of the map.
        whole: of what it becomes.
        vectors: of channels.
        pixels: of each.
        gated: whether it is multiplied with its channels' gates first.
        bottom, steps: of the whole numbers.
    """

    element: Element
    whole: Element
    vectors: int
    pixels: int
    gated: bool
    bottom: int
    steps: int


def quantise(module: Module, isa: Isa, spec: Quantise) -> str:
    """Write the kernel: (map, gate, range, out); without gates any address will do for them."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "g", "r", "o!"])
    x, factors, of_range, out = f.arguments
    lanes = Lanes(f, isa)
    size, made = (isa.lanes * SIZES[element] for element in (spec.element, spec.whole))
    together = next(n for n in (4, 3, 2, 1) if spec.pixels % n == 0)
    inverse, zero = lanes.broadcast(of_range.at(INVERSE)), lanes.broadcast(of_range.at(ZERO))
    with f.loop(spec.vectors) as over:
        factor = inverse * lanes.load(factors.at(over.index * isa.bytes)) if spec.gated else inverse
        row, target = x.at(over.index * (spec.pixels * size)), out.at(over.index * (spec.pixels * made))
        with f.loop(spec.pixels, step=together) as loop:
            for n in range(together):
                value = lanes.load(row.at(loop.index * size, n * size), spec.element)
                value, place = lanes.fma(value, factor, zero), target.at(loop.index * made, n * made)
                lanes.store_whole(place, value, 8 * SIZES[spec.whole], spec.bottom, spec.bottom + spec.steps)
    f.done()
    return name


@dataclass(frozen=True)
class Restore:
    """Scales and offsets that make the numbers of a product out of sums of whole numbers.

    Attributes:
        vectors: of output channels in a panel.
    """

    vectors: int


def restore(module: Module, isa: Isa, spec: Restore) -> str:
    """Write the kernel: (range, weights' scales, scales x sums of weights, bias, out, count of panels).

    ``out`` gets the scales and the offsets of each panel, :meth:`~.product.Tile.values`.
    """
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["r", "s", "t", "b", "o!", "#panels"])
    of_range, scales, sums, bias, out, panels = f.arguments
    lanes = Lanes(f, isa)
    size = spec.vectors * isa.bytes
    scale, shift = lanes.broadcast(of_range.at(SCALE)), lanes.broadcast(of_range.at(SHIFT))
    with f.loop(panels) as loop:
        of_scales, of_sums, of_bias = (place.at(loop.index * size) for place in (scales, sums, bias))
        target = out.at(loop.index * (2 * size))
        for j in range(spec.vectors):
            at = j * isa.bytes
            lanes.store(target.at(at), lanes.load(of_scales.at(at)) * scale)
            offset = lanes.fma(shift, lanes.load(of_sums.at(at)), lanes.load(of_bias.at(at)))
            lanes.store(target.at(size + at), offset)
    f.done()
    return name
