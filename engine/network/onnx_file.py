"""Where an ONNX file keeps its numbers, read from the file itself before ONNX Runtime sees it.

A tensor may say that its numbers lie in another file, which no SHA-256 of a bundle vouches for. What is walked here is
protobuf's wire format and not a text search: protobuf takes fields in any order and lengths in several spellings, and
tensors hide in the attributes of nodes, in graphs inside of these, and in functions.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bce.engine.errors import BundleError
from bce.engine.network.protobuf import STRETCH, VARINT, Content, fields

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


@contextmanager
def reading_graph(file: Path) -> Iterator[None]:
    """Whatever goes wrong while a graph is read, in one line.

    Raises:
        BundleError: naming the file; for every ``ValueError``, and where it cannot be read.
    """
    try:
        yield
    except ValueError:
        raise BundleError("is not an ONNX graph, or cut short: export the bundle again", file) from None
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror})", file) from None


def check_self_contained(path: str | os.PathLike[str]) -> None:
    """Refuse a graph that is no ONNX file, or keeps numbers outside of it.

    Raises:
        BundleError: naming the file.
    """
    file = Path(path)
    with reading_graph(file):
        if not file.stat().st_size:
            raise BundleError("is empty, expected an ONNX graph", file)
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            apart = has_external_data(content)
    if apart:
        raise BundleError("keeps weights in another file, which nothing vouches for: export it again", file)


def has_external_data(content: Content) -> bool:
    """Whether any tensor of a serialised ``ModelProto`` names a place outside of it.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    around = [("ModelProto", fields(content, 0, len(content)))]
    while around:
        message, rest = around[-1]
        for number, form, value, end in rest:
            if message == TENSOR and form == VARINT and number == DATA_LOCATION and value & 0xFFFFFFFF == EXTERNAL:
                return True
            if message == TENSOR and form == STRETCH and number == EXTERNAL_DATA:
                return True
            if form == STRETCH and number in MESSAGES[message]:
                around.append((MESSAGES[message][number], fields(content, value, end)))
                break
        else:
            around.pop()
        if len(around) > DEEPEST + 1:
            raise ValueError("nested deeper than protobuf reads")
    return False
