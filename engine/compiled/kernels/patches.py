"""What a convolution over few pixels is fed: for each of its outputs all numbers that it sees, side by side.

So it becomes one product with as many channels as it has taps x channels. A factor and an offset for each channel and
ReLU come first.
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.maps import SIZES, Element


@dataclass(frozen=True)
class Patches:
    """Shapes; strides in bytes.

    Attributes:
        vectors: of the input's channels.
        kernel: height and width of the convolution.
        height, width: of its output.
        row_in, vector_in: strides of the input, float32.
        element: of the output, a flat map of [tap][vector] channels.
    """

    vectors: int
    kernel: int
    height: int
    width: int
    row_in: int
    vector_in: int
    element: Element


def patches(module: Module, isa: Isa, spec: Patches) -> str:
    """Write the kernel: (x, scale, shift, out)."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "a", "b", "o!"])
    x, scale, shift, out = f.arguments
    lanes = Lanes(f, isa)
    pixel = isa.lanes * SIZES[spec.element]
    vector_out = spec.height * spec.width * pixel
    tap_out = spec.vectors * vector_out
    with f.loop(spec.vectors) as over:
        factor, offset = (lanes.load(place.at(over.index * isa.bytes)) for place in (scale, shift))
        mine, target = x.at(over.index * spec.vector_in), out.at(over.index * vector_out)
        with f.loop(spec.kernel) as down, f.loop(spec.kernel) as across:
            first = mine.at(down.index * spec.row_in, across.index * isa.bytes)
            place = target.at(down.index * (spec.kernel * tap_out), across.index * tap_out)
            for row in range(spec.height):
                for column in range(spec.width):
                    value = lanes.load(first.at(row * spec.row_in + column * isa.bytes))
                    value = lanes.relu(lanes.fma(value, factor, offset))
                    lanes.store(place.at((row * spec.width + column) * pixel), value, spec.element)
    f.done()
    return name


@dataclass(frozen=True)
class Halved:
    """A vector of float32 as bfloat16.

    Attributes:
        vectors: how long it is.
    """

    vectors: int


def halved(module: Module, isa: Isa, spec: Halved) -> str:
    """Write the kernel: (x, out)."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "o!"])
    x, out = f.arguments
    lanes = Lanes(f, isa)
    with f.loop(spec.vectors) as over:
        value = lanes.load(x.at(over.index * isa.bytes))
        lanes.store(out.at(over.index * (isa.bytes // 2)), value, "bf16")
    f.done()
    return name
