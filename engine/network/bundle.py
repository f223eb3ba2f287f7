"""A bundle: the folder that ``bce-export`` writes and the only thing that ``bce-infer`` needs.

``bundle.json`` describes the folder (:mod:`bce.engine.network.manifest`), with the SHA-256 of every file.
:meth:`Bundle.load` checks it before anything runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bce.engine.errors import BundleError, TableError
from bce.engine.files import sha256
from bce.engine.frontends.base import Frontend, make_frontend
from bce.engine.network.int8 import INT8
from bce.engine.network.manifest import Manifest
from bce.engine.network.onnx_file import check_self_contained
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
            BundleError: the folder is not a bundle, a file is missing or leads out of the folder, a file is not the one
                that was exported, or a graph keeps numbers in another file.
        """
        folder = Path(path)
        manifest_path = folder / MANIFEST
        try:
            if not manifest_path.is_file():
                raise BundleError(f"is not a bundle: it has no {MANIFEST}; make one with bce-export", folder)
            manifest = Manifest.from_json(_inside(folder, MANIFEST).read_bytes(), manifest_path)
            needed = {HEAD: manifest.head.trained, CLASSES: manifest.score is not None}
            for name, wanted in needed.items():
                if wanted and name not in manifest.files:
                    raise BundleError(f"lists no {name} among its files, which its head needs", manifest_path)
            for name, digest in manifest.files.items():
                file = _inside(folder, name)
                if not file.is_file():
                    raise BundleError("is missing from the bundle: export it again", file)
                if verify and sha256(file) != digest:
                    raise BundleError("is not the file that was exported (its SHA-256 differs): export it again", file)
        except OSError as error:
            raise BundleError(f"cannot be read ({error.strerror})", error.filename or folder) from None
        bundle = cls(folder, manifest)
        for graph in bundle.graphs():
            check_self_contained(graph)
        return bundle

    def graphs(self) -> tuple[Path, ...]:
        """The graphs that a run may open: a backbone for each precision, and the head."""
        names = dict.fromkeys(self.manifest.variants.values())
        return tuple(self.path / name for name in (*names, *([HEAD] if self.manifest.head.trained else [])))

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The classes in output order.

        Raises:
            BundleError: the table is not what it should be, or not one of the bundle's files.
        """
        file = self.file(CLASSES)
        if file is None:
            raise BundleError(f"lists no {CLASSES} among its files", self.path / MANIFEST)
        try:
            return Taxonomy.read(file)
        except TableError as error:
            raise BundleError(error.reason, file) from None

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the classes in output order; empty for a bundle without scores."""
        return () if self.manifest.score is None else self.taxonomy.labels

    def file(self, name: str) -> Path | None:
        """The path of a file of the bundle, or None when the bundle does not have it."""
        return self.path / name if name in self.manifest.files else None

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the backbone was exported in: the precisions of its graphs, and int8 where the kernels alone have it."""
        kernels = () if self.file(INT8) is None else ("int8",)
        return tuple(dict.fromkeys((*self.manifest.variants, *kernels)))

    def backbone(self, precision: str = "fp32") -> Path:
        """The backbone graph of a precision.

        Raises:
            BundleError: the bundle was not exported with it, or has no graph of it.
        """
        variants = self.manifest.variants
        if precision in variants:
            return self.path / variants[precision]
        if precision in self.precisions:
            raise BundleError(f"has {precision} for the compiled kernels alone: leave --backend at auto", self.path)
        how = ": export it with --precision fp32,int8 --calibrate FOLDER" if precision == "int8" else ""
        raise BundleError(f"has no {precision} backbone, only {', '.join(self.precisions)}{how}", self.path)

    def frontend(self) -> Frontend:
        """What turns the bundle's windows into its network's input.

        Raises:
            BundleError: the manifest names a kind or a setting that there is not, or another input than it makes;
                or the frontend's arrays are missing, damaged or others.
        """
        manifest = self.manifest
        try:
            frontend = make_frontend(manifest.frontend, manifest.window, self.path)
        except BundleError as error:
            raise BundleError(error.reason, error.path or self.path / MANIFEST) from None
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


def bundle_around(place: str | os.PathLike[str]) -> Path | None:
    """The bundle that a place is, or lies in at any depth; None where there is none."""
    real = Path(os.path.realpath(place))
    return next((folder for folder in (real, *real.parents) if (folder / MANIFEST).is_file()), None)


def _inside(folder: Path, name: str) -> Path:
    """The file of this name in a folder, which may be a link to another file in it and to nowhere else.

    Raises:
        BundleError: it is a link that leads out of the folder.
    """
    file = folder / name
    if file.is_symlink() and Path(os.path.realpath(file)).parent != Path(os.path.realpath(folder)):
        raise BundleError("is a link that leads out of the bundle: put the file itself there", file)
    return file
