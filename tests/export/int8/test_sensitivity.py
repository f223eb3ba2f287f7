"""Errors of single products and of choices, against networks with other weights in plain numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from support.plain_mbconv import forward as plain
from support.programs import an_input, network

from bce.engine.compiled.layers import Layers, Pointwise
from bce.export.int8.forward import Forward, Product, exact_product
from bce.export.int8.sensitivity import actual, sensitivities

KINDS = ["classes with members", "deep", "patches"]


def inputs(layers: Layers, count: int = 10) -> np.ndarray:
    """More than a batch, of different loudness, one of them silent."""
    found = [an_input(layers, seed) * (1 + seed % 3) for seed in range(count)]
    found[3][:] = 0
    return np.stack(found)


def changed(layer: Pointwise, seed: int, size: float = 0.05) -> Pointwise:
    noise = np.random.default_rng(seed).standard_normal(layer.weight.shape)
    return Pointwise((layer.weight * (1 + size * noise)).astype(np.float32), layer.bias)


def with_product(layers: Layers, name: str, layer: Pointwise) -> Layers:
    """The network with other weights of a product that is no classifier's."""
    if name == "label":
        assert layers.prototypes is not None
        return replace(layers, prototypes=replace(layers.prototypes, vectors=layer.weight.T))
    if name == "dense":
        return replace(layers, dense=layer)
    if name == "head":
        assert layers.head is not None
        if isinstance(layers.head, Pointwise):
            return replace(layers, head=layer)
        out, channels, kernel, _ = layers.head.weight.shape
        weight = layer.weight.reshape(out, kernel, kernel, channels).transpose(0, 3, 1, 2)
        return replace(layers, head=replace(layers.head, weight=weight))
    index, kind = name.split(".")
    blocks = list(layers.blocks)
    blocks[int(index)] = replace(blocks[int(index)], **{kind: layer})
    return replace(layers, blocks=tuple(blocks))


def errors(layers: Layers, other: Layers, x: np.ndarray) -> np.ndarray:
    """The definition, window by window."""
    found, wanted = ([plain(one, window) for window in x] for one in (other, layers))
    worst = np.zeros(len(x))
    for place, tap in enumerate(layers.taps):
        rows, right = (np.stack([outputs[place].ravel() for outputs in run]) for run in (found, wanted))
        if tap.kind in ("label", "dense"):
            below = np.full(len(x), ((right - right.mean(axis=0)) ** 2).sum(axis=1).mean())
        else:
            below = (right**2).sum(axis=1)
        worst = np.maximum(worst, ((rows - right) ** 2).sum(axis=1) / below)
    return worst


def forms(forward: Forward, names: Sequence[str], seed: int) -> tuple[dict[str, Pointwise], Mapping[str, Product]]:
    layers = {name: changed(forward.layers[name], seed + place) for place, name in enumerate(names)}
    return layers, {name: exact_product(layer) for name, layer in layers.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_one_product_alone(kind: str) -> None:
    layers = network(kind)
    forward, x = Forward(layers), inputs(layers)
    some = [name for name in forward.names if not name.startswith("1.")]
    first, second = forms(forward, some, 0), forms(forward, forward.names[:1], 99)
    found = sensitivities(forward, x, {"first": first[1], "second": second[1]})
    assert list(found) == ["first", "second"]
    for element, given in (("first", first[0]), ("second", second[0])):
        assert found[element].shape == (len(forward.names), len(x))
        for place, name in enumerate(forward.names):
            if name not in given:
                assert np.isinf(found[element][place]).all()
                continue
            wanted = errors(layers, with_product(layers, name, given[name]), x)
            assert np.allclose(found[element][place], wanted, rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_several_at_once(kind: str) -> None:
    layers = network(kind)
    forward, x = Forward(layers), inputs(layers)
    given, replaced = forms(forward, forward.names, 5)
    other = layers
    for name, layer in given.items():
        other = with_product(other, name, layer)
    assert np.allclose(actual(forward, x, replaced), errors(layers, other, x), rtol=2e-3, atol=1e-9)
    assert not actual(forward, x, {}).any()


def test_a_product_as_it_is_has_no_error() -> None:
    layers = network("deep")
    forward = Forward(layers)
    every = {name: forward.exact(name) for name in forward.names}
    assert not sensitivities(forward, inputs(layers), {"f32": every})["f32"].any()
