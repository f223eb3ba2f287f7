"""An MBConv block as calls of kernels.

    for panel: for strip: expand to the buffer; depthwise from the buffer, with its sums
    gate from the sums; gate into the projection's weights, or into the map, which may become whole numbers; project

The expanded map never exists: a panel of it goes through a buffer that the second cache holds. The depthwise output
does, because the gate needs its mean before the projection may begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bce.engine.compiled.emitter import Value
from bce.engine.compiled.entry import pooled_stem
from bce.engine.compiled.expansions import block_expansion, stem_expansion
from bce.engine.compiled.integers import Integers
from bce.engine.compiled.kernels.depthwise import Depthwise, depthwise
from bce.engine.compiled.kernels.gate import GROUP, Squeeze, gate, groups
from bce.engine.compiled.kernels.product import steps_of
from bce.engine.compiled.kernels.project import Project, project
from bce.engine.compiled.kernels.scale import ScaleMap, ScaleWeights, scale_map, scale_weights
from bce.engine.compiled.layers import Array, Block, Gate, Layers, PooledStem
from bce.engine.compiled.maps import SIZES, WHOLE, Element, Map, vectors_of
from bce.engine.compiled.packing import packed, packed_apart, packed_depthwise, padded
from bce.engine.compiled.plan import BlockPlan, Run, panels_of
from bce.engine.compiled.swish import scaled
from bce.engine.compiled.writer import Writer

MOST_SPARE = 2
"""Vectors that a map may have beyond its channels, where panels do not divide them."""


class BlockWriter:
    """Writes the blocks of a network, which share the places that only one of them needs at a time.

    Args:
        writer: the program.
        layers: the network.
        plans: of its blocks.
    """

    def __init__(self, writer: Writer, layers: Layers, plans: Sequence[BlockPlan]) -> None:
        self._writer = writer
        self._layers = layers
        self._plans = plans
        self._sizes = list(layers.sizes())
        self._copy: Map | None = None
        isa, arena = writer.isa, writer.arena
        vectors = max(plan.vectors for plan in plans)
        buffers = [self._buffer(index) for index, plan in enumerate(plans) if plan.rows]
        self._buffer_place = arena.take(max((buffer.bytes for buffer in buffers), default=0))
        self._totals = arena.take(vectors * isa.bytes)
        self._maxima = arena.take(vectors * isa.bytes if any(plan.project in WHOLE for plan in plans) else 0)
        self._factors = arena.take(vectors * isa.bytes)
        self._hidden = arena.take(max(self._squeezed(index) for index in range(len(plans))) * isa.bytes)
        self._kept_place = arena.take(max(self._kept(index).bytes for index in range(len(plans))))
        self._scaled = arena.take(max(self._scaled_bytes(index) for index in range(len(plans))))
        maps = [self._output(index) for index in range(len(plans))]
        self._maps = [arena.take(max(found.bytes for found in maps)) for _ in range(2)]
        halves = [self._half(found).bytes for plan, found in zip(plans, maps, strict=True) if plan.copy]
        self._copies = arena.take(max(halves, default=0))
        inputs = [self._input_bytes(index) for index in range(len(plans)) if plans[index].expand in WHOLE]
        inputs += [
            replace(self._kept(index), element=plan.project).bytes
            for index, plan in enumerate(plans)
            if plan.project in WHOLE
        ]
        outputs = max((max(plan.vectors, plan.out_vectors) for plan in plans), default=0)
        self._integers = Integers(writer, max(inputs, default=0), outputs if inputs else 0)

    # --- what lies where ---

    def _buffer(self, index: int, place: int = 0) -> Map:
        """The panel's buffer: rows of expanded channels with zeros around; an odd number of pixels for a vector."""
        plan, isa = self._plans[index], self._writer.isa
        _, left, _, right = self._layers.blocks[index].depthwise.padding
        (_, width), _ = self._sizes[index]
        even = plan.rows * (width + left + right) % 2 == 0
        padding = (0, left, 0, right)
        return Map(place, plan.panel, plan.rows, width, "f32", isa, padding, isa.bytes if even else 0)

    def _kept(self, index: int, place: int = 0) -> Map:
        plan, (_, (height, width)) = self._plans[index], self._sizes[index]
        return Map(place, plan.vectors, height, width, plan.kept, self._writer.isa)

    def _output(self, index: int, place: int = 0) -> Map:
        plan, (_, (height, width)) = self._plans[index], self._sizes[index]
        return Map(place, plan.out_vectors, height, width, "f32", self._writer.isa, plan.padding)

    def _input_bytes(self, index: int) -> int:
        """Of a block's input as whole numbers."""
        expand, ((height, width), _) = self._layers.blocks[index].expand, self._sizes[index]
        vectors = 0 if expand is None else vectors_of(expand.weight.shape[1], self._writer.isa) + MOST_SPARE
        return vectors * height * width * self._writer.isa.lanes * SIZES[self._plans[index].expand]

    def _half(self, found: Map, place: int = 0) -> Map:
        return replace(found, place=place, element="bf16")

    def _squeezed(self, index: int) -> int:
        found = self._layers.blocks[index].gate
        return 0 if found is None else vectors_of(len(found.reduce.bias), self._writer.isa)

    def _vector_bytes(self, index: int) -> int:
        """Of the projection's weights for one vector of its output."""
        plan, block = self._plans[index], self._layers.blocks[index]
        return steps_of(len(block.depthwise.bias), plan.project) * self._writer.isa.bytes

    def _scaled_bytes(self, index: int) -> int:
        plan = self._plans[index]
        return self._vector_bytes(index) * plan.out_vectors if plan.in_weights else 0

    # --- the stages ---

    def stem(self) -> Map | None:
        """The stem's map; None where the stem fills the first block's buffer, as an expansion does."""
        layers, writer = self._layers, self._writer
        block = layers.blocks[0]
        padding = (0, 0, 0, 0) if block.expand is not None else block.depthwise.padding
        if isinstance(layers.stem, PooledStem):
            return pooled_stem(writer, layers.stem, layers.shape, padding)
        if block.expand is None and self._plans[0].rows:
            return None
        isa = writer.isa
        (height, width), _ = self._sizes[0]
        panel, panels = panels_of(vectors_of(len(layers.stem.bias), isa))
        found = Map(0, panel * panels, height, width, "f32", isa, padding)
        found = replace(found, place=writer.arena.take(found.bytes))
        if not found.flat:
            writer.fill(writer.s(found.place), found.bytes)
        stem = stem_expansion(writer, layers, panel, panels, found, self._plans[0].swish)
        with writer.f.loop(panels) as loop:
            mine, offset = stem.weights.at(loop.index * stem.step), stem.bias.at(loop.index * stem.bias_step)
            target = writer.s(found.origin).at(loop.index * (panel * found.vector))
            writer.f.call(stem.kernel, stem.source, mine, offset, target, height)
        writer.mark("stem")
        return found

    def write(self, index: int, x: Map | None) -> Map:
        """Write a block, and give its output; ``x`` is its input, None for the stem's."""
        writer, plan, block = self._writer, self._plans[index], self._layers.blocks[index]
        kept = self._kept(index, self._kept_place)
        writer.fill(writer.s(self._totals), plan.vectors * writer.isa.bytes)
        if plan.project in WHOLE:
            writer.fill(writer.s(self._maxima), plan.vectors * writer.isa.bytes)
        layer = scaled(block.depthwise, plan.swish)
        weights = writer.put(packed_depthwise(layer.weight, layer.bias, plan.vectors, writer.isa))
        if plan.rows:
            self._expanded(index, x, kept, weights)
        else:
            assert x is not None
            spec = self._depthwise_spec(index, x, kept, plan.vectors)
            count = kept.height // spec.tile(writer.isa)[0]
            name = depthwise(writer.module, writer.isa, spec)
            places = writer.s(x.place), weights, writer.s(kept.place)
            writer.f.call(name, *places, count, writer.s(self._totals), writer.s(self._maxima))
        writer.mark(f"{index} expand")
        if block.gate is not None:
            self._gated(index, block.gate, kept)
        writer.mark(f"{index} gate")
        found = self._projected(index, block, x, kept)
        writer.mark(f"{index} project")
        return found

    def last(self, element: Element) -> Map:
        """The last block's output, in what a product of that element takes: a copy in bfloat16, or float32."""
        if element == "bf16":
            assert self._copy is not None
            return self._copy
        index = len(self._plans) - 1
        return self._output(index, self._maps[index % 2])

    def _depthwise_spec(self, index: int, source: Map, kept: Map, vectors: int) -> Depthwise:
        plan, layer = self._plans[index], self._layers.blocks[index].depthwise
        even = plan.whole and kept.height % 2 == 0
        row, vector = source.row, source.vector
        return Depthwise(
            layer.kernel,
            layer.stride,
            kept.width,
            even,
            vectors,
            row,
            vector,
            kept.vector,
            kept.element,
            plan.swish,
            plan.project in WHOLE,
        )

    def _expanded(self, index: int, x: Map | None, kept: Map, taps: Value) -> None:
        """Expansion and depthwise convolution, panel by panel and strip by strip."""
        writer, plan, block = self._writer, self._plans[index], self._layers.blocks[index]
        isa, f = writer.isa, writer.f
        top, left, _, _ = block.depthwise.padding
        buffer = self._buffer(index, self._buffer_place)
        filter_bytes = (block.depthwise.kernel**2 + 1) * isa.bytes
        source = self._source(index, x)
        for run in plan.runs:
            if block.expand is None:
                rows = stem_expansion(writer, self._layers, run.panel, run.count, buffer, plan.swish)
            else:
                assert source is not None
                rows = block_expansion(writer, block.expand, plan, run, source, buffer, self._integers)
            spec = self._depthwise_spec(index, buffer, kept, run.panel)
            convolve, high = depthwise(writer.module, isa, spec), spec.tile(isa)[0]
            start = writer.s(buffer.place)
            if run is plan.runs[0]:
                writer.fill(start, buffer.bytes)
            with f.loop(run.count) as loop:
                mine = rows.weights.at(loop.index * rows.step)
                offset = rows.bias.at(loop.index * rows.bias_step)
                filters = taps.at(run.first * filter_bytes).at(loop.index * (run.panel * filter_bytes))
                out = writer.s(kept.place + run.first * kept.vector).at(loop.index * (run.panel * kept.vector))
                totals, maxima = (
                    writer.s(place + run.first * isa.bytes).at(loop.index * (run.panel * isa.bytes))
                    for place in (self._totals, self._maxima)
                )
                if not plan.whole:
                    self._zero_rows(buffer, run.panel, 0, top)
                for strip in plan.strips:
                    if strip.count:
                        target = start.at(strip.at * buffer.row + left * buffer.pixel)
                        begin = rows.source.at(strip.first * rows.row)
                        f.call(rows.kernel, begin, mine, offset, target, strip.count // rows.together)
                    if not plan.whole:
                        self._zero_rows(buffer, run.panel, strip.at + strip.count, strip.zeros)
                    f.call(convolve, start, filters, out.at(strip.out * kept.row), strip.made // high, totals, maxima)
                    if strip.keep:
                        for j in range(run.panel):
                            first = start.at(j * buffer.vector)
                            behind = first.at(strip.made * block.depthwise.stride * buffer.row)
                            writer.copy(first, behind, strip.keep * buffer.row)

    def _source(self, index: int, x: Map | None) -> Map | None:
        """A block's input in the element of its expansion; None for the stem's."""
        plan = self._plans[index]
        expand = self._layers.blocks[index].expand
        if expand is None or plan.expand == "f32":
            return x
        if plan.expand == "bf16":
            return self._copy
        assert x is not None
        return self._integers.of_map(x, plan.expand, expand.weight.shape[1])

    def _zero_rows(self, buffer: Map, vectors: int, first: int, count: int) -> None:
        for j in range(vectors if count else 0):
            place = self._writer.s(buffer.place + j * buffer.vector + first * buffer.row)
            self._writer.fill(place, count * buffer.row)

    def _gated(self, index: int, layers: Gate, kept: Map) -> None:
        """The gate's factors out of the sums."""
        writer, isa = self._writer, self._writer.isa
        squeezed, channels = self._squeezed(index), kept.vectors * isa.lanes
        reducing, widening = scaled(layers.reduce, "exact"), scaled(layers.expand, "exact")
        hidden, expanded = len(reducing.bias), len(widening.bias)
        reduce = np.zeros((channels, squeezed * isa.lanes), np.float32)
        reduce[:expanded, :hidden] = reducing.weight.T / np.float32(kept.pixels)
        widen = np.zeros((hidden, channels), np.float32)
        widen[:, :expanded] = widening.weight.T
        together = min(GROUP, kept.vectors) * isa.lanes
        writer.f.call(
            gate(writer.module, isa, Squeeze(kept.vectors, squeezed, hidden)),
            writer.s(self._totals),
            writer.put(reduce),
            writer.put(padded(reducing.bias, squeezed * isa.lanes)),
            writer.put(np.stack([widen[:, first * isa.lanes :][:, :together] for first in groups(kept.vectors)])),
            writer.put(padded(widening.bias, channels)),
            writer.s(self._hidden),
            writer.s(self._factors),
        )

    def _projected(self, index: int, block: Block, x: Map | None, kept: Map) -> Map:
        """The gate where it belongs, then the projection."""
        writer, plan, isa = self._writer, self._plans[index], self._writer.isa
        channels = len(block.depthwise.bias)
        factors = writer.s(self._factors)
        parts = [(run, run.of(block.project, isa)) for run in plan.project_runs]
        bias = writer.put(padded(block.project.bias, plan.out_vectors * isa.lanes))
        offsets = [bias.at(run.first * isa.bytes) for run, _ in parts]
        offset_bytes = isa.bytes  # of a vector
        if plan.project in WHOLE:
            gates = None if block.gate is None else self._factors
            kept = self._integers.of_swishes(kept, plan.project, channels, self._maxima, self._totals, gates)
            weights = [self._integers.weights(layer, plan.project, run.panel)[0] for run, layer in parts]
            offsets = [
                self._integers.restored(layer, plan.project, run.panel, run.count, run.first) for run, layer in parts
            ]
            offset_bytes *= 2
        elif plan.in_weights:
            weights = [self._scaled_weights(index, run, layer.weight, factors) for run, layer in parts]
        else:
            weights = [writer.put(packed(layer.weight, plan.project, run.panel, isa)) for run, layer in parts]
            if block.gate is not None:
                name = scale_map(writer.module, isa, ScaleMap(kept.element, kept.vectors, kept.pixels))
                writer.f.call(name, writer.s(kept.place), factors)
        writer.mark(f"{index} scale")
        out = self._output(index, self._maps[index % 2])
        added = x if block.residual else None
        if not out.flat:
            writer.fill(writer.s(out.place), out.bytes)
        self._copy = self._half(out, self._copies) if plan.copy else None
        flat = out.flat and (added is None or added.flat)
        height, width = (1, kept.pixels) if flat else (kept.height, kept.width)
        specs = [
            Project(
                channels,
                width,
                height,
                run.panel,
                plan.project,
                width * kept.pixel,
                kept.vector,
                out.row if height > 1 else 0,
                out.vector,
                0 if self._copy is None else self._copy.vector,
                0 if added is None or height == 1 else added.row,
                0 if added is None else added.vector,
            )
            for run in plan.project_runs
        ]
        names = [project(writer.module, isa, spec) for spec in specs]
        for run, name, of_run, offset in zip(plan.project_runs, names, weights, offsets, strict=True):
            size, step = run.panel * self._vector_bytes(index), run.panel * offset_bytes
            with writer.f.loop(run.count) as loop:
                target = self._of_panel(out, run, loop.index)
                copied = target if self._copy is None else self._of_panel(self._copy, run, loop.index)
                added_to = target if added is None else self._of_panel(added, run, loop.index)
                mine = of_run.at(loop.index * size)
                writer.f.call(name, writer.s(kept.place), mine, offset.at(loop.index * step), target, copied, added_to)
        return out

    def _scaled_weights(self, index: int, run: Run, weight: Array, factors: Value) -> Value:
        """The projection's weights for a run of panels, times the gate's factors."""
        writer, plan, isa = self._writer, self._plans[index], self._writer.isa
        steps = steps_of(weight.shape[1], plan.project)
        size = self._vector_bytes(index)
        apart = plan.project == "bf16"
        given = packed_apart(weight, run.panel, isa) if apart else packed(weight, "f32", run.panel, isa)
        name = scale_weights(writer.module, isa, ScaleWeights(plan.project, run.panel))
        source, target = writer.put(given), writer.s(self._scaled + run.first * size)
        with writer.f.loop(run.count) as loop:
            mine = source.at(loop.index * given[0].nbytes)
            writer.f.call(name, mine, factors, target.at(loop.index * (run.panel * size)), steps)
        return target

    def _of_panel(self, found: Map, run: Run, number: Value) -> Value:
        return self._writer.s(found.origin + run.first * found.vector).at(number * (run.panel * found.vector))
