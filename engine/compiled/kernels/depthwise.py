"""A depthwise convolution, its swish, and the sums over the map that the gate needs; the largest numbers for
whole ones.

    for vector of channels: for row(s): for tile of the row:
        sums = bias;  for each pixel that the tile reaches: for each output that it is part of: sums += pixel x weight
        output = swish(sums);  total += output

Each pixel is read once for all outputs of the tile. The zeros around the map are in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module, Value
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.lanes import AVX512, Isa, Lanes
from bce.engine.compiled.maps import SIZES, Element
from bce.engine.compiled.swish import Swish, swish_of


@dataclass(frozen=True)
class Depthwise:
    """Shapes of a depthwise convolution; strides in bytes.

    Attributes:
        kernel: height and width.
        stride: in both directions.
        width: pixels of an output row.
        rows_even: whether every call makes an even number of rows.
        vectors: of channels in a call.
        row_in, vector_in: strides of the input, float32 with zeros around.
        vector_out: stride of the output, whose rows follow each other.
        element: of the output.
        swish: how near.
        maxima: whether the largest number of each channel is kept, for the range of a map of whole numbers.
    """

    kernel: int
    stride: int
    width: int
    rows_even: bool
    vectors: int
    row_in: int
    vector_in: int
    vector_out: int
    element: Element
    swish: Swish
    maxima: bool = False

    def tile(self, isa: Isa) -> tuple[int, int]:
        """(rows, pixels of a row) of a tile: as many sums as there are registers for."""
        most = 16 if isa is AVX512 else 8
        width = min(most, self.width)
        rows = 2 if 2 * width <= most and self.rows_even else 1
        return rows, width


def depthwise(module: Module, isa: Isa, spec: Depthwise) -> str:
    """Write the kernel: (x, weights, out, count of tile rows, totals, maxima); weights are [vector][taps, bias].

    They are scaled for the swish. Where ``maxima`` are not kept any address will do.
    """
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "w", "o!", "#rows", "totals!", "maxima"])
    x, weights, out, rows, totals, maxima = f.arguments
    lanes = Lanes(f, isa)
    high, wide = spec.tile(isa)
    tiles, doubled = -(-spec.width // wide), -spec.width % wide
    pixel_out = isa.lanes * SIZES[spec.element]
    taps = spec.kernel * spec.kernel

    with f.loop(spec.vectors) as over:
        mine = weights.at(over.index * ((taps + 1) * isa.bytes))
        place_in, place_out = x.at(over.index * spec.vector_in), out.at(over.index * spec.vector_out)
        total, most = totals.at(over.index * isa.bytes), maxima.at(over.index * isa.bytes)

        def tile(
            first: Value | int, row_in: Value, row_out: Value, sofar: list[Value], last: Value | None
        ) -> list[Value]:
            sums = _convolved(lanes, spec, high, wide, row_in.at(first * (isa.bytes * spec.stride)), mine)
            done = [swish_of(lanes, value, spec.swish) for value in sums]
            target = row_out.at(first * pixel_out)
            for n, value in enumerate(done):
                down, across = divmod(n, wide)
                lanes.store(target.at((down * spec.width + across) * pixel_out), value, spec.element)
            peaks = [lanes.largest_of([*sofar[1:], *done])] if spec.maxima else []
            if last is not None:  # its first pixels were counted by the tile before
                for n, value in enumerate(done):
                    if n % wide < doubled:
                        zero = lanes.zero()
                        done[n] = f.emit(value.type, f"select {last}, {zero}, {value}")
            return [sofar[0] + lanes.sum(done), *peaks]

        with f.loop(rows, [lanes.load(total), *([lanes.load(most)] if spec.maxima else [])]) as down:
            row_in = place_in.at(down.index * (high * spec.stride * spec.row_in))
            row_out = place_out.at(down.index * (high * spec.width * pixel_out))
            if tiles == 1:
                down.carry(tile(0, row_in, row_out, down.values, None))
            else:
                with f.loop(tiles, down.values) as across:
                    first, last = across.index * wide, None
                    if doubled:
                        last = f.emit("i1", f"icmp eq {across.index}, {tiles - 1}")
                        first = f.smallest(first, spec.width - wide)
                    across.carry(tile(first, row_in, row_out, across.values, last))
                down.carry(across.values)
        for place, value in zip((total, most), down.values, strict=False):
            lanes.store(place, value)
    f.done()
    return name


def _convolved(lanes: Lanes, spec: Depthwise, high: int, wide: int, x: Value, weights: Value) -> list[Value]:
    """The sums of a tile, [row][pixel]."""
    size, kernel, stride = lanes.isa.bytes, spec.kernel, spec.stride
    bias = lanes.load(weights.at(kernel * kernel * size))
    sums = [bias] * (high * wide)
    for iy in range((high - 1) * stride + kernel):
        reached = [(row, iy - row * stride) for row in range(high) if 0 <= iy - row * stride < kernel]
        taps = {ky: [lanes.load(weights.at((ky * kernel + kx) * size)) for kx in range(kernel)] for _, ky in reached}
        for ix in range((wide - 1) * stride + kernel):
            pixel = lanes.load(x.at(iy * spec.row_in + ix * size))
            for row, ky in reached:
                for kx in range(kernel):
                    column, off = divmod(ix - kx, stride)
                    if not off and 0 <= column < wide:
                        at = row * wide + column
                        sums[at] = lanes.fma(pixel, taps[ky][kx], sums[at])
    return sums
