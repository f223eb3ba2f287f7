"""A stem on planes, kernel by kernel, against plain numpy in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.kernel_calls import EPSILON, call, empty_map, lanes_of, of_map, sum_limit

from bce.engine.compiled.kernels.planes import Join, Phases, Planes, group_of, join, phases, planes
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.packing import packed, packed_planes, padded
from bce.engine.compiled.targets import Target


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 9), vectors=st.integers(1, 4))
@example(count=4, vectors=9)
def test_phases(target: Target, count: int, vectors: int) -> None:
    """Number j * count + q is number j of phase q."""
    lanes = lanes_of(target)
    x = np.arange(count * vectors * lanes, dtype=np.float32)
    out = np.full((count, vectors * lanes), np.nan, np.float32)
    call(target, phases, Phases(count, vectors), x, out)
    for phase in range(count):
        assert out[phase].tolist() == x[phase::count].tolist()


def in_phases(x: NDArray[np.float32], count: int, size: int) -> NDArray[np.float32]:
    """Rows [planes, rows, numbers] as [planes, rows, phases, size]: what is not there is zero."""
    out = np.zeros((*x.shape[:2], count, size), np.float32)
    for phase in range(count):
        mine = x[..., phase::count][..., :size]
        out[..., phase, : mine.shape[-1]] = mine
    return out


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(1, 3),
    high=st.integers(1, 4),
    wide=st.integers(1, 8),
    stride=st.integers(1, 3),
    pairs=st.integers(1, 40),
    channels=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
@example(count=2, high=4, wide=8, stride=2, pairs=33, channels=24, seed=1)
@example(count=1, high=1, wide=1, stride=1, pairs=1, channels=1, seed=2)
def test_one_row(
    target: Target, count: int, high: int, wide: int, stride: int, pairs: int, channels: int, seed: int
) -> None:
    """The larger ones of all channels, then the means, of any number of pairs; those of spare channels are zero."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    group, groups = group_of(channels, isa)
    tiles = -(-pairs // lanes)
    x = rng.standard_normal((count, high, (2 * pairs - 1) * stride + wide)).astype(np.float32)
    weight = (rng.standard_normal((channels, count, high, wide)) / np.sqrt(count * high * wide)).astype(np.float32)
    bias = (0.3 * rng.standard_normal(channels)).astype(np.float32)
    apart = in_phases(x, 2 * stride, (tiles + -(-wide // lanes) + 1) * lanes)
    out = np.full((2, group * groups, tiles * lanes), np.nan, np.float32)
    strides = apart[0].nbytes, apart[0, 0].nbytes, apart[0, 0, 0].nbytes
    spec = Planes(count, high, wide, stride, tiles, group, groups, *strides)
    call(target, planes, spec, apart, packed_planes(weight, group, groups), padded(bias, group * groups), out)

    seen = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), wide, axis=2)[:, :, ::stride]
    sums = np.einsum("chxj,ochj->ox", seen, weight) + bias[:, None]
    magnitude = np.einsum("chxj,ochj->ox", np.abs(seen), np.abs(weight)) + np.abs(bias)[:, None]
    limit = sum_limit(count * high * wide, magnitude).reshape(channels, pairs, 2).max(axis=2) * (1 + EPSILON)
    relu = np.maximum(sums, 0).reshape(channels, pairs, 2)
    found = out[:, :channels, :pairs]
    assert (np.abs(found[0] - relu.max(axis=2)) <= limit).all()
    assert (np.abs(found[1] - relu.mean(axis=2)) <= limit + 2 * EPSILON * relu.max(axis=2)).all()
    assert not out[:, channels:].any()


@given(channels=st.integers(1, 300))
def test_groups(target: Target, channels: int) -> None:
    """No channel is left out, no group has only spare ones, and two sums for each channel fit the registers."""
    isa = ISAS[target.isa]
    group, groups = group_of(channels, isa)
    assert channels <= group * groups < channels + groups
    assert 2 * group + 3 < isa.registers


def test_no_number_stays_none(target: Target) -> None:
    """Behind ReLU too: the pair that sees it has no mean."""
    isa, lanes = ISAS[target.isa], lanes_of(target)
    x = np.zeros((1, 1, 2, 2 * lanes), np.float32)
    x[0, 0, 1, 3] = np.nan
    out = np.zeros((2, 1, lanes), np.float32)
    weight = np.ones((1, 1, 1, 1), np.float32)
    spec = Planes(1, 1, 1, 1, 1, 1, 1, x[0].nbytes, x[0, 0].nbytes, x[0, 0, 0].nbytes)
    assert group_of(1, isa) == (1, 1)
    call(target, planes, spec, x, packed_planes(weight, 1, 1), np.zeros(1, np.float32), out)
    assert np.isnan(out[1, 0]).nonzero()[0].tolist() == [3]


@settings(max_examples=12, deadline=None)
@given(
    half=st.integers(1, 30),
    width=st.integers(1, 40),
    panel=st.integers(1, 3),
    missing=st.integers(0, 7),
    spare=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
@example(half=24, width=128, panel=2, missing=7, spare=0, seed=1)
def test_join(target: Target, half: int, width: int, panel: int, missing: int, spare: int, seed: int) -> None:
    """A product of rows, one for each channel, into vectors of channels."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    outputs = panel * lanes - missing
    x = rng.standard_normal((2 * half, width + spare)).astype(np.float32)
    weight = rng.standard_normal((outputs, 2 * half)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    out = empty_map(panel, 1, width, lanes)
    spec = Join(2 * half, width, panel, x[0].nbytes, out[0].nbytes)
    call(target, join, spec, x, packed(weight, "f32", panel, isa), padded(bias, panel * lanes), out)
    seen = x[:, :width].astype(np.float64)
    sums = weight.astype(np.float64) @ seen + bias[:, None]
    magnitude = np.abs(weight).astype(np.float64) @ np.abs(seen) + np.abs(bias)[:, None]
    found = of_map(out, 1, width, lanes)[:, 0]
    assert (np.abs(found[:outputs] - sums) <= sum_limit(2 * half, magnitude)).all()
    assert not found[outputs:].any()
