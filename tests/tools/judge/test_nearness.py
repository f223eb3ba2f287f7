"""``bce-tools evaluate --against``: how near one table is to another, with labels and without."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import spearmanr
from support.labels import HEADER

from bce.engine.errors import TableError
from bce.engine.tables.scores import ScoreTable, write_scores
from bce.tools.commands.tools import main
from bce.tools.judge.nearness import describe_nearness, near

STEMS = [f"BC2026_Train_000{i}_S0{i % 2}_20250606_235955" for i in range(4)]
IDS = tuple(f"{stem}_{end}" for stem in STEMS for end in (5, 10))
CLASSES = ("x", "y", "z")
LOGITS = np.random.default_rng(3).normal(-1, 2, (8, 3))
OFF = LOGITS + np.random.default_rng(4).normal(0, 0.5, (8, 3))


def table(scores: np.ndarray) -> ScoreTable:
    return ScoreTable(IDS, CLASSES, scores)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tables, the second in another order, and labels."""
    monkeypatch.chdir(tmp_path)
    write_scores("a.csv", table(expit(OFF)))
    write_scores("b.parquet", ScoreTable(IDS[::-1], CLASSES[::-1], expit(LOGITS)[::-1, ::-1]))
    Path("l.csv").write_text(HEADER + "".join(f"{s}.ogg,0,5,x\n{s}.ogg,5,10,y\n" for s in STEMS))
    return tmp_path


def test_probabilities_are_compared_as_logits() -> None:
    nearness = near(table(expit(OFF)), table(expit(LOGITS)))
    agreement = nearness.agreement
    centred = LOGITS - LOGITS.mean(axis=0)
    assert agreement.distance.pooled == pytest.approx(np.linalg.norm(OFF - LOGITS) / np.linalg.norm(centred))
    ranks = [spearmanr(OFF[:, c], LOGITS[:, c]).statistic for c in range(3)]
    assert agreement.rank_correlation == pytest.approx(np.mean(ranks))
    assert agreement.largest_change == pytest.approx(np.abs(expit(OFF) - expit(LOGITS)).max())
    assert (nearness.classes, nearness.logits, nearness.cut) == (3, (False, False), 0)


def test_scores_outside_0_to_1_are_logits() -> None:
    nearness = near(table(OFF), table(expit(LOGITS)))
    assert nearness.logits == (True, False)
    same = near(table(expit(OFF)), table(expit(LOGITS)))
    assert nearness.agreement.distance.pooled == pytest.approx(same.agreement.distance.pooled)
    said = "\n".join(describe_nearness(nearness, "a.npz:logits", "b.csv"))
    assert "a.npz:logits has scores outside 0..1: taken for logits" in said
    assert "b.csv has scores" not in said


def test_what_one_table_alone_masks_is_warned_of() -> None:
    masked, both = expit(OFF), expit(LOGITS)
    masked[:, 2] = 0
    masked[3, 1] = 1
    masked[0, 0] = both[0, 0] = 0
    nearness = near(table(masked), table(both))
    assert nearness.cut == 9
    assert nearness.agreement.distance.typical > 1
    assert "warning        9 scores are 0 or 1 in one of the tables alone" in "\n".join(
        describe_nearness(nearness, "a", "b")
    )
    assert near(table(masked), table(masked)).cut == 0


@pytest.mark.parametrize("shape", [(0, 3), (8, 0)])
def test_tables_without_scores_are_refused(shape: tuple[int, int]) -> None:
    empty = ScoreTable(IDS[: shape[0]], CLASSES[: shape[1]], np.zeros(shape), Path("e.csv"))
    with pytest.raises(TableError, match=r"e\.csv: holds no scores"):
        near(empty, empty)


def test_no_labels_are_needed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "a.csv", "--against=b.parquet", "--json=e.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "how near to b.parquet: 8 rows, 3 classes"
    kept = (OFF.argmax(axis=1) == LOGITS.argmax(axis=1)).sum()
    assert f"best class     kept in {kept} of 8 rows" in lines[3]
    assert not any("AUC" in line for line in lines)
    content = json.loads((here / "e.json").read_text())
    assert list(content) == ["agreement"]
    found = content["agreement"]
    expected = near(table(expit(OFF)), table(expit(LOGITS))).to_dict()
    assert found["distance"] == pytest.approx(expected["distance"])
    assert {**found, "distance": 0} == pytest.approx({**expected, "distance": 0})


def test_labels_give_the_gain_beside_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "a.csv", "l.csv", "--against=b.parquet", "--resamples=5", "--json=e.json"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.index("macro ROC-AUC") < said.index("gain over b.parquet") < said.index("\n\nhow near to b.parquet: 8")
    content = json.loads((here / "e.json").read_text())
    assert content["agreement"]["windows"] == 8
    assert content["gains"]["all"]["auc"] == content["macro"]["auc"]
    assert main([*command[:3], *command[4:]]) == 0
    assert "how near" not in capsys.readouterr().out
    assert json.loads((here / "e.json").read_text())["agreement"] is None


def test_rows_without_labels_are_compared_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("l.csv").write_text(HEADER + f"{STEMS[0]}.ogg,0,5,x\n{STEMS[0]}.ogg,5,10,y\n")
    assert main(["evaluate", "a.csv", "l.csv", "--against=b.parquet", "--resamples=5"]) == 0
    said = capsys.readouterr().out
    assert "2 rows of 1 recordings" in said
    assert "how near to b.parquet: 8 rows" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.csv", "--resamples=5", "l.csv"],
        ["--resamples", "5", "a.csv", "l.csv"],
        ["a.csv", "l.csv", "--resamples=5"],
        ["--resamples=5", "--", "-a.csv", "l.csv"],
    ],
)
def test_labels_may_stand_behind_options(here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_scores("-a.csv", table(expit(OFF)))
    assert main(["evaluate", *arguments]) == 0
    assert "macro ROC-AUC" in capsys.readouterr().out


def test_one_row_has_no_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, scores in (("a.csv", OFF), ("b.csv", LOGITS)):
        write_scores(name, ScoreTable(IDS[:1], CLASSES, expit(scores[:1])))
    assert main(["evaluate", "a.csv", "--against=b.csv", "--json=e.json"]) == 0
    assert "undefined in the mean" in capsys.readouterr().out
    assert (
        json.loads((here / "e.json").read_text(), parse_constant=pytest.fail)["agreement"]["distance"]["worst"] is None
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.csv"], "a.csv: there is nothing to judge it by: give labels, or --against SCORES"),
        (["a.csv", "--taxonomy=t.csv"], "a.csv: there is nothing to judge it by"),
        (
            ["a.csv", "--against=b.parquet", "--taxonomy=t.csv", "--unseen-sites=S01", "--per-class=c.csv"],
            "without labels there is no AUC: give labels, or leave out --taxonomy, --unseen-sites, --per-class",
        ),
        (["a.csv", "--against=b.parquet", "--resamples=0"], "leave out --resamples"),
        (
            ["a.csv", "--against=b.parquet", "--name-pattern=x", "--utc-offset=3"],
            "leave out --name-pattern, --utc-offset",
        ),
        (["a.csv", "--against=none.csv"], "none.csv: is not there"),
        (["a.csv", "--against=l.csv"], "l.csv: has no column 'row_id'"),
        (["a.csv", "--against=a.csv", "--json=a.csv"], "a.csv: is to be read"),
        (["a.csv", "--against=fewer.csv"], f"fewer.csv: lacks the row '{IDS[0]}', which a.csv has"),
        (["fewer.csv", "--against=a.csv"], f"fewer.csv: lacks the row '{IDS[0]}', which a.csv has"),
        (["a.csv", "--against=other.csv"], "a.csv: lacks the class 'w', which other.csv has"),
        (["a.csv", "--against=nan.csv"], "nan.csv: data row 1 has no finite number for class 'x'"),
        (["empty.csv", "--against=empty.csv"], "empty.csv: holds no scores"),
    ],
)
def test_refusals_are_one_line(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores("fewer.csv", ScoreTable(IDS[1:], CLASSES, expit(OFF)[1:]))
    write_scores("other.csv", ScoreTable(IDS, ("w", *CLASSES), np.zeros((8, 4))))
    (here / "nan.csv").write_text(f"row_id,x,y,z\n{IDS[0]},nan,0,0\n")
    (here / "empty.csv").write_text("row_id,x\n")
    before = sorted(path.name for path in here.iterdir())
    assert main(["evaluate", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(path.name for path in here.iterdir()) == before


def test_numbers_that_are_too_large_are_no_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, factor in (("a.csv", 1e300), ("b.csv", -1e300)):
        write_scores(name, table(factor * LOGITS))
    assert main(["evaluate", "a.csv", "--against=b.csv"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert not math.isfinite(near(table(1e300 * LOGITS), table(-1e300 * LOGITS)).agreement.distance.pooled)
    assert "rank correlation of a class over the rows -1.00000" in said.out
