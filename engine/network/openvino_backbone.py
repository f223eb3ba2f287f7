"""OpenVINO in place of ONNX Runtime for a bundle's backbone, believed only after a check.

It is here to be compared with: the compiled kernels are faster wherever both run. Others have met wrong numbers from
it without any error: outputs left unfilled by the first inference at a new shape, NaN, inflated scores at lower
precisions. So there is one input shape, the precision is always stated, and before the first window every inference
request has given ONNX Runtime's numbers twice, or the backbone is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cache, partial
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, OptionsError
from bce.engine.network.backbone import BackboneForm
from bce.engine.network.checking import hold_to
from bce.engine.network.manifest import Input
from bce.engine.results import Features

HINTS = {"fp32": "f32", "bf16": "bf16"}
REPORTER = "openvino_telemetry"


def load_openvino() -> Any:
    """The package, imported so that it reports to nobody.

    It comes with ``openvino_telemetry``, which leaves an id in the user's home and sends an event at each import. Where
    that is not to be had it uses a stub of its own; the only other switch is a file in the user's home.

    Raises:
        OptionsError: OpenVINO is not installed.
    """
    hidden = REPORTER not in sys.modules
    if hidden:
        sys.modules[REPORTER] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError:
        raise OptionsError("openvino is not installed: pip install 'bce[openvino]'") from None
    finally:
        if hidden:
            del sys.modules[REPORTER]
    return openvino


@cache
def openvino_core() -> Any:
    """One for the whole process: where two of them were freed, the next signal ended it (OpenVINO 2026.4).

    It leaves an alternate stack for signals that is no memory any more.
    """
    return load_openvino().Core()


class OpenVinoBackbone:
    """A backbone graph in OpenVINO, with an inference request for each of N calling threads. Calls are thread-safe.

    Args:
        path: the float32 graph, inputs [batch, *shape] -> outputs [batch, width].
        graph_input: its input.
        precision: "fp32" or "bf16".
        threads: how many threads call, and how many OpenVINO keeps busy for them in all.
        widths: width of each output by name, in order.

    Raises:
        OptionsError: OpenVINO is not installed, or the precision is not possible with it or on this CPU.
        BundleError: OpenVINO cannot compile the graph.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        graph_input: Input,
        precision: str,
        threads: int,
        widths: Mapping[str, int],
    ) -> None:
        if precision not in HINTS:
            raise OptionsError(f"the openvino backend runs {' and '.join(HINTS)}, not {precision}")
        core = openvino_core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise OptionsError("this CPU has no bfloat16 arithmetic: leave --precision at fp32")
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": threads,
        }
        try:
            graph = core.read_model(os.fspath(path))
            graph.reshape({graph_input.name: [1, *graph_input.shape]})
            compiled = core.compile_model(graph, "CPU", settings)
            requests = [compiled.create_infer_request() for _ in range(threads)]
        except RuntimeError as error:
            raise BundleError(f"cannot be compiled by OpenVINO: {str(error).strip().splitlines()[0]}", path) from error
        self.path = path
        self.form = BackboneForm("openvino", precision)
        self.widths = dict(widths)
        self._places = range(len(compiled.outputs))
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for request in requests:
            self._requests.put(request)
        self._count = threads

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The graph's outputs in order, each float32 [windows, width], for inputs float32 [windows, *shape].

        Windows go one by one: there is one shape, the one that has been checked.
        """
        request = self._requests.get()
        try:
            rows = [self._infer(request, window[None]) for window in inputs]
        finally:
            self._requests.put(request)
        return [np.concatenate(output) for output in zip(*rows, strict=True)]

    def check(self, inputs: NDArray[np.float32], expected: Features) -> None:
        """Hold every inference request to ONNX Runtime's outputs: see :func:`bce.engine.network.checking.hold_to`."""
        requests = [self._requests.get() for _ in range(self._count)]
        try:
            for request in requests:
                hold_to(expected, partial(self._infer, request), inputs, self.form, self.path)
        finally:
            for request in requests:
                self._requests.put(request)

    def _infer(self, request: Any, window: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        request.infer([np.ascontiguousarray(window)])
        return [request.get_output_tensor(place).data.copy() for place in self._places]
