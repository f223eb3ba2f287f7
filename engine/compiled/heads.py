"""What stands behind the blocks: the head's convolution with its activation, and a dense classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bce.engine.compiled.kernels.expand import Expand, expand
from bce.engine.compiled.kernels.patches import Patches, Rounded, patches, rounded
from bce.engine.compiled.kernels.project import Project, project
from bce.engine.compiled.layers import PatchHead, Pointwise
from bce.engine.compiled.maps import Element, Map, vectors_of
from bce.engine.compiled.packing import packed, padded
from bce.engine.compiled.plan import panels_of, panels_on
from bce.engine.compiled.swish import Activation, scaled, swish_for
from bce.engine.compiled.writer import Writer


def pointwise_head(writer: Writer, head: Pointwise, source: Map) -> Map:
    """A 1x1 convolution with swish on a map, as one flat map."""
    swish = swish_for(source.element)
    spatial = _product(writer, scaled(head, swish), source, swish)
    writer.mark("head")
    return spatial


def patch_head(writer: Writer, head: PatchHead, source: Map, element: Element) -> Map:
    """Affine, ReLU, convolution, ReLU on a float32 map, as one flat map; the convolution is a product of patches.

    Args:
        writer: the program.
        head: its layers.
        source: the last block's map.
        element: of the product.
    """
    isa, kernel = writer.isa, head.kernel
    height, width = head.size(source.height, source.width)
    seen = Map(0, kernel * kernel * source.vectors, 1, height * width, element, isa)
    seen = replace(seen, place=writer.arena.take(seen.bytes))
    lanes = source.vectors * isa.lanes
    spec = Patches(source.vectors, kernel, height, width, source.row, source.vector, element)
    scale, shift = (writer.put(padded(values, lanes)) for values in (head.scale, head.shift))
    writer.f.call(patches(writer.module, isa, spec), writer.s(source.origin), scale, shift, writer.s(seen.place))
    outputs, channels = head.weight.shape[:2]
    weight = np.zeros((outputs, kernel, kernel, lanes), np.float32)
    weight[..., :channels] = head.weight.transpose(0, 2, 3, 1)
    spatial = _product(writer, Pointwise(weight.reshape(outputs, -1), head.bias), seen, "relu")
    writer.mark("head")
    return replace(spatial, height=height, width=width)


def _product(writer: Writer, layer: Pointwise, source: Map, activation: Activation) -> Map:
    """A product at every pixel of a flat map, with its activation: float32, flat."""
    isa = writer.isa
    panel, panels = panels_on(source.pixels, vectors_of(len(layer.bias), isa), isa)
    place = writer.arena.take(panel * panels * source.pixels * isa.bytes)
    spatial = Map(place, panel * panels, source.height, source.width, "f32", isa)
    weight = packed(layer.weight, source.element, panel, isa)
    spec = Expand(
        layer.weight.shape[1],
        source.pixels,
        panel,
        source.element,
        source.pixels * source.pixel,
        source.vector,
        0,
        spatial.vector,
        activation,
        rows=1,
    )
    name = expand(writer.module, isa, spec)
    weights, bias = writer.put(weight), writer.put(padded(layer.bias, spatial.vectors * isa.lanes))
    with writer.f.loop(panels) as loop:
        writer.f.call(
            name,
            writer.s(source.origin),
            weights.at(loop.index * weight[0].nbytes),
            bias.at(loop.index * (panel * isa.bytes)),
            writer.s(place).at(loop.index * (panel * spatial.vector)),
            1,
        )
    return spatial


def dense(writer: Writer, layer: Pointwise, mean: int, vectors: int, element: Element) -> tuple[int, int]:
    """A classifier on the mean of the head's map.

    Args:
        writer: the program.
        layer: its weights.
        mean: the place of the mean, float32.
        vectors: of it.
        element: of the product.

    Returns:
        place and vectors of the logits, float32.
    """
    isa, given = writer.isa, mean
    if element == "bf16":
        given = writer.arena.take(vectors * isa.bytes // 2)
        writer.f.call(rounded(writer.module, isa, Rounded(vectors)), writer.s(mean), writer.s(given))
    source = Map(given, vectors, 1, 1, element, isa)
    panel, panels = panels_of(vectors_of(len(layer.bias), isa))
    place = writer.arena.take(panel * panels * isa.bytes)
    weight = packed(layer.weight, element, panel, isa)
    spec = Project(layer.weight.shape[1], 1, 1, panel, element, 0, source.vector, 0, isa.bytes)
    name = project(writer.module, isa, spec)
    weights, bias = writer.put(weight), writer.put(padded(layer.bias, panel * panels * isa.lanes))
    with writer.f.loop(panels) as loop:
        offset = loop.index * (panel * isa.bytes)
        target = writer.s(place).at(offset)
        mine = weights.at(loop.index * weight[0].nbytes)
        writer.f.call(name, writer.s(given), mine, bias.at(offset), target, target, target)
    writer.mark("dense")
    return place, panel * panels
