"""The writer of IR: what its lines compute, and its mistakes that are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kernel_calls import call

from bce.engine.compiled.emitter import INT, POINTER, TRIPLE, Function, Module, float_literal, ir_for, vector
from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.targets import Target


@dataclass(frozen=True)
class Written:
    """A function of (x, out, n) that a test writes."""

    name: str
    body: Callable[[Function], None]


def write(module: Module, isa: Isa, spec: Written) -> str:
    f = Function(module, spec.name, ["x", "o!", "#n"])
    spec.body(f)
    f.done()
    return spec.name


def run(target: Target, body: Callable[[Function], None], x: list[float], size: int, n: int = 0) -> list[float]:
    out = np.zeros(size, np.float32)
    call(target, write, Written(body.__name__, body), np.array(x, np.float32), out, n)
    return [float(value) for value in out]


@given(st.floats(width=32))
def test_float_literals(number: float) -> None:
    """As LLVM wants them: the bits of the double, in hexadecimal."""
    literal = float_literal(number)
    assert literal.startswith("0x")
    assert len(literal) == 18
    back = np.array([int(literal, 16)], np.uint64).view(np.float64)[0]
    assert np.array_equal(back, number, equal_nan=True)
    assert np.signbit(back) == np.signbit(number)


def test_literals_are_rounded_to_float32() -> None:
    assert float_literal(0.1) == float_literal(float(np.float32(0.1))) == "0x3FB99999A0000000"


def test_arithmetic(target: Target) -> None:
    def arithmetic(f: Function) -> None:
        x, out, _ = f.arguments
        a, b = x.load("float", 4), x.at(4).load("float", 4)
        for number, value in enumerate([a + b, a - b, a * b, a / b, -a, a + 1.5, a * 1]):
            out.at(4 * number).store(value, 4)

    assert run(target, arithmetic, [3.0, -2.0], 7) == [1, 5, -6, -1.5, -3, 4.5, 3]


def test_loops_carry_values(target: Target) -> None:
    """A count that is known and one that is given, a step, one loop in another."""

    def loops(f: Function) -> None:
        x, out, n = f.arguments
        zero = f.constant("float", 0.0)
        with f.loop(n, [zero, zero]) as outer:
            value = x.at(outer.index << 2).load("float", 4)
            with f.loop(6, [outer.values[1]], step=2) as inner:
                inner.carry([inner.values[0] + value])
            outer.carry([outer.values[0] + value, inner.values[0]])
        out.store(outer.values[0], 4)
        out.at(4).store(outer.values[1], 4)

    assert run(target, loops, [1, 2, 4, 8], 2, n=4) == [15, 45]
    assert run(target, loops, [1, 2, 4, 8], 2, n=3) == [7, 21]


def test_addresses_and_integers(target: Target) -> None:
    def addresses(f: Function) -> None:
        x, out, n = f.arguments
        place = f.smallest((n * 12 - 4) & ~3, 8)
        out.store(x.at(place).load("float", 4), 4)
        with f.loop(2) as loop:
            out.at(4, loop.index * 4).store(x.at(loop.index * 4, 4).load("float", 4), 4)

    assert run(target, addresses, [1, 2, 3], 3, n=1) == [3, 2, 3]
    assert run(target, addresses, [1, 2, 3], 3, n=5) == [3, 2, 3]


def test_vectors_of_constants(target: Target) -> None:
    def constants(f: Function) -> None:
        _, out, _ = f.arguments
        kind = vector("float", 4)
        out.store(f.constant(kind, 0.1), 4)
        out.at(16).store(f.lanes(kind, [1, 2.5, -3, 0]), 4)

    assert run(target, constants, [0], 8) == [float(np.float32(0.1))] * 4 + [1, 2.5, -3, 0]


def test_what_a_loop_carries_is_counted() -> None:
    f = Function(Module(), "f", ["#n"])
    with pytest.raises(ValueError, match="carries 1 values, 0 were given"), f.loop(3, [f.arguments[0]]):
        pass


def test_types_are_not_mixed() -> None:
    f = Function(Module(), "f", ["#n"])
    with pytest.raises(TypeError, match="add nsw of i64 and float"):
        f.arguments[0] + f.constant("float", 1)


def test_the_module() -> None:
    """Arguments by their marks; inner functions are not seen from outside; declared once; the attributes given."""
    module = Module()
    for name, exported in (("inner", False), ("outer", True)):
        f = Function(module, name, ["x", "o!", "#n"], exported)
        assert [argument.type for argument in f.arguments] == [POINTER, POINTER, INT]
        f.smallest(f.arguments[2], 3)
        f.done()
    text = ir_for(module.text(), '"target-cpu"="x86-64"')
    assert "define internal void @inner(ptr %x, ptr noalias %o, i64 %n) #0 {" in text
    assert "define void @outer(" in text
    assert text.count("declare i64 @llvm.smin.i64(i64, i64)") == 1
    assert text.startswith(f'target triple = "{TRIPLE}"')
    assert text.rstrip().endswith(
        'attributes #0 = { nounwind "denormal-fp-math"="preserve-sign" "target-cpu"="x86-64" }'
    )
