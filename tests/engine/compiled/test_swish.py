"""The activations, exact and rough, in both vector forms, against their definitions in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from support.kernel_calls import call, exp_limit, lanes_of, scaled_sums, sigmoid, swish, swish_limit

from bce.engine.compiled.emitter import Function, Module
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.layers import Pointwise
from bce.engine.compiled.swish import POWERS_OF_TWO, Swish, gate_sigmoid, gate_swish, scaled, swish_of, tanh_lines
from bce.engine.compiled.targets import Target

Operation = Literal["exact", "rough", "gate swish", "gate sigmoid"]


@dataclass(frozen=True)
class OneByOne:
    """An activation of each number of an array."""

    operation: Operation


def one_by_one(module: Module, isa: Isa, spec: OneByOne) -> str:
    """(x, out, count of vectors)."""
    f = Function(module, "one_by_one", ["x", "o!", "#n"])
    lanes = Lanes(f, isa)
    x, out, count = f.arguments
    with f.loop(count) as loop:
        place = loop.index * isa.bytes
        z = lanes.load(x.at(place))
        if spec.operation == "gate swish":
            done = gate_swish(lanes, z)
        elif spec.operation == "gate sigmoid":
            done = gate_sigmoid(lanes, z)
        else:
            done = swish_of(lanes, z, spec.operation)
        lanes.store(out.at(place), done)
    f.done()
    return "one_by_one"


def result(target: Target, operation: Operation, x: np.ndarray) -> np.ndarray:
    """The activation of x, which is scaled first."""
    if operation == "rough" and target.isa != "avx512":
        pytest.skip("a rough swish wants 16 lanes")
    lanes = lanes_of(target)
    with np.errstate(over="ignore"):
        z = scaled_sums(x, "rough" if operation == "rough" else "exact")
    given = np.resize(z, -(-len(x) // lanes) * lanes)
    found = np.full_like(given, np.nan)
    call(target, one_by_one, OneByOne(operation), given, found, len(given) // lanes)
    return found[: len(x)]


NUMBERS = np.concatenate(
    [
        np.linspace(-120, 120, 60_001),
        np.linspace(-10, 10, 60_001),
        np.linspace(-1, 1, 20_001),
        [0.0, -0.0, 1e-30, 1e-40],
    ]
).astype(np.float32)
LARGE = np.array([-1e20, -1e9, -1e6, -1e4, -200, 200, 1e4, 1e6, 1e9, 1e20], np.float32)
OPERATIONS = pytest.mark.parametrize("operation", ["exact", "rough", "gate swish", "gate sigmoid"])


def test_of_a_gate(target: Target) -> None:
    """Within the polynomial's error and a few roundings; what float32 does not hold may be 0."""
    x, lanes = NUMBERS.astype(np.float64), lanes_of(target)
    limit = exp_limit(x, lanes, degree=3)
    assert (np.abs(result(target, "gate sigmoid", NUMBERS) - sigmoid(x)) <= limit * sigmoid(x) + 1e-36).all()
    assert (np.abs(result(target, "gate swish", NUMBERS) - swish(x)) <= limit * np.abs(swish(x)) + 1e-34).all()


@pytest.mark.parametrize("kind", ["exact", "rough"])
def test_swish(target: Target, kind: Swish) -> None:
    x = NUMBERS.astype(np.float64)
    off = np.abs(result(target, kind, NUMBERS) - swish(x))
    assert (off <= swish_limit(x, kind, lanes_of(target))).all()


def test_what_it_comes_to(target: Target) -> None:
    """The limits of the test before in plain numbers, where most sums of a network are."""
    x = np.linspace(-4, 4, 40_000).astype(np.float32)
    exact = swish(x.astype(np.float64))
    assert np.abs(result(target, "exact", x) / exact - 1).max() < 1e-6
    if target.isa == "avx512":
        found = result(target, "rough", x)
        assert np.abs(found / exact - 1)[x > 0].max() < 5.1e-4  # an eighth of bfloat16's step
        assert np.abs(found - exact).max() < 1e-3
        near = np.abs(x) < 0.1
        assert np.abs(found / exact - 1)[near].max() < 1e-4


def test_scaled_is_what_is_wanted() -> None:
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    layer = Pointwise(x, x[:, 0])
    for kind in ("exact", "rough"):
        found = scaled(layer, kind)
        for values, given in ((found.weight, layer.weight), (found.bias, layer.bias)):
            np.testing.assert_allclose(values, scaled_sums(given, kind), rtol=3e-7)
            assert values.dtype == np.float32
    assert (scaled(layer, "rough").weight * 2 == x).all()


@OPERATIONS
def test_large_numbers(target: Target, operation: Operation) -> None:
    """A swish of them is they, or nothing."""
    wanted = LARGE > 0 if operation == "gate sigmoid" else np.maximum(LARGE, 0)
    assert np.allclose(result(target, operation, LARGE), wanted, rtol=1e-6, atol=1e-17)


@OPERATIONS
def test_what_is_no_number_stays_none(target: Target, operation: Operation) -> None:
    """Whatever a recording does to a network, no NaN becomes a number that looks like a result."""
    given = np.array([np.nan, 1.0, -np.nan, np.nan], np.float32)
    assert np.isnan(result(target, operation, given)).tolist() == [True, False, True, True]


@OPERATIONS
def test_infinite_numbers_give_no_wrong_ones(target: Target, operation: Operation) -> None:
    """A sigmoid of them is the limit or NaN, a swish infinite or NaN: nothing that looks like a result."""
    found = result(target, operation, np.array([np.inf, -np.inf], np.float32))
    if operation == "gate sigmoid":
        assert np.isnan(found[0]) or found[0] == 1
        assert np.isnan(found[1]) or found[1] < 1e-37
    else:
        assert not np.isfinite(found).any()


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


def test_lines_are_as_near_as_can_be() -> None:
    """Over each segment but the first and the last the error reaches its largest value three times, changing sign."""
    lines = tanh_lines()
    assert len(lines) == 32
    for place, (start, slope) in enumerate(lines[1:-1], 1):
        z = np.linspace(place - 0.5, place + 0.5, 2001) / 8
        error = start + slope * z - np.tanh(z)
        near = error[np.abs(error) > 0.99 * np.abs(error).max()]
        assert np.count_nonzero(np.diff(np.sign(near))) == 2
    assert lines[0][0] == 0
    assert lines[-1] == (1, 0)
