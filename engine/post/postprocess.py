"""Post-processing of a recording's logits: prior, Gaussian over time, sigmoid, taxonomy, in this order.

- The prior is evidence in log-odds, so it is added to logits.
- The Gaussian runs over a recording's chunks, on logits by default: averaging evidence lets one clear chunk lift its
  neighbours without being flattened first. Edges repeat; zeros would pull the first and last chunk towards 0.5.
- Taxonomy smoothing averages what relatives score, which only means something on one scale: on probabilities.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from bce.engine.audio.recordings import Recording
from bce.engine.errors import OptionsError
from bce.engine.post.priors import Basis, Priors
from bce.engine.taxonomy import Level, Taxonomy

# Numba is imported where a kernel is called: reading options, or --help, must not wait for it.

F = TypeVar("F", bound=np.floating)

SmoothOn = Literal["logits", "probabilities"]
Step = Literal["prior", "gaussian", "taxonomy"]

LEVELS: tuple[Level, ...] = ("genus", "family", "class")
MAX_STRENGTH = 10.0
MAX_SIGMA = 100.0
TRUNCATE = 4.0


@dataclass(frozen=True)
class PostprocessOptions:
    """What is done to logits, with the values of the BirdCLEF+ 2026 system that this project follows as defaults.

    Attributes:
        prior_known: factor on the log-odds of sites with labels, 0 (off) to 10.
        prior_unknown: factor on those of other sites, whose prior rests on the hour alone.
        sigma: standard deviation of the Gaussian in chunks, 0 (off) to 100.
        smooth_on: what the Gaussian averages.
        taxonomy: level and amount (0..1) of each taxonomy smoothing, in the order genus, family, class.
        exclude: names of groups that taxonomy smoothing leaves alone, such as the sonotypes' "Insect".

    Raises:
        OptionsError: a value is out of range.
    """

    prior_known: float = 0.5
    prior_unknown: float = 0.5
    sigma: float = 1.0
    smooth_on: SmoothOn = "logits"
    taxonomy: tuple[tuple[Level, float], ...] = (("genus", 0.15), ("class", 0.05))
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _in_range("prior strength known", self.prior_known, MAX_STRENGTH)
        _in_range("prior strength unknown", self.prior_unknown, MAX_STRENGTH)
        _in_range("sigma", self.sigma, MAX_SIGMA)
        if self.smooth_on not in get_args(SmoothOn):
            raise OptionsError(f"smooth-on is '{self.smooth_on}', expected one of {', '.join(get_args(SmoothOn))}")
        levels = [level for level, _ in self.taxonomy]
        if levels != [level for level in LEVELS if level in levels]:
            raise OptionsError(f"taxonomy smoothing names {', '.join(levels)}, expected {', '.join(LEVELS)} once each")
        for level, amount in self.taxonomy:
            _in_range(f"taxonomy smoothing {level}", amount, 1.0)

    @classmethod
    def raw(cls) -> Self:
        """All off: probabilities are the sigmoid of the logits."""
        return cls(prior_known=0.0, prior_unknown=0.0, sigma=0.0, taxonomy=())

    @property
    def uses_prior(self) -> bool:
        return self.prior_known > 0 or self.prior_unknown > 0

    @property
    def levels(self) -> tuple[tuple[Level, float], ...]:
        """The taxonomy smoothings that do something."""
        return tuple((level, amount) for level, amount in self.taxonomy if amount > 0)


def _in_range(name: str, value: float, largest: float) -> None:
    if not 0 <= value <= largest:
        raise OptionsError(f"{name} is {value:g}, expected 0 (off) to {largest:g}")


def parse_prior_strength(text: str) -> tuple[float, float]:
    """The factors for known and unknown sites out of ``0.5``, ``known=0.5,unknown=0.2`` or ``none``.

    Raises:
        OptionsError: the text is none of these.
    """
    expected = "expected a number, known=0.5,unknown=0.2 or none"
    if text.strip() == "none":
        return 0.0, 0.0
    if "=" not in text:
        value = _number(text, f"prior strength '{text}'", expected)
        return value, value
    pairs = _pairs(text, f"prior strength '{text}'", expected)
    if set(pairs) != {"known", "unknown"}:
        raise OptionsError(f"prior strength '{text}' must name known and unknown: {expected}")
    return pairs["known"], pairs["unknown"]


def parse_taxonomy_smoothing(text: str) -> tuple[tuple[Level, float], ...]:
    """Levels and amounts out of ``genus=0.15,class=0.05`` (in any order) or ``none``.

    Raises:
        OptionsError: the text is neither, or names another level.
    """
    expected = f"expected some of {', '.join(f'{level}=0.1' for level in LEVELS)}, or none"
    if text.strip() == "none":
        return ()
    pairs = _pairs(text, f"taxonomy smoothing '{text}'", expected)
    for name in pairs:
        if name not in LEVELS:
            raise OptionsError(f"taxonomy smoothing '{text}' names '{name}': {expected}")
    return tuple((level, pairs[level]) for level in LEVELS if level in pairs)


def parse_sigma(text: str) -> float:
    """The Gaussian's sigma out of ``1.0`` or ``none``.

    Raises:
        OptionsError: the text is neither.
    """
    return 0.0 if text.strip() == "none" else _number(text, f"sigma '{text}'", "expected a number of chunks or none")


def _number(text: str, what: str, expected: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionsError(f"{what} is not a number: {expected}") from None


def _pairs(text: str, what: str, expected: str) -> dict[str, float]:
    pairs: dict[str, float] = {}
    for item in text.split(","):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or name in pairs:
            raise OptionsError(f"{what} {'names ' + name + ' twice' if equals else 'is incomplete'}: {expected}")
        pairs[name] = _number(value, what, expected)
    return pairs


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of one level for smoothing: int32 [classes] (-1: left alone), members of each group, the amount."""

    group: NDArray[np.int32]
    size: NDArray[np.float64]
    amount: float

    @classmethod
    def of(cls, ids: NDArray[np.int32], amount: float) -> Self:
        """Groups from ids (-1: none). Groups with one member are left alone: their mean is the member itself."""
        members = np.bincount(ids[ids >= 0], minlength=1)
        single = (ids < 0) | (members[np.maximum(ids, 0)] < 2)
        return cls(np.where(single, -1, ids).astype(np.int32), np.maximum(members, 1).astype(np.float64), amount)


def taxonomy_groups(taxonomy: Taxonomy, options: PostprocessOptions) -> list[Groups]:
    """The groups that the options smooth over, in order.

    Raises:
        TableError: the taxonomy does not have a level.
        OptionsError: an excluded name is no group of any level that is smoothed.
    """
    named = {name for level, _ in options.levels for name in taxonomy.group_names(level)}
    for name in options.exclude:
        if options.levels and name not in named:
            raise OptionsError(f"cannot exclude '{name}' from taxonomy smoothing: no group has this name")
    return [Groups.of(taxonomy.groups(level, options.exclude), amount) for level, amount in options.levels]


def gaussian_weights(sigma: float) -> NDArray[np.float64]:
    """Weights of a Gaussian cut at 4 sigma, as scipy's ``gaussian_filter1d`` has them; float64, odd length."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def smooth_time(scores: NDArray[F], offsets: NDArray[np.int64], sigma: float) -> NDArray[F]:
    """Gaussian over each recording's chunks, edges repeated.

    Args:
        scores: float32 or float64 [rows, classes].
        offsets: int64 [recordings + 1]: recording i has the rows offsets[i] to offsets[i + 1].
        sigma: in chunks; 0 returns the scores.
    """
    from bce.engine.post.kernels import smooth_rows

    if sigma == 0:
        return scores
    scores = np.ascontiguousarray(scores)
    out = np.empty_like(scores)
    smooth_rows(scores, np.asarray(offsets, dtype=np.int64), gaussian_weights(sigma), out)
    return out


def smooth_taxonomy(probabilities: NDArray[F], groups: Sequence[Groups]) -> NDArray[F]:
    """Pull each class towards the mean of its group, one level after the other; float32 or float64 [rows, classes]."""
    from bce.engine.post.kernels import pull_to_groups

    out = np.array(probabilities, order="C")
    for level in groups:
        pull_to_groups(out, level.group, level.size, level.amount)
    return out


def postprocess(
    logits: NDArray[np.floating],
    offsets: NDArray[np.int64],
    options: PostprocessOptions,
    boost: tuple[NDArray[np.float64], NDArray[np.int32]] | None = None,
    groups: Sequence[Groups] = (),
) -> NDArray[np.float64]:
    """Logits to probabilities.

    Args:
        logits: [rows, classes], finite; the recordings' chunks one after the other.
        offsets: int64 [recordings + 1]: recording i has the rows offsets[i] to offsets[i + 1].
        options: sigma and what the Gaussian averages.
        boost: what to add to the logits: float64 [k, classes], and which of these each row gets, int32 [rows].
        groups: levels of taxonomy smoothing (:func:`taxonomy_groups`).

    Returns:
        float64 [rows, classes] within 0..1.
    """
    scores = np.array(logits, dtype=np.float64, order="C")
    if boost is not None:
        from bce.engine.post.kernels import add_rows

        add_rows(scores, *boost)
    if options.smooth_on == "logits":
        scores = smooth_time(scores, offsets, options.sigma)
    scores = np.asarray(expit(scores), dtype=np.float64)
    if options.smooth_on == "probabilities":
        scores = smooth_time(scores, offsets, options.sigma)
    return smooth_taxonomy(scores, groups) if groups else scores


@dataclass(frozen=True, eq=False)
class Processed:
    """A recording's probabilities, float64 [chunks, classes], and how many chunks' priors rest on what."""

    scores: NDArray[np.float64]
    prior: dict[Basis, int]


class Postprocessor:
    """Post-processing of a run: options with the bundle's taxonomy and priors. Safe to call from several threads.

    A step that lacks what it needs (no priors; a taxonomy without the level) is left out and :meth:`describe` says so,
    unless it was asked for.

    Args:
        options: what to do.
        taxonomy: the classes of the logits.
        priors: the site x hour table, or None.
        required: steps that the user asked for by name.

    Raises:
        OptionsError: a required step lacks what it needs, or an excluded group does not exist.
        TableError: the priors lack a class.
    """

    def __init__(
        self,
        options: PostprocessOptions,
        taxonomy: Taxonomy,
        priors: Priors | None = None,
        required: Collection[Step] = (),
    ) -> None:
        self._missing: dict[Step, str] = {}
        if options.uses_prior and priors is None:
            self._missing["prior"] = "there are no priors (the bundle has none, none were given)"
            options = replace(options, prior_known=0.0, prior_unknown=0.0)
        absent = [level for level, _ in options.levels if not taxonomy.has_level(level)]
        if absent:
            self._missing["taxonomy"] = f"the class table has no {' and no '.join(absent)} column"
            options = replace(options, taxonomy=tuple(item for item in options.levels if item[0] not in absent))
        for step in required:
            if step in self._missing:
                raise OptionsError(f"cannot run the {step} step that was asked for: {self._missing[step]}")
        self.options = options
        self._priors = None if priors is None or not options.uses_prior else priors.for_classes(taxonomy.labels)
        self._groups = taxonomy_groups(taxonomy, options)

    def __call__(self, recording: Recording, logits: NDArray[np.floating], start_s: NDArray[np.int64]) -> Processed:
        """Process a whole recording.

        Args:
            recording: its site and start time choose the prior.
            logits: [chunks, classes], finite, in time order.
            start_s: the start of each chunk in seconds, int64 [chunks].
        """
        boost = None
        prior: dict[Basis, int] = {}
        if self._priors is not None:
            table, row, basis = self._priors.for_chunks(recording.site, recording.start_time, start_s)
            boost = (self._strength(recording.site) * table, row)
            counts = np.bincount(row, minlength=len(basis))
            for kind, count in zip(basis, counts.tolist(), strict=True):
                prior[kind] = prior.get(kind, 0) + count
        offsets = np.array([0, len(logits)], dtype=np.int64)
        return Processed(postprocess(logits, offsets, self.options, boost, self._groups), prior)

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
        lines = [
            prior if options.uses_prior else "prior: off",
            f"Gaussian: sigma {options.sigma:g} chunks, on {options.smooth_on}" if options.sigma else "Gaussian: off",
            f"taxonomy: {amounts}, on probabilities" if amounts else "taxonomy: off",
        ]
        for line, step in ((0, "prior"), (2, "taxonomy")):
            if step in self._missing:
                lines[line] += f" ({self._missing[step]})"
        return lines
