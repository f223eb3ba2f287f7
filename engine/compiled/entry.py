"""A stem of several channels with its pooling: row by row, so that its large map is never whole.

for row: convolve, ReLU, larger ones and means of pairs to a buffer; the 1x1 convolution from the buffer
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bce.engine.compiled.emitter import Value
from bce.engine.compiled.kernels.planes import Join, Phases, Planes, group_of, join, phases, planes
from bce.engine.compiled.kernels.product import WORD
from bce.engine.compiled.layers import Padding, PooledStem
from bce.engine.compiled.maps import Map, vectors_of
from bce.engine.compiled.packing import packed, packed_planes, padded
from bce.engine.compiled.plan import panels_of
from bce.engine.compiled.writer import Writer


def pooled_stem(writer: Writer, stem: PooledStem, shape: tuple[int, int], padding: Padding) -> Map:
    """Write the stem.

    Args:
        writer: the program.
        stem: the layers.
        shape: (height, width) of the input, of which there are as many planes as channels.
        padding: zeros that the first block wants around its map.

    Returns:
        its map, float32.
    """
    isa, f = writer.isa, writer.f
    height, width = stem.size(*shape)
    panel, panels = panels_of(vectors_of(len(stem.pool.bias), isa))
    found = Map(0, panel * panels, height, width, "f32", isa, padding)
    found = replace(found, place=writer.arena.take(found.bytes))
    if not found.flat:
        writer.fill(writer.s(found.place), found.bytes)

    count, high, wide = stem.weight.shape[1:]
    group, groups = group_of(len(stem.bias), isa)
    tiles = vectors_of(width, isa)
    seen = Phases(2 * stem.stride, _phase_vectors(stem, shape, tiles, writer))
    phase = seen.vectors * isa.bytes
    row = seen.count * phase
    rows = shape[0] + stem.padding[0] + stem.padding[2]
    source = _taken_apart(writer, stem, shape, seen)
    spec = Planes(count, high, wide, stem.stride, tiles, group, groups, rows * row, row, phase)
    convolve = planes(writer.module, isa, spec)
    weights = writer.put(packed_planes(stem.weight, group, groups))
    bias = writer.put(padded(stem.bias, group * groups))

    row_pooled = tiles * isa.bytes
    buffer = writer.s(writer.arena.take(2 * group * groups * row_pooled))
    channels = len(stem.bias)
    matrix = np.zeros((len(stem.pool.bias), 2, group * groups), np.float32)
    matrix[..., :channels] = stem.pool.weight.reshape(-1, 2, channels)
    given = packed(matrix.reshape(len(matrix), -1), "f32", panel, isa)
    products, offsets = writer.put(given), writer.put(padded(stem.pool.bias, found.vectors * isa.lanes))
    joined = join(writer.module, isa, Join(2 * group * groups, width, panel, row_pooled, found.vector))
    with f.loop(height) as down:
        f.call(convolve, source.at(down.index * (stem.stride * row)), weights, bias, buffer)
        with f.loop(panels) as loop:
            target = writer.s(found.origin).at(loop.index * (panel * found.vector), down.index * found.row)
            mine, offset = products.at(loop.index * given[0].nbytes), offsets.at(loop.index * (panel * isa.bytes))
            f.call(joined, buffer, mine, offset, target)
    writer.mark("stem")
    return found


def _phase_vectors(stem: PooledStem, shape: tuple[int, int], tiles: int, writer: Writer) -> int:
    """Vectors of a phase of a row: the whole row, and what the last tile's spare lanes see behind it."""
    lanes, count = writer.isa.lanes, 2 * stem.stride
    of_input = shape[1] + stem.padding[1] + stem.padding[3]
    behind = (stem.weight.shape[3] - 1 + stem.stride) // count
    return max(-(-of_input // (count * lanes)), tiles + -(-behind // lanes))


def _taken_apart(writer: Writer, stem: PooledStem, shape: tuple[int, int], spec: Phases) -> Value:
    """Where the input's planes are, with the zeros around them that the stem wants, each row in phases."""
    (height, width), isa = shape, writer.isa
    top, left, bottom, _ = stem.padding
    row = spec.count * spec.vectors * isa.bytes
    plane = (height + top + bottom) * row
    count = stem.weight.shape[1]
    place, one = writer.s(writer.arena.take(count * plane)), writer.s(writer.arena.take(row))
    writer.fill(one, row)
    apart = phases(writer.module, isa, spec)
    with writer.f.loop(count) as over:
        mine = place.at(over.index * plane)
        for first, zeros in ((0, top), (top + height, bottom)):
            if zeros:
                writer.fill(mine.at(first * row), zeros * row)
    with writer.f.loop(count) as over, writer.f.loop(height) as down:
        given = writer.x.at(over.index * (height * width * WORD), down.index * (width * WORD))
        writer.copy(one.at(left * WORD), given, width * WORD)
        writer.f.call(apart, one, place.at(top * row).at(over.index * plane, down.index * row))
    return place
