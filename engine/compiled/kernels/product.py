"""The register tile that all products share: a few pixels times a few vectors of output channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Value
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.maps import DEPTHS, LINE, SIZES, WHOLE, Element

WORD = 4
"""Bytes of what is broadcast: a float32 channel of a pixel, two of 16 bits, or four bytes."""
NEAR = 4096
"""Bytes by which a panel's only tile fetches its own weights ahead: each is read once, as fast as memory gives them."""


def steps_of(channels: int, element: Element) -> int:
    """How many 32-bit words hold a pixel's channels."""
    return -(-channels // DEPTHS[element])


@dataclass(frozen=True)
class Ahead:
    """Weights that a tile fetches: its share of the next panel's, or what it soon reads itself.

    Attributes:
        place: of this tile's share.
        lines: of it, for each pass of the loop over channels.
    """

    place: Value
    lines: int


class Tile:
    """Accumulators of a tile, [pixel][vector].

    Args:
        f: the function it is part of.
        isa: its vector form.
        element: of the pixels and the weights.
        offsets: of each pixel, in bytes from the first.
        start: the value of each vector before anything is added, see :func:`start_of`.
    """

    def __init__(self, f: Function, isa: Isa, element: Element, offsets: Sequence[int], start: Sequence[Value]) -> None:
        self.f = f
        self.lanes = Lanes(f, isa)
        self.isa = isa
        self.element = element
        self.offsets = offsets
        self.vectors = len(start)
        self.sums = [value for _ in offsets for value in start]

    def over_taps(self, x: Value, weights: Value, taps: Sequence[int]) -> None:
        """Add the products of a few numbers of one channel, at these offsets in bytes from the pixel."""
        for number, tap in enumerate(taps):
            self._step(x, weights, tap, number * self.vectors * self.isa.bytes)

    def over_channels(
        self,
        x: Value,
        weights: Value,
        channels: int,
        vector_in: int,
        ahead: Ahead | None = None,
        next_pixels: bool = False,
    ) -> None:
        """Add the products of all channels.

        Args:
            x: the first pixel of the map's first vector.
            weights: packed as :func:`bce.engine.compiled.packing.packed` does.
            channels: of the map.
            vector_in: bytes from one vector of the map to the next.
            ahead: weights to fetch for the next panel.
            next_pixels: whether to fetch the pixels behind the tile's: for maps that no cache holds.
        """
        pixel = self.isa.lanes * SIZES[self.element]
        steps, of_step = pixel // WORD, self.vectors * self.isa.bytes
        whole = channels // self.isa.lanes
        if whole:
            fetched = [] if ahead is None else [ahead.place]
            with self.f.loop(whole, [x, weights, *fetched, *self.sums]) as loop:
                here, rows, *rest = loop.values
                self.sums = rest[len(fetched) :]
                if next_pixels:
                    for line in range(0, len(self.offsets) * pixel, LINE):
                        self.lanes.prefetch(here.at(len(self.offsets) * pixel + line))
                behind = []
                if ahead is not None:
                    for line in range(ahead.lines):
                        self.lanes.prefetch(rest[0].at(line * LINE))
                    behind = [rest[0].at(ahead.lines * LINE)]
                for step in range(steps):
                    self._step(here, rows, step * WORD, step * of_step)
                loop.carry([here.at(vector_in), rows.at(steps * of_step), *behind, *self.sums])
            x, weights, *rest = loop.values
            self.sums = rest[len(fetched) :]
        for step in range(steps_of(channels % self.isa.lanes, self.element)):
            self._step(x, weights, step * WORD, step * of_step)

    def values(self, bias: Value) -> list[Value]:
        """The sums as float32, [pixel][vector]; whole numbers with the scales and offsets that ``bias`` then holds."""
        if self.element not in WHOLE:
            return self.sums
        size = self.isa.bytes
        scales, offsets = (
            [self.lanes.load(bias.at((first + j) * size)) for j in range(self.vectors)] for first in (0, self.vectors)
        )
        return [
            self.lanes.fma(self.lanes.float_of(total), scales[n % self.vectors], offsets[n % self.vectors])
            for n, total in enumerate(self.sums)
        ]

    def _step(self, x: Value, weights: Value, offset: int, weights_offset: int) -> None:
        rows = [self.lanes.load(weights.at(weights_offset + self.isa.bytes * j)) for j in range(self.vectors)]
        for pixel, place in enumerate(self.offsets):
            word = self.lanes.broadcast(x.at(place + offset))
            at = pixel * self.vectors
            mine = [self.lanes.dot(self.element, self.sums[at + j], word, row) for j, row in enumerate(rows)]
            self.sums[at : at + self.vectors] = self.lanes.pinned(mine)


def start_of(lanes: Lanes, element: Element, vectors: int, bias: Value) -> list[Value]:
    """What the sums of a tile begin with: the bias; 0 for whole numbers, whose bias comes with :meth:`Tile.values`."""
    if element in WHOLE:
        return [lanes.f.zero(lanes.isa.ints)] * vectors
    return [lanes.load(bias.at(lanes.isa.bytes * j)) for j in range(vectors)]


def share_of_next(
    weights: Value, channels: int, element: Element, vectors: int, isa: Isa, tiles: int, tile: Value
) -> Ahead | None:
    """What tile number ``tile`` of ``tiles`` fetches of the next panel's weights; an only tile fetches its own.

    With many tiles the weights are a small part of the work, and nothing is fetched.
    """
    whole = channels // isa.lanes
    if tiles > 32 or not whole:
        return None
    if tiles == 1:
        return Ahead(weights.at(NEAR), steps_of(isa.lanes, element) * vectors * isa.bytes // LINE)
    size = steps_of(channels, element) * vectors * isa.bytes
    lines = -(-size // (LINE * tiles * whole))
    return Ahead(weights.at(size).at(tile * (lines * whole * LINE)), lines)
