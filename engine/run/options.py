"""What a run is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.errors import OptionsError
from bce.engine.post.deployments import Place
from bce.engine.post.options import PostprocessOptions, Step
from bce.engine.run.budget import BudgetOptions
from bce.engine.run.engine import EngineOptions, FeaturesPer
from bce.engine.tables.detections import THRESHOLD


@dataclass(frozen=True)
class RunOptions:
    """What to run and what to write.

    Attributes:
        paths: recordings and folders.
        out: the score table, .csv or .parquet; None writes none.
        features_out: block features as parquet; None writes none.
        features_per: features as a mean over a chunk's shifts ("chunk") or of every window ("window").
        detections_out: detections as .csv; None writes none.
        threshold: of the scores of detections, above 0 and at most 1.
        sample_submission: a table whose rows and order the output must have.
        name_rule: how site and time are read from file names; default: BirdCLEF's.
        engine: threads, shifts, precision, backend; its features follow from ``features_out``.
        postprocess: prior, Gaussian and taxonomy smoothing; None for the values that the bundle was tuned to.
        required: post-processing steps that were asked for by name: without what they need the run is refused.
        priors: a site x hour table in place of the bundle's own.
        place: where all recordings were made, for the bundle's range model.
        deployments: a table of their sites' places instead, see :class:`bce.engine.post.deployments.Deployments`.
        budget: a deadline for the whole process; None takes the time it takes.
        safe_csv: put an apostrophe before names in a CSV table that a spreadsheet would take for a formula.
        quiet: no progress.

    Raises:
        OptionsError: ``features_per`` is neither, or there are a place and a table of places.
    """

    paths: tuple[Path, ...]
    out: Path | None
    features_out: Path | None = None
    features_per: FeaturesPer = "chunk"
    detections_out: Path | None = None
    threshold: float = THRESHOLD
    sample_submission: Path | None = None
    name_rule: NameRule = BIRDCLEF
    engine: EngineOptions = field(default_factory=EngineOptions)
    postprocess: PostprocessOptions | None = None
    required: tuple[Step, ...] = ()
    priors: Path | None = None
    place: Place | None = None
    deployments: Path | None = None
    budget: BudgetOptions | None = None
    safe_csv: bool = False
    quiet: bool = False

    @property
    def scored(self) -> bool:
        """Whether anything is written that scores go into."""
        return self.out is not None or self.detections_out is not None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The tables that are written."""
        return tuple(out for out in (self.out, self.detections_out, self.features_out) if out is not None)

    def __post_init__(self) -> None:
        if self.features_per not in get_args(FeaturesPer):
            raise OptionsError(
                f"features_per is {self.features_per!r}, it must be one of {', '.join(get_args(FeaturesPer))}"
            )
        if self.place is not None and self.deployments is not None:
            raise OptionsError("give either one place for all recordings or a table of deployments, not both")
