"""The innermost loops of a function's assembly, and which of their instructions go to the stack."""

from __future__ import annotations

import re
from collections.abc import Iterator

_LABEL = re.compile(r"^([.\w]+):")
_JUMP = re.compile(r"^\s+j\w+\s+([.\w]+)")
_SPILL = re.compile(r"^\s+v\w+.*\(%rsp\).*")
_VECTOR = re.compile(r"%[yz]mm\d+")


def functions(assembly: str) -> dict[str, list[str]]:
    """The lines of each function, by name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in assembly.splitlines():
        label = _LABEL.match(line)
        if label and not label[1].startswith("."):
            lines = found[label[1]] = []
        elif line.strip().startswith(".size"):
            lines = []
        lines.append(line)
    return found


def innermost_loops(lines: list[str]) -> Iterator[list[str]]:
    """Lines from a label to a jump back to it, without other such jumps between."""
    labels = {match[1]: number for number, line in enumerate(lines) if (match := _LABEL.match(line))}
    ends: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        jump = _JUMP.match(line)
        if jump and labels.get(jump[1], number) < number:
            ends.append((labels[jump[1]], number))
    for start, end in ends:
        if not any((start, end) != (a, b) and start <= a and b <= end for a, b in ends):
            yield lines[start : end + 1]


def spills(loop: list[str]) -> list[str]:
    """Instructions with vectors that read or write the stack."""
    return [line.strip() for line in loop if _SPILL.match(line) and _VECTOR.search(line)]
