"""Layers with ReLU around the blocks of a graph: a stem with pooling, a head of patches, a dense classifier."""

from __future__ import annotations

from dataclasses import replace

from bce.engine.compiled.layers import Array, PatchHead, Pointwise, PooledStem
from bce.engine.errors import one_line
from bce.engine.network.graph_maps import MapValue, conv_of, take_pointwise, take_whole_conv
from bce.engine.network.graph_matching import Nodes, refuse
from bce.engine.network.onnx_graph import Attribute, Node

MOST_TAPS = 512
"""Numbers that an output of a whole convolution sees of the input: the stem's are written out, row by row."""


def pooled_stem(nodes: Nodes, x: MapValue) -> tuple[PooledStem, MapValue]:
    """Convolution, ReLU, maxima and means of pairs of pixels of a row, joined, and a 1x1 convolution."""
    conv = conv_of(nodes, x, square=False)
    high, wide = conv.weight.shape[2:]
    top, left, bottom, right = conv.padding
    if conv.weight[0].size > MOST_TAPS or conv.stride > min(high, wide) or max(top, bottom) >= high:
        refuse(conv.node, f"has a kernel of {high} x {wide} with stride {conv.stride} and pads {list(conv.padding)}")
    if max(left, right) >= wide:
        refuse(conv.node, f"has pads {list(conv.padding)} that are not below its kernel")
    y = _relu(nodes, take_whole_conv(nodes, conv, x))
    if y.width % 2:
        refuse(conv.node, f"makes rows of {y.width} pixels, expected pairs")
    largest = nodes.take(nodes.user(y.value, "MaxPool"), [y.value], (), storage_order=0, **_PAIRS)
    mean = nodes.take(nodes.user(y.value, "AveragePool"), [y.value], ("count_include_pad",), **_PAIRS)
    joined = nodes.take(nodes.user(largest, "Concat"), [largest, mean], axis=1)
    both = MapValue(joined, 2 * y.channels, y.height, y.width // 2)
    pool, out = take_pointwise(nodes, conv_of(nodes, both), both)
    return PooledStem(conv.weight, conv.bias, conv.stride, conv.padding, pool), out


_PAIRS: dict[str, Attribute] = {
    "kernel_shape": (1, 2),
    "strides": (1, 2),
    "pads": (0, 0, 0, 0),
    "dilations": (1, 1),
    "ceil_mode": 0,
    "auto_pad": b"NOTSET",
}


def patch_head(nodes: Nodes, x: MapValue, factor: Node) -> tuple[PatchHead, MapValue]:
    """A factor and an offset for each channel, ReLU, a convolution without zeros around, ReLU."""
    scale, scaled = _for_channels(nodes, factor, x)
    shift, moved = _for_channels(nodes, nodes.user(scaled.value, "Add"), scaled)
    y = _relu(nodes, moved)
    conv = conv_of(nodes, y)
    if conv.stride != 1 or any(conv.padding):
        refuse(conv.node, f"has stride {conv.stride} and pads {list(conv.padding)}, expected 1 and none")
    out = _relu(nodes, take_whole_conv(nodes, conv, y))
    return PatchHead(scale, shift, conv.weight, conv.bias), out


def _for_channels(nodes: Nodes, node: Node, x: MapValue) -> tuple[Array, MapValue]:
    """Take a node with a map and a number for each channel, [channels, 1, 1] or [1, channels, 1, 1], in any order."""
    place = 0 if node.inputs[1:] == (x.value,) else 1
    shape = x.channels, 1, 1
    numbers = nodes.weights(node, place, *((1, *shape) if nodes.axes(node, place) == 4 else shape))
    given = [x.value, x.value]
    given[place] = node.inputs[place]
    return numbers.reshape(-1), replace(x, value=nodes.take(node, given))


def dense(nodes: Nodes, node: Node, mean: str, channels: int) -> tuple[Pointwise, str]:
    """A dense layer on the mean of a map, a Gemm or a MatMul and an Add, and its output."""
    if node.operator == "Gemm":
        weight = nodes.weights(node, 1, None, channels)
        bias = nodes.weights(node, 2, len(weight))
        value = nodes.take(node, [mean, *node.inputs[1:3]], alpha=1.0, beta=1.0, transA=0, transB=1)
    else:
        weight = nodes.weights(node, 1, channels, None).T
        product = nodes.take(node, [mean, node.inputs[1]])
        node = nodes.user(product, "Add")
        bias = nodes.weights(node, 1, len(weight))
        value = nodes.take(node, [product, node.inputs[1]])
    if not len(weight):
        refuse(node, f"makes no numbers of '{one_line(mean)}'")
    return Pointwise(weight, bias), value


def _relu(nodes: Nodes, x: MapValue) -> MapValue:
    return replace(x, value=nodes.take(nodes.user(x.value, "Relu"), [x.value]))
