"""An ONNX file as a graph to walk: what makes a value, what uses it, which values are constant, and parts of it.

Opening takes the file's size twice in memory for a moment, and once after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bce.engine.errors import ExportError
from bce.engine.network.onnx_runtime import ort
from bce.engine.network.sessions import open_reference
from bce.export.readers.external_data import load_beside


def load(path: Path) -> tuple[onnx.ModelProto, tuple[Path, ...]]:
    """Read an ONNX file, functions inlined, and the files beside it that hold weights of it.

    Raises:
        ExportError: there is no such file, or it is no ONNX file, or not a whole one.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(1)
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ExportError(f"cannot be read: {error.strerror or error}", path) from None
    except Exception:  # protobuf raises errors of its own implementation
        # an ONNX file starts with its IR version, field 1
        whole = "is cut short or damaged" if start == b"\x08" else "is not an ONNX file"
        raise ExportError(f"{whole}: it cannot be parsed as an ONNX model", path) from None
    if not model.graph.node:
        raise ExportError("is not an ONNX model: it holds no graph", path)
    beside = load_beside(model, path)
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    return model, beside


def evaluate(node: onnx.NodeProto, inputs: Sequence[NDArray[Any] | None], opsets: Any) -> list[NDArray[Any]]:
    """Run one node in numpy, in the precision of its inputs; an absent optional input is None."""
    given = {f"x{i}": array for i, array in enumerate(inputs) if array is not None}
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend("" if array is None else f"x{i}" for i, array in enumerate(inputs))
    graph = helper.make_graph(
        [copy],
        "node",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), None)
            for name, x in given.items()
        ],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in node.output],
    )
    return list(ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, given))


_LARGE = 1 << 20


class OnnxGraph:
    """The nodes that lead to the graph's outputs, with their connections."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value for value in graph.input if value.name not in self.initializers]
        self.outputs = [value.name for value in graph.output]
        self.producer = {name: node for node in graph.node for name in node.output if name}
        self.nodes = self.leading_to(self.outputs)
        self.consumers = Counter(name for node in self.nodes for name in node.input)
        self.consumers.update(self.outputs)
        self.varying = self.depending_on(value.name for value in self.inputs)
        self._constants: dict[str, NDArray[Any] | None] = {}

    def leading_to(self, values: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that values are computed from, in the graph's (topological) order."""
        wanted = set(values)
        nodes = []
        for node in reversed(self.model.graph.node):
            if wanted.intersection(node.output):
                nodes.append(node)
                wanted.update(node.input)
        return nodes[::-1]

    def depending_on(self, values: Iterable[str]) -> set[str]:
        """The values and everything that is computed from them."""
        found = set(values)
        for node in self.nodes:
            if found.intersection(node.input):
                found.update(node.output)
        return found

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a tensor that does not depend on the graph's input, else None."""
        if name in self.varying or not name:
            return None
        if name not in self._constants:
            tensor = self.initializers.get(name)
            if tensor is not None:
                self._constants[name] = numpy_helper.to_array(tensor)
            elif name in self.producer:
                self._constants.update(self._folded(self.producer[name]))
        return self._constants.get(name)

    def _folded(self, node: onnx.NodeProto) -> dict[str, NDArray[Any] | None]:
        inputs = [self.constant(name) for name in node.input]
        if any(array is None for name, array in zip(node.input, inputs, strict=True) if name):
            return dict.fromkeys(node.output)
        try:
            outputs = evaluate(node, inputs, self.model.opset_import)
        except Exception:  # an operator that numpy cannot run here: whoever needs the constant says so
            return dict.fromkeys(node.output)
        return dict(zip(node.output, outputs, strict=True))

    def session(self, outputs: Sequence[str]) -> ort.InferenceSession:
        """ONNX Runtime on the CPU for what leads from the graph's inputs to some values, which become its outputs."""
        nodes = self.leading_to(outputs)
        used = {name for node in nodes for name in node.input}.union(outputs)
        model = onnx.ModelProto(ir_version=self.model.ir_version)
        model.opset_import.extend(self.model.opset_import)
        model.graph.name = "part"
        model.graph.node.extend(nodes)
        model.graph.input.extend(self.inputs)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        large: dict[str, NDArray[Any]] = {}
        for name in used.intersection(self.initializers):
            tensor = self.initializers[name]
            if tensor.ByteSize() < _LARGE:
                model.graph.initializer.append(tensor)
            else:
                # handed over as it lies in memory: serialised it would be there three times more
                large[name] = numpy_helper.to_array(tensor)
                outside = model.graph.initializer.add(name=name, dims=tensor.dims, data_type=tensor.data_type)
                outside.data_location = onnx.TensorProto.EXTERNAL
                outside.external_data.add(key="location", value="memory")
        return open_reference(model.SerializeToString(), large)
