"""Strips through the buffer against a simulation of it; panels against all there are; where things lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from support.plain_mbconv import random_layers

from bce.engine.compiled import plan
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Layers, Padding, Pointwise, Spatial
from bce.engine.compiled.maps import Arena, Map
from bce.engine.compiled.plan import EXACT_BLOCKS, elements, panels_of, panels_on, plan_blocks, plan_strips, runs_of
from bce.engine.compiled.targets import IsaName

AVX512 = ISAS["avx512"]
SPEED = {3: 1.0, 2: 0.9, 1: 0.6}
"""Of a tile, by its vectors."""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    kernel=st.sampled_from([1, 3, 5, 8]),
    stride=st.integers(1, 8),
    height=st.integers(1, 60),
    width=st.integers(1, 9),
    padding=st.tuples(*[st.integers(0, 7)] * 4),
    panel=st.integers(1, 3),
    rows=st.integers(0, 70),
)
@example(kernel=3, stride=2, height=8, width=4, padding=(0, 0, 0, 0), panel=1, rows=7)  # the last row is not needed
def test_strips(kernel: int, stride: int, height: int, width: int, padding: Padding, panel: int, rows: int) -> None:
    """Every output sees its rows, in order and once; every input row is expanded once at most."""
    top, left, bottom, right = padding
    assume(max(padding) < kernel >= stride)
    assume(height + top + bottom >= kernel)
    layer = Spatial(np.zeros((1, kernel, kernel), np.float32), np.zeros(1, np.float32), stride, padding)
    height_out, _ = layer.size(height, 99)
    row = (width + left + right) * AVX512.bytes * panel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "BUFFER_BYTES", rows * row)
        size, strips = plan_strips(layer, (height, width), height_out, panel, AVX512)
    assert size <= max(kernel, rows)
    # the rows of the padded map, by number; -1 is a row of zeros, None was never filled
    whole = [-1] * top + list(range(height)) + [-1] * bottom
    buffer: list[int | None] = [None] * size
    buffer[:top] = [-1] * top
    expanded: list[int] = []
    made: list[int] = []
    for strip in strips:
        assert strip.at + strip.count + strip.zeros <= size
        assert strip.made >= 1
        new = range(strip.first, strip.first + strip.count)
        expanded += new
        buffer[strip.at : strip.at + strip.count + strip.zeros] = [*new, *[-1] * strip.zeros]
        assert strip.out == len(made)
        for number in range(strip.made):
            seen = buffer[number * stride : number * stride + kernel]
            first = (strip.out + number) * stride
            assert seen == whole[first : first + kernel]
            made.append(strip.out + number)
        behind = strip.made * stride
        kept = buffer[behind : behind + strip.keep]
        assert len(kept) == strip.keep
        buffer = kept + [None] * (size - strip.keep)
    assert made == list(range(height_out))
    assert expanded == list(range(len(expanded)))
    assert len(expanded) <= height


@pytest.mark.parametrize(("stride", "padding"), [(4, (0, 0, 0, 0)), (1, (9, 0, 0, 0))], ids=["stride", "padding"])
def test_strips_that_cannot_be(stride: int, padding: Padding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather no plan than one that writes beside its buffer."""
    monkeypatch.setattr(plan, "BUFFER_BYTES", 1)
    layer = Spatial(np.zeros((1, 3, 3), np.float32), np.zeros(1, np.float32), stride, padding)
    height_out, _ = layer.size(30, 9)
    with pytest.raises(ValueError, match=f"a stride of {stride} or zeros of"):
        plan_strips(layer, (30, 9), height_out, 1, AVX512)


@given(st.integers(1, 200))
def test_panels(vectors: int) -> None:
    """All vectors, no panel too many, and nothing better among the widths that there are."""
    panel, panels = panels_of(vectors)
    assert panel in (1, 2, 3)
    assert panel * (panels - 1) < vectors <= panel * panels
    times = {wide: -(-vectors // wide) * wide / SPEED[wide] for wide in SPEED}
    assert times[panel] == min(times.values())


@pytest.mark.parametrize(("vectors", "panel"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 3), (8, 2), (9, 3), (48, 3)])
def test_panels_of_common_widths(vectors: int, panel: int) -> None:
    assert panels_of(vectors)[0] == panel


@given(st.integers(1, 200))
def test_runs(vectors: int) -> None:
    """All vectors, each once, no panel too many; one width unless two save a tenth, and then nothing is better."""
    runs = runs_of(vectors)
    panels = [run.panel for run in runs for _ in range(run.count)]
    assert [run.first for run in runs] == [0, *(run.end for run in runs[:-1])]
    assert sum(panels) == runs[-1].end
    assert sum(panels[:-1]) < vectors <= sum(panels)
    assert [run.panel for run in runs] == sorted({run.panel for run in runs}, reverse=True)
    panel, count = panels_of(vectors)
    one_width = count * panel / SPEED[panel]
    # any mixture of two widths, to the panel
    times = [
        wide * a / SPEED[wide] + narrow * b / SPEED[narrow]
        for wide in SPEED
        for narrow in SPEED
        for a in range(vectors // wide + 2)
        for b in [max(0, -(-(vectors - a * wide) // narrow))]
    ]
    time = sum(wide / SPEED[wide] for wide in panels)
    if len(runs) == 1:
        assert (runs[0].panel, runs[0].count) == (panel, count)
        assert min(times) > 0.9 * one_width - 1e-9
    else:
        assert time == pytest.approx(min(times))
        assert time < 0.9 * one_width


@pytest.mark.parametrize(
    ("vectors", "panels"),
    [(2, [2]), (3, [3]), (4, [2, 2]), (5, [3, 2]), (7, [3, 2, 2]), (9, [3, 3, 3]), (15, [3] * 5), (17, [3] * 6)],
)
def test_runs_of_common_widths(vectors: int, panels: list[int]) -> None:
    assert [run.panel for run in runs_of(vectors) for _ in range(run.count)] == panels


def test_a_run_of_a_layer() -> None:
    """Its outputs, up to the last one that there is."""
    weight = np.arange(72 * 2, dtype=np.float32).reshape(72, 2)
    layer = Pointwise(weight, weight[:, 0])
    first, last = (run.of(layer, AVX512) for run in runs_of(5))
    assert (first.weight.tolist(), first.bias.tolist()) == (weight[:48].tolist(), weight[:48, 0].tolist())
    assert (last.weight.tolist(), last.bias.tolist()) == (weight[48:].tolist(), weight[48:, 0].tolist())


@pytest.mark.parametrize(
    ("isa", "pixels", "vectors", "panel"),
    [("avx512", 64, 96, 3), ("avx2", 64, 192, 3), ("avx512", 6, 64, 3), ("avx2", 6, 128, 2), ("avx2", 1, 30, 3)],
)
def test_panels_on_few_pixels(isa: IsaName, pixels: int, vectors: int, panel: int) -> None:
    """Tiles that divide them, rather than the widest."""
    assert panels_on(pixels, vectors, ISAS[isa]) == (panel, -(-vectors // panel))


def with_blocks(count: int, **options: bool) -> Layers:
    return random_layers(np.random.default_rng(count), count, **options)


def test_elements() -> None:
    """In bfloat16 the first blocks stay exact; the head is not a block."""
    layers = with_blocks(6, head=True)
    exact, low = elements(layers, "fp32"), elements(layers, "bf16")
    assert exact.expand == exact.project == ("f32",) * 6
    assert exact.head == "f32"
    assert low.expand == low.project == ("f32",) * EXACT_BLOCKS + ("bf16",) * 3
    assert low.head == "bf16"
    assert elements(with_blocks(6, head=False), "bf16").head == "f32"


@pytest.mark.parametrize("isa", ISAS.values(), ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("seed", range(8))
def test_what_blocks_leave_for_the_next(seed: int, precision: plan.Precision, isa: plan.Isa) -> None:
    """A copy in bfloat16 for a product in it, zeros around for a depthwise convolution, never both."""
    layers = random_layers(np.random.default_rng(seed), 6)
    chosen = elements(layers, precision)
    plans = plan_blocks(layers, chosen, isa)
    for index, (block, made) in enumerate(zip(layers.blocks, plans, strict=True)):
        after = layers.blocks[index + 1] if index < 5 else None
        if after is not None and after.expand is None:
            assert (made.padding, made.copy) == (after.depthwise.padding, False)
        else:
            wanted = chosen.head if after is None else chosen.expand[index + 1]
            assert (made.padding, made.copy) == ((0, 0, 0, 0), wanted == "bf16")
        assert made.vectors * isa.lanes >= len(block.depthwise.bias)
        assert made.out_vectors * isa.lanes >= len(block.project.bias)
        if made.expand == "bf16" and block.expand is not None:
            assert plans[index - 1].copy


def test_a_map() -> None:
    """Strides by the definition of the layout."""
    found = Map(640, 3, 5, 7, "bf16", AVX512, (1, 2, 3, 4), gap=64)
    assert found.pixel == 32
    assert found.row == (7 + 2 + 4) * 32
    assert found.vector == (5 + 1 + 3) * found.row + 64
    assert found.origin == 640 + found.row + 2 * 32
    assert found.bytes == 3 * found.vector
    assert not found.flat
    assert Map(0, 3, 5, 7, "f32", AVX512).flat


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20))
def test_places_do_not_overlap(sizes: list[int]) -> None:
    arena = Arena()
    places = [arena.take(size) for size in sizes]
    ends = [place + size for place, size in zip(places, sizes, strict=True)]
    assert all(place % 64 == 0 for place in places)
    assert all(end <= following for end, following in zip(ends, [*places[1:], arena.bytes], strict=True))
