"""Counts of arithmetic against a plain forward pass that counts what it does; rows of the table; the timed program."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import plain_mbconv
from support.forms import host
from support.int8_bundle import with_int8
from support.plain_mbconv import random_layers, random_relu_layers

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench.kernel_tables import kernels_tables
from bce.bench.kernels import Form, KernelsOptions, _form, _forms
from bce.bench.peaks import Peaks
from bce.bench.stages import OUTPUTS, PARTS, Arithmetic, alike, arithmetic, rows
from bce.engine.compiled.generate import generate
from bce.engine.compiled.lanes import AVX2, AVX512
from bce.engine.compiled.layers import Layers, Pointwise
from bce.engine.compiled.maps import Element
from bce.engine.compiled.timing import Timed
from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path

SEEDS = st.integers(0, 2**32 - 1)
RATES = {"cycles": 4e9, "f32": 1e9, "bf16": 2e9, "i16": 2e9, "i8": 4e9, "rough": 4e8, "exact": 3e8}


def counted(layers: Layers) -> tuple[int, int]:
    """Multiply-adds of all convolutions but the gates', and swishes but theirs, of a plain forward pass."""
    found_gates = [block.gate for block in layers.blocks if block.gate is not None]
    gates = {id(layer) for gate in found_gates for layer in (gate.reduce, gate.expand)}
    squeezed = {len(gate.reduce.bias) for gate in found_gates}
    found = [0, 0]
    pointwise, spatial, swish = plain_mbconv.pointwise, plain_mbconv.spatial, plain_mbconv.swish
    convolved = plain_mbconv.convolved

    def counting_pointwise(layer: Any, x: Any) -> Any:
        found[0] += 0 if id(layer) in gates else layer.weight.size * x[0].size
        return pointwise(layer, x)

    def counting_spatial(layer: Any, x: Any) -> Any:
        out = spatial(layer, x)
        found[0] += out.size * layer.kernel**2
        return out

    def counting_convolved(weight: Any, *rest: Any) -> Any:
        out = convolved(weight, *rest)
        found[0] += out[0].size * weight.size
        return out

    def counting_swish(x: Any) -> Any:
        of_gate = x.shape[1:] == (1, 1) and len(x) in squeezed
        found[1] += 0 if of_gate else x.size
        return swish(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_mbconv, "pointwise", counting_pointwise)
        patch.setattr(plain_mbconv, "spatial", counting_spatial)
        patch.setattr(plain_mbconv, "swish", counting_swish)
        patch.setattr(plain_mbconv, "convolved", counting_convolved)
        plain_mbconv.forward(layers, np.zeros(layers.input_shape))
    return found[0], found[1]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.booleans())
def test_arithmetic_is_what_a_forward_pass_does(seed: int, relu: bool) -> None:
    rng = np.random.default_rng(seed)
    layers = random_relu_layers(rng) if relu else random_layers(rng, shape=(40, 30), prototypes=False)
    if any(size == (1, 1) for sizes in layers.sizes() for size in sizes):
        return  # a map like a gate's mean: the pass cannot tell its swishes apart
    total = sum(arithmetic(layers, "fp32", AVX512).values(), Arithmetic())
    assert (total.f32, total.exact) == counted(layers)
    assert (total.bf16, total.rough) == (0, 0)
    low = sum(arithmetic(layers, "bf16", AVX512).values(), Arithmetic())
    assert (low.multiplications, low.exact + low.rough) == (total.multiplications, total.exact)
    assert (low.bf16 > 0) == (len(layers.blocks) > 3 or layers.head is not None)
    assert (low.rough > 0) == (len(layers.blocks) > 3 or isinstance(layers.head, Pointwise))


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([random_layers, random_relu_layers]))
def test_every_stage_is_in_one_row(seed: int, make: Callable[[np.random.Generator], Layers]) -> None:
    layers = make(np.random.default_rng(seed))
    _, *stages = generate(layers, "fp32", AVX2, clock=True).stages
    table = rows(layers, stages)
    assert sorted(name for parts in table.values() for names in parts.values() for name in names) == sorted(stages)
    assert set(arithmetic(layers, "fp32", AVX512)) <= set(stages)
    assert set(table[OUTPUTS]) == {""}


def test_alike_are_blocks_of_one_shape() -> None:
    layers = random_layers(np.random.default_rng(0), blocks=4)
    groups = list(alike(layers))
    assert [index for group in groups for index in group] == [0, 1, 2, 3]
    shapes = [(len(b.depthwise.bias), size) for b, (size, _) in zip(layers.blocks, layers.sizes(), strict=True)]
    for group in groups:
        assert len({shapes[index] for index in group}) == 1
    assert all(shapes[a[-1]] != shapes[b[0]] for a, b in pairwise(groups))


def test_a_floor_is_all_counts_at_their_peaks() -> None:
    assert Arithmetic(100, 200, 40, 80, 30, 8).floor_s(
        {"f32": 10, "bf16": 20, "i16": 20, "i8": 40, "exact": 3, "rough": 4}
    ) == pytest.approx(36)
    assert Arithmetic(100).floor_s({"f32": 10}) == pytest.approx(10)


def test_parts_of_a_window_are_all_of_it() -> None:
    target = host()
    layers = random_layers(np.random.default_rng(1), blocks=4, head=True)
    timed = Timed(layers, "fp32", target)
    clock = timed.run(np.ones(layers.shape, np.float32))
    assert len(clock) == 1 + len(timed.stages)
    assert np.all(np.diff(clock) >= 0)
    assert clock[-1] > clock[0]
    form = _form(Form("fp32", target, layers), timed.stages, clock[None] / 1e9, RATES)
    parts = [part for row in form["rows"] for part in row["parts"].values()]
    assert sum(part["ms"] for part in parts) == pytest.approx(form["figure"]["median"])
    assert sum(part["floor_ms"] for part in parts) == pytest.approx(form["floor_ms"])
    assert sum(part["multiplications"] for part in parts) == form["multiplications"]
    assert {key for row in form["rows"] for key in row["parts"]} == {*PARTS, ""}


def test_activations_of_int8_are_rough_behind_every_product() -> None:
    """As :attr:`bce.engine.compiled.plan.Elements.rough` says; a head's are as its own product."""
    layers = random_layers(np.random.default_rng(1), blocks=4, head=True)
    chosen: dict[str, Element] = {"2.project": "i8", "3.project": "i16"}
    total = sum(arithmetic(layers, "int8", AVX512, chosen).values(), Arithmetic())
    plain = sum(arithmetic(layers, "fp32", AVX512).values(), Arithmetic())
    head = len(layers.head.bias) * np.prod(list(layers.sizes())[-1][1])
    assert (total.rough, total.exact) == (plain.exact - head, head)
    assert sum(arithmetic(layers, "int8", AVX2, chosen).values(), Arithmetic()).rough == 0
    sizes = [np.prod(size) for _, size in layers.sizes()]
    assert total.i8 == layers.blocks[2].project.weight.size * sizes[2]
    assert total.i16 == layers.blocks[3].project.weight.size * sizes[3]
    assert total.multiplications == plain.multiplications


def test_int8_is_a_form_where_bundle_and_cpu_have_it(tmp_path: Path) -> None:
    target = host()
    options = KernelsOptions(precisions=("int8",), isas=(target.isa,))
    name = f"compiled int8, {target.isa}"
    found, absent = _forms(options, with_int8(tmp_path / "graph", kernels=False, graph=True))
    assert (found, absent) == ([], {name: "has int8 for ONNX Runtime alone"})
    found, absent = _forms(options, Bundle.load(bundle_path()))
    assert not found
    assert "has no int8 backbone, only fp32" in absent[name]
    found, absent = _forms(options, with_int8(tmp_path / "kernels", kernels=True, graph=False))
    if not target.vnni:
        assert (found, absent) == ([], {name: "this CPU has no dot products of whole numbers (AVX512_VNNI, AVX_VNNI)"})
        return
    assert absent == {}
    (form,) = found
    timed = Timed(form.layers, form.precision, form.target, form.chosen)
    clock = timed.run(np.zeros(form.layers.shape, np.float32))
    result = _form(form, timed.stages, clock[None] / 1e9, RATES)
    assert (result["name"], result["precision"]) == (name, "int8")
    count = sum(result["products"].values())
    assert result["products"] == {"f32": 1, "i16": 1, "i8": count - 2}
    assert result["floor_ms"] > 0
    lines = list(kernels_tables({"peaks": [], "forms": [result], "absent": {}}))
    assert lines[-1] == f"{name}: {count - 2} products of bytes, 1 of 16 bits, 1 in float32."


def test_peaks_have_a_rate_for_all_that_is_counted() -> None:
    target = host()
    found = Peaks(target).measure()
    wanted = {"cycles", "f32", "exact"} | ({"rough"} if target.isa == "avx512" else set())
    assert set(found) == wanted | ({"bf16"} if target.bf16 else set()) | ({"i8", "i16"} if target.vnni else set())
    assert min(found.values()) > 0


@pytest.mark.parametrize("wrong", [{"precisions": ("fp16",)}, {"isas": ("neon",)}, {"rounds": 0}, {"windows": 0}])
def test_options_name_what_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match=next(iter(wrong)).removesuffix("s")):
        KernelsOptions(**wrong)
