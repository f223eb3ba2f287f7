"""BirdNET's part of an export: its source with what lies beside it, its classes, its graph and its frontend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bce.engine.errors import ExportError, OptionsError
from bce.engine.files import sha256
from bce.engine.frontends import birdnet
from bce.engine.geometry import ChunkGrid
from bce.engine.network.bundle import Bundle
from bce.engine.network.manifest import Head, Input, OutputKind, Placing, Score
from bce.engine.post.priors import Priors
from bce.engine.post.range_model import RANGE, RangeModel
from bce.engine.taxonomy import COMMON_NAME, Taxonomy
from bce.export.birdnet.architecture import EMBEDDING, LOGITS
from bce.export.birdnet.classes import SOURCE_WHY, map_to_labels, read_labels
from bce.export.birdnet.exact import Exact, exact_spectrograms
from bce.export.birdnet.graph import export_backbone
from bce.export.birdnet.locate import locate
from bce.export.birdnet.published import are_published_labels, published_name
from bce.export.birdnet.range_model import learnt, prove_range_model, read_range_model
from bce.export.birdnet.sources import BirdnetSource, read_source
from bce.export.classes import NO_SIGNAL, ClassMap
from bce.export.commands.bundling import BACKBONE, Contents, Proof, Say, make_bundle, size_of
from bce.export.commands.given import check_postprocessing, read_post
from bce.export.commands.options import BirdnetOptions
from bce.export.commands.places import check_place
from bce.export.proof.check_audio import CheckInput, check_inputs
from bce.export.proof.gates import END_TO_END_RELATIVE_L2, Limits
from bce.export.proof.parity import Candidate, Definition
from bce.export.sources import CannotRun

FAMILY = "birdnet"
ENTRY = Input(birdnet.INPUT, birdnet.SHAPE)
PLACING = Placing(shifts_s=(0.0,), reduce="max", step_s=1.0)
"""A chunk of 5 s has windows at 0, 1 and 2 s. On ESC-10's clips of 5 s the largest logit tells dogs and roosters from
all else with AUC 1.000 and 0.990, the mean with 0.976 and 0.980; windows at 0 and 2 s alone with 1.000 and 0.989."""
POST = {"sigma": 0.0, "taxonomy": {}}
"""Scores are BirdNET's confidences, sigmoid(logit), unless a run or the export asks for smoothing."""
WITHOUT = "none"
_KINDS: dict[str, OutputKind] = {EMBEDDING: "embedding", LOGITS: "logits"}


def export_birdnet(options: BirdnetOptions, say: Say = lambda line: None) -> Bundle:
    """Make a bundle of the user's own copy of BirdNET v2.4, prove it against LiteRT, and put it in place.

    Args:
        options: what to export.
        say: takes a line for each step done, for whoever wants to show them.

    Raises:
        OptionsError: options and tables contradict each other.
        BundleError: ``out`` is there and may not be replaced.
        ExportError: there is no file, or it cannot be converted.
        ParityError: the bundle does not give the source's numbers; nothing was written.
    """
    check_place(options)
    priors = None if options.priors is None else Priors.load(options.priors)
    post: dict[str, Any] = POST if options.post is None else read_post(options.post)
    taxonomy = None if options.taxonomy is None else Taxonomy.read(options.taxonomy)
    inputs = check_inputs(birdnet.WINDOW, options.check_audio)
    located = locate(options.birdnet)
    named = options.labels or located.labels
    if named is None:
        raise OptionsError("has no labels beside it: give its class names with --birdnet-labels FILE", located.model)
    say(f"reading {located.model}")
    source = read_source(located.model)
    labels = read_labels(named, source.weights.classes)
    pairs = zip(labels.scientific_names, labels.columns[COMMON_NAME], strict=True)
    whose = "the published ones"
    if not are_published_labels([f"{scientific}_{common}" for scientific, common in pairs]):
        whose = "none that are published: nobody vouches for their order"
    ranges = _read_ranges(options.range_model or located.range_model, source.weights.classes)
    class_map = None if taxonomy is None else map_to_labels(taxonomy, labels)
    if class_map is not None and not len(class_map.needed):
        raise OptionsError(f"none of its classes are in {named}", options.taxonomy)
    classes = labels if class_map is None else class_map.taxonomy
    check_postprocessing(options, priors, post, classes, ChunkGrid(birdnet.WINDOW.window_s))
    return make_bundle(
        BirdnetExport(source, classes, class_map, inputs, post, ranges, f"{named}, {whose}"), options, say
    )


@dataclass(frozen=True, eq=False)
class RangeFile:
    """A range model that was read, for all of the source's classes, and its file."""

    path: Path
    model: RangeModel


def _read_ranges(given: str | os.PathLike[str] | None, classes: int) -> RangeFile | None:
    """The range model, if there is one and it is wanted."""
    if given is None or str(given) == WITHOUT:
        return None
    path = Path(given).expanduser()
    model = read_range_model(path)
    if model.classes != classes:
        raise ExportError(
            f"has {model.classes} classes, BirdNET's file {classes}: give the range model that belongs to it, or "
            f"--range-model {WITHOUT}",
            path,
        )
    return RangeFile(path, model)


@dataclass(frozen=True)
class BirdnetExport:
    """See :class:`bce.export.commands.bundling.Export`.

    Attributes:
        source: the published file.
        classes: of the bundle.
        class_map: which of the source's they are; None for all of them.
        inputs: the windows of the proof.
        post: tuned values of post-processing.
        ranges: the range model; None for a bundle without one.
        labels: where the class names are from, in words.
    """

    source: BirdnetSource
    classes: Taxonomy
    class_map: ClassMap | None
    inputs: list[CheckInput]
    post: dict[str, Any]
    ranges: RangeFile | None = None
    labels: str = ""
    family = FAMILY
    window = birdnet.WINDOW

    @property
    def described(self) -> str:
        source = self.source
        return f"{source.form}, {size_of(source.path)}, {source.weights.classes} classes, licence {source.licence}"

    @property
    def contents(self) -> Contents:
        unknown: tuple[str, ...] = ()
        if self.class_map is not None:
            pairs = zip(self.classes.labels, self.class_map.silent, strict=True)
            unknown = tuple(label for label, silent in pairs if silent)
        score, notices = Score(LOGITS, unknown=unknown), (self.source.notice,)
        return Contents(score, Head("own"), self.classes, _KINDS, PLACING, self.post, notices)

    def lines(self) -> Iterator[str]:
        """Whose class names they are, which classes were found, and the names of those that were not."""
        if self.labels:
            yield f"class names: {self.labels}"
        if self.class_map is None:
            yield f"{len(self.classes)} classes, all of the source's"
            return
        silent = self.class_map.silent
        other = sum(map(bool, self.classes.columns[SOURCE_WHY]))
        found = len(silent) - int(silent.sum())
        yield (
            f"{len(silent)} classes: {found - other} by scientific name, {other} by another name (bce-export --info "
            f"lists them), {int(silent.sum())} without signal, whose logit is the constant {NO_SIGNAL:g}"
        )
        if silent.any():
            names = [name for name, lacking in zip(self.classes.scientific_names, silent, strict=True) if lacking]
            yield f"without signal: {', '.join(names)}"

    def check_inputs(self) -> list[CheckInput]:
        """Read before the slow part started."""
        return self.inputs

    def write(self, folder: Path, say: Say) -> Candidate:
        """The backbone, the frontend's arrays, and the range model."""
        weights, backbone, arrays = self.source.weights, folder / BACKBONE, folder / birdnet.ARRAYS
        widths = export_backbone(weights, backbone, self.class_map)
        birdnet.write_arrays(weights.branches, arrays)
        say(f"wrote {BACKBONE}: {size_of(backbone)}, outputs {', '.join(widths)}")
        if self.ranges is not None:
            _write_ranges(self.ranges, self.class_map, folder / RANGE, say)
        frontend = birdnet.spec(arrays)
        return Candidate(
            backbone=backbone,
            window=birdnet.WINDOW,
            input=ENTRY,
            frontend=frontend,
            widths=widths,
            definition=Definition(
                plain=frontend,
                prepared=lambda waveforms: waveforms,
                inputs=lambda waveforms: exact_spectrograms(weights.branches, waveforms),
                outputs=Exact(weights, self.class_map),
            ),
            logits=LOGITS,
            class_map=self.class_map,
            classes=len(self.classes),
        )

    def proof(self, candidate: Candidate, say: Say) -> Proof:
        """The file itself under LiteRT: exact ones are held to the first limits, on extremes too."""
        source = self.source
        limits = Limits(end_to_end_on_extremes=END_TO_END_RELATIVE_L2)
        if source.lossy:
            limits = Limits.between(source, source)
        return Proof(source, source.reference((), tuple(candidate.widths)), limits, source.notes)


def _write_ranges(ranges: RangeFile, class_map: ClassMap | None, out: Path, say: Say) -> None:
    """Prove the range model against its file, cut it to the bundle's classes and write it."""
    path, model = ranges.path, ranges.model
    say(f"read {path.name}: {'published' if published_name(sha256(path)) else 'not a published file'}, {size_of(path)}")
    try:
        say(f"range model: probabilities within {prove_range_model(model, path):.1e} of LiteRT's")
    except CannotRun as error:
        say(f"range model: structure checked, numbers not ({error.reason})")
    knows = learnt(model)
    members = [(place,) for place in range(model.classes)] if class_map is None else class_map.members
    cut = model.cut([of[0] if of and knows[of[0]] else -1 for of in members])
    cut.save(out)
    known = int(cut.known.sum())
    say(f"wrote {out.name}: {size_of(out)}, {known} classes; {cut.classes - known} that it does not know are let be")
