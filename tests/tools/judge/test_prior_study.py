from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bce.engine.errors import OptionsError
from bce.engine.post.options import PostprocessOptions
from bce.engine.post.priors import Priors, Shrinkage
from bce.engine.post.steps import Groups, taxonomy_groups
from bce.engine.tables.scores import ScoreTable, write_scores
from bce.engine.taxonomy import Taxonomy
from bce.tools.commands.inputs import parse_shrinkage
from bce.tools.commands.tools import main
from bce.tools.data.labels import WindowLabels, read_labels
from bce.tools.judge.matching import Matched, match, read_table
from bce.tools.judge.options import StudyOptions
from bce.tools.judge.prior_study import (
    Chain,
    Judge,
    as_logits,
    chains,
    fit_priors,
    held_out_log_odds,
    logit,
    run_chain,
    study,
    study_unseen,
)

CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Labels of 8 recordings at 3 sites, scores of 7 of them, and a taxonomy."""
    rng = np.random.default_rng(0)
    lines, ids = ["filename,start,end,primary_label"], []
    for number in range(8):
        stem = f"BC2026_Train_{number + 1:04}_S0{1 + number % 3}_20250101_{(number * 5) % 24:02}5950"
        for end in range(5, 65, 5):
            present = ";".join(c for c in CLASSES if rng.random() < 0.3)
            lines.append(f"{stem}.ogg,00:00:{end - 5:02},00:{end // 60:02}:{end % 60:02},{present}")
            ids.append(f"{stem}_{end}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    order = rng.permutation(84)
    scores = ScoreTable(tuple(ids[i] for i in order), CLASSES, rng.normal(size=(84, 4)))
    write_scores(tmp_path / "scores.csv", scores)
    (tmp_path / "taxonomy.csv").write_text(
        "primary_label,scientific_name,class_name\na,X a,Aves\nb,X b,Aves\nc,Y c,Aves\nd,Z d,Insecta\n"
    )
    return tmp_path


@pytest.fixture
def labels(folder: Path) -> WindowLabels:
    return read_labels(folder / "labels.csv")


@pytest.fixture
def matched(folder: Path, labels: WindowLabels) -> Matched:
    return match(read_table(str(folder / "scores.csv")), labels)


@pytest.mark.parametrize(("unit", "unseen"), [("recording", None), ("site", None), ("recording", "S02")])
def test_held_out_windows_do_not_count(
    plain: ModuleType, labels: WindowLabels, matched: Matched, unit: str, unseen: str | None
) -> None:
    found = held_out_log_odds(labels, matched, unit, unseen=unseen)  # type: ignore[arg-type]
    assert len(found) == 84
    for row in range(0, 84, 5):
        own = matched.recordings[row]
        kept = [
            (r.site, hour, {CLASSES.index(label) for label in present})
            for r, hour, present in zip(labels.recordings, labels.hours, labels.labels, strict=True)
            if r.site != unseen and (r.stem != own.stem if unit == "recording" else r.site != own.site)
        ]
        hour = plain.chunk_hour(own.start_time, matched.start_s[row])
        np.testing.assert_allclose(found[row], plain.prior_log_odds(kept, 4, own.site, hour), rtol=1e-9)


def test_chains_are_the_plain_steps(plain: ModuleType) -> None:
    rng = np.random.default_rng(1)
    logits, log_odds = rng.normal(size=(2, 15, 4), scale=3)
    offsets = np.array([0, 12, 15])
    names = ["X", "X", "Y", "X"]
    groups = [Groups.of(np.array([0, 0, 1, 0], dtype=np.int32), 0.2)]

    def run(*steps: str) -> np.ndarray:
        return run_chain(Chain(steps, 0.3), logits, offsets, log_odds, groups, 1.0)

    np.testing.assert_array_equal(run(), logits)
    np.testing.assert_allclose(run("prior"), logits + 0.3 * log_odds)
    p = plain.sigmoid(plain.gaussian(logits + 0.3 * log_odds, offsets, 1.0))
    np.testing.assert_allclose(run("prior", "gaussian", "taxonomy"), plain.taxonomy(p, names, 0.2))
    p = plain.taxonomy(plain.sigmoid(logits), names, 0.2)
    np.testing.assert_allclose(run("taxonomy", "prior"), np.log(p / (1 - p)) + 0.3 * log_odds)
    p = plain.gaussian(plain.sigmoid(logits), offsets, 1.0)
    np.testing.assert_allclose(run("gaussian on p"), p)


def test_orders_are_all_different() -> None:
    every = [str(chain) for chain in chains([0.1, 0.5], True)]
    assert every[0] == "raw"
    assert "prior 0.5 > gaussian > taxonomy" in every
    assert len(every) == len(set(every)) == 7 + 2 * 9
    assert not any("taxonomy" in str(chain) for chain in chains([0.1], False))


def test_probabilities_become_logits() -> None:
    logits, were = as_logits(np.array([[0.0, 0.25, 1.0]]))
    assert were
    np.testing.assert_allclose(logits[0, 1], np.log(1 / 3))
    assert np.isfinite(logits).all()
    assert not as_logits(np.array([[0.5, 1.5]]))[1]
    np.testing.assert_allclose(logit(1 / (1 + np.exp(-np.array([-3.0, 2.0])))), [-3, 2])


def test_study_covers_what_it_says(labels: WindowLabels, matched: Matched) -> None:
    judge = Judge.of(matched, 20)
    assert judge.offsets.tolist() == list(range(0, 85, 12))
    assert (np.diff(judge.matched.start_s.reshape(7, 12), axis=1) == 5).all()
    groups = [Groups.of(np.array([0, 0, 1, 2], dtype=np.int32), 0.2)]
    options = StudyOptions(strengths=(0.5,), sigma=1.0)
    found = study(judge, labels, groups, options)
    assert found[0][0] == "raw"
    assert found[0][1][0].gain_low == found[0][1][0].gain_high == 0
    pooled, within = judge.pooled(judge.logits)[0], judge.within_sites(judge.logits)[0]
    assert [e.auc for e in found[0][1]] == [pooled, pooled, within]
    unseen = study_unseen(judge, labels, groups, options)
    assert [name for name, _ in unseen] == ["known=0.5,unknown=0.5", "known=0.5,unknown=0.2", "known=0.5,unknown=0"]


def test_command_writes_priors(folder: Path, labels: WindowLabels, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "priors.npz"
    code = main(
        ["priors", f"{folder}/labels.csv", f"--out={out}", f"--taxonomy={folder}/taxonomy.csv", "--shrinkage=site=20"]
    )
    assert code == 0
    assert "96 labelled windows (0 repeated rows), 3 sites" in capsys.readouterr().out
    priors = Priors.load(out)
    assert priors.shrinkage == Shrinkage(site=20)
    expected = fit_priors(labels, CLASSES, Shrinkage(site=20)).log_odds("S01", 0)[0]
    np.testing.assert_array_equal(priors.log_odds("S01", 0)[0], expected)


def test_command_judges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            "priors",
            f"--evaluate={folder}/scores.csv",
            f"{folder}/labels.csv",
            f"--taxonomy={folder}/taxonomy.csv",
            "--strengths=0.3",
            "--resamples=3",
        ]
    )
    assert code == 0
    text = capsys.readouterr().out
    assert "84 rows of 7 recordings at 3 sites; scores are logits; tables from 96 labelled windows" in text
    assert "| prior 0.3 > gaussian > taxonomy | 0." in text
    assert "| known=0.3,unknown=0.12 | 0." in text


def test_excluded_groups_may_be_given_again_and_with_commas(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["priors", f"--evaluate={folder}/scores.csv", f"{folder}/labels.csv",
               f"--taxonomy={folder}/taxonomy.csv", "--strengths=0.3", "--resamples=3"]  # fmt: skip
    said = []
    for exclude in (["--taxonomy-exclude=X,Y"], ["--taxonomy-exclude=X", "--taxonomy-exclude=Y"], []):
        assert main([*command, *exclude]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert main([*command, "--taxonomy-exclude=nobody"]) == 2
    assert "cannot exclude 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --out to write priors or --evaluate"),
        (["--out=p.npz"], "--out needs --taxonomy"),
        (["--evaluate=s.csv", "--strengths=half"], "strengths 'half' is not a list of numbers"),
        (["--evaluate=s.csv", "--strengths=-1"], "prior strength known is -1"),
        (["--evaluate=s.csv", "--sigma=-1"], "sigma is -1"),
        (["--evaluate=s.csv", "--shrinkage=hour=0"], "shrinkage hour=0 is not above 0"),
        (["--evaluate=s.csv", "--name-pattern=("], "is not a regular expression"),
        (["--evaluate=s.csv", "--resamples=0"], "resamples is 0, it must be 1 to 100000"),
        (["--evaluate=s.csv"], "s.csv: is not there"),
        (["--evaluate=s.csv", "--sigma=nan"], "sigma is nan"),
        (["--evaluate=s.csv", "--strengths=nan"], "prior strength known is nan"),
        (["--evaluate=s.csv", "--shrinkage=hour=8,hour=9"], "shrinkage 'hour=8,hour=9' is not like"),
        (["--out=no/such.npz", "--taxonomy=taxonomy.csv"], "no/such.npz: its folder does not exist"),
        (["--out=labels.csv", "--taxonomy=taxonomy.csv"], "labels.csv: is to be read (labels.csv)"),
    ],
)
def test_command_refuses(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert main(["priors", *arguments, "labels.csv"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_shrinkage_texts() -> None:
    assert parse_shrinkage("hour=1,site=2,site-hour=3") == Shrinkage(1, 2, 3)
    for text in ("8", "hour=much", "week=3"):
        with pytest.raises(OptionsError, match="is not like hour=8"):
            parse_shrinkage(text)


def test_published_figures(shared: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels = read_labels(shared / "data/official_csv/train_soundscapes_labels.csv")
    scores = shared / "data/real_soundscape_scores/perch_raw_and_prior_oof_59files.npz"
    matched = match(read_table(f"{scores}:perch_raw_logits"), labels)
    log_odds = held_out_log_odds(labels, matched, "recording")
    scored = matched.present.any(axis=0)
    for strength, expected in ((0.0, 0.7390), (0.1, 0.8158), (0.3, 0.8097), (0.5, 0.8010), (1.0, 0.7793)):
        boosted = matched.scores + strength * log_odds
        auc = metrics.roc_auc_score(matched.present[:, scored], boosted[:, scored], average="macro")
        assert auc == pytest.approx(expected, abs=6e-5)
    judge = Judge.of(matched, 1)
    smooth = run_chain(Chain(("gaussian",)), judge.logits, judge.offsets, log_odds, (), 1.0)
    assert judge.pooled(smooth)[0] == pytest.approx(0.7455, abs=6e-5)
    taxonomy = Taxonomy.read(shared / "data/official_csv/taxonomy.csv").select(matched.classes)
    groups = taxonomy_groups(taxonomy, PostprocessOptions())
    pulled = run_chain(Chain(("taxonomy",)), judge.logits, judge.offsets, log_odds, groups, 1.0)
    assert judge.pooled(pulled)[0] == pytest.approx(0.7466, abs=6e-5)
