"""Patches, and the product with ReLU that they go into, against plain numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernel_calls import (
    EPSILON,
    as_map,
    bits_of,
    call,
    empty_map,
    from_bits,
    lanes_of,
    nearest_bfloat16,
    of_map,
    sum_limit,
)

from bce.engine.compiled.kernels.expand import Expand, expand
from bce.engine.compiled.kernels.patches import Halved, Patches, halved, patches
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.packing import packed, padded
from bce.engine.compiled.targets import Target


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 40),
    kernel=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 7),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    low=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(channels=24, kernel=3, height=1, width=6, padding=(0, 0, 0, 0), low=True, seed=1)
def test_patches(
    target: Target,
    channels: int,
    kernel: int,
    height: int,
    width: int,
    padding: tuple[int, int, int, int],
    low: bool,
    seed: int,
) -> None:
    """Every output's numbers, [tap][channel]: scaled, moved, none below zero; what is around the map is not in them."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    element = "bf16" if low and target.bf16 else "f32"
    x = rng.standard_normal((channels, height + kernel - 1, width + kernel - 1)).astype(np.float32)
    scale, shift = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    memory = as_map(x, lanes, padding=padding, around=np.nan, gap=lanes)
    vectors, row = len(memory), (x.shape[2] + padding[1] + padding[3]) * 4 * lanes
    out = np.zeros((kernel * kernel * vectors, height * width * lanes), np.uint16 if element == "bf16" else np.float32)
    spec = Patches(vectors, kernel, height, width, row, memory[0].nbytes, element)
    origin = memory.reshape(-1)[padding[0] * row // 4 + padding[1] * lanes :]
    call(target, patches, spec, origin, padded(scale, vectors * lanes), padded(shift, vectors * lanes), out)
    numbers = from_bits(out) if element == "bf16" else out
    found = of_map(numbers, height, width, lanes, (0, 0, 0, 0)).reshape(kernel, kernel, vectors * lanes, height, width)
    moved = np.maximum(x.astype(np.float64) * scale[:, None, None] + shift[:, None, None], 0)
    limit = 2 * EPSILON * (np.abs(x * scale[:, None, None]) + np.abs(shift)[:, None, None])
    limit = limit + (moved * 2.0**-8 if element == "bf16" else 0)
    for i in range(kernel):
        for j in range(kernel):
            part = np.s_[:, i : i + height, j : j + width]
            assert (np.abs(found[i, j, :channels] - moved[part]) <= limit[part]).all()
    assert not found[:, :, channels:].any()


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 70),
    pixels=st.integers(1, 20),
    panel=st.integers(1, 3),
    low=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_product_with_relu(target: Target, channels: int, pixels: int, panel: int, low: bool, seed: int) -> None:
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    element = "bf16" if low and target.bf16 else "f32"
    outputs = panel * lanes - 1
    x = rng.standard_normal((channels, 1, pixels)).astype(np.float32)
    weight = rng.standard_normal((outputs, channels)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    source, out = as_map(x, lanes, element), empty_map(panel, 1, pixels, lanes)
    spec = Expand(
        channels, pixels, panel, element, source[0].nbytes, source[0].nbytes, 0, out[0].nbytes, "relu", rows=1
    )
    call(target, expand, spec, source, packed(weight, element, panel, isa), padded(bias, panel * lanes), out, 1)
    if element == "bf16":
        x, weight = nearest_bfloat16(x), nearest_bfloat16(weight)
    sums = weight.astype(np.float64) @ x[:, 0] + bias[:, None]
    magnitude = np.abs(weight).astype(np.float64) @ np.abs(x[:, 0]) + np.abs(bias)[:, None]
    found = of_map(out, 1, pixels, lanes, (0, 0, 0, 0))[:, 0]
    assert (np.abs(found[:outputs] - np.maximum(sums, 0)) <= 1.1 * sum_limit(channels, magnitude)).all()
    assert (found >= 0).all()


def test_rounded(target: Target) -> None:
    if not target.bf16:
        pytest.skip("no bfloat16 in this form")
    x = np.random.default_rng(0).standard_normal(5 * lanes_of(target)).astype(np.float32)
    out = np.zeros(len(x), np.uint16)
    call(target, halved, Halved(5), x, out)
    np.testing.assert_array_equal(out, bits_of(x))
