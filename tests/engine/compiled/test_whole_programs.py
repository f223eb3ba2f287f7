"""Networks with products of whole numbers against their definition, product by product, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from support import plain_mbconv, plain_whole
from support.forms import multiplying_bytes
from support.plain_mbconv import random_relu_layers
from support.programs import Running, an_input, network

from bce.engine.compiled import heads, plan
from bce.engine.compiled.compilation import Code, compile_object
from bce.engine.compiled.emitter import ir_for
from bce.engine.compiled.generate import generate
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Layers, Rounded
from bce.engine.compiled.maps import WHOLE, Element
from bce.engine.compiled.plan import elements
from bce.engine.compiled.products import products, with_rounded
from bce.engine.compiled.targets import Target

SAME = 1e-3
"""Relative L2 of an output against the definition. What was seen is 1e-6; a number on the border of two bytes may
become either."""


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swishes whose error is no part of what is compared."""
    for module in (plan, heads):
        monkeypatch.setattr(module, "swish_for", lambda element, isa: "exact")


def compiled(layers: Layers, chosen: dict[str, Element], target: Target) -> Running:
    program = generate(layers, "int8", ISAS[target.isa], chosen=chosen)
    native = compile_object(ir_for(program.text, target.attributes), target)
    return Running(program, Code(native, target, "compiled"))


def outputs(running: Running, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return running(x, running.program.weights.memory(), running.arena())


def distance(found: list[NDArray[np.float32]], wanted: list[NDArray[np.float64]]) -> float:
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("element", WHOLE)
@pytest.mark.parametrize("kind", ["no expansion at first", "no expansion later", "maps", "many rows", "deep"])
def test_all_products(target: Target, kind: str, element: Element) -> None:
    layers = network(kind)
    chosen = dict.fromkeys(products(layers), element)
    running, x = compiled(layers, chosen, multiplying_bytes(target)), an_input(layers)
    defined = plain_whole.forward(layers, x, chosen)
    off = distance(outputs(running, x), defined)
    assert off < SAME
    rounding = distance(defined, plain_mbconv.forward(layers, x))
    assert off < rounding < (1 if element == "i8" else 0.01)


def test_rough_swishes(target: Target) -> None:
    """Behind bytes their error is under that of the bytes."""
    layers = network("many rows")
    chosen = dict.fromkeys(products(layers), "i8")
    running, x = compiled(layers, chosen, multiplying_bytes(target)), an_input(layers)
    defined = plain_whole.forward(layers, x, chosen)
    assert distance(outputs(running, x), defined) < 0.6 * distance(defined, plain_mbconv.forward(layers, x))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("seed", range(3))
def test_some_products(target: Target, seed: int) -> None:
    """Of blocks with and without gates and expansions, heads of patches and dense classifiers; with weights given."""
    rng = np.random.default_rng(seed)
    layers = random_relu_layers(rng)
    chosen: dict[str, Element] = {name: rng.choice(["f32", "i16", "i8"]) for name in products(layers)}
    chosen[list(chosen)[-1]] = "i8"
    given = {
        name: (
            Rounded(
                rng.integers(-127, 128, layer.weight.shape).astype(np.int8),
                rng.uniform(0.3, 1, len(layer.bias)).astype(np.float32) / np.float32(74 * layer.weight.shape[1] ** 0.5),
            ),
            layer.bias + np.float32(0.1),
        )
        for name, layer in products(layers).items()
        if chosen[name] == "i8"
    }
    layers = with_rounded(layers, given)
    running, x = compiled(layers, chosen, multiplying_bytes(target)), an_input(layers)
    assert distance(outputs(running, x), plain_whole.forward(layers, x, chosen)) < SAME


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_no_number_goes_in_and_none_comes_out(target: Target, spoiled: float) -> None:
    layers = network("deep")
    running = compiled(layers, dict.fromkeys(products(layers), "i8"), multiplying_bytes(target))
    x = an_input(layers)
    x[x.shape[0] // 2, x.shape[1] // 2] = spoiled
    for values in outputs(running, x):
        assert np.isnan(values).all()


def test_elements_are_those_that_were_chosen() -> None:
    """What is not named is float32."""
    layers = network("deep")
    chosen: dict[str, Element] = {"3.expand": "i8", "4.project": "i16", "head": "i8"}
    made = elements(layers, "int8", chosen)
    assert made.expand == ("f32", "f32", "f32", "i8", "f32", "f32", "f32")
    assert made.project == ("f32",) * 4 + ("i16", "f32", "f32")
    assert (made.head, made.dense) == ("i8", "f32")
