"""Heads that are trained here, as torch modules: block features in, logits out.

Two kinds. The **scalar mix** projects each block to a common width, adds them with softmax weights and classifies.
The **attention** head makes a token of each block, lets a learned [CLS] token attend to them in one pre-norm
transformer block, and classifies that. Both standardise each block's features with numbers kept in the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bce.engine.errors import OptionsError
from bce.engine.network.bundle import LOGITS

Kind = Literal["attention", "scalar_mix"]


@dataclass(frozen=True)
class HeadConfig:
    """The sizes of a head.

    Attributes:
        kind: "attention" or "scalar_mix".
        d: width that every block is projected to.
        ffn: width of the transformer block's feed-forward layer (attention only).
        heads: attention heads, a divisor of ``d`` (attention only).
        dropout: in training, in [0, 1).
    """

    kind: Kind = "attention"
    d: int = 256
    ffn: int = 512
    heads: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise OptionsError(f"head kind {self.kind!r} is unknown: choose {' or '.join(get_args(Kind))}")
        for name, value in (("d", self.d), ("ffn", self.ffn), ("heads", self.heads)):
            if not isinstance(value, int) or value < 1:
                raise OptionsError(f"head option {name} is {value!r}: expected a whole number from 1")
        if self.d % self.heads:
            raise OptionsError(f"head width d={self.d} is not a multiple of heads={self.heads}")
        if not 0 <= self.dropout < 1:
            raise OptionsError(f"head dropout is {self.dropout}: expected a number in [0, 1)")


PRESETS = {
    "attention": HeadConfig(),
    "small": HeadConfig(d=160, ffn=384),
    "scalar_mix": HeadConfig(kind="scalar_mix"),
}
"""Named sizes. ``small`` has 427,000 parameters over blocks 21, 24 and 25 for 234 classes, ``attention`` 849,000."""


class Standardise(nn.Module):
    """(x - mean) / std per feature; the identity until :meth:`fit` has seen features."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Take mean and standard deviation from features [n, width]; a constant feature keeps its scale."""
        std = features.std(dim=0, correction=0)
        self.mean.copy_(features.mean(dim=0))
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Head(nn.Module):
    """What both kinds share: the config, and a :class:`Standardise` per block.

    ``forward`` takes the block features in the order of ``widths``, each float32 [batch, width], and returns logits
    [batch, classes].
    """

    def __init__(self, config: HeadConfig, widths: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.standardise = nn.ModuleList(Standardise(width) for width in widths)

    def fit(self, features: Sequence[Tensor]) -> None:
        """Set the standardisation from the training features, one tensor [n, width] per block."""
        for module, block_features in zip(self.standardise, features, strict=True):
            assert isinstance(module, Standardise)
            module.fit(block_features)

    def standardised(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [module(x) for module, x in zip(self.standardise, features, strict=True)]

    @property
    def kind(self) -> Kind:
        """What it is, for manifests."""
        return self.config.kind

    @property
    def runtime(self) -> str:
        """What runs it where it was trained."""
        return "torch"

    @property
    def parameter_count(self) -> int:
        """Trained numbers; the standardisation is not among them."""
        return sum(parameter.numel() for parameter in self.parameters())

    def write_mean(self, heads: Sequence[Head], blocks: Mapping[str, int], path: Path) -> None:
        """See :class:`bce.export.heads.base.TrainedHead`."""
        from bce.export.torch_graph import save, torch_to_onnx  # onnx, which training does without

        example = tuple(torch.zeros(2, width) for width in blocks.values())
        save(torch_to_onnx(FoldMean(heads), example, list(blocks), [LOGITS]), path)


class AttentionHead(Head):
    """[CLS] and a token per block through one pre-norm transformer block; [CLS] is classified."""

    def __init__(self, config: HeadConfig, widths: Sequence[int], classes: int) -> None:
        super().__init__(config, widths)
        d = config.d
        self.tokens = nn.ModuleList(nn.Sequential(nn.Linear(w, d), nn.LayerNorm(d), nn.GELU()) for w in widths)
        self.block_embedding = nn.Parameter(torch.randn(len(widths), d) * 0.02)
        self.cls = nn.Parameter(torch.randn(d) * 0.02)
        self.norm_attention = nn.LayerNorm(d)
        self.query = nn.Linear(d, d)
        self.key_value = nn.Linear(d, 2 * d)
        self.attended = nn.Linear(d, d)
        self.norm_ffn = nn.LayerNorm(d)
        self.ffn = nn.Sequential(
            nn.Linear(d, config.ffn), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(config.ffn, d)
        )
        self.norm_out = nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(d, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        tokens = torch.stack(
            [token(x) for token, x in zip(self.tokens, self.standardised(features), strict=True)], dim=1
        )
        tokens = self.dropout(tokens + self.block_embedding)
        cls = self.cls.expand(tokens.shape[0], 1, -1)
        # one block only: nothing reads the other tokens behind it, so [CLS] alone asks
        cls = cls + self.dropout(self._attention(torch.cat([cls, tokens], dim=1)))
        cls = cls + self.dropout(self.ffn(self.norm_ffn(cls)))
        return self.classifier(self.norm_out(cls.squeeze(1)))

    def _attention(self, tokens: Tensor) -> Tensor:
        """What [CLS], the first of tokens [batch, n, d], takes from all of them: [batch, 1, d]."""
        tokens = self.norm_attention(tokens)
        shape = (self.config.heads, self.config.d // self.config.heads)
        query = self.query(tokens[:, :1]).unflatten(2, shape).transpose(1, 2)
        key, value = (x.unflatten(2, shape).transpose(1, 2) for x in self.key_value(tokens).chunk(2, dim=2))
        scores = query @ key.transpose(2, 3) * shape[1] ** -0.5
        mixed = self.dropout(scores.softmax(dim=3)) @ value
        return self.attended(mixed.transpose(1, 2).flatten(2))


class ScalarMixHead(Head):
    """Each block projected to one width, added with learned softmax weights, classified."""

    def __init__(self, config: HeadConfig, widths: Sequence[int], classes: int) -> None:
        super().__init__(config, widths)
        self.project = nn.ModuleList(nn.Linear(width, config.d) for width in widths)
        self.mix = nn.Parameter(torch.zeros(len(widths)))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.d, classes)

    def block_weights(self) -> Tensor:
        """The share of each block, [blocks], summing to 1."""
        return F.softmax(self.mix, dim=0)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        projected = [project(x) for project, x in zip(self.project, self.standardised(features), strict=True)]
        mixed = (torch.stack(projected, dim=2) * self.block_weights()).sum(dim=2)
        return self.classifier(self.dropout(mixed))


def build_head(config: HeadConfig, widths: Sequence[int], classes: int) -> Head:
    """A head with fresh weights.

    Args:
        config: its kind and sizes.
        widths: the number of features of each block, in order: (232, 384, 384).
        classes: the number of logits.
    """
    kind = AttentionHead if config.kind == "attention" else ScalarMixHead
    return kind(config, widths, classes)


class FoldMean(nn.Module):
    """The mean of the folds' logits."""

    def __init__(self, folds: Sequence[Head]) -> None:
        super().__init__()
        self.folds = nn.ModuleList(folds)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack([fold(features) for fold in self.folds]).mean(dim=0)
