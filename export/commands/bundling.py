"""From a source that was read to a bundle, whatever its family: write beside, prove, rename."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from bce.engine.files import folder_beside, sha256, write_text
from bce.engine.frontends.base import make_frontend
from bce.engine.geometry import WindowSpec
from bce.engine.network.bundle import CLASSES, MANIFEST, PARITY, PRIORS, Bundle
from bce.engine.network.int8 import INT8 as INT8_FORM
from bce.engine.network.manifest import Head, Manifest, Output, OutputKind, Placing, Score
from bce.engine.network.manifest import Source as ManifestSource
from bce.engine.taxonomy import Taxonomy
from bce.export.commands.info import published_line
from bce.export.commands.options import FP32, INT8
from bce.export.commands.places import BundleOptions
from bce.export.int8.making import Network, make_int8
from bce.export.int8.windows import calibration_cuts
from bce.export.proof.comparison import ParityReport
from bce.export.proof.gates import Limits
from bce.export.proof.parity import Candidate, prove
from bce.export.sources import Reference, Source

BACKBONE = "backbone.onnx"
INT8_BACKBONE = "backbone.int8.onnx"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Contents:
    """What a bundle's manifest says beside its graphs.

    Attributes:
        score: which numbers are the scores; None without any.
        head: what makes them.
        classes: in order; None for a bundle without scores that has none.
        kinds: what the outputs are, by name; those that are not named are features of blocks.
        placing: where windows lie in chunks.
        post: tuned values of post-processing.
        notices: to be shown wherever the scores are.
    """

    score: Score | None
    head: Head
    classes: Taxonomy | None
    kinds: Mapping[str, OutputKind]
    placing: Placing = field(default_factory=Placing)
    post: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What a candidate is compared with.

    Attributes:
        against: the file whose numbers are the proof.
        reference: the same, ready to run; None where it cannot run here.
        limits: what the gates allow.
        notes: of the source and the reference, a line each.
    """

    against: Source[Any]
    reference: Reference | None
    limits: Limits
    notes: tuple[str, ...] = ()


class Export(Protocol):
    """A family's part of an export: a source that was read, brought together with what else was given."""

    @property
    def family(self) -> str:
        """The manifest's field."""

    @property
    def source(self) -> Source[Any]:
        """The published file."""

    @property
    def described(self) -> str:
        """What was read, in a line."""

    @property
    def window(self) -> WindowSpec:
        """The network's windows."""

    @property
    def contents(self) -> Contents:
        """What the manifest says."""

    def lines(self) -> Iterator[str]:
        """What is said of source and plan before anything is written; raises where they will not do."""

    def write(self, folder: Path, say: Say) -> Candidate:
        """Write graphs, and whatever else is the family's own, into a folder."""

    def proof(self, candidate: Candidate, say: Say) -> Proof:
        """What the candidate is compared with."""

    def check_inputs(self) -> Any:
        """The windows to compare on."""


def make_bundle(export: Export, options: BundleOptions, say: Say = lambda line: None) -> Bundle:
    """Write a bundle, prove it against its source, and put it in place.

    Args:
        export: of a family.
        options: its options; their place has been checked.
        say: takes a line for each step done, for whoever wants to show them.

    Raises:
        OptionsError: options, heads and tables contradict each other.
        ExportError: the source cannot be converted.
        ParityError: the bundle does not give the source's numbers; nothing was written.
    """
    out, source = Path(options.out), export.source
    say(f"read {source.path.name}: {export.described}")
    say(f"source: {published_line(export.family, source.sha256)}")
    if source.notice:
        say(f"notice: {source.notice}")
    for line in export.lines():
        say(line)
    cuts = calibration_cuts(options.calibrate, export.window, say) if INT8 in options.precisions else None
    with folder_beside(out) as folder:
        candidate = export.write(folder, say)
        contents = export.contents
        if contents.classes is not None:
            contents.classes.write(folder / CLASSES)
        if options.priors is not None:
            shutil.copyfile(options.priors, folder / PRIORS)
        report = _prove(export, candidate, say)
        if cuts is not None:
            windows = cuts.windows(make_frontend(candidate.frontend, candidate.window, folder))
            network = Network(candidate.backbone, candidate.logits or None, candidate.head)
            report = replace(report, int8=make_int8(network, windows, folder / INT8_FORM, folder / INT8_BACKBONE, say))
        write_text(folder / PARITY, report.to_json())
        manifest = _manifest(out.name, export, contents, candidate, report, folder)
        write_text(folder / MANIFEST, manifest.to_json())
        Bundle.load(folder)
    bundle = Bundle.load(out)
    total = sum(file.stat().st_size for file in out.iterdir())
    say(f"wrote {out}: {total / 1e6:.1f} MB")
    return bundle


def _prove(export: Export, candidate: Candidate, say: Say) -> ParityReport:
    proof = export.proof(candidate, say)
    report = prove(candidate, proof.reference, export.check_inputs(), proof.against.path.name, proof.limits)
    report = replace(report, structure=(*proof.notes, *report.structure))
    for line in parity_lines(report):
        say(line)
    report.require()
    return report


def _manifest(
    name: str, export: Export, contents: Contents, candidate: Candidate, report: ParityReport, folder: Path
) -> Manifest:
    source = export.source
    return Manifest(
        name=name,
        source=ManifestSource(source.path.name, source.sha256, source.form, source.licence, source.may_redistribute),
        family=export.family,
        window=candidate.window,
        input=candidate.input,
        frontend=candidate.frontend,
        outputs=tuple(
            Output(name, contents.kinds.get(name, "block"), width) for name, width in candidate.widths.items()
        ),
        score=contents.score,
        head=contents.head,
        variants={FP32: BACKBONE} | ({INT8: INT8_BACKBONE} if (folder / INT8_BACKBONE).exists() else {}),
        files={file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST},
        placing=contents.placing,
        post=contents.post,
        parity=report.summary(),
        versions={"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("bce", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")},
        notice="; ".join(dict.fromkeys(notice for notice in contents.notices if notice)),
    )


def parity_lines(report: ParityReport) -> Iterator[str]:
    """The proof in a few lines, for the screen."""
    if not report.numbers:
        yield "parity: structure checked, numbers not (the source cannot run here)"
    for key, value in report.summary().items():
        yield f"parity: {key.replace('_', ' ')} {value:.1e}"
    for name, share in report.constant.items():
        if share:
            yield f"parity: {share:.1%} of the numbers of {name} are the same on all check windows"
    if report.rounded:
        yield (
            f"parity: {len(report.rounded)} of {len(report.comparisons)} comparisons are over the first limit by"
            " float32 rounding that the source has as well; parity.json has the limit applied to each"
        )


def size_of(path: Path) -> str:
    """A file's size in words."""
    return f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "a folder"
