"""Options of post-processing: what is done to logits, as flags, bundles and Python say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal, Self, get_args

from bce.engine.errors import BundleError, OptionsError, one_line, shown
from bce.engine.taxonomy import Level

SmoothOn = Literal["logits", "probabilities"]
RangeMode = Literal["off", "mask", "prior"]
Step = Literal["prior", "range", "gaussian", "taxonomy"]

LEVELS: tuple[Level, ...] = ("genus", "family", "class")
MAX_STRENGTH = 10.0
MAX_SIGMA = 100.0


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
        range_mode: what is made of the range model where a recording's place is known: "mask" gives classes that are
            not likely there and then the score 0, "prior" adds their log-odds to the logits.
        range_threshold: a class whose probability is below it is masked, 0 (none) to 1.
        range_strength: factor on the log-odds of the probabilities, 0 (off) to 10; probabilities are kept within
            1e-4..1 - 1e-4 before, so that they are within +-9.21.

    Raises:
        OptionsError: a value is out of range.
    """

    prior_known: float = 0.5
    prior_unknown: float = 0.5
    sigma: float = 1.0
    smooth_on: SmoothOn = "logits"
    taxonomy: tuple[tuple[Level, float], ...] = (("genus", 0.15), ("class", 0.05))
    exclude: tuple[str, ...] = ()
    range_mode: RangeMode = "mask"
    range_threshold: float = 0.03
    range_strength: float = 1.0

    def __post_init__(self) -> None:
        _in_range("prior strength known", self.prior_known, MAX_STRENGTH)
        _in_range("prior strength unknown", self.prior_unknown, MAX_STRENGTH)
        _in_range("sigma", self.sigma, MAX_SIGMA)
        if self.smooth_on not in get_args(SmoothOn):
            raise OptionsError(f"smooth-on is {shown(self.smooth_on)}, expected one of {', '.join(get_args(SmoothOn))}")
        levels = [level for level, _ in self.taxonomy]
        if levels != [level for level in LEVELS if level in levels]:
            raise OptionsError(f"taxonomy smoothing names {', '.join(levels)}, expected {', '.join(LEVELS)} once each")
        for level, amount in self.taxonomy:
            _in_range(f"taxonomy smoothing {level}", amount, 1.0)
        if self.range_mode not in get_args(RangeMode):
            raise OptionsError(f"range is {shown(self.range_mode)}, expected one of {', '.join(get_args(RangeMode))}")
        _in_range("range threshold", self.range_threshold, 1.0)
        _in_range("range strength", self.range_strength, MAX_STRENGTH)

    @classmethod
    def raw(cls) -> Self:
        """All off: probabilities are the sigmoid of the logits."""
        return cls(prior_known=0.0, prior_unknown=0.0, sigma=0.0, taxonomy=(), range_mode="off")

    @property
    def uses_prior(self) -> bool:
        return self.prior_known > 0 or self.prior_unknown > 0

    @property
    def uses_range(self) -> bool:
        strength = {"off": 0.0, "mask": self.range_threshold, "prior": self.range_strength}
        return strength[self.range_mode] > 0

    @property
    def levels(self) -> tuple[tuple[Level, float], ...]:
        """The taxonomy smoothings that do something."""
        return tuple((level, amount) for level, amount in self.taxonomy if amount > 0)


def tuned_options(values: Mapping[str, Any]) -> PostprocessOptions:
    """The options that a bundle's manifest asks for: its tuned values, and the defaults for all others.

    Args:
        values: the manifest's field ``post``: the options by name, ``taxonomy`` as an object of amounts by level.

    Raises:
        BundleError: naming the field that is unknown or out of range.
    """
    known = {option.name for option in fields(PostprocessOptions)}
    for name in values:
        if name not in known:
            raise BundleError(f"has the unknown field 'post.{one_line(name)}': it was written by a newer version")
        if not _is_of_its_kind(name, values[name]):
            raise BundleError(f"field 'post.{name}' is {shown(values[name])}, expected {_KINDS.get(name, 'a number')}")
    given = dict(values)
    try:
        if "taxonomy" in given:
            amounts = dict(given["taxonomy"])
            if unknown := set(amounts) - set(LEVELS):
                raise OptionsError(
                    f"taxonomy smoothing names {one_line(', '.join(sorted(unknown)))}, expected {', '.join(LEVELS)}"
                )
            given["taxonomy"] = tuple((level, amounts[level]) for level in LEVELS if level in amounts)
        if "exclude" in given:
            given["exclude"] = tuple(given["exclude"])
        return PostprocessOptions(**given)
    except OptionsError as error:
        raise BundleError(f"field 'post': {error.reason}") from None


def kept_values(values: Mapping[str, Any], options: PostprocessOptions) -> tuple[str, ...]:
    """Which of a bundle's tuned values a run has, by name and value: ("sigma 2", "taxonomy genus=0.1").

    Args:
        values: the manifest's field ``post``, checked by :func:`tuned_options`.
        options: those of the run; with all switched off there is nothing to tell.
    """
    if options == PostprocessOptions.raw():
        return ()
    tuned = tuned_options(values)
    kept = (option.name for option in fields(PostprocessOptions) if values.get(option.name) not in (None, []))
    return tuple(
        _described(name, getattr(tuned, name)) for name in kept if getattr(options, name) == getattr(tuned, name)
    )


def _described(name: str, value: Any) -> str:
    if name == "taxonomy":
        value = ",".join(f"{level}={amount:g}" for level, amount in value)
    elif name == "exclude":
        value = ",".join(map(one_line, value))
    return f"{name} {value or 'none'}"


_KINDS = {
    "smooth_on": "a text",
    "range_mode": "a text",
    "taxonomy": "an object of amounts by level",
    "exclude": "a list of texts",
}


def _is_of_its_kind(name: str, value: Any) -> bool:
    if name in ("smooth_on", "range_mode"):
        return isinstance(value, str)
    if name == "exclude":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if name == "taxonomy":
        return isinstance(value, Mapping) and all(map(_is_number, value.values()))
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _in_range(name: str, value: float, largest: float) -> None:
    if not (_is_number(value) and 0 <= value <= largest):
        raise OptionsError(f"{name} is {shown(value)}, expected 0 (off) to {largest:g}")


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
