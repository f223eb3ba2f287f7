"""Numba kernels of post-processing on C-contiguous [rows, classes], float32 or float64, sums in float64.

Recordings lie one after the other: rows ``offsets[i]`` to ``offsets[i + 1]`` are recording i's chunks in time order.
See :mod:`bce.engine.jit` for how they are compiled and cached.
"""

from __future__ import annotations

import numpy as np

from bce.engine.jit import kernel


@kernel()
def add_rows(scores, table, row):  # type: ignore[no-untyped-def]
    """In place ``scores[r] += table[row[r]]``; table float64 [k, classes], row int32 [rows] in 0..k-1."""
    for r in range(scores.shape[0]):
        k = row[r]
        for c in range(scores.shape[1]):
            scores[r, c] += table[k, c]


@kernel()
def smooth_rows(scores, offsets, weights, out):  # type: ignore[no-untyped-def]
    """Correlate each recording with float64 weights [2 * radius + 1] along its rows; edges repeat (``nearest``)."""
    radius = weights.shape[0] // 2
    classes = scores.shape[1]
    total = np.empty(classes)
    for i in range(offsets.shape[0] - 1):
        first, last = offsets[i], offsets[i + 1] - 1
        for r in range(first, last + 1):
            total[:] = 0.0
            for k in range(-radius, radius + 1):
                source = min(max(r + k, first), last)
                weight = weights[k + radius]
                for c in range(classes):
                    total[c] += weight * scores[source, c]
            for c in range(classes):
                out[r, c] = total[c]


@kernel()
def pull_to_groups(scores, group, size, amount):  # type: ignore[no-untyped-def]
    """In place ``(1 - amount) * score + amount * mean of its group``; group int32 [classes], -1 for none; size [k]."""
    mean = np.empty(size.shape[0])
    for r in range(scores.shape[0]):
        mean[:] = 0.0
        for c in range(scores.shape[1]):
            if group[c] >= 0:
                mean[group[c]] += scores[r, c]
        mean /= size
        for c in range(scores.shape[1]):
            if group[c] >= 0:
                scores[r, c] = (1.0 - amount) * scores[r, c] + amount * mean[group[c]]
