"""TensorFlow without its remarks, and SavedModels as folders of variables that nothing of them is run for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.engine.files import sha256

SIGNATURE = "serving_default"
CHECKPOINT = "variables/variables"
EXTRA = "pip install 'bce[tensorflow]'"

_LONGEST = 300
"""Letters of a library's message: Keras may print a whole configuration."""

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
"""How the names of variables end in a checkpoint."""


def tensorflow(what: str = "a SavedModel") -> Any:
    """TensorFlow, imported without its remarks about the machine.

    Args:
        what: is to be read, for the message.

    Raises:
        ExportError: it is not installed.
    """
    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "2"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
        os.environ.setdefault(name, value)
    try:
        import tensorflow as tf
    except ImportError:
        raise ExportError(f"{what} needs TensorFlow to be read: {EXTRA}") from None
    return tf


def telling_line(error: BaseException) -> str:
    """The line of a library's message that says what is wrong: TensorFlow puts headings before and nodes after it."""
    lines = [line for line in str(getattr(error, "message", "") or error).splitlines() if line[:1].strip()]
    line = lines[-1].rstrip(". ")[:_LONGEST] if lines else type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a whole SavedModel.

    Raises:
        ExportError: a file is missing.
    """
    if not (folder / "saved_model.pb").is_file():
        raise ExportError("is not a SavedModel: it has no file saved_model.pb", folder)
    if not (folder / f"{CHECKPOINT}.index").is_file():
        raise ExportError(f"is not a whole SavedModel: it has no file {CHECKPOINT}.index", folder)


class Variables:
    """The variables of a SavedModel's checkpoint.

    Attributes:
        shapes: of each variable by its name in the checkpoint; names end in :data:`VALUE`.

    Raises:
        ExportError: the checkpoint cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        tf = tensorflow()
        try:
            self._reader = tf.train.load_checkpoint(str(folder / CHECKPOINT))
            shapes = self._reader.get_variable_to_shape_map()
        except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"{CHECKPOINT}: cannot be read, it is cut short or damaged ({telling_line(error)})"
            ) from None
        self.shapes = {name: tuple(shape) for name, shape in shapes.items() if name.endswith(VALUE)}

    def array(self, name: str, what: str) -> NDArray[np.float32]:
        """The value of a variable.

        Args:
            name: in the checkpoint.
            what: the variable in messages.

        Raises:
            ExportError: it cannot be read, is not float32, or holds NaN or infinity.
        """
        tf = tensorflow()
        try:
            array = self._reader.get_tensor(name)
        except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"{what}: cannot be read, the file is cut short or damaged ({telling_line(error)})"
            ) from None
        if array.dtype != np.float32:
            raise ExportError(f"{what}: expected float32, found {array.dtype}")
        if not np.isfinite(array).all():
            raise ExportError(f"{what}: expected finite numbers, found NaN or infinity")
        return array


def file_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a SavedModel, by its name in the folder."""
    files = (folder / "saved_model.pb", *sorted((folder / "variables").iterdir()))
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files if file.is_file()}
