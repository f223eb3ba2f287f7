"""int8 arithmetic where it is worth its error: the pointwise convolutions of the late blocks, and the classifier.

A 1 x 1 convolution becomes a matrix product of uint8 activations and int8 weights (ONNX Runtime's
DynamicQuantizeMatMul): weights have one scale per output channel, activations one scale and zero point per call, taken
from the smallest and largest value of the window at hand. Its result is float32, so that swishes, depthwise
convolutions, gates and the residual stream stay as exact as they are, and as fast: between int8 neighbours a swish
takes twice as long as in float32. Ranges of the window at hand cost no more time than fixed ones, have half the error
and need no recordings to set them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from bce.engine.errors import ExportError
from bce.engine.files import write_bytes

LARGEST_WEIGHT = 64
"""Weights are -64..64. CPUs without VNNI add two products of 8 bits in 16: 255 x 64 x 2 is the most that fits, with
larger weights they would give other numbers than the machine that proved the bundle."""

_NCHW, _NHWC = "nchw", "nhwc"
_TO = {_NHWC: [0, 2, 3, 1], _NCHW: [0, 3, 1, 2]}
_CONTRIB = "com.microsoft"

BlockOf = Callable[[str], int | None]
"""The block that a pointwise convolution belongs to, by the name of its weights; None where it is to stay as it is."""


def quantize_backbone(
    source: str | os.PathLike[str], out: str | os.PathLike[str], first_block: int, block_of: BlockOf
) -> int:
    """Write the int8 form of a canonical backbone: same inputs and outputs, the same dynamic batch.

    Windows of one call share their activations' ranges: a window's numbers are its own at batch 1, as the engine runs
    it.

    Args:
        source: a backbone with batches as in ``docs/bundle.md``, channels first, such as
            :func:`bce.export.perch.graph.export_backbone` writes it.
        out: where the int8 graph goes.
        first_block: the first block whose pointwise convolutions become int8. The classifier, a product with constant
            weights, is always included where it is there.
        block_of: tells the pointwise convolutions of the family's network.

    Returns:
        How many convolutions and products became int8.

    Raises:
        ExportError: there is nothing to make int8.
    """
    model = onnx.load(os.fspath(source))
    graph = _Rewritten(model, first_block, block_of)
    if not graph.quantized:
        raise ExportError(f"has no pointwise convolution from block {first_block} on, and no classifier", source)
    write_bytes(out, graph.model().SerializeToString())
    return graph.quantized


def quantized_weights(weights: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights [inputs, outputs] as int8 -64..64 and a scale per output: weights = int8 * scale, to half a step."""
    exact = weights.astype(np.float64)
    largest = np.abs(exact).max(axis=0)
    scale = np.where(largest > 0, largest, 1.0) / LARGEST_WEIGHT
    return np.round(exact / scale).astype(np.int8), scale.astype(np.float32)


class _Rewritten:
    """The graph, node by node, with every map in the layout that its users want.

    Matrix products want channels last, convolutions channels first. A value may have both forms; the Transpose between
    them is written once, and ONNX Runtime joins it with the reordering that its convolutions need anyway.
    """

    def __init__(self, model: onnx.ModelProto, first_block: int, block_of: BlockOf) -> None:
        self._source = model
        self._first_block = first_block
        self._block_of = block_of
        self._arrays = {tensor.name: tensor for tensor in model.graph.initializer}
        self._users: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._users[name].append(node)
        self._forms: dict[str, dict[str, str]] = {}
        self._nodes: list[NodeProto] = []
        self.quantized = 0
        for node in model.graph.node:
            if self._is_pointwise(node):
                self._pointwise(node)
            elif self._is_classifier(node):
                self._product(node.input[0], node.input[1], node.output[0])
            elif self._is_channels_last(node):
                self._copy(node, _NHWC)
            else:
                self._copy(node, _NCHW)
        for value in model.graph.output:
            self._form(value.name, _NCHW)

    def model(self) -> onnx.ModelProto:
        source = self._source
        used = {name for node in self._nodes for name in node.input}
        graph = helper.make_graph(
            self._nodes,
            source.graph.name,
            source.graph.input,
            source.graph.output,
            [tensor for name, tensor in self._arrays.items() if name in used],
        )
        opsets = [opset for opset in source.opset_import if opset.domain != _CONTRIB]
        return helper.make_model(
            graph,
            opset_imports=[*opsets, helper.make_opsetid(_CONTRIB, 1)],
            ir_version=source.ir_version,
            producer_name=source.producer_name,
        )

    def _is_pointwise(self, node: NodeProto) -> bool:
        if node.op_type != "Conv":
            return False
        block = self._block_of(node.input[1])
        return block is not None and block >= self._first_block

    def _is_classifier(self, node: NodeProto) -> bool:
        return node.op_type == "MatMul" and node.input[1] in self._arrays

    def _is_channels_last(self, node: NodeProto) -> bool:
        """Whether an elementwise node of maps is best computed with channels last: where its inputs are so already,
        or its result is wanted so by all who use it."""
        if node.op_type not in ("Sigmoid", "Mul", "Add") or any(name in self._arrays for name in node.input):
            return False
        have = [_NHWC in self._forms.get(name, {}) for name in node.input]
        if all(have) or (node.op_type == "Add" and any(have)):
            return True
        users = self._users[node.output[0]]
        return node.op_type == "Mul" and bool(users) and all(map(self._is_pointwise, users))

    def _form(self, name: str, layout: str) -> str:
        """The name of a value in a layout."""
        forms = self._forms.setdefault(name, {_NCHW: name})
        if layout not in forms:
            forms[layout] = name if layout == _NCHW else f"{name}_{layout}"
            (other,) = (form for key, form in forms.items() if key != layout)
            self._emit("Transpose", [other], forms[layout], perm=_TO[layout])
        return forms[layout]

    def _copy(self, node: NodeProto, layout: str) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        mapped = [name in self._forms or layout == _NHWC for name in node.input]
        copy.input[:] = [
            self._form(name, layout) if form else name for name, form in zip(node.input, mapped, strict=True)
        ]
        if layout == _NHWC:
            copy.output[0] = self._channels_last(node.output[0])
        self._nodes.append(copy)

    def _channels_last(self, name: str) -> str:
        self._forms[name] = {_NHWC: f"{name}_{_NHWC}"}
        return self._forms[name][_NHWC]

    def _pointwise(self, node: NodeProto) -> None:
        kernel = numpy_helper.to_array(self._arrays[node.input[1]])
        matrix = f"{node.input[1]}_matrix"
        self._arrays[matrix] = numpy_helper.from_array(kernel.reshape(kernel.shape[:2]).T, matrix)
        source = self._form(node.input[0], _NHWC)
        self._product(source, matrix, self._channels_last(node.output[0]), node.input[2])

    def _product(self, source: str, matrix: str, output: str, bias: str = "") -> None:
        values, scale = quantized_weights(numpy_helper.to_array(self._arrays[matrix]))
        names = [f"{matrix}_int8", f"{matrix}_scale"]
        for name, array in zip(names, (values, scale), strict=True):
            self._arrays[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        inputs = [source, *names, *(["", bias] if bias else [])]
        self._emit("DynamicQuantizeMatMul", inputs, output, domain=_CONTRIB)
        self.quantized += 1

    def _emit(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> None:
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=f"{op_type}_{output}", **attributes))
