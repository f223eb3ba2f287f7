"""Logarithms and powers of eight float32 at a time, in numba kernels: libm's take ten times as long, one by one."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.lanes import at_least, scaled, split, where_at_least

_LOG_1P = np.array(
    [
        *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
        *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    ],
    np.float32,
)
"""(ln(1 + r) - r + r^2 / 2) / r^3 for sqrt(1/2) < 1 + r < sqrt(2), from r^8 on: S. Moshier, Cephes, ``logf``."""
_LN_2 = np.float32(0.693359375), np.float32(-2.12194440e-4)  # high and low part
_EXP_2 = np.array(
    [
        *(1.535336188319500e-4, 1.339887440266574e-3, 9.618437357674640e-3),
        *(5.550332471162809e-2, 2.402264791363012e-1, 6.931472028550421e-1),
    ],
    np.float32,
)
"""(2^x - 1) / x for -1/2 <= x <= 1/2, from x^5 on: S. Moshier, Cephes, ``exp2f``."""
_WHOLE = np.float32(1.5 * 2**23)  # float32 of about this size are whole numbers
_SMALLEST = np.finfo(np.float32).tiny
_LEAST_EXPONENT, _LOWEST_PART = np.float32(-125), np.float32(-1)  # together: no power but 0 is below 2^-126


@numba.njit(forceinline=True)
def _log_1p_tail(r):  # type: ignore[no-untyped-def]
    """(ln(1 + r) - r + r^2 / 2) / r^3."""
    p = r * _LOG_1P[0] + _LOG_1P[1]
    p = p * r + _LOG_1P[2]
    p = p * r + _LOG_1P[3]
    p = p * r + _LOG_1P[4]
    p = p * r + _LOG_1P[5]
    p = p * r + _LOG_1P[6]
    p = p * r + _LOG_1P[7]
    return p * r + _LOG_1P[8]


@numba.njit(forceinline=True)
def log(x):  # type: ignore[no-untyped-def]
    """Natural logarithms of eight positive float32, within a unit in the last place or so."""
    mantissa, exponent = split(x)
    r = mantissa - np.float32(1)
    p = _log_1p_tail(r)
    square = r * r
    small = exponent * _LN_2[1] + p * (r * square) - square * np.float32(0.5)
    return exponent * _LN_2[0] + (r + small)


def power_constants(exponent: float) -> NDArray[np.float32]:
    """What :func:`power` needs to know of an exponent between 0 and 2: its high and low part, exponent / ln 2."""
    bits: Any = np.array([exponent], np.float32).view(np.uint32) & 0xFFFFF000
    high = float(bits.view(np.float32)[0])  # so short that its products with exponents of float32 are exact
    return np.array([high, exponent - high, exponent / math.log(2)], np.float32)


@numba.njit(forceinline=True)
def power(x, high, low, by_ln_2):  # type: ignore[no-untyped-def]
    """Powers of eight float32 from 0 on, within 3e-7 of themselves; 0, and what is below 1.2e-38, has the power 0;
    powers that are below 1.2e-38 are about that.

    With x = m 2^k the exponent of 2 is k p + log2(m) p. Its whole part leaves before anything is rounded that counts.
    """
    mantissa, exponent = split(at_least(x, _SMALLEST))
    r = mantissa - np.float32(1)
    square = r * r
    small = exponent * low + by_ln_2 * (r + (_log_1p_tail(r) * (r * square) - square * np.float32(0.5)))
    whole = at_least((exponent * high + small + _WHOLE) - _WHOLE, _LEAST_EXPONENT)
    part = at_least((exponent * high - whole) + small, _LOWEST_PART)
    p = part * _EXP_2[0] + _EXP_2[1]
    p = p * part + _EXP_2[2]
    p = p * part + _EXP_2[3]
    p = p * part + _EXP_2[4]
    p = p * part + _EXP_2[5]
    return where_at_least(x, _SMALLEST, scaled(p * part + np.float32(1), whole))
