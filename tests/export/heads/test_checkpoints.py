"""Heads against torch's own transformer layer, numpy and scikit-learn; checkpoints against damage."""

from __future__ import annotations

import dataclasses
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="heads need the extra bce[export]")

from torch import nn  # noqa: E402

from bce.engine.errors import ExportError, OptionsError  # noqa: E402
from bce.export.heads.checkpoints import (  # noqa: E402
    METADATA,
    PRESETS,
    FoldMean,
    HeadCheckpoint,
    HeadConfig,
    agreeing_folds,
    build_head,
    load_checkpoint,
    save_checkpoint,
)

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


def test_attention_head_is_a_pre_norm_transformer_layer() -> None:
    head: Any = checkpoint().head
    d = head.config.d
    layer = nn.TransformerEncoderLayer(
        d, head.config.heads, head.config.ffn, activation="gelu", norm_first=True, batch_first=True
    ).eval()
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([head.query.weight, head.key_value.weight]),
            "self_attn.in_proj_bias": torch.cat([head.query.bias, head.key_value.bias]),
            "self_attn.out_proj.weight": head.attended.weight,
            "self_attn.out_proj.bias": head.attended.bias,
            "linear1.weight": head.ffn[0].weight,
            "linear1.bias": head.ffn[0].bias,
            "linear2.weight": head.ffn[3].weight,
            "linear2.bias": head.ffn[3].bias,
            "norm1.weight": head.norm_attention.weight,
            "norm1.bias": head.norm_attention.bias,
            "norm2.weight": head.norm_ffn.weight,
            "norm2.bias": head.norm_ffn.bias,
        }
    )
    with torch.no_grad():
        tokens = [head.cls.expand(7, d)]
        for k, x in enumerate(features()):
            x = (x - head.standardise[k].mean) / head.standardise[k].std
            linear, norm, _ = head.tokens[k]
            tokens.append(nn.functional.gelu(norm(linear(x))) + head.block_embedding[k])
        expected = head.classifier(head.norm_out(layer(torch.stack(tokens, dim=1))[:, 0]))
        found = head(features())
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.std() > 0.1


def test_scalar_mix_is_a_weighted_sum() -> None:
    head: Any = checkpoint(HeadConfig(kind="scalar_mix", d=16)).head
    with torch.no_grad():
        head.mix.copy_(torch.tensor([0.0, 1.0, -1.0]))
        found = head(features()).numpy()
    state = {name: tensor.numpy().astype(np.float64) for name, tensor in head.state_dict().items()}
    share = np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum()
    mixed = 0.0
    for k, x in enumerate(features()):
        x = (x.numpy() - state[f"standardise.{k}.mean"]) / state[f"standardise.{k}.std"]
        mixed = mixed + share[k] * (x @ state[f"project.{k}.weight"].T + state[f"project.{k}.bias"])
    expected = mixed @ state["classifier.weight"].T + state["classifier.bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(head.block_weights().detach().numpy(), share, rtol=1e-6)


def test_sizes_of_the_presets() -> None:
    count = {name: build_head(config, (232, 384, 384), 234).parameter_count for name, config in PRESETS.items()}
    assert count["small"] == pytest.approx(430_000, rel=0.02)
    d, ffn = 256, 512
    tokens = 1000 * d + 3 * d + 3 * 2 * d + 3 * d + d
    layer = 4 * (d * d + d) + 2 * d * ffn + ffn + d + 3 * 2 * d
    assert count["attention"] == tokens + layer + d * 234 + 234


def test_standardisation_is_that_of_scikit_learn() -> None:
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    head: Any = build_head(HeadConfig(d=16, ffn=24), WIDTHS, 5)
    training = [2 + 3 * x for x in features(40)]
    training[0][:, 2] = 5.0
    head.fit(training)
    for module, x in zip(head.standardise, training, strict=True):
        expected = preprocessing.StandardScaler().fit(x.double().numpy()).transform(x.double().numpy())
        np.testing.assert_allclose(module(x).numpy(), expected, atol=1e-5)


def test_fold_mean() -> None:
    folds = [checkpoint(seed=seed).head for seed in (0, 1, 2)]
    with torch.no_grad():
        expected = sum(fold(features()).double() for fold in folds) / 3
        assert torch.allclose(FoldMean(folds)(features()).double(), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["head.safetensors", "head.pt"])
@pytest.mark.parametrize("kind", ["attention", "scalar_mix"])
def test_checkpoints_come_back_as_they_were(tmp_path: Path, name: str, kind: Any) -> None:
    saved = checkpoint(HeadConfig(kind=kind, d=16, ffn=24, dropout=0.2), preparation="hoplite")
    save_checkpoint(tmp_path / name, saved)
    loaded = load_checkpoint(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert (loaded.config, loaded.labels, loaded.blocks) == (saved.config, saved.labels, saved.blocks)
    assert (loaded.preparation, loaded.notice, loaded.facts) == ("hoplite", "a notice", saved.facts)
    assert list(loaded.blocks) == list(BLOCKS)
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


@pytest.mark.parametrize("bad", [{"kind": "mlp"}, {"d": 0}, {"heads": 3}, {"dropout": 1.0}, {"ffn": 1.5}])
def test_config_is_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        HeadConfig(**bad)
