"""What one core of this machine computes at most: small generated loops that touch no memory but the first cache."""

from __future__ import annotations

import ctypes
import time

import numpy as np

from bce.engine.compiled.compilation import Code, compile_object
from bce.engine.compiled.emitter import INT, Function, Module, Value, ir_for
from bce.engine.compiled.lanes import AVX512, ISAS, Isa, Lanes
from bce.engine.compiled.maps import DEPTHS, WHOLE, Element
from bce.engine.compiled.packing import aligned
from bce.engine.compiled.swish import Swish, swish_of
from bce.engine.compiled.targets import Target

PASSES = 200_000
"""Of each loop: about a millisecond."""
CHAIN = 8
_MULTIPLY_CYCLES = 3
"""From one 64-bit integer multiplication to the next that needs its result, on every x86-64 CPU with AVX2."""
_VECTORS = 32
"""Of the array that swish goes over, 2 KB at most."""
_REPEATS = 5


class Peaks:
    """The loops of one vector form.

    Args:
        target: whose instructions they may use; this CPU must have them.
    """

    def __init__(self, target: Target) -> None:
        self._isa = ISAS[target.isa]
        module = Module()
        self._counts = {"cycles": _chain(module), "f32": _multiplications(module, self._isa, "f32")}
        if target.bf16:
            self._counts["bf16"] = _multiplications(module, self._isa, "bf16")
        if target.vnni:
            self._counts |= {element: _multiplications(module, self._isa, element) for element in WHOLE}
        kinds: tuple[Swish, ...] = ("exact", "rough") if self._isa is AVX512 else ("exact",)
        for kind in kinds:
            self._counts[kind] = _swish(module, self._isa, kind)
        ir = ir_for(module.text(), target.attributes)
        self._code = Code(compile_object(ir, target), target, "compiled")
        self._memory = aligned(2 * _VECTORS * self._isa.bytes)
        self._memory.view(np.float32)[:] = np.linspace(-4, 4, self._memory.size // 4)

    def measure(self) -> dict[str, float]:
        """Rates of one core now, the best of a few: by name, in so many a second.

        "cycles"; "f32", "bf16", "i16" and "i8" multiply-adds; "exact" and "rough" activations.
        """
        found = {}
        for name, count in self._counts.items():
            function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._code.address(_function(name)))
            seconds = []
            for _ in range(_REPEATS):
                began = time.perf_counter()
                function(self._memory.ctypes.data)
                seconds.append(time.perf_counter() - began)
            found[name] = count / min(seconds)
        return found


def _function(name: str) -> str:
    return f"peak_{name}"


def _chain(module: Module) -> int:
    """Squares of an integer, each waiting for the one before it: the clock. Gives its number of cycles."""
    f = Function(module, _function("cycles"), ["p"], exported=True)
    value = f.arguments[0].load(INT, 8)
    with f.loop(PASSES, [value]) as loop:
        (value,) = loop.values
        for _ in range(CHAIN):
            value = value * value
        loop.carry([value])
    f.arguments[0].store(loop.values[0], 8)
    f.done()
    return PASSES * CHAIN * _MULTIPLY_CYCLES


def _multiplications(module: Module, isa: Isa, element: Element) -> int:
    """As many independent sums as registers hold. Gives its number of multiply-adds."""
    f = Function(module, _function(element), ["p"], exported=True)
    lanes, place = Lanes(f, isa), f.arguments[0]
    a, b = (lanes.load(place.at(n * isa.bytes)) for n in range(2))
    kind = isa.ints if element in WHOLE else isa.floats
    sums = [lanes.load(place.at(n * isa.bytes)).bitcast(kind) for n in range(isa.registers * 3 // 4)]

    def multiplied(total: Value) -> Value:
        return lanes.dot(element, total, a, b)

    with f.loop(PASSES, sums) as loop:
        loop.carry([multiplied(total) for total in loop.values])
    sums = [total.bitcast(isa.floats) for total in loop.values]
    lanes.store(place, lanes.sum(sums))
    f.done()
    return PASSES * len(sums) * isa.lanes * DEPTHS[element]


def _swish(module: Module, isa: Isa, kind: Swish) -> int:
    """Over a small array into another one. Gives its number of activations."""
    f = Function(module, _function(kind), ["p"], exported=True)
    lanes, place, together = Lanes(f, isa), f.arguments[0], 4
    times = PASSES // _VECTORS
    with f.loop(times), f.loop(_VECTORS // together) as loop:
        source = place.at(loop.index * (together * isa.bytes))
        for n in range(together):
            here = source.at(n * isa.bytes)
            lanes.store(here.at(_VECTORS * isa.bytes), swish_of(lanes, lanes.load(here), kind))
    f.done()
    return times * _VECTORS * isa.lanes
