"""A TFLite file under LiteRT as it is, and its network alone with fixed shapes: LiteRT at its best."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.export.readers.tflite_graph import TfliteGraph

Array = NDArray[np.float32]
_SHAPES = frozenset({"SHAPE", "STRIDED_SLICE", "PACK"})
"""Operators that compute shapes while a graph runs, of which XNNPACK takes nothing."""


def published(path: Path, threads: int = 1) -> Callable[[Array], Array]:
    """A file as it is: a window's samples [n] -> its logits [classes]."""
    interpreter = _interpreter(str(path), threads)
    entry, end = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(samples: Array) -> Array:
        interpreter.set_tensor(entry, samples[None])
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(end)[0])

    return run


def fixed_backbone(path: Path, entry: int, threads: int = 1) -> Callable[[Array], Array]:
    """The network behind a tensor with fixed shapes, so that XNNPACK takes it in one piece: inputs -> logits.

    Args:
        path: the file.
        entry: the tensor that is the network's input, [1, height, width, channels].
        threads: busy ones.
    """
    graph = TfliteGraph(path)
    schema, kept = graph.schema, _interpreter(str(path), 1, experimental_preserve_all_tensors=True)
    kept.invoke()  # now every tensor has its shape
    model = schema.ModelT.InitFromPackedBuf(graph.content, 0)
    main = model.subgraphs[0]
    first = next(place for place, op in enumerate(graph.operators) if entry in op.inputs)
    operators = []
    for op, found in zip(main.operators[first:], graph.operators[first:], strict=True):
        if found.name in _SHAPES:
            continue
        if found.name == "RESHAPE":
            shape = np.array(kept.get_tensor(found.outputs[0]).shape, np.int32)
            op.inputs = np.array([found.inputs[0], _constant(schema, model, shape)], np.int32)
        operators.append(op)
        for tensor in (*found.inputs, *found.outputs):
            if tensor >= 0 and graph.tensors[tensor].stored is None:
                main.tensors[tensor].shape = list(kept.get_tensor(tensor).shape)
    for tensor in main.tensors:
        tensor.shapeSignature = None
    main.operators, main.inputs, model.signatureDefs = operators, np.array([entry], np.int32), None
    import flatbuffers

    builder = flatbuffers.Builder(len(graph.content))
    builder.Finish(model.Pack(builder), b"TFL3")
    alone = _interpreter(bytes(builder.Output()), threads)
    end = alone.get_output_details()[0]["index"]

    def run(inputs: Array) -> Array:
        alone.set_tensor(entry_place, inputs)
        alone.invoke()
        return np.asarray(alone.get_tensor(end)[0])

    entry_place = alone.get_input_details()[0]["index"]
    return run


def _constant(schema: Any, model: Any, values: NDArray[np.int32]) -> int:
    """A new constant of a model; its place among the tensors."""
    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.name, tensor.shape, tensor.type = b"shape", [len(values)], schema.TensorType.INT32
    tensor.buffer = len(model.buffers) - 1
    tensors = model.subgraphs[0].tensors
    tensors.append(tensor)
    return len(tensors) - 1


def _interpreter(model: str | bytes, threads: int, **options: bool) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    given = {"model_path": model} if isinstance(model, str) else {"model_content": model}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all tensors are kept takes memory: this is meant
        interpreter = Interpreter(**given, num_threads=threads, **options)
    interpreter.allocate_tensors()
    return interpreter
