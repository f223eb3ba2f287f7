"""From a published file to a bundle: read, rebuild, prove, write beside, rename."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from bce.engine.errors import BundleError, ExportError
from bce.engine.files import folder_beside, sha256, write_text
from bce.engine.frontends import perch
from bce.engine.frontends.base import make_frontend
from bce.engine.network.bundle import CLASSES, HEAD, MANIFEST, PARITY, PRIORS, Bundle, bundle_around
from bce.engine.network.manifest import (
    Head,
    HeadKind,
    Input,
    Manifest,
    Output,
    OutputKind,
    Score,
    Source,
    identity_of,
)
from bce.export.commands.info import published_line
from bce.export.commands.options import FP32, INT8, OUTPUTS, ExportOptions
from bce.export.commands.planning import Given, Plan, gather, plan
from bce.export.heads.graph import export_head
from bce.export.heads.trained_on import Network, compare_networks, sample_features
from bce.export.perch.architecture import BLOCKS, EMBEDDING, INT8_FIRST_BLOCKS, LABEL
from bce.export.perch.download import resolve
from bce.export.perch.exact import Exact, exact_log_mel, prepared
from bce.export.perch.graph import export_backbone, output_widths, pointwise_block
from bce.export.perch.sources import PerchSource, read_source
from bce.export.perch.weights import MOST_ZEROS, zeroed_arrays
from bce.export.proof.calibration import Int8, calibration_inputs, quantize_within_limits
from bce.export.proof.comparison import ParityReport
from bce.export.proof.gates import Limits
from bce.export.proof.parity import Candidate, Definition, prove
from bce.export.sources import CannotRun, Reference

__all__ = ["ExportOptions", "export_bundle", "export_source", "parity_lines"]

FAMILY = "perch"
BACKBONE = "backbone.onnx"
INT8_BACKBONE = "backbone.int8.onnx"
ENTRY = Input(perch.INPUT, perch.SHAPE)
_KINDS: dict[str, OutputKind] = {EMBEDDING: "embedding", LABEL: "logits"}

Say = Callable[[str], None]


def export_bundle(options: ExportOptions, say: Say = lambda line: None) -> Bundle:
    """Make a bundle, prove it against its source, and put it in place.

    Args:
        options: what to export.
        say: takes a line for each step done, for whoever wants to show them.

    Raises:
        OptionsError: options, heads and tables contradict each other.
        BundleError: ``out`` is there and may not be replaced.
        ExportError: the source cannot be converted.
        ParityError: the bundle does not give the source's numbers; nothing was written.
    """
    _check_place(options)
    given = gather(options)
    say(f"reading {options.perch}")
    return _export(read_source(resolve(options.perch)), options, given, say)


def export_source(source: PerchSource, options: ExportOptions, say: Say = lambda line: None) -> Bundle:
    """:func:`export_bundle` for a source that has been read already; ``options.perch`` is not looked at."""
    _check_place(options)
    return _export(source, options, gather(options), say)


def _check_place(options: ExportOptions) -> None:
    """Refuse early to write where something is, or where nothing can be written."""
    out = Path(options.out)
    place = Path(os.path.realpath(out))
    for given in options.inputs:
        source = Path(os.path.realpath(given))
        if place in (source, *source.parents):
            raise BundleError(f"is to be written, and is or holds the input {given}: choose another place", out)
        if source in place.parents and source.is_dir():
            raise BundleError(f"lies in the input {given}: choose another place", out)
    for given in (*options.check_audio, *options.calibrate):
        source = Path(os.path.realpath(given))
        if place in (source, *source.parents):
            raise BundleError(f"is to be written, and is or holds the recordings {given}: choose another place", out)
    if (around := bundle_around(place.parent)) is not None:
        raise BundleError(f"lies in the bundle {around}: choose another place", out)
    there = next(folder for folder in place.parents if os.path.lexists(folder))
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise BundleError(f"cannot be written: {there} is not a folder that can be written to", out)
    if not os.path.lexists(out):
        return
    if not (out / MANIFEST).is_file():
        raise BundleError("is there and is not a bundle: choose another place, it is left alone", out)
    if not options.force:
        raise BundleError("is there already: choose another place, or --force to replace it", out)
    if strange := _not_of_the_bundle(out):
        raise BundleError(f"holds {strange[0]}, which is no part of the bundle and would be deleted: move it away", out)


def _not_of_the_bundle(folder: Path) -> list[str]:
    """What lies in a bundle's folder and is none of its files."""
    try:
        files = set(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        files = {CLASSES, PRIORS, PARITY, *(path.name for path in folder.glob("*.onnx"))}
    return sorted(set(os.listdir(folder)) - files - {MANIFEST})


def _export(source: PerchSource, options: ExportOptions, given: Given, say: Say) -> Bundle:
    out = Path(options.out)
    say(f"read {source.path.name}: {_described(source)}")
    say(f"source: {published_line(source.sha256)}")
    _check_zeros(source, say)
    if source.notice:
        say(f"notice: {source.notice}")
    if given.labels is not None and given.labels != Path(str(options.perch_labels)).expanduser():
        say(f"class names: the published list, {given.labels}")
    planned = plan(options, source, given)
    for line in planned.lines(options):
        say(line)
    with folder_beside(out) as folder:
        candidate = _write_graphs(source, options, planned, folder, say)
        if planned.classes is not None:
            planned.classes.write(folder / CLASSES)
        if options.priors is not None:
            shutil.copyfile(options.priors, folder / PRIORS)
        report = _prove(candidate, source, options, planned, given, say)
        if INT8 in options.precisions:
            report = replace(report, int8=_write_int8(candidate, options, folder / INT8_BACKBONE, say))
        write_text(folder / PARITY, report.to_json())
        manifest = _manifest(options, source, planned, candidate, report, folder)
        write_text(folder / MANIFEST, manifest.to_json())
        Bundle.load(folder)
    bundle = Bundle.load(out)
    total = sum(file.stat().st_size for file in out.iterdir())
    say(f"wrote {out}: {total / 1e6:.1f} MB")
    return bundle


def _check_zeros(source: PerchSource, say: Say) -> None:
    """Refuse a file with a kernel or a scale of zeros: such a block may hear nothing while the others do."""
    for name, share in zeroed_arrays(source.weights).items():
        if share > MOST_ZEROS:
            raise ExportError(f"{name}: {share:.0%} of its numbers are 0, the file is damaged", source.path)
        if not source.lossy:
            say(f"source: {name}: {share:.1%} of its numbers are 0, the file may be damaged")


def _write_graphs(source: PerchSource, options: ExportOptions, planned: Plan, folder: Path, say: Say) -> Candidate:
    """The backbone and the head, and what they should be."""
    backbone, head, folds = folder / BACKBONE, folder / HEAD, planned.folds
    outputs = export_backbone(source.weights, backbone, planned.blocks, options.all_outputs, planned.class_map)
    say(f"wrote {BACKBONE}: {_size(backbone)}, outputs {', '.join(outputs)}")
    frontend = perch.spec(planned.preparation)
    if folds:
        features = sample_features(backbone, make_frontend(frontend, perch.WINDOW), perch.WINDOW, list(folds[0].blocks))
        network = Network(identity_of(sha256(backbone), perch.WINDOW, ENTRY, frontend, outputs), features)
        for fold in folds:
            for note in fold.notes:
                say(f"{Path(str(fold.path)).name} {note}")
            say(compare_networks(fold, network, options.any_backbone))
        export_head(folds, head)
        say(f"wrote {HEAD}: {_size(head)}, {len(folds)} fold{'s' * (len(folds) > 1)} averaged")
    classes = 0 if planned.classes is None else len(planned.classes)
    return Candidate(
        backbone=backbone,
        window=perch.WINDOW,
        input=ENTRY,
        frontend=frontend,
        widths=output_widths(source.weights.architecture, outputs, classes),
        definition=Definition(
            plain=perch.spec("none"),
            prepared=lambda waveforms: prepared(waveforms, planned.preparation),
            inputs=exact_log_mel,
            outputs=Exact(source.weights, outputs, planned.class_map),
        ),
        logits=LABEL if LABEL in outputs else "",
        class_map=planned.class_map,
        classes=classes,
        head=head if folds else None,
        folds=folds,
    )


def _prove(
    candidate: Candidate, source: PerchSource, options: ExportOptions, planned: Plan, given: Given, say: Say
) -> ParityReport:
    blocks = planned.blocks if BLOCKS in options.outputs else ()
    against, reference = _reference(
        options, source, blocks, [name for name in candidate.widths if name in OUTPUTS], say
    )
    report = prove(candidate, reference, given.inputs, against.path.name, Limits.between(source, against))
    notes = (*source.notes, *getattr(reference, "notes", ()))
    report = replace(report, structure=(*notes, *report.structure))
    for line in parity_lines(report):
        say(line)
    report.require()
    return report


def _reference(
    options: ExportOptions, source: PerchSource, blocks: Sequence[int], outputs: Sequence[str], say: Say
) -> tuple[PerchSource, Reference | None]:
    """The file whose numbers are the proof, and how to run it; None where the source cannot run here."""
    if options.check_against is None:
        try:
            return source, source.reference(blocks, outputs)
        except CannotRun as error:
            say(f"parity: {error}; --check-against OTHER_FILE proves it with another published form")
            return source, None
    against = read_source(resolve(options.check_against))
    found, expected = (
        (model.weights.architecture, model.weights.prototypes and model.weights.prototypes.classes)
        for model in (against, source)
    )
    if found != expected:
        raise ExportError(f"is another network than {source.path.name}: it cannot prove it", against.path)
    return against, against.reference(blocks, outputs)


def _write_int8(candidate: Candidate, options: ExportOptions, out: Path, say: Say) -> dict[str, object]:
    """The int8 backbone, and what is to be said of it."""
    inputs = calibration_inputs(
        options.calibrate, candidate.window, make_frontend(candidate.frontend, candidate.window)
    )
    kinds = Int8(INT8_FIRST_BLOCKS, pointwise_block)
    quality = quantize_within_limits(
        candidate.backbone, out, inputs, kinds, candidate.logits or None, candidate.head, say
    )
    say(f"wrote {INT8_BACKBONE}: {_size(out)}")
    return quality.to_dict()


def _manifest(
    options: ExportOptions,
    source: PerchSource,
    planned: Plan,
    candidate: Candidate,
    report: ParityReport,
    folder: Path,
) -> Manifest:
    kind: HeadKind = "none"
    score: Score | None = None
    if planned.folds:
        kind, score = planned.folds[0].head.kind, Score("head")
    elif options.head:
        kind, score = "own", Score(LABEL, unknown=planned.unknown)
    parameters = sum(fold.head.parameter_count for fold in planned.folds)
    notices = dict.fromkeys(notice for notice in (source.notice, *(fold.notice for fold in planned.folds)) if notice)
    return Manifest(
        name=Path(options.out).name,
        source=Source(source.path.name, source.sha256, source.form, source.licence, source.may_redistribute),
        family=FAMILY,
        window=candidate.window,
        input=candidate.input,
        frontend=candidate.frontend,
        outputs=tuple(Output(name, _KINDS.get(name, "block"), width) for name, width in candidate.widths.items()),
        score=score,
        head=Head(kind, len(planned.folds), parameters),
        variants={FP32: BACKBONE} | ({INT8: INT8_BACKBONE} if INT8 in options.precisions else {}),
        files={file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST},
        post=planned.post,
        parity=report.summary(),
        versions={"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("bce", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")},
        notice="; ".join(notices),
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


def _described(source: PerchSource) -> str:
    prototypes = source.weights.prototypes
    classes = "no classifier" if prototypes is None else f"{prototypes.classes} classes"
    blocks = len(source.weights.architecture.blocks)
    return f"{source.form}, {_size(source.path)}, {blocks} blocks, {classes}, licence {source.licence}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "a folder"
