"""Options, source, taxonomy and heads together: what a bundle is to hold, or where they part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bce.engine.errors import OptionsError
from bce.engine.frontends.perch import WINDOW, Preparation
from bce.engine.geometry import ChunkGrid
from bce.engine.post.priors import Priors
from bce.engine.taxonomy import LABEL as LABEL_COLUMN
from bce.engine.taxonomy import SCIENTIFIC_NAME, Taxonomy
from bce.export.classes import NO_SIGNAL, ClassMap, all_classes, map_classes, numbered_names, read_perch_labels
from bce.export.commands.given import check_postprocessing, read_post
from bce.export.commands.options import ExportOptions
from bce.export.heads.checkpoints import Fold, agreeing_folds, first_difference
from bce.export.heads.loading import load_head
from bce.export.perch.architecture import BLOCKS, DEFAULT_BLOCKS, LABEL
from bce.export.perch.download import resolve_labels
from bce.export.perch.sources import PerchSource
from bce.export.proof.check_audio import CheckInput, check_inputs, recordings_in


@dataclass(frozen=True)
class Given:
    """What the user gave beside the source, read and checked before the slow part starts."""

    folds: tuple[Fold, ...]
    taxonomy: Taxonomy | None
    inputs: list[CheckInput]
    priors: Priors | None = None
    post: dict[str, Any] = field(default_factory=dict)
    labels: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What all inputs together say about the bundle.

    Attributes:
        blocks: rising indices of those that are put out.
        preparation: of every window.
        classes: of the bundle in order; None for one without scores.
        class_map: how the source's own logits become those classes; None where they are not cut.
        folds: of the trained head; none without one.
        post: values of post-processing that were tuned for it.
    """

    blocks: tuple[int, ...]
    preparation: Preparation
    classes: Taxonomy | None
    class_map: ClassMap | None
    folds: tuple[Fold, ...]
    post: dict[str, Any] = field(default_factory=dict)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Labels of the classes without signal."""
        if self.classes is None or self.class_map is None:
            return ()
        silent = self.class_map.silent
        return tuple(label for label, is_silent in zip(self.classes.labels, silent, strict=True) if is_silent)

    def lines(self, options: ExportOptions) -> Iterator[str]:
        """The plan for the screen."""
        if BLOCKS in options.outputs:
            yield f"blocks {_listed(self.blocks)}, preparation {self.preparation}"
        if self.class_map is not None:
            mapped, proxies, silent = self.class_map.counts
            unsaid = "" if self.class_map.taxonomy.has_level("class") else " (it names no taxon classes)"
            yield (
                f"{len(self.class_map.members)} classes: {mapped} by name, {proxies} by their genus{unsaid}, "
                f"{silent} without signal, whose logit is the constant {NO_SIGNAL:g}"
            )


def gather(options: ExportOptions) -> Given:
    """Read what was given beside the source.

    Raises:
        BceError: a file is missing or is not what it should be.
    """
    priors = None if options.priors is None else Priors.load(options.priors)
    post = {} if options.post is None else read_post(options.post)
    taxonomy = None if options.taxonomy is None else Taxonomy.read(options.taxonomy)
    labels = None if taxonomy is None else taxonomy.labels
    folds = tuple(load_head(path, labels, options.preparation) for path in options.head) if options.trained else ()
    for path in options.calibrate:
        recordings_in(path)
    names = None if options.perch_labels is None else resolve_labels(options.perch_labels)
    return Given(folds, taxonomy, check_inputs(WINDOW, options.check_audio), priors, post, names)


def plan(options: ExportOptions, source: PerchSource, given: Given) -> Plan:
    """Bring options, source, taxonomy and heads together.

    Raises:
        OptionsError: they contradict each other; the message says where.
    """
    blocks, preparation, taxonomy = options.blocks, options.preparation, given.taxonomy
    if given.folds:
        head = agreeing_folds(given.folds)
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
    prototypes = source.weights.prototypes
    if LABEL in options.all_outputs and prototypes is not None:
        names = None if given.labels is None else read_perch_labels(given.labels, prototypes.classes)
        if taxonomy is not None:
            class_map = _class_map(options, taxonomy, names)
        else:
            taxonomy = all_classes(names or numbered_names(prototypes.classes))
    scored = taxonomy if options.head else None
    check_postprocessing(options, given.priors, given.post, scored, ChunkGrid(WINDOW.window_s))
    return Plan(blocks or DEFAULT_BLOCKS, preparation or "none", taxonomy, class_map, given.folds, given.post)


def _class_map(options: ExportOptions, taxonomy: Taxonomy, names: tuple[str, ...] | None) -> ClassMap:
    if names is None:
        raise OptionsError("label for a taxonomy needs the source's class names: give --perch-labels labels.csv")
    class_map = map_classes(taxonomy, names)
    if not len(class_map.needed):
        raise OptionsError(f"none of its classes are in {options.perch_labels}", options.taxonomy)
    return class_map


def _head_blocks(head: Fold, source: PerchSource, wanted: Sequence[int] | None) -> tuple[int, ...]:
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


def _listed(blocks: Sequence[int]) -> str:
    return ", ".join(map(str, blocks))
