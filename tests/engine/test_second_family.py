"""Another frontend and another geometry through the same engine, tables, features, priors and budget.

Nothing of the engine is changed for it but one line: which module has the frontend's kind.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import expit
from support import second_family as family
from support.pipes import dead_pipe
from support.sounds import write_sound

from bce.engine import Bundle, BundleError, Engine, EngineOptions, OptionsError
from bce.engine.audio.reader import AudioReader
from bce.engine.commands import infer as cli
from bce.engine.errors import AudioError
from bce.engine.frontends.base import KINDS
from bce.engine.post.options import PostprocessOptions
from bce.engine.post.priors import Priors
from bce.engine.recording import Recording
from bce.engine.run.budget import BudgetOptions
from bce.engine.run.infer import RunOptions, infer
from bce.engine.run.plan import plan
from bce.engine.tables.scores import read_scores

pytest.importorskip("onnx", reason="the second family's graph is written with onnx")

LENGTHS = {"a": (31.0, 48_000, 1), "b": (12.4, 44_100, 2), "c": (3.9, 32_000, 1), "d": (100.0, 22_050, 1)}
CHUNKS = {"a": 11, "b": 4, "c": 1, "d": 34}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    patch = pytest.MonkeyPatch()
    patch.setitem(KINDS, family.KIND, "support.second_family")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return family.write_bundle(tmp_path_factory.mktemp("second") / "bundle")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for seed, (name, (seconds, rate, channels)) in enumerate(LENGTHS.items()):
        write_sound(folder / f"{name}.flac", seconds, seed, rate, channels)
    return folder


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_logits_and_features_are_those_of_the_naive_pipeline(recordings: Path, tmp_path: Path, reduce: str) -> None:
    """Shifts are averaged, whatever becomes of several windows of a chunk, of which there is one here."""
    bundle = family.write_bundle(tmp_path / "bundle", (-1.5, 0.0, 0.37), reduce)
    engine = Engine(bundle, EngineOptions(threads=2, features="chunk"))
    assert engine.shifts_s == (-1.5, 0.0, 0.37)
    assert engine.grid.chunk_s == 3.0
    for result in engine.run([recordings]):
        logits, means = family.naive(result.recording.path, (-1.5, 0.0, 0.37))
        assert result.status == "ok"
        assert len(result.logits) == CHUNKS[result.recording.stem]
        np.testing.assert_allclose(result.logits, logits, atol=2e-4)
        for name, values in means.items():
            np.testing.assert_allclose(result.features[name], values, atol=2e-5)


def test_tables_are_named_after_its_chunks(bundle: Bundle, recordings: Path, tmp_path: Path) -> None:
    out, features = tmp_path / "s.parquet", tmp_path / "f.parquet"
    engine = EngineOptions(threads=2)
    asked = RunOptions((recordings,), out, features, engine=engine, postprocess=PostprocessOptions.raw(), quiet=True)
    report = infer(bundle, asked)
    assert report.exit_code == 0
    table, rows = read_scores(out), pq.read_table(out).to_pylist()
    ids = [f"{stem}_{3 * (i + 1)}" for stem, chunks in CHUNKS.items() for i in range(chunks)]
    assert list(table.row_ids) == ids
    assert all(row["chunk_end_s"] - row["chunk_start_s"] == 3 for row in rows)
    expected = np.concatenate([family.naive(recordings / f"{s}.flac", (-1.0, 0.0, 1.0))[0] for s in CHUNKS])
    np.testing.assert_allclose(table.scores, expit(expected), atol=1e-4)
    found = pq.read_table(features)
    assert found["row_id"].to_pylist() == ids
    assert {name: len(found[name][0]) for name in family.WIDTHS} == family.WIDTHS
    assert found.schema.metadata[b"bundle"].decode() == bundle.identity
    assert [entry["resampled_from"] for entry in report.recordings] == [None, 44_100, 32_000, 22_050]

    infer(bundle, replace(asked, out=None, features_per="window", engine=replace(engine, shifts_s=(-0.25, 0.0))))
    windows = pq.read_table(features).to_pylist()
    first = [row for row in windows if row["row_id"].startswith("a_")]
    assert [row["start_s"] for row in first] == sorted({max(3.0 * c + s, 0) for c in range(11) for s in (-0.25, 0)})
    assert {row["end_s"] - row["start_s"] for row in windows} == {3.0}
    assert first[1]["row_id"] == "a_5.75"


def test_a_sample_submission_on_its_grid(bundle: Bundle, recordings: Path, tmp_path: Path) -> None:
    sample, out = tmp_path / "sample.csv", tmp_path / "s.csv"
    header = ",".join(["row_id", *family.CLASSES])
    rows = ["b_6", "a_33", "c_3", "d_99", "b_15"]
    sample.write_text("\n".join([header, *(f"{name},0,0,0,0,0" for name in rows)]) + "\n")
    report = infer(bundle, RunOptions((recordings,), out, sample_submission=sample, quiet=True))
    assert read_scores(out).row_ids == tuple(rows)
    assert report.filled == 1  # b has four chunks, not five
    sample.write_text(f"{header}\na_5,0,0,0,0,0\n")
    with pytest.raises(Exception, match=r"row id 'a_5' .* end second of 3, 6, 9"):
        infer(bundle, RunOptions((recordings / "a.flac",), out, sample_submission=sample, quiet=True))


def test_the_budget_counts_its_windows(bundle: Bundle, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    engine = EngineOptions(threads=1)
    whole = RunOptions((recordings,), out, engine=engine, budget=BudgetOptions(10, 1), quiet=True)
    report = infer(bundle, whole)
    assert report.exit_code == 0
    assert [entry["chunks_by_shifts"] for entry in report.recordings] == [{3: n} for n in CHUNKS.values()]
    # a recording that cannot be opened has the rows of the others: the middle one, for no length is there twice
    (tmp_path / "broken.wav").write_text("no audio")
    report = infer(bundle, replace(whole, paths=(recordings, tmp_path / "broken.wav")))
    assert report.exit_code == 3
    ids = read_scores(out).row_ids
    assert len(ids) == sum(CHUNKS.values()) + 11
    assert [name for name in ids if name.startswith("broken")][-1] == "broken_33"


def test_a_block_that_is_cut_has_the_chunks_whose_windows_were_run(bundle: Bundle, recordings: Path) -> None:
    engine = Engine(bundle, EngineOptions(threads=1, features="chunk"))
    with AudioReader(recordings / "a.flac", engine.member.window.sample_rate, engine.grid, 1.0) as reader:
        block = next(reader)
    whole = engine.compute(block, (-1.0, 0.0, 1.0))
    # windows in their order: 0, 0 + 1, 3 - 1, 3, 3 + 1, 6 - 1, ... s
    for windows, chunks in ((1, 0), (2, 1), (4, 1), (5, 2), (11, 4), (whole.windows, 11)):
        asked = iter([False] * (windows - 1) + [True])
        cut = engine.member.compute(block, (-1.0, 0.0, 1.0), "chunk", lambda asked=asked: next(asked))
        assert (cut.windows, len(cut.logits)) == (windows, chunks)
        np.testing.assert_array_equal(cut.logits, whole.logits[:chunks])
        for name, values in whole.features.items():
            np.testing.assert_array_equal(cut.features[name], values[:chunks])


def test_a_pipe_that_nobody_fills_fails_and_the_run_goes_on(bundle: Bundle, recordings: Path, tmp_path: Path) -> None:
    given = [Recording(tmp_path / "pipe.wav", "pipe"), Recording(recordings / "c.flac", "c")]
    with dead_pipe(tmp_path / "pipe.wav"):
        results = list(Engine(bundle, EngineOptions(threads=1, stall_s=0.5)).run(given))
    assert [result.status for result in results] == ["failed", "ok"]
    with pytest.raises(OptionsError, match="stall is nan s"):
        EngineOptions(stall_s=float("nan"))


def test_a_plan_counts_what_hangs_or_cannot_be_read_as_unreadable(
    bundle: Bundle, recordings: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    bad = [Recording(tmp_path / f"{name}.wav", name) for name in ("pipe", "text")]
    good = [Recording(recordings / f"{stem}.flac", stem) for stem in CHUNKS]
    with dead_pipe(tmp_path / "pipe.wav"):
        made = plan(bundle, EngineOptions(threads=2, stall_s=1.0), bad + good)
    assert (made.recordings, made.unreadable, made.chunks) == (6, 2, sum(CHUNKS.values()))
    with pytest.raises(AudioError, match="not one of the recordings can be read"):
        plan(bundle, EngineOptions(threads=2), bad[1:])


def test_from_the_command_line(bundle: Bundle, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "s.csv"
    command = ["--bundle", str(bundle.path), "--threads", "1", "--out", str(out), str(recordings)]
    assert cli.main(command) == 0
    assert "seeded weights: scores mean nothing" in capsys.readouterr().err
    assert len(read_scores(out).row_ids) == sum(CHUNKS.values())
    assert cli.main([*command, "--plan", "--budget-minutes", "5"]) == 0
    assert "4 recordings, 0.04 h of audio, 50 chunks" in capsys.readouterr().out
    assert cli.main([*command, "--shifts=-3.5,0"]) == 2
    assert "shift -3.5 s is outside -3..3 s" in capsys.readouterr().err


def test_an_input_that_is_not_the_manifests_is_refused(tmp_path: Path) -> None:
    for number, (old, new, says) in enumerate(
        [
            ('"name": "patches"', '"name": "tiles"', r"takes patches \[2, 30, 16\], but the manifest names tiles"),
            ("[2, 30, 16]", "[2, 16, 30]", r"'input.shape' is \[2, 16, 30\], its frontend makes \[2, 30, 16\]"),
            ('"width": 8', '"width": 9', r"puts out embedding \[8\], but the manifest says 9"),
            ('"name": "block_1"', '"name": "block_2"', "puts out block_1, embedding, species, but the manifest names"),
            ('"kind": "band_powers"', '"kind": "unheard"', "field 'frontend.kind' is 'unheard', expected one of"),
        ]
    ):
        path = family.write_bundle(tmp_path / str(number)).path / "bundle.json"
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        with pytest.raises(BundleError, match=says):
            Engine(Bundle.load(path.parent))


def test_graphs_that_would_fail_in_mid_run_are_refused_before(tmp_path: Path) -> None:
    for number, (options, says) in enumerate(
        [
            ({"batch": 4}, "has patches for 4 windows at once, expected one or any number"),
            ({"classes": ("a", "b")}, "has 2 classes, but 'species' gives 5 scores"),
        ]
    ):
        bundle = family.write_bundle(tmp_path / str(number), **options)
        with pytest.raises(BundleError, match=says):
            Engine(bundle)
    one = Engine(family.write_bundle(tmp_path / "one", batch=1))
    assert [len(result.logits) for result in one.run([write_sound(tmp_path / "a.wav", 5.0, 1)])] == [2]


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"net\.onnx: keeps weights in another file"):
        family.write_bundle(tmp_path / "bundle", apart=True)


def test_its_priors_count_in_its_chunks(bundle: Bundle, recordings: Path, tmp_path: Path) -> None:
    """A recording that crosses the hour at its twelfth chunk of 3 s: the prior changes there."""
    audio = tmp_path / "BC2026_Test_0001_S01_20250101_035925.flac"
    audio.symlink_to(recordings / "d.flac")
    present = np.eye(5, dtype=bool)[[0, 0, 1, 1]]
    priors = Priors.count(family.CLASSES, present, ["S01"] * 4, [3, 3, 4, 4])
    priors.save(tmp_path / "priors.npz")
    options = PostprocessOptions(prior_known=1.0, prior_unknown=0.0, sigma=0.0, taxonomy=())
    asked = RunOptions((audio,), tmp_path / "s.csv", postprocess=options, priors=tmp_path / "priors.npz", quiet=True)
    infer(bundle, asked)
    logits, _ = family.naive(audio, (-1.0, 0.0, 1.0))
    own = np.array([priors.log_odds("S01", 3 if 25 + 3 * chunk < 60 else 4)[0] for chunk in range(34)])
    assert not np.array_equal(own[11], own[12])
    np.testing.assert_allclose(read_scores(tmp_path / "s.csv").scores, expit(logits + own), atol=1e-4)


def test_parts_of_its_recordings_join(
    bundle: Bundle, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = RunOptions((recordings,), tmp_path / "whole.csv", tmp_path / "whole.parquet", quiet=True)
    asked = replace(asked, engine=EngineOptions(threads=2))
    infer(bundle, asked)
    monkeypatch.setattr("bce.engine.run.scheduler.PART_S", 40.0)  # 12 chunks of 3 s
    assert [len(p.logits) for p in Engine(bundle).score([recordings / "d.flac"])] == [12, 12, 10]
    infer(bundle, replace(asked, out=tmp_path / "parts.csv", features_out=tmp_path / "parts.parquet"))
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    whole, parts = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    assert whole.equals(parts)


def test_shifts_beyond_its_window_are_refused_before_anything_runs(bundle: Bundle) -> None:
    with pytest.raises(OptionsError, match=r"shift 3\.01 s is outside -3\.\.3 s"):
        Engine(bundle, EngineOptions(shifts_s=(0.0, 3.01)))


def test_a_name_that_is_not_utf_8_is_written_and_what_was_passed_over_is_said(
    bundle: Bundle, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, features, report, folder = (tmp_path / name for name in ("s.parquet", "f.parquet", "run.json", "in"))
    folder.mkdir()
    try:
        shutil.copy(recordings / "c.flac", os.fsencode(folder) + b"/caf\xe9.flac")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    (folder / "gone.wav").symlink_to(folder / "nothing")
    command = ["--bundle", bundle.path, "--quiet", "--out", out, "--features", features, "--report", report, folder]
    assert cli.main(list(map(str, command))) == 0
    assert capsys.readouterr().err == f"{folder}/gone.wav: is a link that leads nowhere: passed over\n"
    assert read_scores(out).row_ids == (r"caf\udce9_3",)
    assert pq.read_table(features)["path"].to_pylist() == [rf"{folder}/caf\udce9.flac"]
    said = json.loads(report.read_text())
    assert [entry["recording"] for entry in said["recordings"]] == [rf"{folder}/caf\udce9.flac"]
    assert said["passed_over"] == [f"{folder}/gone.wav: is a link that leads nowhere"]
