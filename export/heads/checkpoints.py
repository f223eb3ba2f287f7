"""The files that trained heads are kept in: safetensors or torch dictionaries, and what a head says of itself."""

from __future__ import annotations

import json
import os
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
    """

    head: H
    labels: tuple[str, ...]
    blocks: dict[str, int]
    preparation: Preparation
    notice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    path: str | None = None


Fold = HeadCheckpoint[TrainedHead]
"""One of the heads that a bundle averages, of any kind."""


def save_checkpoint(path: str | os.PathLike[str], checkpoint: HeadCheckpoint[Head]) -> None:
    """Write a head as safetensors (``.safetensors``) or as a torch dictionary (any other ending), then rename.

    Neither can hold code: a checkpoint from anywhere is safe to load.
    """
    from safetensors.torch import save

    file = Path(path)
    metadata = json.dumps(
        {
            "format": FORMAT,
            "config": asdict(checkpoint.head.config),
            "labels": checkpoint.labels,
            "blocks": checkpoint.blocks,
            "preparation": checkpoint.preparation,
            "notice": checkpoint.notice,
            "facts": checkpoint.facts,
        }
    )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.head.state_dict().items()}
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


def agreeing_folds(checkpoints: Sequence[Fold]) -> Fold:
    """The first of the folds of one head, when all agree on what must be one in ``head.onnx``.

    Raises:
        OptionsError: naming the fold that differs from the first, in what, and both values.
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
    return first


def first_difference(found: Sequence[str], expected: Sequence[str]) -> str:
    """Where two class lists part, in words."""
    for index, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a != b:
            return f"class {index} is '{a}', expected '{b}'"
    return f"{len(found)} classes, expected {len(expected)}"


def _listed(blocks: Mapping[str, int]) -> str:
    return ", ".join(f"{name} [{width}]" for name, width in blocks.items())
