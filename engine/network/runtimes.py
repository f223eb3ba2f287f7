"""What runs a backbone graph: ONNX Runtime, or another runtime that was held to ONNX Runtime's numbers first."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, one_line
from bce.engine.geometry import WindowSpec
from bce.engine.network.bundle import Bundle
from bce.engine.network.onnx_runtime import ort
from bce.engine.network.sessions import check_nodes, open_session, run_session

BACKENDS = ("onnxruntime", "openvino")
PRECISIONS = ("fp32", "int8", "bf16")


class Backbone(Protocol):
    """A backbone ready to run. Calls are thread-safe."""

    @property
    def widths(self) -> dict[str, int]:
        """Width of each output by name, in the graph's order."""

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The outputs in order, each float32 [windows, width], for inputs float32 [windows, *shape of one].

        Raises:
            BundleError: the graph fails, or gives another shape than it says.
        """


class OnnxRuntimeBackbone:
    """A bundle's backbone in ONNX Runtime.

    Args:
        bundle: a checked bundle.
        precision: one of the bundle's variants.

    Raises:
        BundleError: the precision is not there, ONNX Runtime cannot load the graph, or its input or outputs are not
            those that the manifest names.
    """

    def __init__(self, bundle: Bundle, precision: str) -> None:
        self._path = bundle.backbone(precision)
        self._session = open_session(self._path)
        _check(self._session, bundle, self._path)
        self._input = bundle.manifest.input.name
        self.widths = {output.name: int(output.shape[1]) for output in self._session.get_outputs()}

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """See :class:`Backbone`."""
        return run_session(self._session, self._path, {self._input: inputs}, self.widths)


def open_backbone(bundle: Bundle, precision: str, backend: str, threads: int) -> Backbone:
    """A bundle's backbone in the runtime that was asked for.

    Args:
        bundle: a checked bundle.
        precision: one of the bundle's variants; "bf16" with OpenVINO.
        backend: one of :data:`BACKENDS`; OpenVINO is checked against ONNX Runtime before it is believed.
        threads: how many threads will call.

    Raises:
        BundleError: the graph cannot be loaded or is not what the manifest says, or OpenVINO's numbers are not ONNX
            Runtime's.
        OptionsError: OpenVINO is not installed or cannot run the precision here.
    """
    if backend == "onnxruntime":
        return OnnxRuntimeBackbone(bundle, precision)
    from bce.engine.network.openvino_backbone import OpenVinoBackbone

    trusted = OnnxRuntimeBackbone(bundle, "fp32")
    other = OpenVinoBackbone(bundle.backbone("fp32"), bundle.manifest.input, precision, threads, trusted.widths)
    inputs = check_inputs(bundle)
    other.check(inputs, trusted.run(inputs))
    return other


def check_inputs(bundle: Bundle) -> NDArray[np.float32]:
    """Inputs [2, *shape] to hold one runtime against another with: fading noise under two tones, and silence."""
    frontend = bundle.frontend()
    found = np.empty((2, *frontend.shape), np.float32)
    for samples, out in zip(_check_sounds(bundle.manifest.window), found, strict=True):
        frontend.open(samples).window(0, out)
    return found


def _check_sounds(window: WindowSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    seconds = np.arange(window.samples) / window.sample_rate
    noise = np.random.default_rng(0).normal(0, 0.05, len(seconds)) * np.exp(-seconds)
    late = seconds > 0.4 * window.window_s
    tones = 0.1 * np.sin(2 * np.pi * 3000 * seconds) * late + 0.05 * np.sin(2 * np.pi * 700 * seconds)
    return (noise + tones).astype(np.float32), np.zeros(len(seconds), np.float32)


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
