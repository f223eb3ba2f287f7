"""Sinks: parts in, a whole file out or none; and which rows a table must have."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import disks

from bce.engine.errors import OptionsError
from bce.engine.geometry import ChunkGrid, WindowSpec
from bce.engine.post.postprocessor import ScoredPart
from bce.engine.recording import Recording
from bce.engine.results import Outcome, Part
from bce.engine.tables.expected_rows import ExpectedRows
from bce.engine.tables.feature_files import FeatureSink
from bce.engine.tables.scores import read_scores
from bce.engine.tables.sinks import ScoreTableSink
from bce.engine.tables.submissions import SampleSubmission

GRID, WINDOW = ChunkGrid(5.0), WindowSpec(32_000, 5.0)
OK = Outcome(status="ok", promised_chunks=7)


def recording(name: str) -> Recording:
    return Recording(Path(f"/far/{name}.wav"), name, None, "S01", datetime(2025, 1, 1, 3, tzinfo=UTC))


def expected_rows(sample: SampleSubmission | None = None, fills: bool = True, **promised: int) -> ExpectedRows:
    return ExpectedRows(GRID, sample, lambda: promised, lambda: fills)


def table_sink(out: Path, expected: ExpectedRows, sample: SampleSubmission | None = None, fills: bool = True):
    return ScoreTableSink(out, ("x", "y"), GRID, expected, sample, lambda: fills)


def scored(name: str, first: int, scores: np.ndarray, outcome: Outcome | None = None) -> ScoredPart:
    return ScoredPart(recording(name), first, scores, outcome)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 30))
def test_a_table_does_not_depend_on_how_recordings_are_cut(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], promised: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    total = sum(lengths)
    scores = np.random.default_rng(total).random((total, 2))
    outcome = Outcome(status="ok", promised_chunks=promised)
    for name, edges in (("whole", [0, total]), ("cut", np.cumsum([0, *lengths]).tolist())):
        sink = table_sink(folder / f"{name}.csv", expected_rows())
        for number, (first, end) in enumerate(pairwise(edges), start=1):
            last = number == len(edges) - 1
            sink.add(scored("a", first, scores[first:end], outcome if last else None))
        sink.finish()
        assert sink.summary is not None
        assert (sink.summary.rows, sink.summary.filled) == (max(total, promised), max(0, promised - total))
    whole, cut = read_scores(folder / "whole.csv"), read_scores(folder / "cut.csv")
    assert whole.row_ids == cut.row_ids == tuple(f"a_{5 * (i + 1)}" for i in range(max(total, promised)))
    np.testing.assert_array_equal(whole.scores[:total], cut.scores[:total])
    np.testing.assert_allclose(whole.scores, cut.scores, rtol=1e-12)


def test_rows_of_a_sample_come_out_of_any_part(tmp_path: Path) -> None:
    path = tmp_path / "sample.csv"
    path.write_text("row_id,y,x\na_35,0,0\nb_5,0,0\na_5,0,0\na_20,0,0\n")
    sample = SampleSubmission.read(path)
    expected = expected_rows(sample)
    sink = table_sink(tmp_path / "t.csv", expected, sample)
    scores = np.arange(12.0).reshape(6, 2)
    sink.add(scored("a", 0, scores[:3]))
    sink.add(scored("a", 3, scores[3:], OK))
    sink.add(scored("b", 0, scores[:0], Outcome(status="failed", reason="no audio")))
    sink.finish()
    table = read_scores(tmp_path / "t.csv")
    assert table.row_ids == ("a_35", "b_5", "a_5", "a_20")
    assert table.scores[2:].tolist() == [[1, 0], [7, 6]]
    np.testing.assert_allclose(table.scores[0], [4, 3])  # filled with the mean of the two that were computed
    assert expected.computed(recording("a"), 0, 6).tolist() == [0, 3]
    assert expected.missing(recording("a"), OK, 6).tolist() == [6]


@pytest.mark.parametrize(
    ("outcome", "fills", "chunks"),
    [
        (Outcome(status="ok", promised_chunks=3), True, 3),
        (Outcome(status="failed"), True, 12),  # nothing is known of it: the rows of a minute
        (Outcome(status="not_run", stopped=True), True, 12),
        (Outcome(status="not_run", stopped=True), False, 0),
        (Outcome(status="short_read", stopped=True, promised_chunks=4), False, 4),
    ],
)
def test_rows_that_are_missing(outcome: Outcome, fills: bool, chunks: int) -> None:
    assert len(expected_rows(fills=fills).missing(recording("a"), outcome, 0)) == chunks


def test_a_header_that_was_read_once_says_how_many_rows_there_are() -> None:
    assert len(expected_rows(a=40).missing(recording("a"), Outcome(status="failed"), 0)) == 40


def test_aborted_sinks_leave_what_was_there(tmp_path: Path) -> None:
    for name in ("t.csv", "f.parquet"):
        (tmp_path / name).write_text("of yesterday")
    scores = table_sink(tmp_path / "t.csv", expected_rows())
    features = FeatureSink(tmp_path / "f.parquet", {"block_1": 2}, WINDOW, GRID)
    scores.add(scored("a", 0, np.ones((2, 2)), OK))
    features.add(Part(recording("a"), 0, np.ones((2, 2), np.float32), {"block_1": np.ones((2, 2), np.float32)}))
    scores.abort()
    features.abort()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.parquet", "t.csv"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"of yesterday"}


def test_disks_that_are_all_full_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bce.engine.files._rescue_folders", lambda: iter(()))
    disks.fill(monkeypatch, tmp_path, 10)
    scores = table_sink(tmp_path / "t.csv", expected_rows())
    features = FeatureSink(tmp_path / "f.parquet", {"block_1": 2}, WINDOW, GRID)
    with pytest.raises(OSError, match="No space left on device, and no other folder takes it"):
        scores.add(scored("a", 0, np.ones((2, 2)), OK))
    with pytest.raises(OSError, match="No space left on device, and no other folder takes it"):
        features.add(Part(recording("a"), 0, np.ones((2, 2), np.float32), {"block_1": np.ones((2, 2), np.float32)}))
    for sink in (scores, features):
        sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_features_that_cannot_be_begun_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bce.engine.files.tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError, match="No such file or directory"):
        FeatureSink(tmp_path / "gone" / "f.parquet", {"block_1": 2}, WINDOW, GRID)
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_begun_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bce.engine.tables.score_files.csv.writer", full)
    sink = table_sink(tmp_path / "t.csv", expected_rows())
    sink.add(scored("a", 0, np.ones((2, 2)), OK))
    with pytest.raises(OSError, match="No space left"):
        sink.finish()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


def test_table_and_report_hear_the_same_of_a_recording() -> None:
    promised: dict[str, int] = {}
    expected, one = ExpectedRows(GRID, None, lambda: promised, lambda: True), recording("a")
    before = expected.missing(one, Outcome(status="failed"), 0)
    promised["a"] = 40  # its header has been read meanwhile
    np.testing.assert_array_equal(expected.missing(one, Outcome(status="failed"), 0), before)


def test_features_of_parts_lie_one_after_the_other(tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    sink = FeatureSink(out, {"block_1": 3}, WINDOW, GRID, bundle="id", backbone="compiled", notice="n")
    for first, end in ((0, 3), (3, 5), (5, 5)):
        logits = np.empty((end - first, 0), np.float32)
        sink.add(Part(recording("a"), first, logits, {"block_1": values[first:end]}))
    sink.finish()
    table = pq.read_table(out)
    assert table["row_id"].to_pylist() == ["a_5", "a_10", "a_15", "a_20", "a_25"]
    assert table["start_s"].to_pylist() == [0, 5, 10, 15, 20]
    np.testing.assert_array_equal(np.array(table["block_1"].to_pylist(), np.float32), values)
    assert table.schema.metadata == {b"bundle": b"id", b"backbone": b"compiled", b"notice": b"n"}


def test_windows_hours_into_a_recording_have_ids_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    starts = np.array([9_999.5, 10_000.25, 10_000.5, 86_390.0])
    sink = FeatureSink(out, {"block_1": 1}, WINDOW, GRID)
    sink.add(Part(recording("a"), 0, np.empty((2, 0), np.float32), {"block_1": np.ones((4, 1), np.float32)}, starts))
    sink.finish()
    assert pq.read_table(out)["row_id"].to_pylist() == ["a_10004.5", "a_10005.25", "a_10005.5", "a_86395"]


def test_features_go_to_parquet_only(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"f\.csv: features are written as parquet"):
        FeatureSink(tmp_path / "f.csv", {"block_1": 1}, WINDOW, GRID)
    assert list(tmp_path.iterdir()) == []
