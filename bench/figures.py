"""Figures out of repeated measurements: median, minimum, spread, and ratios of what was measured side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bce.engine import files
from bce.engine.errors import OptionsError


@dataclass(frozen=True)
class Figure:
    """What repeated measurements of one thing say.

    Attributes:
        median, low, high: the median and the two quartiles around it.
        best: the smallest value; of times the one that other programs disturbed least.
        count: how many values.
    """

    median: float
    low: float
    high: float
    best: float
    count: int

    @property
    def spread(self) -> float:
        """The distance of the quartiles as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def to_json(self) -> dict[str, float]:
        return asdict(self) | {"spread": self.spread}


def figure(values: Sequence[float]) -> Figure:
    """Median, quartiles (linear between neighbours) and minimum of at least one value."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Figure(float(median), float(low), float(high), float(np.min(values)), len(values))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Figure:
    """How many times faster ``fast`` is, round by round: what disturbs a whole round disturbs both."""
    return figure([a / b for a, b in zip(slow, fast, strict=True)])


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """The slope of the least-squares line through points, 0 for fewer than two."""
    across, up = np.asarray(x, float), np.asarray(y, float)
    return float(np.polyfit(across, up, 1)[0]) if len(across) > 1 else 0.0


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write results, into a folder that is made where it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, content, indent=1)


def read_json(path: str | os.PathLike[str], *, kind: bool = True) -> dict[str, Any]:
    """Read what :func:`write_json` wrote.

    Args:
        path: of the file.
        kind: whether it must be a result of ``bce-bench``, which says what kind of result it is.

    Raises:
        OptionsError: there is no such file, or it is not such a result.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionsError(f"cannot be read ({error.strerror})", path) from None
    except ValueError as error:
        raise OptionsError(f"is not JSON ({error})", path) from None
    if not isinstance(content, dict) or (kind and "kind" not in content):
        raise OptionsError("is not a result of bce-bench: it has no field 'kind'", path)
    return content
