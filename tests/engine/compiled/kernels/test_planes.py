"""A convolution of planes with its pooling, against plain numpy in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernel_calls import EPSILON, call, empty_map, lanes_of, of_map, sum_limit

from bce.engine.compiled.kernels.planes import Planes, planes
from bce.engine.compiled.packing import padded
from bce.engine.compiled.targets import Target


@settings(max_examples=12, deadline=None)
@given(
    count=st.integers(1, 3),
    high=st.integers(1, 4),
    wide=st.integers(1, 8),
    stride=st.integers(1, 2),
    pairs=st.integers(1, 21),
    spare=st.integers(0, 2),
    channels=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
)
@example(count=2, high=4, wide=8, stride=2, pairs=9, spare=0, channels=24, seed=1)
def test_one_row(
    target: Target,
    count: int,
    high: int,
    wide: int,
    stride: int,
    pairs: int,
    spare: int,
    channels: int,
    seed: int,
) -> None:
    """Maxima of all vectors, then means, of any number of pairs; spare channels are zero."""
    lanes, rng = lanes_of(target), np.random.default_rng(seed)
    vectors = -(-channels // lanes)
    x = rng.standard_normal((count, high, (2 * pairs - 1) * stride + wide + spare)).astype(np.float32)
    weight = (rng.standard_normal((channels, count, high, wide)) / np.sqrt(count * high * wide)).astype(np.float32)
    bias = (0.3 * rng.standard_normal(channels)).astype(np.float32)
    taps = np.zeros((count, high, wide, vectors * lanes), np.float32)
    taps[..., :channels] = weight.transpose(1, 2, 3, 0)
    out = empty_map(2 * vectors, 1, pairs, lanes)
    spec = Planes(count, high, wide, stride, pairs, vectors, x[0].nbytes, x[0, 0].nbytes, out[0].nbytes)
    call(target, planes, spec, x, taps, padded(bias, vectors * lanes), out)

    seen = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), wide, axis=2)[:, :, ::stride][
        :, :, : 2 * pairs
    ]
    sums = np.einsum("chxj,ochj->ox", seen, weight) + bias[:, None]
    magnitude = np.einsum("chxj,ochj->ox", np.abs(seen), np.abs(weight)) + np.abs(bias)[:, None]
    limit = sum_limit(count * high * wide, magnitude).reshape(channels, pairs, 2).max(axis=2) * (1 + EPSILON)
    relu = np.maximum(sums, 0).reshape(channels, pairs, 2)
    found = of_map(out, 1, pairs, lanes, (0, 0, 0, 0))[:, 0].reshape(2, vectors * lanes, pairs)
    assert (np.abs(found[0, :channels] - relu.max(axis=2)) <= limit).all()
    assert (np.abs(found[1, :channels] - relu.mean(axis=2)) <= limit + 2 * EPSILON * relu.max(axis=2)).all()
    assert not found[:, channels:].any()
