"""Values of post-processing, chosen as plain loops over sites and candidates would choose them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bce.engine.errors import OptionsError, TableError
from bce.engine.post.options import PostprocessOptions, tuned_options
from bce.engine.tables.scores import ScoreTable, write_scores
from bce.engine.taxonomy import Taxonomy
from bce.tools.commands.tools import main
from bce.tools.data.labels import read_labels
from bce.tools.judge.matching import match, read_table
from bce.tools.judge.options import TuneOptions
from bce.tools.judge.prior_study import Judge
from bce.tools.judge.tuning import candidates, tune

CLASSES = ("a", "b", "c")
FEW = TuneOptions(strengths=(0.4,), unknown_shares=(0.5,), sigmas=(1.0,), amounts=(0.2,), resamples=20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sites of three recordings of six windows. Class a sings at S01 alone, b in runs, c anywhere."""
    rng = np.random.default_rng(4)
    lines, ids, scores = ["filename,start,end,primary_label"], [], []
    for number in range(9):
        site, start = number % 3, int(rng.integers(6))
        stem = f"BC2026_Train_{number + 1:04}_S0{1 + site}_20250101_0{number}0000"
        for chunk in range(6):
            present = [site == 0 and rng.random() < 0.6, start <= chunk < start + 3, rng.random() < 0.3]
            names = ";".join(c for c, there in zip(CLASSES, present, strict=True) if there)
            lines.append(f"{stem}.ogg,{5 * chunk},{5 * chunk + 5},{names}")
            ids.append(f"{stem}_{5 * chunk + 5}")
            scores.append(1.2 * np.array(present) + rng.normal(size=3))
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    write_scores(tmp_path / "scores.csv", ScoreTable(tuple(ids), CLASSES, np.array(scores)))
    (tmp_path / "taxonomy.csv").write_text("primary_label,scientific_name,class_name\na,X a,A\nb,X b,A\nc,Y c,A\n")
    return tmp_path


def test_the_choice_is_that_of_plain_loops(folder: Path, plain: ModuleType) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels = read_labels(folder / "labels.csv")
    matched = match(read_table(str(folder / "scores.csv")), labels)
    taxonomy = Taxonomy.read(folder / "taxonomy.csv")
    tuned = tune(Judge.of(matched, FEW.resamples), labels, taxonomy, FEW)
    tried = candidates(FEW, taxonomy)
    assert tuned.tried == len(tried) == 2 * 3 * 4 + 1
    assert tried[0] == PostprocessOptions.raw()
    assert tried[-1] == PostprocessOptions()

    sites, stems = np.array(matched.sites), np.array(matched.stems)
    everything = [
        (r.stem, r.site, hour, {CLASSES.index(label) for label in present})
        for r, hour, present in zip(labels.recordings, labels.hours, labels.labels, strict=True)
    ]

    def log_odds(unlabelled: str) -> np.ndarray:
        rows = []
        for row, recording in enumerate(matched.recordings):
            kept = [w[1:] for w in everything if w[0] != recording.stem and w[1] != unlabelled]
            hour = plain.chunk_hour(recording.start_time, matched.start_s[row])
            rows.append(plain.prior_log_odds(kept, 3, recording.site, hour))
        return np.array(rows)

    offsets = np.arange(0, 55, 6)
    tables = {name: log_odds(name) for name in ("S01", "S02", "S03")}

    @cache
    def scores(values: PostprocessOptions, unlabelled: str) -> np.ndarray:
        strength = np.where(sites == unlabelled, values.prior_unknown, values.prior_known)
        logits = matched.scores + strength[:, None] * tables[unlabelled]
        if values.sigma and values.smooth_on == "logits":
            logits = plain.gaussian(logits, offsets, values.sigma)
        p = plain.sigmoid(logits)
        if values.sigma and values.smooth_on == "probabilities":
            p = plain.gaussian(p, offsets, values.sigma)
        for level, amount in values.taxonomy:
            p = plain.taxonomy(p, {"genus": ["X", "X", "Y"], "class": ["A", "A", "A"]}[level], amount)
        return p

    def auc(values: PostprocessOptions, unlabelled: str, rows: np.ndarray) -> float:
        present, p = matched.present[rows], scores(values, unlabelled)[rows]
        both = present.any(axis=0) & ~present.all(axis=0)
        return float(np.mean([metrics.roc_auc_score(present[:, c], p[:, c]) for c in np.flatnonzero(both)]))

    def plainest(aucs: list[float]) -> int:
        """The fewest steps, then the smallest values, of all that are not worse by more than 0.0005."""
        near = [i for i, value in enumerate(aucs) if value >= max(aucs) - 0.0005]
        steps = [(v.prior_known > 0) + (v.sigma > 0) + sum(a > 0 for _, a in v.taxonomy) for v in tried]
        near = [i for i in near if steps[i] == min(steps[j] for j in near)]
        return sorted(
            near, key=lambda i: (tried[i].sigma, tried[i].prior_known, sum(dict(tried[i].taxonomy).values()))
        )[0]

    every = np.ones(len(stems), bool)
    pooled = [np.mean([auc(values, name, every) for name in tables]) for values in tried]
    chosen = plainest(pooled)
    assert tuned.chosen == tried[chosen]
    assert tuned.pooled.auc == pytest.approx(pooled[chosen])
    assert tuned.defaults.auc == pytest.approx(pooled[-1])
    assert tuned.pooled.before == tuned.defaults.before == pytest.approx(pooled[0])
    inside, raw = [], []
    for name in tables:
        others = [other for other in tables if other != name]
        without = [np.mean([auc(values, other, sites != name) for other in others]) for values in tried]
        inside.append(auc(tried[plainest(without)], name, sites == name))
        raw.append(auc(tried[0], name, sites == name))
    assert (tuned.unseen.auc, tuned.unseen.before) == pytest.approx((np.mean(inside), np.mean(raw)))


def test_the_command_writes_what_a_manifest_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", f"{folder}/labels.csv", f"--scores={folder}/scores.csv", f"--taxonomy={folder}/taxonomy.csv",
               f"--out={folder}/post.json", "--strengths=0.4", "--sigmas=1", "--amounts=0.2",
               "--resamples=20"]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "54 rows of 9 recordings at 3 sites" in said
    post = json.loads((folder / "post.json").read_text())
    values = tuned_options(post)  # exactly what bce-export --post and a bundle's manifest are read by
    assert f"prior {values.prior_known:g} at sites with labels, {values.prior_unknown:g} at others" in said
    assert set(post) == {"prior_known", "prior_unknown", "sigma", "smooth_on", "taxonomy", "exclude"}
    assert values.sigma == 1.0  # b sings in runs


def test_too_few_sites_are_refused(folder: Path) -> None:
    labels = read_labels(folder / "labels.csv")
    matched = match(read_table(str(folder / "scores.csv")), labels)
    taxonomy = Taxonomy.read(folder / "taxonomy.csv")
    site = np.array(matched.sites)
    with pytest.raises(TableError, match="all rows are of the site 'S02'"):
        tune(Judge.of(matched.take(np.flatnonzero(site == "S02")), 2), labels, taxonomy, FEW)
    quiet = replace(matched, present=matched.present & (site == "S02")[:, None])
    with pytest.raises(TableError, match="without the site 'S02' no class has positives and negatives"):
        tune(Judge.of(quiet, 2), labels, taxonomy, FEW)
    with pytest.raises(TableError, match="no class has both positives and negatives"):
        Judge.of(replace(matched, present=np.zeros_like(matched.present)), 2)


@pytest.mark.parametrize("given", [{"sigmas": (-1.0,)}, {"strengths": (float("nan"),)}, {"amounts": (1.5,)},
                                   {"unknown_shares": (float("nan"),)}, {"resamples": 0}])  # fmt: skip
def test_options_out_of_range_are_refused(given: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(OptionsError):
        TuneOptions(**given)  # type: ignore[arg-type]
