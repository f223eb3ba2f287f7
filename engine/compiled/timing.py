"""A network as compiled code that says how long each of its stages takes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.compilation import Code, compile_object
from bce.engine.compiled.emitter import ir_for
from bce.engine.compiled.generate import ENTRY, generate
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Layers
from bce.engine.compiled.maps import Element
from bce.engine.compiled.packing import aligned
from bce.engine.compiled.plan import Precision
from bce.engine.compiled.targets import Target


class Timed:
    """A network as compiled code that reads the clock between its stages.

    Args:
        layers: the network.
        precision: "fp32", "bf16" or "int8".
        target: what it is compiled for; this CPU must have all that it needs.
        chosen: see :func:`bce.engine.compiled.plan.elements`.

    Attributes:
        stages: their names, in order.
    """

    def __init__(
        self, layers: Layers, precision: Precision, target: Target, chosen: Mapping[str, Element] | None = None
    ) -> None:
        program = generate(layers, precision, ISAS[target.isa], chosen=chosen, clock=True)
        first, *self.stages = program.stages
        assert first == "start"
        ir = ir_for(program.text, target.attributes)
        self._code = Code(compile_object(ir, target), target, "compiled")
        self._weights, self._arena = program.weights.memory(), aligned(program.arena_bytes)
        end = program.clock + 8 * len(program.stages)
        self._clock = self._arena[program.clock : end].view(np.int64)
        self._run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3)(self._code.address(ENTRY))

    def run(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """The readings of the clock for an input: at the start, then at the end of each stage."""
        self._run(x.ctypes.data, self._weights.ctypes.data, self._arena.ctypes.data)
        return self._clock.copy()
