"""How near one table of scores is to another, without any labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import TableError
from bce.engine.scales import SMALLEST, to_logits
from bce.engine.tables.scores import ScoreTable
from bce.export.proof.agreement import Agreement


@dataclass(frozen=True)
class Nearness:
    """A table of scores beside a trusted one.

    Attributes:
        agreement: of their logits, a row being a window.
        classes: how many.
        logits: whether the table and the trusted one hold logits, and not probabilities.
        cut: scores that are as good as 0 or 1, without a logit of their own, in one of the tables alone.
    """

    agreement: Agreement
    classes: int
    logits: tuple[bool, bool]
    cut: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.agreement.to_dict() | {"classes": self.classes, "cut": self.cut}


def near(table: ScoreTable, trusted: ScoreTable) -> Nearness:
    """Compare two tables of the same rows and classes in the same order, see :func:`bce.tools.judge.gain.aligned`.

    Scores that all lie within 0..1 are probabilities, others logits.

    Raises:
        TableError: there are no scores.
    """
    if not table.scores.size:
        raise TableError("holds no scores: there is nothing to compare", table.path)
    (found, are_logits, cut), (expected, are_logits_too, cut_too) = (_logits(one.scores) for one in (table, trusted))
    agreement = Agreement.between(found, expected)
    return Nearness(agreement, len(table.classes), (are_logits, are_logits_too), int((cut != cut_too).sum()))


def _logits(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool, NDArray[np.bool_]]:
    """Logits [rows, classes], whether that is what the scores are, and which of them had none."""
    if scores.min() < 0 or scores.max() > 1:
        return scores, True, np.zeros(scores.shape, dtype=bool)
    return to_logits(scores), False, (scores < SMALLEST) | (scores > 1 - SMALLEST)


def describe_nearness(nearness: Nearness, scores: str, against: str) -> list[str]:
    """The nearness as lines of text; ``scores`` and ``against`` name the tables."""
    agreement = nearness.agreement
    lines = [f"how near to {against}: {agreement.windows} rows, {nearness.classes} classes", *agreement.lines("rows")]
    for name, are_logits in zip((scores, against), nearness.logits, strict=True):
        if are_logits:
            lines.append(f"scale          {name} has scores outside 0..1: taken for logits")
    if nearness.cut:
        lines.append(
            f"warning        {nearness.cut} scores are 0 or 1 in one of the tables alone: their logits are cut at "
            "-34.5 or 34.5, which the relative L2 shows most of all"
        )
    return lines
