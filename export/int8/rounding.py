"""Weights as 8-bit integers whose rounding errors compensate each other on what the products are really fed.

GPTQ (Frantar et al., 2022, arXiv:2210.17323): columns are rounded one after the other, and what a column's rounding
does to the output is taken back by those that follow, by the Cholesky factor of the inverse of x x^T.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from bce.engine.compiled.layers import Rounded
from bce.export.int8.forward import Array, Forward
from bce.export.int8.moments import Moments

Matrix = NDArray[np.float64]

DAMP = 0.01
"""Of the mean of the Hessian's diagonal, added to it."""
_BLOCK = 64
"""Columns whose corrections of the columns behind them are one product."""


def nearest(weight: NDArray[np.floating], largest: int) -> Rounded:
    """Weights [out, in] as the nearest integers of -largest..largest with a scale for each output."""
    scale = scale_of(weight, largest)
    values = np.rint(weight.astype(np.float64) / scale[:, None].astype(np.float64))
    return Rounded(np.clip(values, -largest, largest).astype(np.int8), scale)


def scale_of(weight: NDArray[np.floating], largest: int) -> Array:
    """The scale of each output with which its largest weight is the largest integer; of zeros, some above 0."""
    most = np.abs(weight.astype(np.float64)).max(axis=1, initial=0.0)
    scale: Array = (np.where(most > 0, most, 1.0) / largest).astype(np.float32)
    return np.maximum(scale, np.finfo(np.float32).tiny)


def gptq(weight: NDArray[np.floating], hessian: Matrix, largest: int, damp: float = DAMP) -> Rounded:
    """Weights as integers, with the least error of the output that the columns' order allows.

    Args:
        weight: [out, in].
        hessian: float64 [in, in], the mean of x x^T over calibration inputs.
        largest: integers are -largest..largest.
        damp: of the mean of the Hessian's diagonal, added to the diagonal; more where it is not positive definite.
    """
    scale = scale_of(weight, largest)
    if not np.trace(hessian) > 0:
        return nearest(weight, largest)
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = _inverse_factor(hessian[np.ix_(order, order)], damp)
    values = np.empty(weight.shape, np.int8)
    values[:, order] = _compensated(weight[:, order].astype(np.float64), factor, scale.astype(np.float64), largest)
    return Rounded(values, scale)


def _inverse_factor(hessian: Matrix, damp: float) -> Matrix:
    """The upper Cholesky factor U of the damped inverse: inverse = U^T U."""
    level = float(np.trace(hessian)) / len(hessian)
    while True:
        damped = hessian.copy()
        damped[np.diag_indices(len(damped))] += damp * level
        try:
            # with rows and columns reversed H = L L^T, and the inverse of L is what is wanted, reversed
            lower = linalg.cholesky(damped[::-1, ::-1], lower=True, check_finite=False)
            inverse = linalg.solve_triangular(lower, np.eye(len(lower)), lower=True, check_finite=False)
        except linalg.LinAlgError:
            damp *= 10
            continue
        return np.ascontiguousarray(inverse[::-1, ::-1])


def _compensated(weight: Matrix, factor: Matrix, scale: Matrix, largest: int) -> Matrix:
    """Integers, float64 [out, in]; ``weight`` is used up."""
    outputs, inputs = weight.shape
    left = np.ascontiguousarray(weight.T)  # [in, out]: a column of the weights lies together
    whole = np.empty_like(left)
    for first in range(0, inputs, _BLOCK):
        end = min(first + _BLOCK, inputs)
        errors = np.empty((end - first, outputs))
        for column in range(first, end):
            whole[column] = np.clip(np.rint(left[column] / scale), -largest, largest)
            error = (left[column] - whole[column] * scale) / factor[column, column]
            errors[column - first] = error
            left[column + 1 : end] -= factor[column, column + 1 : end, None] * error
        left[end:] -= factor[first:end, end:].T @ errors
    return whole.T


def rounded(forward: Forward, moments: Mapping[str, Moments], largest: int) -> dict[str, tuple[Rounded, Array]]:
    """Every product's weights as integers, and a bias with which its mean output on calibration windows is kept.

    Args:
        forward: the network.
        moments: of the products to round, by name.
        largest: integers are -largest..largest.

    Returns:
        For each name of ``moments`` the weights, and the bias, float32 [out].
    """
    found = {}
    for name, moment in moments.items():
        layer = forward.layers[name]
        weights = gptq(layer.weight, moment.hessian, largest)
        found[name] = weights, corrected(layer.weight, layer.bias, weights, moment)
    return found


def corrected(weight: Array, bias: Array, weights: Rounded, moment: Moments) -> Array:
    """A bias, float32 [out], with which rounding the weights does not change the mean output."""
    error = weights.values.astype(np.float64) * weights.scale[:, None].astype(np.float64) - weight
    return (bias - error @ moment.mean).astype(np.float32)
