"""Heads learn what is there and nothing else: features of known worth, shuffled labels, telling sites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="training needs the extra bce[tools]")
pytest.importorskip("matplotlib", reason="its pictures need the extra bce[tools]")

from sklearn.metrics import roc_auc_score  # noqa: E402
from support.sounds import write_sound  # noqa: E402

from bce.engine.errors import OptionsError, TableError  # noqa: E402
from bce.engine.network.bundle import Bundle  # noqa: E402
from bce.engine.network.default import DEFAULT_BUNDLE  # noqa: E402
from bce.export.heads.checkpoints import load_checkpoint  # noqa: E402
from bce.export.heads.modules import PRESETS, HeadConfig  # noqa: E402
from bce.export.heads.trained_on import sample_features  # noqa: E402
from bce.tools.commands import tools as cli  # noqa: E402
from bce.tools.commands import train as command  # noqa: E402
from bce.tools.data.synth.dataset import write_dataset  # noqa: E402
from bce.tools.data.synth.options import SynthOptions  # noqa: E402
from bce.tools.judge.head_report import accuracy, disagreement, report_lines  # noqa: E402
from bce.tools.learn.examples import Examples, split  # noqa: E402
from bce.tools.learn.folds import mean_out_of_fold, out_of_fold  # noqa: E402
from bce.tools.learn.options import BackboneOptions, TrainOptions  # noqa: E402
from bce.tools.learn.training import FoldResult, Sampler, block_weights, train_one  # noqa: E402
from bce.tools.learn.training_set import TrainingSet, read_training_set  # noqa: E402

SMALL = HeadConfig(d=16, ffn=16, heads=2)
FAST = TrainOptions(head=SMALL, folds=3, epochs=25, batch=64, learning_rate=1e-2, threads=1)
CLASSES = 4


def silent(line: object) -> None:
    pass


def make(clips: int = 60, soundscapes: int = 24, sites: int = 6, strength: float = 3.0, seed: int = 0) -> Examples:
    """Clips of two chunks and soundscapes of four. ``block_b`` knows the classes, ``block_a`` knows nothing."""
    rng = np.random.default_rng(seed)
    of_clip = np.repeat(np.arange(clips), 2)
    of_scape = np.repeat(np.arange(soundscapes), 4)
    present = np.concatenate(
        [np.eye(CLASSES, dtype=bool)[of_clip % CLASSES], rng.random((len(of_scape), CLASSES)) < 0.3]
    )
    n = len(present)
    directions = rng.standard_normal((CLASSES, 10))
    return Examples(
        {
            "block_a": rng.standard_normal((n, 6)).astype(np.float32),
            "block_b": (strength * present @ directions + rng.standard_normal((n, 10))).astype(np.float32),
        },
        present,
        np.ones_like(present),
        np.concatenate([of_clip, clips + of_scape]),
        np.array([""] * len(of_clip) + [f"S{i % sites}" for i in of_scape]),
        np.arange(n) >= len(of_clip),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99), st.sampled_from(["recording", "site"]))
def test_groups_stay_whole_and_every_fold_has_its_share(folds: int, seed: int, by: str) -> None:
    examples = make()
    fold = split(examples, folds, by, seed)  # type: ignore[arg-type]
    assert set(fold.tolist()) == set(range(folds))
    for recording in np.unique(examples.recording):
        assert len(set(fold[examples.recording == recording].tolist())) == 1
    if by == "site":
        for site in np.unique(examples.site[examples.soundscape]):
            assert len(set(fold[examples.soundscape & (examples.site == site)].tolist())) == 1
    for number in range(folds):
        clips = examples.present[(fold == number) & ~examples.soundscape]
        assert (clips.sum(axis=0) > 0).all()


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(OptionsError, match="2 sites cannot make 3 folds"):
        split(make(sites=2), 3, "site", 0)
    with pytest.raises(OptionsError, match="recordings cannot make"):
        split(make(clips=4, soundscapes=0), 5, "recording", 0)


def test_batches_have_their_share_of_soundscapes_and_every_class_alike() -> None:
    examples = make()
    rare = np.flatnonzero(examples.present[:, 0] & ~examples.soundscape)[2:]
    examples = examples.take(np.setdiff1d(np.arange(len(examples)), rare))  # one clip of class 0 is left
    rng = np.random.default_rng(0)
    sampler = Sampler(examples, replace(FAST, batch=100, soundscape_share=0.2))
    batches = [sampler.draw(rng) for _ in range(50)]
    assert all(examples.soundscape[rows].sum() == 20 for rows in batches)
    drawn = np.concatenate(batches)
    of_class = examples.present[drawn[~examples.soundscape[drawn]]].mean(axis=0)
    np.testing.assert_allclose(of_class, 1 / CLASSES, atol=0.03)
    only_clips = Sampler(examples.take(~examples.soundscape), FAST).draw(rng)
    assert len(only_clips) == FAST.batch


@pytest.mark.parametrize("kind", ["attention", "scalar_mix"])
def test_a_head_learns_what_is_there_and_not_shuffled_labels(kind: str) -> None:
    options = replace(FAST, head=replace(SMALL, kind=kind), epochs=5)
    examples = make()
    rows = examples.soundscape
    lines: list[dict[str, float]] = []
    logits = out_of_fold(examples, options, lines.append, lambda result: None)
    auc = roc_auc_score(examples.present[rows], logits[rows], average="macro")
    assert auc > 0.95
    assert accuracy(examples, logits) > 0.9
    assert {line["fold"] for line in lines} == {0, 1, 2}
    order = np.random.default_rng(1).permutation(len(examples))
    shuffled = replace(examples, present=examples.present[order])
    logits = out_of_fold(shuffled, options, lambda line: None, lambda result: None)
    assert 0.35 < roc_auc_score(shuffled.present[rows], logits[rows], average="macro") < 0.65


def test_the_weights_of_a_scalar_mix_name_the_block_that_knows() -> None:
    examples = make()
    options = replace(FAST, head=replace(SMALL, kind="scalar_mix", dropout=0.0), epochs=60, patience=60)
    result = train_one(examples, np.arange(0, len(examples), 5), options)
    weights = block_weights(result.head, examples)
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["block_b"] > 0.6


def test_attention_weights_are_those_of_the_forward_pass() -> None:
    """Against the softmax that the head itself multiplies values with, caught on its way through dropout."""
    examples = make()
    head = train_one(examples, np.arange(30), replace(FAST, epochs=1)).head
    caught: list[torch.Tensor] = []
    handle = head.dropout.register_forward_hook(lambda module, inputs, output: caught.append(inputs[0]))
    with torch.no_grad():
        head([torch.from_numpy(x) for x in examples.features.values()])
    handle.remove()
    softmax = next(x for x in caught if x.ndim == 4)  # [rows, heads, 1, 1 + blocks]
    mean = softmax.mean(dim=(0, 1, 2))[1:]
    weights = block_weights(head, examples)
    np.testing.assert_allclose(list(weights.values()), mean / mean.sum(), rtol=1e-5)


def test_equal_seeds_give_equal_heads() -> None:
    examples = make()
    options = replace(FAST, epochs=2, mixup=0.4)
    first, second = (train_one(examples, np.arange(40), options) for _ in range(2))
    np.testing.assert_array_equal(first.logits, second.logits)
    other = train_one(examples, np.arange(40), replace(options, seed=1))
    assert not np.array_equal(first.logits, other.logits)


def test_rows_that_are_not_known_teach_nothing() -> None:
    """Class 3's labels are inverted on half of the rows; told so, the head does not listen to them."""
    examples = make(soundscapes=60)
    wrong = np.zeros_like(examples.present)
    wrong[::2, 3] = True
    held = np.arange(len(examples) - 80, len(examples))
    wrong[held] = False
    lying = replace(examples, present=examples.present ^ wrong)
    listens = train_one(lying, held, FAST)
    knows = train_one(replace(lying, known=~wrong), held, FAST)
    truth = examples.present[held, 3]
    assert roc_auc_score(truth, knows.logits[:, 3]) > 0.95
    assert roc_auc_score(truth, listens.logits[:, 3]) < roc_auc_score(truth, knows.logits[:, 3])


def test_a_site_that_gives_itself_away_raises_the_warning() -> None:
    """The features tell the site and each site has classes of its own: out of fold is easy, a new site is not."""
    rng = np.random.default_rng(3)
    examples = make(clips=0, soundscapes=60, sites=5)
    site = np.unique(examples.site, return_inverse=True)[1]
    rates = rng.permuted(np.tile([0.02, 0.02, 0.9, 0.9, 0.4], (CLASSES, 1)), axis=1).T[site]
    present = rng.random(rates.shape) < rates
    telling = {name: (8 * np.eye(5)[site] @ rng.standard_normal((5, x.shape[1]))).astype(np.float32) + x * 0.1
               for name, x in examples.features.items()}  # fmt: skip
    examples = replace(examples, features=telling, present=present)
    lines = warned(examples)
    assert any("**Warning:**" in line for line in lines)
    honest = make(clips=0, soundscapes=60, sites=5)
    assert not any("Warning" in line for line in warned(honest))


def warned(examples: Examples) -> list[str]:
    quiet = (lambda line: None, lambda result: None)
    options = replace(FAST, epochs=3)
    oof = out_of_fold(examples, options, *quiet)
    by_site = out_of_fold(examples, replace(options, group_by="site", folds=5), *quiet)
    low, high = disagreement(examples, oof, by_site)
    assert low <= high
    data = TrainingSet(examples, tuple("abcd"), (), {})
    return report_lines(data, FAST, {"recording": oof, "site": by_site}, [0.5], [{"block_a": 0.5, "block_b": 0.5}])


def test_the_command_trains_folds_that_hear_and_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", SynthOptions(species=4, clips_per_species=6, train_soundscapes=12,
                                                  test_soundscapes=0, duration_s=15, jobs=1))  # fmt: skip
    arguments = ["train", str(tmp_path / "data"), "--bundle", str(DEFAULT_BUNDLE), "--cache", str(tmp_path / "cache"),
                 "--out", str(tmp_path / "out"), "--d", "16", "--ffn", "16", "--folds", "3", "--epochs", "5", "--batch",
                 "32", "--learning-rate", "0.005", "--score-shifts", "0,1", "--threads", "1", "--quiet"]  # fmt: skip
    assert cli.main(arguments) == 0
    assert "Out of fold minus held-out site" in capsys.readouterr().out
    folds = [load_checkpoint(path) for path in sorted((tmp_path / "out").glob("fold_*.safetensors"))]
    assert len(folds) == 3
    assert "synthetic" in folds[0].notice
    assert list(folds[0].blocks) == ["block_21", "block_24", "block_25"]
    bundle = Bundle.load(DEFAULT_BUNDLE)
    sample = sample_features(bundle.backbone(), bundle.frontend(), bundle.manifest.window, list(folds[0].blocks))
    assert [fold.sample for fold in folds] == [sample] * 3
    with np.load(tmp_path / "out" / "out_of_fold.npz") as saved:
        logits, ids = saved["logits"], saved["row_ids"]
        np.testing.assert_array_equal(saved["by_recording"], logits)
        assert saved["by_site"].shape == logits.shape
    assert logits.shape == (len(ids), 4)
    assert np.mean([fold.facts["auc"] for fold in folds]) > 0.75
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(arguments) == 2  # the folder is not empty
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "data", "--out=here"], "here: is a file, expected a folder"),
        (["train", "data", "--out=out", "--cache=here"], "here: is a file, expected a folder"),
        (["train", "data", "--out=out", "--learning-rate=nan"], "learning rate is nan, it must be"),
        (["train", "data", "--out=out", "--score-shifts=9"], "shifts '9': expected"),
        (["train", "data", "--out=out", "--score-heads=0"], "score heads is 0, it must be 1 to 1000"),
        (["train", "data", "--out=out", "--d=99999999996"], "d is 99999999996, it must be 1 to"),
        (["backbone", "data", "--out=here/b.onnx"], "here: is a file, expected a folder"),
        (["backbone", "data", "--out=b.txt"], "b.txt: expected the name of an ONNX file"),
        (["backbone", "data", "--out=b.onnx", "--learning-rate=nan"], "learning rate is nan"),
        (["synth", "--out=here"], "here: is a file, expected a folder"),
        (["synth", "--out=out", "--jobs=100000"], "jobs is 100000, it must be"),
        (["features", "data", "--cache=here"], "here: is a file, expected a folder"),
        (["features", "data", "--threads=99999999999"], "threads is 99999999999, it must be 1 to 1024"),
    ],
)
def test_commands_refuse_before_anything_runs(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    """There is no data: what is wrong with the options is said first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_out_of_fold_scores_are_a_mean_over_shifted_windows() -> None:
    """The heads are the same: what they say of other windows of the rows is averaged."""
    examples = make(clips=10, soundscapes=12)
    options = replace(FAST, epochs=1)
    heads = []
    out_of_fold(examples, options, lambda line: None, heads.append)
    rng = np.random.default_rng(2)
    shifted = [replace(examples, features={n: x + rng.standard_normal(x.shape).astype(np.float32)
                                           for n, x in examples.features.items()}) for _ in range(2)]  # fmt: skip
    found = out_of_fold(examples, options, lambda line: None, lambda result: None, shifted)
    for fold in heads:
        with torch.no_grad():
            each = [fold.head([torch.from_numpy(x[fold.rows]) for x in of.features.values()]) for of in shifted]
        np.testing.assert_allclose(found[fold.rows], (each[0] + each[1]) / 2, atol=1e-5)


def test_out_of_fold_scores_are_a_mean_over_heads_that_have_not_seen_the_row() -> None:
    """Against trainings with each seed alone; the first one's heads are those that are kept and logged."""
    examples = make(clips=10, soundscapes=12)
    options = replace(FAST, epochs=1, seed=7, group_by="site")
    shifted = (examples, replace(examples, features={name: x + 1 for name, x in examples.features.items()}))
    heads: list[FoldResult] = []
    alone = [out_of_fold(examples, replace(options, seed=seed), silent, heads.append, shifted) for seed in (7, 10)]
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    kept: list[FoldResult] = []
    lines: list[object] = []
    others: list[object] = []
    two = replace(options, score_heads=2)
    found = mean_out_of_fold(examples, two, lines.append, kept.append, shifted, others.append)
    np.testing.assert_allclose(found, (alone[0] + alone[1]) / 2, rtol=1e-5, atol=1e-6)
    assert len(kept) == len(lines) == len(others) == options.folds
    for fold, first in zip(kept, heads, strict=False):
        np.testing.assert_array_equal(fold.logits, first.logits)


def test_after_the_largest_seed_comes_0() -> None:
    last = TrainOptions(seed=2**32 - 1)
    assert [last.seeded(n).seed for n in range(3)] == [2**32 - 1, 0, 1]
    examples = make(clips=10, soundscapes=12)
    options = replace(FAST, epochs=1, seed=2**32 - 1)
    heads: list[FoldResult] = []
    out_of_fold(examples, options, silent, heads.append)
    assert len(heads) == options.folds


@pytest.mark.parametrize("options", [TrainOptions, BackboneOptions])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_rates_that_are_no_rates_are_refused(options: type, value: float) -> None:
    for name in {"learning_rate", "weight_decay", "soundscape_share", "mixup", "mix", "gain_db", "width"}:
        if hasattr(options, name):
            with pytest.raises(OptionsError, match=name.replace("_", " ")):
                options(**{name: value})


def test_the_command_offers_every_preset() -> None:
    assert tuple(PRESETS) == command.HEADS


def test_labels_of_windows_that_the_network_does_not_hear_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", SynthOptions(species=4, clips_per_species=1, train_soundscapes=1, test_soundscapes=0,
                                               duration_s=10, jobs=1))  # fmt: skip
    table = tmp_path / "d" / "train_soundscapes_labels.csv"
    header, first, *_ = table.read_text().splitlines()
    table.write_text(f"{header}\n{first.replace('00:00:05', '00:00:03')}\n")
    with pytest.raises(TableError, match="labels windows of 3 s, the network hears 5 s"):
        read_training_set(tmp_path / "d", Bundle.load(DEFAULT_BUNDLE), tmp_path / "cache")


def test_a_class_of_which_no_clip_can_be_read_is_refused(tmp_path: Path) -> None:
    for name in ("frog", "owl"):
        (tmp_path / "d" / name).mkdir(parents=True)
    write_sound(tmp_path / "d" / "frog" / "1.wav", 5.0, 1)
    (tmp_path / "d" / "owl" / "1.wav").write_bytes(b"no sound")
    with pytest.raises(OptionsError, match="none of the 1 clips of the class 'owl' can be read") as caught:
        read_training_set(tmp_path / "d", Bundle.load(DEFAULT_BUNDLE), tmp_path / "cache")
    assert "owl/1.wav: " in str(caught.value)
