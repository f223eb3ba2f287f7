from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.errors import TableError
from bce.tools.metrics import (
    Ranking,
    Resamples,
    auc_per_class,
    count_ties,
    interval,
    macro_auc,
    within_groups,
)

metrics = pytest.importorskip("sklearn.metrics", reason="the reference is in the extra bce[tools]")


def truth_and_scores(seed: int, rows: int, classes: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((rows, classes)) < rng.random(classes), rng.integers(0, levels, (rows, classes)) / levels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5), st.sampled_from([1, 3, 10**6]))
def test_auc_is_sklearns(seed: int, rows: int, classes: int, levels: int) -> None:
    present, scores = truth_and_scores(seed, rows, classes, levels)
    aucs = auc_per_class(present, scores)
    scored = present.any(axis=0) & ~present.all(axis=0)
    np.testing.assert_array_equal(np.isnan(aucs), ~scored)
    for c in np.flatnonzero(scored):
        assert aucs[c] == pytest.approx(metrics.roc_auc_score(present[:, c], scores[:, c]), abs=1e-12)
    if scored.any():
        expected = metrics.roc_auc_score(present[:, scored], scores[:, scored], average="macro")
        assert macro_auc(present, scores) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.sampled_from([3, 10**6]))
def test_weights_are_repeated_rows(seed: int, rows: int, levels: int) -> None:
    present, scores = truth_and_scores(seed, rows, 3, levels)
    weight = np.random.default_rng(seed).integers(0, 4, rows)
    repeated = np.repeat(np.arange(rows), weight)
    if len(repeated):
        expected = auc_per_class(present[repeated], scores[repeated])
        np.testing.assert_allclose(Ranking.of(present, scores).auc(weight), expected, atol=1e-12)


def test_bootstrap_draws_whole_recordings() -> None:
    recordings = ["a"] * 3 + ["b"] * 2 + ["c"] * 4
    drawn = Resamples.draw(recordings, 200, seed=1)
    for weight in drawn.weight:
        assert [len(set(weight[part])) for part in (slice(0, 3), slice(3, 5), slice(5, 9))] == [1, 1, 1]
        assert weight[0] + weight[3] + weight[5] == 3
    assert drawn.weight[:, 0].mean() == pytest.approx(1, abs=0.2)
    np.testing.assert_array_equal(Resamples.draw(recordings, 200, seed=1).weight, drawn.weight)
    present, scores = truth_and_scores(0, 9, 2, 1000)
    by_hand = [
        macro_auc(present[np.repeat(np.arange(9), w.astype(int))], scores[np.repeat(np.arange(9), w.astype(int))])
        for w in drawn.weight[:20]
    ]
    np.testing.assert_allclose(drawn.macro_auc(Ranking.of(present, scores))[:20], by_hand)


def test_interval() -> None:
    values = np.append(np.arange(1001) / 1000, np.nan)
    assert interval(values) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_within_groups_is_the_mean_over_groups() -> None:
    present, scores = truth_and_scores(3, 40, 3, 10**6)
    groups = ["S1"] * 25 + ["S2"] * 15
    value, _ = within_groups(present, scores, groups)
    expected = np.mean([macro_auc(present[:25], scores[:25]), macro_auc(present[25:], scores[25:])])
    assert value == pytest.approx(expected)
    shifted = scores + np.array([0.0] * 25 + [7.0] * 15)[:, None]
    assert within_groups(present, shifted, groups)[0] == pytest.approx(expected)
    drawn = Resamples.draw(groups, 50)
    _, per_resample = within_groups(present, scores, groups, drawn)
    assert per_resample.shape == (50,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(within_groups(np.zeros((2, 1), dtype=bool), np.ones((2, 1)), ["a", "b"])[0])


def test_ties() -> None:
    present = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)
    fine = np.array([[0.12345678, 0.5, 0.7, 0.5], [0.12345679, 0.5, 0.7, 0.5], [0.3, 0.5, 0.2, 0.5]])
    found = count_ties(present, fine)
    assert (found.constant, found.tied, found.rounded) == (1, 1, False)
    rounded = count_ties(present, np.round(fine, 6))
    assert (rounded.constant, rounded.tied, rounded.rounded) == (1, 2, True)


def test_refuses_nan_and_other_shapes() -> None:
    with pytest.raises(TableError, match="scores hold NaN"):
        auc_per_class(np.ones((2, 1), dtype=bool), np.array([[np.nan], [0.0]]))
    with pytest.raises(TableError, match="does not fit"):
        auc_per_class(np.ones((2, 1), dtype=bool), np.ones((2, 2)))
