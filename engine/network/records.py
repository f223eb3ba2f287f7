"""JSON objects as frozen dataclasses: every field checked against its type, and named where it does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from bce.engine.errors import BundleError, has_controls, one_line, shown

T = TypeVar("T")
MOST = 1 << 53
"""Of whole numbers, to either side: what every reader of JSON tells apart."""
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read_record(kind: type[T], content: Any, path: str | os.PathLike[str], name: str = "") -> T:
    """Build a dataclass from a JSON object.

    Fields may be numbers, texts, truth values, ``Literal``, ``Any``, other dataclasses, and tuples, dictionaries by
    text and ``X | None`` of these.

    Args:
        kind: the dataclass.
        content: what JSON holds.
        path: the file, for messages.
        name: the field that the object stands in; empty for the whole file.

    Raises:
        BundleError: naming the first field that is unknown, missing, or not what it should be.
    """
    value: T = _Reader(path).record(kind, content, name)
    return value


class _Reader:
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path

    def record(self, kind: type[Any], content: Any, name: str) -> Any:
        if not isinstance(content, Mapping):
            raise self._wrong(name, content, "an object")
        hints = get_type_hints(kind)
        known = {f.name: f for f in fields(kind)}
        for key in content:
            if key not in known:
                raise BundleError(
                    f"has the unknown field '{_joined(name, key)}': it was written by a newer version", self._path
                )
        found: dict[str, Any] = {}
        for key, declared in known.items():
            if key in content:
                found[key] = self.value(hints[key], content[key], _joined(name, key))
            elif declared.default is MISSING and declared.default_factory is MISSING:
                raise BundleError(f"lacks the field '{_joined(name, key)}'", self._path)
        return kind(**found)

    def value(self, hint: Any, content: Any, name: str) -> Any:
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return content
        if origin in (Union, UnionType):
            if content is None and NoneType in arguments:
                return None
            (wanted,) = (argument for argument in arguments if argument is not NoneType)
            return self.value(wanted, content, name)
        if origin is Literal:
            if content not in arguments:
                raise self._wrong(name, content, f"one of {', '.join(map(str, arguments))}")
            return content
        if origin is tuple:
            if not isinstance(content, list):
                raise self._wrong(name, content, "a list")
            return tuple(self.value(arguments[0], item, f"{name}[{place}]") for place, item in enumerate(content))
        if origin is dict:
            if not isinstance(content, Mapping):
                raise self._wrong(name, content, "an object")
            return {
                self.text(key, name): self.value(arguments[1], item, _joined(name, key))
                for key, item in content.items()
            }
        if is_dataclass(hint):
            assert isinstance(hint, type)
            return self.record(hint, content, name)
        if isinstance(content, int) and abs(content) > MOST:
            raise self._wrong(name, content, f"{_WORDS[hint]} within +-{MOST}")
        if hint is float and isinstance(content, int) and not isinstance(content, bool):
            return float(content)
        if not isinstance(content, hint) or (hint is not bool and isinstance(content, bool)):
            raise self._wrong(name, content, _WORDS[hint])
        return self.text(content, name) if hint is str else content

    def text(self, content: str, name: str) -> str:
        """A text that may be printed as it is: lines, but no control characters."""
        if has_controls(content.replace("\n", "")):
            raise self._wrong(name, content, "a text without control characters")
        return content

    def _wrong(self, name: str, content: Any, expected: str) -> BundleError:
        return BundleError(f"field '{name}' is {shown(content)}, expected {expected}", self._path)


def _joined(name: str, key: str) -> str:
    return f"{name}.{one_line(key)}" if name else one_line(key)
