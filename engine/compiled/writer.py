"""The function that runs a network while it is written: calls of kernels, and the memory that they share."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from bce.engine.compiled.emitter import INT, Function, Module, Value
from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.maps import Arena
from bce.engine.compiled.packing import Weights

ENTRY = "run"
"""The name of the function: (input, weights, arena)."""
MOST_STAGES = 1024
FLUSH = 0x8040
"""The bits of MXCSR that flush tiny results and operands to zero: they would take a hundred times as long."""


class Writer:
    """A program while it is written.

    Args:
        isa: the vector form.
        clock: whether :meth:`mark` reads the time-stamp counter.
    """

    def __init__(self, isa: Isa, clock: bool) -> None:
        self.isa = isa
        self.module = Module()
        self.arena = Arena()
        self.weights = Weights()
        self.f = Function(self.module, ENTRY, ["x", "w", "s"], exported=True)
        self.x, self._w, self._s = self.f.arguments
        self.stages: list[str] = []
        self._clock = clock
        self.clock = self.arena.take(8 * MOST_STAGES if clock else 0)
        self._control = self.arena.take(8)
        self._flush()
        self.mark("start")

    def s(self, place: int) -> Value:
        """An address in the arena."""
        return self._s.at(place)

    def put(self, array: NDArray[Any]) -> Value:
        """The address of an array that becomes part of the weights."""
        return self._w.at(self.weights.put(array))

    def fill(self, place: Value, size: int) -> None:
        """Zeros, so many bytes of them."""
        self.f.do("llvm.memset.p0.i64", place, "i8 0", f"i64 {size}", "i1 false")

    def copy(self, target: Value, source: Value, size: int) -> None:
        """Move bytes; the two places may overlap."""
        self.f.do("llvm.memmove.p0.p0.i64", target, source, f"i64 {size}", "i1 false")

    def mark(self, stage: str) -> None:
        """Read the clock at the end of a stage, where that was asked for."""
        if self._clock:
            now = self.f.intrinsic(INT, "llvm.readcyclecounter")
            self.s(self.clock + 8 * len(self.stages)).store(now, 8)
            self.stages.append(stage)

    def finish(self) -> str:
        """The text of the whole module."""
        self.f.do("llvm.x86.sse.ldmxcsr", self.s(self._control))
        self.f.done()
        return self.module.text()

    def _flush(self) -> None:
        """Flush tiny numbers to zero until the function is done."""
        before, inside = self.s(self._control), self.s(self._control + 4)
        self.f.do("llvm.x86.sse.stmxcsr", before)
        inside.store(before.load("i32", 4) | FLUSH, 4)
        self.f.do("llvm.x86.sse.ldmxcsr", inside)
