from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import rankdata

from bce.engine.commands.blend import main
from bce.engine.errors import OptionsError, TableError
from bce.engine.tables import score_files
from bce.engine.tables.blend import BlendOptions, Mode, blend, parse_input
from bce.engine.tables.scores import ScoreTable, read_scores, write_scores
from bce.engine.taxonomy import Taxonomy

CLASSES = ("a", "b", "c")


def write(path: Path, scores: np.ndarray, ids: list[str] | None = None, classes: tuple[str, ...] = CLASSES) -> Path:
    ids = [f"r_{5 * (i + 1)}" for i in range(len(scores))] if ids is None else ids
    write_scores(path, ScoreTable(tuple(ids), classes, scores))
    return path


def plain_blend(tables: list[np.ndarray], weights: list[float], mode: str) -> np.ndarray:
    """All rows and classes at once, as a formula."""
    shares = np.array(weights) / sum(weights)
    if mode == "rank":
        return sum(w * rankdata(t, axis=0) / len(t) for w, t in zip(shares, tables, strict=True))
    if mode == "logit":
        return expit(sum(w * logit(t) for w, t in zip(shares, tables, strict=True)))
    return sum(w * t for w, t in zip(shares, tables, strict=True))


@pytest.mark.parametrize("mode", ["direct", "logit", "rank"])
@settings(max_examples=20, deadline=None)
@given(
    n_rows=st.integers(1, 40),
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
    steps=st.sampled_from([3, 1000]),
)
def test_is_the_formula(
    tmp_path_factory: pytest.TempPathFactory, mode: Mode, n_rows: int, weights: list[float], seed: int, steps: int
) -> None:
    folder = tmp_path_factory.mktemp("blend")
    rng = np.random.default_rng(seed)
    tables = [(rng.integers(0, steps, (n_rows, 3)) + 0.5) / steps for _ in weights]
    inputs = []
    for number, (table, weight) in enumerate(zip(tables, weights, strict=True)):
        order, columns = rng.permutation(n_rows), rng.permutation(3)
        if number == 0:
            order, columns = np.arange(n_rows), np.arange(3)
        ids = [f"r_{5 * (i + 1)}" for i in order]
        classes = tuple(CLASSES[c] for c in columns)
        path = folder / f"{number}.{rng.choice(['csv', 'parquet'])}"
        inputs.append((write(path, table[order][:, columns], ids, classes), weight))
    summary = blend(inputs, folder / "out.csv", BlendOptions(mode=mode))
    out = read_scores(folder / "out.csv")
    assert out.row_ids == read_scores(inputs[0][0]).row_ids
    assert out.classes == CLASSES
    np.testing.assert_allclose(out.scores, plain_blend(tables, weights, mode), rtol=1e-12, atol=1e-14)
    assert (summary.rows, summary.classes, summary.filled) == (n_rows, 3, 0)
    assert sum(summary.weights) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["direct", "logit", "rank"])
def test_small_batches_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    rng = np.random.default_rng(0)
    tables = [rng.random((300, 3)) for _ in range(2)]
    order = rng.permutation(300)
    inputs: list[tuple[Path, float]] = [(write(tmp_path / "a.csv", tables[0]), 0.93)]
    inputs.append((write(tmp_path / "b.parquet", tables[1][order], [f"r_{5 * (i + 1)}" for i in order]), 0.07))
    monkeypatch.setattr(score_files, "BATCH_BYTES", 1024)
    blend(inputs, tmp_path / "out.csv", BlendOptions(mode=mode))
    np.testing.assert_allclose(
        read_scores(tmp_path / "out.csv").scores, plain_blend(tables, [0.93, 0.07], mode), rtol=1e-12
    )


def test_one_table_is_itself(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((20, 3))
    blend([(write(tmp_path / "a.csv", scores), 3.0)], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "out.csv"]


def test_medal_blend(tmp_path: Path, plain: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random((2, 24, 3))
    write(tmp_path / "karnakbayev.csv", one)
    write(tmp_path / "ours.csv", two)
    names, kinds = ["Rana alba", "Rana nigra", "Hyla alba"], ["Amphibia"] * 3
    Taxonomy.from_columns({"primary_label": CLASSES, "scientific_name": names, "class_name": kinds}).write(
        tmp_path / "taxonomy.csv"
    )
    code = main(
        [
            f"{tmp_path}/karnakbayev.csv:0.93",
            f"{tmp_path}/ours.csv:0.07",
            f"--taxonomy={tmp_path}/taxonomy.csv",
            "--taxonomy-smoothing=genus=0.15,class=0.05",
            f"--out={tmp_path}/submission.csv",
        ]
    )
    assert code == 0
    expected = plain.taxonomy(0.93 * one + 0.07 * two, ["Rana", "Rana", "Hyla"], 0.15)
    expected = plain.taxonomy(expected, kinds, 0.05)
    np.testing.assert_allclose(read_scores(tmp_path / "submission.csv").scores, expected, rtol=1e-12)
    assert "24 rows, 3 classes" in capsys.readouterr().err


def test_differing_tables_are_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", np.ones((2, 3)), ["x_5", "x_10"])
    b = write(tmp_path / "b.csv", np.ones((3, 3)), ["x_5", "y_5", "y_10"])
    c = write(tmp_path / "c.csv", np.ones((2, 3)), ["x_5", "x_10"], ("a", "b", "z"))
    with pytest.raises(TableError) as caught:
        blend([(a, 1), (b, 1)], tmp_path / "out.csv")
    assert str(caught.value) == (
        f"{b}: differs from {a}: it lacks 1 rows (x_10) and adds 2 rows (y_5, y_10); --allow-missing fills"
    )
    with pytest.raises(TableError, match=r"lacks 1 classes \(c\) and adds 1 classes \(z\)"):
        blend([(a, 1), (c, 1)], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("mode", ["direct", "logit"])
def test_missing_cells_are_the_others_mean(tmp_path: Path, mode: Mode) -> None:
    rng = np.random.default_rng(0)
    full, other = rng.random((2, 4, 3))
    a = write(tmp_path / "a.csv", full[:3], ["r_5", "r_10", "r_15"])
    b = write(tmp_path / "b.csv", other[1:, :2], ["r_10", "r_15", "r_20"], ("a", "b"))
    c = write(tmp_path / "c.csv", full, ["r_5", "r_10", "r_15", "r_20"])
    summary = blend([(a, 0.6), (b, 0.3), (c, 0.1)], tmp_path / "out.csv", BlendOptions(mode=mode, allow_missing=True))
    there, back = (logit, expit) if mode == "logit" else (lambda x: x, lambda x: x)
    expected = np.empty((4, 3))
    for row in range(4):
        for column in range(3):
            cells = [(0.1, full[row, column])]
            if row < 3:
                cells.append((0.6, full[row, column]))
            if row >= 1 and column < 2:
                cells.append((0.3, other[row, column]))
            expected[row, column] = back(sum(w * there(v) for w, v in cells) / sum(w for w, _ in cells))
    out = read_scores(tmp_path / "out.csv")
    assert out.row_ids == ("r_5", "r_10", "r_15", "r_20")
    np.testing.assert_allclose(out.scores, expected, rtol=1e-12)
    assert summary.filled == 3 + (12 - 6)


def test_cells_that_nobody_has_are_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", np.ones((1, 1)), ["r_5"], ("a",))
    b = write(tmp_path / "b.csv", np.ones((1, 1)), ["r_10"], ("b",))
    with pytest.raises(TableError, match="lack some classes in every table"):
        blend([(a, 1), (b, 1)], tmp_path / "out.csv", BlendOptions(allow_missing=True))
    assert not list(tmp_path.glob("out*"))


def test_refusals(tmp_path: Path) -> None:
    good = write(tmp_path / "a.csv", np.full((2, 3), 0.5))
    bad = write(tmp_path / "b.csv", np.full((2, 3), 1.5))
    out = tmp_path / "out.csv"
    with pytest.raises(TableError, match=r"b\.csv: has scores outside 0\.\.1"):
        blend([(good, 1), (bad, 1)], out, BlendOptions(mode="logit"))
    with pytest.raises(OptionsError, match="must be 0 or more and not all 0"):
        blend([(good, 0.0)], out)
    with pytest.raises(OptionsError, match="must be 0 or more and not all 0"):
        blend([(good, 1e308), (good, 1e308)], out)
    with pytest.raises(OptionsError, match="nothing to blend"):
        blend([], out)
    with pytest.raises(OptionsError, match="needs a taxonomy"):
        blend([(good, 1)], out, BlendOptions(taxonomy_smoothing=(("genus", 0.1),)))
    with pytest.raises(OptionsError, match="mode is 'mean'"):
        BlendOptions(mode="mean")  # type: ignore[arg-type]
    bare = Taxonomy.from_columns({"primary_label": ["a", "b"], "scientific_name": ["X a", "X b"]})
    with pytest.raises(TableError, match="lacks the class 'c'"):
        blend([(good, 1)], out, BlendOptions(taxonomy_smoothing=(("genus", 0.1),)), bare)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("row_id,a,b,c\nr_5,1,1,1\nr_5,1,1,1\n", "has the row id 'r_5' more than once"),
        ("row_id,a,b,c\nr_5,1,nan,1\nr_10,1,1,1\n", "data row 1 has no finite number for class 'b'"),
        ("row_id,a,b,c\nr_5,1,1,1\nr_10,1,1,-inf\n", "data row 2 has no finite number for class 'c'"),
        ("row_id,a,b,c\nr_5,1,,1\nr_10,1,1,1\n", "data row 1 has no finite number for class 'b'"),
        ("row_id,a,b,b\nr_5,1,1,1\nr_10,1,1,1\n", "has the column 'b' twice"),
        ("row_id,a,b,d\nr_5,1,1,1\nr_10,1,1,1\n", r"lacks 1 classes \(c\) and adds 1 classes \(d\)"),
        ('row_id,a,b,c\nr_5,1,1,1\n"r\x1b_5",1,1,1\n', r"lacks 1 rows \(r_10\) and adds 1 rows \(r\\x1b_5\)"),
        ("row_id,a,b,c\n", r"lacks 2 rows \(r_5, r_10\)"),
        ("", "has no column 'row_id'"),
    ],
)
@pytest.mark.parametrize("mode", ["direct", "rank"])
def test_tables_that_cannot_be_blended_are_named(tmp_path: Path, text: str, says: str, mode: Mode) -> None:
    good, bad = write(tmp_path / "a.csv", np.full((2, 3), 0.5)), tmp_path / "b.csv"
    bad.write_text(text)
    with pytest.raises(TableError, match=says) as error:
        blend([(good, 1), (bad, 1)], tmp_path / "out.csv", BlendOptions(mode=mode))
    assert str(error.value).startswith(f"{bad}: ")
    assert str(error.value).isprintable()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]


def test_saturated_probabilities_blend_as_logits(tmp_path: Path) -> None:
    a = write(tmp_path / "a.csv", np.array([[0.0, 1.0, 0.5]]))
    blend([(a, 1)], tmp_path / "out.csv", BlendOptions(mode="logit"))
    np.testing.assert_allclose(read_scores(tmp_path / "out.csv").scores, [[0, 1, 0.5]], atol=1e-14)


def test_inputs() -> None:
    assert parse_input("a.csv:0.93") == (Path("a.csv"), 0.93)
    assert parse_input("a.csv") == (Path("a.csv"), 1.0)
    assert parse_input("C:/x/a.csv") == (Path("C:/x/a.csv"), 1.0)
    for text in ("a.csv:-1", "a.csv:inf", "a.csv:nan"):
        with pytest.raises(OptionsError, match="is not a number of 0 or more"):
            parse_input(text)


def test_a_place_that_cannot_be_written_is_named_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "a.csv", np.full((2, len(CLASSES)), 0.5))
    assert main([str(table), "--out", str(tmp_path / "no" / "x.csv")]) == 2
    assert "x.csv: its folder does not exist" in capsys.readouterr().err


def test_command_line_says_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{tmp_path}/absent.csv:1", "--out", f"{tmp_path}/out.csv"]) == 2
    assert capsys.readouterr().err == f"bce-blend: {tmp_path}/absent.csv: is not there: expected a score table\n"


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys\nfrom bce.engine.commands.blend import parser\nparser().format_help()\n"
        "sys.exit(bool({'numpy', 'pyarrow', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
