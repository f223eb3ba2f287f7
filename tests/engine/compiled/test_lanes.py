"""Vector arithmetic: roundings and extremes in both forms, in one small function each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from support.kernel_calls import bits_of, call, from_bits, lanes_of

from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.targets import Target


@dataclass(frozen=True)
class OneByOne:
    """An operation on each number of an array."""

    operation: str


def one_by_one(module: Module, isa: Isa, spec: OneByOne) -> str:
    """(x, out, count of vectors)."""
    f = Function(module, spec.operation, ["x", "o!", "#n"])
    lanes = Lanes(f, isa)
    x, out, count = f.arguments
    operations = {
        "largest_with_1": lambda value: lanes.largest(lanes.constant(1.0), value),
        "smallest_with_1": lambda value: lanes.smallest(lanes.constant(1.0), value),
    }
    with f.loop(count) as loop:
        place = loop.index * isa.bytes
        lanes.store(out.at(place), operations[spec.operation](lanes.load(x.at(place))))
    f.done()
    return spec.operation


def result(target: Target, operation: str, x: np.ndarray) -> np.ndarray:
    lanes = lanes_of(target)
    given = np.resize(x.astype(np.float32), -(-len(x) // lanes) * lanes)
    found = np.full_like(given, np.nan)
    call(target, one_by_one, OneByOne(operation), given, found, len(given) // lanes)
    return found[: len(x)]


def test_extremes(target: Target) -> None:
    """Of a constant and a number; NaN as the second operand stays."""
    given = np.array([-np.inf, -2, 1, 3, np.inf, np.nan], np.float32)
    assert np.array_equal(result(target, "largest_with_1", given), np.array([1, 1, 1, 3, np.inf, np.nan]), True)
    assert np.array_equal(result(target, "smallest_with_1", given), np.array([-np.inf, -2, 1, 1, 1, np.nan]), True)


def rounding(module: Module, isa: Isa, spec: None) -> str:
    """(x float32, out bfloat16, back float32, count of vectors)."""
    f = Function(module, "rounding", ["x", "o!", "b!", "#n"])
    lanes = Lanes(f, isa)
    x, out, back, count = f.arguments
    with f.loop(count) as loop:
        half = out.at(loop.index * (isa.bytes // 2))
        lanes.store(half, lanes.load(x.at(loop.index * isa.bytes)), "bf16")
        lanes.store(back.at(loop.index * isa.bytes), lanes.load(half, "bf16"))
    f.done()
    return "rounding"


def test_bfloat16(target: Target) -> None:
    """To the nearest, ties to even."""
    if not target.bf16:
        pytest.skip("no bfloat16 in this form")
    lanes = lanes_of(target)
    bits = np.random.default_rng(0).integers(0x3000_0000, 0x4F00_0000, 1024 * lanes).astype(np.uint32)
    bits[::4] = bits[::4] & 0xFFFF_0000 | 0x8000  # ties
    x = bits.view(np.float32) * np.where(np.arange(len(bits)) % 2, 1, -1).astype(np.float32)
    out, back = np.zeros(len(x), np.uint16), np.zeros(len(x), np.float32)
    call(target, rounding, None, x, out, back, len(x) // lanes)
    assert (out == bits_of(x)).all()
    assert (back == from_bits(out)).all()
