"""What tf2onnx writes, made plain: blocks as inputs in order, logits as the output, ONNX's own operators only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bce.engine.errors import ExportError
from bce.engine.network.bundle import LOGITS
from bce.export.heads.tensorflow_opening import OPSET, block_name


def canonical(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, int], int]:
    """The graph with blocks as inputs in order, "logits" as its output, any batch, and ONNX's operators only.

    Returns:
        The graph, the blocks' widths, and the number of classes.

    Raises:
        ExportError: an operator is not ONNX's, or inputs and outputs are not features and logits.
    """
    nodes = [new for node in model.graph.node for new in _known(node)]
    for node in nodes:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            raise ExportError(f"tf2onnx cannot convert the operator {node.op_type} (node '{node.name}')")
        if node.domain not in ("", "ai.onnx"):
            raise ExportError(f"it needs the operator {node.op_type} of '{node.domain}', which is not ONNX's")
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {block_name(value.name): value for value in model.graph.input if value.name not in constants}
    order = sorted(inputs, key=lambda name: int(name.removeprefix("block_")))
    if len(model.graph.output) != 1:
        raise ExportError(f"expected one output, the logits, found {len(model.graph.output)}")
    (output,) = model.graph.output
    widths = {name: _width(name, inputs[name]) for name in order}
    classes = _width(LOGITS, output)
    new_names = {inputs[name].name: name for name in order} | {output.name: LOGITS}
    for node in nodes:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.output[:] = [new_names.get(name, name) for name in node.output]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", w]) for n, w in widths.items()],
        [helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, ["batch", classes])],
        model.graph.initializer,
    )
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="bce")
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"what tf2onnx wrote is not valid ONNX ({str(error).splitlines()[0]})") from None
    return result, widths, classes


def _width(name: str, value: onnx.ValueInfoProto) -> int:
    dims = value.type.tensor_type.shape.dim
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or len(dims) != 2 or not dims[1].dim_value:
        shown = [d.dim_value or "?" for d in dims]
        raise ExportError(f"{name}: expected float32 [batch, numbers], found {shown}")
    return int(dims[1].dim_value)


def _known(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A node, or several that say the same in ONNX where tf2onnx leaves TensorFlow's own name."""
    if node.op_type == "Erfc":
        return _composed(node, [("Erf", ["x"], "erf"), ("Sub", [1.0, "erf"], "y")])
    if node.op_type == "TFL_GELU":
        approximate = any(a.name == "approximate" and a.i for a in node.attribute)
        if not approximate:
            steps: list[tuple[str, list[str | float], str]] = [
                ("Mul", ["x", 0.5**0.5], "scaled"),
                ("Erf", ["scaled"], "erf"),
                ("Add", ["erf", 1.0], "opening"),
                ("Mul", ["x", 0.5], "half"),
                ("Mul", ["half", "opening"], "y"),
            ]
            return _composed(node, steps)
    return [node]


def _composed(node: onnx.NodeProto, steps: Sequence[tuple[str, Sequence[str | float], str]]) -> list[onnx.NodeProto]:
    """Nodes for steps of (operator, inputs, output), where "x" and "y" are the node's own and numbers are constants."""
    (result,) = node.output
    names = {"x": node.input[0], "y": result}
    nodes = []
    for op_type, operands, output in steps:
        inputs = []
        for operand in operands:
            if isinstance(operand, float):
                inputs.append(f"{result}/{output}/{operand:g}")
                number = numpy_helper.from_array(np.float32(operand), inputs[-1])
                nodes.append(helper.make_node("Constant", [], [inputs[-1]], value=number))
            else:
                inputs.append(names.setdefault(operand, f"{result}/{operand}"))
        nodes.append(helper.make_node(op_type, inputs, [names.setdefault(output, f"{result}/{output}")]))
    return nodes
