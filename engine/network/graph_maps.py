"""Maps of a graph, and the convolutions that take and make them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bce.engine.compiled.layers import Array, Padding, Pointwise
from bce.engine.network.graph_matching import Nodes, refuse
from bce.engine.network.onnx_graph import Attribute, Node


@dataclass(frozen=True)
class MapValue:
    """A value of the graph: [batch, channels, height, width]."""

    value: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class ConvNode:
    """A convolution as it stands in the graph: weight [out, in of a group, height, width], bias [out]."""

    node: Node
    weight: Array
    bias: Array
    group: int
    stride: int
    padding: Padding

    @property
    def pointwise(self) -> bool:
        """Whether it is a product at every position."""
        return self.weight.shape[2:] == (1, 1) and (self.group, self.stride, self.padding) == (1, 1, (0, 0, 0, 0))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the output for those of the input."""
        top, left, bottom, right = self.padding
        high, wide = self.weight.shape[2:]
        return (height + top + bottom - high) // self.stride + 1, (width + left + right - wide) // self.stride + 1


def conv_of(nodes: Nodes, x: MapValue, *, square: bool = True) -> ConvNode:
    """The convolution of a map: with the same stride along both axes, a square kernel unless any will do.

    A bias that is not there is zeros: exporters leave those out.

    Raises:
        Misfit: there is none, or one of another form.
    """
    node = nodes.user(x.value, "Conv")
    weight = nodes.weights(node, 1, None, None, None, None)
    bias = nodes.weights(node, 2, len(weight)) if len(node.inputs) > 2 else np.zeros(len(weight), np.float32)
    stride, pads = node.attributes.get("strides", (1, 1)), node.attributes.get("pads", (0, 0, 0, 0))
    group = node.attributes.get("group", 1)
    if 0 in weight.shape or (square and weight.shape[2] != weight.shape[3]):
        refuse(node, f"has weights {list(weight.shape)}, expected a square kernel")
    if not isinstance(stride, tuple) or len(stride) != 2 or stride[0] != stride[1] or stride[0] < 1:
        refuse(node, "has strides that are not one number for both axes")
    if not isinstance(pads, tuple) or len(pads) != 4 or min(pads) < 0:
        refuse(node, "has pads that are not four numbers from 0 on")
    if not isinstance(group, int):
        refuse(node, "has a group that is no number")
    return ConvNode(node, weight, bias, group, stride[0], (pads[0], pads[1], pads[2], pads[3]))


def take_conv(nodes: Nodes, conv: ConvNode, x: MapValue, channels: int) -> str:
    """Take a convolution of a map, whose weights are for so many channels, and name its output."""
    node = conv.node
    if channels != x.channels:
        refuse(node, f"has weights for {channels} channels, expected {x.channels}")
    fixed: dict[str, Attribute] = {"dilations": (1, 1), "kernel_shape": conv.weight.shape[2:]}
    present = {name: value for name, value in fixed.items() if name in node.attributes}
    free = ("strides", "pads", "group")
    return nodes.take(node, [x.value, *node.inputs[1:3]], free, auto_pad=b"NOTSET", **present)


def take_whole_conv(nodes: Nodes, conv: ConvNode, x: MapValue) -> MapValue:
    """Take a convolution that joins all channels, with a kernel of any size."""
    height, width = conv.size(x.height, x.width)
    if min(height, width) < 1 or conv.group != 1:
        refuse(conv.node, f"makes a map of {height} x {width} out of {conv.group} groups, expected one group")
    return MapValue(take_conv(nodes, conv, x, conv.weight.shape[1]), len(conv.bias), height, width)


def take_pointwise(nodes: Nodes, conv: ConvNode, x: MapValue) -> tuple[Pointwise, MapValue]:
    """Take a convolution that is a product at every position."""
    if not conv.pointwise:
        refuse(conv.node, "is no pointwise convolution, which is expected there")
    out, channels = conv.weight.shape[:2]
    value = take_conv(nodes, conv, x, channels)
    return Pointwise(conv.weight.reshape(out, channels), conv.bias), MapValue(value, out, x.height, x.width)
