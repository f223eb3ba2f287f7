"""What can go wrong, as a short tree of exceptions.

Each carries the thing it is about (usually a path) and the reason, so that a caller can act on either and a
command line can print one line: ``<path>: <reason>``. Library code raises; only commands print.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping

MOST_SHOWN = 80
"""Characters of a value of unknown origin in a message."""


def has_controls(text: str) -> bool:
    """Whether a text holds what no name has: control characters, separators of lines, or halves of characters."""
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def one_line(text: str, most: int = MOST_SHOWN) -> str:
    """A text of unknown origin as a message names it: what cannot be printed is escaped, what is long is cut."""
    short = text if len(text) <= most else text[:most] + "..."
    return short if short.isprintable() else repr(short)[1:-1]


def first_line(error: Exception, most: int) -> str:
    """What a library says first of an error of its own; its kind where it says nothing."""
    return one_line(next(iter(str(error).splitlines()), type(error).__name__), most)


def shown(value: object) -> str:
    """A value of unknown origin for a message: texts in quotes, lists and objects by their kind only."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return f"'{one_line(value)}'" if isinstance(value, str) else one_line(repr(value))


class BceError(Exception):
    """Base of all errors that a user can cause or mend.

    Args:
        reason: what is wrong and what would be right, in one line.
        path: the file, folder or option that the reason is about, if there is one.
    """

    def __init__(self, reason: str, path: str | os.PathLike[str] | None = None) -> None:
        self.reason = reason
        self.path = None if path is None else os.fspath(path)
        super().__init__(reason if self.path is None else f"{self.path}: {reason}")


class AudioError(BceError):
    """A recording cannot be read, or not to its end."""


class BundleError(BceError):
    """A bundle is missing, damaged, or does not hold what was asked of it."""


class TableError(BceError):
    """A table (taxonomy, labels, scores, priors, sample submission) is not what it should be."""


class RunError(BceError):
    """A run broke off after it had begun. No output was written; what stood at their places is as it was."""


class OptionsError(BceError):
    """An option has a value outside its range, or options contradict each other."""


class CompiledError(BceError):
    """Kernels cannot be made or loaded here: the CPU, llvmlite or a file of object code does not allow it."""


class ExportError(BceError):
    """A model file cannot be converted: it is not the expected network, or something in it is missing."""


class ParityError(ExportError):
    """A converted model does not give the numbers of its source."""
