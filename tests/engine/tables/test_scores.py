from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bce.engine.errors import OptionsError, TableError
from bce.engine.geometry import ChunkGrid
from bce.engine.recording import Recording
from bce.engine.tables import schema, score_files
from bce.engine.tables.schema import parse_row_id, row_id
from bce.engine.tables.score_writer import ScoreWriter
from bce.engine.tables.scores import ScoreTable, read_scores, write_scores
from bce.engine.tables.submissions import SampleSubmission

ENDS = np.array([5, 10, 15])
GRID = ChunkGrid(5.0)
START = datetime(2025, 2, 27, 1, 0, 2, tzinfo=UTC)


def recording(name: str, site: str | None = "S01") -> Recording:
    return Recording(Path("/far") / f"{name}.ogg", name, 1, site, START)


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as stream:
        return list(csv.reader(stream))


@given(st.text(min_size=1), st.integers(1, 20_000))
def test_row_ids_read_back(stem: str, chunk: int) -> None:
    assert parse_row_id(row_id(stem, 5 * chunk)) == (stem, 5 * chunk)


@pytest.mark.parametrize("text", ["a", "a_", "_5", "a_0", "a_-5", "a_5.0", "a_²"])
def test_bad_row_ids(text: str) -> None:
    with pytest.raises(TableError, match=r"is not <stem>_<end second>"):
        parse_row_id(text)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@settings(max_examples=25, deadline=None)
@given(
    scores=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5).filter(lambda shape: shape[1] > 0),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_every_number_survives(tmp_path_factory: pytest.TempPathFactory, suffix: str, scores: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("t") / f"t.{suffix}"
    ids = tuple(f"r_{5 * (i + 1)}" for i in range(len(scores)))
    write_scores(path, ScoreTable(ids, tuple(f"c{i}" for i in range(scores.shape[1])), scores))
    table = read_scores(path)
    assert table.row_ids == ids
    np.testing.assert_array_equal(table.scores, scores)
    if suffix == "csv":
        assert [[float(x) for x in row[1:]] for row in rows_of(path)[1:]] == scores.tolist()


def test_close_scores_stay_different(tmp_path: Path) -> None:
    logits = np.array([[5.0], [np.nextafter(np.float32(5), np.float32(6))]], dtype=np.float32)
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    write_scores(tmp_path / "t.csv", ScoreTable(("a_5", "a_10"), ("x",), scores))
    low, high = (row[1] for row in rows_of(tmp_path / "t.csv")[1:])
    assert float(low) < float(high)


def test_csv_is_plain_and_quotes_only_what_needs_it(tmp_path: Path) -> None:
    table = ScoreTable(("a_5", 'b,"c_5'), ("x", "y,z"), np.array([[0.5, 0.25], [1.0, 1e-9]]))
    write_scores(tmp_path / "t.csv", table)
    assert rows_of(tmp_path / "t.csv")[2][0] == 'b,"c_5'
    assert read_scores(tmp_path / "t.csv").classes == ("x", "y,z")
    write_scores(tmp_path / "t.csv", ScoreTable(("a_5",), ("x",), np.array([[0.5]])))
    assert (tmp_path / "t.csv").read_text() == "row_id,x\na_5,0.5\n"


def test_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (schema, score_files):
        monkeypatch.setattr(module, "BATCH_BYTES", 2048)
    scores = np.random.default_rng(0).random((700, 3))
    ids = tuple(f"r_{5 * (i + 1)}" for i in range(700))
    for suffix in ("csv", "parquet"):
        write_scores(tmp_path / f"t.{suffix}", ScoreTable(ids, ("a", "b", "c"), scores))
        np.testing.assert_array_equal(read_scores(tmp_path / f"t.{suffix}").scores, scores)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups > 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column 'row_id'"),
        ("id,x\na_5,1\n", "has no column 'row_id'"),
        ("row_id\na_5\n", "has no column of scores"),
        ("row_id,x,x\na_5,1,2\n", "has the column 'x' twice"),
        ("row_id,x\na_5,1\na_5,2\n", "has the row id 'a_5' more than once"),
        ("row_id,x\na_5,one\n", "is not a score table"),
        ("row_id,x\na_5,1\na_10,\n", "data row 2 has no finite number for class 'x'"),
        ("row_id,x\na_5,nan\n", "data row 1 has no finite number for class 'x'"),
        ("row_id,x\na_5,inf\n", "data row 1 has no finite number for class 'x'"),
        ("row_id,x\na_5,1,3\n", "is not a score table"),
        ("row_id,x\n,1\n", "has a row without a row id"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"ends in '\.txt'"):
        read_scores(tmp_path / "t.txt")
    with pytest.raises(TableError, match="is not there"):
        read_scores(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_text("row_id,x\n")
    with pytest.raises(TableError, match="is not a parquet file"):
        read_scores(tmp_path / "t.parquet")


def test_writer_fills_with_the_mean_of_good_rows(tmp_path: Path) -> None:
    a, c = np.random.default_rng(0).random((2, 3, 2))
    with ScoreWriter(tmp_path / "t.csv", ("x", "y"), GRID) as writer:
        writer.add(recording("a"), a, ENDS)
        writer.add_missing(recording("b"), ENDS[:2])
        writer.add(recording("c"), c, ENDS)
        assert not (tmp_path / "t.csv").exists()
        summary = writer.close()
    assert (summary.rows, summary.filled, summary.left_out) == (8, 2, 0)
    table = read_scores(tmp_path / "t.csv")
    assert table.row_ids == ("a_5", "a_10", "a_15", "b_5", "b_10", "c_5", "c_10", "c_15")
    np.testing.assert_array_equal(table.scores[[0, 1, 2, 5, 6, 7]], np.concatenate([a, c]))
    np.testing.assert_allclose(table.scores[3:5], np.tile(np.concatenate([a, c]).mean(axis=0), (2, 1)), rtol=1e-14)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_writer_without_any_good_row_is_uniform(tmp_path: Path) -> None:
    with ScoreWriter(tmp_path / "t.csv", ("w", "x", "y", "z"), GRID) as writer:
        writer.add_missing(recording("a"), ENDS)
    np.testing.assert_array_equal(read_scores(tmp_path / "t.csv").scores, np.full((3, 4), 0.25))


def test_interrupted_writer_keeps_what_was_computed(tmp_path: Path) -> None:
    writer = ScoreWriter(tmp_path / "t.csv", ("x",), GRID)
    writer.add(recording("a"), np.ones((3, 1)), ENDS)
    writer.add_missing(recording("b"), ENDS)
    summary = writer.close(fill=False)
    assert (summary.rows, summary.filled) == (3, 0)
    assert read_scores(tmp_path / "t.csv").row_ids == ("a_5", "a_10", "a_15")


def test_parquet_tells_where_rows_come_from(tmp_path: Path) -> None:
    with ScoreWriter(tmp_path / "t.parquet", ("x",), GRID) as writer:
        writer.add(recording("a"), np.ones((3, 1)), ENDS)
        writer.add_missing(recording("b", None), ENDS)
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert rows[1]["path"] == "/far/a.ogg"
    assert rows[1]["site"] == "S01"
    assert rows[1]["start_time"] == START
    assert (rows[1]["chunk_start_s"], rows[1]["chunk_end_s"]) == (5, 10)
    assert rows[4]["site"] is None
    assert read_scores(tmp_path / "t.parquet").classes == ("x",)


def test_nothing_is_left_when_the_block_raises(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ScoreWriter(tmp_path / "t.csv", ("x",), GRID) as writer:
            writer.add(recording("a"), np.ones((3, 1)), ENDS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_bad_rows(tmp_path: Path) -> None:
    with ScoreWriter(tmp_path / "t.csv", ("x",), GRID) as writer:
        with pytest.raises(TableError, match="has scores that are NaN or infinite"):
            writer.add(recording("a"), np.full((3, 1), np.nan), ENDS)
        with pytest.raises(TableError, match=r"shape \(3, 2\), expected \(3, 1\)"):
            writer.add(recording("a"), np.ones((3, 2)), ENDS)


@pytest.fixture
def sample(tmp_path: Path) -> SampleSubmission:
    path = tmp_path / "sample.csv"
    path.write_text("row_id,y,x\nb_10,.5,.5\nz_5,.5,.5\na_15,.5,.25\na_5,.5,.5\n")
    return SampleSubmission.read(path)


def test_sample_gives_rows_and_order(tmp_path: Path, sample: SampleSubmission) -> None:
    assert sample.stems == ("b", "z", "a")
    positions = sample.positions(GRID)
    assert {stem: places.tolist() for stem, places in positions.items()} == {"b": [1], "z": [0], "a": [0, 2]}
    a = np.random.default_rng(0).random((3, 2))
    writer = ScoreWriter(tmp_path / "t.parquet", ("x", "y"), GRID, sample)
    writer.add(recording("a"), a, ENDS)
    writer.add_missing(recording("b"), ENDS[:2])
    summary = writer.close()
    assert (summary.rows, summary.filled, summary.left_out) == (4, 2, 1)
    table = read_scores(tmp_path / "t.parquet")
    assert table.row_ids == ("b_10", "z_5", "a_15", "a_5")
    assert table.classes == ("y", "x")
    np.testing.assert_array_equal(table.scores[2:], a[[2, 0]][:, [1, 0]])
    np.testing.assert_allclose(table.scores[:2], np.tile(a.mean(axis=0)[[1, 0]], (2, 1)), rtol=1e-14)
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert rows[1]["path"] is None
    assert rows[1]["chunk_end_s"] == 5


def test_sample_unfilled_and_unchanged(tmp_path: Path, sample: SampleSubmission) -> None:
    writer = ScoreWriter(tmp_path / "t.csv", ("x", "y"), GRID, sample)
    writer.add(recording("a"), np.ones((3, 2)), ENDS)
    assert writer.close(fill=False).rows == 2
    sample.write_unchanged(tmp_path / "same.csv")
    np.testing.assert_array_equal(read_scores(tmp_path / "same.csv").scores[2], [0.5, 0.25])
    assert read_scores(tmp_path / "same.csv").row_ids == ("b_10", "z_5", "a_15", "a_5")


def test_sample_classes_and_ids_are_checked(tmp_path: Path, sample: SampleSubmission) -> None:
    with pytest.raises(TableError, match="'y' is not among the run's"):
        ScoreWriter(tmp_path / "t.csv", ("x", "w"), GRID, sample)
    with pytest.raises(TableError, match="it lacks 'w'"):
        ScoreWriter(tmp_path / "t.csv", ("x", "y", "w"), GRID, sample)
    (tmp_path / "bad.csv").write_text("row_id,x\na_7x,.5\n")
    with pytest.raises(TableError, match=r"bad\.csv: row id 'a_7x'"):
        SampleSubmission.read(tmp_path / "bad.csv")
    (tmp_path / "off.csv").write_text("row_id,x\na_7,.5\n")
    with pytest.raises(TableError, match=r"off\.csv: row id 'a_7' .* end second of 5, 10, 15"):
        SampleSubmission.read(tmp_path / "off.csv").positions(GRID)


def test_rows_of_other_chunks(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("row_id,x\na_3,.5\na_9,.5\n")
    sample = SampleSubmission.read(tmp_path / "s.csv")
    assert sample.positions(ChunkGrid(3.0))["a"].tolist() == [0, 2]
    with ScoreWriter(tmp_path / "t.parquet", ("x",), ChunkGrid(3.0)) as writer:
        writer.add(recording("a"), np.ones((2, 1)), np.array([3, 6]))
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert [(row["row_id"], row["chunk_start_s"], row["chunk_end_s"]) for row in rows] == [("a_3", 0, 3), ("a_6", 3, 6)]
    with pytest.raises(OptionsError, match=r"chunks of 2\.5 s: a score table names its rows by whole seconds"):
        ScoreWriter(tmp_path / "u.csv", ("x",), ChunkGrid(2.5))


def test_real_sample_submission(shared: Path, tmp_path: Path) -> None:
    path = shared / "data/official_csv/sample_submission.csv"
    sample = SampleSubmission.read(path)
    assert len(sample.classes) == 234
    sample.write_unchanged(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == path.read_bytes()
