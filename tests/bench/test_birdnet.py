"""What lower precision changes, against scipy; the table, and the page that shows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench import birdnet
from bce.bench.birdnet import BirdnetBenchOptions, Recordings, changes, divided
from bce.bench.figures import read_json
from bce.bench.materials import Work
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
        ({"audio": ("x",), "precisions": ("fp32", "bf16")}, "precision 'bf16' is unknown"),
        ({"audio": ("x",), "precisions": ("int8",)}, "fp32 is always part of a bundle"),
        ({"audio": ("x",), "precisions": ("fp32",), "calibrate": ("y",)}, "--calibrate is for int8"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        BirdnetBenchOptions("birdnetlib", **options)


def files(folder: Path, *names: str) -> list[Path]:
    """Files that hold their names' first word: "b_copy.ogg" is one of "b.ogg"."""
    folder.mkdir(exist_ok=True)
    found = [folder / name for name in names]
    for path in found:
        path.write_text(path.stem.removesuffix("_copy"))
    return found


def names_of(recordings: Recordings) -> tuple[list[str], list[str]]:
    return [path.name for path in recordings.calibrate], [path.name for path in recordings.compare]


def test_every_second_recording_is_calibrated_on_and_no_other_compared(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    files(folder, "1.ogg", "2-A.ogg", "2-B.ogg", "3.ogg", "4-A.ogg", "1_copy.ogg", "10.ogg")
    found = divided(BirdnetBenchOptions("birdnet", (folder,)))
    assert names_of(found) == (["2-A.ogg", "2-B.ogg", "4-A.ogg"], ["1.ogg", "3.ogg", "10.ogg"])
    assert found.key == Recordings(found.calibrate[::-1], ()).key != Recordings(found.compare, ()).key
    whole = divided(BirdnetBenchOptions("birdnet", (folder,), precisions=("fp32",)))
    assert (len(whole.calibrate), len(whole.compare)) == (0, 6)


def test_copies_of_calibration_recordings_are_not_compared_on(tmp_path: Path) -> None:
    given = files(tmp_path / "a", "x.ogg", "y.ogg")
    folder = tmp_path / "b"
    files(folder, "x.ogg", "z.ogg", "z_copy.ogg")
    both = (folder, *given)
    assert names_of(divided(BirdnetBenchOptions("birdnet", both, calibrate=(given[0],)))) == (
        ["x.ogg"],
        ["z.ogg", "y.ogg"],
    )
    with pytest.raises(OptionsError, match="all recordings of --audio are among those of --calibrate"):
        divided(BirdnetBenchOptions("birdnet", tuple(given), calibrate=(tmp_path / "a",)))
    with pytest.raises(OptionsError, match="one recording cannot be divided"):
        divided(BirdnetBenchOptions("birdnet", (given[0],)))


def test_bundles_are_calibrated_and_kept_by_what_they_are_calibrated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "audio"
    files(folder, "1.ogg", "2.ogg", "3.ogg")
    asked: list = []
    monkeypatch.setattr(birdnet, "export_birdnet", lambda options, say: asked.append(options))
    taxonomy = tmp_path / "t.csv"
    for precisions in (("fp32", "int8"), ("fp32",)):
        options = BirdnetBenchOptions("birdnet", (folder,), taxonomy, precisions=precisions)
        list(birdnet._bundles(options, divided(options), Work(tmp_path)))
    key = Recordings((folder / "2.ogg",), ()).key
    assert [Path(one.out).name for one in asked] == [
        f"birdnet_int8_{key}",
        f"birdnet_t_int8_{key}",
        "birdnet",
        "birdnet_t",
    ]
    assert [(one.precisions, len(one.calibrate), one.taxonomy) for one in asked] == [
        (("fp32", "int8"), 1, None),
        (("fp32", "int8"), 1, taxonomy),
        (("fp32",), 0, None),
        (("fp32",), 0, taxonomy),
    ]


def test_the_table_says_that_int8_was_calibrated_on_others() -> None:
    content = read_json(RESULT)
    del content["recordings"]
    assert "calibrated" not in "\n".join(table(content))
    content["recordings"] = {"calibrate": 4, "compare": 5}
    content["absent"] = {"compiled int8, avx2, 6522 classes": "this CPU has no such thing"}
    lines = table(content)
    assert any(
        line.endswith("for each class; int8 was calibrated on 4 recordings, the windows are of 5 others:")
        for line in lines
    )
    assert lines[-1] == "- compiled int8, avx2, 6522 classes: left out, this CPU has no such thing."


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
    loud = changes(np.array([[0, 1], [4, 3.5], [0, 0]]), np.array([[0, 1], [4, 3], [1, 0]]))
    quiet = changes(np.array([[-9.0, -8.0]]), np.array([[-9.0, -8.0]]))
    content["absent"] = {}
    content["precision"] = [{"name": "a", **loud}, {"name": "b", **quiet}]
    lines = table(content)
    assert "| rank correlation in a window | of a class | of the worst classes | top-1, all |" in "\n".join(lines)
    assert lines[-2].endswith(
        f"| {loud['class_rank_correlation']:.5f} | {loud['class_rank_correlation_worst']:.5f} "
        "| 100.0% | 100.0% of 3 | 0.231 |"
    )
    assert lines[-1] == "| b | 0.0e+00 | 0.0e+00 | 1.00000 |  |  | 100.0% |  | 0.000 |"
