"""Whole networks against their definition in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from support.forms import host
from support.guarded import STRIPS
from support.kernel_calls import lanes_of
from support.plain_mbconv import forward, random_pointwise, random_relu_layers, random_spatial
from support.programs import KINDS, RELU_KINDS, Running, an_input, compiled, network, running

from bce.engine.compiled import plan
from bce.engine.compiled.compilation import compile_object
from bce.engine.compiled.emitter import ir_for
from bce.engine.compiled.generate import generate
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Block, Gate, Layers, Tap
from bce.engine.compiled.plan import Precision, elements, plan_blocks
from bce.engine.compiled.targets import TRAVELLING, Target

LIMIT = {"fp32": 1e-5, "bf16": 0.1}
"""Relative L2 of an output: the largest that was seen are a fifth of it."""


def outputs(program: Running, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return program(x, program.program.weights.memory(), program.arena())


def assert_right(layers: Layers, program: Running, precision: Precision) -> list[float]:
    """Every output is near its definition, of two inputs; how near, relative L2."""
    errors = []
    for seed in range(2):
        x = an_input(layers, seed)
        wanted, found = forward(layers, x), outputs(program, x)
        assert [values.shape for values in found] == [values.shape for values in wanted]
        assert all(values.dtype == np.float32 for values in found)
        errors += [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True)]
    assert max(errors) < LIMIT[precision]
    return errors


@pytest.mark.parametrize("kind", [*KINDS, *RELU_KINDS])
def test_exact(target: Target, kind: str) -> None:
    assert_right(network(kind), running(kind, "fp32", target), "fp32")


@pytest.mark.parametrize("kind", ["maps", "deep", "no expansion at last"])
def test_bfloat16(target: Target, kind: str) -> None:
    """Near, but not as near as float32 is."""
    if not target.bf16:
        pytest.skip("no bfloat16 in this form")
    errors = assert_right(network(kind), running(kind, "bf16", target), "bf16")
    assert max(errors) > 5e-4


@pytest.mark.parametrize("seed", range(4))
def test_pooled_stems_patches_and_dense_classifiers(target: Target, seed: int) -> None:
    """Of any sizes, behind blocks with and without gates, in each precision."""
    layers = random_relu_layers(np.random.default_rng(seed))
    for precision in ("fp32", "bf16") if target.bf16 else ("fp32",):
        assert_right(layers, compiled(layers, precision, target), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in strips"])
def test_panels_of_two_widths(
    target: Target, precision: Precision, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expansions to five vectors, projections to five and to seven: with a gate in the weights, in the map and none."""
    if precision == "bf16" and not target.bf16:
        pytest.skip("no bfloat16 in this form")
    lanes, rng, edges = lanes_of(target), np.random.default_rng(0), (1, 1, 1, 1)
    five, seven = 5 * lanes - lanes // 2, 7 * lanes - 1
    stem = replace(random_spatial(rng, 6, 3, 2, (31, 27), 0.3, edges=True), padding=edges)
    blocks, inside = [], 6
    for index, (outside, gated) in enumerate(
        [(five, False), (seven, True), (seven, True), (five, False), (seven, True)]
    ):
        stride = 2 if index > 2 else 1
        blocks.append(
            Block(
                random_pointwise(rng, inside, five, 1.7),
                replace(random_spatial(rng, five, 3, stride, (16, 14), 0.6, edges=True), padding=edges),
                Gate(random_pointwise(rng, five, 3, 1.7), random_pointwise(rng, 3, five, 1.7)) if gated else None,
                random_pointwise(rng, five, outside, 3.4 if gated else 1.7),
                residual=inside == outside,
            )
        )
        inside = outside
    layers = Layers((31, 27), stem, tuple(blocks), (Tap("a", "block", 0, False), Tap("map", "block", 4, False)))
    if not whole:
        monkeypatch.setattr(plan, "BUFFER_BYTES", STRIPS)
    plans = plan_blocks(layers, elements(layers, precision), ISAS[target.isa])
    assert {len(made.runs) for made in plans} == {len(made.project_runs) for made in plans} == {2}
    assert [made.in_weights for made in plans] == [False, True, True, False, False]
    assert all((len(made.strips) == 1) == whole for made in plans[:2])
    assert_right(layers, compiled(layers, precision, target), precision)


def test_no_number_goes_through_relu(target: Target) -> None:
    """An input of none gives none."""
    for seed in range(2):
        layers = random_relu_layers(np.random.default_rng(seed))
        for values in outputs(compiled(layers, "fp32", target), np.full(layers.input_shape, np.nan, np.float32)):
            assert np.isnan(values).all()


@pytest.mark.parametrize(("kind", "precision"), [("classes with members", "fp32"), ("maps", "fp32"), ("deep", "bf16")])
def test_no_number_goes_in_and_none_comes_out(target: Target, kind: str, precision: Precision) -> None:
    """One NaN in the middle of the input is in every output, as its gates take it everywhere; infinity likewise."""
    if precision == "bf16" and not target.bf16:
        pytest.skip("no bfloat16 in this form")
    layers, program = network(kind), running(kind, precision, target)
    x = an_input(layers)
    for spoiled in (np.nan, np.inf):
        x[x.shape[0] // 2, x.shape[1] // 2] = spoiled
        for values in outputs(program, x):
            assert np.isnan(values).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["many rows", "no expansion at first"])
def test_maps_larger_than_the_buffer(
    target: Target, kind: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go through it in strips, which changes nothing."""
    if precision == "bf16" and not target.bf16:
        pytest.skip("no bfloat16 in this form")
    layers = network(kind)
    whole = outputs(running(kind, precision, target), an_input(layers))
    monkeypatch.setattr(plan, "BUFFER_BYTES", STRIPS)
    plans = plan_blocks(layers, elements(layers, precision), ISAS[target.isa])
    assert max(len(made.strips) for made in plans) > 2
    program = compiled(layers, precision, target)
    assert_right(layers, program, precision)
    for values, wanted in zip(outputs(program, an_input(layers)), whole, strict=True):
        assert np.allclose(values, wanted, rtol=1e-4, atol=1e-5)


def test_a_strip_without_the_last_rows(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stride skips a map's last row, and the buffer holds all others: a tile of several rows leaves none out."""
    lanes, rng, none = lanes_of(target), np.random.default_rng(0), (0, 0, 0, 0)
    stem = replace(random_spatial(rng, 5, 3, 2, (17, 9), 0.3, edges=False), padding=none)
    block = Block(
        random_pointwise(rng, 5, lanes, 1.7),
        replace(random_spatial(rng, lanes, 3, 2, (8, 4), 0.6, edges=False), padding=none),
        Gate(random_pointwise(rng, lanes, 2, 1.7), random_pointwise(rng, 2, lanes, 1.7)),
        random_pointwise(rng, lanes, 7, 3.4),
        residual=False,
    )
    layers = Layers((17, 9), stem, (block,), (Tap("map", "block", 0, pooled=False),))
    rows = 7
    monkeypatch.setattr(plan, "BUFFER_BYTES", rows * 4 * 4 * lanes)
    (made,) = plan_blocks(layers, elements(layers, "fp32"), ISAS[target.isa])
    assert (made.panel, made.rows, len(made.strips), made.strips[0].count) == (1, rows, 1, rows)
    assert_right(layers, compiled(layers, "fp32", target), "fp32")


def test_the_text_depends_on_shapes_alone(target: Target) -> None:
    """Another network of the same shapes has the same program, and so the same object code; its weights differ."""
    layers = network("classes with members")
    other = with_other_weights(layers)
    programs = [generate(found, "fp32", ISAS[target.isa]) for found in (layers, other)]
    assert programs[0].text == programs[1].text
    assert programs[0].weights.memory().tobytes() != programs[1].weights.memory().tobytes()
    assert generate(network("maps"), "fp32", ISAS[target.isa]).text != programs[0].text
    # and the one's code runs the other
    program = Running(programs[1], running("classes with members", "fp32", target).code)
    assert_right(other, program, "fp32")


def with_other_weights(layers: Layers) -> Layers:
    """The same shapes, every weight reversed in order."""

    def other(found: object) -> object:
        if isinstance(found, np.ndarray) and found.dtype == np.float32:
            return np.ascontiguousarray(found.reshape(-1)[::-1].reshape(found.shape))
        if isinstance(found, tuple):
            return tuple(other(part) for part in found)
        if hasattr(found, "__dataclass_fields__"):
            return type(found)(**{name: other(getattr(found, name)) for name in found.__dataclass_fields__})
        return found

    changed = other(layers)
    assert isinstance(changed, Layers)
    return changed


@pytest.mark.parametrize("name", TRAVELLING)
def test_every_cpu_has_code(name: str) -> None:
    """Also those that this one cannot run: in each precision that they have."""
    host()
    target = TRAVELLING[name]
    for precision in ("fp32", "bf16") if target.bf16 else ("fp32",):
        program = generate(network("padded stem"), precision, ISAS[target.isa])
        assert compile_object(ir_for(program.text, target.attributes), target).startswith(b"\x7fELF")
