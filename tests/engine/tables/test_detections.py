"""Detections against a loop over all scores."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.engine.errors import OptionsError, TableError
from bce.engine.geometry import ChunkGrid
from bce.engine.post.postprocessor import ScoredPart
from bce.engine.recording import Recording
from bce.engine.results import Outcome
from bce.engine.tables.detections import COLUMNS, DetectionSink, check_detections
from bce.engine.taxonomy import Taxonomy

CLASSES = Taxonomy.from_columns(
    {
        "primary_label": ["a", "b", "=c"],
        "scientific_name": ["Aus aus", "Bus bus", "Cus cus"],
        "common_name": ["A bird", "B, bird", "C bird"],
    }
)
BEGIN = datetime(2025, 1, 31, 23, 59, 50, tzinfo=UTC)
RECORDING = Recording(Path("/far/x.wav"), "x", None, "S01", BEGIN)
OK = Outcome(status="ok", promised_chunks=None)


def read(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    threshold=st.sampled_from([0.25, 0.5, 1.0]),
    chunk_s=st.sampled_from([3.0, 1.5, 5.0]),
)
def test_they_are_all_scores_from_the_threshold_on(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: list[int], threshold: float, chunk_s: float
) -> None:
    out = tmp_path_factory.mktemp("t") / "d.csv"
    scores = np.random.default_rng(seed).choice([0.0, 0.2, 0.25, 0.4, 0.5, 0.75, 1.0], (sum(lengths), 3))
    sink = DetectionSink(out, CLASSES, ChunkGrid(chunk_s), threshold)
    first = 0
    for number, length in enumerate(lengths, start=1):
        rows = scores[first : first + length]
        sink.add(ScoredPart(RECORDING, first, rows, OK if number == len(lengths) else None))
        first += length
    sink.finish()
    expected = [list(COLUMNS)]
    for chunk, row in enumerate(scores):
        for place in sorted(range(3), key=lambda place: -row[place]):
            if row[place] >= threshold:
                start = chunk * chunk_s
                time = (BEGIN + timedelta(seconds=start)).strftime("%Y-%m-%dT%H:%M:%SZ")
                names = [column[place] for column in CLASSES.columns.values()]
                span = [f"{second:g}" for second in (start, start + chunk_s)]
                expected.append(["/far/x.wav", "S01", time, *span, *names, f"{row[place]:.4f}"])
    assert read(out) == expected
    assert sink.count == len(expected) - 1


def test_names_that_are_formulas_are_defused_where_that_is_asked_for(tmp_path: Path) -> None:
    for safe, label in ((False, "=c"), (True, "'=c")):
        sink = DetectionSink(tmp_path / "d.csv", CLASSES, ChunkGrid(3.0), safe=safe)
        sink.add(ScoredPart(RECORDING, 0, np.array([[0.0, 0.0, 1.0]]), OK))
        sink.finish()
        assert read(tmp_path / "d.csv")[1][5] == label


def test_what_a_name_and_a_table_do_not_say_is_empty(tmp_path: Path) -> None:
    bare = Taxonomy.from_columns({"primary_label": ["a"], "scientific_name": ["Aus aus"]})
    sink = DetectionSink(tmp_path / "d.csv", bare, ChunkGrid(3.0))
    sink.add(ScoredPart(Recording(Path("y.wav"), "y"), 4, np.array([[0.3]]), OK))
    sink.finish()
    assert read(tmp_path / "d.csv")[1] == ["y.wav", "", "", "12", "15", "a", "Aus aus", "", "0.3000"]


def test_a_run_that_broke_off_leaves_nothing(tmp_path: Path) -> None:
    sink = DetectionSink(tmp_path / "d.csv", CLASSES, ChunkGrid(3.0))
    sink.add(ScoredPart(RECORDING, 0, np.ones((1, 3)), OK))
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("year", "time"), [(9999, ""), (1, "0001-12-31T23:59:59Z")], ids=["over the last year's end", "year 1"]
)
def test_a_clock_that_was_never_set(tmp_path: Path, year: int, time: str) -> None:
    recording = Recording(Path("z.wav"), "z", None, None, datetime(year, 12, 31, 23, 59, 56, tzinfo=UTC))
    sink = DetectionSink(tmp_path / "d.csv", CLASSES, ChunkGrid(3.0))
    sink.add(ScoredPart(recording, 1 if year == 1 else 2, np.array([[0.3, 0.0, 0.0]]), OK))
    sink.finish()
    assert read(tmp_path / "d.csv")[1][2] == time


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    sink = DetectionSink(tmp_path / "d.csv", CLASSES, ChunkGrid(3.0))
    with pytest.raises(TableError, match=r"x\.wav: has scores that are NaN or infinite"):
        sink.add(ScoredPart(RECORDING, 0, np.array([[0.1, np.nan, 0.2]]), OK))
    sink.abort()


@pytest.mark.parametrize(
    ("name", "threshold", "message"),
    [
        ("d.parquet", 0.25, "name that ends in .csv"),
        ("d.csv", 0.0, "threshold is 0.0, it must be above 0"),
        ("d.csv", 1.01, "at most 1"),
        ("d.csv", float("nan"), "threshold is nan"),
        ("d.csv", True, "threshold is True"),
    ],
)
def test_bad_options_are_named(name: str, threshold: float, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        check_detections(name, threshold)
