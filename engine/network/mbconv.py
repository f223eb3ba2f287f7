"""An exported graph as the layers of an MBConv network, if it is exactly that.

Known are the canonical graphs that ``bce-export`` writes: a stem, MBConv blocks with or without gates, perhaps a head
and a ProtoPNet or dense classifier; what is put out are means of maps, maps, and the classifier's logits. Recognised is
who feeds whom, never a name. Every node must have its place and every input and attribute be what the layers say; a
graph in which anything else is found (another activation, int8, a dilation) is refused, and runs in ONNX Runtime.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.layers import (
    Block,
    Gate,
    Layers,
    PatchHead,
    Pointwise,
    PooledStem,
    Prototypes,
    Spatial,
    Tap,
    TapKind,
)
from bce.engine.errors import BceError, one_line
from bce.engine.network.graph_maps import ConvNode, MapValue, conv_of, take_conv, take_pointwise
from bce.engine.network.graph_matching import ONNX, Misfit, Nodes, refuse
from bce.engine.network.onnx_graph import FLOAT32, Attribute, Graph, Node, read_graph
from bce.engine.network.relu_layers import dense, patch_head, pooled_stem

OPSET = 18
"""The version of ONNX' operators that the canonical graph is written for: others may mean something else."""


class NotMbconv(BceError):
    """A graph is no canonical MBConv network, which is no fault of it: it runs in ONNX Runtime."""


def read_layers(path: str | os.PathLike[str]) -> Layers:
    """The layers of a graph, with its weights as views of the mapped file (:func:`~.onnx_graph.read_graph`).

    Raises:
        BundleError: the file cannot be read, is damaged, or no ONNX file.
        NotMbconv: it is another graph; naming the file and the node that does not fit.
    """
    graph = read_graph(path)
    try:
        return recognised(graph)
    except Misfit as misfit:
        raise NotMbconv(f"is no MBConv network that is known: {misfit}", path) from None


def recognised(graph: Graph) -> Layers:
    """The layers of a graph.

    Raises:
        Misfit: it has other ones, or others beside them; naming the node that does not fit.
    """
    if {version for domain, version in graph.opsets.items() if domain in ONNX} != {OPSET}:
        raise Misfit(f"it is not written for version {OPSET} of ONNX' operators")
    if graph.more:
        raise Misfit("it has functions or sparse tensors")
    return _Network(graph).layers()


MOST_KERNEL = 11
"""Height and width of a convolution: kernels are written out whole."""


class _Network:
    """The nodes of a graph, read from its input on."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = Nodes(graph)
        self._inputs = [given.name for given in graph.inputs]
        self._taps: dict[str, Tap] = {}
        self._means: list[str] = []
        """Of the map that taps were last found of."""

    def layers(self) -> Layers:
        given = x = self._input()
        stem: Spatial | PooledStem
        if x.value in self._inputs:
            stem, x = pooled_stem(self._nodes, x)
        else:
            stem, x = self._spatial(self._conv(x), x)
        blocks: list[Block] = []
        head: Pointwise | PatchHead | None = None
        prototypes, classifier = None, None
        while head is None and self._nodes.only(x.value, "Conv"):
            expand, inner = self._expand(x)
            if expand is not None and self._nodes.only(inner.value, "Conv") is None:
                head, x = expand, inner
            else:
                block, x = self._block(x, expand, inner)
                self._find_taps(x, "block", len(blocks))
                blocks.append(block)
        if not blocks:
            raise Misfit(f"{self._nodes.made(x.value)} is followed by no block")
        if head is None and (factor := self._nodes.only(x.value, "Mul")):
            head, x = patch_head(self._nodes, x, factor)
        if head is not None:
            self._find_taps(x, "embedding")
            if self._nodes.users(x.value, "ReduceL2"):
                prototypes = self._prototypes(x)
            classifier = self._dense(x)
        for node in self._nodes.left:
            refuse(node, "has no place in one")
        return Layers((given.height, given.width), stem, tuple(blocks), self._outputs(), head, prototypes, classifier)

    def _input(self) -> MapValue:
        """The one input [batch, height, width], as a map of one channel; or [batch, channels, height, width]."""
        if len(self._graph.inputs) != 1:
            raise Misfit(f"it has {len(self._graph.inputs)} inputs, expected one")
        (given,) = self._graph.inputs
        sizes = [size for size in (given.shape or ())[1:] if isinstance(size, int) and size > 0]
        if given.type != FLOAT32 or len(given.shape or ()) not in (3, 4) or len(sizes) != len(given.shape or ()) - 1:
            raise Misfit(
                f"its input '{one_line(given.name)}' is not float32 [batch, height, width], with channels or not"
            )
        if len(sizes) == 3:
            return MapValue(given.name, *sizes)
        node = self._nodes.user(given.name, "Unsqueeze")
        if self._nodes.integers(node, 1) != (1,):
            refuse(node, f"adds the axes {list(self._nodes.integers(node, 1))}, expected [1]")
        return MapValue(self._nodes.take(node, [given.name, node.inputs[1]]), 1, *sizes)

    def _outputs(self) -> tuple[Tap, ...]:
        for output in self._graph.outputs:
            if output.name not in self._taps:
                made = self._nodes.made(output.name)
                raise Misfit(f"{made} makes the output '{one_line(output.name)}', expected a map, its mean or logits")
        return tuple(self._taps[output.name] for output in self._graph.outputs)

    def _find_taps(self, x: MapValue, kind: TapKind, block: int = -1) -> None:
        """Note a map and each mean of it, which may be outputs."""
        self._means = []
        self._taps[x.value] = Tap(x.value, kind, block, pooled=False)
        for pool in self._nodes.users(x.value, "GlobalAveragePool"):
            mean = self._nodes.take(pool, [x.value])
            for node in self._nodes.users(mean, "Reshape"):
                self._means.append(self._reshaped(node, mean, -1, x.channels))
            for node in self._nodes.users(mean, "Flatten"):
                # what is not said is 1 as well
                axis: dict[str, Attribute] = {"axis": 1} if "axis" in node.attributes else {}
                self._means.append(self._nodes.take(node, [mean], (), **axis))
        self._taps.update({name: Tap(name, kind, block) for name in self._means})

    def _dense(self, x: MapValue) -> Pointwise | None:
        """A dense classifier on the mean of the head's map, and its logits as what may be an output."""
        nodes = self._nodes
        found = [
            (node, mean) for mean in self._means for kind in ("Gemm", "MatMul") for node in nodes.users(mean, kind)
        ]
        if not found:
            return None
        layer, logits = dense(nodes, *found[0], x.channels)
        self._taps[logits] = Tap(logits, "dense")
        return layer

    # layers -----------------------------------------------------------------------------------------------------------

    def _expand(self, x: MapValue) -> tuple[Pointwise | None, MapValue]:
        """A pointwise convolution of a map and its swish, where it has one, and what comes out of them."""
        conv = self._conv(x)
        if not conv.pointwise:
            return None, x
        expand, y = self._pointwise(conv, x)
        return expand, self._swish(y)

    def _block(self, x: MapValue, expand: Pointwise | None, inner: MapValue) -> tuple[Block, MapValue]:
        """The rest of a block behind its expansion, and the block's map."""
        conv = self._conv(inner)
        if conv.group != len(conv.weight):
            refuse(conv.node, f"has {conv.group} groups, expected one for each of its {len(conv.weight)} channels")
        depthwise, y = self._spatial(conv, inner)
        gate: Gate | None = None
        if self._nodes.users(y.value, "GlobalAveragePool"):
            gate, y = self._gate(y)
        project, y = self._pointwise(self._conv(y), y)
        add = self._nodes.both(x.value, y.value, "Add")
        if add is not None:
            if replace(x, value="") != replace(y, value=""):
                refuse(add, "adds maps of different shapes")
            y = replace(y, value=self._nodes.take(add, add.inputs))
        return Block(expand, depthwise, gate, project, add is not None), y

    def _gate(self, x: MapValue) -> tuple[Gate, MapValue]:
        nodes = self._nodes
        mean = MapValue(nodes.take(nodes.user(x.value, "GlobalAveragePool"), [x.value]), x.channels, 1, 1)
        reduce, squeezed = self._pointwise(self._conv(mean), mean)
        squeezed = self._swish(squeezed)
        expand, factor = self._pointwise(self._conv(squeezed), squeezed)
        return Gate(reduce, expand), self._times_sigmoid(x, factor)

    def _swish(self, x: MapValue) -> MapValue:
        return self._times_sigmoid(x, x)

    def _times_sigmoid(self, x: MapValue, factor: MapValue) -> MapValue:
        """A map times the sigmoid of one that has its shape, or 1 x 1 positions."""
        sigmoid = self._nodes.take(self._nodes.user(factor.value, "Sigmoid"), [factor.value])
        product = self._nodes.both(x.value, sigmoid, "Mul")
        if product is None:
            product = self._nodes.user(sigmoid, "Mul")
            refuse(product, f"does not multiply '{one_line(sigmoid)}' and '{one_line(x.value)}'")
        return replace(x, value=self._nodes.take(product, product.inputs))

    def _conv(self, x: MapValue) -> ConvNode:
        return conv_of(self._nodes, x)

    def _pointwise(self, conv: ConvNode, x: MapValue) -> tuple[Pointwise, MapValue]:
        return take_pointwise(self._nodes, conv, x)

    def _spatial(self, conv: ConvNode, x: MapValue) -> tuple[Spatial, MapValue]:
        """A convolution of one input channel for each output channel with its swish, and what comes out of them."""
        if conv.weight.shape[1] != 1:
            refuse(conv.node, f"joins {conv.weight.shape[1]} channels, expected one")
        kernel = conv.weight.shape[2]
        if kernel > MOST_KERNEL or conv.stride > kernel or max(conv.padding) >= kernel:
            refuse(
                conv.node,
                f"has a kernel of {kernel} with stride {conv.stride} and pads {list(conv.padding)}, expected at most "
                f"{MOST_KERNEL}, no stride above the kernel, and pads below it",
            )
        value = take_conv(self._nodes, conv, x, conv.group)
        spatial = Spatial(conv.weight[:, 0], conv.bias, conv.stride, conv.padding)
        height, width = spatial.size(x.height, x.width)
        if min(height, width) < 1:
            refuse(conv.node, f"makes a map of {height} x {width}")
        return spatial, self._swish(MapValue(value, len(conv.bias), height, width))

    # the classifier ---------------------------------------------------------------------------------------------------

    def _prototypes(self, x: MapValue) -> Prototypes:
        """The classifier on the head's map, and its logits as what may be an output."""
        nodes = self._nodes
        length = self._reduced(x.value, "ReduceL2", 1, keepdims=1)
        longer = nodes.user(length, "Add")
        epsilon = self._number(longer, length)
        divided = nodes.user(x.value, "Div")
        unit = nodes.take(divided, [x.value, nodes.take(longer, [length, longer.inputs[1]])])
        rows = self._reshape(unit, -1, x.channels, x.height * x.width)
        rows = nodes.take(nodes.user(rows, "Transpose"), [rows], perm=(0, 2, 1))
        product = nodes.user(rows, "MatMul")
        vectors = nodes.weights(product, 1, x.channels, None)
        best = self._reduced(nodes.take(product, [rows, product.inputs[1]]), "ReduceMax", 1)
        node = nodes.user(best, "Reshape")
        shape = nodes.integers(node, 1)
        if len(shape) != 3 or shape[0] != -1 or min(shape[1:]) < 1 or shape[1] * shape[2] != vectors.shape[1]:
            refuse(node, f"has the shape {list(shape)}, expected [-1, classes, prototypes of a class]")
        best = self._reshaped(node, best, *shape)
        weighted = nodes.user(best, "Mul")
        strength = nodes.weights(weighted, 1, *shape[1:])
        logits = self._reduced(nodes.take(weighted, [best, weighted.inputs[1]]), "ReduceSum", 2)
        shifted = nodes.user(logits, "Add")
        bias = nodes.weights(shifted, 1, shape[1])
        logits = nodes.take(shifted, [logits, shifted.inputs[1]])
        members = None
        if gather := nodes.only(logits, "Gather"):
            members, logits = self._members(gather, logits, classes=shape[1])
        self._taps[logits] = Tap(logits, "label")
        return Prototypes(vectors, strength, bias, members, epsilon)

    def _members(self, gather: Node, logits: str, classes: int) -> tuple[NDArray[np.int64], str]:
        """Places of logits [outputs, most members], and the largest of each row."""
        nodes = self._nodes
        places = nodes.integers(gather, 1)
        if not places or min(places) < 0 or max(places) >= classes:
            refuse(gather, f"takes places outside 0..{classes - 1}")
        chosen = nodes.take(gather, [logits, gather.inputs[1]], axis=1)
        node = nodes.user(chosen, "Reshape")
        shape = nodes.integers(node, 1)
        if len(shape) != 3 or shape[0] != -1 or min(shape[1:]) < 1 or shape[1] * shape[2] != len(places):
            refuse(node, f"has the shape {list(shape)}, expected [-1, outputs, members]")
        largest = self._reduced(self._reshaped(node, chosen, *shape), "ReduceMax", 2)
        return np.array(places, np.int64).reshape(shape[1:]), largest

    def _number(self, node: Node, value: str) -> float:
        """The constant that is added to a value: a number above 0."""
        added = self._nodes.weights(node, 1)
        if not added > 0:
            refuse(node, f"adds {float(added)} to '{one_line(value)}', expected a number above 0")
        return float(added)

    def _reduced(self, value: str, operator: str, axis: int, keepdims: int = 0) -> str:
        node = self._nodes.user(value, operator)
        if self._nodes.integers(node, 1) != (axis,):
            refuse(node, f"goes over the axes {list(self._nodes.integers(node, 1))}, expected [{axis}]")
        return self._nodes.take(node, [value, node.inputs[1]], keepdims=keepdims, noop_with_empty_axes=0)

    def _reshape(self, value: str, *shape: int) -> str:
        return self._reshaped(self._nodes.user(value, "Reshape"), value, *shape)

    def _reshaped(self, node: Node, value: str, *shape: int) -> str:
        """Take a Reshape to this shape; none of its sizes is 0, so that ``allowzero`` says nothing."""
        if self._nodes.integers(node, 1) != shape:
            refuse(node, f"has the shape {list(self._nodes.integers(node, 1))}, expected {list(shape)}")
        return self._nodes.take(node, [value, node.inputs[1]], ("allowzero",))
