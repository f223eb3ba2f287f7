"""Where an ONNX file keeps its numbers, read from the file itself before ONNX Runtime sees it.

A tensor may say that its numbers lie in another file, which no SHA-256 of a bundle vouches for. What is walked here is
protobuf's wire format and not a text search: protobuf takes fields in any order and lengths in several spellings, and
tensors hide in the attributes of nodes, in graphs inside of these, and in functions.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from bce.engine.errors import BundleError

TENSOR = "TensorProto"
DATA_LOCATION, EXTERNAL = 14, 1
EXTERNAL_DATA = 13

MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: TENSOR,
        6: "GraphProto",
        10: TENSOR,
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "SparseTensorProto": {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
"""The messages of ``onnx.proto`` that hold tensors: field number -> the message in it."""

DEEPEST = 100
_MOST_VARINT = 10


def check_self_contained(path: str | os.PathLike[str]) -> None:
    """Refuse a graph that is no ONNX file, or keeps numbers outside of it.

    Raises:
        BundleError: naming the file.
    """
    file = Path(path)
    try:
        if not file.stat().st_size:
            raise BundleError("is empty, expected an ONNX graph", file)
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            apart = has_external_data(content)
    except ValueError:
        raise BundleError("is not an ONNX graph, or cut short: export the bundle again", file) from None
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror})", file) from None
    if apart:
        raise BundleError("keeps weights in another file, which nothing vouches for: export it again", file)


def has_external_data(content: bytes | mmap.mmap) -> bool:
    """Whether any tensor of a serialised ``ModelProto`` names a place outside of it.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    message, at, end = "ModelProto", 0, len(content)
    around: list[tuple[str, int, int]] = []
    while at < end or around:
        if at == end:
            message, at, end = around.pop()
            continue
        tag, at = _varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(content, at, end)
            if message == TENSOR and number == DATA_LOCATION and value & 0xFFFFFFFF == EXTERNAL:
                return True
        elif wire == 2:
            size, at = _varint(content, at, end)
            if message == TENSOR and number == EXTERNAL_DATA:
                return True
            if number in MESSAGES[message] and at + size <= end:
                around.append((message, at + size, end))
                message, end = MESSAGES[message][number], at + size
            else:
                at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("a group, or no type of field")
        if at > end or len(around) > DEEPEST:
            raise ValueError("a field beyond the end, or nested deeper than protobuf reads")
    return False


def _varint(content: bytes | mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of protobuf's variable length, and where it ends."""
    value = 0
    for place, position in enumerate(range(at, min(end, at + _MOST_VARINT))):
        byte = content[position]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position + 1
    raise ValueError("a number without an end")
