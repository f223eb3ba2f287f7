"""Squeeze and excitation: from a map's sums to a factor for each channel.

hidden = swish(reduce x sums / pixels + bias);  gate = sigmoid(expand x hidden + bias)
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.lanes import AVX512, Isa, Lanes
from bce.engine.compiled.swish import gate_sigmoid, gate_swish

GROUP = 8
"""Vectors of gates that are computed together."""
AHEAD = 2048
"""Bytes by which weights are fetched ahead: a gate uses each of its many weights once, from the memory's far end."""


@dataclass(frozen=True)
class Squeeze:
    """Shapes of a gate.

    Attributes:
        vectors: of the map's channels.
        squeezed: vectors of the hidden layer.
        hidden: channels of the hidden layer.
    """

    vectors: int
    squeezed: int
    hidden: int


def gate(module: Module, isa: Isa, spec: Squeeze) -> str:
    """Write the kernel: (sums, reduce, its bias, expand, its bias, hidden, gate).

    ``reduce`` is [channels][squeezed vectors], with 1 / pixels inside; ``expand`` is
    [group][hidden][vectors of it], the groups those of :func:`groups`. All four are scaled for an exact activation.
    """
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["s", "w1", "b1", "w2", "b2", "h", "g!"])
    sums, reduce, reduce_bias, widen, widen_bias, hidden, out = f.arguments
    lanes = Lanes(f, isa)
    registers = 3 * isa.registers // 4
    together = 4 if isa is AVX512 else 2  # channels a pass, so that no sum waits for the one before

    for first in range(0, spec.squeezed, registers // together):
        group = range(first, min(first + registers // together, spec.squeezed))
        start = [lanes.load(reduce_bias.at(j * isa.bytes)) for j in group]
        start += [lanes.zero()] * (len(group) * (together - 1))
        with f.loop(spec.vectors * isa.lanes, start, step=together) as loop:
            values = list(loop.values)
            rows, mean = reduce.at(loop.index * (spec.squeezed * isa.bytes)), sums.at(loop.index * 4)
            for channel in range(together):
                factor = lanes.broadcast(mean.at(4 * channel))
                for n, j in enumerate(group):
                    place = rows.at((channel * spec.squeezed + j) * isa.bytes)
                    row = lanes.load(place)
                    lanes.prefetch(place.at(AHEAD))
                    at = channel * len(group) + n
                    values[at] = lanes.fma(factor, row, values[at])
            loop.carry(values)
        for n, j in enumerate(group):
            total = lanes.sum([loop.values[channel * len(group) + n] for channel in range(together)])
            lanes.store(hidden.at(j * isa.bytes), gate_swish(lanes, total))

    starts = groups(spec.vectors)
    wide = min(GROUP, spec.vectors)
    with f.loop(len(starts)) as over:
        place = f.smallest(over.index * wide, starts[-1]) * isa.bytes
        start = [lanes.load(widen_bias.at(place, j * isa.bytes)) for j in range(wide)]
        mine = widen.at(over.index * (spec.hidden * wide * isa.bytes))
        with f.loop(spec.hidden, start) as loop:
            factor = lanes.broadcast(hidden.at(loop.index * 4))
            rows = mine.at(loop.index * (wide * isa.bytes))
            values = []
            for j, value in enumerate(loop.values):
                values.append(lanes.fma(factor, lanes.load(rows.at(j * isa.bytes)), value))
                lanes.prefetch(rows.at(j * isa.bytes + AHEAD))
            loop.carry(values)
        for j, value in enumerate(loop.values):
            lanes.store(out.at(place, j * isa.bytes), gate_sigmoid(lanes, value))
    f.done()
    return name


def groups(vectors: int) -> list[int]:
    """The first vector of each group; the last group begins earlier where it would not be full."""
    return [min(first, vectors - min(GROUP, vectors)) for first in range(0, vectors, GROUP)]
