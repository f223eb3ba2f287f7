"""The rewritten graph against the layers with 8-bit products, and what is in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.mbconv_graph import to_onnx
from support.programs import an_input, network
from torch import Tensor

from bce.engine.compiled.layers import Layers, Pointwise, Rounded
from bce.engine.compiled.packing import nearest
from bce.engine.errors import ExportError
from bce.engine.network.mbconv import NotMbconv
from bce.engine.network.sessions import open_session
from bce.export.int8.forms import integer_product
from bce.export.int8.forward import Forward, Product
from bce.export.int8.onnx_form import quantize_backbone

Rounding = dict[str, tuple[Rounded, np.ndarray]]


def written(layers: Layers, folder: Path) -> Path:
    path = folder / "fp32.onnx"
    path.write_bytes(to_onnx(layers).SerializeToString())
    return path


def roundings(forward: Forward, seed: int = 0) -> Rounding:
    """Of every product: the nearest weights, and a bias that is not the layer's."""
    rng = np.random.default_rng(seed)
    return {
        name: (nearest(layer.weight, 64), (layer.bias + 0.1 * rng.standard_normal(len(layer.bias))).astype(np.float32))
        for name, layer in forward.layers.items()
    }


def run(path: Path, x: np.ndarray) -> dict[str, np.ndarray]:
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def with_ranges_of_the_window(products: Mapping[str, Product]) -> dict[str, Product]:
    """ONNX Runtime looks for the lowest value, whatever it could be."""

    def of(product: Product) -> Product:
        def found(x: Tensor, layer: Pointwise, bound: Tensor | None) -> Tensor:
            return product(x, layer, None)

        return found

    return {name: of(product) for name, product in products.items()}


@pytest.mark.parametrize("kind", ["classes with members", "maps", "deep", "no expansion at first", "patches"])
def test_it_computes_the_layers_with_these_products(kind: str, tmp_path: Path) -> None:
    layers = network(kind)
    forward = Forward(layers)
    rounded = roundings(forward)
    possible = {name: one for name, one in rounded.items() if not (name == "head" and kind == "patches")}
    assert quantize_backbone(written(layers, tmp_path), tmp_path / "int8.onnx", rounded) == len(possible)
    onnx.checker.check_model(onnx.load(tmp_path / "int8.onnx"))
    products = with_ranges_of_the_window({name: integer_product(*one) for name, one in possible.items()})
    for seed in range(3):
        x = an_input(layers, seed)[None]
        wanted = forward.outputs(forward.stem(x), 0, products)
        exact, found = run(tmp_path / "fp32.onnx", x), run(tmp_path / "int8.onnx", x)
        assert list(found) == list(exact)
        for name, values in found.items():
            assert values.shape == exact[name].shape
            error = np.linalg.norm(values.ravel() - wanted[name].numpy().ravel())
            # single values fall to the other side of a step
            assert error < 0.15 * np.linalg.norm(values.ravel() - exact[name].ravel())


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_the_file_holds_exactly_these_numbers(tmp_path: Path) -> None:
    layers = network("classes with members")
    rounded = roundings(Forward(layers))
    source = written(layers, tmp_path)
    quantize_backbone(source, tmp_path / "int8.onnx", rounded)
    arrays, model = tensors(tmp_path / "int8.onnx"), onnx.load(tmp_path / "int8.onnx")
    nodes = [node for node in model.graph.node if node.op_type == "DynamicQuantizeMatMul"]
    assert len(nodes) == len(rounded)
    for node, (weights, bias) in zip(nodes, rounded.values(), strict=True):
        assert arrays[node.input[1]].dtype == np.int8
        assert np.array_equal(arrays[node.input[1]], weights.values.T)
        assert np.array_equal(arrays[node.input[2]], weights.scale)
        assert node.input[3] == ""
        assert np.array_equal(arrays[node.input[4]], bias)
    # float weights that nothing uses are not carried along
    assert set(arrays) == {name for node in model.graph.node for name in node.input} & set(arrays)


@pytest.mark.parametrize("names", [["1.project"], ["1.expand", "label"], ["head"]])
def test_only_what_was_chosen_is_int8(names: list[str], tmp_path: Path) -> None:
    layers = network("classes with members")
    rounded = {name: one for name, one in roundings(Forward(layers)).items() if name in names}
    assert quantize_backbone(written(layers, tmp_path), tmp_path / "int8.onnx", rounded) == len(names)
    kinds = [[node.op_type for node in onnx.load(tmp_path / f"{form}.onnx").graph.node] for form in ("fp32", "int8")]
    for kind in ("Conv", "MatMul"):
        gone = sum((name == "label") == (kind == "MatMul") for name in names)
        assert kinds[1].count(kind) == kinds[0].count(kind) - gone


def test_equal_products_are_told_apart(tmp_path: Path) -> None:
    layers = network("deep")
    alike = next(index for index, block in enumerate(layers.blocks) if block.residual)
    block = layers.blocks[alike]
    layers = replace(layers, blocks=(*layers.blocks[: alike + 1], block, *layers.blocks[alike + 1 :]))
    forward = Forward(layers)
    rounded = {name: one for name, one in roundings(forward).items() if name == f"{alike + 1}.project"}
    assert quantize_backbone(written(layers, tmp_path), tmp_path / "int8.onnx", rounded) == 1
    kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
    before = sum(2 + (block.expand is not None) + 2 * (block.gate is not None) for block in layers.blocks[: alike + 1])
    # the stem's, and in the second of the two blocks the project's place behind its own expand, depthwise and gate
    place = [kind for kind in kinds if kind in ("Conv", "DynamicQuantizeMatMul")].index("DynamicQuantizeMatMul")
    assert place == 1 + before + 1 + (block.expand is not None) + 2 * (block.gate is not None)


def test_without_a_bias_none_is_written(tmp_path: Path) -> None:
    layers = network("classes with members")
    (weights, bias) = roundings(Forward(layers))["label"]
    quantize_backbone(written(layers, tmp_path), tmp_path / "int8.onnx", {"label": (weights, 0 * bias)})
    (node,) = (n for n in onnx.load(tmp_path / "int8.onnx").graph.node if n.op_type == "DynamicQuantizeMatMul")
    assert len(node.input) == 3


def test_a_batch_is_still_free(tmp_path: Path) -> None:
    layers = network("deep")
    quantize_backbone(written(layers, tmp_path), tmp_path / "int8.onnx", roundings(Forward(layers)))
    found = run(tmp_path / "int8.onnx", np.stack([an_input(layers)] * 3))
    alone = run(tmp_path / "int8.onnx", an_input(layers)[None])
    for name, values in found.items():
        assert np.allclose(values, np.repeat(alone[name], 3, axis=0), atol=1e-5 * np.abs(values).max())


def test_without_quantising_the_rewritten_layouts_change_nothing(tmp_path: Path) -> None:
    """The same graph with float32 products in place of the int8 ones: all that is left is rounding."""
    layers = network("deep")
    forward = Forward(layers)
    quantize_backbone(written(layers, tmp_path), tmp_path / "int8.onnx", roundings(forward))
    model = onnx.load(tmp_path / "int8.onnx")
    nodes, arrays = [], []
    for node in model.graph.node:
        if node.op_type != "DynamicQuantizeMatMul":
            nodes.append(node)
            continue
        name = node.input[1].removesuffix("_int8")
        layer, made = forward.layers[name], node.output[0]
        arrays += [
            numpy_helper.from_array(np.ascontiguousarray(layer.weight.T), f"{name} weight"),
            numpy_helper.from_array(np.array(layer.bias), f"{name} bias"),
        ]
        nodes += [
            onnx.helper.make_node("MatMul", [node.input[0], f"{name} weight"], [f"{made} raw"]),
            onnx.helper.make_node("Add", [f"{made} raw", f"{name} bias"], [made]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(arrays)
    onnx.save(model, tmp_path / "float.onnx")
    x = an_input(layers)[None]
    expected, found = run(tmp_path / "fp32.onnx", x), run(tmp_path / "float.onnx", x)
    for name, array in expected.items():
        assert np.linalg.norm(found[name] - array) < 1e-5 * np.linalg.norm(array)


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    layers = network("patches")
    forward, source, out = Forward(layers), written(layers, tmp_path), tmp_path / "int8.onnx"
    rounded = roundings(forward)
    with pytest.raises(ExportError, match="has no product that was chosen"):
        quantize_backbone(source, out, {"head": rounded["head"]})
    with pytest.raises(ExportError, match=r"has no product '99\.expand'"):
        quantize_backbone(source, out, {"99.expand": rounded["dense"]})
    with pytest.raises(ValueError, match=r"weights of 'dense' are not within -64\.\.64"):
        quantize_backbone(source, out, {"dense": (nearest(forward.layers["dense"].weight, 127), rounded["dense"][1])})
    model = onnx.load(source)
    model.graph.node[-1].op_type = "Sigmoid"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(NotMbconv):
        quantize_backbone(tmp_path / "other.onnx", out, rounded)
    assert not out.exists()
