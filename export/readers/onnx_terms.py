"""ONNX nodes as terms: each operator that a file may be written with, and what it means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from bce.export.readers.onnx_graph import OnnxGraph, evaluate
from bce.export.readers.steps import Conv, Pairs
from bce.export.readers.terms import Tensor, Terms

Operand = Tensor | NDArray[Any] | None
Result = Tensor | NDArray[Any] | None

_SETTLING = {"Sigmoid", "Swish", "HardSwish", "HardSigmoid", "Relu", "Clip"}
"""Functions whose input is a layer's output: a factor and an offset before them belong to that layer."""

_ELEMENTWISE = _SETTLING | {
    *("Abs", "And", "Celu", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater", "GreaterOrEqual", "LeakyRelu", "Less"),
    *("LessOrEqual", "Log", "Max", "Min", "Mish", "Neg", "Not", "Or", "Pow", "Reciprocal", "Selu", "Sign", "Softplus"),
    *("Softsign", "Sqrt", "Tanh", "ThresholdedRelu", "Where"),
}
_SAME = {"Identity", "Dropout", "CastLike"}


def translate(
    graph: OnnxGraph, entry: str, entry_tensor: Tensor, known: Mapping[str, NDArray[Any]]
) -> tuple[Terms, dict[str, Tensor]]:
    """Every value that is computed from the network's input, as a tensor of terms.

    Args:
        graph: the file's graph.
        entry: the name of the network's input.
        entry_tensor: what it is.
        known: values that depend on the waveform's shape only, as they are for the batch of ``entry_tensor``.
    """
    translator = _Translator(graph, known)
    translator.values[entry] = entry_tensor
    for node in graph.nodes:
        if any(name in translator.values for name in node.input):
            translator.visit(node)
    return translator.terms, {name: x for name, x in translator.values.items() if isinstance(x, Tensor)}


class _Translator:
    def __init__(self, graph: OnnxGraph, known: Mapping[str, NDArray[Any]]) -> None:
        self.graph = graph
        self.known = known
        self.terms = Terms()
        self.values: dict[str, Tensor | NDArray[Any]] = {}

    def operand(self, name: str) -> Operand:
        if name in self.values:
            return self.values[name]
        return self.known[name] if name in self.known else self.graph.constant(name)

    def visit(self, node: onnx.NodeProto) -> None:
        operands = [self.operand(name) for name in node.input]
        result: Result = None
        opaque = any(isinstance(x, Tensor) and x.axes is None for x in operands)
        absent = any(x is None and name for x, name in zip(operands, node.input, strict=True))
        if not opaque and not absent:
            # in a damaged file operands and attributes contradict each other: such a step is named when it matters
            with suppress(IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
                result = self.apply(node, operands)
        if result is None:
            name = f" (node '{node.name}')" if node.name else ""
            result = self.terms.opaque(operands, f"{node.op_type}{name}")
        if isinstance(result, Tensor) and result.axes is not None and self.graph.consumers[node.output[0]] > 1:
            result = self.terms.settled(result)
        for name in node.output:
            self.values[name] = result

    def apply(self, node: onnx.NodeProto, operands: list[Operand]) -> Result:
        if not any(isinstance(x, Tensor) for x in operands):
            return self.evaluated(node, operands)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in _SAME:
            return operands[0]
        if node.op_type in _ELEMENTWISE:
            return self.elementwise(node, operands)
        handler: Callable[..., Result] | None = getattr(self, f"on_{node.op_type}", None)
        return None if handler is None else handler(node, attributes, *operands)

    def evaluated(self, node: onnx.NodeProto, arrays: Sequence[Any]) -> NDArray[Any] | None:
        try:
            return evaluate(node, arrays, self.graph.model.opset_import)[0]
        except Exception:  # numpy cannot run the operator: it becomes an opaque step, which is named when it matters
            return None

    def elementwise(self, node: onnx.NodeProto, operands: Sequence[Operand]) -> Tensor | None:
        if node.op_type in _SETTLING:
            operands = [self.terms.settled(x) if isinstance(x, Tensor) else x for x in operands]

        def on_grid(arrays: list[NDArray[Any]]) -> NDArray[Any]:
            present = iter(arrays)
            result = self.evaluated(node, [None if x is None else next(present) for x in operands])
            return np.empty(0) if result is None else result

        return self.terms.elementwise([x for x in operands if x is not None], on_grid)

    # --- arithmetic --------------------------------------------------------------------------------------------

    def on_Add(self, node: onnx.NodeProto, _: Any, a: Operand, b: Operand) -> Result:
        return self.arithmetic(node, a, b)

    on_Sub = on_Mul = on_Div = on_Sum = on_Add

    def arithmetic(self, node: onnx.NodeProto, a: Operand, b: Operand) -> Tensor | None:
        same = self.elementwise(node, [a, b])
        if same is not None:
            return same
        op = node.op_type
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if op == "Sub":
                b = replace(b, samples=-b.on_grid)
            elif op == "Div":
                with np.errstate(all="ignore"):
                    b = replace(b, samples=1.0 / b.on_grid)
            return self.terms.binary("mul" if op in ("Mul", "Div") else "add", a, b)
        if isinstance(a, Tensor):
            assert isinstance(b, np.ndarray)
            b = b.astype(np.float64)
            if op in ("Mul", "Div"):
                return self.terms.per_channel(a, b if op == "Mul" else 1.0 / b, 0.0)
            return self.terms.per_channel(a, 1.0, -b if op == "Sub" else b)
        assert isinstance(b, Tensor)
        assert isinstance(a, np.ndarray)
        if op == "Mul":
            return self.terms.per_channel(b, a, 0.0)
        return None if op == "Div" else self.terms.per_channel(b, -1.0 if op == "Sub" else 1.0, a)

    def on_Cast(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Tensor) -> Result:
        to_float = helper.tensor_dtype_to_np_dtype(attributes["to"]).kind == "f"
        return x if to_float and x.on_grid.dtype.kind == "f" else self.elementwise(node, [x])

    # --- layers ------------------------------------------------------------------------------------------------

    def on_Conv(
        self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, kernel: Operand, bias: Operand = None
    ) -> Result:
        if not isinstance(x, Tensor) or not isinstance(kernel, np.ndarray) or isinstance(bias, Tensor):
            return None
        if kernel.ndim != 4 or len(x.layout) != 4 or any(d != 1 for d in attributes.get("dilations", ())):
            return None
        time, mel = attributes.get("strides", (1, 1))
        padding = _conv_padding(attributes, x.dims[2:], kernel.shape[2:], (time, mel))
        return self.terms.conv(x, kernel, bias, (time, mel), padding, attributes.get("group", 1))

    def on_MatMul(self, node: onnx.NodeProto, _: Any, a: Operand, b: Operand) -> Result:
        if isinstance(a, Tensor) and isinstance(b, np.ndarray):
            return self.terms.dense(a, _matrix(b))
        if isinstance(a, np.ndarray) and isinstance(b, Tensor) and len(b.layout) > 1:
            order = [*range(len(b.layout) - 2), len(b.layout) - 1, len(b.layout) - 2]
            product = self.terms.dense(b.transposed(order), _matrix(a).T)
            return None if product is None else product.transposed(order)
        return None

    def on_Gemm(
        self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, matrix: Operand, bias: Operand = None
    ) -> Result:
        if not isinstance(x, Tensor) or not isinstance(matrix, np.ndarray) or isinstance(bias, Tensor):
            return None
        if attributes.get("transA", 0):
            return None
        if attributes.get("transB", 0):
            matrix = matrix.T
        if attributes.get("alpha", 1.0) != 1.0:
            matrix = matrix * np.float32(attributes["alpha"])
        return self.terms.dense(x, matrix, None if bias is None else bias.reshape(-1) * attributes.get("beta", 1.0))

    def on_BatchNormalization(
        self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, *statistics: Operand
    ) -> Result:
        arrays = [array.astype(np.float64) for array in statistics if isinstance(array, np.ndarray)]
        if not isinstance(x, Tensor) or len(arrays) != 4:
            return None
        epsilon = attributes.get("epsilon", 1e-5)
        gamma, beta, mean, variance = (a.reshape(-1, *[1] * (len(x.layout) - 2)) for a in arrays)
        scale = gamma / np.sqrt(variance + epsilon)
        y = self.terms.per_channel(x, scale, beta - mean * scale)
        if y is not None and isinstance(y.term, Conv):
            y = replace(y, term=replace(y.term, epsilon=epsilon))
        return y

    def on_Pad(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, *more: Operand) -> Result:
        pads, value, axes = (*more, None, None, None)[:3]
        if not isinstance(x, Tensor) or attributes.get("mode", b"constant") != b"constant":
            return None
        if attributes.get("value", 0.0) or isinstance(value, Tensor) or (value is not None and np.any(value)):
            return None
        flat = np.asarray(attributes["pads"] if pads is None else pads).tolist()
        which = range(len(x.layout)) if axes is None else [a % len(x.layout) for a in np.asarray(axes).tolist()]
        pairs = [(0, 0)] * len(x.layout)
        for axis, begin, end in zip(which, flat[: len(flat) // 2], flat[len(flat) // 2 :], strict=True):
            pairs[axis] = (begin, end)
        return self.terms.pad(x, pairs)

    # --- reductions --------------------------------------------------------------------------------------------

    def on_ReduceMean(
        self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, axes: Operand = None
    ) -> Result:
        kind: Any = {"ReduceMean": "mean", "ReduceMax": "max", "ReduceL2": "l2"}.get(node.op_type, "sum")
        chosen = attributes.get("axes", []) if axes is None else np.asarray(axes).tolist()
        if not isinstance(x, Tensor) or (not chosen and attributes.get("noop_with_empty_axes", 0)):
            return x
        if node.op_type == "ReduceSumSquare":
            x = replace(x, samples=x.on_grid**2)
        return self.terms.reduce(x, kind, chosen or range(len(x.layout)), bool(attributes.get("keepdims", 1)))

    on_ReduceSum = on_ReduceMax = on_ReduceL2 = on_ReduceSumSquare = on_ReduceMean

    def on_GlobalAveragePool(self, node: onnx.NodeProto, _: Any, x: Tensor) -> Result:
        kind: Any = "max" if node.op_type == "GlobalMaxPool" else "mean"
        return self.terms.reduce(x, kind, range(2, len(x.layout)), keepdims=True)

    on_GlobalMaxPool = on_GlobalAveragePool

    def on_AveragePool(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Tensor) -> Result:
        if tuple(attributes["kernel_shape"]) != x.dims[2:] or any(attributes.get("pads", ())):
            return None
        return self.terms.reduce(x, "mean", range(2, len(x.layout)), keepdims=True)

    # --- layout ------------------------------------------------------------------------------------------------

    def on_Shape(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Tensor) -> Result:
        return np.array(x.dims, np.int64)[attributes.get("start", 0) : attributes.get("end")]

    def on_Transpose(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Tensor) -> Result:
        return x.transposed(attributes.get("perm", range(len(x.layout))[::-1]))

    def on_Reshape(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, shape: Operand) -> Result:
        if not isinstance(x, Tensor) or not isinstance(shape, np.ndarray):
            return None
        wanted = shape.tolist()
        if not attributes.get("allowzero", 0):
            wanted = [x.dims[i] if n == 0 else n for i, n in enumerate(wanted)]
        if -1 in wanted:
            rest = math.prod(n for n in wanted if n != -1)
            wanted[wanted.index(-1)] = math.prod(x.dims) // max(rest, 1)
        return x.reshaped(wanted)

    def on_Flatten(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Tensor) -> Result:
        axis = attributes.get("axis", 1)
        return x.reshaped((math.prod(x.dims[:axis]), math.prod(x.dims[axis:])))

    def on_Unsqueeze(
        self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, axes: Operand = None
    ) -> Result:
        if not isinstance(x, Tensor):
            return None
        chosen = attributes.get("axes", []) if axes is None else np.asarray(axes).reshape(-1).tolist()
        rank = len(x.layout) + len(chosen)
        inserted = {axis % rank for axis in chosen}
        left = iter(x.layout)
        return replace(x, axes=tuple(() if i in inserted else next(left) for i in range(rank)))

    def on_Squeeze(self, node: onnx.NodeProto, attributes: dict[str, Any], x: Operand, axes: Operand = None) -> Result:
        if not isinstance(x, Tensor):
            return None
        chosen = attributes.get("axes") if axes is None else np.asarray(axes).reshape(-1).tolist()
        if chosen is None:
            chosen = [i for i, axis in enumerate(x.layout) if not axis]
        removed = {axis % len(x.layout) for axis in chosen}
        if any(x.layout[i] for i in removed):
            return None
        return replace(x, axes=tuple(axis for i, axis in enumerate(x.layout) if i not in removed))

    def on_Expand(self, node: onnx.NodeProto, _: Any, x: Operand, shape: Operand) -> Result:
        # spread over a map only to be combined with one, which broadcasts by itself
        known = isinstance(x, Tensor) and isinstance(shape, np.ndarray) and len(x.layout) == shape.size
        return x if known else None


def _matrix(array: NDArray[Any]) -> NDArray[Any]:
    """Without leading unit axes, as a view."""
    return array.reshape(array.shape[-2:]) if array.ndim > 2 and math.prod(array.shape[:-2]) == 1 else array


def _conv_padding(
    attributes: dict[str, Any], sizes: Sequence[int], kernel: Sequence[int], stride: tuple[int, int]
) -> Pairs:
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
        halves = [(t // 2, t - t // 2) for t in totals]
        first, second = halves if mode == b"SAME_UPPER" else [(b, a) for a, b in halves]
        return first, second
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0)) if mode == b"NOTSET" else (0, 0, 0, 0)
    return (top, bottom), (left, right)
