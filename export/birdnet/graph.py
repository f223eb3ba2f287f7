"""From the torch definition to the canonical ONNX graph: NCHW, paddings inside of convolutions, means as pools."""

from __future__ import annotations

import os
from collections import Counter

import onnx_ir as ir
import torch

from bce.engine.errors import ExportError
from bce.engine.frontends.birdnet import INPUT, SHAPE
from bce.export.birdnet.architecture import BLOCKS, EMBEDDING, EMBEDDING_CHANNELS, LOGITS, OUTPUTS
from bce.export.birdnet.backbone import Backbone
from bce.export.birdnet.weights import Weights
from bce.export.classes import ClassMap
from bce.export.torch_graph import save, torch_to_onnx

_GATES = sum(block.squeezed is not None for block in BLOCKS)
_RESIDUALS = sum(block.residual for block in BLOCKS)
_SWISHES = 2 * len(BLOCKS) + _GATES
EXPECTED = {
    "Conv": 2 + 3 * len(BLOCKS) + 2 * _GATES + 1,
    "Sigmoid": _SWISHES + _GATES,
    "Mul": _SWISHES + _GATES + 1,
    "Add": _RESIDUALS + 1,
    "Relu": 3,
    "MaxPool": 1,
    "AveragePool": 1,
    "Concat": 1,
    "GlobalAveragePool": _GATES + 1,
    "Reshape": 1,
    "Gemm": 1,
}
"""All that the graph is made of. A Transpose, a Pad or one of these more is a regression."""


def export_backbone(
    weights: Weights, path: str | os.PathLike[str], class_map: ClassMap | None = None
) -> dict[str, int]:
    """Write the backbone graph: spectrogram float32 [batch, 2, 96, 511] -> embedding and logits.

    Args:
        weights: of the source.
        path: where the ONNX file goes.
        class_map: the classes of the logits; None for all.

    Returns:
        the width of each output by name, in order.

    Raises:
        ExportError: the exporter made another graph than the canonical one; naming operator and counts.
    """
    model = torch_to_onnx(Backbone(weights, class_map), torch.zeros(2, *SHAPE), [INPUT], OUTPUTS)
    _check_canonical(model)
    save(model, path)
    classes = weights.classes if class_map is None else len(class_map.members)
    return {EMBEDDING: EMBEDDING_CHANNELS, LOGITS: classes}


def _check_canonical(model: ir.Model) -> None:
    found = Counter(node.op_type for node in model.graph)
    for kind in {*EXPECTED, *found}:
        if found[kind] != EXPECTED.get(kind, 0):
            raise ExportError(f"the exported graph has {found[kind]} {kind} nodes, expected {EXPECTED.get(kind, 0)}")
