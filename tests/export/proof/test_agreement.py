"""Agreement, against scipy class by class and plain loops; what has no size, nothing loud, or is no number."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr

from bce.export.proof.agreement import LOUD, Agreement, Distance, rank_correlation_each, relative_l2_each
from bce.export.proof.gates import relative_l2

SOME = np.random.default_rng(5).normal(-2, 2, (30, 12))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Logits of one shape: few different values, so that there are ties and constant classes, or many."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 6)))
    elements = draw(st.sampled_from([st.sampled_from([-2.0, -1.0, 0.0, 3.0]), st.floats(-20, 20, width=32)]))
    found, trusted = (draw(hnp.arrays(np.float32, shape, elements=elements)) for _ in range(2))
    return found, trusted


def length(row: list[float]) -> float:
    return math.sqrt(sum(value * value for value in row))


def quotient(off: float, size: float) -> float:
    return off / size if size else (0.0 if off == 0 else math.inf)


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_relative_l2_of_each_window(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, trusted = (array.astype(float).tolist() for array in pair)
    each = [
        quotient(length([a - b for a, b in zip(*rows, strict=True)]), length(rows[1]))
        for rows in zip(found, trusted, strict=True)
    ]
    np.testing.assert_allclose(relative_l2_each(*pair), each, rtol=1e-9)
    distance = Distance.of_features(*pair)
    assert distance.worst == pytest.approx(max(each), rel=1e-9)
    assert distance.pooled == pytest.approx(relative_l2(*pair), rel=1e-9)
    if math.inf not in each:
        assert distance.typical == pytest.approx(np.median(each), rel=1e-9)


def test_what_has_no_size() -> None:
    found, trusted = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    assert relative_l2_each(found, trusted).tolist() == [0, math.inf, 0.5]
    assert astuple(Distance.of_features(found, trusted)) == pytest.approx((0.5, math.sqrt(2) / 2, math.inf))
    assert astuple(Distance.of_features(0 * trusted, 0 * trusted)) == (0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_centred_distance(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, trusted = (array.astype(float).tolist() for array in pair)
    windows, classes = range(len(found)), range(len(found[0]))
    means = [math.fsum(row[c] for row in trusted) / len(trusted) for c in classes]
    sizes = [length([row[c] - means[c] for c in classes]) for row in trusted]
    typical_size = math.sqrt(sum(size * size for size in sizes) / len(sizes))
    assume(typical_size == 0 or typical_size > 1e-6)  # else it is what is left of rounding
    each = [quotient(length([found[w][c] - trusted[w][c] for c in classes]), typical_size) for w in windows]
    distance = Distance.of_logits(*pair)
    assert distance.worst == pytest.approx(max(each), rel=1e-6)
    assert distance.pooled == pytest.approx(math.sqrt(sum(off * off for off in each) / len(each)), rel=1e-6)
    if math.inf not in each:
        assert distance.typical == pytest.approx(np.median(each), rel=1e-6)


def test_a_window_near_the_mean_is_no_worse_than_others() -> None:
    trusted = np.array([[1.0, -1.0], [-1.0, 1.0], [1e-9, 0.0]])
    distance = Distance.of_logits(trusted + 0.1, trusted)
    assert distance.worst == pytest.approx(distance.typical)


def test_what_all_logits_have_in_common_counts_for_nothing() -> None:
    """An offset of each class leaves the distance as it is; to ``relative_l2`` it makes any error small."""
    found, offset = SOME + 0.1, np.linspace(-90, 90, 12)
    near, far = Distance.of_logits(found, SOME), Distance.of_logits(found + offset, SOME + offset)
    assert astuple(far) == pytest.approx(astuple(near))
    assert relative_l2(found + offset, SOME + offset) < 0.1 * relative_l2(found, SOME)


@settings(max_examples=80, deadline=None)
@given(pairs())
def test_rank_correlation_of_each_class(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, trusted = pair
    each = []
    for mine, theirs in zip(found.T, trusted.T, strict=True):
        if len(set(theirs.tolist())) > 1:
            each.append(spearmanr(mine, theirs).statistic if len(set(mine.tolist())) > 1 else 0.0)
    np.testing.assert_allclose(rank_correlation_each(found, trusted), each, atol=1e-12)
    agreement = Agreement.between(found, trusted)
    if each:
        assert agreement.rank_correlation == pytest.approx(np.mean(each), abs=1e-12)
        below = sorted(each)
        place = 0.05 * (len(each) - 1)
        low, high = below[math.floor(place)], below[math.ceil(place)]
        assert agreement.rank_correlation_worst == pytest.approx(low + (high - low) * (place % 1), abs=1e-12)
    else:
        assert math.isnan(agreement.rank_correlation)
        assert math.isnan(agreement.rank_correlation_worst)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_best_classes_and_probabilities(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, trusted = (array.astype(float).tolist() for array in pair)
    windows = range(len(found))
    kept = [w for w in windows if found[w].index(max(found[w])) == trusted[w].index(max(trusted[w]))]
    loud = [w for w in windows if any(probability(logit) >= LOUD for logit in trusted[w])]
    agreement = Agreement.between(*pair)
    assert (agreement.windows, agreement.loud) == (len(found), len(loud))
    assert agreement.top1 == pytest.approx(len(kept) / len(found))
    assert agreement.top1_loud == (pytest.approx(len({*kept} & {*loud}) / len(loud)) if loud else None)
    changes = [abs(probability(a) - probability(b)) for w in windows for a, b in zip(found[w], trusted[w], strict=True)]
    assert agreement.largest_change == pytest.approx(max(changes), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(pairs(), st.randoms(use_true_random=False))
def test_neither_order_nor_precision_counts(pair: tuple[np.ndarray, np.ndarray], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(pair[0])))
    random.shuffle(order)
    there, shuffled = Agreement.between(*pair), Agreement.between(*(array[order].astype(float) for array in pair))
    for one, other in zip(_numbers(there), _numbers(shuffled), strict=True):
        assert one == pytest.approx(other, abs=1e-9, nan_ok=True)


def _numbers(agreement: Agreement) -> list[float | None]:
    figures = agreement.to_dict()
    return [*figures.pop("distance").values(), *figures.values()]


def test_the_same_is_exactly_the_same() -> None:
    same = Agreement.between(SOME, SOME)
    assert astuple(same) == (30, same.loud, (0, 0, 0), 1, 1, 1, 1, 0, 0)
    assert 0 < same.loud < 30


def test_what_ranks_backwards() -> None:
    agreement = Agreement.between(-SOME, SOME)
    assert agreement.rank_correlation == agreement.rank_correlation_worst == -1
    assert agreement.distance.typical > 1


def test_a_single_class_that_is_lost_shows_in_the_worst() -> None:
    found = SOME.copy()
    found[:, 3] = 0  # constant
    agreement = Agreement.between(found, SOME)
    assert agreement.rank_correlation == pytest.approx(11 / 12)
    assert agreement.rank_correlation_worst < 0.6


def test_one_window() -> None:
    same, other = Agreement.between(SOME[:1], SOME[:1]), Agreement.between(SOME[:1] + 1, SOME[:1])
    assert astuple(same.distance) == (0, 0, 0)
    assert astuple(other.distance) == (math.inf,) * 3
    assert math.isnan(same.rank_correlation)
    assert "rank correlation of a class over the rows undefined" in "\n".join(same.lines("rows"))


def test_nothing_loud() -> None:
    agreement = Agreement.between(SOME - 20, SOME - 20)
    assert (agreement.loud, agreement.top1, agreement.top1_loud) == (0, 1, None)
    assert "none has a probability of 0.25 or more" in "\n".join(agreement.lines())


@pytest.mark.parametrize("wrong", ["found", "trusted", "both"])
def test_nan_is_in_every_figure(wrong: str) -> None:
    """One number, in the loudest window."""
    found, trusted = SOME.copy(), SOME.copy()
    for name, array in (("found", found), ("trusted", trusted)):
        if wrong in (name, "both"):
            array[SOME.max(axis=1).argmax(), 7] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agreement, features = Agreement.between(found, trusted), Distance.of_features(found, trusted)
    counts = {"windows", "loud"}
    figures = [value for name, value in vars(agreement).items() if name not in {*counts, "distance"}]
    assert len(figures) == 6
    assert np.isnan([*figures, *astuple(agreement.distance), *astuple(features)]).all()
    assert "an unknown number of 30" in str(agreement)


def test_nan_of_a_window_that_is_not_loud_leaves_the_loud_ones_alone() -> None:
    found = np.array([[3.0, 0.0], [np.nan, -9.0]])
    agreement = Agreement.between(found, np.array([[3.0, 0.0], [-8.0, -9.0]]))
    assert (agreement.loud, agreement.top1_loud) == (1, 1.0)
    assert math.isnan(agreement.top1)


def test_infinities_are_far_away() -> None:
    found = SOME.copy()
    found[0, 0] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Agreement.between(found, SOME).distance.worst == math.inf
        assert math.isnan(Agreement.between(found, found).distance.worst)
        assert not Agreement.between(1e200 * found, 1e200 * SOME).distance.worst < 1e9
    assert Distance.of_features(found, SOME).pooled == math.inf


def test_json_has_neither_nan_nor_infinity() -> None:
    record = Agreement.between(SOME[:1] + 1, SOME[:1]).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["distance"] == {"typical": None, "pooled": None, "worst": None}
    assert (record["windows"], record["rank_correlation"]) == (1, None)


@pytest.mark.parametrize("compare", [relative_l2_each, rank_correlation_each, Distance.of_logits, Agreement.between])
@pytest.mark.parametrize(("one", "other"), [((1, 3), (2, 3)), ((3,), (3,)), ((0, 3), (0, 3)), ((2, 0), (2, 0))])
def test_other_shapes_are_refused(compare, one, other) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"expected the same \[windows, width\]"):
        compare(np.ones(one), np.ones(other))


def test_it_takes_neither_onnx_nor_torch() -> None:
    code = "import sys, bce.export.proof.agreement; print({'onnx', 'torch', 'onnxruntime'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
