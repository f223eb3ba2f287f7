"""The products of a network by name: what may have another precision than the rest, each on its own.

Names are "3.expand" and "3.project" for those of a block, "head" for the convolution behind the blocks, and "dense" for
the classifier on its mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bce.engine.compiled.layers import Array, Layers, PatchHead, Pointwise, Rounded


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


def with_rounded(layers: Layers, rounded: Mapping[str, tuple[Rounded, Array]]) -> Layers:
    """A network whose products of these names have such integer weights, and such a bias beside them."""
    given = {name: {"rounded": values, "bias": bias} for name, (values, bias) in rounded.items()}
    blocks = []
    for index, block in enumerate(layers.blocks):
        if (changed := given.get(f"{index}.expand")) is not None and block.expand is not None:
            block = replace(block, expand=replace(block.expand, **changed))
        if (changed := given.get(f"{index}.project")) is not None:
            block = replace(block, project=replace(block.project, **changed))
        blocks.append(block)
    head, dense = layers.head, layers.dense
    if "head" in given and head is not None:
        head = replace(head, **given["head"])
    if "dense" in given and dense is not None:
        dense = replace(dense, **given["dense"])
    return replace(layers, blocks=tuple(blocks), head=head, dense=dense)
