"""A Perch v2 SavedModel as weights, read from its checkpoint without running anything of it.

The published SavedModels come from JAX: the whole computation is one opaque XlaCallModule and the variables are the
leaves of a Flax tree without their names, numbered. The order of a Flax tree is known, so the numbers are enough,
and a module that was compiled for a GPU only is read like any other.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.perch.architecture import Architecture
from bce.export.perch.leaves import LeafPath, agreement, best_table, end, leaves
from bce.export.perch.weights import BlockWeights, ConvNorm, Prototypes, SqueezeExcite, Weights, check
from bce.export.readers.tensorflow import CHECKPOINT, VALUE, Variables, check_folder

PROTOTYPE_EPSILON = 1e-5
"""Added to the length of a prototype before division (chirp ``heads.ProtoPNetHead``)."""

_NUMBERED = re.compile(r"(?:.*/)?_tf_var_leaves/(\d+)")
_CLASSES_AT_ONCE = 512

Array = NDArray[np.float32]


def read_saved_model(folder: Path) -> tuple[Weights, str]:
    """Read the weights of a SavedModel folder from its checkpoint.

    The variables may be numbered leaves, as in the published files, or carry their Flax names.

    Returns:
        The weights, and what the proof of a bundle should say of the variables, in a line.

    Raises:
        ExportError: the folder is no whole SavedModel, or its variables are not those of Perch's network; the reason
            names the first that differs.
    """
    check_folder(folder)
    try:
        checkpoint = _Checkpoint(folder)
        weights = check(_weights(checkpoint))
    except ExportError as error:
        raise ExportError(error.reason, folder) from None
    return weights, f"SavedModel: {len(checkpoint.names)} variables in the known order, each of its shape"


class _Checkpoint:
    """The variables of a checkpoint by the path of their leaf."""

    def __init__(self, folder: Path) -> None:
        self.variables = Variables(folder)
        self.shapes = self.variables.shapes
        if not self.shapes:
            raise ExportError(f"{CHECKPOINT}: expected the variables of Perch's network, found none")
        numbers = {name: _NUMBERED.fullmatch(name.removesuffix(VALUE)) for name in self.shapes}
        if all(numbers.values()):
            numbered = {int(match.group(1)): name for name, match in numbers.items() if match}
            self.table, self.names = self._by_number(numbered)
        else:
            self.table, self.names = self._by_name()

    def _by_number(self, numbered: dict[int, str]) -> tuple[Architecture, dict[LeafPath, str]]:
        """Numbered leaves: all there, each of the shape that its number should have."""
        found = {number: self.shapes[name] for number, name in numbered.items()}
        table, classes = best_table(list(found.values()), lambda expected: agreement(found, expected))
        expected = leaves(table, classes)
        for number, (path, shape) in enumerate(expected):
            what = f"variable {number} of 0..{len(expected) - 1}, {'/'.join(path)}"
            if number not in found:
                raise ExportError(f"{what}: expected shape {list(shape)}, found no such variable")
            if found[number] != shape:
                raise ExportError(f"{what}: expected shape {list(shape)}, found {list(found[number])}")
        if len(found) != len(expected):
            raise ExportError(f"expected {len(expected)} variables, found {len(found)}")
        names = {path: numbered[number] for number, (path, _) in enumerate(expected)}
        return table, names

    def _by_name(self) -> tuple[Architecture, dict[LeafPath, str]]:
        """Variables that end in their Flax names, whatever stands before."""
        by_end: dict[LeafPath, str] = {}
        for name in self.shapes:
            parts = tuple(name.removesuffix(VALUE).split("/"))
            for length in range(1, len(parts) + 1):
                by_end.setdefault(parts[-length:], name)
        table, classes = best_table(
            list(self.shapes.values()),
            lambda expected: sum(self.shapes.get(by_end.get(end(path), "")) == shape for path, shape in expected),
        )
        names = {}
        for path, shape in leaves(table, classes):
            what = "/".join(end(path))
            if end(path) not in by_end:
                some = next(iter(sorted(self.shapes))).removesuffix(VALUE)
                raise ExportError(
                    f"{what}: expected a variable of this name and shape {list(shape)}, found none; its "
                    f"{len(self.shapes)} variables are neither numbered leaves nor Flax' names ('{some}', ...)"
                )
            names[path] = by_end[end(path)]
            if self.shapes[names[path]] != shape:
                raise ExportError(f"{what}: expected shape {list(shape)}, found {list(self.shapes[names[path]])}")
        return table, names

    def array(self, *path: str) -> Array:
        return self.variables.array(self.names[path], f"variable {'/'.join(path)}")


def _weights(checkpoint: _Checkpoint) -> Weights:
    array = checkpoint.array

    def conv(module: str, name: str, norm: str) -> ConvNorm:
        running, learned = ("batch_stats", "embedding_model", module, norm), ("params", "embedding_model", module)
        variance = array(*running, "var")
        if (variance < 0).any():
            raise ExportError(f"variable {'/'.join(running)}/var: expected variances, found negative numbers")
        kernel = array(*learned, name, "kernel").transpose(3, 2, 0, 1)
        return ConvNorm.from_batch_norm(
            np.ascontiguousarray(kernel),
            array(*learned, norm, "scale"),
            array(*learned, norm, "bias"),
            array(*running, "mean"),
            variance,
        )

    def gate(module: str) -> SqueezeExcite:
        path = ("params", "embedding_model", module, "SqueezeAndExcitation_0")
        (a, b), (c, d) = (
            (np.ascontiguousarray(array(*path, name, "kernel").T), array(*path, name, "bias"))
            for name in ("Reduce", "Expand")
        )
        return SqueezeExcite(a, b, c, d)

    blocks = []
    for block in checkpoint.table.blocks:
        module = f"MBConv_{block.index}"
        expand = conv(module, "ExpandConv", "ExpandBatchNorm") if block.expand_ratio > 1 else None
        depthwise = conv(module, "DepthwiseConv", "DepthwiseBatchNorm")
        blocks.append(BlockWeights(expand, depthwise, gate(module), conv(module, "ProjectConv", "ProjectBatchNorm")))
    prototypes = None
    if ("params", "head", "bias") in checkpoint.names:
        prototypes = Prototypes(
            normalised(array("params", "head", "prototypes")),
            np.maximum(array("params", "head", "protop_kernel"), 0),
            array("params", "head", "bias"),
        )
    return Weights(
        checkpoint.table,
        conv("Stem_0", "Conv_0", "BatchNorm_0"),
        tuple(blocks),
        conv("Head_0", "Conv_0", "BatchNorm_0"),
        prototypes,
    )


def normalised(prototypes: Array) -> Array:
    """Prototypes [classes, channels, 4] of any length -> [channels, classes, 4] of unit length (chirp ``heads.py``)."""
    classes, channels, count = prototypes.shape
    unit = np.empty((channels, classes, count), np.float32)
    for start in range(0, classes, _CLASSES_AT_ONCE):
        some = prototypes[start : start + _CLASSES_AT_ONCE].astype(np.float64)
        some /= np.linalg.norm(some, axis=1, keepdims=True) + PROTOTYPE_EPSILON
        unit[:, start : start + _CLASSES_AT_ONCE] = some.transpose(1, 0, 2)
    return unit
