"""TFLite operators as terms: each one that a file may be written with, and what it means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bce.export.readers.functions import FUNCTIONS
from bce.export.readers.steps import Affine, Pairs
from bce.export.readers.terms import Tensor, Terms
from bce.export.readers.tflite_graph import Operator, TfliteGraph

Array = NDArray[Any]
Operand = Tensor | Array | None


_SETTLING: dict[str, Callable[..., Array]] = {
    "LOGISTIC": FUNCTIONS["sigmoid"],
    "HARD_SWISH": FUNCTIONS["hard swish"],
    "RELU": FUNCTIONS["ReLU"],
    "RELU6": FUNCTIONS["ReLU6"],
    "RELU_0_TO_1": lambda x: np.clip(x, 0, 1),
    "RELU_N1_TO_1": lambda x: np.clip(x, -1, 1),
    "TANH": FUNCTIONS["tanh"],
    "GELU": FUNCTIONS["GELU"],
    "ELU": lambda x: np.maximum(x, 0) + np.expm1(np.minimum(x, 0)),
}
"""Functions whose input is a layer's output: a factor and an offset before them belong to that layer."""

_ELEMENTWISE: dict[str, Callable[..., Array]] = {
    **_SETTLING,
    "ABS": np.abs,
    "EXP": np.exp,
    "LOG": np.log,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "NEG": np.negative,
    "POW": np.power,
    "RSQRT": lambda x: 1.0 / np.sqrt(x),
    "SQRT": np.sqrt,
    "SQUARE": np.square,
    "SQUARED_DIFFERENCE": lambda a, b: np.square(a - b),
}
_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "DIV": np.divide,
}
_RESHAPING = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
"""Operators that change axes alone: the output's own shape says how."""
_REDUCTIONS: dict[str, Literal["mean", "sum", "max"]] = {"MEAN": "mean", "SUM": "sum", "REDUCE_MAX": "max"}
_FUSED = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH")
"""The schema's fused activations by number."""

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def translate(
    graph: TfliteGraph, entry: int, entry_tensor: Tensor, length_offset: float
) -> tuple[Terms, dict[int, Tensor]]:
    """Every tensor that is computed from the network's input, as a tensor of terms.

    Args:
        graph: the file's graph.
        entry: the index of the network's input.
        entry_tensor: what it is.
        length_offset: what is added to a vector's length before a division by it: the converter makes one operator of
            the whole, and drops it.
    """
    translator = _Translator(graph, length_offset)
    translator.values[entry] = entry_tensor
    for op in graph.operators:
        if any(index in translator.values for index in op.inputs):
            translator.visit(op)
    return translator.terms, translator.values


class _Translator:
    def __init__(self, graph: TfliteGraph, length_offset: float) -> None:
        self.graph = graph
        self.length_offset = length_offset
        self.terms = Terms()
        self.values: dict[int, Tensor] = {}

    def visit(self, op: Operator) -> None:
        if op.name == "SHAPE":  # sizes, not numbers of the network: what a reshape makes of them is in its output
            return
        inputs = op.inputs[:1] if op.name in _RESHAPING else op.inputs
        operands = [self.values.get(i, self.graph.constant(i)) for i in inputs]
        result: Tensor | None = None
        opaque = any(isinstance(x, Tensor) and x.axes is None for x in operands)
        absent = any(x is None and index >= 0 for x, index in zip(operands, inputs, strict=True))
        if not opaque and not absent:
            result = self.apply(op, operands)
            if result is not None and (fused := _fused(op)) != "NONE":
                result = self.function(fused, [result])
        if result is None:
            result = self.terms.opaque(operands, op.name)
        if result.axes is not None and self.graph.consumers[op.outputs[0]] > 1:
            result = self.terms.settled(result)
        for index in op.outputs:
            self.values[index] = result

    def apply(self, op: Operator, operands: Sequence[Operand]) -> Tensor | None:
        if op.name in _ELEMENTWISE:
            return self.function(op.name, operands)
        if op.name in _ARITHMETIC:
            return self.arithmetic(op.name, *operands)
        if op.name in _REDUCTIONS:
            return self.reduction(op, *operands)
        handler = getattr(self, f"on_{op.name}", None)
        return None if handler is None else handler(op, *operands)

    # --- arithmetic --------------------------------------------------------------------------------------------

    def function(self, name: str, operands: Sequence[Operand]) -> Tensor | None:
        if name in _SETTLING:
            operands = [self.terms.settled(x) if isinstance(x, Tensor) else x for x in operands]
        evaluate = _ELEMENTWISE.get(name) or _ARITHMETIC[name]
        return self.terms.elementwise([x for x in operands if x is not None], lambda arrays: evaluate(*arrays))

    def arithmetic(self, name: str, a: Operand, b: Operand) -> Tensor | None:
        same = self.function(name, [a, b])
        if same is not None:
            return same
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if name == "SUB":
                b = replace(b, samples=-b.on_grid)
            elif name == "DIV":
                with np.errstate(all="ignore"):
                    b = replace(b, samples=1.0 / b.on_grid)
            rank = max(len(a.layout), len(b.layout))
            a, b = _broadcastable(a, rank), _broadcastable(b, rank)
            return self.terms.binary("mul" if name in ("MUL", "DIV") else "add", a, b)
        if isinstance(a, Tensor):
            assert isinstance(b, np.ndarray)
            constant = b.astype(np.float64)
            if name in ("MUL", "DIV"):
                return self.terms.per_channel(a, constant if name == "MUL" else 1.0 / constant, 0.0)
            return self.terms.per_channel(a, 1.0, -constant if name == "SUB" else constant)
        assert isinstance(b, Tensor)
        assert isinstance(a, np.ndarray)
        if name == "MUL":
            return self.terms.per_channel(b, a, 0.0)
        return None if name == "DIV" else self.terms.per_channel(b, -1.0 if name == "SUB" else 1.0, a)

    def reduction(self, op: Operator, x: Operand, axes: Operand) -> Tensor | None:
        if not isinstance(x, Tensor) or not isinstance(axes, np.ndarray):
            return None
        return self.terms.reduce(x, _REDUCTIONS[op.name], axes.reshape(-1).tolist(), op.options.KeepDims())

    def on_L2_NORMALIZATION(self, op: Operator, x: Tensor) -> Tensor | None:
        # the converter makes it of x / (|x| + offset), whose offset is far below a feature vector's length
        length = self.terms.reduce(x, "l2", [len(x.layout) - 1], keepdims=True)
        inverse = self.terms.elementwise([length], lambda arrays: 1.0 / (arrays[0] + self.length_offset))
        return None if inverse is None else self.terms.binary("mul", x, inverse)

    # --- layers ------------------------------------------------------------------------------------------------

    def on_CONV_2D(self, op: Operator, x: Operand, kernel: Operand, bias: Operand = None) -> Tensor | None:
        """Kernel [out, time, mel, in / groups]."""
        if not isinstance(x, Tensor) or not isinstance(kernel, np.ndarray) or kernel.ndim != 4:
            return None
        return self.convolution(op, x, kernel.transpose(0, 3, 1, 2), bias, x.dims[-1] // kernel.shape[3])

    def on_DEPTHWISE_CONV_2D(self, op: Operator, x: Operand, kernel: Operand, bias: Operand = None) -> Tensor | None:
        """Kernel [1, time, mel, out]; out may be a multiple of the input's channels."""
        if not isinstance(x, Tensor) or not isinstance(kernel, np.ndarray) or kernel.ndim != 4:
            return None
        return self.convolution(op, x, kernel.transpose(3, 0, 1, 2), bias, x.dims[-1])

    def convolution(self, op: Operator, x: Tensor, kernel: Array, bias: Operand, groups: int) -> Tensor | None:
        options = op.options
        if (
            len(x.layout) != 4
            or isinstance(bias, Tensor)
            or (options.DilationHFactor(), options.DilationWFactor()) != (1, 1)
        ):
            return None
        stride = (options.StrideH(), options.StrideW())
        padding = _padding(options.Padding() == 0, x.dims[1:3], kernel.shape[2:], stride)
        maps = x.transposed(_TO_NCHW)
        y = self.terms.conv(maps, np.ascontiguousarray(kernel), bias, stride, padding, groups)
        return None if y is None else y.transposed(_TO_NHWC)

    def on_FULLY_CONNECTED(self, op: Operator, x: Operand, matrix: Operand, bias: Operand = None) -> Tensor | None:
        """Matrix [out, in]."""
        if not isinstance(x, Tensor) or not isinstance(matrix, np.ndarray) or isinstance(bias, Tensor):
            return None
        if not op.options.KeepNumDims() and len(x.layout) != 2:
            flat = x.reshaped((math.prod(x.dims) // matrix.shape[1], matrix.shape[1]))
            if flat is None:
                return None
            x = flat
        return self.dense(x, matrix.T, bias)

    def on_BATCH_MATMUL(self, op: Operator, x: Operand, matrix: Operand) -> Tensor | None:
        if not isinstance(x, Tensor) or not isinstance(matrix, np.ndarray) or op.options.AdjX():
            return None
        matrix = matrix.reshape(matrix.shape[-2:]) if math.prod(matrix.shape[:-2]) == 1 else matrix
        return self.dense(x, matrix.T if op.options.AdjY() else matrix, None)

    def dense(self, x: Tensor, matrix: Array, bias: Array | None) -> Tensor | None:
        """A dense layer; a factor before it, such as the size of a mean that was written as a sum, joins its matrix."""
        term = self.terms.resolve(x)
        if isinstance(term, Affine) and np.ndim(term.scale) == 0 and not np.any(term.shift):
            matrix = (matrix.astype(np.float64) * term.scale).astype(np.float32)
            x = Tensor(term.inputs[0], x.axes)
        return self.terms.dense(x, matrix, bias)

    def on_AVERAGE_POOL_2D(self, op: Operator, x: Tensor) -> Tensor | None:
        if (op.options.FilterHeight(), op.options.FilterWidth()) == x.dims[1:3]:
            return self.terms.reduce(x, "mean", (1, 2), keepdims=True)
        return self.pool(op, x, "mean")

    def on_MAX_POOL_2D(self, op: Operator, x: Tensor) -> Tensor | None:
        return self.pool(op, x, "max")

    def pool(self, op: Operator, x: Tensor, kind: Literal["mean", "max"]) -> Tensor | None:
        """Of windows side by side, so that padding has nothing to do."""
        options = op.options
        size = (options.FilterHeight(), options.FilterWidth())
        if len(x.layout) != 4 or size != (options.StrideH(), options.StrideW()):
            return None
        y = self.terms.pool(x.transposed(_TO_NCHW), kind, size)
        return None if y is None else y.transposed(_TO_NHWC)

    def on_CONCATENATION(self, op: Operator, *tensors: Operand) -> Tensor | None:
        maps = [x for x in tensors if isinstance(x, Tensor)]
        return self.terms.join(maps, op.options.Axis()) if len(maps) == len(tensors) else None

    def on_PAD(self, op: Operator, x: Operand, pairs: Operand, value: Operand = None) -> Tensor | None:
        if not isinstance(x, Tensor) or not isinstance(pairs, np.ndarray) or isinstance(value, Tensor):
            return None
        if value is not None and np.any(value):
            return None
        return self.terms.pad(x, [(int(a), int(b)) for a, b in pairs])

    on_PADV2 = on_PAD

    # --- layout ------------------------------------------------------------------------------------------------

    def on_TRANSPOSE(self, op: Operator, x: Operand, order: Operand) -> Tensor | None:
        if not isinstance(x, Tensor) or not isinstance(order, np.ndarray):
            return None
        return x.transposed(order.tolist())

    def reshaped(self, op: Operator, x: Operand, *_: Operand) -> Tensor | None:
        """Any change of axes that keeps the order of the numbers; the output's own shape says which."""
        shape = self.graph.tensors[op.outputs[0]].shape
        return x.reshaped(shape) if isinstance(x, Tensor) and min(shape, default=1) > 0 else None

    on_RESHAPE = on_SQUEEZE = on_EXPAND_DIMS = reshaped

    def on_BROADCAST_TO(self, op: Operator, x: Operand, shape: Operand) -> Tensor | None:
        # spread over a map only to be combined with one, which broadcasts by itself
        same_rank = isinstance(x, Tensor) and isinstance(shape, np.ndarray) and len(x.layout) == shape.size
        return x if isinstance(x, Tensor) and same_rank else None

    def on_CAST(self, op: Operator, x: Tensor) -> Tensor | None:
        return x if self.graph.tensors[op.outputs[0]].dtype in ("f4", "f2") else None


def _fused(op: Operator) -> str:
    number = op.options.FusedActivationFunction() if hasattr(op.options, "FusedActivationFunction") else 0
    return _FUSED[number] if number < len(_FUSED) else f"activation {number}"


def _broadcastable(x: Tensor, rank: int) -> Tensor:
    """With the batch of one window as a unit axis where the tensor has fewer axes than what it is combined with."""
    if len(x.layout) == rank:
        return x
    return replace(x, axes=tuple(() if axis == (("n", 1),) else axis for axis in x.layout))


def _padding(same: bool, sizes: Sequence[int], kernel: Sequence[int], stride: tuple[int, int]) -> Pairs:
    """TensorFlow's SAME padding, whose odd zero is at the end, or none."""
    if not same:
        return (0, 0), (0, 0)
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
    time, mel = ((total // 2, total - total // 2) for total in totals)
    return time, mel
