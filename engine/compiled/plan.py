"""What is decided before anything is generated: precisions, panels, strips and where the gate goes, block by block.

Every decision follows from shapes and from the CPU's vector form; no network's name appears here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.layers import Block, Layers, Padding, PatchHead, Pointwise, Rounded, Spatial
from bce.engine.compiled.maps import WHOLE, Element, vectors_of
from bce.engine.compiled.products import products
from bce.engine.compiled.swish import Swish, swish_for

Precision = Literal["fp32", "bf16", "int8"]
"""Of a network; "int8" is whole numbers where they were chosen, see :func:`elements`."""

EXACT_BLOCKS = 3
"""In bfloat16 the first so many blocks stay in float32.

Their maps are large and their channels few: that is where rounding hurts most and costs least to avoid.
"""
BUFFER_BYTES = 160 << 10
"""Of a panel's expanded rows: they have to stay in the second cache until the depthwise convolution has read them."""
_SPEED = {3: 1.0, 2: 0.9, 1: 0.6}
"""Of a tile by how many vectors it is wide, roughly: what wider tiles save in loads."""
_WORTH = 0.1
"""Of the time: what panels of two widths have to save, as they are twice the code."""


@dataclass(frozen=True)
class Elements:
    """What the operands of each product are.

    Attributes:
        expand, project: of each block.
        head: of the convolution behind the last block; float32 where there is none.
        dense: of the classifier on its mean; likewise.
        rough: whether activations are so everywhere, whatever the products: they cost as much in front of few exact
            ones, and their error is under that of the others.
    """

    expand: tuple[Element, ...]
    project: tuple[Element, ...]
    head: Element = "f32"
    dense: Element = "f32"
    rough: bool = False


@dataclass(frozen=True)
class Run:
    """Panels of the same width: vectors of channels that are computed together.

    Attributes:
        first: vector of the first panel.
        panel: vectors of a panel.
        count: of panels.
    """

    first: int
    panel: int
    count: int

    @property
    def vectors(self) -> int:
        """Of all its panels."""
        return self.panel * self.count

    @property
    def end(self) -> int:
        """The vector behind the last panel."""
        return self.first + self.vectors

    def of(self, layer: Pointwise, isa: Isa) -> Pointwise:
        """The part of a layer that makes the run's channels."""
        part = slice(self.first * isa.lanes, self.end * isa.lanes)
        rounded = layer.rounded
        if rounded is not None:
            rounded = Rounded(rounded.values[part], rounded.scale[part])
        return Pointwise(layer.weight[part], layer.bias[part], rounded)


@dataclass(frozen=True)
class Strip:
    """A few rows of a panel: what is done to the buffer, in rows.

    Attributes:
        first, count: of the input's rows, expanded to the buffer's row ``at``.
        at: see above.
        zeros: rows of zeros behind them: the end of the map.
        out, made: of the output's rows, from the buffer's first row on.
        keep: rows at the end of the buffer that the next strip needs, moved to its beginning.
    """

    first: int
    count: int
    at: int
    zeros: int
    out: int
    made: int
    keep: int


@dataclass(frozen=True)
class BlockPlan:
    """How a block is run.

    Attributes:
        expand, project: elements of the two products.
        kept: element of the depthwise convolution's output.
        runs: panels of expanded channels.
        rows: of a panel's buffer, zeros included; 0 where the depthwise convolution reads the block's input itself.
        strips: how the map goes through the buffer; one where it fits.
        project_runs: panels of output channels.
        in_weights: whether the gate is multiplied into the projection's weights, not into the map.
        padding: zeros that the next block wants around the output.
        copy: whether the next block's expansion wants a copy in bfloat16.
        swish: how near its activations are: their error stays under that of the products.
    """

    expand: Element
    project: Element
    kept: Element
    runs: tuple[Run, ...]
    rows: int
    strips: tuple[Strip, ...]
    project_runs: tuple[Run, ...]
    in_weights: bool
    padding: Padding
    copy: bool
    swish: Swish

    @property
    def panel(self) -> int:
        """Vectors of the widest panel of expanded channels."""
        return self.runs[0].panel

    @property
    def vectors(self) -> int:
        """Vectors of the expanded channels."""
        return self.runs[-1].end

    @property
    def out_vectors(self) -> int:
        """Vectors of the output channels."""
        return self.project_runs[-1].end

    @property
    def whole(self) -> bool:
        """Whether the map fits the buffer."""
        return len(self.strips) == 1


def elements(layers: Layers, precision: Precision, chosen: Mapping[str, Element] | None = None) -> Elements:
    """The element of every product.

    Args:
        layers: the network.
        precision: of the whole: "fp32" everywhere, or "bf16" behind the first :data:`EXACT_BLOCKS`.
        chosen: for "int8", by the names of :mod:`~.products`; a product that is not named is float32.
    """
    chosen = chosen or {}

    def of(name: str, block: int) -> Element:
        if precision == "int8":
            return chosen.get(name, "f32")
        return "bf16" if precision == "bf16" and block >= EXACT_BLOCKS else "f32"

    count, known = len(layers.blocks), products(layers)
    expand = tuple(of(f"{index}.expand", index) for index in range(count))
    project = tuple(of(f"{index}.project", index) for index in range(count))
    behind = max(count, EXACT_BLOCKS)  # the head is never among the first blocks
    head, dense = (of(name, behind) if name in known else "f32" for name in ("head", "dense"))
    return Elements(expand, project, head, dense, rough=precision == "int8")


def plan_blocks(layers: Layers, chosen: Elements, isa: Isa) -> tuple[BlockPlan, ...]:
    """Plan all blocks.

    Args:
        layers: the network.
        chosen: see :func:`elements`.
        isa: the vector form.
    """
    plans = []
    for index, (block, (size_in, size_out)) in enumerate(zip(layers.blocks, layers.sizes(), strict=True)):
        after = layers.blocks[index + 1] if index + 1 < len(layers.blocks) else None
        wanted = (*chosen.expand, _head_input(layers, chosen))[index + 1]  # by what follows
        mine = chosen.expand[index], chosen.project[index]
        filled = index == 0 and isinstance(layers.stem, Spatial)
        plan = _plan_block(block, index == 0, filled, mine, wanted, after, size_in, size_out, isa, chosen.rough)
        plans.append(plan)
    return tuple(plans)


def _head_input(layers: Layers, chosen: Elements) -> Element:
    """What the head reads of the last block's map."""
    return "f32" if isinstance(layers.head, PatchHead) else chosen.head


def _plan_block(
    block: Block,
    first: bool,
    filled: bool,
    mine: tuple[Element, Element],
    wanted: Element,
    after: Block | None,
    size_in: tuple[int, int],
    size_out: tuple[int, int],
    isa: Isa,
    rough: bool,
) -> BlockPlan:
    channels = len(block.depthwise.bias)
    out_channels = len(block.project.bias)
    # the stem can fill the buffer as an expansion does, unless its map is added later
    buffered = block.expand is not None or (filled and not block.residual)
    rows, strips = 0, [Strip(0, size_in[0], 0, 0, 0, size_out[0], 0)]
    if buffered:
        vectors = vectors_of(channels, isa)
        # the stem as an expansion knows panels of one width: there its input would be put between zeros twice
        runs = (Run(0, *panels_of(vectors)),) if block.expand is None else runs_of(vectors)
        rows, strips = plan_strips(block.depthwise, size_in, size_out[0], runs[0].panel, isa)
    else:
        runs = (Run(0, vectors_of(channels, isa), 1),)
    feeds_depthwise = after is not None and after.expand is None
    feeds_product = after is None or after.expand is not None
    return BlockPlan(
        expand="f32" if first and mine[0] == "bf16" else mine[0],  # the stem makes no copy in bfloat16
        project=mine[1],
        kept="bf16" if mine[1] == "bf16" else "f32",
        runs=runs,
        rows=rows,
        strips=tuple(strips),
        project_runs=runs_of(vectors_of(out_channels, isa)),
        in_weights=block.gate is not None and mine[1] not in WHOLE and out_channels < size_out[0] * size_out[1],
        padding=after.depthwise.padding if after is not None and feeds_depthwise else (0, 0, 0, 0),
        copy=feeds_product and wanted == "bf16",
        swish=swish_for("i8" if rough else mine[1], isa),
    )


def panels_of(vectors: int) -> tuple[int, int]:
    """(vectors of a panel, panels) that take the least time; the last panel may be partly empty."""
    panel = min(_SPEED, key=lambda wide: (-(-vectors // wide) * wide / _SPEED[wide], -wide))
    return panel, -(-vectors // panel)


def panels_on(pixels: int, vectors: int, isa: Isa) -> tuple[int, int]:
    """The same for a flat map of so few pixels that a tile which does not divide them does many of them twice."""

    def time(wide: int) -> float:
        size = min(isa.pixels[wide], pixels)
        return -(-vectors // wide) * wide / _SPEED[wide] * -(-pixels // size) * size

    panel = min(_SPEED, key=lambda wide: (time(wide), -wide))
    return panel, -(-vectors // panel)


def runs_of(vectors: int) -> tuple[Run, ...]:
    """Panels for so many vectors, the wider ones first: of one width, or of two where that is worth it."""
    even = Run(0, *panels_of(vectors))
    mixed: list[tuple[Run, ...]] = [(even,)]
    for wide, narrow in ((3, 2), (3, 1), (2, 1)):
        for count in range(1, -(-vectors // wide)):
            first = Run(0, wide, count)
            mixed.append((first, Run(first.end, narrow, -(-(vectors - first.end) // narrow))))
    best = min(mixed, key=_time)
    return best if _time(best) < (1 - _WORTH) * _time((even,)) else (even,)


def _time(runs: tuple[Run, ...]) -> float:
    return sum(run.count * run.panel / _SPEED[run.panel] for run in runs)


def plan_strips(
    depthwise: Spatial, size_in: tuple[int, int], height_out: int, panel: int, isa: Isa
) -> tuple[int, list[Strip]]:
    """How a map goes through the panel's buffer.

    Returns:
        the rows of the buffer, and the strips in order.
    """
    top, left, bottom, right = depthwise.padding
    height = size_in[0]
    row = (size_in[1] + left + right) * isa.bytes
    most = max(depthwise.kernel, BUFFER_BYTES // (row * panel))
    rows = min(most, height + top + bottom)
    strips: list[Strip] = []
    taken = made = 0
    held = top  # rows of the buffer that are filled
    while made < height_out:
        count = min(rows - held, height - taken)
        at, first = held, taken
        held, taken = held + count, taken + count
        zeros = min(bottom, rows - held) if taken == height else 0
        bottom -= zeros
        held += zeros
        ready = min(height_out - made, (held - depthwise.kernel) // depthwise.stride + 1)
        keep = 0 if made + ready == height_out else held - ready * depthwise.stride
        if count < 0 or ready < 1 or keep < 0:
            raise ValueError(f"a stride of {depthwise.stride} or zeros of {depthwise.padding} beyond the kernel")
        strips.append(Strip(first, count, at, zeros, made, ready, keep))
        made, held = made + ready, keep
    return rows, strips
