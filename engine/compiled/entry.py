"""A stem of several channels with its pooling: row by row, so that its large map is never whole.

for row: convolve, ReLU, maxima and means of pairs to a buffer; the 1x1 convolution from the buffer
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bce.engine.compiled.kernels.planes import Planes, planes
from bce.engine.compiled.kernels.product import WORD
from bce.engine.compiled.kernels.project import Project, project
from bce.engine.compiled.layers import Padding, PooledStem
from bce.engine.compiled.maps import Map, vectors_of
from bce.engine.compiled.packing import packed, padded
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
    channels = len(stem.bias)
    vectors = vectors_of(channels, isa)
    height, width = stem.size(*shape)
    row_in, plane_in, source = _input(writer, stem, shape)
    pooled = Map(0, 2 * vectors, 1, width, "f32", isa)
    pooled = replace(pooled, place=writer.arena.take(pooled.bytes))
    out_channels = len(stem.pool.bias)
    panel, panels = panels_of(vectors_of(out_channels, isa))
    found = Map(0, panel * panels, height, width, "f32", isa, padding)
    found = replace(found, place=writer.arena.take(found.bytes))
    if not found.flat:
        writer.fill(writer.s(found.place), found.bytes)

    count, high, wide = stem.weight.shape[1:]
    taps = np.zeros((vectors * isa.lanes, count, high, wide), np.float32)
    taps[:channels] = stem.weight
    weights = writer.put(taps.transpose(1, 2, 3, 0))
    bias = writer.put(padded(stem.bias, vectors * isa.lanes))
    spec = Planes(count, high, wide, stem.stride, width, vectors, plane_in, row_in, pooled.vector)
    convolve = planes(writer.module, isa, spec)

    # the buffer's channels: maxima, zeros up to a whole vector, means
    matrix = np.zeros((out_channels, vectors * isa.lanes + channels), np.float32)
    matrix[:, :channels] = stem.pool.weight[:, :channels]
    matrix[:, vectors * isa.lanes :] = stem.pool.weight[:, channels:]
    given = packed(matrix, "f32", panel, isa)
    products, offsets = writer.put(given), writer.put(padded(stem.pool.bias, found.vectors * isa.lanes))
    join = project(
        writer.module,
        isa,
        Project(matrix.shape[1], width, 1, panel, "f32", pooled.row, pooled.vector, 0, found.vector),
    )
    buffer = writer.s(pooled.place)
    with f.loop(height) as down:
        f.call(convolve, source.at(down.index * (stem.stride * row_in)), weights, bias, buffer)
        with f.loop(panels) as loop:
            target = writer.s(found.origin).at(loop.index * (panel * found.vector), down.index * found.row)
            mine, offset = products.at(loop.index * given[0].nbytes), offsets.at(loop.index * (panel * isa.bytes))
            f.call(join, buffer, mine, offset, target, target, target)
    writer.mark("stem")
    return found


def _input(writer: Writer, stem: PooledStem, shape: tuple[int, int]):  # type: ignore[no-untyped-def]
    """Bytes of a row and of a plane, and where the planes are, with the zeros around them that the stem wants."""
    height, width = shape
    top, left, bottom, right = stem.padding
    row, rows = (width + left + right) * WORD, height + top + bottom
    if not any(stem.padding):
        return row, rows * row, writer.x
    count = stem.weight.shape[1]
    size = count * rows * row
    source = writer.s(writer.arena.take(size))
    writer.fill(source, size)
    with writer.f.loop(count) as plane, writer.f.loop(height) as down:
        target = source.at(top * row + left * WORD).at(plane.index * (rows * row), down.index * row)
        given = writer.x.at(plane.index * (height * width * WORD), down.index * (width * WORD))
        writer.copy(target, given, width * WORD)
    return row, rows * row, source
