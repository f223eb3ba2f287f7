"""Options that are numbers, each within its range."""

from __future__ import annotations

from bce.engine.errors import OptionsError

LARGEST_SEED = 2**32 - 1
MOST_THREADS = 1024


def check_ranges(options: object, **ranges: tuple[float, float]) -> None:
    """Refuse options out of range; NaN and infinity are out of every range.

    Args:
        options: an object with the options as attributes.
        ranges: the least and the largest value of each; None is passed over.

    Raises:
        OptionsError: naming option, value and range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise OptionsError(f"{name.replace('_', ' ')} is {value}, it must be {low} to {high}")
