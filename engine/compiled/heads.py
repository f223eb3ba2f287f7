"""What stands behind the blocks: the head's convolution with its activation, and a dense classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.integers import Integers
from bce.engine.compiled.kernels.expand import Expand, expand
from bce.engine.compiled.kernels.patches import Halved, Patches, halved, patches
from bce.engine.compiled.kernels.project import Project, project
from bce.engine.compiled.layers import PatchHead, Pointwise, Rounded
from bce.engine.compiled.maps import WHOLE, Element, Map, vectors_of
from bce.engine.compiled.packing import packed, padded
from bce.engine.compiled.plan import panels_of, panels_on
from bce.engine.compiled.products import patch_product
from bce.engine.compiled.swish import Activation, scaled, swish_for
from bce.engine.compiled.writer import Writer


def pointwise_head(writer: Writer, head: Pointwise, source: Map, element: Element) -> Map:
    """A 1x1 convolution with swish on a map, as one flat map.

    Args:
        writer: the program.
        head: its layer.
        source: the last block's map; in bfloat16 for a product of that.
        element: of the product.
    """
    swish = swish_for(element, writer.isa)
    spatial = _product(writer, scaled(head, swish), source, element, swish)
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
    written: Element = "bf16" if element == "bf16" else "f32"
    seen = Map(0, kernel * kernel * source.vectors, 1, height * width, written, isa)
    seen = replace(seen, place=writer.arena.take(seen.bytes))
    lanes = source.vectors * isa.lanes
    spec = Patches(source.vectors, kernel, height, width, source.row, source.vector, written)
    scale, shift = (writer.put(padded(values, lanes)) for values in (head.scale, head.shift))
    writer.f.call(patches(writer.module, isa, spec), writer.s(source.origin), scale, shift, writer.s(seen.place))
    spatial = _product(writer, _whole_vectors(patch_product(head), head.weight.shape[1], lanes), seen, element, "relu")
    writer.mark("head")
    return replace(spatial, height=height, width=width)


def _whole_vectors(layer: Pointwise, channels: int, lanes: int) -> Pointwise:
    """A product over taps whose channels become so many as whole vectors have."""

    def wider(matrix: NDArray[Any]) -> NDArray[Any]:
        rows = matrix.reshape(len(matrix), -1, channels)
        return np.pad(rows, ((0, 0), (0, 0), (0, lanes - channels))).reshape(len(matrix), -1)

    rounded = layer.rounded
    if rounded is not None:
        rounded = Rounded(wider(rounded.values), rounded.scale)
    return Pointwise(wider(layer.weight), layer.bias, rounded)


def _product(writer: Writer, layer: Pointwise, source: Map, element: Element, activation: Activation) -> Map:
    """A product at every pixel of a flat map, with its activation: float32, flat."""
    isa = writer.isa
    panel, panels = panels_on(source.pixels, vectors_of(len(layer.bias), isa), isa)
    place = writer.arena.take(panel * panels * source.pixels * isa.bytes)
    spatial = Map(place, panel * panels, source.height, source.width, "f32", isa)
    if element in WHOLE:
        integers = Integers(writer, replace(source, element=element).bytes, spatial.vectors)
        source = integers.of_map(source, element, layer.weight.shape[1])
        weights, step = integers.weights(layer, element, panel)
        bias, bias_step = integers.restored(layer, element, panel, panels), 2 * panel * isa.bytes
    else:
        weight = packed(layer.weight, element, panel, isa)
        weights, step = writer.put(weight), weight[0].nbytes
        bias, bias_step = writer.put(padded(layer.bias, spatial.vectors * isa.lanes)), panel * isa.bytes
    spec = Expand(
        layer.weight.shape[1],
        source.pixels,
        panel,
        element,
        source.pixels * source.pixel,
        source.vector,
        0,
        spatial.vector,
        activation,
        rows=1,
    )
    name = expand(writer.module, isa, spec)
    with writer.f.loop(panels) as loop:
        writer.f.call(
            name,
            writer.s(source.origin),
            weights.at(loop.index * step),
            bias.at(loop.index * bias_step),
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
    isa = writer.isa
    source = Map(mean, vectors, 1, 1, "f32", isa)
    panel, panels = panels_of(vectors_of(len(layer.bias), isa))
    place = writer.arena.take(panel * panels * isa.bytes)
    if element in WHOLE:
        integers = Integers(writer, replace(source, element=element).bytes, panel * panels)
        source = integers.of_map(source, element, layer.weight.shape[1])
        weights, step = integers.weights(layer, element, panel)
        bias, bias_step = integers.restored(layer, element, panel, panels), 2 * panel * isa.bytes
    else:
        if element == "bf16":
            source = replace(source, place=writer.arena.take(vectors * isa.bytes // 2), element="bf16")
            name = halved(writer.module, isa, Halved(vectors))
            writer.f.call(name, writer.s(mean), writer.s(source.place))
        weight = packed(layer.weight, element, panel, isa)
        weights, step = writer.put(weight), weight[0].nbytes
        bias, bias_step = writer.put(padded(layer.bias, panel * panels * isa.lanes)), panel * isa.bytes
    spec = Project(layer.weight.shape[1], 1, 1, panel, element, 0, source.vector, 0, isa.bytes)
    name = project(writer.module, isa, spec)
    with writer.f.loop(panels) as loop:
        target = writer.s(place).at(loop.index * (panel * isa.bytes))
        mine, offset = weights.at(loop.index * step), bias.at(loop.index * bias_step)
        writer.f.call(name, writer.s(source.place), mine, offset, target, target, target)
    writer.mark("dense")
    return place, panel * panels
