"""From the torch definition to the canonical ONNX graph.

The graph is NCHW, has each BatchNorm folded and each padding inside its convolution, swish as Sigmoid and Mul (which
ONNX Runtime joins to one kernel) and means as GlobalAveragePool (which it runs faster than ReduceMean), and ends at
the last block that an output needs. :func:`export_backbone` checks all of this before it writes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bce.engine.errors import ExportError
from bce.engine.frontends.perch import INPUT
from bce.export.classes import NO_SIGNAL, ClassMap
from bce.export.perch.architecture import BLOCKS, EMBEDDING, FRAMES, LABEL, MELS, Architecture
from bce.export.perch.backbone import ProtoClassifier, build, folded, pooled
from bce.export.perch.weights import Prototypes, Weights
from bce.export.torch_graph import save, torch_to_onnx

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
    outputs: Sequence[str] = (BLOCKS,),
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
    model = torch_to_onnx(module, torch.zeros(2, FRAMES, MELS), [INPUT], names)
    check_canonical(model, weights, module)
    save(model, path)
    return names


def definition(
    weights: Weights, blocks: Sequence[int], outputs: Sequence[str], class_map: ClassMap | None = None
) -> tuple[Outputs, tuple[str, ...]]:
    """What :func:`export_backbone` exports, as a torch module, with the names of its outputs."""
    taps = tuple(blocks) if BLOCKS in outputs else ()
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


def output_widths(architecture: Architecture, outputs: Sequence[str], classes: int) -> dict[str, int]:
    """The width of each output of a backbone graph by name, in the given order; ``classes`` is that of the label."""
    known = {block.name: block.out_channels for block in architecture.blocks}
    known |= {EMBEDDING: architecture.head_channels, LABEL: classes}
    return {name: known[name] for name in outputs}
