"""Maps as whole numbers and what restores them, against the definition in float64; products, which are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.forms import multiplying_bytes
from support.kernel_calls import EPSILON, as_map, call, empty_map, lanes_of, nearest_bfloat16, of_map

from bce.engine.compiled.kernels.expand import Expand, expand
from bce.engine.compiled.kernels.project import Project, project
from bce.engine.compiled.kernels.whole import (
    Bound,
    Extent,
    Quantise,
    Restore,
    bound,
    extent,
    quantise,
    restore,
)
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.maps import WHOLE, Element, levels
from bce.engine.compiled.packing import packed_whole, padded
from bce.engine.compiled.targets import Target

SEEDS = st.integers(0, 2**32 - 1)
LOWEST_SWISH = -0.278464542761073796  # x / (1 + exp(-x)) at x = -1.27846454276107380


LEVELS = [(0, 255), (-1000, 2000)]
"""Bottom and steps of bytes, and of some numbers of 16 bits."""


def assert_range(found: NDArray[np.float32], low: float, high: float, bottom: int, steps: int) -> None:
    """1 / scale, zero, scale, -zero x scale: by the definition, but for float32."""
    high = max(high, 1e-6)
    scale = (high - low) / steps
    assert found[0] == pytest.approx(1 / scale, rel=1e-6)
    assert found[1] == np.rint(found[1])
    assert abs(found[1] - bottom + low / scale) <= 0.5 + 1e-3
    assert found[2] == pytest.approx(scale, rel=1e-6)
    assert found[3] == pytest.approx(-found[1] * scale, rel=8 * EPSILON)


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 40),
    sign=st.sampled_from([-1, 0, 1]),
    size=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    to=st.sampled_from(LEVELS),
    seed=SEEDS,
)
def test_the_range_of_a_map(target: Target, count: int, sign: int, size: float, to: tuple[int, int], seed: int) -> None:
    """It holds 0 whatever the numbers are."""
    x = np.random.default_rng(seed).standard_normal(count * lanes_of(target)).astype(np.float32)
    x = np.float32(size) * (x if sign == 0 else sign * np.abs(x))
    found = np.full(4, np.nan, np.float32)
    call(target, extent, Extent(count, *to), x, found)
    assert_range(found, min(0.0, float(x.min())), max(0.0, float(x.max())), *to)


@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
def test_no_number_has_no_range(target: Target, spoiled: float) -> None:
    """The scale is none, so that nothing that is restored with it is one."""
    lanes = lanes_of(target)
    x = np.ones(5 * lanes, np.float32)
    x[lanes + 3] = spoiled
    found = np.zeros(4, np.float32)
    call(target, extent, Extent(5, 0, 255), x, found)
    assert not np.isfinite(found[2:]).any()
    assert not np.isfinite(found[2] * 0 + found[3])
    sums = np.ones(5 * lanes, np.float32)
    sums[7] = spoiled
    call(
        target,
        bound,
        Bound(5, True, 0, 255),
        np.ones(5 * lanes, np.float32),
        sums,
        np.ones(5 * lanes, np.float32),
        found,
    )
    assert np.isnan(found[2:]).all()


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 9), gated=st.booleans(), to=st.sampled_from(LEVELS), seed=SEEDS)
def test_the_range_of_gated_swishes(target: Target, count: int, gated: bool, to: tuple[int, int], seed: int) -> None:
    """From the least that a swish can be to the largest number times its own gate."""
    rng, size = np.random.default_rng(seed), count * lanes_of(target)
    maxima = np.maximum(rng.standard_normal(size), -0.27).astype(np.float32)
    gates = rng.uniform(0, 1, size).astype(np.float32)
    found = np.full(4, np.nan, np.float32)
    call(target, bound, Bound(count, gated, *to), maxima, maxima, gates, found)
    factors = gates.astype(np.float64) if gated else np.ones(size)
    high = max(0.0, float((maxima * factors).max()))
    assert_range(found, LOWEST_SWISH * float(factors.max()), high, *to)
    assert (to[0] - found[1]) * found[2] <= LOWEST_SWISH * factors.max() + 0.51 * found[2]


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 40),
    pixels=st.integers(1, 13),
    gated=st.booleans(),
    low=st.booleans(),
    element=st.sampled_from(WHOLE),
    seed=SEEDS,
)
def test_whole_numbers_of_a_map(
    target: Target, channels: int, pixels: int, gated: bool, low: bool, element: Element, seed: int
) -> None:
    """The nearest step of the range, and its ends for what is outside."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    x = rng.standard_normal((channels, 1, pixels)).astype(np.float32)
    if low:
        x = nearest_bfloat16(x)
    source = as_map(x, lanes, "bf16" if low else "f32")
    count = len(source)
    gates = rng.uniform(0.1, 1, count * lanes).astype(np.float32)
    bottom, steps = (0, 255) if element == "i8" else (-200, 400)
    of_range = np.array([100, rng.integers(bottom, bottom + steps + 1), 0.01, 0], np.float32)
    out = np.zeros((count, pixels * lanes), np.uint8 if element == "i8" else np.int16)
    spec = Quantise("bf16" if low else "f32", element, count, pixels, gated, bottom, steps)
    call(target, quantise, spec, source, gates, of_range, out)
    factors = gates[:channels, None] if gated else np.ones((channels, 1), np.float32)
    exact = x[:, 0].astype(np.float64) * factors * 100 + of_range[1]
    found = of_map(out, 1, pixels, lanes)[:, 0]
    assert np.abs(found[:channels] - np.clip(exact, bottom, bottom + steps)).max() <= 0.5 + 1e-4
    assert (found[channels:] == of_range[1]).all()


def restored(values: NDArray[Any], scale: NDArray[Any], bias: NDArray[Any], of_range: NDArray[Any]) -> NDArray[Any]:
    """(scale, offset) of each output in float64."""
    sums = values.astype(np.int64).sum(axis=1)
    return np.stack([scale * of_range[2], bias - of_range[1] * of_range[2] * scale * sums])


def weights_of(
    rng: np.random.Generator, outputs: int, channels: int, element: Element = "i8"
) -> tuple[NDArray[Any], ...]:
    most = levels(element, channels).weight
    values = rng.integers(-most, most + 1, (outputs, channels)).astype(np.int8 if element == "i8" else np.int16)
    scale = rng.uniform(-0.02, 0.02, outputs).astype(np.float32)
    return values, scale, rng.standard_normal(outputs).astype(np.float32)


@settings(max_examples=12, deadline=None)
@given(panel=st.integers(1, 3), panels=st.integers(1, 3), seed=SEEDS)
def test_what_restores(target: Target, panel: int, panels: int, seed: int) -> None:
    """Scales and offsets, panel by panel."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    size = panel * panels * lanes
    values, scale, bias = weights_of(rng, size, 7)
    of_range = np.array([50, 31, 0.02, -0.62], np.float32)
    sums = (values.astype(np.int64).sum(axis=1) * scale.astype(np.float64)).astype(np.float32)
    out = np.full((panels, 2, panel * lanes), np.nan, np.float32)
    call(target, restore, Restore(panel), of_range, scale, sums, bias, out, panels)
    wanted = restored(values, scale, bias, of_range)
    assert np.allclose(out.swapaxes(0, 1).reshape(2, -1), wanted, rtol=1e-5, atol=1e-6)


@settings(max_examples=14, deadline=None)
@given(
    channels=st.integers(1, 70),
    height=st.integers(1, 3),
    width=st.integers(1, 18),
    panel=st.integers(1, 3),
    element=st.sampled_from(WHOLE),
    seed=SEEDS,
)
@example(channels=64, height=1, width=40, panel=3, element="i8", seed=1)
@example(channels=1500, height=1, width=2, panel=1, element="i16", seed=2)
def test_products(
    target: Target, channels: int, height: int, width: int, panel: int, element: Element, seed: int
) -> None:
    """The sums are exact, out of any whole numbers; spare channels of the map add nothing."""
    target = multiplying_bytes(target)
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    outputs, vectors = panel * lanes, -(-channels // lanes)
    values, scale, bias = weights_of(rng, outputs, channels, element)
    to = levels(element, channels)
    x = rng.integers(to.bottom, to.bottom + to.steps + 1, (vectors, height * width, lanes))
    x = x.astype(np.uint8 if element == "i8" else np.int16)
    x[..., 0] = to.bottom + to.steps  # as large as a sum can be
    values[:, ::lanes] = -to.weight
    exact = values.astype(np.int64) @ x.transpose(0, 2, 1).reshape(vectors * lanes, -1)[:channels].astype(np.int64)
    given = np.stack([padded(part, outputs) for part in (scale, bias)])
    packed = packed_whole(values, element, panel, isa)
    wanted = scale[:, None].astype(np.float64) * exact + bias[:, None]
    limit = 2 * EPSILON * np.abs(wanted) + 1e-6
    pixel = lanes * x.itemsize
    map_bytes = height * width * pixel

    out = empty_map(panel, height, width, lanes)
    row_out = width * 4 * lanes
    spec = Expand(
        channels, width, panel, element, width * pixel, map_bytes, row_out, height * row_out, "relu", rows=height
    )
    call(target, expand, spec, x, packed, given, out, height // spec.tile_rows(isa))
    found = of_map(out, height, width, lanes).reshape(outputs, -1)
    assert (np.abs(found - np.maximum(wanted, 0)) <= limit).all()

    added = rng.standard_normal((outputs, height, width)).astype(np.float32)
    rest = as_map(added, lanes)
    out = empty_map(panel, height, width, lanes)
    flat = Project(
        channels, height * width, 1, panel, element, map_bytes, map_bytes, 0, height * row_out, 0, 0, height * row_out
    )
    call(target, project, flat, x, packed, given, out, out[:0], rest)
    found = of_map(out, height, width, lanes).reshape(outputs, -1)
    assert (np.abs(found - wanted - added.reshape(outputs, -1)) <= limit + 4 * EPSILON * np.abs(wanted)).all()
