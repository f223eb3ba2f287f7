"""Range models against their network written out in scalars, their files, and the weeks of the year."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ranges import plain_probabilities, seeded_range_model

from bce.engine.errors import BundleError, OptionsError
from bce.engine.post.range_model import RANGE, Dense, RangeModel, week_of

LATITUDES, LONGITUDES = st.floats(-90, 90), st.floats(-180, 180)
WEEKS = st.sampled_from([-1, *range(1, 49)])


@pytest.fixture(scope="module")
def model() -> RangeModel:
    return seeded_range_model(7)


@settings(max_examples=60, deadline=None)
@given(LATITUDES, LONGITUDES, WEEKS)
def test_probabilities_are_the_plain_ones(model: RangeModel, latitude: float, longitude: float, week: int) -> None:
    found = model.probabilities(latitude, longitude, week)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain_probabilities(model, latitude, longitude, week), atol=2e-5)
    assert model.probabilities(latitude, longitude, week) is found


def test_probabilities_differ_by_place_and_week(model: RangeModel) -> None:
    points = np.array([[46.5, 6.2, 1], [46.5, 6.2, 24], [46.5, 6.2, -1], [-19.5, -56.5, 24]])
    many = model.at(points)
    assert len({row.tobytes() for row in many}) == 4
    for (latitude, longitude, week), row in zip(points.tolist(), many, strict=True):
        np.testing.assert_allclose(model.probabilities(latitude, longitude, int(week)), row, rtol=1e-5)


def test_kept_probabilities_cannot_be_changed(model: RangeModel) -> None:
    with pytest.raises(ValueError, match="read-only"):
        model.probabilities(0, 0)[0] = 1


def test_a_cut_has_the_rows_of_its_classes(model: RangeModel) -> None:
    rows = [5, -1, 0, 5]
    part, whole = model.cut(rows), model.probabilities(10, 20, 30)
    found = part.probabilities(10, 20, 30)
    assert part.classes == 4
    assert part.known.tolist() == [True, False, True, True]
    np.testing.assert_allclose(found[[0, 2, 3]], whole[[5, 0, 5]], rtol=1e-6)
    assert np.isnan(found[1])


@pytest.mark.parametrize(
    ("latitude", "longitude", "week", "says"),
    [
        (90.5, 0, 1, "latitude is 90.5, expected -90 to 90 degrees"),
        (0, -181, 1, "longitude is -181, expected -180 to 180 degrees"),
        (float("nan"), 0, 1, "latitude is nan"),
        (0, float("inf"), 1, "longitude is inf"),
        (0, 0, 0, "week is 0, expected 1 to 48, or -1 for the whole year"),
        (0, 0, 49, "week is 49"),
    ],
)
def test_what_is_out_of_range_is_named(
    model: RangeModel, latitude: float, longitude: float, week: int, says: str
) -> None:
    with pytest.raises(OptionsError, match=says):
        model.probabilities(latitude, longitude, week)


def test_a_week_is_a_quarter_of_a_month() -> None:
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(366)]
    weeks = [week_of(day) for day in days]
    assert weeks == sorted(weeks)
    lengths = Counter(weeks)
    assert sorted(lengths) == list(range(1, 49))
    assert {lengths[week] for week in range(1, 49) if week % 4} == {7}
    assert [lengths[week] for week in (4, 8, 48)] == [10, 8, 10]
    assert [week_of(date(2023, month, day)) for month, day in ((1, 7), (1, 8), (6, 21), (6, 22))] == [1, 2, 23, 24]
    assert week_of(datetime(2023, 12, 31, 23, tzinfo=UTC)) == 48
    assert week_of(None) == -1


def test_files_keep_every_number_and_their_bytes(model: RangeModel, tmp_path: Path) -> None:
    for number, kept in enumerate((model, model.cut([3, -1]))):
        paths = [tmp_path / f"{number}{name}.npz" for name in "ab"]
        for path in paths:
            kept.save(path)
        assert paths[0].read_bytes() == paths[1].read_bytes()
        found = RangeModel.load(paths[0])
        np.testing.assert_array_equal(found.probabilities(1, 2, 3), kept.probabilities(1, 2, 3))
        for one, other in zip(found.layers, kept.layers, strict=True):
            np.testing.assert_array_equal(one.kernel, other.kernel)
            np.testing.assert_array_equal(one.bias, other.bias)


def test_kernels_take_two_bytes_a_number_where_that_loses_nothing(model: RangeModel, tmp_path: Path) -> None:
    model.save(tmp_path / "half.npz")
    first = model.layers[0]
    finer = replace(model, layers=(Dense(first.kernel * np.float32(1 + 2**-20), first.bias), *model.layers[1:]))
    finer.save(tmp_path / "full.npz")
    with np.load(tmp_path / "half.npz") as half, np.load(tmp_path / "full.npz") as full:
        assert [half[f"kernel_{n}"].dtype for n in (1, 2, 3)] == [np.float16] * 3
        assert [full[f"kernel_{n}"].dtype for n in (1, 2, 3)] == [np.float32, np.float16, np.float16]
    np.testing.assert_array_equal(RangeModel.load(tmp_path / "full.npz").layers[0].kernel, finer.layers[0].kernel)


def changed(model: RangeModel, path: Path, **arrays: object) -> Path:
    """A file of the model with other arrays; None takes one out."""
    model.save(path)
    with np.load(path) as found:
        content = {**found, **arrays}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"bias_2": None}, "is not a range model: expected the arrays"),
        ({"more": np.zeros(1)}, "is not a range model: expected the arrays"),
        ({"kernel_4": np.zeros((2, 7)), "bias_4": np.zeros(2)}, "'kernel_4' is float64, expected float16 or float32"),
        ({"format": np.array(2)}, "of another format than 1"),
        ({"kernel_2": np.zeros((16, 9), np.float16)}, r"'kernel_2' is float32 \[16, 9\], expected float32 \[16, 8\]"),
        ({"bias_1": np.zeros(9, np.float32)}, r"'kernel_1' is float32 \[8, 12\], expected float32 \[9, 12\]"),
        ({"bias_1": np.float32(1)}, "'kernel_1' is"),
        ({"bias_1": np.full(8, np.nan, np.float32)}, "'bias_1' holds numbers that are not finite"),
        ({"bias_3": np.full(7, np.inf, np.float32)}, "'bias_3' holds numbers that are not finite"),
        ({"phases": np.zeros((2, 2), np.float32)}, r"'phases' has the shape \[2, 2\]"),
        ({"offsets": np.zeros(2, np.float32)}, "'offsets' is"),
        ({"numbers": np.zeros(3, np.float32)}, "'numbers' is not two numbers"),
        ({"numbers": np.array([np.nan, 1], np.float32)}, "'numbers' holds numbers that are not finite"),
        ({"phases": np.array(["a"])}, "'phases' is <U1"),
        ({"phases": np.array([{}], dtype=object)}, "is not a range model, or damaged"),
    ],
)
def test_files_that_do_not_fit_are_named(model: RangeModel, tmp_path: Path, arrays: dict, says: str) -> None:
    path = changed(model, tmp_path / RANGE, **arrays)
    with pytest.raises(BundleError, match=says) as caught:
        RangeModel.load(path)
    assert caught.value.path == str(path) or caught.value.path == path
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.999))
def test_files_that_are_cut_short_are_one_line(
    model: RangeModel, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / RANGE
    model.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError, match=RANGE):
        RangeModel.load(path)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read as a range model"):
        RangeModel.load(tmp_path / RANGE)
