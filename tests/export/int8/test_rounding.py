"""Rounded weights against definitions in numpy, and products in low precisions against integer arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.programs import an_input, network

from bce.engine.compiled.layers import Pointwise, Rounded
from bce.engine.compiled.packing import nearest
from bce.export.int8.forms import integer_product, word_product
from bce.export.int8.forward import Forward, captured
from bce.export.int8.moments import hessians
from bce.export.int8.rounding import corrected, gptq, rounded

weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-8, 8, width=32).map(lambda value: 0.0 if abs(value) < 1e-6 else value),
)


def correlated(rng: np.random.Generator, inside: int, rank: int, count: int = 400) -> np.ndarray:
    """Rows of a few directions and a little noise."""
    return rng.standard_normal((count, rank)) @ rng.standard_normal((rank, inside)) + 0.1 * rng.standard_normal(
        (count, inside)
    )


def real(values: Rounded) -> np.ndarray:
    return values.values * values.scale[:, None].astype(np.float64)


@given(weights, st.sampled_from([64, 127]))
@settings(max_examples=60, deadline=None)
def test_the_nearest_are_within_half_a_step(weight: np.ndarray, largest: int) -> None:
    found = nearest(weight, largest)
    assert found.values.dtype == np.int8
    assert found.scale.dtype == np.float32
    assert (found.scale > 0).all()
    assert np.abs(found.values.astype(int)).max(initial=0) <= largest
    assert (np.abs(real(found) - weight) <= 0.5001 * found.scale[:, None]).all()
    rows = np.abs(weight).max(axis=1) > 0
    assert (np.abs(found.values.astype(int)).max(axis=1)[rows] == largest).all()


def test_compensation_is_that_of_the_definition() -> None:
    """Column by column, each time solving for the best of the columns that are left."""
    rng = np.random.default_rng(0)
    x = correlated(rng, 70, 20)
    hessian = x.T @ x / len(x)
    weight = rng.standard_normal((5, 70)).astype(np.float32)
    found = gptq(weight, hessian, 127, damp=0.01)
    damped = hessian + 0.01 * np.trace(hessian) / 70 * np.eye(70)
    order = np.argsort(-np.diag(hessian), kind="stable")
    scale = found.scale.astype(np.float64)
    left, wanted = weight.astype(np.float64), np.zeros((5, 70))
    for place, column in enumerate(order):
        wanted[:, column] = np.clip(np.rint(left[:, column] / scale), -127, 127)
        error = left[:, column] - wanted[:, column] * scale
        behind = order[place + 1 :]
        if len(behind):
            step = np.linalg.solve(damped[np.ix_(behind, behind)], damped[behind, column])
            left[:, behind] += error[:, None] * step
    assert (found.values == wanted).mean() > 0.99  # what is left are ties


@pytest.mark.parametrize("largest", [64, 127])
def test_the_output_is_nearer_than_with_the_nearest_weights(largest: int) -> None:
    rng = np.random.default_rng(1)
    directions = correlated(rng, 96, 12, 2000)
    x, unseen = directions[:1000], directions[1000:]
    weight = rng.standard_normal((16, 96)).astype(np.float32)
    errors = [
        np.linalg.norm(unseen @ (real(one) - weight).T)
        for one in (gptq(weight, x.T @ x, largest), nearest(weight, largest))
    ]
    assert errors[0] < 0.4 * errors[1]


def test_degenerate_moments_are_borne() -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((4, 10)).astype(np.float32)
    weight[1] = 0
    nothing = gptq(weight, np.zeros((10, 10)), 127)
    plain = nearest(weight, 127)
    assert np.array_equal(nothing.values, plain.values)
    assert np.array_equal(nothing.scale, plain.scale)
    x = rng.standard_normal(10)
    for hessian in (np.outer(x, x), np.diag([1.0] * 5 + [0.0] * 5), np.outer(x, x) - 0.05 * np.eye(10)):
        found = gptq(weight, hessian, 127, damp=1e-9)
        assert np.isfinite(found.scale).all()
        assert not found.values[1].any()
        assert np.abs(real(found) - weight).max() < 1


def test_it_is_the_same_every_time() -> None:
    rng = np.random.default_rng(3)
    x, weight = correlated(rng, 100, 30), rng.standard_normal((30, 100)).astype(np.float32)
    first, second = (gptq(weight, x.T @ x, 64) for _ in range(2))
    assert np.array_equal(first.values, second.values)


@pytest.mark.parametrize("kind", ["classes with members", "patches"])
def test_moments_are_those_of_what_products_are_fed(kind: str) -> None:
    layers = network(kind)
    forward, x = Forward(layers), np.stack([an_input(layers, seed) * 3**seed for seed in range(5)])
    seen: dict[str, list[np.ndarray]] = {name: [] for name in forward.names}
    captured(forward, x, lambda name, given: seen[name].extend(given.numpy().astype(np.float64)))
    found = hessians(forward, x)
    assert list(found) == list(forward.names)
    for name, windows in seen.items():
        assert len(windows) == len(x)
        weights = [1 / (window**2).mean() for window in windows]
        each = [weight * window.T @ window / len(window) for weight, window in zip(weights, windows, strict=True)]
        assert np.allclose(found[name].hessian, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)
        mean = np.average([window.mean(axis=0) for window in windows], axis=0, weights=weights)
        assert np.allclose(found[name].mean, mean, atol=1e-5 * np.abs(mean).max())
    several = hessians(forward, [x[:2], x[2:]])
    assert all(np.allclose(several[name].hessian, found[name].hessian, rtol=1e-4, atol=1e-6) for name in found)
    few, again = (hessians(forward, x, most_pixels=2) for _ in range(2))
    assert all(np.array_equal(few[name].hessian, again[name].hessian) for name in few)


def test_the_mean_output_is_kept() -> None:
    layers = network("patches")
    forward, x = Forward(layers), np.stack([an_input(layers, seed) for seed in range(5)])
    moments = hessians(forward, x)
    found = rounded(forward, moments, 64)
    assert list(found) == list(forward.names)
    for name, (weights, bias) in found.items():
        layer, moment = forward.layers[name], moments[name]
        assert weights.values.shape == layer.weight.shape
        assert np.abs(weights.values.astype(int)).max() <= 64
        wanted = layer.weight.astype(np.float64) @ moment.mean + layer.bias
        assert np.allclose(real(weights) @ moment.mean + bias, wanted, atol=1e-5)
        assert np.array_equal(bias, corrected(layer.weight, layer.bias, weights, moment))
    assert set(rounded(forward, {"dense": moments["dense"]}, 127)) == {"dense"}


# products in low precisions -------------------------------------------------------------------------------------------


def integer_definition(x: np.ndarray, weights: Rounded, bias: np.ndarray, low: float) -> np.ndarray:
    """Of one window [pixels, in], in integers."""
    low, high = min(low, 0.0), max(float(x.max()), 1e-6)
    step = (high - low) / 255
    zero = int(np.rint(-low / step))
    whole = np.clip(np.rint(x.astype(np.float64) / step + zero), 0, 255).astype(np.int64)
    return (whole - zero) @ weights.values.T.astype(np.int64) * (step * weights.scale.astype(np.float64)) + bias


@pytest.mark.parametrize("bounded", [False, True])
def test_an_integer_product_is_its_definition(bounded: bool) -> None:
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((4, 30, 24)) * np.array([1, 100, 0.01, 0])[:, None, None]).astype(np.float32)
    x[2] = np.abs(x[2])
    weights, bias = nearest(rng.standard_normal((9, 24)), 127), rng.standard_normal(9).astype(np.float32)
    low = np.array([-0.2, -0.1, -0.3, -0.05], np.float32)
    layer = Pointwise(np.zeros((9, 24), np.float32), bias)
    found = integer_product(weights, bias)(torch.from_numpy(x), layer, torch.from_numpy(low) if bounded else None)
    for window in range(4):
        least = float(low[window]) if bounded else float(x[window].min())
        wanted = integer_definition(x[window], weights, bias, least)
        # single values may fall to the other side of a step
        assert np.quantile(np.abs(found[window].numpy() - wanted), 0.9) < 1e-4 * np.abs(wanted).max()
        assert np.abs(found[window].numpy() - wanted).max() < 0.05 * np.abs(wanted).max() + 1e-6


def test_a_window_has_its_own_range() -> None:
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((3, 10, 8)).astype(np.float32) * np.float32([[[1]], [[50]], [[0.1]]]))
    weights = nearest(rng.standard_normal((6, 8)), 64)
    product, layer = integer_product(weights, np.zeros(6, np.float32)), Pointwise(np.zeros((6, 8)), np.zeros(6))
    together = product(x, layer, None)
    assert all(torch.allclose(together[n], product(x[n : n + 1], layer, None)[0]) for n in range(3))


def test_words_are_nearly_exact() -> None:
    """As many steps as a sum of so many products can hold in 32 bits, of the window's range and of the weights."""
    rng = np.random.default_rng(6)
    x, weight = rng.standard_normal((2, 5, 40)).astype(np.float32), rng.standard_normal((7, 40)).astype(np.float32)
    bias = rng.standard_normal(7).astype(np.float32)
    layer = Pointwise(weight, bias)
    found = word_product(layer)(torch.from_numpy(x), layer, None).numpy()
    exact, most = x.astype(np.float64) @ weight.T.astype(np.float64) + bias, int(np.sqrt(2**31 / 40))
    step, scale = (x.max() - x.min()) / (2 * most), np.abs(weight).max() / most
    limit = 0.5 * step * np.abs(weight).sum(axis=1) + 0.5 * scale * np.abs(x).sum(axis=2, keepdims=True)
    assert (np.abs(found - exact) <= 1.1 * limit + 1e-5).all()
    assert np.abs(found - exact).max() > 1e-5
