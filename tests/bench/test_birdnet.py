"""What lower precision changes, against scipy; the table, and the page that shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench.birdnet import BirdnetBenchOptions, changes
from bce.bench.figures import read_json
from bce.bench.tables import put_into, table
from bce.engine.errors import OptionsError
from bce.export.proof.agreement import Agreement

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULT = ROOT / "docs" / "birdnet.md", ROOT / "bench" / "results" / "birdnet.json"


def test_changes_are_those_of_windows_and_of_classes() -> None:
    """The record's ``rank_correlation`` is of a window's classes, as in every result that was ever recorded."""
    rng = np.random.default_rng(7)
    trusted = rng.normal(-2, 2, (9, 14)).astype(np.float32)
    found = trusted + rng.normal(0, 0.3, trusted.shape).astype(np.float32)
    record, near = changes(found, trusted), Agreement.between(found, trusted)
    in_windows = [spearmanr(a, b).statistic for a, b in zip(found, trusted, strict=True)]
    of_classes = [spearmanr(a, b).statistic for a, b in zip(found.T, trusted.T, strict=True)]
    assert record["rank_correlation"] == pytest.approx(np.mean(in_windows))
    assert record["class_rank_correlation"] == pytest.approx(np.mean(of_classes))
    assert record["class_rank_correlation_worst"] == pytest.approx(np.percentile(of_classes, 5))
    centred = trusted.astype(float) - trusted.astype(float).mean(axis=0)
    assert record["relative_l2"] == pytest.approx(np.linalg.norm(found - trusted) / np.linalg.norm(centred))
    assert (record["relative_l2_typical"], record["relative_l2_worst"]) == (near.distance.typical, near.distance.worst)
    for name in ("windows", "top1", "loud", "top1_loud", "largest_change"):
        assert record[name] == getattr(near, name)
    recorded = read_json(RESULT)["precision"][0]
    assert set(recorded) <= {"name", *record}


def test_changes_of_one_quiet_window_have_no_order_of_classes() -> None:
    record = changes(np.full((1, 3), -9, np.float32), np.array([[-9, -8, -7]], np.float32))
    assert (record["rank_correlation"], record["class_rank_correlation"], record["top1_loud"]) == (0, None, None)
    assert record["relative_l2"] is None
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": ()}, "give real recordings"),
        ({"audio": ("x",), "windows": 0}, "at least one window"),
        ({"audio": ("x",), "rounds": 1}, "two rounds"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        BirdnetBenchOptions("birdnetlib", **options)


def test_the_page_is_what_its_result_says(tmp_path: Path) -> None:
    page = tmp_path / "birdnet.md"
    shutil.copy(PAGE, page)
    put_into(page, [RESULT])
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), (
        "bce-bench table --into docs/birdnet.md bench/results/birdnet.json"
    )


def test_the_table_has_every_form() -> None:
    content = read_json(RESULT)
    lines = "\n".join(table(content))
    for entry in content["speed"]:
        assert f"| {entry['name']} | {entry['ms']['median']:.2f} |" in lines
    for entry in content["precision"]:
        assert f"| {entry['name']} | {entry['relative_l2']:.1e} |" in lines


def test_the_table_of_a_new_result_has_the_order_within_classes_too() -> None:
    content = read_json(RESULT)
    assert "| rank correlation in a window | top-1, all |" in "\n".join(table(content))
    loud = changes(np.array([[0, 1], [4, 3.5], [0, 0]]), np.array([[0, 1], [4, 3], [1, 0]]))
    quiet = changes(np.array([[-9.0, -8.0]]), np.array([[-9.0, -8.0]]))
    content["precision"] = [{"name": "a", **loud}, {"name": "b", **quiet}]
    lines = table(content)
    assert "| rank correlation in a window | of a class | of the worst classes | top-1, all |" in "\n".join(lines)
    assert lines[-2].endswith(
        f"| {loud['class_rank_correlation']:.5f} | {loud['class_rank_correlation_worst']:.5f} "
        "| 100.0% | 100.0% of 3 | 0.231 |"
    )
    assert lines[-1] == "| b | 0.0e+00 | 0.0e+00 | 1.00000 |  |  | 100.0% |  | 0.000 |"
