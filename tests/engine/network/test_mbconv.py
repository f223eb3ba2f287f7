"""Graphs recognised as layers: run by the plain definition they give ONNX Runtime's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.plain_mbconv import forward, random_layers, random_relu_layers

from bce.engine.compiled.layers import Layers
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.mbconv import NotMbconv, read_layers
from bce.engine.network.onnx_graph import read_graph

onnx = pytest.importorskip("onnx", reason="graphs are written with onnx")

from onnx import helper, numpy_helper  # noqa: E402
from support.mbconv_graph import to_onnx  # noqa: E402


def written(model: Any, folder: Path) -> Path:
    (folder / "x.onnx").write_bytes(model.SerializeToString())
    return folder / "x.onnx"


def agrees_with_onnx_runtime(path: Path, layers: Layers, x: np.ndarray, most: float = 1e-5) -> None:
    """Relative L2 of every output."""
    session = ort.InferenceSession(path)
    (given,) = session.get_inputs()
    assert [tap.name for tap in layers.taps] == [output.name for output in session.get_outputs()]
    expected = session.run(None, {given.name: x[None]})
    for found, (want,) in zip(forward(layers, x), expected, strict=True):
        assert found.shape == want.shape
        assert np.linalg.norm(found - want) <= most * np.linalg.norm(want)


def test_the_embedded_bundle() -> None:
    path = DEFAULT_BUNDLE / "backbone.onnx"
    layers = read_layers(path)
    assert layers.shape == (500, 128)
    assert len(layers.blocks) == 26
    assert [(tap.kind, tap.block, tap.pooled) for tap in layers.taps] == [("block", i, True) for i in (21, 24, 25)]
    assert (layers.head, layers.prototypes) == (None, None)
    x = np.random.default_rng(0).uniform(-1.15, 0.2, layers.shape).astype(np.float32)
    agrees_with_onnx_runtime(path, layers, x)


@pytest.mark.parametrize(
    ("outputs", "members"),
    [(("blocks", "embedding", "label"), ((7,), (), (0, 3, 11), (3,), ())), (("label",), None)],
    ids=["everything, cut to a taxonomy", "logits of all classes"],
)
def test_exported_graphs(outputs: tuple[str, ...], members: Any, small_weights: Any, tmp_path: Path) -> None:
    from bce.engine.taxonomy import Taxonomy
    from bce.export.classes import ClassMap
    from bce.export.perch.graph import export_backbone

    labels = [f"c{index}" for index in range(len(members or ()))]
    class_map = members and ClassMap(
        Taxonomy.from_columns({"primary_label": labels, "scientific_name": labels}), members
    )
    path = tmp_path / "backbone.onnx"
    export_backbone(small_weights, path, (5, 25), outputs, class_map)
    layers = read_layers(path)
    architecture = small_weights.architecture
    assert [block.residual for block in layers.blocks] == [block.residual for block in architecture.blocks]
    assert [block.expand is None for block in layers.blocks] == [b.expand_ratio == 1 for b in architecture.blocks]
    assert [tuple(sizes) for sizes in layers.sizes()] == [(b.in_size, b.out_size) for b in architecture.blocks]
    assert layers.head is not None
    assert layers.prototypes is not None
    assert layers.prototypes.epsilon == np.float32(1e-5)
    assert (layers.prototypes.members is None) == (members is None)
    x = np.random.default_rng(1).uniform(-1.15, 0.2, layers.shape).astype(np.float32)
    agrees_with_onnx_runtime(path, layers, x)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), make=st.sampled_from([random_layers, random_relu_layers]))
def test_random_layers_are_read_as_they_are(seed: int, make: Any, tmp_path: Path) -> None:
    """Maps and means, any order of outputs, odd shapes; in any order of the nodes."""
    rng = np.random.default_rng(seed)
    layers = make(rng)
    model = to_onnx(layers)
    path = written(model, tmp_path)
    found = read_layers(path)
    same(found, layers)
    x = rng.standard_normal(layers.input_shape).astype(np.float32)
    # a mean of one channel or two may lie close to 0, where float32 is farther off than in a whole network
    agrees_with_onnx_runtime(path, found, x, most=1e-4)
    assert all(output.dtype == np.float32 for output in forward(found, x, np.float32))
    nodes = [model.graph.node[place] for place in rng.permutation(len(model.graph.node))]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    same(read_layers(written(model, tmp_path)), layers)


def joined_in_two_steps(model: Any) -> None:
    """The dense layer as a product and a sum."""
    (gemm,) = (node for node in model.graph.node if node.op_type == "Gemm")
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == gemm.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    place = list(model.graph.node).index(gemm)
    product = helper.make_node("MatMul", gemm.input[:2], ["product"])
    total = helper.make_node("Add", ["product", gemm.input[2]], gemm.output)
    del model.graph.node[place]
    model.graph.node.insert(place, total)
    model.graph.node.insert(place, product)


def flattened(model: Any) -> None:
    """Means flattened, not reshaped."""
    for node in model.graph.node:
        if node.op_type == "Reshape":
            node.op_type = "Flatten"
            del node.input[1]
            node.attribute.append(helper.make_attribute("axis", 1))


def of_four_axes(model: Any) -> None:
    """Numbers for channels with an axis for the batch."""
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 3:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[None], tensor.name))


def turned_around(model: Any) -> None:
    """Such numbers before the map."""
    three = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 3}
    for node in model.graph.node:
        if three & set(node.input):
            node.input[:] = node.input[::-1]


@pytest.mark.parametrize("change", [joined_in_two_steps, flattened, of_four_axes, turned_around])
def test_other_forms_of_the_same_network(change: Any, tmp_path: Path) -> None:
    some = (random_relu_layers(np.random.default_rng(seed)) for seed in range(100))
    layers = next(found for found in some if all(tap.pooled for tap in found.taps))
    model = to_onnx(layers)
    before = model.SerializeToString()
    change(model)
    assert model.SerializeToString() != before
    path = written(model, tmp_path)
    found = read_layers(path)
    same(found, layers)
    x = np.random.default_rng(0).standard_normal(layers.input_shape).astype(np.float32)
    agrees_with_onnx_runtime(path, found, x, most=1e-4)


def same(one: Any, other: Any) -> None:
    """Two of the dataclasses, array by array."""
    if isinstance(other, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(other, tuple):
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif hasattr(other, "__dataclass_fields__"):
        assert type(one) is type(other)
        for name in other.__dataclass_fields__:
            same(getattr(one, name), getattr(other, name))
    else:
        assert one == other


def test_weights_are_views_of_the_file() -> None:
    """No second copy of them: what is large owns no memory."""
    for name, array in read_graph(DEFAULT_BUNDLE / "backbone.onnx").constants.items():
        assert not array.flags.owndata, name
    layers = read_layers(DEFAULT_BUNDLE / "backbone.onnx")
    assert not layers.blocks[25].project.weight.flags.owndata
    assert not layers.blocks[25].project.weight.flags.writeable


OPERATORS = (
    *("Sigmoid", "Relu", "Mul", "Add", "Sub", "Conv", "GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "Tanh"),
    *("MaxPool", "AveragePool", "Gemm", "MatMul", "Flatten"),
)


def changed(rng: np.random.Generator, model: Any) -> None:
    """One thing of a graph becomes another: who feeds whom, an operator, an attribute, a constant, an output."""
    graph = model.graph
    values = ["x", *(node.output[0] for node in graph.node), *(tensor.name for tensor in graph.initializer)]
    node = graph.node[rng.integers(len(graph.node))]
    tensor = graph.initializer[rng.integers(len(graph.initializer))]
    how = rng.integers(7)
    if how == 0:
        node.input[rng.integers(len(node.input))] = rng.choice(values)
    elif how == 1:
        node.op_type = rng.choice(OPERATORS)
    elif how == 2 and node.attribute:
        attribute = node.attribute[rng.integers(len(node.attribute))]
        if attribute.ints:
            attribute.ints[rng.integers(len(attribute.ints))] = rng.integers(-1, 4)
        else:
            attribute.i = rng.integers(-1, 6)
    elif how == 3 and node.attribute:
        del node.attribute[rng.integers(len(node.attribute))]
    elif how == 4:
        array = numpy_helper.to_array(tensor)
        array = array + rng.integers(-2, 3) if array.dtype == np.int64 else array.reshape(array.shape[::-1])
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif how == 5:
        node.input.extend([node.input.pop(0)])
    else:
        graph.output[rng.integers(len(graph.output))].name = rng.choice(values)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), with_relu=st.booleans())
def test_what_is_not_refused_gives_the_numbers_of_onnx_runtime(seed: int, with_relu: bool, tmp_path: Path) -> None:
    """A graph with one change is another network or the same one; never is it taken for one that it is not."""
    rng = np.random.default_rng(seed)
    if with_relu:
        layers = random_relu_layers(rng, 1)
    else:
        layers = random_layers(rng, 1, shape=(9, 8), channels=(2, 3, 4))
    model = to_onnx(layers)
    changed(rng, model)
    path = written(model, tmp_path)
    try:
        found = read_layers(path)
    except NotMbconv:
        return
    agrees_with_onnx_runtime(path, found, rng.standard_normal(layers.input_shape).astype(np.float32), most=1e-4)
