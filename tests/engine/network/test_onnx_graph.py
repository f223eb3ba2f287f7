"""The reader of ONNX files against the package ``onnx``, and on damaged files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="what is read is compared with onnx")

from onnx import helper, numpy_helper  # noqa: E402
from support import tiny_bundle as tiny  # noqa: E402
from support.mbconv_graph import to_onnx  # noqa: E402
from support.plain_mbconv import random_layers  # noqa: E402

from bce.engine.errors import BundleError  # noqa: E402
from bce.engine.network.default import DEFAULT_BUNDLE  # noqa: E402
from bce.engine.network.mbconv import NotMbconv, read_layers  # noqa: E402
from bce.engine.network.onnx_graph import Graph, Node, Signature, read_graph  # noqa: E402

READ = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
FLOATS = np.array([[0.1, -2.5, 3e-39], [-0.0, 1e38, 7]], np.float32)
WHOLE = np.array([-(2**31), -1, 0, 2**31 - 1], np.int32)
LONG = np.array([-(2**63), -1, 0, 2**63 - 1], np.int64)


def small_graph(seed: int = 3) -> Any:
    return to_onnx(random_layers(np.random.default_rng(seed), 2, shape=(9, 8), channels=(3, 5), prototypes=True))


def written(model: Any, folder: Path) -> Path:
    (folder / "x.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return folder / "x.onnx"


def same_as_onnx(graph: Graph, model: Any) -> None:
    """All that was read is what onnx reads."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type in READ}
    assert set(graph.constants) == set(constants)
    for name, array in constants.items():
        assert graph.constants[name].dtype == array.dtype
        assert graph.constants[name].shape == array.shape
        assert graph.constants[name].tobytes() == array.tobytes()
    assert len(graph.nodes) == len(model.graph.node)
    for node, expected in zip(graph.nodes, model.graph.node, strict=True):
        same_node(node, expected)
    for found, values in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
        assert list(found) == [signature(value) for value in values]
    assert graph.opsets == {opset.domain: opset.version for opset in model.opset_import}


def same_node(node: Node, expected: Any) -> None:
    assert (node.operator, node.domain, node.name) == (expected.op_type, expected.domain, expected.name)
    assert (node.inputs, node.outputs) == (tuple(expected.input), tuple(expected.output))
    values = {a.name: helper.get_attribute_value(a) for a in expected.attribute}
    assert set(node.attributes) == set(values)
    for name, value in values.items():
        found = node.attributes[name]
        if isinstance(value, onnx.TensorProto):
            np.testing.assert_array_equal(found, numpy_helper.to_array(value))
        elif isinstance(value, list) and all(isinstance(number, int) for number in value):
            assert found == tuple(value)
        elif isinstance(value, int | float | bytes):
            assert (type(found), found) == (type(value), value)
        else:
            assert found is None


def signature(value: Any) -> Signature:
    tensor = value.type.tensor_type
    shape = tuple(
        axis.dim_value if axis.WhichOneof("value") == "dim_value" else axis.dim_param for axis in tensor.shape.dim
    )
    return Signature(value.name, tensor.elem_type, shape if tensor.HasField("shape") else None)


def test_the_embedded_graph() -> None:
    path = DEFAULT_BUNDLE / "backbone.onnx"
    same_as_onnx(read_graph(path), onnx.load(path))


def test_the_embedded_head() -> None:
    path = DEFAULT_BUNDLE / "head.onnx"
    same_as_onnx(read_graph(path), onnx.load(path))


@pytest.mark.parametrize("seed", range(5))
def test_graphs_of_random_layers(seed: int, tmp_path: Path) -> None:
    model = to_onnx(random_layers(np.random.default_rng(seed)))
    same_as_onnx(read_graph(written(model, tmp_path)), model)


def test_tensors_in_every_encoding(tmp_path: Path) -> None:
    """Numbers as bytes and as fields, of no axis and of none's size; other types are left out."""
    model = tiny.backbone()
    for number, array in enumerate((FLOATS, WHOLE, LONG, np.float32(3), np.zeros((0, 3), np.float32), np.int64(-7))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"raw {number}"))
        kind = helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
        numbers = np.asarray(array).ravel().tolist()
        model.graph.initializer.append(helper.make_tensor(f"fields {number}", kind, np.shape(array), numbers))
    for array in (FLOATS.astype(np.float64), np.ones(3, np.float16), WHOLE.astype(np.uint8), WHOLE.astype(np.int8)):
        model.graph.initializer.append(numpy_helper.from_array(array, str(array.dtype)))
    graph = read_graph(written(model, tmp_path))
    assert len(graph.constants) == 13
    same_as_onnx(graph, model)


def test_attributes_of_every_kind(tmp_path: Path) -> None:
    model = tiny.backbone()
    node = helper.make_node(
        "Own",
        ["samples", "", "w"],
        ["a", "b"],
        name="näme",
        domain="own.domain",
        whole=-5,
        real=0.1,
        text="NOTSET",
        list=[1, -(2**63), 2**63 - 1],
        reals=[0.5, 2.0],
        texts=["a", "b"],
        tensor=numpy_helper.from_array(FLOATS),
        graph=tiny.head().graph,
    )
    node.attribute.append(helper.make_attribute("none", [], attr_type=onnx.AttributeProto.INTS))
    model.graph.node.append(node)
    graph = read_graph(written(model, tmp_path))
    same_as_onnx(graph, model)
    unread = {name for name, value in graph.nodes[-1].attributes.items() if value is None}
    assert unread == {"reals", "texts", "graph"}


def test_an_attribute_of_a_function_is_not_read(tmp_path: Path) -> None:
    model = tiny.backbone()
    attribute = helper.make_attribute("axis", 1)
    attribute.ref_attr_name = "axis"
    model.graph.node[0].attribute.append(attribute)
    assert read_graph(written(model, tmp_path)).nodes[0].attributes == {"axis": None}


@pytest.mark.parametrize("more", ["functions", "sparse"])
def test_what_is_not_read_is_told(more: str, tmp_path: Path) -> None:
    model = tiny.backbone()
    assert not read_graph(written(model, tmp_path)).more
    if more == "sparse":
        model.graph.sparse_initializer.add().values.name = "s"
    else:
        node = helper.make_node("Tanh", ["x"], ["y"])
        model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))
    assert read_graph(written(model, tmp_path)).more


def test_fields_in_any_order_and_in_pieces(tmp_path: Path) -> None:
    """Protobuf joins the pieces of a message, and numbers come packed or each alone."""
    model = small_graph()
    pieces = []
    for field, values in (("initializer", model.graph.initializer), ("node", model.graph.node)):
        for value in values:
            piece = onnx.ModelProto()
            getattr(piece.graph, field).append(value)
            pieces.append(piece.SerializeToString())
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.node[:], bare.graph.initializer[:]
    content = b"".join([*pieces, bare.SerializeToString()])
    same_as_onnx(read_graph(written(content, tmp_path)), model)
    # dims each alone (field 1), then packed; onnx writes the former
    packed = b"\x0a\x02\x02\x03\x10\x01\x42\x01t\x4a\x18" + FLOATS.tobytes()
    graph = b"\x2a" + bytes([len(packed)]) + packed
    content = b"\x3a" + bytes([len(graph)]) + graph
    np.testing.assert_array_equal(read_graph(written(content, tmp_path)).constants["t"], FLOATS)


def test_numbers_elsewhere_or_twice_are_no_constants(tmp_path: Path) -> None:
    model = tiny.backbone()
    elsewhere, twice = model.graph.initializer.add(), model.graph.initializer.add()
    for tensor in (elsewhere, twice):
        tensor.CopyFrom(numpy_helper.from_array(FLOATS))
    elsewhere.name, elsewhere.data_location = "elsewhere", onnx.TensorProto.EXTERNAL
    twice.name = "twice"
    twice.float_data.extend(FLOATS.ravel().tolist())
    assert set(read_graph(written(model, tmp_path)).constants) == {"w"}


def _another_size(model: Any) -> None:
    model.graph.initializer[0].dims[0] += 1


def _half_a_number(model: Any) -> None:
    model.graph.initializer[0].raw_data += b"\0"


def _below_0(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [-1, -8000, 4]


def _a_name_twice(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _an_attribute_twice(model: Any) -> None:
    model.graph.node[0].attribute.extend([helper.make_attribute("axis", 1), helper.make_attribute("axis", 2)])


def _no_graph(model: Any) -> None:
    model.ClearField("graph")


@pytest.mark.parametrize(
    "damage", [_another_size, _half_a_number, _below_0, _a_name_twice, _an_attribute_twice, _no_graph]
)
def test_a_damaged_graph_is_refused(damage: Any, tmp_path: Path) -> None:
    model = tiny.backbone()
    damage(model)
    with pytest.raises(BundleError, match=r"x\.onnx: is not an ONNX graph, or cut short"):
        read_graph(written(model, tmp_path))


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"y\.onnx: cannot be read \(No such file"):
        read_graph(tmp_path / "y.onnx")
    with pytest.raises(BundleError, match=r"x\.onnx: is not an ONNX graph"):
        read_graph(written(b"", tmp_path))


HEALTHY = small_graph().SerializeToString()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Some bytes changed, a piece cut out or put in, the end gone: layers, or one line that names the file."""
    content = bytearray(HEALTHY)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["change", "change", "cut", "insert", "end"]))
        if how == "change":
            content[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del content[at : at + data.draw(st.integers(1, 30))]
        elif how == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=12))
        else:
            del content[max(1, at) :]
        content = content or bytearray(b"\0")
    path = written(bytes(content), tmp_path)
    with suppress(BundleError, NotMbconv):
        try:
            read_layers(path)
        except (BundleError, NotMbconv) as error:
            line = str(error)
            assert line.startswith(f"{path}: ")
            assert line.isprintable()
            assert len(line) < len(str(path)) + 500
            raise
