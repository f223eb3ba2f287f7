"""The kNN probe against scikit-learn and plain loops, on features whose answer is known."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn", reason="the probe's pictures need the extra bce[tools]")
pytest.importorskip("matplotlib", reason="the probe's pictures need the extra bce[tools]")

from sklearn.metrics.pairwise import cosine_distances, euclidean_distances
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from support.sounds import write_sound

from bce.engine.errors import OptionsError
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.tools.commands import tools as cli
from bce.tools.data.synth.dataset import write_dataset
from bce.tools.data.synth.options import SynthOptions
from bce.tools.judge.options import ProbeOptions
from bce.tools.judge.probe import distances, probe, top1, vote
from bce.tools.judge.probe_report import advice

RNG = np.random.default_rng(11)


def clusters(classes: int, clips: int, apart: float, width: int = 8) -> tuple[NDArray[np.float64], list[str]]:
    """Gaussian clusters of unit spread, ``apart`` from the origin in directions of their own."""
    centres = RNG.standard_normal((classes, width))
    centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
    x = np.repeat(centres, clips, axis=0) + RNG.standard_normal((classes * clips, width))
    return x, [f"species {i // clips}" for i in range(classes * clips)]


def test_distances_are_scikit_learns() -> None:
    x, y = RNG.standard_normal((7, 5)), RNG.standard_normal((4, 5))
    np.testing.assert_allclose(distances(x, y, "cosine"), cosine_distances(x, y), atol=1e-12)
    np.testing.assert_allclose(np.sqrt(distances(x, y, "euclidean")), euclidean_distances(x, y), atol=1e-7)


def test_one_neighbour_left_out_is_scikit_learns() -> None:
    x, names = clusters(4, 9, 2.0)
    labels = np.unique(names, return_inverse=True)[1]
    for metric in ("cosine", "euclidean"):
        model = KNeighborsClassifier(1, metric=metric, algorithm="brute")
        expected = cross_val_score(model, x, labels, cv=LeaveOneOut()).mean()
        assert top1(x, labels, metric, 1, None) == pytest.approx(expected)  # type: ignore[arg-type]


def test_votes_are_a_plain_count() -> None:
    distance = RNG.random((60, 25))
    labels = RNG.integers(0, 6, 25)
    found = vote(distance, labels, 5)
    for row, answer in zip(distance, found, strict=True):
        nearest = [int(labels[i]) for i in np.argsort(row)[:5]]
        most = max(Counter(nearest).values())
        assert answer == next(c for c in nearest if nearest.count(c) == most)


@pytest.mark.parametrize("method", ["leave-one-out", "split"])
def test_separable_features_are_right_and_shuffled_labels_are_chance(method: str) -> None:
    x, labels = clusters(6, 20, 8.0)
    options = ProbeOptions(classes=6, clips=16, repeats=4, method=method)  # type: ignore[arg-type]
    result = probe({"block_3": x}, labels, options)
    assert result.scores["cosine"].shape == (4, 1)
    assert result.scores["cosine"].mean() > 0.97
    assert result.scores["euclidean"].mean() > 0.97
    shuffled = probe({"block_3": x}, list(RNG.permutation(labels)), options)
    assert shuffled.scores["cosine"].mean() < 0.35  # chance is 0.17
    assert (result.classes, result.clips) == (6, 16)


def test_the_block_that_knows_is_advised_and_noise_is_not() -> None:
    good, labels = clusters(5, 20, 6.0)
    features = {f"block_{i}": RNG.standard_normal((100, 12)) for i in (19, 20, 22)} | {"block_23": good}
    result = probe(features, labels, ProbeOptions(classes=5, clips=18))
    assert result.advised == ("block_23",)
    assert result.ranking("cosine")[0][0] == "block_23"
    lines = advice(result, {"block_23": 0.7, "block_19": 0.3}, 26)
    assert "--blocks 23 " in lines[1]
    assert "export --blocks all" in lines[2]
    assert "block_23 0.70, block_19 0.30" in lines[3]


def test_two_blocks_that_know_halves_are_advised_together() -> None:
    """Four classes: one block tells the first bit, one the second, one nothing."""
    bits = np.repeat(np.arange(4), 20)
    first, second = (np.eye(2)[bit] * 8 + RNG.standard_normal((80, 2)) for bit in (bits // 2, bits % 2))
    features = {"block_1": first, "block_2": RNG.standard_normal((80, 2)), "block_3": second}
    result = probe(features, [str(b) for b in bits], ProbeOptions(classes=4, clips=20, repeats=1))
    assert set(result.advised) == {"block_1", "block_3"}
    assert result.joint[1] > result.joint[0] + 0.3


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionsError, match="neighbours is 0"):
        ProbeOptions(neighbours=0)
    with pytest.raises(OptionsError, match="manhattan"):
        ProbeOptions(metrics=("manhattan",))  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match="at least 2"):
        probe({"block_0": np.zeros((4, 3))}, ["a", "a", "a", "a"])


def test_the_command_hears_species_and_writes_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", SynthOptions(species=6, clips_per_species=6, train_soundscapes=0,
                                                  test_soundscapes=0, jobs=1))  # fmt: skip
    arguments = ["probe", str(tmp_path / "data"), "--bundle", str(DEFAULT_BUNDLE), "--cache", str(tmp_path / "cache"),
                 "--out", str(tmp_path / "out"), "--umap", "24", "--repeats", "2", "--quiet"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert "3 of 26 blocks" in capsys.readouterr().out
    with open(tmp_path / "out" / "probe.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["block"] for row in rows] == ["block_21", "block_24", "block_25"]
    assert max(float(row["cosine_mean"]) for row in rows) > 0.6  # chance is 0.17
    for picture in ("probe.png", "umap.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two classes of two clips each, and a clip in one of them that is none."""
    for number, name in enumerate(("frog/1", "frog/2", "owl/1", "owl/2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_sound(tmp_path / f"{name}.wav", 5.0, number)
    (tmp_path / "owl" / "broken.wav").write_bytes(b"no sound")
    return tmp_path


def test_clips_that_cannot_be_read_are_named_and_a_class_does_not_vanish(
    clips: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path_factory.mktemp("out")
    arguments = ["probe", str(clips), "--bundle", str(DEFAULT_BUNDLE), "--cache", str(out / "cache"), "--out",
                 str(out / "probe"), "--umap", "none", "--repeats", "1", "--threads", "1", "--quiet"]  # fmt: skip
    assert cli.main(arguments) == 0
    for text in (capsys.readouterr().out, (out / "probe" / "probe.md").read_text()):
        assert "left out 1 of 5 clips" in text
        assert "owl/broken.wav: " in text
    for name in ("1", "2"):
        (clips / "owl" / f"{name}.wav").write_bytes(b"no sound either")
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert "owl/1.wav: " in error
    assert "none of the 3 clips of the class 'owl' can be read" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--umap=99"], "umap '99': the bundle gives no block_99, only the blocks 21,24,25"),
        (["--out=here"], "here: is a file, expected a folder"),
        (["--cache=here/deeper"], "here/deeper: "),
        (["--threads=0"], "threads is 0"),
        (["--clips=0"], "clips is 0"),
        (["--compare-head=none.safetensors"], "none.safetensors: there is no such head checkpoint"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    assert cli.main(["probe", "no such data", "--bundle", str(DEFAULT_BUNDLE), "--out=out", *arguments]) == 2
    assert message in capsys.readouterr().err
