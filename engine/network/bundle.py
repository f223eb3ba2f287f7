"""A bundle: the folder that ``bce-export`` writes and the only thing that ``bce-infer`` needs.

``bundle.json`` describes the folder: where the weights come from, how windows are prepared, what the graphs put out,
the head, and the SHA-256 of every file. :meth:`Bundle.load` checks it before anything runs.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from bce.engine.errors import BundleError
from bce.engine.taxonomy import Taxonomy

SCHEMA_VERSION = 1
MANIFEST = "bundle.json"
CLASSES = "classes.csv"
PARITY = "parity.json"
PRIORS = "priors.npz"
HEAD = "head.onnx"

SAMPLE_RATE = 32_000
WINDOW_S = 5.0

Preparation = Literal["none", "peak", "hoplite"]
HeadKind = Literal["none", "perch", "attention", "scalar_mix", "tensorflow"]


@dataclass(frozen=True)
class Source:
    """The published file that the weights come from."""

    file: str
    sha256: str
    form: str
    licence: str


@dataclass(frozen=True)
class Head:
    """What turns features into logits. ``parameters`` counts those of all folds."""

    kind: HeadKind
    folds: int = 0
    parameters: int = 0


@dataclass(frozen=True)
class Manifest:
    """The content of ``bundle.json``.

    Attributes:
        name: what the bundle calls itself in messages and reports.
        source: the published file.
        blocks: width of each tapped block's features by name, in the order of the network: {"block_21": 232, ...}.
        outputs: all outputs of the backbone graph, in order: the blocks, then "embedding", "label" where present.
        head: kind, folds and parameters of the head.
        preparation: what is done to the samples of each window before the log-mel.
        variants: backbone file by precision: {"fp32": "backbone.onnx"}.
        files: SHA-256 of every file of the bundle but ``bundle.json``.
        parity: the largest differences found at export, a summary of ``parity.json``.
        versions: what the bundle was made with.
        notice: shown wherever the bundle's scores are, for weights that are not Perch's own; empty otherwise.
        sample_rate: of the windows, in Hz.
        window_s: length of a window, in seconds.
        schema: version of this schema.
    """

    name: str
    source: Source
    blocks: dict[str, int]
    outputs: tuple[str, ...]
    head: Head
    preparation: Preparation
    variants: dict[str, str]
    files: dict[str, str]
    parity: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notice: str = ""
    sample_rate: int = SAMPLE_RATE
    window_s: float = WINDOW_S
    schema: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str | os.PathLike[str]) -> Manifest:
        """Parse and check a manifest.

        Raises:
            BundleError: naming the field that is missing, unknown or wrong.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise BundleError(f"is not JSON ({error})", path) from None
        if not isinstance(content, dict) or "schema" not in content:
            raise BundleError("is not a bundle's manifest: it has no field 'schema'", path)
        if content["schema"] != SCHEMA_VERSION:
            raise BundleError(
                f"has schema {content['schema']}, this version reads {SCHEMA_VERSION}: export the bundle again", path
            )
        content["source"] = _record(Source, content.get("source"), "source", path)
        content["head"] = _record(Head, content.get("head"), "head", path)
        content["outputs"] = tuple(content.get("outputs", ()))
        manifest: Manifest = _record(cls, content, "", path)
        for name, value, allowed in (
            ("preparation", manifest.preparation, get_args(Preparation)),
            ("head.kind", manifest.head.kind, get_args(HeadKind)),
            ("sample_rate", manifest.sample_rate, (SAMPLE_RATE,)),
            ("window_s", manifest.window_s, (WINDOW_S,)),
        ):
            if value not in allowed:
                raise BundleError(f"field '{name}' is {value!r}, expected one of {', '.join(map(str, allowed))}", path)
        return manifest


def _record(kind: type, content: Any, name: str, path: str | os.PathLike[str]) -> Any:
    """Build a dataclass from a JSON object, naming the first field that does not fit."""
    prefix = f"{name}." if name else ""
    if not isinstance(content, dict):
        raise BundleError(f"field '{name}' is missing or not an object", path)
    known = {f.name for f in fields(kind)}
    for key in content:
        if key not in known:
            raise BundleError(f"has the unknown field '{prefix}{key}': it was written by a newer version", path)
    try:
        return kind(**content)
    except TypeError:
        missing = sorted(known - set(content))
        raise BundleError(f"lacks one of the fields {', '.join(prefix + m for m in missing)}", path) from None


@dataclass(frozen=True)
class Bundle:
    """A checked bundle on disk: its folder and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
        """Open a bundle and check that it is whole.

        Args:
            path: the bundle's folder.
            verify: also compare the SHA-256 of every file (about 0.1 s for a Perch bundle).

        Raises:
            BundleError: the folder is not a bundle, a file is missing, or a file is not the one that was exported.
        """
        folder = Path(path)
        manifest_path = folder / MANIFEST
        if not manifest_path.is_file():
            raise BundleError(f"is not a bundle: it has no {MANIFEST}; make one with bce-export", folder)
        manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"), manifest_path)
        for name, digest in manifest.files.items():
            file = folder / name
            if not file.is_file():
                raise BundleError("is missing from the bundle: export it again", file)
            if verify and sha256(file) != digest:
                raise BundleError("is not the file that was exported (its SHA-256 differs): export it again", file)
        return cls(folder, manifest)

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The classes in output order."""
        return Taxonomy.read(self.path / CLASSES)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the classes in output order; empty for a bundle without a head."""
        return () if self.manifest.head.kind == "none" else self.taxonomy.labels

    def file(self, name: str) -> Path | None:
        """The path of a file of the bundle, or None when the bundle does not have it."""
        return self.path / name if name in self.manifest.files else None

    def backbone(self, precision: str = "fp32") -> Path:
        """The backbone graph of a precision.

        Raises:
            BundleError: the bundle was not exported with it.
        """
        variants = self.manifest.variants
        if precision not in variants:
            raise BundleError(f"has no {precision} backbone, only {', '.join(variants)}", self.path)
        return self.path / variants[precision]

    @cached_property
    def sha256(self) -> str:
        """The bundle's identity: the SHA-256 of its manifest, which holds those of all files."""
        return sha256(self.path / MANIFEST)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
