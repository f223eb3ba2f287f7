"""Products that end in an activation: the stem, a block's expansion, the head's convolution.

for row: for tile of the row:
    sums = bias + weights x pixels;  output = activation(sums)
"""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Function, Module, Value
from bce.engine.compiled.kernels.naming import name_of
from bce.engine.compiled.kernels.product import WORD, Tile, share_of_next, start_of
from bce.engine.compiled.lanes import Isa, Lanes
from bce.engine.compiled.maps import SIZES, Element
from bce.engine.compiled.swish import Activation, activated


@dataclass(frozen=True)
class Expand:
    """Shapes of an expansion; strides in bytes.

    Attributes:
        channels: of the input; 0 for the stem.
        width: pixels of an output row.
        vectors: of output channels, computed together.
        element: of the input.
        row_in, vector_in: strides of the input.
        row_out, vector_out: strides of the output, float32.
        activation: of the sums.
        rows: how many a call makes, where it is always the same: a reason to fetch the next panel's weights.
        taps: of the stem: kernel height and width.
        stride: of the stem.
    """

    channels: int
    width: int
    vectors: int
    element: Element
    row_in: int
    vector_in: int
    row_out: int
    vector_out: int
    activation: Activation
    rows: int = 0
    taps: int = 0
    stride: int = 1

    def tile_rows(self, isa: Isa) -> int:
        """Rows of a tile: more than one where whole rows are smaller than a tile and fill it."""
        most = isa.pixels[self.vectors]
        rows = most // self.width
        return rows if rows > 1 and most % self.width == 0 and self.rows and self.rows % rows == 0 else 1


def expand(module: Module, isa: Isa, spec: Expand) -> str:
    """Write the kernel: (x, weights, bias, out, count of tile rows); weights and bias are scaled for a swish.

    For whole numbers ``bias`` holds scales and offsets, see :meth:`~.product.Tile.values`.
    """
    name = name_of(spec)
    if name in module.functions:
        return name
    f = Function(module, name, ["x", "w", "b", "o!", "#rows"])
    x, weights, bias, out, rows = f.arguments
    lanes = Lanes(f, isa)
    together = spec.tile_rows(isa)
    size = min(isa.pixels[spec.vectors], spec.width * together)
    tiles = -(-spec.width * together // size)
    pixel_in = spec.stride * WORD if spec.taps else isa.lanes * SIZES[spec.element]
    offsets_in = [_row_pixel(p, spec, together, spec.row_in, pixel_in) for p in range(size)]
    offsets_out = [_row_pixel(p, spec, together, spec.row_out, isa.bytes) for p in range(size)]

    def tile(x: Value, out: Value, number: Value) -> None:
        start = start_of(lanes, spec.element, spec.vectors, bias)
        sums = Tile(f, isa, spec.element, offsets_in, start)
        if spec.taps:
            sums.over_taps(x, weights, _taps(spec))
        else:
            ahead = None
            if spec.rows:
                all_tiles = spec.rows // together * tiles
                ahead = share_of_next(weights, spec.channels, spec.element, spec.vectors, isa, all_tiles, number)
            sums.over_channels(x, weights, spec.channels, spec.vector_in, ahead)
        for n, value in enumerate(sums.values(bias)):
            pixel, j = divmod(n, spec.vectors)
            lanes.store(out.at(offsets_out[pixel] + j * spec.vector_out), activated(lanes, value, spec.activation))

    with f.loop(rows) as down:
        row_in, row_out = x.at(down.index * (together * spec.row_in)), out.at(down.index * (together * spec.row_out))
        if tiles == 1:
            tile(row_in, row_out, down.index)
        else:
            with f.loop(tiles) as across:
                first = across.index * size
                if spec.width % size:  # the last tile begins earlier, and does some pixels again
                    first = f.smallest(first, spec.width - size)
                number = down.index * tiles + across.index
                tile(row_in.at(first * pixel_in), row_out.at(first * isa.bytes), number)
    f.done()
    return name


def _row_pixel(pixel: int, spec: Expand, together: int, row: int, size: int) -> int:
    """Where a tile's pixel lies; its pixels go over whole rows where it has several."""
    if together == 1:
        return pixel * size
    down, across = divmod(pixel, spec.width)
    return down * row + across * size


def _taps(spec: Expand) -> list[int]:
    row = spec.row_in // spec.stride
    return [ky * row + kx * WORD for ky in range(spec.taps) for kx in range(spec.taps)]
