"""Gates and where they go, against plain products."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernel_calls import (
    as_map,
    bits_of,
    call,
    exp_limit,
    from_bits,
    lanes_of,
    of_map,
    scaled_sums,
    sigmoid,
    sum_limit,
    swish,
)

from bce.engine.compiled.kernels.gate import Squeeze, gate
from bce.engine.compiled.kernels.scale import ScaleMap, ScaleWeights, scale_map, scale_weights
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.packing import packed, packed_apart, padded
from bce.engine.compiled.targets import Target


@settings(max_examples=8, deadline=None)
@given(
    vectors=st.integers(1, 20),
    hidden=st.integers(1, 60),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 2**32 - 1),
)
@example(vectors=9, hidden=113, scale=1.0, seed=1)  # more hidden vectors than a pass has registers for
@example(vectors=8, hidden=1, scale=1.0, seed=2)
def test_gate(target: Target, vectors: int, hidden: int, scale: float, seed: int) -> None:
    """Both layers, of numbers that saturate it and of such that do not."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    channels, squeezed = vectors * lanes, -(-hidden // lanes)
    sums = (scale * rng.standard_normal(channels)).astype(np.float32)
    reduce = (rng.standard_normal((hidden, channels)) / np.sqrt(channels)).astype(np.float32)
    expand = (scale * rng.standard_normal((channels, hidden)) / np.sqrt(hidden)).astype(np.float32)
    biases = [rng.standard_normal(size).astype(np.float32) for size in (hidden, channels)]
    spare = np.pad(scaled_sums(reduce.T, "exact"), ((0, 0), (0, squeezed * lanes - hidden)))
    # groups of eight vectors; the last begins earlier where it is not full
    wide = min(8, vectors)
    firsts = [min(first, vectors - wide) * lanes for first in range(0, vectors, 8)]
    grouped = np.stack([scaled_sums(expand.T, "exact")[:, first : first + wide * lanes] for first in firsts])
    found = np.full(channels, np.nan, np.float32)
    inside = np.full(squeezed * lanes, np.nan, np.float32)
    call(
        target,
        gate,
        Squeeze(vectors, squeezed, hidden),
        sums,
        spare,
        padded(scaled_sums(biases[0], "exact"), squeezed * lanes),
        grouped,
        scaled_sums(biases[1], "exact"),
        inside,
        found,
    )
    before = reduce.astype(np.float64) @ sums + biases[0]
    magnitude = np.abs(reduce) @ np.abs(sums).astype(np.float64) + np.abs(biases[0])
    wanted = swish(before)
    limit = 1.1 * sum_limit(channels, magnitude) + exp_limit(before, lanes, 3) * np.abs(wanted) + 1e-34
    assert (np.abs(inside[:hidden] - wanted) <= limit).all()
    assert not inside[hidden:].any()
    before = expand.astype(np.float64) @ wanted + biases[1]
    magnitude = np.abs(expand) @ np.abs(wanted) + np.abs(biases[1])
    off = sum_limit(hidden, magnitude) + np.abs(expand) @ limit
    assert (np.abs(found - sigmoid(before)) <= off / 4 + exp_limit(before, lanes, 3) * sigmoid(before)).all()


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 70),
    outputs=st.integers(1, 50),
    panel=st.integers(1, 3),
    low=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(channels=33, outputs=40, panel=3, low=True, seed=1)
def test_weights_times_the_gate(target: Target, channels: int, outputs: int, panel: int, low: bool, seed: int) -> None:
    """One rounding in float32, and another one in bfloat16: to the bit what packing the products gives."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    element = "bf16" if low and target.bf16 else "f32"
    weight = rng.standard_normal((outputs, channels)).astype(np.float32)
    factors = rng.random(-(-channels // lanes) * lanes).astype(np.float32)
    given_ = packed_apart(weight, panel, isa) if element == "bf16" else packed(weight, "f32", panel, isa)
    wanted = packed(weight * factors[:channels], element, panel, isa)
    for source, product in zip(given_, wanted, strict=True):
        found = np.full_like(product, 0x7FFF if element == "bf16" else np.nan)
        steps = -(-channels // (2 if element == "bf16" else 1))
        call(target, scale_weights, ScaleWeights(element, panel), source, factors, found, steps)
        assert (found == product).all()


@settings(max_examples=8, deadline=None)
@given(
    channels=st.integers(1, 40),
    height=st.integers(1, 5),
    width=st.integers(1, 9),
    low=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_map_times_the_gate(target: Target, channels: int, height: int, width: int, low: bool, seed: int) -> None:
    """To the bit: one rounding in float32, and another one in bfloat16."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    low = low and target.bf16
    x = rng.standard_normal((channels, height, width)).astype(np.float32)
    memory = as_map(x, lanes, "bf16" if low else "f32")
    factors = rng.random(len(memory) * lanes).astype(np.float32)
    call(target, scale_map, ScaleMap("bf16" if low else "f32", len(memory), height * width), memory, factors)
    found = of_map(memory, height, width, lanes)[:channels]
    if low:
        x = from_bits(bits_of(x))
    wanted = x * factors[:channels, None, None]
    assert (found == (bits_of(wanted) if low else wanted)).all()
