"""The door of this wing: a network that runs one input with one arena."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.emitter import ir_for
from bce.engine.compiled.generate import ENTRY, Program, generate
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Layers
from bce.engine.compiled.loading import load_code
from bce.engine.compiled.maps import Element
from bce.engine.compiled.packing import aligned
from bce.engine.compiled.plan import Precision
from bce.engine.compiled.targets import IsaName, Target
from bce.engine.errors import CompiledError


@dataclass(frozen=True)
class Form:
    """What runs.

    Attributes:
        isa: the vector form.
        precision: "fp32", "bf16" or "int8".
        cpu: LLVM's name of the CPU that the code was made for.
        origin: where the code came from: "compiled" just now, "cache", or the folder that was named.
    """

    isa: IsaName
    precision: Precision
    cpu: str
    origin: str

    def __str__(self) -> str:
        return f"compiled {self.precision}, {self.isa} ({self.cpu})"


def lacks(target: Target, precision: Precision) -> str | None:
    """What a CPU would need for a precision, in words; None where it has all."""
    if precision == "bf16" and not target.bf16:
        return "bfloat16 arithmetic (AVX512_BF16)"
    if precision == "int8" and not target.vnni:
        return "dot products of whole numbers (AVX512_VNNI, AVX_VNNI)"
    return None


class CompiledNetwork:
    """A network as native code. Calls are thread-safe: each has an arena to itself while it runs.

    Args:
        layers: the network.
        precision: "fp32", "bf16" or "int8".
        folders: with object code made ahead, which the user named; looked at first.
        isa: the vector form to take; None for the best that this CPU has.
        chosen: for "int8", the products' elements, see :func:`bce.engine.compiled.plan.elements`.

    Attributes:
        form: what runs.
        widths: numbers of each output by name, in order.

    Raises:
        CompiledError: saying why there is no code for it here.
    """

    def __init__(
        self,
        layers: Layers,
        precision: Precision,
        folders: Sequence[Path] = (),
        isa: IsaName | None = None,
        chosen: Mapping[str, Element] | None = None,
    ) -> None:
        programs: dict[IsaName, Program] = {}

        def ir(target: Target) -> str:
            if (missing := lacks(target, precision)) is not None:
                raise CompiledError(f"this CPU has no {missing}")
            if target.isa not in programs:
                programs[target.isa] = generate(layers, precision, ISAS[target.isa], chosen=chosen)
            return ir_for(programs[target.isa].text, target.attributes)

        self._code = load_code(ir, precision, folders, isa)
        target = self._code.target
        self.form = Form(target.isa, precision, target.cpu, self._code.origin)
        program = programs[target.isa]
        self._outputs = program.outputs
        self._arena_bytes = program.arena_bytes
        self.widths = {output.name: output.width for output in self._outputs}
        self._shape = layers.input_shape
        self._run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(self._code.address(ENTRY))
        self._weights = program.weights.memory()
        self._arenas: SimpleQueue[_Arena] = SimpleQueue()

    def run(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The outputs in order, each float32 [width] (a map: [channels, height, width]), for one input.

        Args:
            x: float32 [height, width], or [channels, height, width] where the network takes several.

        Raises:
            ValueError: another shape.
        """
        if x.shape != self._shape:
            raise ValueError(f"an input of {x.shape}, expected {self._shape}")
        x = np.ascontiguousarray(x, np.float32)
        try:
            arena = self._arenas.get_nowait()
        except Empty:  # as many as there are callers at the same time
            memory = aligned(self._arena_bytes)
            arena = _Arena(memory, [output.view(memory) for output in self._outputs])
        try:
            self._run(x.ctypes.data, self._weights.ctypes.data, arena.memory.ctypes.data)
            return [output.read(view) for output, view in zip(self._outputs, arena.views, strict=True)]
        finally:
            self._arenas.put(arena)


@dataclass(frozen=True, eq=False)
class _Arena:
    """The memory of a caller, and where the outputs are in it."""

    memory: NDArray[np.uint8]
    views: list[NDArray[np.float32]]
