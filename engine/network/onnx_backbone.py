"""A bundle's backbone in ONNX Runtime, held to what the manifest says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, one_line
from bce.engine.network.backbone import BackboneForm
from bce.engine.network.bundle import Bundle
from bce.engine.network.onnx_runtime import ort
from bce.engine.network.sessions import check_nodes, open_session, run_session


class OnnxRuntimeBackbone:
    """A bundle's backbone in ONNX Runtime.

    Args:
        bundle: a checked bundle.
        precision: one of the bundle's variants.
        why: why it is no compiled kernels, where these would have been the first choice.

    Raises:
        BundleError: the precision is not there, ONNX Runtime cannot load the graph, or its input or outputs are not
            those that the manifest names.
    """

    def __init__(self, bundle: Bundle, precision: str, why: str = "") -> None:
        self._path = bundle.backbone(precision)
        self._session = open_session(self._path)
        _check(self._session, bundle, self._path)
        self._input = bundle.manifest.input.name
        self.form = BackboneForm("onnxruntime", precision, why=why)
        self.widths = {output.name: int(output.shape[1]) for output in self._session.get_outputs()}

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """See :class:`bce.engine.network.backbone.Backbone`."""
        return run_session(self._session, self._path, {self._input: inputs}, self.widths)


def _check(session: ort.InferenceSession, bundle: Bundle, path: Path) -> None:
    """Refuse a graph whose input and outputs are not those that the manifest names."""
    manifest = bundle.manifest
    wanted = manifest.input
    found = [(node.name, tuple(node.shape[1:])) for node in session.get_inputs()]
    if found != [(wanted.name, wanted.shape)]:
        takes = ", ".join(f"{name} {list(shape)}" for name, shape in found)
        raise BundleError(
            f"takes {one_line(takes)}, but the manifest names {one_line(wanted.name)} {list(wanted.shape)}", path
        )
    check_nodes(session, path, one_window=True)
    names = [output.name for output in session.get_outputs()]
    if names != list(manifest.output_names):
        expected = ", ".join(manifest.output_names)
        raise BundleError(f"puts out {one_line(', '.join(names))}, but the manifest names {one_line(expected)}", path)
    for node, output in zip(session.get_outputs(), manifest.outputs, strict=True):
        shape = list(node.shape[1:])
        if output.width is not None and shape != [output.width]:
            raise BundleError(f"puts out {output.name} {shape}, but the manifest says {output.width} numbers", path)
        if len(shape) != 1 or not isinstance(shape[0], int):
            raise BundleError(f"puts out {output.name} {shape}, expected a known number for each window", path)
