"""The layers on batches against ONNX Runtime and numpy, and what is handed out of them and replaced in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.mbconv_graph import to_onnx
from support.plain_mbconv import forward as plain
from support.plain_mbconv import swish
from support.programs import KINDS, RELU_KINDS, an_input, network
from torch import Tensor

from bce.engine.compiled.layers import Layers, Pointwise
from bce.engine.compiled.products import products
from bce.engine.network.sessions import open_session
from bce.export.int8.forward import LABEL, SWISH_MINIMUM, Forward, Product, batches, captured, joined


def inputs(layers: Layers, count: int = 3) -> np.ndarray:
    return np.stack([an_input(layers, seed) for seed in range(count)])


def near(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted))


@pytest.mark.parametrize("kind", [*KINDS, *RELU_KINDS])
def test_outputs_are_those_of_onnx_runtime(kind: str, tmp_path: object) -> None:
    layers = network(kind)
    forward, x = Forward(layers), inputs(layers)
    (tmp_path / "x.onnx").write_bytes(to_onnx(layers).SerializeToString())  # type: ignore[operator]
    names = [tap.name for tap in layers.taps]
    wanted = dict(zip(names, open_session(tmp_path / "x.onnx").run(names, {"x": x}), strict=True))  # type: ignore[operator]
    found = joined(forward.outputs(forward.stem(part), 0) for part in batches(x, 2))
    assert list(found) == names
    for name, array in wanted.items():
        assert near(found[name].numpy(), array.reshape(len(x), -1))


@pytest.mark.parametrize("kind", ["classes with members", "deep", "patches"])
def test_a_run_from_any_block_ends_the_same(kind: str) -> None:
    layers = network(kind)
    forward, x = Forward(layers), inputs(layers)
    states = forward.states(x)
    assert len(states) == forward.blocks + 1 == len(layers.blocks) + 1
    whole = forward.outputs(states[0], 0)
    for start, state in enumerate(states):
        behind = {tap.name for tap in layers.taps if tap.kind != "block" or tap.block >= start}
        found = forward.outputs(state, start)
        assert set(found) == behind
        assert all(torch.equal(found[name], whole[name]) for name in behind)


def test_products_have_the_names_and_weights_that_the_engine_gives_them() -> None:
    for kind in ("classes with members", "patches"):
        layers = network(kind)
        forward, known = Forward(layers), products(layers)
        assert forward.names == (*known, *([LABEL] if layers.prototypes is not None else []))
        assert all(np.array_equal(forward.layers[name].weight, known[name].weight) for name in known)
        for name in forward.names:
            assert forward.block_of(name) == (int(name.split(".")[0]) if "." in name else len(layers.blocks))
    with pytest.raises(KeyError):
        forward.block_of("9999.expand")


@pytest.mark.parametrize("kind", ["classes with members", "patches", "pooled stem"])
def test_products_of_the_inputs_that_are_handed_out(kind: str) -> None:
    """In numpy, with each product's own weights: what stands behind it is what the network goes on with."""
    layers = network(kind)
    forward, x = Forward(layers), inputs(layers)
    seen: dict[str, np.ndarray] = {}
    captured(forward, x, lambda name, given: seen.update({name: given.numpy().copy()}))
    assert tuple(seen) == forward.names
    made = {
        name: seen[name].astype(np.float64) @ layer.weight.T.astype(np.float64) + layer.bias
        for name, layer in forward.layers.items()
    }
    outputs = {tap.name: values for tap, values in zip(layers.taps, plain_outputs(layers, x), strict=True)}
    for tap in layers.taps:
        if tap.kind == "dense":
            assert near(made["dense"][:, 0], outputs[tap.name])
        if tap.kind == "embedding":
            head = swish(made["head"]) if isinstance(layers.head, Pointwise) else np.maximum(made["head"], 0)
            assert near(head.mean(axis=1) if tap.pooled else head.swapaxes(1, 2).reshape(len(x), -1), outputs[tap.name])
        if tap.kind == "label":
            assert np.abs(np.linalg.norm(seen["label"], axis=2) - 1).max() < 1e-3


def plain_outputs(layers: Layers, x: np.ndarray) -> list[np.ndarray]:
    rows = [[values.reshape(-1) for values in plain(layers, one)] for one in x]
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("kind", ["deep", "patches"])
def test_the_lowest_values_that_the_kernels_assume(kind: str) -> None:
    """Only behind swishes, below every value, and as low as the window's own gate allows."""
    layers = network(kind)
    forward, bounds = Forward(layers), dict[str, np.ndarray]()

    def telling(name: str) -> Product:
        def told(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
            if bound is not None:
                assert bound.shape == (len(x),)
                assert (x.amin(dim=(1, 2)) >= bound - 1e-6).all()
                bounds[name] = bound.numpy()
            return forward.exact(name)(x, layer, bound)

        return told

    forward.outputs(forward.stem(inputs(layers)), 0, {name: telling(name) for name in forward.names})
    assert set(bounds) == {name for name in forward.names if name.endswith("project")}
    for name, bound in bounds.items():
        if layers.blocks[forward.block_of(name)].gate is None:
            assert np.allclose(bound, SWISH_MINIMUM)
        else:
            assert ((bound < 0) & (bound > SWISH_MINIMUM)).all()
    line = np.linspace(-2, 0, 100_001)
    assert (line / (1 + np.exp(-line))).min() == pytest.approx(SWISH_MINIMUM, abs=1e-8)


def test_only_what_is_replaced_changes() -> None:
    layers = network("deep")
    forward, x = Forward(layers), inputs(layers)
    state, name = forward.stem(x), "2.project"
    same = forward.outputs(state, 0)

    def twice(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
        return 2 * forward.exact(name)(x, layer, bound)

    found = forward.outputs(state, 0, {name: twice})
    for tap in layers.taps:
        before = tap.kind == "block" and tap.block < 2
        assert torch.equal(found[tap.name], same[tap.name]) == before
