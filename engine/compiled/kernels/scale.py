"""The gate's factors, put where there are fewer numbers: into the projection's weights, or into the map."""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module, vector
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.maps import SIZES, Element


@dataclass(frozen=True)
class ScaleWeights:
    """Packed weights times the gate of their input channel.

    Attributes:
        element: of the result. For bfloat16 the weights are float32, [step][vector][2 channels][lanes].
        vectors: of output channels in a panel.
    """

    element: Element
    vectors: int


def scale_weights(module: Module, isa: Isa, spec: ScaleWeights) -> str:
    """Write the kernel for one panel: (weights, gate, out, count of steps)."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["w", "g", "o!", "#steps"])
    weights, factors, out, steps = f.arguments
    lanes = Lanes(f, isa)
    with f.loop(steps) as loop:
        size = spec.vectors * isa.bytes
        target = out.at(loop.index * size)
        if spec.element == "f32":
            factor, rows = lanes.broadcast(factors.at(loop.index * 4)), weights.at(loop.index * size)
            for j in range(spec.vectors):
                lanes.store(target.at(isa.bytes * j), lanes.load(rows.at(isa.bytes * j)) * factor)
        else:
            pair = [lanes.broadcast(factors.at(loop.index * 8, 4 * n)) for n in range(2)]
            rows = weights.at(loop.index * (2 * size))
            for j in range(spec.vectors):
                even, odd = (
                    lanes.rounded(lanes.load(rows.at((2 * j + n) * isa.bytes)) * factor)
                    for n, factor in enumerate(pair)
                )
                order = ", ".join(f"i32 {n // 2 + isa.lanes * (n % 2)}" for n in range(2 * isa.lanes))
                kind = vector("bfloat", 2 * isa.lanes)
                mask = f"{vector('i32', 2 * isa.lanes)} <{order}>"
                both = f.emit(kind, f"shufflevector {even}, {odd}, {mask}")
                target.at(isa.bytes * j).store(both, isa.bytes)
    f.done()
    return name


@dataclass(frozen=True)
class ScaleMap:
    """A map times the gate of its channels, in place.

    Attributes:
        element: of the map.
        vectors: of its channels.
        pixels: of each.
    """

    element: Element
    vectors: int
    pixels: int


def scale_map(module: Module, isa: Isa, spec: ScaleMap) -> str:
    """Write the kernel: (map, gate)."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "g"])
    pixels, factors = f.arguments
    lanes = Lanes(f, isa)
    size = isa.lanes * SIZES[spec.element]
    together = next(n for n in (4, 3, 2, 1) if spec.pixels % n == 0)
    with f.loop(spec.vectors) as over:
        factor = lanes.load(factors.at(over.index * isa.bytes))
        row = pixels.at(over.index * (spec.pixels * size))
        with f.loop(spec.pixels, step=together) as loop:
            for n in range(together):
                place = row.at(loop.index * size, n * size)
                lanes.store(place, lanes.load(place, spec.element) * factor, spec.element)
    f.done()
    return name
