"""Runs that know where their recordings were made, with a bundle that has a range model and with one that has none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the tiny bundle's graphs are written with onnx")

from support import tiny_bundle as tiny
from support.ranges import seeded_range_model
from support.sounds import write_sound

from bce.engine.commands.infer import main
from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle
from bce.engine.post.deployments import Place
from bce.engine.post.range_model import RANGE, RangeModel
from bce.engine.run.options import RunOptions
from bce.engine.tables.scores import read_scores

HERE = "46.5,6.2"
JUNE = 23
"""The week of the recordings' names."""


@pytest.fixture(scope="module")
def model() -> RangeModel:
    return seeded_range_model(len(tiny.CLASSES), seed=2)


@pytest.fixture(scope="module")
def bundle(model: RangeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placed") / "bundle"
    tiny.write_files(folder)
    model.save(folder / RANGE)
    tiny.seal(folder)
    return Bundle.load(folder).path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare") / "bundle"
    tiny.write_files(folder)
    tiny.seal(folder)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for number, name in enumerate(("BC2026_Test_0001_S01_20250620_030000", "BC2026_Test_0002_S02_20250620_030000"), 1):
        write_sound(folder / f"{name}.wav", 3.0, number, tiny.RATE)
    write_sound(folder / "undated.wav", 3.0, 3, tiny.RATE)
    return folder


def run(bundle: Path, recordings: Path, out: Path, *more: str) -> dict[str, np.ndarray]:
    """Scores of each recording by its stem, and the report beside."""
    command = ["--bundle", str(bundle), "--threads", "1", "--shifts", "1", "--out", str(out), "--quiet"]
    assert main([*command, "--report", str(out.with_suffix(".json")), *more, str(recordings)]) == 0
    table = read_scores(out)
    stems = np.array([row.rpartition("_")[0] for row in table.row_ids])
    return {stem: table.scores[stems == stem] for stem in dict.fromkeys(stems.tolist())}


def threshold_between(p: np.ndarray) -> float:
    """One that masks some classes and not all."""
    low, high, *_ = np.sort(p)
    return float((low + high) / 2)


def test_one_place_for_all(bundle: Path, recordings: Path, model: RangeModel, tmp_path: Path) -> None:
    weekly, yearly = model.probabilities(46.5, 6.2, JUNE), model.probabilities(46.5, 6.2)
    threshold = threshold_between(weekly)
    flags = ["--place", HERE, "--range-threshold", str(threshold)]
    found = run(bundle, recordings, tmp_path / "s.csv", *flags)
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["settings"]["place"] == {"latitude": 46.5, "longitude": 6.2}
    assert any(line.startswith("range: classes below ") for line in report["settings"]["postprocessing"])
    assert len(report["recordings"]) == 3
    for entry in report["recordings"]:
        dated = "2025" in entry["recording"]
        p = weekly if dated else yearly
        scores = found[Path(entry["recording"]).stem]
        np.testing.assert_array_equal((scores == 0).all(axis=0), p < threshold)
        assert (scores[:, p >= threshold] > 0).all()
        assert entry["range_from"] == {
            "latitude": 46.5,
            "longitude": 6.2,
            "week": JUNE if dated else None,
            "masked": int((p < threshold).sum()),
        }


def test_a_place_for_each_site(bundle: Path, recordings: Path, model: RangeModel, tmp_path: Path) -> None:
    table = tmp_path / "deployments.csv"
    table.write_text("site,latitude,longitude\nS02,-19.5,-56.5\n")
    p = model.probabilities(-19.5, -56.5, JUNE)
    flags = ["--deployments", str(table), "--range-threshold", str(threshold_between(p))]
    found = run(bundle, recordings, tmp_path / "s.csv", *flags)
    plain = run(bundle, recordings, tmp_path / "p.csv")
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["settings"]["deployments"] == str(table)
    named = {Path(entry["recording"]).stem: entry["range_from"] for entry in report["recordings"]}
    for stem, told in named.items():
        if "_S02_" in stem:
            assert (told["latitude"], told["longitude"], told["week"]) == (-19.5, -56.5, JUNE)
            np.testing.assert_array_equal((found[stem] == 0).all(axis=0), p < threshold_between(p))
        else:
            assert told is None
            np.testing.assert_array_equal(found[stem], plain[stem])


def test_off_and_prior(bundle: Path, recordings: Path, model: RangeModel, tmp_path: Path) -> None:
    plain = run(bundle, recordings, tmp_path / "p.csv", "--taxonomy-smoothing", "none")
    off = run(bundle, recordings, tmp_path / "o.csv", "--taxonomy-smoothing", "none", "--place", HERE, "--range", "off")
    flags = ["--place", HERE, "--range", "prior", "--range-strength", "0.5", "--taxonomy-smoothing", "none"]
    prior = run(bundle, recordings, tmp_path / "s.csv", *flags)
    for stem, scores in plain.items():
        np.testing.assert_array_equal(off[stem], scores)
        p = model.probabilities(46.5, 6.2, JUNE if "2025" in stem else -1).astype(float)
        moved = np.log(prior[stem] / (1 - prior[stem])) - np.log(scores / (1 - scores))
        np.testing.assert_allclose(moved, np.broadcast_to(0.5 * np.log(p / (1 - p)), moved.shape), atol=1e-4)


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(list(command)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_what_cannot_run_is_refused(
    bundle: Path, bare: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "s.csv", tmp_path / "d.csv"
    table.write_text("site,latitude,longitude\nS1,1,2\n")

    def refused(of: Path, *flags: str) -> str:
        return refusal(capsys, "--bundle", str(of), "--out", str(out), *flags, str(recordings))

    for flags in (["--place", HERE], ["--deployments", str(table)], ["--range", "prior"]):
        assert "cannot run the range step that was asked for: the bundle has no range model" in refused(bare, *flags)
    assert "it is not known where the recordings were made: --place LAT,LON" in refused(bundle, "--range", "mask")
    assert "either one place for all" in refused(bundle, "--place", HERE, "--deployments", str(table))
    assert "--raw switches off what --place asks for" in refused(bundle, "--raw", "--place", HERE)
    assert "--range-strength is that of --range prior" in refused(
        bundle, "--place", HERE, "--range", "mask", "--range-strength", "1"
    )
    assert "latitude is 99.0" in refused(bundle, "--place", "99,6")
    assert "range threshold is 2.0" in refused(bundle, "--place", "-9.5,-6", "--range-threshold", "2")
    assert not out.exists()
    assert str(table) in refusal(
        capsys, "--bundle", str(bundle), "--deployments", str(table), "--out", str(table), str(recordings)
    )
    assert table.read_text().startswith("site")


def test_a_model_of_other_classes_is_refused(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    tiny.write_files(folder)
    seeded_range_model(5).save(folder / RANGE)
    tiny.seal(folder)
    said = refusal(capsys, "--bundle", str(folder), "--place", HERE, "--out", str(tmp_path / "s.csv"), str(recordings))
    assert "range.npz: has 5 classes, its bundle 3" in said


def test_a_run_has_one_place_or_a_table_of_them() -> None:
    with pytest.raises(OptionsError, match="not both"):
        RunOptions((), None, place=Place(1, 2), deployments=Path("d.csv"))
