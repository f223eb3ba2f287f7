from __future__ import annotations

import csv
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.labels import HEADER, A, B

from bce.engine.errors import OptionsError, TableError
from bce.engine.tables.scores import ScoreTable, write_scores
from bce.tools.commands.tools import main
from bce.tools.data.labels import read_labels
from bce.tools.judge.evaluate import evaluate
from bce.tools.judge.matching import match, read_table
from bce.tools.judge.options import EvaluateOptions


@pytest.fixture
def table() -> ScoreTable:
    ids = (f"{B}_5", f"{A}_5", f"{A}_10", "other_5", "other_10")
    return ScoreTable(ids, ("x", "y"), np.array([[0.9, 0.4], [0.3, 0.8], [0.35, 0.2], [1, 1], [0, 0]], dtype=float))


def test_rows_are_matched_by_id(table: ScoreTable, labels: Path) -> None:
    matched = match(table, read_labels(labels))
    assert (matched.only_scores, matched.only_labels, matched.unknown) == (2, 2, ("z",))
    np.testing.assert_array_equal(matched.present, [[1, 0], [1, 1], [0, 1]])
    assert matched.sites == ("S22", "S08", "S08")
    result = evaluate(matched, options=EvaluateOptions(resamples=20))
    assert result.per_class == {"x": 0.5, "y": 0.5}
    assert result.macro.auc == 0.5
    assert (result.macro.rows, result.macro.recordings, result.macro.classes) == (3, 2, 2)
    assert result.sites["S08"].auc == 0.0  # y is everywhere at S08 and so has no AUC there
    assert result.sites["S22"].classes == 0


def test_labels_of_longer_windows_than_the_scores_are_refused(tmp_path: Path, table: ScoreTable) -> None:
    """Row ids alone would pair the window 0..10 s with the scores of 5..10 s."""
    path = tmp_path / "long.csv"
    path.write_text(f"{HEADER}{A}.ogg,00:00:00,00:00:10,x\n{A}.ogg,00:00:10,00:00:20,y\n")
    with pytest.raises(TableError, match=r"has rows every 5 s, .*long\.csv labels windows of 10 s"):
        match(table, read_labels(path))


def test_nothing_in_common(table: ScoreTable, labels: Path) -> None:
    with pytest.raises(TableError, match="has no row in common"):
        match(ScoreTable(table.row_ids[3:], table.classes, table.scores[3:]), read_labels(labels))


def test_command(tmp_path: Path, table: ScoreTable, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scores(tmp_path / "s.csv", table)
    (tmp_path / "t.csv").write_text("primary_label,scientific_name,class_name\nx,X a,Aves\ny,Y b,Amphibia\n")
    code = main(
        [
            "evaluate",
            f"{tmp_path}/s.csv",
            str(labels),
            f"--taxonomy={tmp_path}/t.csv",
            f"--json={tmp_path}/e.json",
            f"--per-class={tmp_path}/c.csv",
            "--resamples=10",
        ]
    )
    assert code == 0
    text = capsys.readouterr().out
    assert "2 rows without labels, 2 labelled windows without scores" in text
    assert "1 labels are no class of the scores: z" in text
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["taxon_classes"]["Aves"]["auc"] == 0.5
    assert content["sites"]["S22"]["auc"] is None
    with open(tmp_path / "c.csv", newline="") as stream:
        assert list(csv.reader(stream))[1] == ["x", "X a", "2", "0.5"]


def test_rounded_scores_are_warned_of(
    tmp_path: Path, table: ScoreTable, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(tmp_path / "s.csv", ScoreTable(table.row_ids, table.classes, np.round(table.scores, 0)))
    assert main(["evaluate", f"{tmp_path}/s.csv", str(labels), "--resamples=5"]) == 0
    assert "scores are rounded to 6 decimals or fewer, and 2 scored classes have ties" in capsys.readouterr().out


def test_bad_scores_are_one_line(tmp_path: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.csv").write_text(f"row_id,x\n{A}_5,nan\n")
    assert main(["evaluate", f"{tmp_path}/s.csv", str(labels)]) == 2
    assert "has no finite number for class 'x'" in capsys.readouterr().err
    (tmp_path / "s.csv").write_text(f"row_id,x\n{A}_5,1\n{A}_5,1\n")
    assert main(["evaluate", f"{tmp_path}/s.csv", str(labels)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_gain_is_paired_and_rows_may_be_in_another_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores that rank x rightly in every resample against scores that rank it wrongly: +1, whatever is drawn."""
    stems = [f"BC2026_Train_000{i}_S0{i % 2}_20250606_235955" for i in range(4)]
    ids = [f"{stem}_{end}" for stem in stems for end in (5, 10)]
    (tmp_path / "l.csv").write_text(HEADER + "".join(f"{s}.ogg,0,5,x\n{s}.ogg,5,10,\n" for s in stems))
    right = np.array([[0.9, 0.5], [0.1, 0.5]] * 4)
    write_scores(tmp_path / "a.csv", ScoreTable(tuple(ids), ("x", "y"), right))
    write_scores(tmp_path / "b.csv", ScoreTable(tuple(ids[::-1]), ("y", "x"), 1 - right[::-1, ::-1]))
    command = ["evaluate", f"{tmp_path}/a.csv", f"{tmp_path}/l.csv", "--resamples=9", f"--against={tmp_path}/b.csv"]
    assert main([*command, "--unseen-sites=S01", f"--json={tmp_path}/e.json"]) == 0
    one = "+1.0000 [+1.0000, +1.0000]"
    assert f"b.csv: {one} on all rows, {one} at seen sites, {one} at unseen sites" in capsys.readouterr().out
    assert json.loads((tmp_path / "e.json").read_text())["gains"]["unseen"]["before"] == 0.0
    write_scores(tmp_path / "b.csv", ScoreTable(tuple(ids[1:]), ("x", "y"), right[1:]))
    assert main(command) == 2
    assert f"b.csv: lacks the row '{ids[0]}', which {tmp_path}/a.csv has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unseen-sites=S99"], "unseen site 'S99' has no rows, there are S08, S22"),
        (["--unseen-sites=S08,S22"], "all sites (S08, S22) are said to be unseen"),
        (["--per-class=no/such.csv"], "no/such.csv: its folder does not exist"),
        (["--json=no/such.json"], "no/such.json: its folder does not exist"),
        (["--json=s.csv"], "s.csv: is to be read (s.csv)"),
        (["--json=new.json", "--per-class=./new.json"], "are both to be written"),
        (["--resamples=0"], "resamples is 0, it must be 1 to 100000"),
    ],
)
def test_command_refuses(
    tmp_path: Path,
    table: ScoreTable,
    labels: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scores("s.csv", table)
    before = Path("s.csv").read_bytes()
    assert main(["evaluate", "s.csv", str(labels), "--resamples=2", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert Path("s.csv").read_bytes() == before


def test_npz_tables(tmp_path: Path, table: ScoreTable) -> None:
    path = tmp_path / "s.npz"
    np.savez(
        path, row_ids=np.array(table.row_ids), classes=np.array(table.classes), logits=table.scores, bad=np.ones(3)
    )
    found = read_table(f"{path}:logits")
    assert (found.row_ids, found.classes) == (table.row_ids, table.classes)
    np.testing.assert_array_equal(found.scores, table.scores)
    with pytest.raises(OptionsError, match="name the array of scores too"):
        read_table(str(path))
    with pytest.raises(TableError, match="has no array 'other', it has row_ids"):
        read_table(f"{path}:other")
    with pytest.raises(TableError, match=r"array 'bad' has shape \(3,\)"):
        read_table(f"{path}:bad")
    names = {"row_ids": np.array(table.row_ids), "classes": np.array(table.classes), "logits": table.scores}
    for wrong in ({"row_ids": np.arange(5)}, {"classes": np.array([["x", "y"]])}, {"logits": table.scores + 1j}):
        np.savez(path, **(names | wrong))
        with pytest.raises(TableError, match="expected texts in row_ids and classes"):
            read_table(f"{path}:logits")
    np.savez(path, **(names | {"classes": np.array(["x", "x"])}))
    with pytest.raises(TableError, match="a row id or a class more than once"):
        read_table(f"{path}:logits")
    path.write_text("no archive")
    with pytest.raises(TableError, match=r"is not a \.npz file"):
        read_table(f"{path}:logits")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_npz_tables_are_read_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    path = tmp_path / "s.npz"
    arrays = {"row_ids": np.array(["a_5", "a_10"]), "classes": np.array(["x"]), "logits": np.zeros((2, 1))}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    path.write_bytes(content)
    with suppress(TableError):
        read_table(f"{path}:logits")


@pytest.mark.parametrize(
    ("array", "expected"),
    [("perch_raw_logits", 0.7390178442), ("oof_base", 0.8044348180), ("oof_probe_final", 0.8353024140)],
)
def test_real_scores(shared: Path, array: str, expected: float) -> None:
    scores = shared / "data/real_soundscape_scores/perch_raw_and_prior_oof_59files.npz"
    labels = read_labels(shared / "data/official_csv/train_soundscapes_labels.csv")
    assert (len(labels.labels), labels.repeated) == (739, 739)
    matched = match(read_table(f"{scores}:{array}"), labels)
    with np.load(scores) as content:
        np.testing.assert_array_equal(matched.present, content["labels"])
    result = evaluate(matched, options=EvaluateOptions(resamples=2))
    assert result.macro.auc == pytest.approx(expected, abs=5e-11)
    assert (result.macro.classes, result.macro.rows, result.macro.recordings) == (71, 708, 59)
