"""What is computed from each term of a network: how recognising one goes from its input to its outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from bce.engine.errors import ExportError
from bce.export.readers.steps import Conv, Func, Term

_T = TypeVar("_T", bound=Term)


class Uses:
    """What is computed from each term, of all that the outputs need."""

    def __init__(self, outputs: Iterable[Term]) -> None:
        self.users: dict[Term, list[Term]] = defaultdict(list)
        open_terms, seen = list(outputs), set()
        while open_terms:
            term = open_terms.pop()
            if term in seen:
                continue
            seen.add(term)
            for x in dict.fromkeys(term.inputs):
                self.users[x].append(term)
                open_terms.append(x)

    def of(self, term: Term, kind: type[_T]) -> list[_T]:
        return [user for user in self.users[term] if isinstance(user, kind)]

    def refuse(self, where: str, expected: str, term: Term) -> ExportError:
        found = ", ".join(dict.fromkeys(str(user) for user in self.users[term])) or "nothing"
        return ExportError(f"{where}: expected {expected}, found {found}")

    def conv(self, term: Term, where: str) -> Conv:
        users = self.of(term, Conv)
        if len(users) != 1:
            raise self.refuse(where, "one convolution", term)
        return users[0]

    def function(self, term: Term, name: str, where: str) -> Func:
        users = [user for user in self.of(term, Func) if user.name == name]
        if len(users) != 1:
            raise self.refuse(where, name, term)
        return users[0]

    def swish(self, term: Term, where: str) -> Func:
        return self.function(term, "swish", where)
