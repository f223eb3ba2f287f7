"""From a published file to a bundle: read, rebuild, prove, write beside, rename."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from bce.engine.errors import BundleError, ExportError, OptionsError
from bce.engine.files import sha256
from bce.engine.frontends.perch import Preparation
from bce.engine.network.bundle import CLASSES, HEAD, MANIFEST, PARITY, PRIORS, Bundle
from bce.engine.network.manifest import Head, HeadKind, Manifest, Source
from bce.engine.post.priors import Priors
from bce.engine.taxonomy import LABEL as LABEL_COLUMN
from bce.engine.taxonomy import SCIENTIFIC_NAME, Taxonomy
from bce.export.classes import ClassMap, all_classes, map_classes, numbered_names, read_perch_labels
from bce.export.commands.options import BLOCKS, DEFAULT_BLOCKS, FP32, INT8, LABEL, OUTPUTS, ExportOptions
from bce.export.heads.checkpoints import HeadCheckpoint, agreeing_folds, first_difference
from bce.export.heads.tensorflow_heads import load_head
from bce.export.perch.download import resolve
from bce.export.perch.graph import export_backbone, export_head
from bce.export.proof.calibration import calibration_windows, quantize_within_limits
from bce.export.proof.check_audio import CheckInput, check_inputs, recordings_in
from bce.export.proof.comparison import Limits, ParityReport
from bce.export.proof.parity import Candidate, prove
from bce.export.sources import CannotRun, Reference, SourceModel, read_source

BACKBONE = "backbone.onnx"
INT8_BACKBONE = "backbone.int8.onnx"
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Plan:
    """What all inputs together say about the bundle."""

    blocks: tuple[int, ...]
    preparation: Preparation
    classes: Taxonomy | None
    class_map: ClassMap | None
    folds: tuple[HeadCheckpoint, ...]


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
    given = _gather(options)
    say(f"reading {options.perch}")
    return _export(read_source(resolve(options.perch)), options, given, say)


def export_source(source: SourceModel, options: ExportOptions, say: Say = lambda line: None) -> Bundle:
    """:func:`export_bundle` for a source that has been read already; ``options.perch`` is not looked at."""
    return _export(source, options, _gather(options), say)


@dataclass(frozen=True)
class _Given:
    """What the user gave beside the source, read and checked before the slow part starts."""

    folds: tuple[HeadCheckpoint, ...]
    taxonomy: Taxonomy | None
    inputs: list[CheckInput]


def _gather(options: ExportOptions) -> _Given:
    _check_place(Path(options.out), options.force)
    if options.priors is not None:
        Priors.load(options.priors)
    taxonomy = None if options.taxonomy is None else Taxonomy.read(options.taxonomy)
    labels = None if taxonomy is None else taxonomy.labels
    folds = tuple(load_head(path, labels, options.preparation) for path in options.head) if options.trained else ()
    for path in options.calibrate:
        recordings_in(Path(path))
    return _Given(folds, taxonomy, check_inputs(options.check_audio))


def _export(source: SourceModel, options: ExportOptions, given: _Given, say: Say) -> Bundle:
    out = Path(options.out)
    folds = given.folds
    say(f"read {source.path.name}: {_described(source)}")
    if source.notice:
        say(f"notice: {source.notice}")
    plan = _plan(options, source, given.taxonomy, folds)
    for line in _plan_lines(options, plan):
        say(line)
    with _beside(out) as folder:
        outputs = export_backbone(source.weights, folder / BACKBONE, plan.blocks, options.all_outputs, plan.class_map)
        say(f"wrote {BACKBONE}: {_size(folder / BACKBONE)}, outputs {', '.join(outputs)}")
        if folds:
            export_head(folds, folder / HEAD)
            say(f"wrote {HEAD}: {_size(folder / HEAD)}, {len(folds)} fold{'s' * (len(folds) > 1)} averaged")
        if plan.classes is not None:
            plan.classes.write(folder / CLASSES)
        if options.priors is not None:
            shutil.copyfile(options.priors, folder / PRIORS)
        candidate = Candidate(
            folder / BACKBONE,
            source.weights,
            outputs,
            plan.preparation,
            plan.class_map,
            0 if plan.classes is None else len(plan.classes),
            folder / HEAD if folds else None,
            folds,
        )
        blocks = plan.blocks if BLOCKS in options.outputs else ()
        against, reference = _reference(options, source, blocks, [name for name in outputs if name in OUTPUTS], say)
        report = prove(candidate, reference, given.inputs, against.path.name, Limits.between(source, against))
        notes = (*source.notes, *getattr(reference, "notes", ()))
        report = replace(report, structure=(*notes, *report.structure))
        for line in parity_lines(report):
            say(line)
        report.require()
        if INT8 in options.precisions:
            windows = calibration_windows(options.calibrate, plan.preparation)
            quality = quantize_within_limits(folder / BACKBONE, folder / INT8_BACKBONE, windows, candidate.head, say)
            say(f"wrote {INT8_BACKBONE}: {_size(folder / INT8_BACKBONE)}")
            report = replace(report, int8=quality.to_dict())
        (folder / PARITY).write_text(report.to_json(), encoding="utf-8")
        manifest = _manifest(options, source, plan, outputs, report, folder)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        Bundle.load(folder)
        _into_place(folder, out)
    bundle = Bundle.load(out)
    total = sum(file.stat().st_size for file in out.iterdir())
    say(f"wrote {out}: {total / 1e6:.1f} MB")
    return bundle


def _reference(
    options: ExportOptions, source: SourceModel, blocks: Sequence[int], outputs: Sequence[str], say: Say
) -> tuple[SourceModel, Reference | None]:
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


def _check_place(out: Path, force: bool) -> None:
    """Refuse early to write where something is."""
    if not os.path.lexists(out):
        return
    if not (out / MANIFEST).is_file():
        raise BundleError("is there and is not a bundle: choose another place, it is left alone", out)
    if not force:
        raise BundleError("is there already: choose another place, or --force to replace it", out)


def _plan(
    options: ExportOptions, source: SourceModel, taxonomy: Taxonomy | None, folds: tuple[HeadCheckpoint, ...]
) -> _Plan:
    """Bring options, source, taxonomy and heads together, or say where they part."""
    blocks, preparation = options.blocks, options.preparation
    if folds:
        head = agreeing_folds(folds)
        blocks = _head_blocks(head, source, options.blocks)
        if preparation is not None and preparation != head.preparation:
            raise OptionsError(
                f"was trained with the preparation '{head.preparation}', the bundle is to have '{preparation}'",
                head.path,
            )
        preparation = head.preparation
        if taxonomy is not None and taxonomy.labels != head.labels:
            difference = first_difference(head.labels, taxonomy.labels)
            raise OptionsError(f"has other classes than {options.taxonomy}: {difference}", head.path)
        if taxonomy is None:
            taxonomy = Taxonomy.from_columns({LABEL_COLUMN: head.labels, SCIENTIFIC_NAME: head.labels})
    class_map: ClassMap | None = None
    if LABEL in options.all_outputs and source.weights.prototypes is not None:
        count = source.weights.prototypes.classes
        names = None if options.perch_labels is None else read_perch_labels(options.perch_labels, count)
        if taxonomy is not None:
            if names is None:
                raise OptionsError(
                    "label for a taxonomy needs the source's class names: give --perch-labels labels.csv"
                )
            class_map = map_classes(taxonomy, names)
            if not len(class_map.needed):
                raise OptionsError(f"none of its classes are in {options.perch_labels}", options.taxonomy)
        else:
            taxonomy = all_classes(names or numbered_names(count))
    return _Plan(blocks or DEFAULT_BLOCKS, preparation or "none", taxonomy, class_map, folds)


def _head_blocks(head: HeadCheckpoint, source: SourceModel, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """The blocks of the bundle, which must be there for the head and be as wide as it was trained with."""
    known = {block.name: block for block in source.weights.architecture.blocks}
    for name, width in head.blocks.items():
        if name not in known:
            raise OptionsError(f"needs {name}, which the network does not have", head.path)
        if known[name].out_channels != width:
            raise OptionsError(
                f"was trained on {name} with {width} features, {source.path.name} has {known[name].out_channels}",
                head.path,
            )
    needed = tuple(sorted(known[name].index for name in head.blocks))
    if wanted is None:
        return needed
    missing = [block for block in needed if block not in wanted]
    if missing:
        raise OptionsError(
            f"was trained on the blocks {_listed(needed)}, the bundle is to have {_listed(wanted)}", head.path
        )
    return tuple(wanted)


def _manifest(
    options: ExportOptions,
    source: SourceModel,
    plan: _Plan,
    outputs: tuple[str, ...],
    report: ParityReport,
    folder: Path,
) -> Manifest:
    kind: HeadKind = "none"
    parameters = 0
    if plan.folds:
        kind = plan.folds[0].config.kind
        parameters = sum(fold.head.parameter_count for fold in plan.folds)
    elif options.head:
        kind = "perch"
    notices = dict.fromkeys(notice for notice in (source.notice, *(fold.notice for fold in plan.folds)) if notice)
    architecture = source.weights.architecture
    return Manifest(
        name=Path(options.out).name,
        source=Source(source.path.name, source.sha256, source.form, source.licence),
        blocks={b.name: b.out_channels for b in architecture.blocks if b.name in outputs},
        outputs=outputs,
        head=Head(kind, len(plan.folds), parameters),
        preparation=plan.preparation,
        variants={FP32: BACKBONE} | ({INT8: INT8_BACKBONE} if INT8 in options.precisions else {}),
        files={file.name: sha256(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST},
        parity=report.summary(),
        versions={"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("bce", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")},
        notice="; ".join(notices),
    )


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A new folder beside ``out``, gone again unless it has been moved into place."""
    folder = out.with_name(f"{out.name}.partial-{os.getpid()}")
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _into_place(folder: Path, out: Path) -> None:
    """Rename the new bundle in; the old one is moved away before and deleted after, or put back."""
    if not out.exists():
        os.rename(folder, out)
        return
    old = out.with_name(f"{out.name}.old-{os.getpid()}")
    os.rename(out, old)
    try:
        os.rename(folder, out)
    except OSError:
        os.rename(old, out)
        raise
    shutil.rmtree(old)


def _described(source: SourceModel) -> str:
    prototypes = source.weights.prototypes
    classes = "no classifier" if prototypes is None else f"{prototypes.classes} classes"
    blocks = len(source.weights.architecture.blocks)
    return f"{source.form}, {_size(source.path)}, {blocks} blocks, {classes}, licence {source.licence}"


def _plan_lines(options: ExportOptions, plan: _Plan) -> Iterator[str]:
    if BLOCKS in options.outputs:
        yield f"blocks {_listed(plan.blocks)}, preparation {plan.preparation}"
    if plan.class_map is not None:
        mapped, proxies, silent = plan.class_map.counts
        yield (
            f"{len(plan.class_map.members)} classes: {mapped} by name, {proxies} by their genus, "
            f"{silent} without signal"
        )


def parity_lines(report: ParityReport) -> Iterator[str]:
    """The proof in a few lines, for the screen."""
    if not report.numbers:
        yield "parity: structure checked, numbers not (the source cannot run here)"
    for key, value in report.summary().items():
        yield f"parity: {key.replace('_', ' ')} {value:.1e}"
    if report.rounded:
        yield (
            f"parity: {len(report.rounded)} of {len(report.comparisons)} comparisons are over the first limit by"
            " float32 rounding that the source has as well; parity.json has the limit applied to each"
        )


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else "a folder"


def _listed(blocks: Sequence[int]) -> str:
    return ", ".join(map(str, blocks))
