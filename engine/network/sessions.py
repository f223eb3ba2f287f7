"""ONNX Runtime sessions: the one room that opens them, so that what is proven runs as what is used."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.network.onnx_runtime import ort

_QUIET = 3


def open_session(graph: str | os.PathLike[str] | bytes) -> ort.InferenceSession:
    """A graph as the engine runs it: one thread inside, for any number of threads that call.

    ONNX Runtime releases the GIL, and a window's activations stay in the caller's cache (measured faster than one call
    that is spread over threads).

    Args:
        graph: a file, or a model's bytes.

    Raises:
        BundleError: ONNX Runtime cannot load it.
    """
    options = _options()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    path = None if isinstance(graph, bytes) else graph
    try:
        return _open(graph if isinstance(graph, bytes) else os.fspath(graph), options)
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise BundleError(f"cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}", path) from error


def open_reference(model: bytes, tensors: Mapping[str, NDArray[np.generic]]) -> ort.InferenceSession:
    """A source's own graph, run a few windows once: on all cores, with as little memory as can be.

    Args:
        model: the model's bytes, with ``tensors`` declared as external.
        tensors: large constants by name, handed over as they lie in memory.
    """
    options = _options()
    options.enable_cpu_mem_arena = False
    # a second copy of every large matrix, laid out for speed, is not worth its memory here
    options.add_session_config_entry("session.disable_prepacking", "1")
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    return _open(model, options)


def open_stock(path: str | os.PathLike[str], threads: int) -> ort.InferenceSession:
    """A published graph as most scripts open it: ONNX Runtime's own settings, with ``threads`` inside."""
    options = _options()
    options.intra_op_num_threads = threads
    return _open(os.fspath(path), options)


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    return options


def _open(graph: str | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
