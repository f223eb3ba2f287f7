"""Probabilities and logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-15
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""


def to_logits(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """ln(p / (1 - p)) in float64, within +-34.54."""
    from scipy.special import logit

    logits: NDArray[np.float64] = logit(np.clip(probabilities.astype(np.float64), SMALLEST, 1 - SMALLEST))
    return logits
