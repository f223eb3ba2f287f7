"""What fills a panel of channels, row by row: the stem's taps, or a block's expansion, each with bias and swish."""

from __future__ import annotations

from dataclasses import dataclass

from bce.engine.compiled.emitter import Value
from bce.engine.compiled.integers import Integers
from bce.engine.compiled.kernels.expand import Expand, expand
from bce.engine.compiled.kernels.product import WORD
from bce.engine.compiled.layers import Layers, Pointwise, Spatial
from bce.engine.compiled.maps import WHOLE, Map
from bce.engine.compiled.packing import packed, packed_taps, padded
from bce.engine.compiled.plan import BlockPlan, Run
from bce.engine.compiled.swish import Swish, scaled
from bce.engine.compiled.writer import Writer


@dataclass(frozen=True)
class Expansion:
    """A product as a kernel that is called for each panel of a run, and each strip.

    Attributes:
        kernel: its function.
        source: where its input's rows begin.
        weights, bias: of the run's first panel; for whole numbers the bias is what restores numbers of the sums.
        step, bias_step: bytes of a panel's weights, and of its bias.
        row: bytes from the input of a row to that of the next one.
        together: rows that the kernel makes at once, of which it takes a count.
    """

    kernel: str
    source: Value
    weights: Value
    bias: Value
    step: int
    bias_step: int
    row: int
    together: int


def stem_expansion(writer: Writer, layers: Layers, panel: int, panels: int, target: Map, swish: Swish) -> Expansion:
    """The stem as a product of its taps.

    Args:
        writer: the program.
        layers: the network.
        panel, panels: vectors of a panel, and how many there are.
        target: a map with the stem's rows, for the places of its rows and vectors.
        swish: how near.
    """
    assert isinstance(layers.stem, Spatial)
    stem, (height, width) = scaled(layers.stem, swish), layers.shape
    top, left, bottom, right = stem.padding
    wide = (width + left + right) * WORD
    source = writer.x
    if any(stem.padding):
        size = wide * (height + top + bottom)
        source = writer.s(writer.arena.take(size))
        writer.fill(source, size)
        with writer.f.loop(height) as loop:
            begin = source.at(top * wide + left * WORD).at(loop.index * wide)
            writer.copy(begin, writer.x.at(loop.index * (width * WORD)), width * WORD)
    _, out_width = stem.size(height, width)
    row, vector = target.row, target.vector
    spec = Expand(
        0,
        out_width,
        panel,
        "f32",
        stem.stride * wide,
        0,
        row,
        vector,
        swish,
        taps=stem.kernel,
        stride=stem.stride,
    )
    weight = packed_taps(stem.weight, panel, panels, writer.isa)
    bias = padded(stem.bias, panel * panels * writer.isa.lanes)
    name = expand(writer.module, writer.isa, spec)
    step, bias_step = weight[0].nbytes, panel * writer.isa.bytes
    return Expansion(name, source, writer.put(weight), writer.put(bias), step, bias_step, stem.stride * wide, 1)


def block_expansion(
    writer: Writer, layer: Pointwise, plan: BlockPlan, run: Run, source: Map, target: Map, integers: Integers
) -> Expansion:
    """A block's expansion to the channels of a run of panels.

    Args:
        writer: the program.
        layer: its weights.
        plan: of the block.
        run: one of the plan's.
        source: its input, in the plan's element.
        target: the panel's buffer.
        integers: which made the source, where it is whole numbers.
    """
    layer = scaled(run.of(layer, writer.isa), plan.swish)
    rows = plan.strips[0].count if plan.whole else 0  # fewer than there are, where a stride skips the last ones
    spec = Expand(
        layer.weight.shape[1],
        source.width,
        run.panel,
        plan.expand,
        source.row,
        source.vector,
        target.row,
        target.vector,
        plan.swish,
        rows,
    )
    name, place = expand(writer.module, writer.isa, spec), writer.s(source.place)
    together, bias_step = spec.tile_rows(writer.isa), run.panel * writer.isa.bytes
    if plan.expand in WHOLE:
        weights, step = integers.weights(layer, plan.expand, run.panel)
        restored = integers.restored(layer, plan.expand, run.panel, run.count, run.first)
        return Expansion(name, place, weights, restored, step, 2 * bias_step, source.row, together)
    weight = packed(layer.weight, plan.expand, run.panel, writer.isa)
    weights, bias = writer.put(weight), writer.put(padded(layer.bias, run.vectors * writer.isa.lanes))
    return Expansion(name, place, weights, bias, weight[0].nbytes, bias_step, source.row, together)
