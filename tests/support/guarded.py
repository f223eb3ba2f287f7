"""Programs run in memory where every array and every place of the arena lies at a page that nothing may touch.

A process of its own: what reads or writes beside its memory ends it.

    python -m support.guarded {ends,begins,strips,short} ISA PRECISION KIND...

``strips`` is ``ends`` with a buffer so small that maps go through it in strips; ``short`` is a control: the arena's
places end a cache line too early.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.plain_mbconv import forward
from support.programs import an_input, compiled, network

from bce.engine.compiled import plan
from bce.engine.compiled.maps import Arena
from bce.engine.compiled.packing import Weights
from bce.engine.compiled.targets import host_target

PAGE = mmap.PAGESIZE
LINE = 64
STRIPS = 4000
"""Bytes of a buffer that small networks' maps do not fit."""
UNTOUCHABLE, READABLE, WRITABLE = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE


class Apart:
    """Places each on pages of their own, with a page that nothing may touch before and behind.

    Args:
        ends: a place's last byte lies at the page behind it (but for what is missing to a cache line); else its first
            byte at the page before it.
    """

    def __init__(self, ends: bool) -> None:
        self.ends = ends
        self.bytes = PAGE
        self.pages: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        inside = -(-size // PAGE) * PAGE
        begin = self.bytes
        self.pages.append((begin, inside))
        self.bytes += inside + PAGE
        return begin + (inside - -(-size // LINE) * LINE if self.ends else 0)

    def memory(self) -> NDArray[np.uint8]:
        """Of all places: writable, and filled with NaN; all else cannot be touched."""
        found = pages(self.bytes)
        protect(found, UNTOUCHABLE)
        for begin, size in self.pages:
            protect(found[begin : begin + size], WRITABLE)
            found[begin : begin + size] = 0xFF
        return found


def pages(size: int) -> NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def protect(memory: NDArray[Any], rights: int) -> None:
    function = ctypes.CDLL(None, use_errno=True).mprotect
    if memory.nbytes and function(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes), rights):
        raise OSError(ctypes.get_errno(), "mprotect")


def lent(places: Apart, array: NDArray[Any]) -> NDArray[np.uint8]:
    """A copy of one array that can be read only."""
    size = array.nbytes
    begin = places.take(size)
    memory = places.memory()
    if places.ends:  # to the last byte: an input is read number by number
        begin = places.bytes - PAGE - size
    memory[begin : begin + size] = array.reshape(-1).view(np.uint8)
    for first, inside in places.pages:
        protect(memory[first : first + inside], READABLE)
    return memory[begin : begin + size]


def run(kind: str, side: str, isa: Any, precision: Any) -> None:
    """One network; its results have to be right as well."""
    ends = side != "begins"
    arena, weights = Apart(ends), Apart(ends)
    missing = LINE if side == "short" else 0
    Arena.take = lambda self, size: arena.take(size - missing) + missing  # type: ignore[method-assign]
    if side == "strips":
        plan.BUFFER_BYTES = STRIPS
    arrays: list[tuple[int, NDArray[Any]]] = []

    def put(self: Weights, array: NDArray[Any]) -> int:
        arrays.append((weights.take(array.nbytes), np.ascontiguousarray(array)))
        return arrays[-1][0]

    Weights.put = put  # type: ignore[method-assign]
    layers, target = network(kind), host_target(isa)
    assert target is not None
    program = compiled(layers, precision, target)
    of_weights = weights.memory()
    for place, array in arrays:
        of_weights[place : place + array.nbytes] = array.reshape(-1).view(np.uint8)
    for begin, size in weights.pages:
        protect(of_weights[begin : begin + size], READABLE)
    x = an_input(layers)
    found = program(lent(Apart(ends), x), of_weights, arena.memory())
    for values, wanted in zip(found, forward(layers, x), strict=True):
        assert np.linalg.norm(values - wanted) <= (1e-5 if precision == "fp32" else 0.1) * np.linalg.norm(wanted)
    print(kind, flush=True)


if __name__ == "__main__":
    _, side, wanted_isa, wanted_precision, *kinds = sys.argv
    for one in kinds:
        run(one, side, wanted_isa, wanted_precision)
