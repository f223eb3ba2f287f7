"""ONNX files as nodes and arrays, read without the package ``onnx``.

Read is what a network of float32 is made of. What is not read is left out or None, so that whoever looks for it finds
that it is not there: tensors of other types, sparse ones, graphs in attributes.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.network.onnx_file import reading_graph
from bce.engine.network.protobuf import Message

Array = NDArray[np.generic]
Attribute = int | float | bytes | tuple[int, ...] | Array | None
"""None for the kinds that are not read."""

FLOAT32, INT32, INT64 = 1, 6, 7
"""Types of a tensor."""
_TYPES = {FLOAT32: "<f4", INT32: "<i4", INT64: "<i8"}


# the fields of the messages of ``onnx.proto``


class _Model:
    GRAPH, OPSETS, FUNCTIONS = 7, 8, 25


class _Opset:
    DOMAIN, VERSION = 1, 2


class _Graph:
    NODES, CONSTANTS, INPUTS, OUTPUTS, SPARSE = 1, 5, 11, 12, 15


class _Node:
    INPUTS, OUTPUTS, NAME, OPERATOR, ATTRIBUTES, DOMAIN = 1, 2, 3, 4, 5, 7


class _Attribute:
    NAME, FLOAT, INT, STRING, TENSOR, INTS, TYPE, OF_FUNCTION = 1, 2, 3, 4, 5, 8, 20, 21
    KINDS = FLOAT_KIND, INT_KIND, STRING_KIND, TENSOR_KIND, INTS_KIND = 1, 2, 3, 4, 7


class _Tensor:
    SHAPE, TYPE, SEGMENT, FLOATS, INT32S, INT64S, NAME, RAW, EXTERNAL, LOCATION = 1, 2, 3, 4, 5, 7, 8, 9, 13, 14


class _Signature:
    NAME, TYPE = 1, 2
    TENSOR, ELEMENTS, SHAPE, AXES, SIZE, SYMBOL = 1, 1, 2, 1, 1, 2


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: ``operator`` of ``domain`` ("" for ONNX' own) makes the values ``outputs`` of ``inputs``."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True)
class Signature:
    """An input or output: the type of its numbers (0 where it is no tensor) and its shape.

    An axis is its size, or the name of one that is open ("" where it has none); the shape is None where none is told.
    """

    name: str
    type: int
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, eq=False)
class Graph:
    """A model's graph.

    Attributes:
        nodes: in the file's order.
        constants: the tensors of float32, int32 and int64 by name. They are not to be written to, and may lie at any
            byte (numpy calls this not aligned).
        inputs: in order.
        outputs: in order.
        opsets: versions of the operators by domain.
        more: it has what is not read here: functions, sparse tensors.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    opsets: Mapping[str, int]
    more: bool


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """Read an ONNX file.

    Its large tensors are views of the mapped file: nothing of them is in memory before it is looked at. Let go of them
    once they are used: the file stays mapped as long as one of them lives, and must not be written over in that time
    (a bundle that is exported anew gets new files).

    Raises:
        BundleError: it cannot be read, is damaged, or no ONNX file; naming it.
    """
    file = Path(path)
    with reading_graph(file):
        with open(file, "rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        model = Message(content, [(0, len(content))])
        if _Model.GRAPH not in model:
            raise ValueError("a model without a graph")
        graph = model.message(_Model.GRAPH)
        return Graph(
            nodes=tuple(map(_node, graph.messages(_Graph.NODES))),
            constants=_constants(graph),
            inputs=tuple(map(_signature, graph.messages(_Graph.INPUTS))),
            outputs=tuple(map(_signature, graph.messages(_Graph.OUTPUTS))),
            opsets={
                opset.text(_Opset.DOMAIN): opset.integer(_Opset.VERSION) for opset in model.messages(_Model.OPSETS)
            },
            more=_Model.FUNCTIONS in model or _Graph.SPARSE in graph,
        )


def _constants(graph: Message) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for tensor in graph.messages(_Graph.CONSTANTS):
        name, array = tensor.text(_Tensor.NAME), _array(tensor)
        if name in found:
            raise ValueError("two tensors of one name")
        if array is not None:
            found[name] = array
    return found


def _node(message: Message) -> Node:
    attributes: dict[str, Attribute] = {}
    for attribute in message.messages(_Node.ATTRIBUTES):
        name = attribute.text(_Attribute.NAME)
        if name in attributes:
            raise ValueError("two attributes of one name")
        attributes[name] = _attribute(attribute)
    return Node(
        message.text(_Node.OPERATOR),
        message.text(_Node.DOMAIN),
        message.text(_Node.NAME),
        message.texts(_Node.INPUTS),
        message.texts(_Node.OUTPUTS),
        attributes,
    )


def _attribute(message: Message) -> Attribute:
    if _Attribute.OF_FUNCTION in message:
        return None
    kind = message.integer(_Attribute.TYPE)
    if kind == _Attribute.FLOAT_KIND:
        return message.float32(_Attribute.FLOAT)
    if kind == _Attribute.INT_KIND:
        return message.integer(_Attribute.INT)
    if kind == _Attribute.INTS_KIND:
        return tuple(message.integers(_Attribute.INTS))
    if kind == _Attribute.STRING_KIND:
        return bytes(message.view(_Attribute.STRING))
    if kind == _Attribute.TENSOR_KIND:
        return _array(message.message(_Attribute.TENSOR))
    return None


def _array(tensor: Message) -> Array | None:
    """The numbers of a tensor in its shape; None for other types, and for numbers that lie elsewhere or twice.

    Raises:
        ValueError: there are more or fewer numbers than the shape says.
    """
    kind, shape = tensor.integer(_Tensor.TYPE), tensor.integers(_Tensor.SHAPE)
    forms = {FLOAT32: _Tensor.FLOATS, INT32: _Tensor.INT32S, INT64: _Tensor.INT64S}
    elsewhere = any(field in tensor for field in (_Tensor.EXTERNAL, _Tensor.SEGMENT)) or tensor.integer(
        _Tensor.LOCATION
    )
    if kind not in forms or elsewhere or (_Tensor.RAW in tensor and forms[kind] in tensor):
        return None
    if min(shape, default=0) < 0:
        raise ValueError("a shape below 0")
    array: Array
    if _Tensor.RAW in tensor:
        array = np.frombuffer(tensor.view(_Tensor.RAW), _TYPES[kind])
    elif kind == FLOAT32:
        array = np.frombuffer(tensor.float32s(_Tensor.FLOATS), _TYPES[kind])
    else:
        # an int32 is written as the int64 of its value
        array = np.array(tensor.integers(forms[kind]), np.int64).astype(_TYPES[kind])
    if array.size != math.prod(shape):
        raise ValueError("a tensor of another size than its shape's")
    return array.reshape(shape)


def _signature(message: Message) -> Signature:
    kind = message.message(_Signature.TYPE)
    tensor = kind.message(_Signature.TENSOR)
    shape: tuple[int | str, ...] | None = None
    if _Signature.SHAPE in tensor:
        axes = tensor.message(_Signature.SHAPE).messages(_Signature.AXES)
        shape = tuple(
            axis.text(_Signature.SYMBOL)
            if _Signature.SYMBOL in axis or _Signature.SIZE not in axis
            else axis.integer(_Signature.SIZE)
            for axis in axes
        )
    return Signature(message.text(_Signature.NAME), tensor.integer(_Signature.ELEMENTS), shape)
