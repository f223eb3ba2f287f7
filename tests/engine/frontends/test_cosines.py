"""Real parts of spectra, and powers, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from bce.engine.frontends.cosines import bins_written, cosines, room, tables
from bce.engine.frontends.lanes import LANES, load, store
from bce.engine.frontends.logarithms import power, power_constants


def frames_of(samples: np.ndarray, first: int, step: int, window: np.ndarray) -> np.ndarray:
    """Eight frames, rounded to float32 behind the window: [8, length]."""
    frames = np.stack([samples[first + t * step :][: len(window)] for t in range(LANES)]) * window
    assert frames.dtype == np.float32
    return frames


@settings(max_examples=20, deadline=None)
@given(
    grains=st.integers(1, 4),
    first=st.integers(0, 20),
    step=st.integers(1, 400),
    data=st.data(),
    seed=st.integers(0, 1000),
    loud=st.sampled_from([1.0, 1e-6, 1e6]),
)
def test_real_parts_are_those_of_numpy(grains, first, step, data, seed, loud):
    length = 1024 * grains
    highest = data.draw(st.integers(0, length // 2))
    random = np.random.default_rng(seed)
    samples = (loud * random.uniform(-1, 1, first + 7 * step + length)).astype(np.float32)
    samples += np.float32(random.choice([0, 0.7 * loud]))
    window = random.uniform(-1, 1, length).astype(np.float32)
    scratch = tuple(np.full(size, np.nan) for size in room(length))
    bins = np.full(LANES * bins_written(highest), np.nan)
    cosines(samples, first, step, window, tables(length, highest), scratch, bins)
    got = bins.reshape(-1, LANES)[: highest + 1]
    expected = np.fft.rfft(frames_of(samples, first, step, window).astype(np.float64)).real.T[: highest + 1]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * loud * np.sqrt(length))


def test_frames_are_rounded_behind_the_window():
    """A frame whose products cancel in exact numbers and not in rounded ones."""
    random = np.random.default_rng(4)
    samples, window = np.zeros(1024 + 7, np.float32), np.zeros(1024, np.float32)
    a, b = random.uniform(1, 2, (2, 2)).astype(np.float32)
    samples[[300, 700]], window[[300, 700]] = a, b
    scratch = tuple(np.empty(size) for size in room(1024))
    bins = np.empty(LANES * bins_written(512))
    cosines(samples, 0, 1, window, tables(1024, 512), scratch, bins)
    k = np.arange(513)
    rounded, exact = a * b, a.astype(np.float64) * b
    expected, other = (
        np.cos(2 * np.pi * (np.outer(k, [300, 700]) % 1024) / 1024) @ p for p in (rounded.astype(float), exact)
    )
    np.testing.assert_allclose(bins.reshape(-1, LANES)[:513, 0], expected, rtol=0, atol=1e-13)
    assert np.abs(expected - other).max() > 1e-8


@njit
def _power(x, high, low, by_ln_2, out):
    for at in range(0, x.shape[0], LANES):
        store(out, at, power(load(x, at), high, low, by_ln_2))


def power_of(x: np.ndarray, exponent: float) -> np.ndarray:
    out = np.empty_like(x)
    _power(x, *power_constants(exponent), out)
    return out


@settings(max_examples=200, deadline=None)
@given(exponent=st.floats(1e-3, 1.999), seed=st.integers(0, 10_000), octaves=st.integers(0, 60))
def test_powers_are_those_of_numpy(exponent, seed, octaves):
    random = np.random.default_rng(seed)
    x = (random.uniform(1, 2, 64) * 2.0 ** random.integers(-octaves, octaves + 1, 64)).astype(np.float32)
    np.testing.assert_allclose(power_of(x, exponent), x.astype(np.float64) ** exponent, rtol=3e-7, atol=0)


@pytest.mark.parametrize("exponent", [0.001, 0.38, 0.46, 1, 1.99])
def test_powers_at_the_ends(exponent):
    x = np.array([0, 1e-45, 1e-39, 1.1754944e-38, 1, 2, 1e-20, 1e15], np.float32)
    got = power_of(x, exponent)
    assert (got[:3] == 0).all()
    assert got[4] == 1
    expected = x[3:].astype(np.float64) ** exponent
    np.testing.assert_allclose(got[3:], expected, rtol=3e-7, atol=1.3e-38)
