"""The files that trained heads are kept in: safetensors or torch dictionaries, and what a head says of itself."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import torch
from torch import Tensor

from bce.engine.errors import ExportError, OptionsError
from bce.engine.files import beside
from bce.engine.frontends.perch import Preparation
from bce.export.heads.base import TrainedHead
from bce.export.heads.modules import Head, HeadConfig, build_head

METADATA = "bce_head"
"""The key under which a checkpoint keeps what is not a tensor, as JSON."""
FORMAT = 1


H = TypeVar("H", bound=TrainedHead, covariant=True)


@dataclass(frozen=True)
class HeadCheckpoint(Generic[H]):
    """A trained head and what must be known to use it.

    Attributes:
        head: in evaluation mode.
        labels: the classes in output order.
        blocks: width of each block's features by name, in the order that ``head`` takes them: {"block_21": 232, ...}.
        preparation: of the windows whose features it was trained on.
        notice: of the bundle whose features it was trained on, see ``Manifest.notice``.
        facts: what its training says of itself: figures, data, seed. Anything that JSON holds.
        path: the file it was read from.
        sample: what its network makes of the sample window, by block, see :mod:`bce.export.heads.trained_on`; empty
            where the file does not say.
        notes: what was done to make it one, for whoever exports it.
    """

    head: H
    labels: tuple[str, ...]
    blocks: dict[str, int]
    preparation: Preparation
    notice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    path: str | None = None
    sample: dict[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Fold = HeadCheckpoint[TrainedHead]
"""One of the heads that a bundle averages, of any kind."""


def save_checkpoint(path: str | os.PathLike[str], checkpoint: HeadCheckpoint[Head]) -> None:
    """Write a head as safetensors (``.safetensors``) or as a torch dictionary (any other ending), then rename.

    Neither can hold code: a checkpoint from anywhere is safe to load.
    """
    from safetensors.torch import save

    file = Path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.head.state_dict().items()}
    metadata = json.dumps(
        {
            "format": FORMAT,
            "config": asdict(checkpoint.head.config),
            "labels": checkpoint.labels,
            "blocks": checkpoint.blocks,
            "preparation": checkpoint.preparation,
            "notice": checkpoint.notice,
            "facts": checkpoint.facts,
            "sample": checkpoint.sample,
            "sha256": _digest(state),
        }
    )
    with beside(file) as partial:
        if file.suffix == ".safetensors":
            partial.write_bytes(save(state, {METADATA: metadata}))
        else:
            torch.save({METADATA: metadata, "state": state}, partial)


def load_checkpoint(path: str | os.PathLike[str]) -> HeadCheckpoint[Head]:
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
        if not blocks or not labels or min(blocks.values()) < 1:
            raise ExportError("is a head without blocks, without features of one, or without classes", file)
        if content["preparation"] not in get_args(Preparation):
            raise ExportError(f"has the unknown preparation {content['preparation']!r}", file)
        sample = {name: tuple(map(float, numbers)) for name, numbers in content.get("sample", {}).items()}
        if sample and {name: len(numbers) for name, numbers in sample.items()} != blocks:
            raise ExportError("holds features of the sample window that are not as wide as its blocks", file)
        with torch.device("meta"):  # shapes alone: what the file says of them is checked before there is memory for it
            head = build_head(HeadConfig(**content["config"]), tuple(blocks.values()), len(labels))
        facts, notice = dict(content["facts"]), str(content["notice"])
    except OptionsError as error:
        raise ExportError(error.reason, file) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError, RecursionError) as error:
        raise ExportError(f"is not a head checkpoint: its description is wrong ({error!r})", file) from None
    _load_state(head, state, file)
    if content.get("sha256", expected := _digest(head.state_dict())) != expected:
        raise ExportError("is damaged: its numbers are not those that were written (their SHA-256 differs)", file)
    head.eval()
    return HeadCheckpoint(head, labels, blocks, content["preparation"], notice, facts, os.fspath(file), sample)


def _digest(state: Mapping[str, Tensor]) -> str:
    """One SHA-256 for the numbers of all tensors: neither form of file notices a flipped bit by itself."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()


def _read_safetensors(file: Path) -> tuple[str, Mapping[Any, Any]]:
    from safetensors import safe_open

    _check_readable(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except Exception:  # a damaged header leads to errors of many kinds, whose texts help nobody
        raise ExportError("is not a safetensors file, or is cut short or damaged", file) from None
    if METADATA not in metadata:
        raise ExportError(f"is not a head checkpoint: its metadata has no '{METADATA}'", file)
    return metadata[METADATA], state


def _read_torch(file: Path) -> tuple[str, Mapping[Any, Any]]:
    _check_readable(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # as above; torch would also advise to run what the file holds
        raise ExportError(
            "is not a safe torch file: it is another file, cut short or damaged, or holds objects that are no tensors, "
            "which are not loaded",
            file,
        ) from None
    if not (isinstance(content, Mapping) and isinstance(content.get(METADATA), str) and "state" in content):
        raise ExportError(f"is not a head checkpoint: expected a dictionary with '{METADATA}' and 'state'", file)
    return content[METADATA], content["state"]


def _check_readable(file: Path) -> None:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise ExportError(f"cannot be read ({error.strerror})", file) from None


def _load_state(head: Head, state: Mapping[Any, Any], file: Path) -> None:
    """Load the tensors, naming the first that does not fit."""
    if not isinstance(state, Mapping):
        raise ExportError("is not a head checkpoint: its 'state' holds no tensors by name", file)
    tensors: dict[str, Tensor] = {}
    for name, meta in head.state_dict().items():
        if name not in state:
            raise ExportError(f"lacks the tensor '{name}'", file)
        tensor = state[name]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_floating_point():
            raise ExportError(f"tensor '{name}': expected a dense tensor of floats, found another kind", file)
        if tensor.shape != meta.shape:
            raise ExportError(f"tensor '{name}': expected shape {tuple(meta.shape)}, found {tuple(tensor.shape)}", file)
        tensors[name] = tensor.float().contiguous()
        if not torch.isfinite(tensors[name]).all():
            raise ExportError(f"tensor '{name}' holds NaN or infinity", file)
    for name in state:
        if name not in tensors:
            raise ExportError(f"has the unknown tensor {name!r}", file)
    head.load_state_dict(tensors, assign=True)


def agreeing_folds(checkpoints: Sequence[Fold]) -> Fold:
    """The first of the folds of one head, when all agree on what must be one in ``head.onnx``.

    Raises:
        OptionsError: naming the fold that differs from the first, in what, and both values; or one that is there twice.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for what, a, b in (
            ("kind", first.head.kind, other.head.kind),
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
    _refuse_repeated(checkpoints)
    return first


def _refuse_repeated(folds: Sequence[Fold]) -> None:
    """A fold given twice, whatever its files are called, gives the same logits; a mean would count it double."""
    random = torch.Generator().manual_seed(0)
    features = [torch.randn(4, width, generator=random) for width in folds[0].blocks.values()]
    with torch.no_grad():
        logits = [fold.head(features) for fold in folds]
    for place, found in enumerate(logits):
        for earlier in range(place):
            if torch.allclose(found, logits[earlier], rtol=1e-5, atol=1e-6):
                raise OptionsError(f"is the same fold as {folds[earlier].path}: give each once", folds[place].path)


def first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """Where two class lists part, in words."""
    for index, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a != b:
            return f"class {index} is '{a}', expected '{b}'"
    return f"{len(found)} classes, expected {len(expected)}"


def _listed(blocks: Mapping[str, int]) -> str:
    return ", ".join(f"{name} [{width}]" for name, width in blocks.items())
