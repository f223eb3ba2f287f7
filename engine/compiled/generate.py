"""From a network's layers to a program: one function, the weights in its order, and the size of a caller's arena.

The function takes the input, the weights and an arena. Everything in it is decided here: it has no condition but the
ends of its loops, and its text depends on shapes and precision, never on the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.blocks import BlockWriter
from bce.engine.compiled.heads import dense, patch_head, pointwise_head
from bce.engine.compiled.kernels.pool import Lengths, Mean, Nearest, lengths, mean, nearest
from bce.engine.compiled.lanes import Isa
from bce.engine.compiled.layers import Layers, PatchHead, Pointwise, Prototypes
from bce.engine.compiled.maps import Element, Map, vectors_of
from bce.engine.compiled.packing import Weights, packed
from bce.engine.compiled.plan import Precision, elements, panels_of, plan_blocks
from bce.engine.compiled.writer import ENTRY, Writer

__all__ = ["ENTRY", "Output", "Program", "generate"]


@dataclass(frozen=True)
class Output:
    """Where an output lies in the arena when the function is done.

    Attributes:
        name: of the output.
        place: in bytes.
        layout: shape there, float32.
        channels: of them the first so many, in the order of the layout's vectors and lanes.
        size: (height, width) of a map; None for a vector.
        prototypes: what makes logits of a label's activations.
    """

    name: str
    place: int
    layout: tuple[int, ...]
    channels: int
    size: tuple[int, int] | None = None
    prototypes: Prototypes | None = None

    def view(self, arena: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Its numbers as they lie in an arena."""
        size = 4 * math.prod(self.layout)
        return arena[self.place : self.place + size].view(np.float32).reshape(self.layout)

    def read(self, view: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output out of its view, a copy: [channels], [channels, height, width] or [classes]."""
        if self.size is not None:  # [vector, pixel, lane]
            return view.swapaxes(1, 2).reshape(-1, *self.size)[: self.channels].copy()
        values = view[: self.channels]
        return values.copy() if self.prototypes is None else logits_of(self.prototypes, values)

    @property
    def width(self) -> int:
        """Numbers of the output."""
        if self.prototypes is not None:
            members = self.prototypes.members
            return len(self.prototypes.bias if members is None else members)
        return self.channels * (1 if self.size is None else self.size[0] * self.size[1])


def logits_of(prototypes: Prototypes, activations: NDArray[np.float32]) -> NDArray[np.float32]:
    """A ProtoPNet's logits out of the activations of its prototypes: see :class:`Prototypes`."""
    strength = prototypes.strength
    logits = (activations.reshape(strength.shape) * strength).sum(axis=1) + prototypes.bias
    found: NDArray[np.float32] = logits if prototypes.members is None else logits[prototypes.members].max(axis=1)
    return found


@dataclass(frozen=True)
class Program:
    """A network as a function.

    Attributes:
        text: its LLVM IR, see :func:`bce.engine.compiled.emitter.ir_for`.
        weights: in the function's order.
        arena_bytes: that a caller needs.
        outputs: where they are, in order.
        stages: names of the places where the clock was read, in order; none unless asked for.
        clock: where the readings are in the arena, 64-bit integers.
    """

    text: str
    weights: Weights
    arena_bytes: int
    outputs: tuple[Output, ...]
    stages: tuple[str, ...]
    clock: int


def generate(
    layers: Layers,
    precision: Precision,
    isa: Isa,
    *,
    chosen: Mapping[str, Element] | None = None,
    clock: bool = False,
) -> Program:
    """Write the program of a network.

    Args:
        layers: the network.
        precision: of the products.
        isa: the vector form.
        chosen: see :func:`bce.engine.compiled.plan.elements`.
        clock: read the time-stamp counter between stages.
    """
    operands = elements(layers, precision, chosen)
    plans = plan_blocks(layers, operands, isa)
    writer = Writer(isa, clock)
    blocks = BlockWriter(writer, layers, plans)
    outputs: dict[str, Output] = {}
    found = blocks.stem()
    for index, block in enumerate(layers.blocks):
        found = blocks.write(index, found)
        for tap in layers.taps:
            if tap.kind == "block" and tap.block == index:
                outputs[tap.name] = _tapped(writer, tap.name, found, len(block.project.bias), tap.pooled)
    if layers.head is not None:
        channels = len(layers.head.bias)
        if isinstance(layers.head, PatchHead):
            assert found is not None
            spatial = patch_head(writer, layers.head, found, operands.head)
        else:
            spatial = pointwise_head(writer, layers.head, blocks.last(operands.head), operands.head)
        for tap in layers.taps:
            if tap.kind == "embedding":
                outputs[tap.name] = _tapped(writer, tap.name, spatial, channels, tap.pooled)
            elif tap.kind == "label":
                assert layers.prototypes is not None
                outputs[tap.name] = _label(writer, tap.name, spatial, channels, layers.prototypes)
            elif tap.kind == "dense":
                assert layers.dense is not None
                outputs[tap.name] = _dense(writer, tap.name, spatial, channels, layers.dense, operands.dense)
    text = writer.finish()
    ordered = tuple(outputs[tap.name] for tap in layers.taps)
    return Program(text, writer.weights, writer.arena.bytes, ordered, tuple(writer.stages), writer.clock)


def _tapped(writer: Writer, name: str, found: Map, channels: int, pooled: bool) -> Output:
    """A map's mean, or the map itself, where nothing overwrites it."""
    isa = writer.isa
    if pooled:
        place = writer.arena.take(found.vectors * isa.bytes)
        spec = Mean(found.vectors, found.height, found.width, found.row, found.vector)
        writer.f.call(mean(writer.module, isa, spec), writer.s(found.origin), writer.s(place))
        writer.mark(f"{name} mean")
        return Output(name, place, (found.vectors * isa.lanes,), channels)
    row = found.width * isa.bytes
    place = writer.arena.take(found.vectors * found.height * row)
    with writer.f.loop(found.vectors) as over, writer.f.loop(found.height) as down:
        target = writer.s(place).at(over.index * (found.height * row), down.index * row)
        writer.copy(target, writer.s(found.origin).at(over.index * found.vector, down.index * found.row), row)
    writer.mark(f"{name} map")
    size = (found.height, found.width)
    return Output(name, place, (found.vectors, found.pixels, isa.lanes), channels, size)


def _dense(writer: Writer, name: str, spatial: Map, channels: int, layer: Pointwise, element: Element) -> Output:
    """The logits of a dense classifier on the mean of the head's map."""
    mean = _tapped(writer, name, spatial, channels, pooled=True)
    place, vectors = dense(writer, layer, mean.place, spatial.vectors, element)
    return Output(name, place, (vectors * writer.isa.lanes,), len(layer.bias))


def _label(writer: Writer, name: str, spatial: Map, channels: int, prototypes: Prototypes) -> Output:
    """The activations of all prototypes; what follows is small, and numpy does it."""
    isa, count = writer.isa, prototypes.vectors.shape[1]
    panel, panels = panels_of(vectors_of(count, isa))
    inverse = writer.arena.take(4 * spatial.pixels)
    place = writer.arena.take(panel * panels * isa.bytes)
    weight = packed(prototypes.vectors.T, "f32", panel, isa)
    weights = writer.put(weight)
    of_pixel = lengths(writer.module, isa, Lengths(spatial.vectors, spatial.pixels, prototypes.epsilon))
    writer.f.call(of_pixel, writer.s(spatial.place), writer.s(inverse))
    best = nearest(writer.module, isa, Nearest(channels, spatial.pixels, panel))
    with writer.f.loop(panels) as loop:
        writer.f.call(
            best,
            writer.s(spatial.place),
            weights.at(loop.index * weight[0].nbytes),
            writer.s(inverse),
            writer.s(place).at(loop.index * (panel * isa.bytes)),
        )
    writer.mark("label")
    # the vectors are among the weights now; the rest is copied, so that no view keeps a whole file in memory
    members = None if prototypes.members is None else np.array(prototypes.members)
    strength, bias, none = np.array(prototypes.strength), np.array(prototypes.bias), np.empty((0, count), np.float32)
    rest = Prototypes(none, strength, bias, members, prototypes.epsilon)
    return Output(name, place, (panel * panels * isa.lanes,), count, None, rest)
