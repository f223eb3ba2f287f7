"""A bundle: the folder that ``bce-export`` writes and the only thing that ``bce-infer`` needs.

``bundle.json`` describes the folder (:mod:`bce.engine.network.manifest`), with the SHA-256 of every file.
:meth:`Bundle.load` checks it before anything runs.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bce.engine.errors import BundleError
from bce.engine.files import sha256
from bce.engine.frontends.base import Frontend, make_frontend
from bce.engine.network.manifest import Manifest
from bce.engine.taxonomy import Taxonomy

MANIFEST = "bundle.json"
CLASSES = "classes.csv"
PARITY = "parity.json"
PRIORS = "priors.npz"
HEAD = "head.onnx"
LOGITS = "logits"
"""The one output of a head's graph."""


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
        manifest = Manifest.from_json(manifest_path.read_bytes(), manifest_path)
        needed = {HEAD: manifest.head.trained, CLASSES: manifest.score is not None}
        for name, wanted in needed.items():
            if wanted and name not in manifest.files:
                raise BundleError(f"lists no {name} among its files, which its head needs", manifest_path)
        for name, digest in manifest.files.items():
            file = folder / name
            if not file.is_file():
                raise BundleError("is missing from the bundle: export it again", file)
            if verify and sha256(file) != digest:
                raise BundleError("is not the file that was exported (its SHA-256 differs): export it again", file)
            if file.suffix == ".onnx" and _has_external_data(file):
                raise BundleError("keeps weights in another file, which nothing vouches for: export it again", file)
        return cls(folder, manifest)

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The classes in output order."""
        return Taxonomy.read(self.path / CLASSES)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the classes in output order; empty for a bundle without scores."""
        return () if self.manifest.score is None else self.taxonomy.labels

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

    def frontend(self) -> Frontend:
        """What turns the bundle's windows into its network's input.

        Raises:
            BundleError: the manifest names a kind or a setting that there is not, or another input than it makes.
        """
        manifest = self.manifest
        try:
            frontend = make_frontend(manifest.frontend, manifest.window)
        except BundleError as error:
            raise BundleError(error.reason, self.path / MANIFEST) from None
        if frontend.shape != manifest.input.shape:
            raise BundleError(
                f"field 'input.shape' is {list(manifest.input.shape)}, its frontend makes {list(frontend.shape)}",
                self.path / MANIFEST,
            )
        return frontend

    @property
    def identity(self) -> str:
        """See :attr:`bce.engine.network.manifest.Manifest.identity`."""
        return self.manifest.identity


def _has_external_data(graph: Path) -> bool:
    """Whether an ONNX file has a tensor whose numbers lie elsewhere: its entry "location", as protobuf writes it."""
    if not graph.stat().st_size:
        return False
    with open(graph, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\x0a\x08location\x12") >= 0
