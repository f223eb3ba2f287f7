"""Checkpoints come back as they were, and damaged ones are refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.damage import damaged

torch = pytest.importorskip("torch", reason="heads need the extra bce[export]")

from bce.engine.errors import ExportError, OptionsError  # noqa: E402
from bce.export.heads.checkpoints import (  # noqa: E402
    METADATA,
    HeadCheckpoint,
    agreeing_folds,
    load_checkpoint,
    save_checkpoint,
)
from bce.export.heads.modules import HeadConfig, build_head  # noqa: E402

BLOCKS = {"block_21": 10, "block_24": 14, "block_25": 6}
WIDTHS = tuple(BLOCKS.values())
LABELS = ("a", "b", "c", "d", "e")


SIZES = HeadConfig(d=16, ffn=24)


def checkpoint(config: HeadConfig = SIZES, seed: int = 0, **changes: Any) -> HeadCheckpoint:
    torch.manual_seed(seed)
    head = build_head(config, WIDTHS, len(LABELS))
    head.fit([3 + 2 * torch.randn(50, width) for width in WIDTHS])
    made = HeadCheckpoint(head.eval(), LABELS, BLOCKS, "none", "a notice", {"auc": 0.9, "seed": seed})
    return dataclasses.replace(made, **changes)


def features(batch: int = 7, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, generator=generator) for width in WIDTHS]


@pytest.mark.parametrize("name", ["head.safetensors", "head.pt"])
@pytest.mark.parametrize("kind", ["attention", "scalar_mix"])
def test_checkpoints_come_back_as_they_were(tmp_path: Path, name: str, kind: Any) -> None:
    sample = {block: tuple(0.1 * place for place in range(width)) for block, width in BLOCKS.items()}
    saved = checkpoint(HeadConfig(kind=kind, d=16, ffn=24, dropout=0.2), preparation="hoplite", sample=sample)
    save_checkpoint(tmp_path / name, saved)
    loaded = load_checkpoint(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (loaded.head.config, loaded.labels, loaded.blocks) == (saved.head.config, saved.labels, saved.blocks)
    assert (loaded.preparation, loaded.notice, loaded.facts) == ("hoplite", "a notice", saved.facts)
    assert list(loaded.blocks) == list(BLOCKS)
    assert loaded.sample == sample
    assert loaded.path == str(tmp_path / name)
    assert not loaded.head.training
    with torch.no_grad():
        assert torch.equal(loaded.head(features()), saved.head(features()))


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    plain, zipped = tmp_path / "plain.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps({METADATA: Bomb(), "state": {}}))
    torch.save({METADATA: Bomb(), "state": {}}, zipped)
    for path in (plain, zipped):
        with pytest.raises(ExportError, match="not a safe torch file"):
            load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def damage(path: Path, change: Any) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["state"].pop("cls"), "lacks the tensor 'cls'"),
        (lambda c: c["state"].update(cls=torch.zeros(3)), r"'cls': expected shape \(16,\), found \(3,\)"),
        (lambda c: c["state"].update(more=torch.zeros(3)), "unknown tensor 'more'"),
        (lambda c: c["state"]["cls"].fill_(float("nan")), "'cls' holds NaN"),
        (lambda c: c["state"]["cls"].fill_(0.5), "numbers are not those that were written"),
        (
            lambda c: c.update({METADATA: c[METADATA].replace('"sample": {}', '"sample": {"block_21": [1]}')}),
            "sample window",
        ),
        (lambda c: c["state"].update(cls="text"), "'cls': expected a dense tensor of floats"),
        (lambda c: c.update(state=3), "holds no tensors by name"),
        (lambda c: c.pop(METADATA), "not a head checkpoint"),
        (lambda c: c.update({METADATA: "{"}), "not a head checkpoint"),
        (lambda c: c.update({METADATA: c[METADATA].replace('"none"', '"loud"')}), "preparation 'loud'"),
        (lambda c: c.update({METADATA: c[METADATA].replace('"d": 16', '"d": 15')}), "d=15 is not a multiple"),
        (lambda c: c.update({METADATA: c[METADATA].replace('"format": 1', '"format": 9')}), "format 9"),
        (lambda c: c.update({METADATA: c[METADATA].replace('"labels"', '"names"')}), "labels"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "head.pt"
    save_checkpoint(path, checkpoint())
    damage(path, change)
    with pytest.raises(ExportError, match=message) as raised:
        load_checkpoint(path)
    assert raised.value.path == str(path)


@pytest.mark.parametrize("name", ["head.safetensors", "head.pt"])
@pytest.mark.filterwarnings("error")
def test_no_damage_ends_in_a_traceback_or_in_other_numbers(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path, rng = tmp_path / name, np.random.default_rng(0)
    saved = checkpoint()
    save_checkpoint(path, saved)
    whole = path.read_bytes()
    with torch.no_grad():
        expected = saved.head(features())
    refusals = []
    for trial in range(80):
        path.write_bytes(damaged(whole, trial, rng))
        try:
            loaded = load_checkpoint(path)
        except ExportError as error:
            refusals.append(str(error))
        else:  # what was damaged is padding, or a figure that nothing is computed from
            with torch.no_grad():
                assert torch.equal(loaded.head(features()), expected)
    assert len(refusals) > 60
    for text in refusals:
        assert text.startswith(f"{path}: ")
        assert "weights_only" not in text
        assert text.isprintable()  # no line break, no escape code
    assert capfd.readouterr() == ("", "")


def test_sizes_are_not_believed(tmp_path: Path) -> None:
    """A head of 4 TB is refused by its tensors, before there is memory for it."""
    path = tmp_path / "head.pt"
    save_checkpoint(path, checkpoint())
    damage(path, lambda c: c.update({METADATA: c[METADATA].replace('"ffn": 24', '"ffn": 60000000000')}))
    with pytest.raises(ExportError, match=r"'ffn.0.weight': expected shape \(60000000000, 16\)"):
        load_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    text, empty_zip, foreign = tmp_path / "a.pt", tmp_path / "b.pt", tmp_path / "c.safetensors"
    text.write_text("hello")
    zipfile.ZipFile(empty_zip, "w").close()
    save_file({"x": torch.zeros(2)}, foreign)
    broken = tmp_path / "d.safetensors"
    broken.write_bytes(foreign.read_bytes()[:-3])
    for path in (text, empty_zip, foreign, broken, tmp_path / "none.pt"):
        with pytest.raises(ExportError, match=path.name):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("a", "b", "c", "d", "x")}, "class 4 is 'x', expected 'e'"),
        ({"labels": ("a", "b", "c", "d")}, "4 classes, expected 5"),
        ({"preparation": "peak"}, "has the preparation peak, the first fold one.pt has none"),
        ({"blocks": {"block_20": 10, "block_24": 14, "block_25": 6}}, r"has the blocks block_20 \[10\]"),
        ({"config": HeadConfig(kind="scalar_mix", d=16)}, "has the kind scalar_mix"),
    ],
)
def test_folds_that_differ_are_refused(changes: dict[str, Any], message: str) -> None:
    config = changes.pop("config", HeadConfig(d=16, ffn=24))
    first, second = checkpoint(path="one.pt"), checkpoint(config, path="two.pt", **changes)
    assert agreeing_folds([first, checkpoint(seed=3)]) is first
    with pytest.raises(OptionsError, match=message) as raised:
        agreeing_folds([first, second])
    assert raised.value.path == "two.pt"


def test_a_fold_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """By its numbers: a copy has another name, and may have another form."""
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.pt")]
    for path, seed in zip(paths, (0, 1, 0), strict=True):
        save_checkpoint(path, checkpoint(seed=seed))
    with pytest.raises(OptionsError, match=r"is the same fold as .*a.safetensors") as raised:
        agreeing_folds([load_checkpoint(path) for path in paths])
    assert raised.value.path == str(paths[2])
