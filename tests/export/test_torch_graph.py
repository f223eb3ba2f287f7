"""What is done to every graph that torch exports, on small graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need the extra bce[export]")

import onnx_ir as ir  # noqa: E402
import onnxruntime as ort  # noqa: E402

from bce.engine.errors import ExportError  # noqa: E402
from bce.export import torch_graph  # noqa: E402


def mean_model(axes: list[int], keepdims: int, opset: int = 18) -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["": {opset}]>
    g (float[n,3,4,5] x) => (y) <int64[{len(axes)}] axes = {{{",".join(map(str, axes))}}}>
    {{ y = ReduceMean <keepdims={keepdims}> (x, axes) }}"""
    return ir.from_onnx_text(text)


@pytest.mark.parametrize(
    ("axes", "keepdims", "pooled"), [([2, 3], 1, True), ([-1, -2], 1, True), ([2, 3], 0, False), ([1, 2], 1, False)]
)
def test_means_over_the_map_become_pools(axes: list[int], keepdims: int, pooled: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    model = mean_model(axes, keepdims)
    result = torch_graph.MeanToPool()(model)
    assert result.modified == pooled
    assert [node.op_type for node in model.graph] == ["GlobalAveragePool" if pooled else "ReduceMean"]
    found = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(found, x.mean(axis=tuple(axes), keepdims=bool(keepdims)), atol=1e-6)


def test_older_means_are_refused() -> None:
    with pytest.raises(ir.passes.PreconditionError):
        torch_graph.MeanToPool()(mean_model([2, 3], 1, opset=17))


def test_a_graph_that_is_not_valid_leaves_no_file(tmp_path: Path) -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 18]>
    g (float[n,3] x) => (float[n,3] y) { y = NoSuchOperator (x) }""")
    (tmp_path / "a.onnx").write_bytes(b"of before")
    with pytest.raises(ExportError, match="not valid ONNX"):
        torch_graph.save(model, tmp_path / "a.onnx")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.onnx", b"of before")]


def test_one_thread_is_given_back() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with torch_graph.one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before
