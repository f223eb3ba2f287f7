"""ONNX Runtime sessions: the one room that opens them, so that what is proven runs as what is used."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, first_line, one_line
from bce.engine.network.onnx_runtime import ort
from bce.engine.network.rows import check_rows

_QUIET = 4
"""Its errors come as exceptions too: what it prints beside them is said twice."""


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
        raise BundleError(f"cannot be loaded by ONNX Runtime: {first_line(error, 300)}", path) from error


def check_nodes(session: ort.InferenceSession, path: str | os.PathLike[str], *, one_window: bool) -> None:
    """Refuse a graph whose inputs or outputs are no rows of float32 for any number of windows.

    Args:
        session: the graph, opened.
        path: its file.
        one_window: a graph that takes one window at a time will do.

    Raises:
        BundleError: naming the input or output.
    """
    for node in (*session.get_inputs(), *session.get_outputs()):
        name, shape = one_line(node.name), node.shape
        if node.type != "tensor(float)":
            raise BundleError(f"has {name} as {node.type}, expected float32", path)
        if not shape:
            raise BundleError(f"has {name} without any dimension, expected a row for each window", path)
        if isinstance(shape[0], int) and not (one_window and shape[0] == 1):
            most = "one or any number" if one_window else "any number"
            raise BundleError(f"has {name} for {shape[0]} windows at once, expected {most}", path)


def run_session(
    session: ort.InferenceSession,
    path: str | os.PathLike[str],
    feed: Mapping[str, NDArray[np.float32]],
    widths: Mapping[str, int],
) -> list[NDArray[np.float32]]:
    """Run a graph, and hold what it gives to what it says.

    Args:
        session: the graph, opened.
        path: its file.
        feed: its inputs by name, each with a row for every window.
        widths: the outputs that are wanted, with the width that each must have.

    Returns:
        The outputs in that order, float32 [windows, width].

    Raises:
        BundleError: the graph fails, gives another shape, or makes numbers that are not finite out of finite ones.
    """
    try:
        found: list[NDArray[np.float32]] = session.run(list(widths), dict(feed))
    except Exception as error:
        raise BundleError(f"fails when it runs: {first_line(error, 300)}", path) from error
    check_rows(found, widths, len(next(iter(feed.values()))), feed.values(), path)
    return found


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


def profiled_nodes(
    path: str | os.PathLike[str], inputs: NDArray[np.float32], rounds: int, folder: Path
) -> dict[str, float]:
    """Milliseconds of a window in each node, as ONNX Runtime names them after its own rewriting: medians.

    Args:
        path: a graph of one input, run as the engine runs it.
        inputs: float32 [windows, *shape of one].
        rounds: over all windows; one more warms up.
        folder: an empty one for the profile.
    """
    options = _options()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = os.fspath(folder / "profile")
    session = _open(os.fspath(path), options)
    (entry,) = (node.name for node in session.get_inputs())
    for _ in range(rounds + 1):
        for x in inputs:
            session.run(None, {entry: x[None]})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ending, took = "_kernel_time", defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(ending):
            took[event["name"].removesuffix(ending)].append(event["dur"] / 1e3)
    return {name: float(np.median(each[len(inputs) :])) for name, each in took.items()}


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _QUIET
    return options


def _open(graph: str | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
