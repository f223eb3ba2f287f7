"""Layouts and lowerings leave the terms of a network as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bce.export.readers.steps import Conv, Func, Input
from bce.export.readers.terms import Tensor, Terms

SIZES = {"n": 1, "t": 5, "m": 4, "c": 6}


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_axes_say_what_an_array_of_that_layout_holds(data: st.DataObject) -> None:
    array = np.arange(math.prod(SIZES.values())).reshape(tuple(SIZES.values()))
    tensor: Tensor | None = Tensor(Input(()), tuple(((label, size),) for label, size in SIZES.items()))
    coordinates = dict(zip(SIZES, np.indices(array.shape), strict=True))
    for _ in range(data.draw(st.integers(1, 6))):
        assert tensor is not None
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(array.ndim)))
            array = array.transpose(order)
            coordinates = {label: x.transpose(order) for label, x in coordinates.items()}
            tensor = tensor.transposed(order)
        else:
            dims = list(array.shape)
            at = data.draw(st.integers(0, len(dims) - 1))
            if data.draw(st.booleans()) and at + 1 < len(dims):
                dims[at : at + 2] = [dims[at] * dims[at + 1]]
            else:
                dims.insert(at, 1)
            array = array.reshape(dims)
            coordinates = {label: x.reshape(dims) for label, x in coordinates.items()}
            tensor = tensor.reshaped(dims)
            assert tensor is not None
        assert tensor.dims == array.shape
    assert tensor is not None
    for i, axis in enumerate(tensor.layout):
        first = [0] * array.ndim
        first[i] = slice(None)  # type: ignore[call-overload]
        # along each axis its atoms count like the digits of a number, and nothing else changes
        digits = np.unravel_index(np.arange(array.shape[i]), [size for _, size in axis] or [1])
        for label in SIZES:
            found = coordinates[label][tuple(first)]
            position = next((k for k, atom in enumerate(axis) if atom[0] == label), None)
            if position is None:
                assert (found == found[0]).all()
            else:
                np.testing.assert_array_equal(found, digits[position])


# numbers that float64 rounds away, or has only steps for, are factors and offsets like others
@example([("add", 1e-9), ("add", 1e-9)])
@example([("add", 8e-9), ("channels", 1.0)])
@example([("mul", 1 + 5e-10)] * 6)
@example([("mul", 0.5), ("mul", 5e-324)])
@example([("mul", 2e-308), ("mul", 0.1), ("add", 1.0)])
@given(st.lists(st.tuples(st.sampled_from(["mul", "add", "sub", "neg", "channels"]), st.floats(-3, 3)), max_size=6))
@settings(deadline=None)
def test_factors_and_offsets_end_in_the_convolution(steps: list[tuple[str, float]]) -> None:
    terms, rng = Terms(), np.random.default_rng(0)
    kernel = rng.standard_normal((4, 2, 1, 1)).astype(np.float32)
    x = Tensor(Input(()), ((("n", 1),), (("c", 2),), (("t", 3),), (("m", 3),)))
    y = terms.conv(x, kernel, rng.standard_normal(4), (1, 1), ((0, 0), (0, 0)), 1)
    assert y is not None
    assert isinstance(y.term, Conv)
    # the map's values, followed by hand on one position per channel
    inputs = rng.standard_normal(4)
    values = inputs + y.term.shift
    for op, number in steps:
        assert y is not None
        if op == "channels":
            factors = rng.uniform(0.5, 2, 4)
            values, y = values * factors + number, terms.per_channel(y, factors.reshape(4, 1, 1), number)
        elif op == "neg":
            values, y = -values, terms.elementwise([y], lambda a: -a[0])
        else:
            function = {"mul": np.multiply, "add": np.add, "sub": np.subtract}[op]
            values = function(values, number)
            y = terms.elementwise([y, np.array(number)], lambda a, function=function: function(a[0], a[1]))
    assert y is not None
    term = terms.resolve(y)
    assert isinstance(term, Conv)
    np.testing.assert_allclose(term.scale * inputs + term.shift, values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("swish", lambda x: x / (1 + np.exp(-x))),
        ("swish", lambda x: 0.5 * x * (1 + np.tanh(0.5 * x))),
        ("sigmoid", lambda x: np.exp(x) / (1 + np.exp(x))),
        ("ReLU", lambda x: (x + np.abs(x)) / 2),
        ("hard swish", lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6),
        ("an unknown function", lambda x: x / (1 + np.exp(-1.702 * x))),
    ],
)
def test_functions_are_known_by_their_values(name: str, function: object) -> None:
    terms = Terms()
    x = Tensor(Input(()), ((("n", 1),), (("t", 3),), (("m", 3),)))
    y = terms.elementwise([x], lambda arrays: function(arrays[0]))  # type: ignore[operator]
    assert y is not None
    term = terms.resolve(y)
    assert isinstance(term, Func)
    assert term.name == name
    assert terms.resolve(y) is term


@pytest.mark.parametrize("offset", [0.5, -2.0, 1e-6])
def test_an_offset_inside_a_written_out_sigmoid_is_the_layers(offset: float) -> None:
    """1 / (1 + exp(-(x + offset))): the inverse of such a function has fewer digits than plain sums and products."""
    terms = Terms()
    x = Tensor(Input(()), ((("n", 1),), (("c", 2),), (("t", 3),), (("m", 3),)))
    conv = terms.conv(x, np.ones((4, 2, 1, 1), np.float32), np.zeros(4), (1, 1), ((0, 0), (0, 0)), 1)
    assert conv is not None
    y = terms.elementwise([conv], lambda arrays: 1 / (1 + np.exp(-arrays[0]) * np.exp(-offset)))
    assert y is not None
    term = terms.resolve(y)
    assert isinstance(term, Func)
    assert term.name == "sigmoid"
    (layer,) = term.inputs
    assert isinstance(layer, Conv)
    np.testing.assert_allclose(layer.shift, offset, rtol=0, atol=1e-8)
    np.testing.assert_allclose(layer.scale, 1.0, rtol=0, atol=1e-9)
