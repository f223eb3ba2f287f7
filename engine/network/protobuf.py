"""Protobuf's wire format: the fields of a message, without a description of it and without the package.

What is not known of a message is passed over, as protobuf does: a field is known by its number and the form in which
it comes, the last one of a single number or text counts, and a message that comes in pieces is all of them together.
"""

from __future__ import annotations

import mmap
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence

Content = bytes | mmap.mmap
Span = tuple[int, int]
"""Where something begins and ends in the content."""

VARINT, EIGHT_BYTES, STRETCH, FOUR_BYTES = 0, 1, 2, 5
"""The forms of a field: a number of variable length; bytes with their length (text, message, packed numbers)."""
_MOST_VARINT = 10
_SIGN = 1 << 63


def fields(content: Content, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message that lies between two places.

    Yields:
        (its number, its form, where its content begins, where it ends); of a varint (number, form, value, end).

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    while at < end:
        tag, at = varint(content, at, end)
        form = tag & 7
        if form == VARINT:
            value, at = varint(content, at, end)
            yield tag >> 3, form, value, at
            continue
        if form == STRETCH:
            size, at = varint(content, at, end)
        elif form in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if form == EIGHT_BYTES else 4
        else:
            raise ValueError("a group, or no type of field")
        if size > end - at:
            raise ValueError("a field beyond the end")
        yield tag >> 3, form, at, at + size
        at += size


def varint(content: Content, at: int, end: int) -> tuple[int, int]:
    """A number of variable length, and where it ends.

    Raises:
        ValueError: it does not end.
    """
    if at < end and content[at] < 0x80:  # nearly all are of one byte
        return content[at], at + 1
    value = 0
    for place, position in enumerate(range(at, min(end, at + _MOST_VARINT))):
        byte = content[position]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position + 1
    raise ValueError("a number without an end")


class Message:
    """A message whose fields are asked for by their numbers.

    Args:
        content: what it lies in.
        spans: where; the pieces of one message, or the one that there is.

    Raises:
        ValueError: the bytes are no protobuf message.
    """

    def __init__(self, content: Content, spans: Sequence[Span]) -> None:
        self._content = content
        self._fields: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for at, end in spans:
            for number, *field in fields(content, at, end):
                self._fields[number].append((field[0], field[1], field[2]))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def spans(self, number: int) -> list[Span]:
        """Where the contents of a field lie that is text, bytes or a message, in order."""
        return [(at, end) for form, at, end in self._fields.get(number, ()) if form == STRETCH]

    def messages(self, number: int) -> Iterator[Message]:
        """The messages of a field that may come several times."""
        return (Message(self._content, [span]) for span in self.spans(number))

    def message(self, number: int) -> Message:
        """The message of a field that comes once; without fields where it is not there."""
        return Message(self._content, self.spans(number))

    def texts(self, number: int) -> tuple[str, ...]:
        """The texts of a field; what is not UTF-8 in them stays apart from all that is."""
        return tuple(self._content[at:end].decode("utf-8", "surrogateescape") for at, end in self.spans(number))

    def text(self, number: int) -> str:
        """The text of a field, or none."""
        return (self.texts(number) or ("",))[-1]

    def view(self, number: int) -> memoryview:
        """The bytes of a field, or none, where they lie."""
        at, end = (self.spans(number) or [(0, 0)])[-1]
        return memoryview(self._content)[at:end]

    def integers(self, number: int) -> list[int]:
        """The int64 of a field, each alone or packed.

        Raises:
            ValueError: a packed one does not end.
        """
        found = []
        for form, at, end in self._fields.get(number, ()):
            if form == VARINT:
                found.append(_signed(at))
            elif form == STRETCH:
                while at < end:
                    value, at = varint(self._content, at, end)
                    found.append(_signed(value))
        return found

    def integer(self, number: int) -> int:
        """The int64 of a field, or 0."""
        return next((_signed(at) for form, at, _ in reversed(self._fields.get(number, ())) if form == VARINT), 0)

    def float32s(self, number: int) -> bytes:
        """The float32 of a field, each alone or packed, as the bytes that they are (little endian)."""
        found = self._fields.get(number, ())
        return b"".join(self._content[at:end] for form, at, end in found if form in (STRETCH, FOUR_BYTES))

    def float32(self, number: int) -> float:
        """The float32 of a field, or 0."""
        for form, at, end in reversed(self._fields.get(number, ())):
            if form == FOUR_BYTES:
                return float(struct.unpack("<f", self._content[at:end])[0])
        return 0.0


def _signed(value: int) -> int:
    """Protobuf writes a negative int64 as the unsigned number of the same bits."""
    value &= 2 * _SIGN - 1
    return value - 2 * _SIGN if value & _SIGN else value
