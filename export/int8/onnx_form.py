"""The int8 form of a backbone for ONNX Runtime: products that were chosen, with the weights that were rounded for them.

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
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bce.engine.compiled.layers import Pointwise, Rounded
from bce.engine.errors import ExportError
from bce.engine.files import write_bytes
from bce.engine.network.mbconv import read_layers
from bce.export.int8.forward import Array, Forward

LARGEST_WEIGHT = 64
"""Weights are -64..64. CPUs without VNNI add two products of 8 bits in 16: 255 x 64 x 2 is the most that fits, with
larger weights they would give other numbers than the machine that proved the bundle."""

_NCHW, _NHWC = "nchw", "nhwc"
_TO = {_NHWC: [0, 2, 3, 1], _NCHW: [0, 3, 1, 2]}
_CONTRIB = "com.microsoft"

_Chosen = Mapping[str, tuple[Rounded, Array]]


def quantize_backbone(source: str | os.PathLike[str], out: str | os.PathLike[str], rounded: _Chosen) -> int:
    """Write the int8 form of a canonical backbone: same inputs and outputs, the same dynamic batch.

    Windows of one call share their activations' ranges: a window's numbers are its own at batch 1, as the engine runs
    it. A head of larger patches stays as it is.

    Args:
        source: a backbone as :func:`bce.engine.network.mbconv.read_layers` reads it.
        out: where the int8 graph goes.
        rounded: weights of -64..64 and the bias beside them, of the products that become int8, by the names that
            :class:`bce.export.int8.forward.Forward` gives them; none for a copy.

    Returns:
        How many products became int8.

    Raises:
        NotMbconv: the source is another network.
        ExportError: there is no product of such a name, or none that can become int8.
        ValueError: weights are larger than 64.
    """
    layers = Forward(read_layers(source)).layers
    for name, (weights, _) in rounded.items():
        if name not in layers:
            raise ExportError(f"has no product '{name}' to make int8", source)
        if np.abs(weights.values.astype(np.int16)).max(initial=0) > LARGEST_WEIGHT:
            raise ValueError(f"weights of '{name}' are not within -{LARGEST_WEIGHT}..{LARGEST_WEIGHT}")
    model = onnx.load(os.fspath(source))
    products = {node.output[0]: name for name, node in _located(model, layers).items() if name in rounded}
    if rounded and not products:
        raise ExportError("has no product that was chosen to become int8", source)
    write_bytes(out, _Rewritten(model, products, rounded).model().SerializeToString())
    return len(products)


def nodes_of(source: str | os.PathLike[str]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The names of each product's node in a canonical backbone, and in its int8 form: of those that can become int8.

    Both are names that ONNX Runtime may give it: its own, and that of a convolution in another layout.

    Raises:
        NotMbconv: the source is another network.
    """
    located = _located(onnx.load(os.fspath(source)), Forward(read_layers(source)).layers)
    return {name: ((node.name, f"{node.output[0]}_nchwc"), (_int8_node(name),)) for name, node in located.items()}


def _located(model: onnx.ModelProto, layers: Mapping[str, Pointwise]) -> dict[str, NodeProto]:
    """The node of each product that is one: a head of larger patches is none."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    names: dict[bytes | None, list[str]] = defaultdict(list)
    for name, layer in layers.items():
        names[_key(layer.weight, layer.bias)].append(name)
    found = {}
    for node in model.graph.node:  # in the order in which they run, as the products are: equal ones are told apart
        if alike := names.get(_key_of(node, arrays)):
            found[alike.pop(0)] = node
    return found


def _int8_node(name: str) -> str:
    return f"int8_{name}"


def _key(weight: Array, bias: Array) -> bytes:
    return repr(weight.shape).encode() + np.ascontiguousarray(weight).tobytes() + np.ascontiguousarray(bias).tobytes()


def _key_of(node: NodeProto, arrays: Mapping[str, TensorProto]) -> bytes | None:
    """What tells a product from others: its weights [out, in] and its bias; None where a node is none."""
    if node.op_type not in ("Conv", "MatMul", "Gemm") or len(node.input) < 2 or node.input[1] not in arrays:
        return None
    weight: NDArray[np.float32] = numpy_helper.to_array(arrays[node.input[1]])
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Conv":
        if weight.shape[2:] != (1, 1) or attributes.get("group", 1) != 1:
            return None
        weight = weight[:, :, 0, 0]
    elif not attributes.get("transB", 0):
        weight = weight.T
    given = [arrays[name] for name in node.input[2:] if name in arrays]
    return _key(weight, numpy_helper.to_array(given[0]) if given else np.zeros(len(weight), np.float32))


class _Rewritten:
    """The graph, node by node, with every map in the layout that its users want.

    Matrix products want channels last, convolutions channels first. A value may have both forms; the Transpose between
    them is written once, and ONNX Runtime joins it with the reordering that its convolutions need anyway.

    Args:
        model: the graph.
        products: the names of those that become int8, by the values that they make.
        rounded: as of :func:`quantize_backbone`.
    """

    def __init__(self, model: onnx.ModelProto, products: Mapping[str, str], rounded: _Chosen) -> None:
        self._source = model
        self._products = products
        self._rounded = rounded
        self._arrays = {tensor.name: tensor for tensor in model.graph.initializer}
        self._users: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._users[name].append(node)
        self._forms: dict[str, dict[str, str]] = {}
        self._nodes: list[NodeProto] = []
        for node in model.graph.node:
            if self._is_pointwise(node):
                self._product(node, self._form(node.input[0], _NHWC), self._channels_last(node.output[0]))
            elif node.output[0] in products:
                self._product(node, node.input[0], node.output[0])
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
        return node.op_type == "Conv" and node.output[0] in self._products

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

    def _product(self, node: NodeProto, source: str, output: str) -> None:
        name = self._products[node.output[0]]
        weights, bias = self._rounded[name]
        arrays = {
            f"{name}_int8": weights.values.T,
            f"{name}_scale": weights.scale.astype(np.float32),
            **({f"{name}_bias": bias.astype(np.float32)} if bias.any() else {}),
        }
        for tensor, array in arrays.items():
            self._arrays[tensor] = numpy_helper.from_array(np.ascontiguousarray(array), tensor)
        first, *rest = [*arrays]
        self._emit("DynamicQuantizeMatMul", [source, first, rest[0], "", *rest[1:]], output, domain=_CONTRIB)
        self._nodes[-1].name = _int8_node(name)

    def _emit(self, op_type: str, inputs: list[str], output: str, **attributes: object) -> None:
        while not inputs[-1]:
            inputs.pop()
        self._nodes.append(helper.make_node(op_type, inputs, [output], name=f"{op_type}_{output}", **attributes))
