"""The bundle that runs where none is named: which one it is, and that it hears."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bce.engine.commands import infer as cli
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import BUNDLE_VARIABLE, DEFAULT_BUNDLE, bundle_path
from bce.tools.commands import tools as tools_cli
from bce.tools.data.labels import read_labels
from bce.tools.data.synth.dataset import write_dataset
from bce.tools.data.synth.options import SynthOptions
from bce.tools.judge.evaluate import evaluate
from bce.tools.judge.matching import match, read_table
from bce.tools.judge.options import EvaluateOptions

MOST_BYTES = 6_000_000
UNSEEN = ("S09", "S10", "S11")


def test_the_option_goes_before_the_variable_and_that_before_the_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BUNDLE_VARIABLE, raising=False)
    assert bundle_path() == DEFAULT_BUNDLE
    monkeypatch.setenv(BUNDLE_VARIABLE, "/of/the/variable")
    assert bundle_path() == Path("/of/the/variable")
    assert bundle_path(Path("given")) == Path("given")


def test_the_embedded_bundle_is_whole_small_and_says_what_it_is() -> None:
    bundle = Bundle.load(DEFAULT_BUNDLE)
    assert bundle.manifest.notice.startswith("demo model: 24 synthetic species; for Perch v2 run bce-export")
    assert len(bundle.classes) == 24
    assert bundle.manifest.head.kind == "attention"
    assert bundle.manifest.head.folds == 5
    assert bundle.file("priors.npz") is not None
    assert list(bundle.manifest.blocks) == ["block_21", "block_24", "block_25"]
    assert sum(file.stat().st_size for file in DEFAULT_BUNDLE.iterdir()) < MOST_BYTES


def test_it_hears_recordings_that_it_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Soundscapes of another seed than it was trained on. The floor is under what 48 recordings give: these are 16."""
    monkeypatch.delenv(BUNDLE_VARIABLE, raising=False)
    write_dataset(tmp_path / "data", SynthOptions(seed=7, test_soundscapes=16, test_only=True, jobs=1))
    sounds = tmp_path / "data" / "test_soundscapes"
    labels = read_labels(tmp_path / "data" / "test_labels.csv")

    def seen_auc(out: Path, *options: str) -> float:
        assert cli.main([str(sounds), "--out", str(out), "--threads", "1", "--shifts", "1", *options]) == 0
        assert "demo model" in capsys.readouterr().err
        groups = evaluate(match(read_table(str(out)), labels), None, EvaluateOptions(10, UNSEEN)).site_groups
        assert np.isfinite(groups["unseen"].auc)
        return groups["seen"].auc

    assert seen_auc(tmp_path / "raw.csv", "--raw") > 0.92
    assert seen_auc(tmp_path / "all.csv") > 0.92


def test_sites_of_no_one_are_judged_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores that are right at seen sites and wrong at the unseen one."""
    rows = [(f"BC0000_SynTest_{i:04d}_S{1 + i % 2:02d}_20250101_000000", i // 2 % 2) for i in range(8)]
    scores = [
        "row_id,a",
        *(f"{stem}_5,{0.1 + 0.8 * (there if '_S01_' in stem else 1 - there)}" for stem, there in rows),
    ]
    truth = ["filename,start,end,primary_label", *(f"{s}.ogg,00:00:00,00:00:05,{'a' * there}" for s, there in rows)]
    (tmp_path / "scores.csv").write_text("\n".join(scores) + "\n")
    (tmp_path / "truth.csv").write_text("\n".join(truth) + "\n")
    arguments = ["evaluate", str(tmp_path / "scores.csv"), str(tmp_path / "truth.csv"), "--unseen-sites", "S02"]
    assert tools_cli.main([*arguments, "--resamples", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("seen ")).split()[1] == "1.0000"
    assert next(line for line in lines if line.startswith("unseen ")).split()[1] == "0.0000"
