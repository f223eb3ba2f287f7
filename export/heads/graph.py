"""From the folds of a trained head to one ONNX graph, whose logits are their mean."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from bce.engine.files import write_bytes
from bce.export.heads.base import LOGITS
from bce.export.heads.checkpoints import Fold
from bce.export.heads.modules import FoldMean, Head
from bce.export.heads.tensorflow_heads import TensorFlowHead, mean_head
from bce.export.torch_graph import save, torch_to_onnx


def export_head(folds: Sequence[Fold], path: str | os.PathLike[str]) -> None:
    """Write the head graph: the block features by name, float32 [batch, width] -> ``logits`` [batch, classes].

    Args:
        folds: of one head, see :func:`bce.export.heads.checkpoints.agreeing_folds`; their logits are averaged.
        path: where the ONNX file goes.
    """
    heads = [fold.head for fold in folds]
    converted = [head for head in heads if isinstance(head, TensorFlowHead)]
    if converted:
        write_bytes(path, mean_head(converted).SerializeToString())
        return
    example = tuple(torch.zeros(2, width) for width in folds[0].blocks.values())
    module = FoldMean([head for head in heads if isinstance(head, Head)])
    save(torch_to_onnx(module, example, list(folds[0].blocks), [LOGITS]), path)
