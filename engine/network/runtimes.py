"""What runs a backbone graph: compiled kernels or another runtime, held to ONNX Runtime's numbers first, or that."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, CompiledError, OptionsError
from bce.engine.network.backbone import Backbone
from bce.engine.network.bundle import Bundle
from bce.engine.network.checking import NotTheSameError, check_inputs
from bce.engine.network.int8 import INT8, Int8Form
from bce.engine.network.mbconv import NotMbconv, read_layers
from bce.engine.network.onnx_backbone import OnnxRuntimeBackbone
from bce.engine.network.reference import reference
from bce.engine.results import Features

if TYPE_CHECKING:
    from bce.engine.network.compiled_backbone import CompiledBackbone
    from bce.engine.network.openvino_backbone import OpenVinoBackbone

PRECISIONS = ("fp32", "int8", "bf16")
RUNS = {
    "auto": PRECISIONS,
    "compiled": PRECISIONS,
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16"),
}
"""The precisions that there are with each backend."""
BACKENDS = tuple(RUNS)


def check_backend(backend: str, precision: str) -> None:
    """Refuse a precision that a backend does not have anywhere.

    Raises:
        OptionsError: naming those that it has.
    """
    if precision not in RUNS[backend]:
        raise OptionsError(f"the {backend} backend runs {' and '.join(RUNS[backend])}, not {precision}")


def runs_kernels(backend: str, precision: str) -> bool:
    """Whether a backend and a precision may come to compiled kernels."""
    return backend in ("auto", "compiled") and precision in RUNS["compiled"]


def open_backbone(
    bundle: Bundle, precision: str, backend: str, threads: int = 1, objects: Path | None = None
) -> Backbone:
    """A bundle's backbone in what was asked for; whatever is not ONNX Runtime is held to its numbers first.

    Args:
        bundle: a checked bundle.
        precision: one of :data:`PRECISIONS`; "bf16" is the bundle's float32 graph, "int8" what the bundle has for it:
            a file for the kernels, another graph for ONNX Runtime, or both.
        backend: one of :data:`BACKENDS`; "auto" is compiled kernels where there are any for the precision, the graph
            and this CPU, and their numbers are ONNX Runtime's, else ONNX Runtime. It never takes another precision.
        threads: how many threads will call, and may be busy now.
        objects: a folder that the user names, with kernels that were compiled ahead.

    Raises:
        BundleError: the graph cannot be loaded or is not what the manifest says, or OpenVINO's numbers are not ONNX
            Runtime's.
        OptionsError: the backend cannot run the precision or the graph here, or ``objects`` is not a folder for it,
            or holds damaged kernels.
    """
    check_backend(backend, precision)
    if backend == "onnxruntime":
        return OnnxRuntimeBackbone(bundle, precision)
    if backend == "openvino":
        return _openvino(bundle, precision, threads)
    try:
        return _compiled(bundle, precision, objects, threads)
    except (NotMbconv, CompiledError, NotTheSameError) as error:
        if precision not in bundle.manifest.variants:
            raise OptionsError(
                f"{error.reason}, so {precision} cannot run here: leave --precision at fp32", error.path
            ) from error
        if backend == "compiled":
            raise OptionsError(
                f"{error.reason}, so the backbone cannot run compiled: leave --backend at auto", error.path
            ) from error
        # a folder that was named is told whole, a file of the bundle by its name
        why = str(error) if error.path is None or objects is not None else f"{Path(error.path).name} {error.reason}"
    return OnnxRuntimeBackbone(bundle, precision, why)


def _compiled(bundle: Bundle, precision: str, objects: Path | None, threads: int) -> Backbone:
    """The compiled backbone, which gives what ONNX Runtime gives."""
    from bce.engine.network.compiled_backbone import CompiledBackbone, check_objects

    if objects is not None:
        check_objects(objects)
    form = int8_form(bundle) if precision == "int8" else None
    layers = read_layers(bundle.backbone())  # says soonest that there are no kernels
    if layers.input_shape != bundle.manifest.input.shape:  # ONNX Runtime's session says so better
        raise NotTheSameError("takes another input than the manifest says", bundle.backbone())
    inputs = check_inputs(bundle)
    if threads == 1:
        expected = reference(bundle, inputs)
        compiled = CompiledBackbone(bundle.backbone(), layers, precision, objects, form)
    else:
        with ThreadPoolExecutor(1) as beside:  # neither waits for the other
            running = beside.submit(reference, bundle, inputs)
            compiled = CompiledBackbone(bundle.backbone(), layers, precision, objects, form)
        expected = running.result()
    _hold(compiled, bundle, inputs, expected)
    return compiled


def int8_form(bundle: Bundle) -> Int8Form:
    """What the kernels need for int8.

    Raises:
        BundleError: the bundle has no int8 at all, or its file is damaged.
        CompiledError: it has int8 for ONNX Runtime alone.
    """
    file = bundle.file(INT8)
    if file is None:
        bundle.backbone("int8")
        raise CompiledError("has int8 for ONNX Runtime alone", bundle.path)
    return Int8Form.load(file)


def _openvino(bundle: Bundle, precision: str, threads: int) -> Backbone:
    """The backbone in OpenVINO, which gives what ONNX Runtime gives."""
    from bce.engine.network.openvino_backbone import OpenVinoBackbone

    inputs = check_inputs(bundle)
    expected = reference(bundle, inputs)
    widths = {name: rows.shape[1] for name, rows in expected.items()}
    other = OpenVinoBackbone(bundle.backbone(), bundle.manifest.input, precision, threads, widths)
    try:
        _hold(other, bundle, inputs, expected)
    except NotTheSameError as error:
        raise BundleError(f"{error.reason}: run without --backend openvino", error.path) from error
    return other


def _hold(
    backbone: CompiledBackbone | OpenVinoBackbone, bundle: Bundle, inputs: NDArray[np.float32], expected: Features
) -> None:
    """Check a backbone; where it is not the same, what is kept of ONNX Runtime's numbers may be to blame."""
    try:
        backbone.check(inputs, expected)
    except NotTheSameError:
        now = reference(bundle, inputs, anew=True)
        if all(np.array_equal(now[name], expected[name]) for name in now):
            raise
        backbone.check(inputs, now)
