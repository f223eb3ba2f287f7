"""Torch modules as ONNX graphs, without traces of the machine they were exported on; and torch on one thread."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from bce.engine.errors import ExportError
from bce.engine.files import beside

OPSET = 18
"""The newest operator set is not needed; 18 runs wherever ONNX Runtime is 1.14 or newer."""


def torch_to_onnx(
    module: nn.Module, example: Tensor | tuple[Tensor, ...], input_names: Sequence[str], output_names: Sequence[str]
) -> ir.Model:
    """Export a module with a dynamic first axis ("batch"), quietly, and without traces of the machine it ran on.

    Args:
        module: takes one argument: a tensor, or a tuple of tensors.
        example: such an argument, with a batch of at least 2 (torch would fix 0 and 1).
        input_names: a name for each tensor of the argument.
        output_names: a name for each output.
    """
    batch = {0: torch.export.Dim("batch", min=1)}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            optimize=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=(batch if isinstance(example, Tensor) else tuple(batch for _ in example),),
        )
    assert program is not None
    model = program.model
    for node in model.graph:
        _clear(node)
        for value in node.outputs:
            _clear(value)
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        _clear(value)
    _clear(model)
    _clear(model.graph)
    MeanToPool()(model)
    model.producer_name, model.producer_version = "bce", None
    return model


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a graph as one file, and check it with the ONNX checker as it stands on disk before it gets its name.

    Raises:
        ExportError: the graph is not valid ONNX, or too large for one file.
    """
    try:
        with beside(path) as partial:
            ir.save(model, partial)
            onnx.checker.check_model(os.fspath(partial), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the exported graph is not valid ONNX ({str(error).splitlines()[0]})", path) from error


class MeanToPool(ir.passes.InPlacePass):
    """ReduceMean over the two map axes, kept as 1 x 1, becomes GlobalAveragePool."""

    def requires(self, model: ir.Model) -> None:
        opset = model.opset_imports.get("", 0)
        if opset < 18:
            raise ir.passes.PreconditionError(f"ReduceMean has its axes as an input from opset 18 on, this is {opset}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if node.op_type == "ReduceMean" and _is_map_mean(node)]
        for node in nodes:
            pool = ir.node("GlobalAveragePool", [node.inputs[0]], name=node.name)
            mean = node.outputs[0]
            pool.outputs[0].name, pool.outputs[0].shape, pool.outputs[0].type = mean.name, mean.shape, mean.type
            ir.convenience.replace_nodes_and_values(model.graph, node, [node], [pool], [mean], [pool.outputs[0]])
        RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(nodes))

    def ensures(self, model: ir.Model) -> None:
        left = [node.name for node in model.graph if node.op_type == "ReduceMean" and _is_map_mean(node)]
        if left:
            raise ir.passes.PostconditionError(f"means that are no GlobalAveragePool: {left}")


def _is_map_mean(node: ir.Node) -> bool:
    """Whether a ReduceMean is over the last two of four axes, which it keeps."""
    source = node.inputs[0]
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if source is None or source.shape is None or len(source.shape) != 4 or axes is None or axes.const_value is None:
        return False
    return sorted(int(axis) % 4 for axis in axes.const_value.numpy()) == [2, 3] and (
        node.attributes.get_int("keepdims", 1) == 1
    )


def _clear(thing: Any) -> None:
    """Drop what torch notes about a part of the graph: source lines and paths of the machine."""
    thing.metadata_props.clear()
    thing.doc_string = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks (progress, missing torchvision, deprecations) from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: its threads wait for each other by spinning, which on a busy machine takes minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
