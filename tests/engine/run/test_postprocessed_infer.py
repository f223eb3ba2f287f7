"""``bce-infer`` with real recordings, the real taxonomy and real priors, against slow plain numpy."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.proofs import quick_proof

from bce.engine import Bundle, Engine, EngineOptions
from bce.engine.commands.infer import main
from bce.engine.tables.scores import read_scores


@pytest.fixture(scope="module")
def pantanal_bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A narrow source with all of Perch's classes, cut to BirdCLEF's taxonomy: Perch's own head, no training."""
    pytest.importorskip("torch", reason="the stand-in needs the extra bce[export]")
    from bce.export.commands.options import ExportOptions
    from bce.export.commands.perch import export_bundle
    from bce.export.perch.standin import write_standin

    folder = tmp_path_factory.mktemp("pantanal")
    source = write_standin(folder / "perch_v2.onnx", width=0.15, seed=1)
    data = shared / "data"
    options = ExportOptions(
        source,
        folder / "bundle",
        perch_labels=data / "perch_v2_labels" / "labels.csv",
        taxonomy=data / "official_csv" / "taxonomy.csv",
        head=("perch",),
    )
    with quick_proof():
        return export_bundle(options)


@pytest.fixture(scope="module")
def recordings(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real recordings under names that give sites and hours: known together, known apart, and unknown."""
    audio = shared / "data" / "audio"
    folder = tmp_path_factory.mktemp("real")
    for name, source in {
        "BC2026_Test_0001_S22_20250227_195930.ogg": audio / "misc" / "birdnet_soundscape.ogg",
        "BC2026_Test_0002_S08_20250227_020000.wav": audio / "misc" / "opensoundscape_1min.wav",
        "BC2026_Test_0003_S05_20250227_120000.wav": audio / "scikit_maad" / "spinetail.wav",
        "no_time_or_place.wav": audio / "misc" / "perchv2_pytorch_sample.wav",
    }.items():
        os.symlink(source, folder / name)
    return folder


def labelled_windows(path: Path, index: dict[str, int]) -> list[tuple[str, int, set[int]]]:
    """Distinct (site, hour of the window's start, classes present) of a labels table, read without the project."""
    windows = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            stem = row["filename"].removesuffix(".ogg").split("_")
            hours, minutes, seconds = (int(part) for part in row["start"].split(":"))
            into_day = int(stem[5][:2]) * 3600 + int(stem[5][2:4]) * 60 + int(stem[5][4:])
            hour = (into_day + hours * 3600 + minutes * 60 + seconds) // 3600 % 24
            present = {index[label] for label in row["primary_label"].split(";")}
            windows[row["filename"], row["start"]] = (stem[3], hour, present)
    return list(windows.values())


@pytest.mark.slow
def test_equals_the_plain_pipeline(
    pantanal_bundle: Bundle, recordings: Path, shared: Path, plain: ModuleType, tmp_path: Path
) -> None:
    from bce.tools.commands.tools import main as tools

    labels = shared / "data" / "official_csv" / "train_soundscapes_labels.csv"
    taxonomy = pantanal_bundle.path / "classes.csv"
    priors, out = tmp_path / "priors.npz", tmp_path / "submission.csv"
    assert tools(["priors", str(labels), "--taxonomy", str(taxonomy), "--out", str(priors)]) == 0
    command = [
        "--bundle",
        pantanal_bundle.path,
        "--threads",
        2,
        "--priors",
        priors,
        "--out",
        out,
        "--quiet",
        recordings,
    ]
    assert main([str(part) for part in command]) == 0
    table = read_scores(out)

    classes = pantanal_bundle.taxonomy
    windows = labelled_windows(labels, classes.index)
    assert len(windows) == 739
    genera = [name.split()[0] for name in classes.scientific_names]
    groups = [(genera, 0.15), (classes.class_names, 0.05)]
    sites = {site for site, _, _ in windows}
    seen: dict[tuple, np.ndarray] = {}
    row = 0
    for result in Engine(pantanal_bundle, EngineOptions(threads=2)).run([recordings]):
        recording = result.recording
        log_odds = []
        for chunk in range(len(result.logits)):
            key = (recording.site, plain.chunk_hour(recording.start_time, 5 * chunk))
            if key not in seen:
                seen[key] = plain.prior_log_odds(windows, len(classes), *key)
            log_odds.append(seen[key])
        expected = plain.pipeline(result.logits, np.array(log_odds), 0.5, 1.0, groups)
        found = table.scores[row : row + len(expected)]
        assert table.row_ids[row] == f"{recording.stem}_5"
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        row += len(expected)
    assert row == len(table.row_ids) == 24 + 12 + 4 + 2
    # the fixture covers what it says: a recording that crosses the hour, sites with and without labels, no name
    assert {("S22", 19), ("S22", 20), ("S05", 12), (None, None)} <= set(seen)
    assert "S22" in sites
    assert "S05" not in sites


@pytest.mark.slow
def test_off_switches(pantanal_bundle: Bundle, recordings: Path, tmp_path: Path, plain: ModuleType) -> None:
    """Each step alone is what its definition says, and --raw is none of them."""
    out = tmp_path / "s.csv"
    (one,) = [path for path in recordings.iterdir() if "_S05_" in path.name]
    (result,) = Engine(pantanal_bundle, EngineOptions(threads=2, shifts_s=(0.0,))).run([one])
    genera = [name.split()[0] for name in pantanal_bundle.taxonomy.scientific_names]
    names = pantanal_bundle.taxonomy.class_names
    off: list = []
    cases = {
        ("--raw",): (0.0, off),
        ("--sigma", "none", "--taxonomy-smoothing", "none"): (0.0, off),
        ("--sigma", "2", "--taxonomy-smoothing", "none"): (2.0, off),
        ("--sigma", "0", "--taxonomy-smoothing", "class=0.3"): (0.0, [(names, 0.3)]),
        ("--sigma", "0"): (0.0, [(genera, 0.15), (names, 0.05)]),
    }
    for flags, (sigma, groups) in cases.items():
        expected = plain.pipeline(result.logits, None, 0, sigma, groups)
        command = [
            "--bundle",
            str(pantanal_bundle.path),
            "--shifts",
            "1",
            "--quiet",
            "--out",
            str(out),
            *flags,
            str(one),
        ]
        assert main(command) == 0
        np.testing.assert_allclose(read_scores(out).scores, expected, rtol=0, atol=1e-6)
