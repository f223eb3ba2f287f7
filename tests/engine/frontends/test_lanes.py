"""Vectors of eight numbers in numba kernels, against numpy; and the FFT that is made of them, against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from bce.engine.frontends.butterflies import ROW
from bce.engine.frontends.fft import HALF, new_tiles, spectra, tiles_of
from bce.engine.frontends.lanes import (
    LANES,
    at_least,
    load,
    load_across,
    magnitude,
    narrow,
    root,
    rounded_product,
    scaled,
    split,
    store,
    store_across,
    where_at_least,
    wide,
    zeros,
)

KINDS = (np.float32, np.float64)


@njit
def _arithmetic(a, b, number, out):
    x, y = load(a, 1), load(b, 0)
    store(out, 0, x + y)
    store(out, 8, x - y)
    store(out, 16, x * y)
    store(out, 24, x + number)
    store(out, 32, number - x)
    store(out, 40, x * number)
    store(out, 48, x / y)


@njit
def _functions(a, lowest, out):
    x = load(a, 0)
    mantissa, exponent = split(x)
    store(out, 0, root(x))
    store(out, 8, at_least(x, lowest))
    store(out, 16, mantissa)
    store(out, 24, exponent)
    store(out, 32, zeros())


@njit
def _across(a, first, step, last, begin, end, out, back):
    columns = load_across(a, first, step, last)
    store(out, 0, columns[0])
    store(out, 8, columns[1])
    store(out, 16, columns[6])
    store(out, 24, columns[7])
    store_across(back, 3, 5, begin, end, load(a, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_of_lanes_and_of_lanes_with_a_number(kind):
    random = np.random.default_rng(1)
    a, b, number = random.normal(size=9).astype(kind), random.normal(size=8).astype(kind), kind(0.7)
    out = np.empty(56, kind)
    _arithmetic(a, b, number, out)
    x = a[1:]
    np.testing.assert_array_equal(
        out.reshape(7, 8), np.stack([x + b, x - b, x * b, x + number, number - x, x * number, x / b])
    )


def test_roots_limits_and_parts_of_logarithms():
    a = np.array([1e-30, 0.5, 0.70710677, 0.70710684, 1, 1.4142135, 3, 1e30], np.float32)
    out = np.empty(40, np.float32)
    _functions(a, np.float32(0.6), out)
    roots, limited, mantissa, exponent, nothing = out.reshape(5, 8)
    np.testing.assert_array_equal(roots, np.sqrt(a))
    np.testing.assert_array_equal(limited, np.maximum(a, np.float32(0.6)))
    np.testing.assert_array_equal(np.ldexp(mantissa, exponent.astype(int)), a)
    assert ((mantissa >= np.float32(0.70710677)) & (mantissa <= np.float32(1.4142137))).all()
    assert not nothing.any()


@njit
def _kinds(a, b, number, limit, out, out_wide):
    x, y = load(a, 0), load(b, 0)
    store(out, 0, magnitude(x))
    store(out, 8, scaled(x, y))
    store(out, 16, where_at_least(x, limit, y))
    store(out, 24, narrow(wide(x) * wide(y)))
    store(out, 32, rounded_product(x, number) + y)
    store(out_wide, 0, wide(x) * wide(y))


def test_signs_exponents_choices_and_precisions():
    a = np.array([-1.5, 0.3, -0.0, 2, 1e-30, -7e20, 0.1, 3], np.float32)
    b = np.array([3, -20, 5, 0, 7, -60, -1, 100], np.float32)
    a[2], number = 0.7, np.float32(1 + 2**-12)
    out, out_wide = np.empty(40, np.float32), np.empty(8)
    _kinds(a, b, number, np.float32(0.3), out, out_wide)
    signless, with_exponents, chosen, product, sums = out.reshape(5, 8)
    np.testing.assert_array_equal(signless, np.abs(a))
    np.testing.assert_array_equal(with_exponents, np.ldexp(a, b.astype(int)))
    np.testing.assert_array_equal(chosen, np.where(a >= np.float32(0.3), b, 0))
    np.testing.assert_array_equal(out_wide, a.astype(np.float64) * b)
    np.testing.assert_array_equal(product, (a.astype(np.float64) * b).astype(np.float32))
    np.testing.assert_array_equal(sums, a * number + b)


def test_a_rounded_product_is_never_fused():
    a = np.random.default_rng(3).uniform(1, 2, 8).astype(np.float32)
    number = np.float32(1.1)
    out = np.empty(40, np.float32)
    _kinds(a, -(a * number), number, np.float32(0), out, np.empty(8))
    assert not out[32:].any()  # a fused sum is what the product's rounding took
    assert (a.astype(np.float64) * number != a * number).any()


@pytest.mark.parametrize("last", [0, 4, 7])
def test_numbers_across_rows(last):
    a = np.arange(200, dtype=np.float32)
    out, back = np.empty(32, np.float32), np.full(60, -1, np.float32)
    _across(a, 10, 20, last, 2, 6, out, back)
    first_of_row = 10 + 20 * np.minimum(np.arange(LANES), last)
    np.testing.assert_array_equal(out.reshape(4, 8), [first_of_row + i for i in (0, 1, 6, 7)])
    expected = np.full(60, -1, np.float32)
    expected[3 + 5 * np.arange(2, 6)] = np.arange(2, 6)
    np.testing.assert_array_equal(back, expected)


def spectra_by_numpy(samples: np.ndarray, window: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 640)[::320]
    frames = frames - np.repeat(offsets, LANES)[: len(frames), None]
    return np.fft.rfft(frames * window, 1024)[:, 1:512]


def unpacked(tiles: np.ndarray, frames: int) -> np.ndarray:
    """Complex [frames, 511] of bins 1 to 511."""
    parts = tiles.reshape(-1, HALF, 2, LANES).transpose(0, 3, 1, 2).reshape(-1, HALF, 2)[:frames, 1:]
    return parts[..., 0] + 1j * parts[..., 1].astype(np.float64)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.integers(1, 40),
    extra=st.integers(0, 319),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([1e-9, 1.0, 1e7]),
    offset=st.sampled_from([0.0, 0.3, -1e3]),
)
def test_spectra_are_those_of_numpy(frames, extra, seed, scale, offset):
    random = np.random.default_rng(seed)
    samples = (scale * random.uniform(-1, 1, 320 * (frames + 1) + extra)).astype(np.float32)
    window, offsets = random.uniform(0, 1, 640), offset * random.uniform(0, 1, tiles_of(frames))
    tiles = new_tiles(tiles_of(frames))
    spectra(samples, frames, window, offsets, tiles)
    expected = spectra_by_numpy(samples, window, offsets)
    rounding = 2**-24 * np.maximum(np.abs(expected.real), np.abs(expected.imag))  # of float32, in which they are kept
    error = np.abs(unpacked(tiles, frames) - expected)
    assert (error <= 2 * rounding + 1e-12 * np.abs(expected).max()).all()


def test_tiles_go_round():
    samples = np.random.default_rng(2).uniform(-1, 1, 320 * 33).astype(np.float32)
    straight, round_ = new_tiles(4), new_tiles(4)
    spectra(samples, 32, np.ones(640), np.zeros(4), straight)
    spectra(samples, 32, np.ones(640), np.zeros(4), round_, place=7)
    used = np.arange(ROW, HALF * ROW)
    np.testing.assert_array_equal(round_[[3, 0, 1, 2]][:, used], straight[:, used])


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="2 frames of 959 samples"):
        spectra(np.zeros(959, np.float32), 2, np.ones(640), np.zeros(1), new_tiles(1))
