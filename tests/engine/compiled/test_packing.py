"""Weights in the kernels' order, number by number; and the memory that holds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_calls import bits_of

from bce.engine.compiled.lanes import ISAS, Isa
from bce.engine.compiled.packing import (
    Weights,
    aligned,
    bfloat16,
    packed,
    packed_apart,
    packed_depthwise,
    packed_planes,
    packed_taps,
    padded,
)

isas = st.sampled_from(list(ISAS.values()))


@settings(max_examples=25, deadline=None)
@given(isa=isas, outputs=st.integers(1, 60), inputs=st.integers(1, 9), vectors=st.integers(1, 3))
def test_products(isa: Isa, outputs: int, inputs: int, vectors: int) -> None:
    """[panel][step][vector][lane][channels of a step]; what is not there is zero."""
    weight = np.random.default_rng(0).standard_normal((outputs, inputs)).astype(np.float32)
    floats, halves = (packed(weight, element, vectors, isa) for element in ("f32", "bf16"))
    apart = packed_apart(weight, vectors, isa)
    panels = -(-outputs // (isa.lanes * vectors))
    assert floats.shape == (panels, inputs, vectors, isa.lanes, 1)
    assert halves.shape == (panels, -(-inputs // 2), vectors, isa.lanes, 2)
    assert apart.shape == (panels, -(-inputs // 2), vectors, 2, isa.lanes)
    for out in range(panels * vectors * isa.lanes):
        panel, rest = divmod(out, vectors * isa.lanes)
        j, lane = divmod(rest, isa.lanes)
        for channel in range(inputs + inputs % 2):
            there = out < outputs and channel < inputs
            number = weight[out, channel] if there else np.float32(0)
            if channel < inputs:
                assert floats[panel, channel, j, lane, 0] == number
            assert halves[panel, channel // 2, j, lane, channel % 2] == bits_of(number)
            assert apart[panel, channel // 2, j, channel % 2, lane] == number


@settings(max_examples=15, deadline=None)
@given(isa=isas, channels=st.integers(1, 40), kernel=st.sampled_from([3, 5]), more=st.integers(0, 1))
def test_depthwise(isa: Isa, channels: int, kernel: int, more: int) -> None:
    """[vector][taps, bias][lane]."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, kernel, kernel)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    vectors = -(-channels // isa.lanes) + more
    found = packed_depthwise(weight, bias, vectors, isa)
    assert found.shape == (vectors, kernel * kernel + 1, isa.lanes)
    for channel in range(vectors * isa.lanes):
        here = found[channel // isa.lanes, :, channel % isa.lanes]
        wanted = [*weight[channel].ravel(), bias[channel]] if channel < channels else [0] * len(here)
        assert here.tolist() == [float(value) for value in wanted]


@settings(max_examples=15, deadline=None)
@given(isa=isas, outputs=st.integers(1, 60), vectors=st.integers(1, 3), more=st.integers(0, 1))
def test_taps(isa: Isa, outputs: int, vectors: int, more: int) -> None:
    """[panel][tap][vector][lane]."""
    weight = np.random.default_rng(0).standard_normal((outputs, 3, 3)).astype(np.float32)
    panels = -(-outputs // (isa.lanes * vectors)) + more
    found = packed_taps(weight, vectors, panels, isa)
    assert found.shape == (panels, 9, vectors, isa.lanes)
    for out in range(panels * vectors * isa.lanes):
        panel, rest = divmod(out, vectors * isa.lanes)
        here = found[panel, :, rest // isa.lanes, rest % isa.lanes]
        assert here.tolist() == (weight[out].ravel().tolist() if out < outputs else [0] * 9)


@settings(max_examples=15, deadline=None)
@given(outputs=st.integers(1, 12), inputs=st.integers(1, 3), channels=st.integers(1, 5))
def test_planes(outputs: int, inputs: int, channels: int) -> None:
    """[group][in][height][width][channel of the group]."""
    weight = np.random.default_rng(0).standard_normal((outputs, inputs, 2, 3)).astype(np.float32)
    groups = -(-outputs // channels)
    found = packed_planes(weight, channels, groups)
    assert found.shape == (groups, inputs, 2, 3, channels)
    for out in range(groups * channels):
        here = found[out // channels, ..., out % channels]
        assert here.tolist() == (weight[out] if out < outputs else np.zeros((inputs, 2, 3))).tolist()


@given(st.integers(0x0080_0000, 0x7F7E_FFFF), st.booleans())
def test_bfloat16(bits: int, negative: bool) -> None:
    """All normal numbers but the few that are rounded to none."""
    number = np.array([bits | negative << 31], np.uint32).view(np.float32)
    assert bfloat16(number) == bits_of(number)


def test_padded() -> None:
    assert padded(np.float32([1, 2]), 4).tolist() == [1, 2, 0, 0]


def test_the_memory_of_weights() -> None:
    """Each array on a cache line, where it was said to be."""
    weights = Weights()
    arrays = [
        np.arange(n, dtype=kind) for n, kind in ((3, np.float32), (16, np.float32), (33, np.uint16), (1, np.int8))
    ]
    arrays.append(np.arange(12, dtype=np.float32).reshape(3, 4).T)
    places = [weights.put(array) for array in arrays]
    memory = weights.memory()
    assert memory.ctypes.data % 64 == 0
    assert len(memory) == weights.bytes
    assert all(place % 64 == 0 for place in places)
    for place, array in zip(places, arrays, strict=True):
        assert memory[place : place + array.nbytes].tobytes() == array.tobytes()


@pytest.mark.parametrize("size", [0, 1, 64, 1000])
def test_aligned(size: int) -> None:
    found = aligned(size)
    assert found.shape == (size,)
    assert found.ctypes.data % 64 == 0 or not size
    assert not found.any()
