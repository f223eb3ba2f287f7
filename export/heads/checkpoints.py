"""Trained heads: block features in, logits out; and the files they are kept in.

Two kinds. The **scalar mix** projects each block to a common width, adds them with softmax weights and classifies.
The **attention** head makes a token of each block, lets a learned [CLS] token attend to them in one pre-norm
transformer block, and classifies that. Both standardise each block's features with numbers kept in the head.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bce.engine.errors import ExportError, OptionsError
from bce.engine.frontends.perch import Preparation

Kind = Literal["attention", "scalar_mix"]
METADATA = "bce_head"
"""The key under which a checkpoint keeps what is not a tensor, as JSON."""
FORMAT = 1


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
    def parameter_count(self) -> int:
        """Trained numbers; the standardisation is not among them."""
        return sum(parameter.numel() for parameter in self.parameters())


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


@dataclass(frozen=True)
class HeadCheckpoint:
    """A trained head and what must be known to use it.

    Attributes:
        head: in evaluation mode.
        labels: the classes in output order.
        blocks: width of each block's features by name, in the order that ``head`` takes them: {"block_21": 232, ...}.
        preparation: of the windows whose features it was trained on.
        notice: of the bundle whose features it was trained on, see ``Manifest.notice``.
        facts: what its training says of itself: figures, data, seed. Anything that JSON holds.
        path: the file it was read from.
    """

    head: Head
    labels: tuple[str, ...]
    blocks: dict[str, int]
    preparation: Preparation
    notice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    path: str | None = None

    @property
    def config(self) -> HeadConfig:
        return self.head.config


def save_checkpoint(path: str | os.PathLike[str], checkpoint: HeadCheckpoint) -> None:
    """Write a head as safetensors (``.safetensors``) or as a torch dictionary (any other ending), then rename.

    Neither can hold code: a checkpoint from anywhere is safe to load.
    """
    from safetensors.torch import save

    file = Path(path)
    metadata = json.dumps(
        {
            "format": FORMAT,
            "config": asdict(checkpoint.config),
            "labels": checkpoint.labels,
            "blocks": checkpoint.blocks,
            "preparation": checkpoint.preparation,
            "notice": checkpoint.notice,
            "facts": checkpoint.facts,
        }
    )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.head.state_dict().items()}
    partial = file.with_name(f"{file.name}.partial-{os.getpid()}")
    if file.suffix == ".safetensors":
        partial.write_bytes(save(state, {METADATA: metadata}))
    else:
        torch.save({METADATA: metadata, "state": state}, partial)
    os.replace(partial, file)


def load_checkpoint(path: str | os.PathLike[str]) -> HeadCheckpoint:
    """Read a head that :func:`save_checkpoint` wrote.

    Raises:
        ExportError: the file is missing, is not such a checkpoint, or its tensors do not fit its config.
    """
    file = Path(path)
    if not file.is_file():
        raise ExportError("there is no such head checkpoint", file)
    metadata, state = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    try:
        content = json.loads(metadata)
        if content["format"] != FORMAT:
            raise ExportError(f"is a head checkpoint of format {content['format']}, this version reads {FORMAT}", file)
        blocks = {str(name): int(width) for name, width in content["blocks"].items()}
        labels = tuple(map(str, content["labels"]))
        if not blocks or not labels:
            raise ExportError("is a head without blocks or without classes", file)
        if content["preparation"] not in get_args(Preparation):
            raise ExportError(f"has the unknown preparation {content['preparation']!r}", file)
        head = build_head(HeadConfig(**content["config"]), tuple(blocks.values()), len(labels))
        checkpoint = HeadCheckpoint(
            head, labels, blocks, content["preparation"], content["notice"], content["facts"], os.fspath(file)
        )
    except OptionsError as error:
        raise ExportError(error.reason, file) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"is not a head checkpoint: its description is wrong ({error!r})", file) from None
    _load_state(head, state, file)
    head.eval()
    return checkpoint


def _read_safetensors(file: Path) -> tuple[str, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"is not a safetensors file ({error})", file) from None
    if METADATA not in metadata:
        raise ExportError(f"is not a head checkpoint: its metadata has no '{METADATA}'", file)
    return metadata[METADATA], state


def _read_torch(file: Path) -> tuple[str, dict[str, Tensor]]:
    import pickle
    import zipfile

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ExportError(f"is not a safe torch file ({str(error).splitlines()[0]})", file) from None
    if not (isinstance(content, Mapping) and isinstance(content.get(METADATA), str) and "state" in content):
        raise ExportError(f"is not a head checkpoint: expected a dictionary with '{METADATA}' and 'state'", file)
    return content[METADATA], content["state"]


def _load_state(head: Head, state: Mapping[str, Tensor], file: Path) -> None:
    """Load the tensors, naming the first that does not fit."""
    expected = head.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise ExportError(f"lacks the tensor '{name}'", file)
        if state[name].shape != tensor.shape:
            raise ExportError(
                f"tensor '{name}': expected shape {tuple(tensor.shape)}, found {tuple(state[name].shape)}", file
            )
        if not torch.isfinite(state[name]).all():
            raise ExportError(f"tensor '{name}' holds NaN or infinity", file)
    unknown = sorted(set(state) - set(expected))
    if unknown:
        raise ExportError(f"has the unknown tensor '{unknown[0]}'", file)
    head.load_state_dict(dict(state))


def agreeing_folds(checkpoints: Sequence[HeadCheckpoint]) -> HeadCheckpoint:
    """The first of the folds of one head, when all agree on what must be one in ``head.onnx``.

    Raises:
        OptionsError: naming the fold that differs from the first, in what, and both values.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for what, a, b in (
            ("kind", first.config.kind, other.config.kind),
            ("blocks", _listed(first.blocks), _listed(other.blocks)),
            ("preparation", first.preparation, other.preparation),
        ):
            if a != b:
                raise OptionsError(f"has the {what} {b}, the first fold {first.path} has {a}", other.path)
        if other.labels != first.labels:
            raise OptionsError(
                f"has other classes than the first fold {first.path}: {first_difference(other.labels, first.labels)}",
                other.path,
            )
    return first


def first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """Where two class lists part, in words."""
    for index, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a != b:
            return f"class {index} is '{a}', expected '{b}'"
    return f"{len(found)} classes, expected {len(expected)}"


def _listed(blocks: Mapping[str, int]) -> str:
    return ", ".join(f"{name} [{width}]" for name, width in blocks.items())
