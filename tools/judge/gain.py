"""How much better one set of scores is than another on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.errors import TableError
from bce.engine.tables.scores import ScoreTable


@dataclass(frozen=True)
class Gain:
    """A macro AUC, the one that it is compared with, and the 95 % bootstrap interval over recordings of the difference.

    Both are taken on the same resamples, so that what makes a recording hard does not blur the difference.
    """

    auc: float
    before: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        return self.auc - self.before

    def __str__(self) -> str:
        return f"{self.gain:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def aligned(table: ScoreTable, like: ScoreTable) -> ScoreTable:
    """The same rows and classes in the order of another table.

    Raises:
        TableError: one of the two has a row or a class that the other does not have.
    """
    for what, own, other in (("row", table.row_ids, like.row_ids), ("class", table.classes, like.classes)):
        if differing := sorted(set(own) ^ set(other)):
            lacking, having = (table, like) if differing[0] in set(other) else (like, table)
            raise TableError(f"lacks the {what} '{differing[0]}', which {having.path} has", lacking.path)
    column = {name: place for place, name in enumerate(table.classes)}
    rows, columns = [table.index[name] for name in like.row_ids], [column[name] for name in like.classes]
    return ScoreTable(like.row_ids, like.classes, table.scores[rows][:, columns], table.path)
