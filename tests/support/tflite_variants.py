"""Other forms of a TFLite file, made from it: rounded weights, fewer classes, cut short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bce.export.readers.tflite_graph import TfliteGraph

_CONVOLUTIONS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
"""The axis of a kernel's output channels."""


def _rewritten(path: Path, out: Path, change: Callable[[TfliteGraph, Any, Any], None]) -> Path:
    import flatbuffers

    graph = TfliteGraph(path)
    model = graph.schema.ModelT.InitFromPackedBuf(graph.content, 0)
    change(graph, model, model.subgraphs[0])
    builder = flatbuffers.Builder(len(graph.content))
    builder.Finish(model.Pack(builder), b"TFL3")
    out.write_bytes(bytes(builder.Output()))
    return out


def _kernels(graph: TfliteGraph) -> dict[int, int]:
    """Tensors that are kernels, and the axis of their output channels."""
    found = {op.inputs[1]: _CONVOLUTIONS[op.name] for op in graph.operators if op.name in _CONVOLUTIONS}
    return found | {op.inputs[1]: 0 for op in graph.operators if op.name == "FULLY_CONNECTED"}


def _new_buffer(graph: TfliteGraph, model: Any, values: np.ndarray) -> int:
    buffer = graph.schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def float16(path: Path, out: Path) -> Path:
    """Kernels in float16, each behind an operator that widens it, as TensorFlow's converter writes them."""

    def change(graph: TfliteGraph, model: Any, main: Any) -> None:
        schema = graph.schema
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
        code.version = 3
        model.operatorCodes.append(code)
        widen = []
        for index in _kernels(graph):
            tensor = schema.TensorT()
            stored = graph.tensors[index].stored
            assert stored is not None
            tensor.name, tensor.shape, tensor.type = b"half", list(stored.shape), schema.TensorType.FLOAT16
            tensor.buffer = _new_buffer(graph, model, stored.astype(np.float16))
            main.tensors.append(tensor)
            main.tensors[index].buffer = 0
            op = schema.OperatorT()
            op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes) - 1, [len(main.tensors) - 1], [index]
            widen.append(op)
        main.operators = [*widen, *main.operators]

    return _rewritten(path, out, change)


def int8(path: Path, out: Path) -> Path:
    """Kernels in int8 with a scale for each output channel (one for a dense layer): dynamic-range quantisation."""

    def change(graph: TfliteGraph, model: Any, main: Any) -> None:
        dense = {op.inputs[1] for op in graph.operators if op.name == "FULLY_CONNECTED"}
        for index, axis in _kernels(graph).items():
            stored = graph.tensors[index].stored
            assert stored is not None
            rest = tuple(n for n in range(stored.ndim) if n != axis or index in dense)
            largest = np.maximum(np.abs(stored).max(axis=rest, keepdims=True), 1e-9)
            scale = (largest / 127).astype(np.float32)
            tensor = main.tensors[index]
            tensor.type = graph.schema.TensorType.INT8
            tensor.buffer = _new_buffer(graph, model, np.round(stored / scale).astype(np.int8))
            tensor.quantization = graph.schema.QuantizationParametersT()
            tensor.quantization.scale = scale.reshape(-1)
            tensor.quantization.zeroPoint = np.zeros(scale.size, np.int64)
            tensor.quantization.quantizedDimension = axis

    return _rewritten(path, out, change)


def with_classes(path: Path, out: Path, classes: int) -> Path:
    """The first classes alone."""

    def change(graph: TfliteGraph, model: Any, main: Any) -> None:
        dense = next(op for op in graph.operators if op.outputs[0] == graph.outputs[0])
        for index in dense.inputs[1:]:
            stored = graph.tensors[index].stored
            assert stored is not None
            main.tensors[index].shape = [classes, *stored.shape[1:]]
            main.tensors[index].buffer = _new_buffer(graph, model, stored[:classes])
        main.tensors[dense.outputs[0]].shape = [1, classes]
        main.tensors[dense.outputs[0]].shapeSignature = None

    return _rewritten(path, out, change)


def mutated(path: Path, out: Path, kind: str, seed: int) -> Path:
    """One of the operators is spoilt: without "options" or "outputs", an "input" less, or fed by "itself"."""

    def change(graph: TfliteGraph, model: Any, main: Any) -> None:
        rng = np.random.default_rng(seed)
        fitting = [
            n for n, op in enumerate(graph.operators) if op.inputs and (kind != "options" or op.options is not None)
        ]
        op = main.operators[int(rng.choice(fitting))]
        if kind == "options":
            op.builtinOptions, op.builtinOptionsType = None, 0
        elif kind == "outputs":
            op.outputs = np.zeros(0, np.int32)
        elif kind == "input":
            op.inputs = op.inputs[:-1]
        else:
            op.inputs = np.concatenate([op.outputs[:1], op.inputs[1:]])

    return _rewritten(path, out, change)


def cut_short(path: Path, out: Path, share: float) -> Path:
    """The beginning of a file."""
    content = path.read_bytes()
    out.write_bytes(content[: int(share * len(content))])
    return out


def float32(path: Path, out: Path) -> Path:
    """Constants of float16 as float32, without the operators that widen them."""

    def change(graph: TfliteGraph, model: Any, main: Any) -> None:
        widened = [op for op in graph.operators if op.name == "DEQUANTIZE"]
        for op in widened:
            stored = graph.tensors[op.inputs[0]].stored
            assert stored is not None
            main.tensors[op.outputs[0]].buffer = _new_buffer(graph, model, stored.astype(np.float32))
        gone = {op.outputs for op in widened}
        main.operators = [op for op in main.operators if tuple(op.outputs) not in gone]

    return _rewritten(path, out, change)


def with_activation(path: Path, out: Path, number: int) -> Path:
    """A dense layer, counted from 1, with the other activation: a rectifier or none."""

    def change(graph: TfliteGraph, model: Any, main: Any) -> None:
        dense = [op for op, read in zip(main.operators, graph.operators, strict=True) if read.name == "FULLY_CONNECTED"]
        options = dense[number - 1].builtinOptions
        options.fusedActivationFunction = 1 - options.fusedActivationFunction

    return _rewritten(path, out, change)
