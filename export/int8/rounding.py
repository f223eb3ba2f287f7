"""Weights as 8-bit integers whose rounding errors compensate each other on what the products are really fed.

GPTQ (Frantar et al., 2022, arXiv:2210.17323): columns are rounded one after the other, and what a column's rounding
does to the output is taken back by those that follow, by the Cholesky factor of the inverse of x x^T.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from bce.engine.compiled.layers import Rounded
from bce.engine.compiled.packing import nearest, scale_of
from bce.export.int8.forward import Array, Forward
from bce.export.int8.moments import Moments

Matrix = NDArray[np.float64]

DAMP = 0.01
"""Of the mean of the Hessian's diagonal, added to it."""
_BLOCK = 64
"""Columns whose corrections of the columns behind them are one product."""


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
    # what is fed most is rounded first, while all others are left to make up for it
    order = np.argsort(-np.diag(hessian), kind="stable")
    values = np.empty(weight.shape, np.int8)
    with _one_thread():
        factor = _inverse_factor(hessian[np.ix_(order, order)], damp)
        values[:, order] = _compensated(weight[:, order], factor, scale, largest)
    return Rounded(values, scale)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other in many small steps lose tenfold where other programs run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _inverse_factor(hessian: Matrix, damp: float) -> Matrix:
    """The upper Cholesky factor U of the damped inverse: inverse = U^T U."""
    level = float(np.trace(hessian)) / len(hessian)
    # with rows and columns reversed H = L L^T, and the inverse of L is what is wanted, reversed
    flipped = torch.from_numpy(hessian[::-1, ::-1].copy())
    failed = True
    while failed:
        damped = flipped + damp * level * torch.eye(len(flipped), dtype=torch.float64)
        lower, info = torch.linalg.cholesky_ex(damped)
        failed, damp = bool(info), 10 * damp
    inverse: Matrix = torch.linalg.solve_triangular(
        lower, torch.eye(len(lower), dtype=torch.float64), upper=False
    ).numpy()
    return np.ascontiguousarray(inverse[::-1, ::-1])


def _compensated(weight: NDArray[np.floating], factor: Matrix, scale: Array, largest: int) -> Matrix:
    """Integers, float64 [out, in]."""
    outputs, inputs = weight.shape
    left = weight.T.astype(np.float64, order="C")  # [in, out]: a column of the weights lies together
    steps = scale.astype(np.float64)
    whole, errors = np.empty_like(left), np.empty((_BLOCK, outputs))
    rest, factors, taken = torch.from_numpy(left), torch.from_numpy(factor), torch.from_numpy(errors)
    for first in range(0, inputs, _BLOCK):
        end = min(first + _BLOCK, inputs)
        for column in range(first, end):
            np.clip(np.rint(left[column] / steps), -largest, largest, out=whole[column])
            error = errors[column - first]
            np.divide(left[column] - whole[column] * steps, factor[column, column], out=error)
            left[column + 1 : end] -= factor[column, column + 1 : end, None] * error
        rest[end:].addmm_(factors[first:end, end:].T, taken[: end - first], alpha=-1)
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
