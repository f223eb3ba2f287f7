"""Heads against torch's own transformer layer, numpy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="heads need the extra bce[export]")

from torch import nn  # noqa: E402

from bce.engine.errors import OptionsError  # noqa: E402
from bce.export.heads.base import TrainedHead  # noqa: E402
from bce.export.heads.modules import PRESETS, FoldMean, Head, HeadConfig, build_head  # noqa: E402

WIDTHS, CLASSES = (10, 14, 6), 5
SIZES = HeadConfig(d=16, ffn=24)


def made(config: HeadConfig = SIZES, seed: int = 0) -> Head:
    torch.manual_seed(seed)
    head = build_head(config, WIDTHS, CLASSES)
    head.fit([3 + 2 * torch.randn(50, width) for width in WIDTHS])
    return head.eval()


def features(batch: int = 7, seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, generator=generator) for width in WIDTHS]


def test_attention_head_is_a_pre_norm_transformer_layer() -> None:
    head: Any = made()
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
    head: Any = made(HeadConfig(kind="scalar_mix", d=16))
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
    folds = [made(seed=seed) for seed in (0, 1, 2)]
    with torch.no_grad():
        expected = sum(fold(features()).double() for fold in folds) / 3
        assert torch.allclose(FoldMean(folds)(features()).double(), expected, atol=1e-6)


@pytest.mark.parametrize("bad", [{"kind": "mlp"}, {"d": 0}, {"heads": 3}, {"dropout": 1.0}, {"ffn": 1.5}])
def test_config_is_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        HeadConfig(**bad)


@pytest.mark.parametrize("kind", ["attention", "scalar_mix"])
def test_heads_are_what_exports_and_proofs_take(kind: Any) -> None:
    head: TrainedHead = made(HeadConfig(kind=kind, d=16))
    assert head.kind == kind
    state = made(HeadConfig(kind=kind, d=16)).state_dict()
    assert head.parameter_count == sum(x.numel() for name, x in state.items() if not name.startswith("standardise"))
    with torch.no_grad():
        assert head(features()).shape == (7, CLASSES)
