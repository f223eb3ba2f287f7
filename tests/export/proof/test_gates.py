"""Gates: what passes, what is excused by rounding, what is only reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bce.export.proof.gates import (
    BACKBONE,
    END_TO_END,
    HEAD,
    SPECTROGRAM,
    Gate,
    Limits,
    Rounding,
    Verdict,
    constant_share,
    relative_l2,
)
from bce.export.sources import Source

ONES = np.ones(100)


def never() -> np.ndarray:
    raise AssertionError("the exact numbers are not needed")


def test_relative_l2() -> None:
    assert relative_l2(np.array([3.0, 4.0]), np.array([3.0, 0.0])) == pytest.approx(4 / 3)
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert relative_l2(np.ones(3), np.zeros(3)) == np.inf
    big = np.full(10, 1e30, np.float32)
    assert relative_l2(big, big * np.float32(2)) == pytest.approx(0.5)


@pytest.mark.parametrize(("unit", "found", "expected"), [("max_abs", 0.02, 0.02), ("relative_l2", 0.02, 0.02 / 10)])
def test_a_gate_is_about_its_unit(unit: str, found: float, expected: float) -> None:
    """One of a hundred numbers is off: by so much at most, and by a tenth of it in all."""
    off = ONES.copy()
    off[3] += found
    for limit, passed in ((1.01 * expected, True), (0.99 * expected, False)):
        verdict = Gate(unit, limit).judge(off, ONES, never)  # type: ignore[arg-type]
        assert (verdict.passed, verdict.rounded, verdict.limit) == (passed, False, limit)
        assert verdict.max_abs == pytest.approx(0.02)
        assert verdict.relative_l2 == pytest.approx(0.002)


def test_without_a_limit_a_difference_is_reported() -> None:
    verdict = Gate("relative_l2", None, Rounding(1.0, 10.0)).judge(2 * ONES, ONES, never)
    assert verdict == Verdict(1.0, 1.0, None, True)


def test_nan_misses_every_limit() -> None:
    gate = Gate("relative_l2", 1e-3, Rounding(1e9, 1e9, 1e9))
    assert not gate.judge(np.nan * ONES, ONES, lambda: ONES).passed
    assert not gate.judge(ONES, np.nan * ONES, lambda: ONES).passed
    assert not gate.judge(1.1 * ONES, ONES, lambda: np.nan * ONES).passed


def test_exact_numbers_are_asked_for_only_where_the_first_limit_is_missed() -> None:
    gate = Gate("relative_l2", 1e-3, Rounding(1e-1, 10.0))
    assert gate.judge(ONES * (1 + 9e-4), ONES, never).passed
    with pytest.raises(AssertionError, match="not needed"):
        gate.judge(ONES * (1 + 2e-3), ONES, never)
    assert not gate.judge(ONES * (1 + 2e-3), ONES).passed


@given(found=st.floats(0.5, 1.5), expected=st.floats(0.5, 1.5), ratio=st.floats(0, 20), floor=st.floats(0, 0.5))
def test_rounding_excuses_what_the_source_has_as_well(
    found: float, expected: float, ratio: float, floor: float
) -> None:
    """Against the rule written out, for a truth of 1 and differences as large as they like to be."""
    verdict = Gate("max_abs", 0.01, Rounding(0.2, ratio, floor)).judge(found * ONES, expected * ONES, lambda: ONES)
    apart = abs(found - expected)
    near = abs(found - 1) <= max(floor, ratio * abs(expected - 1))
    assert verdict.passed == (apart <= 0.01 or (near and apart <= 0.2))
    assert verdict.rounded == (apart > 0.01 and near and apart <= 0.2)
    assert verdict.limit == (0.2 if near and apart > 0.01 else 0.01)


def test_a_right_bundle_is_let_pass_beside_a_rough_source_and_a_wrong_one_is_not() -> None:
    rough = ONES * (1 + 5e-5)
    gate = Limits().gate(BACKBONE, natural=True)
    assert gate.judge(ONES, rough, lambda: ONES) == Verdict(
        pytest.approx(5e-5), pytest.approx(5e-5, rel=1e-3), 1e-4, True, True
    )
    assert not gate.judge(rough, ONES, lambda: ONES).passed
    assert not gate.judge(ONES, ONES * (1 + 2e-4), lambda: ONES).passed


def test_the_gates_of_the_limits() -> None:
    """What is gated on natural audio and on extremes, and by which limit."""
    limits = Limits(1.0, 2.0, 3.0, 4.0)
    for measure, unit, natural, extremes in (
        (SPECTROGRAM, "max_abs", 1.0, None),
        (BACKBONE, "relative_l2", 2.0, 2.0),
        (END_TO_END, "relative_l2", 3.0, None),
        (HEAD, "relative_l2", 4.0, 4.0),
    ):
        gates = limits.gate(measure, True), limits.gate(measure, False)
        assert [gate.unit for gate in gates] == [unit, unit]
        assert [gate.limit for gate in gates] == [natural, extremes]
    # a mean over a large map may be as far from exact on silence, however near the source happens to be
    assert limits.gate(BACKBONE, False).rounding == Rounding(1e-2, 10.0, 1e-4)
    assert limits.gate(BACKBONE, True).rounding == Rounding(1e-4, 10.0)
    # the engine's own spectrogram must be as near to the exact one as to any source
    assert limits.gate(SPECTROGRAM, True).rounding == Rounding(2e-3, 0.0, 1.0)


def source(form: str, lossy: bool = False) -> Source[None]:
    return Source(Path(form), "0" * 64, form, "unknown", "", None, lossy=lossy)


def test_limits_between_forms() -> None:
    onnx, tflite, rounded = source("onnx"), source("tflite"), source("tflite", lossy=True)
    assert Limits.between(onnx, onnx) == Limits()
    assert Limits.between(tflite, tflite) == Limits.between(tflite, onnx) == Limits(backbone_relative_l2=1e-4)
    assert Limits.between(rounded, rounded) == Limits(None, 1e-4, None)
    assert Limits.between(rounded, onnx) == Limits.between(onnx, rounded) == Limits(None, None, None)


def test_numbers_that_hear_nothing_are_counted() -> None:
    values = np.array([[5.0, 0.0, 1e-9, 1.0, -3.0], [5.000001, 0.0, 2e-9, 1.0, -3.1]])
    assert constant_share(values) == pytest.approx(3 / 5)  # rounding is no hearing, however small a number is it counts
    assert constant_share(values[:1]) == 0  # one window tells nothing
    assert constant_share(np.zeros((3, 0))) == 0
