"""A stem of a few planes with its pooling: a strided convolution, ReLU, of each two pixels of a row the larger one and
the mean, and a 1x1 convolution that joins them.

Here a vector holds pixels and not channels: few channels of a large map would leave lanes empty. Rows of the input are
taken apart first, so that the numbers which neighbouring pairs see at one tap lie side by side:

    for group of channels: for vector of pairs:
        sums of left and right pixels = bias;  for plane, row and tap: sums += weight x numbers
        larger one and mean of each pair after ReLU -> a row for each channel
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module, vector
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.kernels.product import WORD, Tile
from bce.engine.compiled.lanes import AVX512, Isa, Lanes


@dataclass(frozen=True)
class Phases:
    """A row taken apart: every so many numbers belong together.

    Attributes:
        count: of phases.
        vectors: of each.
    """

    count: int
    vectors: int


def phases(module: Module, isa: Isa, spec: Phases) -> str:
    """Write the kernel: (x, out); x [vectors * lanes, phases] becomes [phases, vectors * lanes]."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "o!"])
    x, out = f.arguments
    whole = vector("float", spec.count * isa.lanes)
    with f.loop(spec.vectors) as loop:
        numbers = x.at(loop.index * (spec.count * isa.bytes)).load(whole, WORD)
        for phase in range(spec.count):
            order = ", ".join(f"i32 {lane * spec.count + phase}" for lane in range(isa.lanes))
            mask = f"{vector('i32', isa.lanes)} <{order}>"
            mine = f.emit(isa.floats, f"shufflevector {numbers}, {whole} poison, {mask}")
            out.at(loop.index * isa.bytes, phase * spec.vectors * isa.bytes).store(mine, WORD)
    f.done()
    return name


@dataclass(frozen=True)
class Planes:
    """Shapes of one row of the convolution's output; strides in bytes.

    Attributes:
        planes: channels of the input, each a plane of rows in 2 * stride phases.
        high, wide: of the kernel.
        stride: in both directions.
        tiles: vectors of pairs in a row.
        channels: of a group.
        groups: of output channels.
        plane_in, row_in, phase_in: strides of the input.
    """

    planes: int
    high: int
    wide: int
    stride: int
    tiles: int
    channels: int
    groups: int
    plane_in: int
    row_in: int
    phase_in: int


def planes(module: Module, isa: Isa, spec: Planes) -> str:
    """Write the kernel: (x, weights, bias, out).

    Weights are [group][plane][row of the kernel][tap][channel], bias and output's rows [group][channel]: first a row of
    larger ones for every channel, then one of means, each of ``tiles`` vectors.
    """
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "w", "b", "o!"])
    x, weights, bias, out = f.arguments
    lanes, count = Lanes(f, isa), spec.channels
    of_row = spec.wide * count * WORD
    of_group = spec.planes * spec.high * of_row
    row_out = spec.tiles * isa.bytes

    def place(tap: int) -> int:
        """Of the numbers that left pixels see at a tap, or right pixels ``stride`` taps before."""
        return tap % (2 * spec.stride) * spec.phase_in + tap // (2 * spec.stride) * WORD

    with f.loop(spec.groups) as over, f.loop(spec.tiles) as across:
        offset, mine = bias.at(over.index * (count * WORD)), weights.at(over.index * of_group)
        start = [lanes.broadcast(offset.at(WORD * channel)) for channel in range(count) for _ in range(2)]
        here = x.at(across.index * isa.bytes)
        with f.loop(spec.planes, start) as plane:
            with f.loop(spec.high, plane.values) as down:
                sums = list(down.values)
                row = here.at(plane.index * spec.plane_in, down.index * spec.row_in)
                factors = mine.at(plane.index * (spec.high * of_row), down.index * of_row)
                for tap in range(spec.wide):
                    pair = [row.at(place(tap + side)).load(isa.floats, WORD) for side in (0, spec.stride)]
                    for channel in range(count):
                        factor = lanes.broadcast(factors.at((tap * count + channel) * WORD))
                        both = [lanes.fma(pair[n], factor, sums[2 * channel + n]) for n in range(2)]
                        sums[2 * channel : 2 * channel + 2] = lanes.pinned(both)
                down.carry(sums)
            plane.carry(down.values)
        target = out.at(over.index * (count * row_out), across.index * isa.bytes)
        for channel in range(count):
            left, right = (lanes.relu(value) for value in plane.values[2 * channel : 2 * channel + 2])
            lanes.store(target.at(channel * row_out), lanes.largest(left, right))
            lanes.store(target.at((spec.groups * count + channel) * row_out), (left + right) * 0.5)
    f.done()
    return name


def group_of(channels: int, isa: Isa) -> tuple[int, int]:
    """(channels of a group, groups): as many as there are registers for the sums of two pixels, and few to spare."""
    most = 12 if isa is AVX512 else 6
    groups = -(-channels // most)
    return -(-channels // groups), groups


@dataclass(frozen=True)
class Join:
    """Shapes of a product whose input has a row of pixels for each channel; strides in bytes.

    Attributes:
        channels: of the input, an even number.
        width: pixels of a row.
        vectors: of output channels, computed together.
        channel_in: from one channel's row to the next.
        vector_out: of the output.
    """

    channels: int
    width: int
    vectors: int
    channel_in: int
    vector_out: int


def join(module: Module, isa: Isa, spec: Join) -> str:
    """Write the kernel: (x, weights, bias, out) of one row and one panel; weights are [channel][vector][lane]."""
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "w", "b", "o!"])
    x, weights, bias, out = f.arguments
    lanes = Lanes(f, isa)
    size = min(isa.pixels[spec.vectors], spec.width)
    together = next(n for n in (8, 6, 4, 2) if spec.channels % n == 0)
    with f.loop(-(-spec.width // size)) as across:
        first = across.index * size
        if spec.width % size:  # the last tile begins earlier, and does some pixels again
            first = f.smallest(first, spec.width - size)
        start = [lanes.load(bias.at(isa.bytes * j)) for j in range(spec.vectors)]
        tile = Tile(f, isa, "f32", [WORD * pixel for pixel in range(size)], start)
        with f.loop(spec.channels // together, [x.at(first * WORD), weights, *tile.sums]) as loop:
            here, rows, *tile.sums = loop.values
            tile.over_taps(here, rows, [spec.channel_in * channel for channel in range(together)])
            behind = here.at(together * spec.channel_in), rows.at(together * spec.vectors * isa.bytes)
            loop.carry([*behind, *tile.sums])
        target = out.at(first * isa.bytes)
        for n, value in enumerate(loop.values[2:]):
            pixel, j = divmod(n, spec.vectors)
            lanes.store(target.at(isa.bytes * pixel + j * spec.vector_out), value)
    f.done()
    return name
