"""Perch's part of an export: its options, its source, its graphs and heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bce.engine.errors import ExportError
from bce.engine.files import sha256
from bce.engine.frontends import perch
from bce.engine.frontends.base import make_frontend
from bce.engine.network.bundle import HEAD, Bundle
from bce.engine.network.manifest import Head, HeadKind, Input, OutputKind, Score, identity_of
from bce.export.commands.bundling import BACKBONE, Contents, Proof, Say, make_bundle, size_of
from bce.export.commands.options import OUTPUTS, ExportOptions
from bce.export.commands.places import check_place
from bce.export.commands.planning import Given, Plan, gather, plan
from bce.export.heads.graph import export_head
from bce.export.heads.trained_on import Network, compare_networks, sample_features
from bce.export.perch.architecture import BLOCKS, EMBEDDING, LABEL
from bce.export.perch.download import resolve
from bce.export.perch.exact import Exact, exact_log_mel, prepared
from bce.export.perch.graph import export_backbone, output_widths
from bce.export.perch.sources import PerchSource, read_source
from bce.export.perch.weights import MOST_ZEROS, zeroed_arrays
from bce.export.proof.check_audio import CheckInput
from bce.export.proof.gates import Limits
from bce.export.proof.parity import Candidate, Definition
from bce.export.sources import CannotRun, Reference

__all__ = ["ExportOptions", "PerchExport", "export_bundle", "export_source"]

FAMILY = "perch"
ENTRY = Input(perch.INPUT, perch.SHAPE)
_KINDS: dict[str, OutputKind] = {EMBEDDING: "embedding", LABEL: "logits"}


def export_bundle(options: ExportOptions, say: Say = lambda line: None) -> Bundle:
    """Make a bundle of a Perch file, prove it against its source, and put it in place.

    Args:
        options: what to export.
        say: takes a line for each step done, for whoever wants to show them.

    Raises:
        OptionsError: options, heads and tables contradict each other.
        BundleError: ``out`` is there and may not be replaced.
        ExportError: the source cannot be converted.
        ParityError: the bundle does not give the source's numbers; nothing was written.
    """
    check_place(options)
    given = gather(options)
    say(f"reading {options.perch}")
    return make_bundle(PerchExport(read_source(resolve(options.perch)), options, given), options, say)


def export_source(source: PerchSource, options: ExportOptions, say: Say = lambda line: None) -> Bundle:
    """:func:`export_bundle` for a source that has been read already; ``options.perch`` is not looked at."""
    check_place(options)
    return make_bundle(PerchExport(source, options, gather(options)), options, say)


@dataclass(frozen=True)
class PerchExport:
    """See :class:`bce.export.commands.bundling.Export`."""

    source: PerchSource
    options: ExportOptions
    given: Given
    family = FAMILY
    window = perch.WINDOW

    @property
    def described(self) -> str:
        source = self.source
        prototypes = source.weights.prototypes
        classes = "no classifier" if prototypes is None else f"{prototypes.classes} classes"
        blocks = len(source.weights.architecture.blocks)
        return f"{source.form}, {size_of(source.path)}, {blocks} blocks, {classes}, licence {source.licence}"

    @cached_property
    def planned(self) -> Plan:
        """What all inputs together say about the bundle."""
        return plan(self.options, self.source, self.given)

    @property
    def contents(self) -> Contents:
        planned, folds = self.planned, self.planned.folds
        kind: HeadKind = "none"
        score: Score | None = None
        if folds:
            kind, score = folds[0].head.kind, Score("head")
        elif self.options.head:
            kind, score = "own", Score(LABEL, unknown=planned.unknown)
        head = Head(kind, len(folds), sum(fold.head.parameter_count for fold in folds))
        notices = (self.source.notice, *(fold.notice for fold in folds))
        return Contents(score, head, planned.classes, _KINDS, post=planned.post, notices=notices)

    def lines(self) -> Iterator[str]:
        """What is found of zeros, class names and the plan."""
        yield from zero_lines(self.source)
        labels = self.given.labels
        if labels is not None and labels != Path(str(self.options.perch_labels)).expanduser():
            yield f"class names: the published list, {labels}"
        yield from self.planned.lines(self.options)

    def check_inputs(self) -> list[CheckInput]:
        """Read before the slow part started."""
        return self.given.inputs

    def write(self, folder: Path, say: Say) -> Candidate:
        """The backbone and the head, and what they should be."""
        source, options, planned = self.source, self.options, self.planned
        backbone, head, folds = folder / BACKBONE, folder / HEAD, planned.folds
        outputs = export_backbone(source.weights, backbone, planned.blocks, options.all_outputs, planned.class_map)
        say(f"wrote {BACKBONE}: {size_of(backbone)}, outputs {', '.join(outputs)}")
        frontend = perch.spec(planned.preparation)
        if folds:
            features = sample_features(
                backbone, make_frontend(frontend, perch.WINDOW), perch.WINDOW, list(folds[0].blocks)
            )
            network = Network(identity_of(sha256(backbone), perch.WINDOW, ENTRY, frontend, outputs), features)
            for fold in folds:
                for note in fold.notes:
                    say(f"{Path(str(fold.path)).name} {note}")
                say(compare_networks(fold, network, options.any_backbone))
            export_head(folds, head)
            say(f"wrote {HEAD}: {size_of(head)}, {len(folds)} fold{'s' * (len(folds) > 1)} averaged")
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

    def proof(self, candidate: Candidate, say: Say) -> Proof:
        """The source itself, or another published form of it."""
        blocks = self.planned.blocks if BLOCKS in self.options.outputs else ()
        outputs = [name for name in candidate.widths if name in OUTPUTS]
        against, reference = self._reference(blocks, outputs, say)
        notes = (*self.source.notes, *getattr(reference, "notes", ()))
        return Proof(against, reference, Limits.between(self.source, against), notes)

    def _reference(
        self, blocks: Sequence[int], outputs: Sequence[str], say: Say
    ) -> tuple[PerchSource, Reference | None]:
        """The file whose numbers are the proof, and how to run it; None where the source cannot run here."""
        source, other = self.source, self.options.check_against
        if other is None:
            try:
                return source, source.reference(blocks, outputs)
            except CannotRun as error:
                say(f"parity: {error}; --check-against OTHER_FILE proves it with another published form")
                return source, None
        against = read_source(resolve(other))
        found, expected = (
            (model.weights.architecture, model.weights.prototypes and model.weights.prototypes.classes)
            for model in (against, source)
        )
        if found != expected:
            raise ExportError(f"is another network than {source.path.name}: it cannot prove it", against.path)
        return against, against.reference(blocks, outputs)


def zero_lines(source: PerchSource) -> Iterator[str]:
    """Say which arrays have zeros; refuse a kernel or a scale of them: its block may hear nothing while others do."""
    for name, share in zeroed_arrays(source.weights).items():
        if share > MOST_ZEROS:
            raise ExportError(f"{name}: {share:.0%} of its numbers are 0, the file is damaged", source.path)
        if not source.lossy:
            yield f"source: {name}: {share:.1%} of its numbers are 0, the file may be damaged"
