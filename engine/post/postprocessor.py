"""Post-processing of a run: options with a bundle's taxonomy and priors, over recordings that come in parts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.engine.geometry import ChunkGrid
from bce.engine.post.options import PostprocessOptions, Step
from bce.engine.post.priors import Basis, Priors
from bce.engine.post.ranges import RangeBasis, Ranged, Ranges
from bce.engine.post.steps import add_prior, gaussian_radius, postprocess, taxonomy_groups
from bce.engine.recording import Recording
from bce.engine.results import Outcome, Part
from bce.engine.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False)
class ScoredPart:
    """Consecutive chunks of a recording with their scores.

    Attributes:
        recording: which.
        first_chunk: position of the first chunk in the recording.
        scores: float64 [chunks, classes] within 0..1.
        outcome: what became of the recording, with its last part; None before.
        prior: with the last part, how many chunks' priors rest on what.
        range: with the last part, the place and the week that the ranges rest on; None where none were applied.
    """

    recording: Recording
    first_chunk: int
    scores: NDArray[np.float64]
    outcome: Outcome | None = None
    prior: dict[Basis, int] = field(default_factory=dict)
    range: RangeBasis | None = None


class Postprocessor:
    """Post-processing of a run: options with the bundle's taxonomy and priors.

    A step that lacks what it needs (no priors; a taxonomy without the level) is left out and :meth:`describe` says so,
    unless it was asked for.

    Args:
        options: what to do.
        taxonomy: the classes of the logits.
        grid: the chunks of the run.
        priors: the site x hour table, or None.
        required: steps that the user asked for by name.
        brought: values of the options that the bundle brings, for :meth:`describe`.
        ranges: the range model for these classes and where recordings were made; or why there is no range
            model or no place; None where nothing is to be said of them.

    Attributes:
        options: what is done.
        ranges: the range model's step; None where it does nothing.

    Raises:
        OptionsError: a required step lacks what it needs, or an excluded group does not exist.
        TableError: the priors lack a class.
    """

    _held: NDArray[np.float64]
    """Rows with their prior: those that wait for what comes, and those that serve them as context."""
    _first: int
    """Position of the first row held."""
    _next: int
    """Position of the next row to give out."""
    _prior: dict[Basis, int]
    _ranged: Ranged | None
    """What the range model says of the recording; None before its first part."""

    def __init__(
        self,
        options: PostprocessOptions,
        taxonomy: Taxonomy,
        grid: ChunkGrid,
        priors: Priors | None = None,
        required: Collection[Step] = (),
        brought: Collection[str] = (),
        ranges: Ranges | str | None = None,
    ) -> None:
        self._brought = tuple(brought)
        self._missing: dict[Step, str] = {}
        if options.uses_prior and priors is None:
            self._missing["prior"] = "there are no priors (the bundle has none, none were given)"
            options = replace(options, prior_known=0.0, prior_unknown=0.0)
        absent = [level for level, _ in options.levels if not taxonomy.has_level(level)]
        if absent:
            self._missing["taxonomy"] = f"the class table has no {' and no '.join(absent)} column"
            options = replace(options, taxonomy=tuple(item for item in options.levels if item[0] not in absent))
        self.ranges = ranges if isinstance(ranges, Ranges) and options.uses_range else None
        if isinstance(ranges, str) and options.uses_range:
            self._missing["range"] = ranges
        for step in required:
            if step in self._missing:
                raise OptionsError(f"cannot run the {step} step that was asked for: {self._missing[step]}")
        self.options = options
        self._grid = grid
        self._classes = len(taxonomy.labels)
        self._priors = None if priors is None or not options.uses_prior else priors.for_classes(taxonomy.labels)
        self._groups = taxonomy_groups(taxonomy, options)
        self._reach = gaussian_radius(options.sigma) if options.sigma else 0
        self._begin()

    def add(self, part: Part) -> ScoredPart:
        """Process the next part of a recording.

        Rows whose smoothing reaches beyond what has come wait for the next part, so that the scores are the same
        however a recording is cut. Parts come in order, one recording after the other.
        """
        if self._ranged is None:
            self._ranged = Ranged() if self.ranges is None else self.ranges.of(part.recording, self.options)
        ranged = self._ranged
        logits = self._with_prior(part)
        if ranged.log_odds is not None:
            logits += ranged.log_odds
        self._held = np.concatenate([self._held, logits])
        end = self._first + len(self._held)
        until = end if part.last else max(self._next, end - self._reach)
        slab = slice(max(0, self._next - self._reach - self._first), min(end, until + self._reach) - self._first)
        rows = self._held[slab]
        begin = self._next - self._first - slab.start
        scores = postprocess(rows, np.array([0, len(rows)]), self.options, self._groups, ranged.masked)
        done = ScoredPart(
            part.recording,
            self._next,
            scores[begin : begin + until - self._next],
            part.outcome,
            self._prior if part.last else {},
            ranged.basis if part.last else None,
        )
        if part.last:
            self._begin()
        else:
            kept = max(self._first, until - self._reach)
            self._held, self._first, self._next = self._held[kept - self._first :], kept, until
        return done

    def _begin(self) -> None:
        """Forget the recording before."""
        self._held = np.empty((0, self._classes))
        self._first = self._next = 0
        self._prior = {}
        self._ranged = None

    def _with_prior(self, part: Part) -> NDArray[np.float64]:
        """A part's logits in float64, with the prior added."""
        recording, chunks = part.recording, len(part.logits)
        if self._priors is None or not chunks:
            return part.logits.astype(np.float64)
        starts = self._grid.start_s(part.first_chunk, chunks)
        table, row, basis = self._priors.for_chunks(recording.site, recording.start_time, starts)
        counts = np.bincount(row, minlength=len(basis))
        for kind, count in zip(basis, counts.tolist(), strict=True):
            self._prior[kind] = self._prior.get(kind, 0) + count
        return add_prior(part.logits, self._strength(recording.site) * table, row)

    def _strength(self, site: str | None) -> float:
        known = self._priors is not None and self._priors.knows_site(site)
        return self.options.prior_known if known else self.options.prior_unknown

    def describe(self) -> list[str]:
        """What runs with which values, one line a step."""
        options = self.options
        prior = f"prior: strength {options.prior_known:g} at sites with labels, {options.prior_unknown:g} at others"
        if self._priors is not None:
            prior += f" ({len(self._priors.sites)} sites, {int(self._priors.windows.sum())} labelled windows)"
        amounts = ", ".join(f"{level} {amount:g}" for level, amount in options.levels)
        if amounts and options.exclude:
            amounts += f", without {', '.join(options.exclude)}"
        lines: dict[Step, str] = {"prior": prior if options.uses_prior else "prior: off"}
        if self.ranges is not None:
            lines["range"] = self.ranges.describe(options)
        elif "range" in self._missing:
            lines["range"] = "range: off"
        lines["gaussian"] = "Gaussian: off"
        if options.sigma:
            lines["gaussian"] = f"Gaussian: sigma {options.sigma:g} chunks, on {options.smooth_on}"
        lines["taxonomy"] = f"taxonomy: {amounts}, on probabilities" if amounts else "taxonomy: off"
        for step, missing in self._missing.items():
            lines[step] += f" ({missing})"
        said = list(lines.values())
        if self._brought:
            said.append(f"of these the bundle brings: {', '.join(self._brought)}")
        return said
