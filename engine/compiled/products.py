"""The products of a network by name: what may have another precision than the rest, each on its own.

Names are "3.expand" and "3.project" for those of a block, "head" for the convolution behind the blocks, and "dense" for
the classifier on its mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from bce.engine.compiled.layers import Array, Layers, PatchHead, Pointwise, Rounded

L = TypeVar("L", Pointwise, PatchHead, Pointwise | None, Pointwise | PatchHead | None)


def products(layers: Layers) -> dict[str, Pointwise]:
    """The products in the order in which they run, each as a matrix with its bias.

    A head's larger convolution is a product of all that a position sees: [out, taps x channels], the channels of a tap
    side by side.
    """
    found: dict[str, Pointwise] = {}
    for index, block in enumerate(layers.blocks):
        if block.expand is not None:
            found[f"{index}.expand"] = block.expand
        found[f"{index}.project"] = block.project
    if layers.head is not None:
        found["head"] = patch_product(layers.head) if isinstance(layers.head, PatchHead) else layers.head
    if layers.dense is not None:
        found["dense"] = layers.dense
    return found


def patch_product(head: PatchHead) -> Pointwise:
    """A head's convolution as a product."""
    weight: Array = head.weight.transpose(0, 2, 3, 1)
    return Pointwise(weight.reshape(len(weight), -1), head.bias, head.rounded)


def with_rounded(layers: Layers, given: Mapping[str, tuple[Rounded, Array]]) -> Layers:
    """A network whose products of these names have such integer weights, and such a bias beside them."""

    def changed(name: str, layer: L) -> L:
        if layer is None or name not in given:
            return layer
        rounded, bias = given[name]
        return replace(layer, rounded=rounded, bias=bias)

    blocks = [
        replace(
            block, expand=changed(f"{index}.expand", block.expand), project=changed(f"{index}.project", block.project)
        )
        for index, block in enumerate(layers.blocks)
    ]
    head, dense = changed("head", layers.head), changed("dense", layers.dense)
    return replace(layers, blocks=tuple(blocks), head=head, dense=dense)
