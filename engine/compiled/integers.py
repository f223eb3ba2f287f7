"""Products of whole numbers while a program is written: the input's range, the numbers, what restores the sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bce.engine.compiled.emitter import Value
from bce.engine.compiled.kernels.whole import (
    RANGE_BYTES,
    Bound,
    Extent,
    Quantise,
    Restore,
    bound,
    extent,
    quantise,
    restore,
)
from bce.engine.compiled.layers import Pointwise
from bce.engine.compiled.maps import Element, Levels, Map, levels
from bce.engine.compiled.packing import packed_whole, padded, rounded_of
from bce.engine.compiled.writer import Writer


class Integers:
    """Places that one product at a time needs.

    Args:
        writer: the program.
        map_bytes: of the largest map of whole numbers.
        outputs: vectors of the widest product, the spare ones of its panels among them.
    """

    def __init__(self, writer: Writer, map_bytes: int, outputs: int) -> None:
        self._writer = writer
        self._range = writer.arena.take(RANGE_BYTES)
        self._place = writer.arena.take(map_bytes)
        self._restoring = writer.arena.take(2 * outputs * writer.isa.bytes)

    def of_map(self, x: Map, element: Element, channels: int) -> Map:
        """A flat float32 map as whole numbers of an element, with the range that it has, to be summed over channels."""
        writer = self._writer
        assert x.flat
        assert not x.gap
        to = levels(element, channels)
        spec = Extent(x.vectors * x.pixels, to.bottom, to.steps)
        writer.f.call(extent(writer.module, writer.isa, spec), writer.s(x.place), writer.s(self._range))
        return self._quantised(x, None, element, to)

    def of_swishes(self, x: Map, element: Element, channels: int, maxima: int, totals: int, factors: int | None) -> Map:
        """A map of swishes as whole numbers, times its channels' gates.

        Args:
            x: the map, flat.
            element, channels: as of :meth:`of_map`.
            maxima, totals: the places of each channel's largest number, and of their sum.
            factors: that of the gates; None for none.
        """
        writer, gated = self._writer, factors is not None
        to = levels(element, channels)
        name = bound(writer.module, writer.isa, Bound(x.vectors, gated, to.bottom, to.steps))
        gates = writer.s(maxima if factors is None else factors)
        writer.f.call(name, writer.s(maxima), writer.s(totals), gates, writer.s(self._range))
        return self._quantised(x, factors, element, to)

    def _quantised(self, x: Map, factors: int | None, element: Element, to: Levels) -> Map:
        writer = self._writer
        spec = Quantise(x.element, element, x.vectors, x.pixels, factors is not None, to.bottom, to.steps)
        gates = writer.s(self._range if factors is None else factors)
        name = quantise(writer.module, writer.isa, spec)
        writer.f.call(name, writer.s(x.place), gates, writer.s(self._range), writer.s(self._place))
        return replace(x, place=self._place, element=element)

    def restored(self, layer: Pointwise, element: Element, panel: int, panels: int, first: int = 0) -> Value:
        """Where the scales and offsets of a product are: [panel][scales, offsets], for the map that was made last.

        Args:
            layer: its weights and bias, scaled for what follows.
            element: of the product.
            panel, panels: vectors of a panel, and how many there are.
            first: the vectors of the product that lie before, whose own must stay.
        """
        writer, isa = self._writer, self._writer.isa
        rounded, size = rounded_of(layer, element), panel * panels * isa.lanes
        sums = rounded.values.sum(axis=1, dtype=np.int64) * rounded.scale.astype(np.float64)
        given = (rounded.scale, sums.astype(np.float32), layer.bias)
        places = [writer.put(padded(values, size)) for values in given]
        target = writer.s(self._restoring + 2 * first * isa.bytes)
        writer.f.call(restore(writer.module, isa, Restore(panel)), writer.s(self._range), *places, target, panels)
        return target

    def weights(self, layer: Pointwise, element: Element, panel: int) -> tuple[Value, int]:
        """Where a product's weights are, and the bytes of a panel of them."""
        packed = packed_whole(rounded_of(layer, element).values, element, panel, self._writer.isa)
        return self._writer.put(packed), packed[0].nbytes
