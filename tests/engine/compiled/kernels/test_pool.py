"""Means, lengths and nearest prototypes against plain numpy in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernel_calls import EPSILON, as_map, call, lanes_of, sum_limit

from bce.engine.compiled.kernels.pool import Lengths, Mean, Nearest, lengths, mean, nearest
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.packing import packed
from bce.engine.compiled.targets import Target


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 40),
    height=st.integers(1, 6),
    width=st.integers(1, 13),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_mean(
    target: Target, channels: int, height: int, width: int, padding: tuple[int, int, int, int], seed: int
) -> None:
    """What lies around the map is not in it."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    x = rng.standard_normal((channels, height, width)).astype(np.float32)
    memory = as_map(x, lanes, padding=padding, around=np.nan, gap=lanes)
    found = np.full(len(memory) * lanes, np.nan, np.float32)
    row = (width + padding[1] + padding[3]) * 4 * lanes
    spec = Mean(len(memory), height, width, row, memory[0].nbytes)
    call(target, mean, spec, memory.reshape(-1)[padding[0] * row // 4 + padding[1] * lanes :], found)
    limit = sum_limit(height * width, np.abs(x).mean(axis=(1, 2)))
    assert (np.abs(found[:channels] - x.mean(axis=(1, 2), dtype=np.float64)) <= limit).all()
    assert not found[channels:].any()


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 70),
    pixels=st.integers(1, 20),
    epsilon=st.sampled_from([1e-5, 0.001, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_lengths(target: Target, channels: int, pixels: int, epsilon: float, seed: int) -> None:
    """1 / (length + epsilon), of a pixel of zeros too."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    x = rng.standard_normal((channels, 1, pixels)).astype(np.float32)
    x[..., rng.integers(pixels)] = 0
    memory, found = as_map(x, lanes), np.full(pixels, np.nan, np.float32)
    call(target, lengths, Lengths(len(memory), pixels, epsilon), memory, found)
    wanted = 1 / (np.sqrt((x[:, 0].astype(np.float64) ** 2).sum(axis=0)) + np.float32(epsilon))
    assert (np.abs(found - wanted) <= EPSILON * (channels + 8) * wanted).all()


@settings(max_examples=10, deadline=None)
@given(
    channels=st.integers(1, 40),
    pixels=st.integers(1, 37),
    panel=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(channels=16, pixels=16, panel=1, seed=1)
def test_nearest(target: Target, channels: int, pixels: int, panel: int, seed: int) -> None:
    """The largest product over all pixels, which may be below zero."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    x = (rng.standard_normal((channels, 1, pixels)) + 1).astype(np.float32)
    weight = (rng.standard_normal((panel * lanes, channels)) - 1).astype(np.float32)
    inverse = rng.random(pixels).astype(np.float32)
    found = np.full(panel * lanes, np.nan, np.float32)
    call(
        target,
        nearest,
        Nearest(channels, pixels, panel),
        as_map(x, lanes),
        packed(weight, "f32", panel, isa),
        inverse,
        found,
    )
    products = weight.astype(np.float64) @ x[:, 0] * inverse
    magnitude = np.abs(weight).astype(np.float64) @ np.abs(x[:, 0]) * inverse
    assert (np.abs(found - products.max(axis=1)) <= sum_limit(channels + 1, magnitude.max(axis=1))).all()


def test_the_nearest_of_no_numbers_is_none(target: Target) -> None:
    """A network that gives NaN gives no logits that look like some."""
    isa, lanes = ISAS[target.isa], lanes_of(target)
    found = np.zeros(lanes, np.float32)
    x, weight = np.full((3, 1, 20), np.nan, np.float32), np.ones((lanes, 3), np.float32)
    given_ = as_map(x, lanes), packed(weight, "f32", 1, isa), np.full(20, np.nan, np.float32)
    call(target, nearest, Nearest(3, 20, 1), *given_, found)
    assert np.isnan(found).all()
