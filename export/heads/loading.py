"""A trained head of any kind out of its file."""

from __future__ import annotations

from pathlib import Path

from bce.engine.errors import ExportError, OptionsError
from bce.engine.frontends.perch import Preparation
from bce.export.heads.checkpoints import Fold, HeadCheckpoint, load_checkpoint
from bce.export.heads.tensorflow_heads import load_tensorflow_head
from bce.export.heads.tensorflow_opening import is_tensorflow_head


def load_head(path: str, labels: tuple[str, ...] | None, preparation: Preparation | None) -> Fold:
    """A trained head of any kind: a checkpoint, or TensorFlow's with the classes and the preparation that it lacks.

    Raises:
        ExportError: the head cannot be read or converted.
        OptionsError: it is TensorFlow's and the classes or the preparation are missing, or are not as many.
    """
    if not is_tensorflow_head(Path(path)):
        if Path(path).suffix == ".onnx":
            raise ExportError(
                "is an ONNX file: heads are checkpoints of bce-tools, Keras or TFLite files, or SavedModels", path
            )
        return load_checkpoint(path)
    if labels is None:
        raise OptionsError("does not say its classes: give --taxonomy with them, in the order of its logits", path)
    if preparation is None:
        raise OptionsError("does not say how its windows were prepared: give --preparation", path)
    head = load_tensorflow_head(path)
    if len(labels) != head.classes:
        raise OptionsError(f"gives {head.classes} logits, the taxonomy has {len(labels)} classes", path)
    notes = ("ends in a sigmoid, which is taken off: logits are what goes into it",) if head.squashed else ()
    return HeadCheckpoint(head, labels, head.blocks, preparation, path=path, notes=notes)
