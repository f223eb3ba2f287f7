"""From the folds of a trained head to one ONNX graph, whose logits are their mean."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bce.engine.errors import OptionsError
from bce.export.heads.checkpoints import Fold


def export_head(folds: Sequence[Fold], path: str | os.PathLike[str]) -> None:
    """Write the head graph: the block features by name, float32 [batch, width] -> ``logits`` [batch, classes].

    Args:
        folds: of one head, see :func:`bce.export.heads.checkpoints.agreeing_folds`; their logits are averaged.
        path: where the ONNX file goes.

    Raises:
        OptionsError: the folds are heads of different kinds.
    """
    heads = [fold.head for fold in folds]
    for fold in folds:
        if type(fold.head) is not type(heads[0]):
            raise OptionsError(f"is a head of another kind than the first fold {folds[0].path}", fold.path)
    heads[0].write_mean(heads, folds[0].blocks, Path(path))
