"""Expansions and stems against a plain product in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernel_calls import (
    as_map,
    call,
    empty_map,
    lanes_of,
    nearest_bfloat16,
    of_map,
    outside,
    scaled_sums,
    sum_limit,
    swish,
    swish_limit,
)

from bce.engine.compiled.kernels.expand import Expand, expand
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.packing import packed, packed_taps, padded
from bce.engine.compiled.swish import Swish
from bce.engine.compiled.targets import Target


@settings(max_examples=14, deadline=None)
@given(
    channels=st.integers(1, 40),
    height=st.integers(1, 4),
    width=st.integers(1, 20),
    panel=st.integers(1, 3),
    missing=st.integers(0, 15),
    fixed=st.booleans(),
    low=st.booleans(),
    rough=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(
    channels=33, height=4, width=4, panel=3, missing=1, fixed=True, low=False, rough=False, seed=1
)  # 8 pixels: 2 rows
@example(
    channels=17, height=4, width=4, panel=1, missing=0, fixed=True, low=True, rough=True, seed=2
)  # 16 pixels: 4 rows
@example(
    channels=16, height=3, width=2, panel=3, missing=0, fixed=True, low=True, rough=True, seed=3
)  # 3 rows: no tile
@example(channels=64, height=1, width=40, panel=3, missing=5, fixed=True, low=False, rough=False, seed=4)
def test_expansion(
    target: Target,
    channels: int,
    height: int,
    width: int,
    panel: int,
    missing: int,
    fixed: bool,
    low: bool,
    rough: bool,
    seed: int,
) -> None:
    """Any channels and sizes, into a buffer with something around it that stays; spare channels are zero."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    element = "bf16" if low and target.bf16 else "f32"
    kind: Swish = "rough" if rough and target.isa == "avx512" else "exact"
    outputs = max(1, panel * lanes - missing)
    x = rng.standard_normal((channels, height, width)).astype(np.float32)
    weight = (rng.standard_normal((outputs, channels)) * 2 / np.sqrt(channels)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    around = 1, 2, 0, 1
    out = empty_map(panel, height, width, lanes, padding=around)
    before = outside(out, height, width, lanes, around)
    pixel = 4 * lanes
    spec = Expand(
        channels,
        width,
        panel,
        element,
        row_in=width * pixel // (2 if element == "bf16" else 1),
        vector_in=(height * width + 1) * pixel // (2 if element == "bf16" else 1),
        row_out=(width + 3) * pixel,
        vector_out=out[0].nbytes,
        activation=kind,
        rows=height if fixed else 0,
    )
    origin = out.reshape(-1)[((width + 3) + 2) * lanes :]
    call(
        target,
        expand,
        spec,
        as_map(x, lanes, element, gap=lanes),
        packed(scaled_sums(weight, kind), element, panel, isa),
        padded(scaled_sums(bias, kind), panel * lanes),
        origin,
        height // spec.tile_rows(isa),
    )
    if element == "bf16":
        x, weight = nearest_bfloat16(x), nearest_bfloat16(scaled_sums(weight, kind)).astype(np.float64)
        weight /= scaled_sums(np.ones(1), kind)
    sums = np.einsum("oi,ihw->ohw", weight.astype(np.float64), x) + bias[:, None, None]
    magnitude = np.einsum("oi,ihw->ohw", np.abs(weight).astype(np.float64), np.abs(x)) + np.abs(bias)[:, None, None]
    limit = 1.1 * sum_limit(channels, magnitude) + swish_limit(sums, kind, lanes)
    found = of_map(out, height, width, lanes, around)
    assert (np.abs(found[:outputs] - swish(sums)) <= limit).all()
    assert not found[outputs:].any()
    assert (outside(out, height, width, lanes, around) == before).all()


@settings(max_examples=8, deadline=None)
@given(
    kernel=st.sampled_from([3, 5]),
    stride=st.integers(1, 2),
    height=st.integers(1, 4),
    width=st.integers(1, 35),
    spare=st.integers(0, 3),
    panel=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
@example(kernel=3, stride=2, height=2, width=17, spare=1, panel=2, seed=1)
def test_stem(
    target: Target, kernel: int, stride: int, height: int, width: int, spare: int, panel: int, seed: int
) -> None:
    """Taps of one channel; columns at the end that no tap reaches are left alone."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    outputs = panel * lanes - 3
    size = (height - 1) * stride + kernel, (width - 1) * stride + kernel + spare
    x = rng.standard_normal(size).astype(np.float32)
    weight = (rng.standard_normal((outputs, kernel, kernel)) / 2).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    out = empty_map(panel, height, width, lanes)
    spec = Expand(
        0,
        width,
        panel,
        "f32",
        row_in=stride * x[0].nbytes,
        vector_in=0,
        row_out=width * 4 * lanes,
        vector_out=out[0].nbytes,
        activation="exact",
        taps=kernel,
        stride=stride,
    )
    taps = packed_taps(scaled_sums(weight, "exact"), panel, 1, isa)
    call(target, expand, spec, x, taps, padded(scaled_sums(bias, "exact"), panel * lanes), out, height)
    seen = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (kernel, kernel))
    seen = seen[::stride, ::stride][:height, :width]
    sums = np.einsum("oij,hwij->ohw", weight, seen) + bias[:, None, None]
    magnitude = np.einsum("oij,hwij->ohw", np.abs(weight), np.abs(seen)) + np.abs(bias)[:, None, None]
    limit = 1.1 * sum_limit(kernel * kernel, magnitude) + swish_limit(sums, "exact", lanes)
    found = of_map(out, height, width, lanes)
    assert (np.abs(found[:outputs] - swish(sums)) <= limit).all()
    assert not found[outputs:].any()
