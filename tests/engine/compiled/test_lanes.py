"""Vector arithmetic: exponentials, roundings and extremes in both forms, in one small function each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from support.kernel_calls import (
    bits_of,
    call,
    exp_limit,
    from_bits,
    lanes_of,
    sigmoid,
    swish,
    swish_limit,
)

from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.lanes import POWERS_OF_TWO, Isa, Lanes
from bce.engine.compiled.targets import Target


@dataclass(frozen=True)
class OneByOne:
    """An operation on each number of an array."""

    operation: str
    degree: int = 0


def one_by_one(module: Module, isa: Isa, spec: OneByOne) -> str:
    """(x, out, count of vectors)."""
    f = Function(module, spec.operation, ["x", "o!", "#n"])
    lanes = Lanes(f, isa)
    x, out, count = f.arguments
    operations = {
        "swish": lambda value: lanes.swish(value, spec.degree),
        "sigmoid": lambda value: lanes.sigmoid(value, spec.degree),
        "exp_of_minus": lambda value: lanes.exp_of_minus(value, spec.degree),
        "largest_with_1": lambda value: lanes.largest(lanes.constant(1.0), value),
        "smallest_with_1": lambda value: lanes.smallest(lanes.constant(1.0), value),
    }
    with f.loop(count) as loop:
        place = loop.index * isa.bytes
        lanes.store(out.at(place), operations[spec.operation](lanes.load(x.at(place))))
    f.done()
    return spec.operation


def result(target: Target, operation: str, x: np.ndarray, degree: int = 0) -> np.ndarray:
    lanes = lanes_of(target)
    given = np.resize(x.astype(np.float32), -(-len(x) // lanes) * lanes)
    found = np.full_like(given, np.nan)
    call(target, one_by_one, OneByOne(operation, degree), given, found, len(given) // lanes)
    return found[: len(x)]


NUMBERS = np.concatenate(
    [np.linspace(-120, 120, 60_001), np.linspace(-1, 1, 20_001), [0.0, -0.0, 1e-30, -1e-30, 1e-40]]
).astype(np.float32)
LARGE = np.array([-1e20, -1e9, -1e6, -1e4, -200, 200, 1e4, 1e6, 1e9, 1e20], np.float32)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_exponentials(target: Target, degree: int) -> None:
    """Within the polynomial's error and a few roundings; what float32 does not hold may be 0 or infinite."""
    x, lanes = NUMBERS.astype(np.float64), lanes_of(target)
    relative = exp_limit(x, degree, lanes)
    inside = np.abs(x) < 87
    exact, found = np.exp(-x), result(target, "exp_of_minus", NUMBERS, degree)
    assert (np.abs(found - exact) <= relative * exact)[inside].all()
    assert (np.abs(result(target, "sigmoid", NUMBERS, degree) - sigmoid(x)) <= relative * sigmoid(x) + 1e-36).all()
    assert (np.abs(result(target, "swish", NUMBERS, degree) - swish(x)) <= swish_limit(x, degree, lanes)).all()


def test_degrees_are_worth_their_multiplications(target: Target) -> None:
    """The limits of the test before, in plain numbers: what the precisions were chosen by."""
    errors = []
    for degree in (1, 2, 3):
        x = np.linspace(-10, 10, 20_001).astype(np.float32)
        exact = np.exp(-x.astype(np.float64))
        errors.append((np.abs(result(target, "exp_of_minus", x, degree) - exact) / exact).max())
    assert errors[0] < 1.3e-4  # a thirtieth of bfloat16's rounding
    assert errors[1] < 1.2e-6
    assert errors[2] < 1.0e-6


def test_large_numbers(target: Target) -> None:
    """A swish of them is they, or nothing."""
    with np.errstate(over="ignore"):
        assert np.allclose(result(target, "swish", LARGE, 2), np.maximum(LARGE, 0), rtol=1e-6, atol=1e-17)
        assert np.allclose(result(target, "sigmoid", LARGE, 2), LARGE > 0, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("operation", ["swish", "sigmoid"])
def test_what_is_no_number_stays_none(target: Target, operation: str) -> None:
    """Whatever a recording does to a network, no NaN becomes a number that looks like a result."""
    given = np.array([np.nan, 1.0, -np.nan, np.nan], np.float32)
    assert np.isnan(result(target, operation, given, 2)).tolist() == [True, False, True, True]


def test_infinite_numbers_give_no_wrong_ones(target: Target) -> None:
    """They are the limit, or NaN."""
    found = result(target, "swish", np.array([np.inf, -np.inf], np.float32), 2)
    assert not np.isfinite(found).any()
    found = result(target, "sigmoid", np.array([np.inf, -np.inf], np.float32), 2)
    assert np.isnan(found[0]) or found[0] == 1
    assert np.isnan(found[1]) or found[1] < 1e-37


def test_extremes(target: Target) -> None:
    """Of a constant and a number; NaN as the second operand stays."""
    given = np.array([-np.inf, -2, 1, 3, np.inf, np.nan], np.float32)
    assert np.array_equal(result(target, "largest_with_1", given), np.array([1, 1, 1, 3, np.inf, np.nan]), True)
    assert np.array_equal(result(target, "smallest_with_1", given), np.array([-np.inf, -2, 1, 1, 1, np.nan]), True)


@pytest.mark.parametrize(("degree", "lanes"), POWERS_OF_TWO)
def test_polynomials_are_as_near_as_can_be(degree: int, lanes: int) -> None:
    """The largest error is Chebyshev's, and is reached degree + 2 times with changing sign: de la Vallee Poussin."""
    coefficients = POWERS_OF_TWO[degree, lanes]
    r = np.linspace(-1, 1, 4001) / (2 * lanes)
    error = np.polynomial.polynomial.polyval(r, coefficients) / 2.0**r - 1
    half = np.log(2) / (2 * lanes)
    chebyshev = half ** (degree + 1) / (2.0**degree * float(np.prod(np.arange(1, degree + 2))))
    assert np.abs(error).max() < 1.05 * chebyshev
    signs = np.sign(error[np.abs(error) > 0.9 * np.abs(error).max()])
    assert np.count_nonzero(np.diff(signs)) == degree + 1


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
