"""Every form in which a bundle's backbone can run on this machine, and how far its outputs are from ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.layers import Layers
from bce.engine.compiled.maps import Element
from bce.engine.compiled.network import CompiledNetwork, lacks
from bce.engine.compiled.plan import Precision
from bce.engine.compiled.targets import IsaName, host_target
from bce.engine.errors import BceError
from bce.engine.network.bundle import Bundle
from bce.engine.network.int8 import INT8
from bce.engine.network.mbconv import read_layers
from bce.engine.network.onnx_backbone import OnnxRuntimeBackbone
from bce.engine.network.openvino_backbone import OpenVinoBackbone
from bce.engine.network.runtimes import RUNS, int8_form

Outputs = list[NDArray[np.float32]]
Run = Callable[[NDArray[np.float32]], Outputs]
REFERENCE = "ONNX Runtime fp32"
COMPILED: tuple[tuple[Precision, IsaName], ...] = (
    ("fp32", "avx512"),
    ("fp32", "avx2"),
    ("bf16", "avx512"),
    ("int8", "avx512"),
    ("int8", "avx2"),
)
"""Precisions and vector forms that the compiled kernels have."""


class NotHere(Exception):
    """A contestant cannot take part, with the reason."""


@dataclass(frozen=True)
class BackboneAlone:
    """A form of a backbone.

    Attributes:
        name: such as :data:`REFERENCE` or "compiled bf16, avx512".
        run: inputs float32 [windows, *shape of one] -> outputs in order, each float32 [windows, width].
    """

    name: str
    run: Run


def backbones(bundle: Bundle, threads: int, absent: dict[str, str]) -> Iterator[BackboneAlone]:
    """The reference, then all other forms that there are here; none is held to a limit: that is for the reader.

    A bundle that was exported with int8 has it for the kernels, for ONNX Runtime, or for both.

    Args:
        bundle: whose backbone it is.
        threads: how many will call.
        absent: gets the names of those that cannot run here, and why.
    """
    makers: dict[str, Callable[[], Run]] = {}
    for precision in bundle.precisions:
        makers[f"ONNX Runtime {precision}"] = partial(_onnx_runtime, bundle, precision)
    for precision in ("fp32", "bf16"):
        makers[f"OpenVINO {precision}"] = partial(_openvino, bundle, precision, threads)
    for kind, isa in COMPILED:
        if kind == "int8" and kind not in bundle.precisions:
            continue
        makers[f"compiled {kind}, {isa}"] = partial(_compiled, bundle, kind, isa)
    for name, make in makers.items():
        try:
            yield BackboneAlone(name, make())
        except BceError as error:
            absent[name] = error.reason


def openvino(bundle: Bundle, precision: str, threads: int) -> OpenVinoBackbone:
    """A backbone as ``bce-infer --backend openvino`` runs it.

    Raises:
        BceError: OpenVINO is not installed, or the CPU has no such precision.
    """
    widths = OnnxRuntimeBackbone(bundle, "fp32").widths
    return OpenVinoBackbone(bundle.backbone(), bundle.manifest.input, precision, threads, widths)


def _onnx_runtime(bundle: Bundle, precision: str) -> Run:
    return OnnxRuntimeBackbone(bundle, precision).run


def _openvino(bundle: Bundle, precision: str, threads: int) -> Run:
    return openvino(bundle, precision, threads).run


def has_kernels(bundle: Bundle, precision: str) -> bool:
    """Whether the backend "auto" takes kernels for a precision of a bundle, as far as bundle and CPU decide it."""
    if precision != "int8":
        return precision in RUNS["compiled"]
    target = host_target()
    return bundle.file(INT8) is not None and target is not None and lacks(target, "int8") is None


def compiled_layers(bundle: Bundle, precision: str) -> tuple[Layers, Mapping[str, Element] | None]:
    """What the kernels run of a precision: the network, and for int8 what its products are.

    Raises:
        NotMbconv: the graph is of another kind.
        BundleError: the bundle has no int8, or another network's.
        CompiledError: it has int8 for ONNX Runtime alone.
    """
    layers = read_layers(bundle.backbone())
    if precision != "int8":
        return layers, None
    form = int8_form(bundle)
    return form.applied(layers), form.elements


def _compiled(bundle: Bundle, precision: Precision, isa: IsaName) -> Run:
    layers, chosen = compiled_layers(bundle, precision)
    network = CompiledNetwork(layers, precision, isa=isa, chosen=chosen)
    assert (network.form.precision, network.form.isa) == (precision, isa)

    def run(inputs: NDArray[np.float32]) -> Outputs:
        rows = [network.run(window) for window in inputs]
        return [np.stack(output) for output in zip(*rows, strict=True)]

    return run


@dataclass
class Distance:
    """How far outputs are from what is expected, gathered over any number of windows.

    Attributes:
        names: of the outputs, in order.
    """

    names: Sequence[str]
    _off: list[NDArray[np.float64]] = field(default_factory=list)
    _size: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, expected: Sequence[NDArray[np.float32]], found: Sequence[NDArray[np.float32]]) -> None:
        """Compare outputs, each [windows, width]."""

        def squares(outputs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
            return np.stack([np.square(output).sum(axis=1) for output in outputs])

        wide = [np.asarray(output, float) for output in expected]
        self._size.append(squares(wide))
        self._off.append(squares([np.asarray(b, float) - a for a, b in zip(wide, found, strict=True)]))

    def to_json(self) -> dict[str, Any]:
        """Relative L2 of each output: over all windows, and of the windows by themselves the median and the worst."""
        off, size = np.concatenate(self._off, axis=1), np.concatenate(self._size, axis=1)
        of_window = np.sqrt(off / np.maximum(size, 1e-24))
        return {
            "windows": int(off.shape[1]),
            "outputs": {
                name: {
                    "all": float(np.sqrt(off[index].sum() / size[index].sum())),
                    "median": float(np.median(of_window[index])),
                    "worst": float(of_window[index].max()),
                }
                for index, name in enumerate(self.names)
            },
        }


def furthest(distance: Mapping[str, Any]) -> dict[str, float]:
    """The figures of :meth:`Distance.to_json`, each of the output for which it is largest."""
    of_outputs = list(distance["outputs"].values())
    return {key: max(output[key] for output in of_outputs) for key in ("all", "median", "worst")}
