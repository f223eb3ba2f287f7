"""Projections against a plain product in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.kernel_calls import (
    as_map,
    bits_of,
    call,
    empty_map,
    lanes_of,
    nearest_bfloat16,
    of_map,
    outside,
    sum_limit,
)

from bce.engine.compiled.kernels.project import CACHED, Project, project
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.packing import packed, padded
from bce.engine.compiled.targets import Target

FLAT = 0, 0, 0, 0
LARGE = CACHED // (4 * 16 * 500) + 1
"""Rows of 500 pixels with 16 channels: more than the cache holds."""


@settings(max_examples=14, deadline=None)
@given(
    channels=st.integers(1, 40),
    height=st.integers(1, 4),
    width=st.integers(1, 20),
    panel=st.integers(1, 3),
    missing=st.integers(0, 15),
    low=st.booleans(),
    padding=st.sampled_from([FLAT, (1, 1, 1, 1), (0, 2, 1, 0)]),
    added=st.sampled_from([None, FLAT, (2, 1, 0, 1)]),
    seed=st.integers(0, 2**32 - 1),
)
@example(channels=16, height=LARGE, width=500, panel=1, missing=0, low=False, padding=FLAT, added=None, seed=1)
@example(channels=35, height=3, width=9, panel=3, missing=7, low=True, padding=FLAT, added=(2, 1, 0, 1), seed=2)
@example(channels=64, height=1, width=9, panel=2, missing=7, low=True, padding=FLAT, added=FLAT, seed=3)
def test_projection(
    target: Target,
    channels: int,
    height: int,
    width: int,
    panel: int,
    missing: int,
    low: bool,
    padding: tuple[int, int, int, int],
    added: tuple[int, int, int, int] | None,
    seed: int,
) -> None:
    """Row by row, or as one long row where nothing lies between the rows; a copy in bfloat16 of what is flat."""
    isa, lanes, rng = ISAS[target.isa], lanes_of(target), np.random.default_rng(seed)
    low = low and target.bf16
    element = "bf16" if low else "f32"
    outputs = max(1, panel * lanes - missing)
    x = rng.standard_normal((channels, height, width)).astype(np.float32)
    weight = (rng.standard_normal((outputs, channels)) / np.sqrt(channels)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    shortcut = rng.standard_normal((outputs, height, width)).astype(np.float32)

    around = padding if added is None else added
    beside = as_map(shortcut, lanes, padding=around, around=np.nan, more=panel - -(-outputs // lanes))
    out = empty_map(panel, height, width, lanes, padding=padding)
    copy = empty_map(panel, height, width, lanes, "bf16")
    copied = low and padding == FLAT
    before = outside(out, height, width, lanes, padding)
    flat = padding == FLAT and around == FLAT
    pixel = 4 * lanes
    row = (width + padding[1] + padding[3]) * pixel
    row_added = (width + around[1] + around[3]) * pixel
    spec = Project(
        channels,
        width * height if flat else width,
        1 if flat else height,
        panel,
        element,
        row_in=width * (pixel // 2 if low else pixel),
        vector_in=(height * width + 1) * (pixel // 2 if low else pixel),
        row_out=0 if flat else row,
        vector_out=out[0].nbytes,
        vector_copy=copy[0].nbytes if copied else 0,
        row_added=0 if added is None or flat else row_added,
        vector_added=0 if added is None else beside[0].nbytes,
    )
    call(
        target,
        project,
        spec,
        as_map(x, lanes, element, gap=lanes),
        packed(weight, element, panel, isa),
        padded(bias, panel * lanes),
        out.reshape(-1)[(padding[0] * row + padding[1] * pixel) // 4 :],
        copy,
        beside.reshape(-1)[(around[0] * row_added + around[1] * pixel) // 4 :],
    )
    if low:
        x, weight = nearest_bfloat16(x), nearest_bfloat16(weight)
    sums = np.einsum("oi,ihw->ohw", weight.astype(np.float64), x, optimize=True) + bias[:, None, None]
    magnitude = np.einsum("oi,ihw->ohw", np.abs(weight), np.abs(x), optimize=True) + np.abs(bias)[:, None, None]
    if added is not None:
        sums, magnitude = sums + shortcut, magnitude + np.abs(shortcut)
    found = of_map(out, height, width, lanes, padding)
    assert (np.abs(found[:outputs] - sums) <= sum_limit(channels, magnitude)).all()
    assert not found[outputs:].any()
    assert (outside(out, height, width, lanes, padding) == before).all()
    if copied:
        assert (of_map(copy, height, width, lanes) == bits_of(found)).all()
    else:
        assert (copy == 0x7FFF).all()
