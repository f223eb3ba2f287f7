"""What an int8 form may change: each limit is missed by itself, and by what is no number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logit

from bce.export.int8.gate import LIMITS, Quality, judge

RNG = np.random.default_rng(0)
QUIET = np.arange(24) >= 20
FEATURES = RNG.standard_normal((24, 30)).astype(np.float32)
LOGITS = (3 * RNG.standard_normal((24, 9))).astype(np.float32)
EXACT = {"block_1": FEATURES, "logits": LOGITS}


def spoiled(**changes: np.ndarray) -> Quality:
    return judge({**EXACT, **changes}, EXACT, QUIET, "logits")


def test_the_same_passes() -> None:
    quality = spoiled()
    assert list(quality.misses(LIMITS)) == []
    assert (quality.windows, quality.quiet, quality.worst) == (24, 4, 0.0)
    assert quality.scores is not None
    assert quality.scores.windows == 20
    assert list(quality.outputs) == ["block_1"]


def test_features_in_the_middle_and_at_worst() -> None:
    """A window that was made quiet counts for the worst alone."""
    (typical,) = spoiled(block_1=FEATURES * np.float32(1.06)).misses(LIMITS)
    assert typical == "relative L2 of block_1 0.060, allowed 0.05"
    one = FEATURES.copy()
    one[22] *= np.float32(1.3)
    (worst,) = spoiled(block_1=one).misses(LIMITS)
    assert worst == "relative L2 of the worst window 0.300, allowed 0.22"


def test_logits() -> None:
    """Of the windows as they were recorded: distance, order, best class, probabilities."""
    shifted = LOGITS.copy()
    shifted[5] += np.float32(8) * (LOGITS[5] < 0)
    misses = list(spoiled(logits=shifted).misses(LIMITS))
    assert any(miss.startswith("a probability changes by") for miss in misses)

    noisy = LOGITS + (0.9 * RNG.standard_normal(LOGITS.shape)).astype(np.float32)
    assert any(miss.startswith("rank correlation") for miss in spoiled(logits=noisy).misses(LIMITS))

    best = LOGITS.copy()
    loud = int(np.argmax(LOGITS[:20].max(axis=1)))
    best[loud, LOGITS[loud].argmin()] = LOGITS[loud].max() + np.float32(1)
    assert any("of loud windows, needed 99%" in miss for miss in spoiled(logits=best).misses(LIMITS))

    quiet = LOGITS.copy()
    quiet[QUIET] += np.float32(logit(0.9) - logit(0.1)) * 1e-2
    assert list(spoiled(logits=quiet).misses(LIMITS)) == []


@pytest.mark.parametrize("name", ["block_1", "logits"])
def test_what_is_no_number_passes_nothing(name: str) -> None:
    values = EXACT[name].copy()
    values[3, 2] = np.nan
    assert len(list(spoiled(**{name: values}).misses(LIMITS))) >= 2
    values = EXACT[name].copy()
    values[23, 2] = np.nan
    if name == "block_1":
        assert any("worst window nan" in miss for miss in spoiled(**{name: values}).misses(LIMITS))


def test_without_scores() -> None:
    quality = judge({"a": FEATURES}, {"a": FEATURES}, QUIET, None)
    assert quality.scores is None
    assert list(quality.misses(LIMITS)) == []
    assert list(quality.misses(replace(LIMITS, typical=-1.0))) != []
    assert quality.to_dict()["scores"] is None
    assert str(quality) == "a relative L2 0.000, worst window 0.000"


def test_scores_alone() -> None:
    """A network that gives nothing but logits: the worst window is one of theirs."""
    off = LOGITS * np.float32(1.05)
    quality = judge({"logits": off}, {"logits": LOGITS}, QUIET, "logits")
    assert quality.outputs == {}
    assert 0 < quality.worst < 0.2
    assert str(quality).startswith("logits relative L2 0.0")
    assert list(quality.misses(LIMITS)) == []
