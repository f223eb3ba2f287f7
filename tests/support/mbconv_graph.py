"""Layers as an ONNX graph of the canonical form, written node by node: the way back from what the engine reads."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bce.engine.compiled.layers import Block, Layers, Padding, PatchHead, Pointwise, PooledStem, Prototypes, Spatial


def to_onnx(layers: Layers) -> onnx.ModelProto:
    """A model with an input ``x`` [batch, height, width] and an output for each tap."""
    return _Writer(layers).model()


class _Writer:
    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        height, width = layers.shape
        if isinstance(layers.stem, PooledStem):
            y = self.pooled_stem(layers.stem, "x")
        else:
            y = self.swish(self.spatial(layers.stem, self.add("Unsqueeze", "x", self.int64s(1)), 1))
        maps, size = [], layers.stem.size(height, width)
        for block in layers.blocks:
            y = self.block(block, y)
            maps.append((y, len(block.project.bias)))
            size = block.depthwise.size(*size)
        embedding = ("", 0)
        if isinstance(layers.head, PatchHead):
            embedding = self.patch_head(layers.head, y), len(layers.head.bias)
        elif layers.head is not None:
            embedding = self.swish(self.pointwise(layers.head, y)), len(layers.head.bias)
        label, classes = "", 0
        if layers.prototypes is not None:
            label, classes = self.prototypes(layers.prototypes, *embedding, size[0] * size[1])
        # an output that is an inner value takes its name: the node that makes it is told to make that name
        self.outputs: list[tuple[str, int]] = []
        self.names: dict[str, str] = {}
        for tap in layers.taps:
            value, channels = maps[tap.block] if tap.kind == "block" else embedding
            if tap.kind == "label":
                value, channels = label, classes
            elif tap.kind == "dense":
                assert layers.dense is not None
                mean = self.add("Reshape", self.add("GlobalAveragePool", value), self.int64s(-1, channels))
                given = mean, self.constant(layers.dense.weight), self.constant(layers.dense.bias)
                value = self.add("Gemm", *given, transB=1)
            elif tap.pooled:
                value = self.add("Reshape", self.add("GlobalAveragePool", value), self.int64s(-1, channels))
            self.names[value] = tap.name
            self.outputs.append((tap.name, 2 if tap.kind in ("label", "dense") or tap.pooled else 4))

    def model(self) -> onnx.ModelProto:
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [self.names.get(name, name) for name in names]
        outputs = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *[None] * (axes - 1)])
            for name, axes in self.outputs
        ]
        given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", *self.layers.input_shape])
        graph = helper.make_graph(self.nodes, "mbconv", [given], outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        number = len(self.nodes)
        self.nodes.append(helper.make_node(operator, inputs, [f"v{number}"], name=f"n{number}", **attributes))
        return f"v{number}"

    def constant(self, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.array(array, order="C"), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def int64s(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def conv(self, x: str, weight: np.ndarray, bias: np.ndarray, group: int, stride: int, pads: Padding) -> str:
        inputs = x, self.constant(weight), self.constant(bias)
        return self.add("Conv", *inputs, group=group, strides=[stride, stride], pads=list(pads), dilations=[1, 1])

    def pointwise(self, layer: Pointwise, x: str) -> str:
        return self.conv(x, layer.weight[:, :, None, None], layer.bias, 1, 1, (0, 0, 0, 0))

    def spatial(self, layer: Spatial, x: str, group: int) -> str:
        return self.conv(x, layer.weight[:, None], layer.bias, group, layer.stride, layer.padding)

    def pooled_stem(self, stem: PooledStem, x: str) -> str:
        y = self.add("Relu", self.conv(x, stem.weight, stem.bias, 1, stem.stride, stem.padding))
        pairs = {"kernel_shape": [1, 2], "strides": [1, 2]}
        both = self.add("Concat", self.add("MaxPool", y, **pairs), self.add("AveragePool", y, **pairs), axis=1)
        return self.pointwise(stem.pool, both)

    def patch_head(self, head: PatchHead, x: str) -> str:
        y = self.add("Mul", x, self.constant(head.scale[:, None, None]))
        y = self.add("Relu", self.add("Add", y, self.constant(head.shift[:, None, None])))
        return self.add("Relu", self.conv(y, head.weight, head.bias, 1, 1, (0, 0, 0, 0)))

    def swish(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def block(self, block: Block, x: str) -> str:
        y = x if block.expand is None else self.swish(self.pointwise(block.expand, x))
        y = self.swish(self.spatial(block.depthwise, y, len(block.depthwise.bias)))
        if block.gate is not None:
            squeezed = self.swish(self.pointwise(block.gate.reduce, self.add("GlobalAveragePool", y)))
            y = self.add("Mul", self.add("Sigmoid", self.pointwise(block.gate.expand, squeezed)), y)
        y = self.pointwise(block.project, y)
        return self.add("Add", x, y) if block.residual else y

    def prototypes(self, prototypes: Prototypes, x: str, channels: int, positions: int) -> tuple[str, int]:
        classes, each = prototypes.strength.shape
        length = self.add("ReduceL2", x, self.int64s(1), keepdims=1)
        longer = self.add("Add", length, self.constant(np.array(prototypes.epsilon, np.float32)))
        rows = self.add("Reshape", self.add("Div", x, longer), self.int64s(-1, channels, positions))
        rows = self.add("Transpose", rows, perm=[0, 2, 1])
        product = self.add("MatMul", rows, self.constant(prototypes.vectors))
        best = self.add("ReduceMax", product, self.int64s(1), keepdims=0)
        best = self.add("Reshape", best, self.int64s(-1, classes, each))
        weighted = self.add("Mul", best, self.constant(prototypes.strength))
        summed = self.add("ReduceSum", weighted, self.int64s(2), keepdims=0)
        logits = self.add("Add", summed, self.constant(prototypes.bias))
        if prototypes.members is None:
            return logits, classes
        outputs, most = prototypes.members.shape
        chosen = self.add("Gather", logits, self.constant(prototypes.members.ravel()), axis=1)
        rows = self.add("Reshape", chosen, self.int64s(-1, outputs, most))
        return self.add("ReduceMax", rows, self.int64s(2), keepdims=0), outputs
