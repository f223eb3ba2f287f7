"""How scores, post-processing and blocks are judged. Nothing here loads numpy: ``--help`` reads the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

from bce.engine.errors import OptionsError
from bce.engine.post.options import PostprocessOptions, SmoothOn
from bce.engine.taxonomy import Level
from bce.tools.ranges import check_ranges

if TYPE_CHECKING:
    from bce.engine.post.priors import Shrinkage

Metric = Literal["cosine", "euclidean"]
Method = Literal["leave-one-out", "split"]

RESAMPLES = (1, 100_000)


@dataclass(frozen=True)
class EvaluateOptions:
    """How a score table is judged.

    Attributes:
        resamples: of the bootstrap over recordings that gives the intervals, 1 to 100,000.
        unseen_sites: sites that nothing was learnt from; gives one AUC over them and one over the others.
    """

    resamples: int = 1000
    unseen_sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, resamples=RESAMPLES)


@dataclass(frozen=True)
class StudyOptions:
    """How post-processing is judged.

    Attributes:
        strengths: of the prior, each 0 to 10.
        sigma: of the Gaussian, in chunks.
        taxonomy, exclude: taxonomy smoothing, as :class:`bce.engine.post.options.PostprocessOptions` has them.
        shrinkage: the weights of the prior; None for the defaults.
        resamples: of the bootstrap over recordings that gives the intervals, 1 to 100,000.
    """

    strengths: tuple[float, ...] = (0.1, 0.3, 0.5)
    sigma: float = PostprocessOptions.sigma
    taxonomy: tuple[tuple[Level, float], ...] = PostprocessOptions.taxonomy
    exclude: tuple[str, ...] = PostprocessOptions.exclude
    shrinkage: Shrinkage | None = None
    resamples: int = 1000

    def __post_init__(self) -> None:
        check_ranges(self, resamples=RESAMPLES)
        for strength in self.strengths:
            self.steps(strength)

    def steps(self, strength: float = 0.0) -> PostprocessOptions:
        """The steps with a prior of a strength at all sites.

        Raises:
            OptionsError: a value is out of range.
        """
        return PostprocessOptions(
            prior_known=strength,
            prior_unknown=strength,
            sigma=self.sigma,
            taxonomy=self.taxonomy,
            exclude=self.exclude,
        )


@dataclass(frozen=True)
class TuneOptions:
    """Which values of post-processing are tried.

    Attributes:
        strengths: of the prior at sites with labels, each 0 to 10.
        unknown_shares: of that strength at other sites, each 0 to 1.
        sigmas: of the Gaussian, in chunks.
        smooth_on: what it averages.
        amounts: of taxonomy smoothing, the same for genus and class, each 0 to 1.
        shrinkage: the weights of the prior; None for the defaults.
        resamples: of the bootstrap over recordings that gives the intervals, 1 to 100,000.
    """

    strengths: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    unknown_shares: tuple[float, ...] = (1.0, 0.5, 0.0)
    sigmas: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    smooth_on: tuple[SmoothOn, ...] = ("logits", "probabilities")
    amounts: tuple[float, ...] = (0.05, 0.15)
    shrinkage: Shrinkage | None = None
    resamples: int = 1000

    def __post_init__(self) -> None:
        check_ranges(self, resamples=RESAMPLES)
        for share in self.unknown_shares:
            if not 0 <= share <= 1:
                raise OptionsError(f"share of the strength at unknown sites is {share}, it must be 0 to 1")
        for strength, sigma in product(self.strengths, self.sigmas):
            PostprocessOptions(prior_known=strength, sigma=sigma)
        for amount in self.amounts:
            PostprocessOptions(taxonomy=(("genus", amount),))


@dataclass(frozen=True)
class ProbeOptions:
    """How to probe.

    Attributes:
        classes: drawn in each repeat, from those with enough clips; fewer where there are fewer.
        clips: drawn of each class, at least 2; fewer where the smallest drawn class has fewer.
        neighbours: that vote.
        metrics: of distance.
        method: "leave-one-out", or "split": half of each class' clips are neighbours for the other half.
        repeats: draws of classes, clips and halves.
        seed: of the draws.
    """

    classes: int = 30
    clips: int = 20
    neighbours: int = 5
    metrics: tuple[Metric, ...] = ("cosine", "euclidean")
    method: Method = "leave-one-out"
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        most = 1_000_000
        check_ranges(self, classes=(2, most), clips=(2, most), neighbours=(1, most), repeats=(1, most), seed=(0, most))
        if self.method not in get_args(Method):
            raise OptionsError(f"method {self.method!r} is unknown: choose {' or '.join(get_args(Method))}")
        for metric in self.metrics:
            if metric not in get_args(Metric):
                raise OptionsError(f"metric {metric!r} is unknown: choose {' or '.join(get_args(Metric))}")
