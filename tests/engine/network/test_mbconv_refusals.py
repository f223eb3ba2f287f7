"""Graphs that are no canonical MBConv network are refused, by the name of the node that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="graphs are written with onnx")

from onnx import helper, numpy_helper  # noqa: E402
from support import tiny_bundle as tiny  # noqa: E402
from support.mbconv_graph import to_onnx  # noqa: E402
from support.plain_mbconv import random_layers, random_relu_layers  # noqa: E402

from bce.engine.network.mbconv import NotMbconv, read_layers  # noqa: E402


def written(model: Any, folder: Path) -> Path:
    (folder / "x.onnx").write_bytes(model.SerializeToString())
    return folder / "x.onnx"


Change = Callable[[Any], None]


def whole() -> Any:
    """Two blocks, the second with an expansion, a head and a classifier with members."""
    for seed in range(1000):
        layers = random_layers(np.random.default_rng(seed), 2, shape=(20, 15), channels=(5, 6), prototypes=True)
        first, second = layers.blocks
        if first.expand is None and second.expand is not None and second.residual and len(layers.taps) > 2:
            assert layers.prototypes is not None
            if layers.prototypes.members is not None and layers.taps[0].kind == "block" and layers.taps[0].pooled:
                return to_onnx(layers)
    raise AssertionError("no such network")


def nodes(model: Any, operator: str) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == operator]


def operator(name: str, other: str, place: int = 0) -> Change:
    """Another operator in place of one."""

    def change(model: Any) -> None:
        node = nodes(model, name)[place]
        node.op_type = other
        node.name = "odd"

    return change


def attribute(name: str, place: int, key: str, value: Any) -> Change:
    def change(model: Any) -> None:
        node = nodes(model, name)[place]
        node.name = "odd"
        kept = [entry for entry in node.attribute if entry.name != key]
        del node.attribute[:]
        node.attribute.extend([*kept, *([] if value is ... else [helper.make_attribute(key, value)])])

    return change


def constant(name: str, place: int, number: int, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Another constant as an input of a node."""

    def change(model: Any) -> None:
        node = nodes(model, name)[place]
        node.name = "odd"
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[number])
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(make(numpy_helper.to_array(tensor).copy())), tensor.name))

    return change


def source(name: str, place: int, number: int, other: str) -> Change:
    """Another value as an input of a node: that of the first node of another operator."""

    def change(model: Any) -> None:
        node = nodes(model, name)[place]
        node.name = "odd"
        node.input[number] = nodes(model, other)[0].output[0]

    return change


def around_the_gate(model: Any) -> None:
    """The first block's projection takes what comes before the gate."""
    product = nodes(model, "GlobalAveragePool")[0].input[0]
    gated = [node for node in nodes(model, "Mul") if product in node.input][-1]
    (project,) = (node for node in nodes(model, "Conv") if node.input[0] == gated.output[0])
    project.input[0], project.name = product, "odd"


def more(*added: Any) -> Change:
    return lambda model: model.graph.node.extend(added)


def second_user(model: Any) -> None:
    """A value in the middle of a block goes somewhere else too."""
    value = nodes(model, "Sigmoid")[1].output[0]
    model.graph.node.append(helper.make_node("Mul", [value, value], ["elsewhere"], name="odd"))


def inner_output(model: Any) -> None:
    node = nodes(model, "Sigmoid")[1]
    node.name = "odd"
    model.graph.output.append(helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))


def not_finite(array: np.ndarray) -> np.ndarray:
    array.flat[-1] = np.nan
    return array


def other_input(shape: list[Any], kind: int = onnx.TensorProto.FLOAT) -> Change:
    def change(model: Any) -> None:
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape))

    return change


def circle(model: Any) -> None:
    """The first block takes what the last one makes."""
    first, last = nodes(model, "Conv")[1], nodes(model, "Add")[0]
    first.input[0] = last.output[0]


REFUSED: dict[str, tuple[Change, str]] = {
    "another activation": (operator("Sigmoid", "Relu"), r"Relu 'odd' takes 'v1', expected a Sigmoid there"),
    "another activation in a gate": (operator("Sigmoid", "HardSigmoid", 3), "HardSigmoid 'odd' takes"),
    "another operator of a domain": (
        lambda model: setattr(nodes(model, "Sigmoid")[1], "domain", "com.own"),
        r"com\.own\.Sigmoid 'n\d+' takes 'v\d+', expected a Sigmoid there",
    ),
    "another sum": (operator("Add", "Sub"), "Sub 'odd' has no place in one"),
    "another mean": (operator("GlobalAveragePool", "GlobalMaxPool"), "GlobalMaxPool 'odd' takes"),
    "another norm": (operator("ReduceL2", "ReduceL1"), "ReduceL1 'odd' has no place in one"),
    "a dilation": (attribute("Conv", 1, "dilations", [2, 2]), r"'odd' has dilations \[2, 2\], expected \[1, 1\]"),
    "padding that is computed": (
        attribute("Conv", 1, "auto_pad", "SAME_UPPER"),
        "'odd' has auto_pad 'SAME_UPPER', expected 'NOTSET'",
    ),
    "strides that differ": (attribute("Conv", 1, "strides", [1, 2]), "'odd' has strides that are not one number"),
    "strides that are a number": (attribute("Conv", 1, "strides", 1), "'odd' has strides that are not one number"),
    "pads below 0": (attribute("Conv", 1, "pads", [0, 0, -1, 0]), "'odd' has pads that are not four numbers"),
    "a stride above the kernel": (
        attribute("Conv", 1, "strides", [6, 6]),
        r"'odd' has a kernel of \d with stride 6 and .*, no stride above the kernel",
    ),
    "pads of the kernel's size": (
        attribute("Conv", 1, "pads", [0, 0, 0, 5]),
        r"'odd' has a kernel of \d .* and pads \[0, 0, 0, 5\], expected .* pads below it",
    ),
    "a kernel too large": (
        constant("Conv", 1, 1, lambda array: np.zeros((len(array), 1, 12, 12), np.float32)),
        "'odd' has a kernel of 12 with .*, expected at most 11",
    ),
    "a group that is a text": (attribute("Conv", 1, "group", "1"), "'odd' has a group that is no number"),
    "no groups": (attribute("Conv", 1, "group", ...), "'odd' has 1 groups, expected one for each of its"),
    "a stride of a product": (attribute("Conv", 4, "strides", [2, 2]), "'odd' is no pointwise convolution"),
    "a kernel of another shape": (
        attribute("Conv", 1, "kernel_shape", [1, 1]),
        r"'odd' has kernel_shape \[1, 1\], expected \[(3, 3|5, 5)\]",
    ),
    "an unknown attribute": (attribute("Sigmoid", 2, "alpha", 0.5), "'odd' has the unknown attribute 'alpha'"),
    "weights in float64": (
        constant("Conv", 2, 1, lambda array: array.astype(np.float64)),
        "'odd' takes no constant of float32 as input 1",
    ),
    "weights that are not finite": (constant("Conv", 4, 1, not_finite), "'odd' takes numbers that are not finite"),
    "a kernel that is not square": (
        constant("Conv", 1, 1, lambda array: array[:, :, :, :-1]),
        r"'odd' has weights .*, expected a square kernel",
    ),
    "weights for fewer channels": (
        constant("Conv", 4, 1, lambda array: array[:, :-1]),
        r"'odd' has weights for \d+ channels, expected \d+",
    ),
    "a bias of another size": (constant("Conv", 4, 2, lambda array: array[:-1]), r"'odd' takes a constant \[\d\]"),
    "a way around the gate": (around_the_gate, r"nothing takes 'v\d+' of Mul 'n\d+', expected a Conv"),
    "a gate from elsewhere": (source("Conv", 2, 0, "Unsqueeze"), "Conv 'odd' takes 'v0', which another Conv takes"),
    "a residual from elsewhere": (source("Add", 0, 0, "Mul"), "Add 'odd' has no place in one"),
    "a second user": (second_user, "Mul 'odd' (has no place|does not)"),
    "a node beside": (more(helper.make_node("Identity", ["x"], ["y"], name="odd")), "Identity 'odd' has no place"),
    "a circle": (circle, "."),
    "a value that is made twice": (
        more(helper.make_node("Sigmoid", ["v1"], ["v2"], name="odd")),
        "'odd' makes 'v2', which is there already",
    ),
    "an output of the middle": (inner_output, r"Sigmoid 'odd' makes the output '.*', expected a map, its mean"),
    "an output of nothing": (
        lambda model: model.graph.output.append(helper.make_tensor_value_info("z", 1, None)),
        "the graph makes the output 'z'",
    ),
    "a norm over another axis": (constant("ReduceL2", 0, 1, lambda a: a + 1), r"'odd' goes over the axes \[2\]"),
    "a norm whose axis is lost": (attribute("ReduceL2", 0, "keepdims", 0), "'odd' has keepdims 0, expected 1"),
    "a maximum that keeps its axis": (attribute("ReduceMax", 0, "keepdims", 1), "'odd' has keepdims 1, expected 0"),
    "an epsilon of 0": (
        lambda model: constant("Add", len(nodes(model, "Add")) - 2, 1, np.zeros_like)(model),
        "'odd' adds 0.0 to",
    ),
    "a Transpose of other axes": (attribute("Transpose", 0, "perm", [2, 1, 0]), r"'odd' has perm \[2, 1, 0\]"),
    "a Reshape to other rows": (
        constant("Reshape", 0, 1, lambda array: array[::-1].copy()),
        r"'odd' has the shape \[.*\], expected \[",
    ),
    "places outside": (constant("Gather", 0, 1, lambda array: array + 100), "'odd' takes places outside 0"),
    "places below 0": (constant("Gather", 0, 1, lambda array: array - 100), "'odd' takes places outside 0"),
    "places along windows": (attribute("Gather", 0, "axis", ...), "'odd' has axis 0, expected 1"),
    "another version of the operators": (
        lambda model: setattr(model.opset_import[0], "version", 17),
        "it is not written for version 18 of ONNX' operators",
    ),
    "a second input": (
        lambda model: model.graph.input.append(helper.make_tensor_value_info("more", 1, [1])),
        "it has 2 inputs, expected one",
    ),
    "an input of open size": (other_input(["batch", "time", 15]), "its input 'x' is not float32"),
    "an input of four axes": (other_input(["batch", 1, 20, 15]), "Unsqueeze 'n0' takes 'x', expected a Conv there"),
    "an input in float64": (other_input(["batch", 20, 15], onnx.TensorProto.DOUBLE), "its input 'x' is not float32"),
    "an input too small": (other_input(["batch", 2, 15]), "makes a map of 0 x "),
    "an input of another size": (other_input(["batch", 60, 15]), r"Reshape 'n\d+' has the shape"),
    "functions": (
        lambda model: model.functions.append(
            helper.make_function(
                "own",
                "f",
                ["x"],
                ["y"],
                [helper.make_node("Relu", ["x"], ["y"])],
                [helper.make_opsetid("", 18)],
            )
        ),
        "it has functions or sparse tensors",
    ),
}


def test_the_graph_that_is_changed_below_is_one(tmp_path: Path) -> None:
    assert len(read_layers(written(whole(), tmp_path)).blocks) == 2


@pytest.mark.parametrize("name", REFUSED)
def test_other_graphs_are_refused_by_the_name_of_a_node(name: str, tmp_path: Path) -> None:
    change, says = REFUSED[name]
    model = whole()
    change(model)
    with pytest.raises(NotMbconv, match=rf"x\.onnx: is no MBConv network that is known: .*{says}") as error:
        read_layers(written(model, tmp_path))
    assert str(error.value).isprintable()


def with_relu() -> Any:
    """A pooled stem, a block, a head of patches and a dense classifier."""
    return to_onnx(random_relu_layers(np.random.default_rng(3), 1))


RELU: dict[str, tuple[Change, str]] = {
    "another activation behind the stem": (operator("Relu", "Tanh"), "Tanh 'odd' takes 'v0', expected a Relu there"),
    "another activation in front of the head": (operator("Relu", "Tanh", 1), "Tanh 'odd' takes"),
    "another activation behind the head": (operator("Relu", "Tanh", 2), "Tanh 'odd' takes"),
    "means alone": (operator("MaxPool", "AveragePool"), "AveragePool 'odd' takes 'v1', expected a MaxPool there"),
    "pools of three": (attribute("MaxPool", 0, "kernel_shape", [1, 3]), r"'odd' has kernel_shape \[1, 3\], expected"),
    "pools that overlap": (attribute("AveragePool", 0, "strides", [1, 1]), r"'odd' has strides \[1, 1\], expected"),
    "pools with zeros": (attribute("MaxPool", 0, "pads", [0, 1, 0, 1]), r"'odd' has pads \[0, 1, 0, 1\]"),
    "means first": (
        lambda model: nodes(model, "Concat")[0].input.reverse(),
        r"Concat 'n\d+' takes 'v3, v2', expected 'v2, v3'|Concat 'n\d+' takes v3, v2, expected v2, v3",
    ),
    "joined elsewhere": (attribute("Concat", 0, "axis", 2), "'odd' has axis 2, expected 1"),
    "a factor for each position": (
        constant("Mul", -1, 1, lambda array: np.ones((array.shape[0], 2, 1), np.float32)),
        r"'odd' takes a constant .* as input 1, expected",
    ),
    "a head with zeros around": (attribute("Conv", -1, "pads", [1, 1, 1, 1]), r"'odd' has stride 1 and pads \["),
    "a strided head": (attribute("Conv", -1, "strides", [2, 2]), r"'odd' has stride 2 and pads \["),
    "a dense layer the other way": (attribute("Gemm", 0, "transB", 0), "'odd' has transB 0, expected 1"),
    "a dense layer times two": (attribute("Gemm", 0, "alpha", 2.0), r"'odd' has alpha 2\.0, expected 1\.0"),
    "a stem of groups": (attribute("Conv", 0, "group", 2), "'odd' makes a map of"),
    "a stem of long strides": (attribute("Conv", 0, "strides", [9, 9]), r"'odd' has a kernel of .* with stride 9"),
}


@pytest.mark.parametrize("name", RELU)
def test_other_graphs_with_relu_are_refused_by_the_name_of_a_node(name: str, tmp_path: Path) -> None:
    read_layers(written(with_relu(), tmp_path))
    change, says = RELU[name]
    model = with_relu()
    change(model)
    with pytest.raises(NotMbconv, match=rf"x\.onnx: is no MBConv network that is known: .*(?:{says})"):
        read_layers(written(model, tmp_path))


def test_another_epsilon_is_as_good(tmp_path: Path) -> None:
    model = whole()
    constant("Add", len(nodes(model, "Add")) - 2, 1, lambda array: array * 7)(model)
    prototypes = read_layers(written(model, tmp_path)).prototypes
    assert prototypes is not None
    assert prototypes.epsilon > 6e-5


@pytest.mark.parametrize("model", [tiny.backbone, tiny.head])
def test_the_tiny_bundle_is_another_network(model: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(NotMbconv, match=r"its input '\w+' is not float32 \[batch, height, width\]"):
        read_layers(written(model(), tmp_path))


def test_int8_is_refused(small_weights: Any, tmp_path: Path) -> None:
    from bce.engine.compiled.packing import nearest
    from bce.engine.compiled.products import products
    from bce.export.int8.onnx_form import quantize_backbone
    from bce.export.perch.graph import export_backbone

    export_backbone(small_weights, tmp_path / "fp32.onnx", (8,))
    layer = products(read_layers(tmp_path / "fp32.onnx"))["8.expand"]
    quantize_backbone(
        tmp_path / "fp32.onnx", tmp_path / "int8.onnx", {"8.expand": (nearest(layer.weight, 64), layer.bias)}
    )
    with pytest.raises(NotMbconv, match=r"int8\.onnx: is no MBConv network that is known: \w+ '\w+' "):
        read_layers(tmp_path / "int8.onnx")
