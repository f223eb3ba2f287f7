from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.errors import OptionsError, TableError
from bce.engine.post.priors import Priors, Shrinkage

CLASSES = ("a", "b", "c")
WINDOW = st.tuples(
    st.sampled_from([None, "S1", "S2"]),
    st.one_of(st.none(), st.sampled_from([0, 1, 5, 22, 23])),
    st.frozensets(st.integers(0, 2)),
)
Windows = list[tuple[str | None, int | None, frozenset[int]]]


def count(windows: Windows) -> Priors:
    present = np.zeros((len(windows), 3), dtype=bool)
    for row, (_, _, labels) in enumerate(windows):
        present[row, list(labels)] = True
    return Priors.count(CLASSES, present, [s for s, _, _ in windows], [h for _, h, _ in windows])


@pytest.fixture
def priors() -> Priors:
    return count(
        [("S1", 5, frozenset({0})), ("S1", 5, frozenset()), ("S1", 7, frozenset({1})), ("S2", 9, frozenset({0}))]
    )


@settings(max_examples=60, deadline=None)
@given(
    windows=st.lists(WINDOW, min_size=1, max_size=25),
    site=st.sampled_from([None, "S1", "S2", "S9"]),
    hour=st.one_of(st.none(), st.integers(0, 23)),
)
def test_formula(plain: ModuleType, windows: Windows, site: str | None, hour: int | None) -> None:
    log_odds, _ = count(windows).log_odds(site, hour)
    np.testing.assert_allclose(log_odds, plain.prior_log_odds(windows, 3, site, hour), rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(windows=st.lists(WINDOW, min_size=2, max_size=25), data=st.data())
def test_leaving_out_is_not_counting(windows: Windows, data: st.DataObject) -> None:
    split = data.draw(st.integers(1, len(windows) - 1))
    kept, held = windows[:split], windows[split:]
    less = count(windows).without(count(held))
    for site in (None, "S1", "S2"):
        for hour in (None, 0, 22):
            found, basis = less.log_odds(site, hour)
            expected, expected_basis = count(kept).log_odds(site, hour)
            np.testing.assert_allclose(found, expected)
            assert basis == expected_basis


@pytest.mark.parametrize(
    ("site", "hour", "basis"),
    [
        ("S1", 5, "site-hour"),
        ("S1", 9, "site and hour"),
        ("S1", 20, "site"),
        ("S1", None, "site"),
        ("S7", 5, "hour"),
        (None, 5, "hour"),
        ("S7", 20, "global"),
        (None, None, "global"),
    ],
)
def test_basis(priors: Priors, site: str | None, hour: int | None, basis: str) -> None:
    assert priors.log_odds(site, hour)[1] == basis


def test_known_sites(priors: Priors) -> None:
    assert priors.knows_site("S1")
    assert not priors.knows_site("S7")
    assert not priors.knows_site(None)
    assert not priors.without(count([("S2", 9, frozenset({0}))])).knows_site("S2")


def test_chunks_have_the_hour_in_which_they_start(priors: Priors, plain: ModuleType) -> None:
    start = datetime(2025, 1, 1, 4, 59, 50, tzinfo=UTC)
    start_s = np.array([0, 5, 10, 15, 3600, 3610, 20 * 3600])
    table, row, basis = priors.for_chunks("S1", start, start_s)
    for i, second in enumerate(start_s):
        expected, expected_basis = priors.log_odds("S1", plain.chunk_hour(start, second))
        np.testing.assert_array_equal(table[row[i]], expected)
        assert basis[row[i]] == expected_basis
    assert len(table) == 4
    table, row, basis = priors.for_chunks("S1", None, start_s)
    assert basis == ["site"]
    assert row.tolist() == [0] * 7


def test_shrinkage_of_almost_nothing_trusts_the_pair() -> None:
    present = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], dtype=bool)
    priors = Priors.count(("a", "b"), present, ["S1", "S1", "S1", "S2"], [5, 5, 5, 5], Shrinkage(1e-9, 1e-9, 1e-9))
    np.testing.assert_allclose(priors.log_odds("S1", 5)[0], np.log([2, 0.5]), atol=1e-6)


def test_saves_and_loads(priors: Priors, tmp_path: Path) -> None:
    path = tmp_path / "priors.npz"
    priors.save(path)
    again = Priors.load(path)
    assert (again.classes, again.sites, again.shrinkage) == (priors.classes, priors.sites, priors.shrinkage)
    np.testing.assert_array_equal(again.log_odds("S1", 5)[0], priors.log_odds("S1", 5)[0])
    assert [p.name for p in tmp_path.iterdir()] == ["priors.npz"]


def test_other_classes(priors: Priors) -> None:
    np.testing.assert_array_equal(
        priors.for_classes(["c", "a"]).log_odds("S1", 5)[0], priors.log_odds("S1", 5)[0][[2, 0]]
    )
    with pytest.raises(TableError, match="do not know the class 'd'"):
        priors.for_classes(["a", "d"])


def test_bad_files(priors: Priors, tmp_path: Path) -> None:
    path = tmp_path / "priors.npz"
    with pytest.raises(TableError, match=r"priors\.npz: cannot be read"):
        Priors.load(path)
    path.write_text("site,hour\n")
    with pytest.raises(TableError, match="is not a file of priors"):
        Priors.load(path)
    priors.save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(TableError, match="is not a file of priors"):
        Priors.load(path)
    np.savez(path, classes=np.array(["a"]))
    with pytest.raises(TableError, match="lacks the array 'format'"):
        Priors.load(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(TableError, match="is not a file of priors"):
        Priors.load(tmp_path / "one.npy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": np.full((3, 25), "x")}, "array 'windows' holds <U1"),
        ({"format": np.array(2)}, "has format 2, this version reads 1"),
        ({"sites": np.array(["S1"])}, r"array 'windows' has shape \(3, 25\), expected \(2, 25\)"),
        ({"positives": np.full((3, 25, 3), 9)}, "counts a class in fewer than 0 or more than all windows"),
        ({"sites": np.array(["S1", "S1"])}, "names a class or a site twice"),
    ],
)
def test_arrays_that_do_not_fit(priors: Priors, tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    priors.save(tmp_path / "priors.npz")
    with np.load(tmp_path / "priors.npz") as content:
        arrays = {name: content[name] for name in content.files}
    np.savez(tmp_path / "priors.npz", **(arrays | change))
    with pytest.raises(TableError, match=message):
        Priors.load(tmp_path / "priors.npz")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_shrinkage_is_checked(value: float) -> None:
    with pytest.raises(OptionsError, match="shrinkage site="):
        Shrinkage(site=value)
