"""From the torch definition to the canonical ONNX graph.

The graph is NCHW, has each BatchNorm folded and each padding inside its convolution, swish as Sigmoid and Mul (which
ONNX Runtime joins to one kernel) and means as GlobalAveragePool (which it runs faster than ReduceMean), and ends at
the last block that an output needs. :func:`export_backbone` checks all of this before it writes.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from bce.engine.errors import ExportError
from bce.export.classes import NO_SIGNAL, ClassMap
from bce.export.commands.options import EMBEDDING, LABEL
from bce.export.heads.checkpoints import FoldMean, HeadCheckpoint
from bce.export.heads.tensorflow_heads import TensorFlowHead, mean_head
from bce.export.perch.architecture import FRAMES, MELS
from bce.export.perch.backbone import ProtoClassifier, build, folded, pooled
from bce.export.perch.weights import Prototypes, Weights

OPSET = 18
"""The newest operator set is not needed; 18 runs wherever ONNX Runtime is 1.14 or newer."""

LOG_MEL, LOGITS = "log_mel", "logits"

ALLOWED_IN_TRUNK = frozenset({"Conv", "Sigmoid", "Mul", "Add", "GlobalAveragePool", "Reshape", "Unsqueeze"})
"""All that the canonical graph is made of, up to the embedding. A Transpose, Pad or BatchNorm is a regression."""


class Outputs(nn.Module):
    """log-mel [batch, 500, 128] -> the chosen block features, then the embedding and the label where wanted."""

    def __init__(self, weights: Weights, blocks: Sequence[int], embedding: bool, classifier: nn.Module | None) -> None:
        super().__init__()
        self.taps = tuple(blocks)
        self.embedding = embedding
        self.classifier = classifier
        self.whole = embedding or classifier is not None
        self.backbone = folded(build(weights))
        if not self.whole:
            self.backbone.blocks = self.backbone.blocks[: max(blocks) + 1]

    def forward(self, log_mel: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone.block_maps(log_mel)
        outputs = [pooled(maps[index]) for index in self.taps]
        if self.whole:
            spatial = self.backbone.head(maps[-1])
            if self.embedding:
                outputs.append(pooled(spatial))
            if self.classifier is not None:
                outputs.append(self.classifier(spatial))
        return tuple(outputs)


class SlicedClassifier(nn.Module):
    """The classifier cut to a taxonomy: spatial embedding -> logits [batch, classes of the taxonomy].

    Only the prototypes that the taxonomy needs are kept, with one more class that has none of its own: zero
    prototypes and a bias of -10 give the constant of the classes without signal. ``places`` [classes, most members]
    says which of these logits each class takes the largest of; rows with fewer members repeat their first.
    """

    def __init__(self, prototypes: Prototypes, class_map: ClassMap) -> None:
        super().__init__()
        needed = class_map.needed
        kept = prototypes.sliced(needed)
        self.logits = ProtoClassifier(
            Prototypes(
                np.pad(kept.vectors, ((0, 0), (0, 1), (0, 0))),
                np.pad(kept.strength, ((0, 1), (0, 0))),
                np.append(kept.bias, np.float32(NO_SIGNAL)),
            )
        )
        most = max(1, *(len(members) for members in class_map.members))
        places = np.full((len(class_map.members), most), len(needed))
        for row, members in zip(places, class_map.members, strict=True):
            if members:
                row[:] = np.searchsorted(needed, members[0])
                row[: len(members)] = np.searchsorted(needed, members)
        self.shape = places.shape
        self.register_buffer("places", torch.from_numpy(places.ravel()))

    def forward(self, spatial: Tensor) -> Tensor:
        return self.logits(spatial).index_select(1, self.places).unflatten(1, self.shape).amax(dim=2)


def export_backbone(
    weights: Weights,
    path: str | os.PathLike[str],
    blocks: Sequence[int],
    outputs: Sequence[str] = ("blocks",),
    class_map: ClassMap | None = None,
) -> tuple[str, ...]:
    """Write the backbone graph: log_mel float32 [batch, 500, 128] -> the outputs, by name.

    Args:
        weights: of the source.
        path: where the ONNX file goes.
        blocks: the blocks whose pooled features are put out, rising; may be empty when "blocks" is not in outputs.
        outputs: any of "blocks", "embedding", "label".
        class_map: cuts ``label`` to a taxonomy; None keeps all classes of the source.

    Returns:
        The names of the outputs in order: ("block_21", "block_24", "block_25", "embedding", "label").

    Raises:
        ExportError: the source has no classifier for ``label``, or the graph is not canonical.
    """
    module, names = definition(weights, blocks, outputs, class_map)
    model = torch_to_onnx(module, torch.zeros(2, FRAMES, MELS), [LOG_MEL], names)
    check_canonical(model, weights, module)
    save(model, path)
    return names


def definition(
    weights: Weights, blocks: Sequence[int], outputs: Sequence[str], class_map: ClassMap | None = None
) -> tuple[Outputs, tuple[str, ...]]:
    """What :func:`export_backbone` exports, as a torch module, with the names of its outputs."""
    taps = tuple(blocks) if "blocks" in outputs else ()
    classifier: nn.Module | None = None
    if LABEL in outputs:
        if weights.prototypes is None:
            raise ExportError("the source has no classifier, so there is no output 'label'")
        if class_map is None:
            classifier = ProtoClassifier(weights.prototypes)
        else:
            classifier = SlicedClassifier(weights.prototypes, class_map)
    names = [weights.architecture.blocks[index].name for index in taps]
    names += [name for name in (EMBEDDING, LABEL) if name in outputs]
    return Outputs(weights, taps, EMBEDDING in outputs, classifier).eval(), tuple(names)


def export_head(folds: Sequence[HeadCheckpoint], path: str | os.PathLike[str]) -> None:
    """Write the head graph: the block features by name, float32 [batch, width] -> ``logits`` [batch, classes].

    Args:
        folds: of one head, see :func:`bce.export.heads.checkpoints.agreeing_folds`; their logits are averaged.
        path: where the ONNX file goes.
    """
    heads: list[Any] = [fold.head for fold in folds if isinstance(fold.head, TensorFlowHead)]
    if heads:
        Path(path).write_bytes(mean_head(heads).SerializeToString())
        return
    example = tuple(torch.zeros(2, width) for width in folds[0].blocks.values())
    module = FoldMean([fold.head for fold in folds])
    save(torch_to_onnx(module, example, list(folds[0].blocks), [LOGITS]), path)


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
    """Write a graph as one file and check it with the ONNX checker, as it stands on disk.

    Raises:
        ExportError: the graph is not valid ONNX, or too large for one file.
    """
    try:
        ir.save(model, path)
        onnx.checker.check_model(os.fspath(path), full_check=True)
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


def check_canonical(model: ir.Model, weights: Weights, module: Outputs) -> None:
    """Refuse a graph that is not the canonical one: the right convolutions, gates and adds, and nothing between.

    Args:
        model: the exported backbone.
        weights: what it was made from.
        module: what was exported.

    Raises:
        ExportError: naming the operator and the counts.
    """
    blocks = weights.architecture.blocks
    if not module.whole:
        blocks = blocks[: max(module.taps) + 1]
    swishes = 1 + sum(2 + (block.expand_ratio > 1) for block in blocks) + module.whole
    expected = {
        "Conv": swishes + 2 * len(blocks),
        "Sigmoid": swishes + len(blocks),
        "BatchNormalization": 0,
        "Pad": 0,
        "ReduceMean": 0,
    }
    found = Counter(node.op_type for node in model.graph)
    for op_type, count in expected.items():
        if found[op_type] != count:
            raise ExportError(f"the exported graph has {found[op_type]} {op_type} nodes, expected {count}")
    trunk = [node for node in model.graph if node.op_type == "Conv"]
    seen: set[ir.Node] = set()
    while trunk:
        node = trunk.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op_type not in ALLOWED_IN_TRUNK:
            raise ExportError(f"the exported graph has a {node.op_type} ({node.name}) among its convolutions")
        trunk.extend(node.predecessors())


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
