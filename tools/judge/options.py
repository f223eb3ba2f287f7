"""How scores, post-processing and blocks are judged. Nothing here loads numpy: ``--help`` reads the defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from bce.engine.errors import OptionsError
from bce.engine.post.options import PostprocessOptions
from bce.engine.taxonomy import Level

if TYPE_CHECKING:
    from bce.engine.post.priors import Shrinkage

Metric = Literal["cosine", "euclidean"]
Method = Literal["leave-one-out", "split"]


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
        _check_resamples(self.resamples)


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
        _check_resamples(self.resamples)
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
        for name, low in (("classes", 2), ("clips", 2), ("neighbours", 1), ("repeats", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise OptionsError(f"{name} is {getattr(self, name)}, it must be at least {low}")
        if self.method not in get_args(Method):
            raise OptionsError(f"method {self.method!r} is unknown: choose {' or '.join(get_args(Method))}")
        for metric in self.metrics:
            if metric not in get_args(Metric):
                raise OptionsError(f"metric {metric!r} is unknown: choose {' or '.join(get_args(Metric))}")


def _check_resamples(resamples: int) -> None:
    if not 1 <= resamples <= 100_000:
        raise OptionsError(f"resamples is {resamples}, it must be 1 to 100000")
