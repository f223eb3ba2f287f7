"""Where things lie: the layout of maps, and the arena of a caller.

A map is [channels / lanes][rows][pitch][lanes]: the numbers of a pixel for one vector of channels lie side by side, so
that 32 bits of a pixel (a float32 channel, two of 16 bits, or four bytes) are broadcast and multiplied with vectors of
weights, whatever the precision and the vectors' width. Zeros around a map are part of it: kernels know no edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.layers import Padding

Element = Literal["f32", "bf16", "i16", "i8"]
"""Of a map or of weights; the last two are whole numbers, see :func:`levels`."""
SIZES: dict[Element, int] = {"f32": 4, "bf16": 2, "i16": 2, "i8": 1}
"""Bytes of a number."""
DEPTHS: dict[Element, int] = {"f32": 1, "bf16": 2, "i16": 2, "i8": 4}
"""Channels in 32 bits."""

WHOLE: tuple[Element, ...] = ("i16", "i8")
"""Whole numbers: their sums are exact."""

LINE = 64
"""Bytes of a cache line."""


@dataclass(frozen=True)
class Levels:
    """The whole numbers of a product.

    Attributes:
        bottom, steps: those of a map are ``bottom`` to ``bottom`` + ``steps``.
        weight: those of weights are -``weight`` to ``weight``.
    """

    bottom: int
    steps: int
    weight: int


def levels(element: Element, channels: int) -> Levels:
    """The whole numbers of an element with which a sum over so many channels fits into 32 bits."""
    if element == "i8":
        return Levels(0, 255, 127)
    largest = min(isqrt((2**31 - 1) // channels), 2**15 - 1)
    return Levels(-largest, 2 * largest, largest)


@dataclass(frozen=True)
class Map:
    """A map's place and layout in the arena; sizes are in bytes unless they are counts.

    Attributes:
        place: of the first byte in the arena.
        vectors: of channels.
        height: rows, without the zeros around.
        width: pixels of a row, likewise.
        element: its numbers.
        padding: the zeros around.
        isa: whose vectors.
        gap: added to each vector's rows, so that those of different vectors do not share a cache set.
    """

    place: int
    vectors: int
    height: int
    width: int
    element: Element
    isa: Isa
    padding: Padding = (0, 0, 0, 0)
    gap: int = 0

    @property
    def pixel(self) -> int:
        """From a pixel to the next."""
        return self.isa.lanes * SIZES[self.element]

    @property
    def row(self) -> int:
        """From a row to the next."""
        return (self.width + self.padding[1] + self.padding[3]) * self.pixel

    @property
    def rows(self) -> int:
        """Count of rows with the zeros around."""
        return self.height + self.padding[0] + self.padding[2]

    @property
    def vector(self) -> int:
        """From a vector's rows to the next vector's."""
        return self.rows * self.row + self.gap

    @property
    def origin(self) -> int:
        """The first pixel that is not a zero around the map."""
        return self.place + self.padding[0] * self.row + self.padding[1] * self.pixel

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.vectors * self.vector

    @property
    def pixels(self) -> int:
        """Count of pixels, without the zeros around."""
        return self.height * self.width

    @property
    def flat(self) -> bool:
        """Whether rows follow each other without zeros between."""
        return not any(self.padding)


class Arena:
    """Places in a caller's memory, given out once and for all when the network is generated."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> int:
        """A place of so many bytes, on a cache line; a gap behind it keeps large places from starting alike."""
        place = self.bytes
        self.bytes += -(-size // LINE) * LINE + 7 * LINE
        return place


def vectors_of(channels: int, isa: Isa) -> int:
    """Vectors that hold so many channels."""
    return -(-channels // isa.lanes)
