"""One kernel by itself, called with numpy arrays; arrays in the kernels' layouts, made without the engine's help."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.compilation import Code, compile_object
from bce.engine.compiled.emitter import Module, ir_for
from bce.engine.compiled.lanes import ISAS, Isa
from bce.engine.compiled.swish import Swish
from bce.engine.compiled.targets import Target

Write = Callable[[Module, Isa, Any], str]
"""A kernel: it writes its function for a spec into a module."""
LINE = 64
AROUND = 512
"""Bytes on either side of an argument that stay as they are. As floats they are NaN, which spoils what reads them."""

EPSILON = 2.0**-24
"""The largest relative error of a float32 rounding."""


def call(target: Target, write: Write, spec: Any, *arguments: NDArray[Any] | int) -> None:
    """Call a kernel; arrays are changed in place. Fails where it writes beside them."""
    _, function = _compiled(target, write, spec)
    lent = [lend(argument) if isinstance(argument, np.ndarray) else None for argument in arguments]
    function(
        *(
            ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_void_p(memory.ctypes.data + AROUND)
            for argument, memory in zip(arguments, lent, strict=True)
        )
    )
    for argument, memory in zip(arguments, lent, strict=True):
        if isinstance(argument, np.ndarray):
            inside = memory[AROUND : AROUND + argument.nbytes]
            assert (memory[:AROUND] == 0xFF).all(), "written before an argument"
            assert (memory[AROUND + argument.nbytes :] == 0xFF).all(), "written behind an argument"
            argument[...] = inside.view(argument.dtype).reshape(argument.shape)


def lend(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A copy on a cache line with something on either side."""
    size = array.nbytes
    whole = np.full(size + 2 * AROUND + LINE, 0xFF, np.uint8)
    start = -whole.ctypes.data % LINE
    memory = whole[start : start + size + 2 * AROUND]
    memory[AROUND : AROUND + size] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memory


@cache
def _compiled(target: Target, write: Write, spec: Any) -> tuple[Code, Any]:
    module = Module()
    name = write(module, ISAS[target.isa], spec)
    code = Code(compile_object(ir_for(module.text(), target.attributes), target), target, "compiled")
    return code, ctypes.CFUNCTYPE(None)(code.address(name))


# layouts --------------------------------------------------------------------------------------------------------------


def lanes_of(target: Target) -> int:
    return {"avx512": 16, "avx2": 8}[target.isa]


def vectors(channels: int, lanes: int) -> int:
    return -(-channels // lanes)


def as_map(
    x: NDArray[Any],
    lanes: int,
    element: str = "f32",
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    gap: int = 0,
    around: float = 0.0,
    more: int = 0,
) -> NDArray[Any]:
    """A map [channels, height, width] as [vector][row][pixel][lane].

    Args:
        x: the map.
        lanes: of a vector; channels that it has too few are zero.
        element: float32, or the bits of bfloat16.
        padding: pixels around: top, left, bottom, right.
        gap: numbers between the vectors' rows.
        around: what is in them.
        more: vectors of zeros behind.
    """
    channels, height, width = x.shape
    top, left, bottom, right = padding
    count = vectors(channels, lanes) + more
    rows = np.zeros((count * lanes, height, width), np.float32)
    rows[:channels] = x
    rows = np.pad(rows, ((0, 0), (top, bottom), (left, right)), constant_values=around)
    ordered = rows.reshape(count, lanes, *rows.shape[1:]).transpose(0, 2, 3, 1).reshape(count, -1)
    whole = np.pad(ordered, ((0, 0), (0, gap)), constant_values=around)
    return bits_of(whole) if element == "bf16" else np.ascontiguousarray(whole)


def empty_map(
    count: int, height: int, width: int, lanes: int, element: str = "f32", padding: tuple[int, int, int, int] = (0,) * 4
) -> NDArray[Any]:
    """Memory for a map of so many vectors, all NaN."""
    top, left, bottom, right = padding
    size = (height + top + bottom) * (width + left + right) * lanes
    if element == "bf16":
        return np.full((count, size), 0x7FFF, np.uint16)
    return np.full((count, size), np.nan, np.float32)


def of_map(
    memory: NDArray[Any], height: int, width: int, lanes: int, padding: tuple[int, int, int, int] = (0,) * 4
) -> NDArray[Any]:
    """[channels, height, width] of a map that kernels made: all its channels, also those that only fill a vector."""
    top, left, bottom, right = padding
    count = len(memory)
    shape = (count, height + top + bottom, width + left + right, lanes)
    rows = memory.reshape(shape).transpose(0, 3, 1, 2).reshape(count * lanes, *shape[1:3])
    return rows[:, top : top + height, left : left + width]


def outside(memory: NDArray[Any], height: int, width: int, lanes: int, padding: tuple[int, int, int, int]) -> Any:
    """What is around a map, as one vector of bits."""
    mask = np.ones(of_map(memory, height, width, lanes, padding).shape[1:], bool)
    top, left, bottom, right = padding
    mask = np.pad(np.zeros_like(mask), ((top, bottom), (left, right)), constant_values=True)
    kind = np.uint16 if memory.itemsize == 2 else np.uint32
    return memory.view(kind).reshape(len(memory), *mask.shape, lanes)[:, mask]


# bfloat16 -------------------------------------------------------------------------------------------------------------


def nearest_bfloat16(x: NDArray[Any]) -> NDArray[np.float32]:
    """The nearest number with 8 significant bits, ties to even; normal numbers only."""
    fraction, exponent = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8).astype(np.float32)


def bits_of(x: NDArray[Any]) -> NDArray[np.uint16]:
    """Numbers as bfloat16, rounded: their bits."""
    return (nearest_bfloat16(x).view(np.uint32) >> 16).astype(np.uint16)


def from_bits(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


# limits ---------------------------------------------------------------------------------------------------------------


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def swish(x: NDArray[Any]) -> NDArray[Any]:
    return x * sigmoid(x)


def scaled_sums(x: NDArray[Any], swish: Swish) -> NDArray[np.float32]:
    """Sums as an activation gets them; the scale is that of the definition, not of the engine."""
    return (np.asarray(x, np.float64) * {"exact": -np.log2(np.e), "rough": 0.5}[swish]).astype(np.float32)


def exp_limit(x: NDArray[Any], lanes: int, degree: int = 2) -> NDArray[Any]:
    """The largest relative error of an exact sigmoid or swish, which is that of exp(-x).

    That of the polynomial nearest to 2^r for |r| <= 1 / (2 lanes), of log2(e) in float32 times x, and of six roundings;
    with 8 lanes the polynomial has one degree more.
    """
    degree += lanes == 8
    half = np.log(2) / (2 * lanes)
    polynomial = half ** (degree + 1) / (2.0**degree * float(np.prod(np.arange(1, degree + 2))))
    return 1.05 * polynomial + 2 * EPSILON * np.abs(x) + 6 * EPSILON


def swish_limit(x: NDArray[Any], kind: Swish, lanes: int) -> NDArray[Any]:
    """The largest error of a swish; numbers that float32 does not hold may be missing.

    A rough one is (x + |x| t) / 2 with lines in place of t = tanh(|x| / 2), over segments of 1/4: half of a chord's
    error, whose second derivative is 0.1925 at most, and a few roundings of |x|. Behind 7.6, t is 1.
    """
    if kind == "exact":
        return exp_limit(x, lanes) * np.abs(swish(x)) + 1e-34
    size = np.abs(x)
    lines = 0.1925 * 0.25**2 / 16
    return 1.01 * size * (np.where(size < 7.6, lines / 2, np.exp(-size)) + 4 * EPSILON)


def sum_limit(terms: int, magnitude: NDArray[Any]) -> NDArray[Any]:
    """The largest error of a sum of so many terms, one after the other, whose absolute values add to a magnitude."""
    return (terms + 2) * EPSILON * magnitude
