"""What products cost: measured in the kernels, each in every element, or counted where there are none."""

from __future__ import annotations

import numpy as np
import pytest
from support.forms import host
from support.programs import network

from bce.engine.compiled.products import products
from bce.export.int8 import costs


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "ROUNDS", 1)


@pytest.mark.parametrize("kind", ["patches", "no expansion at first"])
def test_every_product_has_its_time(kind: str) -> None:
    if not host().vnni:
        pytest.skip("this CPU multiplies no bytes")
    layers = network(kind)
    found = costs.compiled_costs(layers, np.ones((1, *layers.input_shape), np.float32))
    assert found.measured
    for ms in found.ms.values():
        assert ms.shape == (len(products(layers)),)
        assert (ms > 0).all()
        assert ms.sum() < 100


def test_without_kernels_multiplications_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "host_target", lambda: None)
    layers = network("patches")
    found = costs.compiled_costs(layers, np.ones((1, *layers.input_shape), np.float32))
    assert not found.measured
    sizes = list(layers.sizes())
    for name, exact, whole in zip(products(layers), found.ms["f32"], found.ms["i8"], strict=True):
        assert whole == exact / 4
        block, _, kind = name.partition(".")
        if kind == "project":
            assert exact * 1e6 == pytest.approx(products(layers)[name].weight.size * np.prod(sizes[int(block)][1]))
    assert found.ms["f32"][-1] * 1e6 == pytest.approx(products(layers)["dense"].weight.size)
