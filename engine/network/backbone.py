"""What a backbone is to a run, whatever runs it, and what a run says of that."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bce.engine.compiled.network import Form

NAMES = {"compiled": "compiled", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""What runs a backbone, by the name that an option has for it."""


@dataclass(frozen=True)
class BackboneForm:
    """What a backbone is run by.

    Attributes:
        backend: a key of :data:`NAMES`.
        precision: "fp32", "bf16" or "int8".
        compiled: of compiled kernels, for which CPU they are and where they come from; None for a runtime.
        why: why it is no compiled kernels, where these would have been the first choice; else empty.
    """

    backend: str
    precision: str
    compiled: Form | None = None
    why: str = ""

    def __str__(self) -> str:
        """In one line: "compiled fp32, avx512 (znver4)", "ONNX Runtime int8, because ..."."""
        if self.compiled is not None:
            return str(self.compiled)
        return f"{NAMES[self.backend]} {self.precision}{', because ' if self.why else ''}{self.why}"

    @property
    def isa(self) -> str | None:
        """The instruction set of compiled kernels, "avx512" or "avx2"; None for a runtime."""
        return None if self.compiled is None else self.compiled.isa

    def record(self) -> dict[str, Any]:
        """What a run's report keeps of it."""
        compiled = {} if self.compiled is None else asdict(self.compiled)
        return {"backend": self.backend, "precision": self.precision, **compiled, "why_not_compiled": self.why or None}


class Backbone(Protocol):
    """A backbone ready to run. Calls are thread-safe."""

    @property
    def widths(self) -> dict[str, int]:
        """Width of each output by name, in the graph's order."""

    @property
    def form(self) -> BackboneForm:
        """What runs it."""

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The outputs in order, each float32 [windows, width], for inputs float32 [windows, *shape of one].

        Raises:
            BundleError: the graph fails, gives another shape than it says, or numbers that are not finite.
        """
