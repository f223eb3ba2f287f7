"""Weights of an ONNX file that lie in files beside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from bce.engine.errors import ExportError


def load_beside(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """Take the tensors that lie in other files into a model, in place.

    Args:
        model: read without them.
        path: the ONNX file.

    Returns:
        The other files, sorted by name.

    Raises:
        ExportError: one is missing, is not whole, or does not lie in the ONNX file's folder.
    """
    names = sorted({_location(tensor) for tensor in _external(model)})
    for name in names:
        parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
        if not parts or ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
            raise ExportError(f"keeps weights in {name!r}, expected the name of a file in its own folder", path)
        if not (path.parent / name).is_file():
            raise ExportError(f"keeps weights in the file {name!r}, which is not beside it: put both there", path)
    if names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                onnx.load_external_data_for_model(model, str(path.parent))
        except Exception:  # onnx raises errors of many kinds here
            listed = ", ".join(map(repr, names))
            raise ExportError(f"keeps weights in {listed}, which is cut short or damaged, or a link", path) from None
    return tuple(path.parent / name for name in names)


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    tensors = (*_of_graph(model.graph), *(t for function in model.functions for t in _of_nodes(function.node)))
    return (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)
