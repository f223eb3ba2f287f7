"""Depthwise convolutions and their sums against a plain convolution in float64."""

from __future__ import annotations

import numpy as np
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
    of_map,
    scaled_sums,
    sum_limit,
    swish,
    swish_limit,
)

from bce.engine.compiled.kernels.depthwise import Depthwise, depthwise
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.packing import packed_depthwise
from bce.engine.compiled.swish import Swish
from bce.engine.compiled.targets import Target

BFLOAT16 = 2.0**-8
"""The largest relative error of a rounding to bfloat16."""


@settings(max_examples=16, deadline=None)
@given(
    kernel=st.sampled_from([3, 5]),
    stride=st.integers(1, 2),
    height=st.integers(1, 5),
    width=st.integers(1, 36),
    spare=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    channels=st.integers(1, 40),
    low=st.booleans(),
    rough=st.booleans(),
    largest=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(
    kernel=3, stride=1, height=2, width=33, spare=(0, 0), channels=16, low=False, rough=False, largest=True, seed=1
)  # overlaps
@example(
    kernel=5, stride=2, height=4, width=4, spare=(1, 1), channels=33, low=True, rough=True, largest=True, seed=2
)  # two rows
@example(
    kernel=3, stride=1, height=3, width=8, spare=(0, 0), channels=7, low=False, rough=False, largest=True, seed=3
)  # odd height
@example(
    kernel=5, stride=1, height=1, width=16, spare=(0, 1), channels=7, low=False, rough=True, largest=True, seed=4
)  # just a tile
def test_depthwise(
    target: Target,
    kernel: int,
    stride: int,
    height: int,
    width: int,
    spare: tuple[int, int],
    channels: int,
    low: bool,
    rough: bool,
    largest: bool,
    seed: int,
) -> None:
    """Sums are added to what is there, each pixel once; pixels that no output reaches are not read."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    element = "bf16" if low and target.bf16 else "f32"
    kind: Swish = "rough" if rough and target.isa == "avx512" else "exact"
    size = (height - 1) * stride + kernel, (width - 1) * stride + kernel
    x = rng.standard_normal((channels, *size)).astype(np.float32)
    weight = (rng.standard_normal((channels, kernel, kernel)) * 2 / kernel).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    source = as_map(x, lanes, padding=(0, 0, *spare), gap=lanes, around=np.nan)
    count = len(source)
    earlier = rng.standard_normal(count * lanes).astype(np.float32)
    peaks = rng.standard_normal(count * lanes).astype(np.float32)
    totals, maxima, out = earlier.copy(), peaks.copy(), empty_map(count, height, width, lanes, element)
    even = height % 2 == 0
    spec = Depthwise(
        kernel,
        stride,
        width,
        even,
        count,
        row_in=(size[1] + spare[1]) * 4 * lanes,
        vector_in=source[0].nbytes,
        vector_out=out[0].nbytes,
        element=element,
        swish=kind,
        maxima=largest,
    )
    weights = packed_depthwise(scaled_sums(weight, kind), scaled_sums(bias, kind), count, isa)
    call(target, depthwise, spec, source, weights, out, height // spec.tile(isa)[0], totals, maxima)

    sums = np.zeros((channels, height, width)) + bias[:, None, None]
    magnitude = np.abs(sums)
    for i in range(kernel):
        for j in range(kernel):
            seen = x[:, i::stride, j::stride][:, :height, :width].astype(np.float64)
            sums += weight[:, i, j, None, None] * seen
            magnitude += np.abs(weight[:, i, j, None, None] * seen)
    wanted = swish(sums)
    limit = 1.1 * sum_limit(kernel * kernel, magnitude) + swish_limit(sums, kind, lanes)
    found = of_map(out, height, width, lanes)
    assert not (from_bits(found) if element == "bf16" else found)[channels:].any()
    of_total = limit.sum(axis=(1, 2)) + EPSILON * (height * width + 2) * np.abs(wanted).sum(axis=(1, 2))
    of_total += 2 * EPSILON * np.abs(earlier[:channels])
    assert (np.abs(totals[:channels] - earlier[:channels] - wanted.sum(axis=(1, 2))) <= of_total).all()
    assert (totals[channels:] == earlier[channels:]).all()
    most = np.maximum(peaks[:channels], wanted.max(axis=(1, 2))) if largest else peaks[:channels]
    assert (np.abs(maxima[:channels] - most) <= limit.max(axis=(1, 2))).all()
    values = found[:channels]
    if element == "bf16":
        values = from_bits(values)
        limit = limit + BFLOAT16 * (np.abs(wanted) + limit)
        assert (bits_of(values) == found[:channels]).all()
    assert (np.abs(values - wanted) <= limit).all()
