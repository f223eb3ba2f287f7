"""A Perch v2 SavedModel as weights, read from its checkpoint without running anything of it.

The published SavedModels come from JAX: the whole computation is one opaque XlaCallModule and the variables are the
leaves of a Flax tree without their names, numbered. The order of a Flax tree is known, so the numbers are enough,
and a module that was compiled for a GPU only is read like any other. Where TensorFlow can run the module here, its
numbers are a reference.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bce.engine.errors import ExportError, ParityError
from bce.engine.files import sha256
from bce.export.perch.architecture import (
    FRAMES,
    MELS,
    PROTOTYPES_PER_CLASS,
    Architecture,
    architecture,
    candidate_widths,
)
from bce.export.perch.backbone import Backbone, build, pooled
from bce.export.perch.weights import BlockWeights, ConvNorm, Prototypes, SqueezeExcite, Weights, check

WINDOW_SAMPLES = 160_000
CHECKPOINT = "variables/variables"
SIGNATURE = "serving_default"
EXTRA = "pip install 'bce[tensorflow]'"

REBUILT_RELATIVE_L2 = 1e-3
"""What the embedding of the rebuilt network may differ from the module's, on the module's own log-mel. Rounding gives
about 1e-5 and up to 2e-4 on silence; another activation, padding or order of the variables gives more than 1e-2."""
PROTOTYPE_EPSILON = 1e-5
"""Added to the length of a prototype before division (chirp ``heads.ProtoPNetHead``)."""

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NUMBERED = re.compile(r"(?:.*/)?_tf_var_leaves/(\d+)")
_CLASSES_AT_ONCE = 512

Array = NDArray[np.float32]
LeafPath = tuple[str, ...]
Shape = tuple[int, ...]


# --- the order of the leaves ------------------------------------------------------------------------------------


def leaves(table: Architecture, classes: int | None) -> list[tuple[LeafPath, Shape]]:
    """The leaves of the published Flax tree in their order: (path, shape) by number.

    JAX flattens a tree of dictionaries with the keys of each sorted as text: ``batch_stats`` before ``params``,
    capitals before small letters (``Stem_0`` before ``head``), and ``MBConv_10`` before ``MBConv_2``. Tuples of names
    sort in the same way. Leaves of one shape that stand beside each other (a BatchNorm's mean and variance, its bias
    and scale, equal blocks of a stage) are told apart by this order only.

    Args:
        table: the network.
        classes: of the ProtoPNet classifier; None where there is none.
    """
    return sorted(_tree(table, classes))


def _tree(table: Architecture, classes: int | None) -> Iterator[tuple[LeafPath, Shape]]:
    def conv(module: str, name: str, norm: str, kernel: Shape) -> Iterator[tuple[LeafPath, Shape]]:
        channels = kernel[-1:]
        yield ("batch_stats", "embedding_model", module, norm, "mean"), channels
        yield ("batch_stats", "embedding_model", module, norm, "var"), channels
        yield ("params", "embedding_model", module, norm, "bias"), channels
        yield ("params", "embedding_model", module, norm, "scale"), channels
        yield ("params", "embedding_model", module, name, "kernel"), kernel

    yield from conv("Stem_0", "Conv_0", "BatchNorm_0", (3, 3, 1, table.stem_channels))
    for block in table.blocks:
        module, wide = f"MBConv_{block.index}", block.expanded
        if block.expand_ratio > 1:
            yield from conv(module, "ExpandConv", "ExpandBatchNorm", (1, 1, block.in_channels, wide))
        yield from conv(module, "DepthwiseConv", "DepthwiseBatchNorm", (block.kernel, block.kernel, 1, wide))
        yield from conv(module, "ProjectConv", "ProjectBatchNorm", (1, 1, wide, block.out_channels))
        for name, sizes in (("Reduce", (wide, block.squeezed)), ("Expand", (block.squeezed, wide))):
            gate = ("params", "embedding_model", module, "SqueezeAndExcitation_0", name)
            yield (*gate, "bias"), sizes[1:]
            yield (*gate, "kernel"), sizes
    yield from conv("Head_0", "Conv_0", "BatchNorm_0", (1, 1, table.blocks[-1].out_channels, table.head_channels))
    if classes is not None:
        yield ("params", "head", "bias"), (classes,)
        yield ("params", "head", "protop_kernel"), (classes, PROTOTYPES_PER_CLASS)
        yield ("params", "head", "prototypes"), (classes, table.head_channels, PROTOTYPES_PER_CLASS)


# --- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedModelSource:
    """What was found in a SavedModel, and how to run it.

    Attributes:
        path: the folder.
        weights: the network's weights.
        digest: see :func:`folder_digest`.
        notes: what the proof of a bundle should say of this source.
    """

    path: Path
    weights: Weights
    digest: str
    notes: tuple[str, ...]

    def reference(self, blocks: Sequence[int], outputs: Sequence[str]) -> Callable[[Array], dict[str, Array]]:
        """The module under TensorFlow, see :func:`_reference`."""
        return _reference(self.path, self.weights, blocks, outputs)


def read_saved_model(folder: Path) -> SavedModelSource:
    """Read the weights of a SavedModel folder from its checkpoint.

    The variables may be numbered leaves, as in the published files, or carry their Flax names.

    Raises:
        ExportError: the folder is no whole SavedModel, or its variables are not those of Perch's network; the reason
            names the first that differs.
    """
    if not (folder / "saved_model.pb").is_file():
        raise ExportError("is not a SavedModel: it has no file saved_model.pb", folder)
    if not (folder / f"{CHECKPOINT}.index").is_file():
        raise ExportError(f"is not a whole SavedModel: it has no file {CHECKPOINT}.index", folder)
    try:
        checkpoint = _Checkpoint(folder)
        weights = check(_weights(checkpoint))
    except ExportError as error:
        raise ExportError(error.reason, folder) from None
    files = _file_digests(folder)
    notes = (
        f"SavedModel: {len(checkpoint.names)} variables in the known order, each of its shape",
        *(f"source file {name}: SHA-256 {digest}" for name, digest in files.items()),
    )
    return SavedModelSource(folder, weights, folder_digest(files), notes)


class _Checkpoint:
    """The variables of a checkpoint by the path of their leaf."""

    def __init__(self, folder: Path) -> None:
        tf = tensorflow()
        try:
            self.reader = tf.train.load_checkpoint(str(folder / CHECKPOINT))
            shapes = self.reader.get_variable_to_shape_map()
        except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"{CHECKPOINT}: cannot be read, it is cut short or damaged ({telling_line(error)})"
            ) from None
        self.shapes = {name: tuple(shape) for name, shape in shapes.items() if name.endswith(_VALUE)}
        if not self.shapes:
            raise ExportError(f"{CHECKPOINT}: expected the variables of Perch's network, found none")
        numbers = {name: _NUMBERED.fullmatch(name.removesuffix(_VALUE)) for name in self.shapes}
        if all(numbers.values()):
            numbered = {int(match.group(1)): name for name, match in numbers.items() if match}
            self.table, self.names = self._by_number(numbered)
        else:
            self.table, self.names = self._by_name()

    def _by_number(self, numbered: dict[int, str]) -> tuple[Architecture, dict[LeafPath, str]]:
        """Numbered leaves: all there, each of the shape that its number should have."""
        found = {number: self.shapes[name] for number, name in numbered.items()}
        table, classes = _best_table(list(found.values()), lambda expected: _agreement(found, expected))
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
            parts = tuple(name.removesuffix(_VALUE).split("/"))
            for length in range(1, len(parts) + 1):
                by_end.setdefault(parts[-length:], name)
        table, classes = _best_table(
            list(self.shapes.values()),
            lambda expected: sum(self.shapes.get(by_end.get(_end(path), "")) == shape for path, shape in expected),
        )
        names = {}
        for path, shape in leaves(table, classes):
            what = "/".join(_end(path))
            if _end(path) not in by_end:
                some = next(iter(sorted(self.shapes))).removesuffix(_VALUE)
                raise ExportError(
                    f"{what}: expected a variable of this name and shape {list(shape)}, found none; its "
                    f"{len(self.shapes)} variables are neither numbered leaves nor Flax' names ('{some}', ...)"
                )
            names[path] = by_end[_end(path)]
            if self.shapes[names[path]] != shape:
                raise ExportError(f"{what}: expected shape {list(shape)}, found {list(self.shapes[names[path]])}")
        return table, names

    def array(self, *path: str) -> Array:
        name = self.names[path]
        tf = tensorflow()
        what = f"variable {'/'.join(path)}"
        try:
            array = self.reader.get_tensor(name)
        except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:
            raise ExportError(
                f"{what}: cannot be read, the file is cut short or damaged ({telling_line(error)})"
            ) from None
        if array.dtype != np.float32:
            raise ExportError(f"{what}: expected float32, found {array.dtype}")
        if not np.isfinite(array).all():
            raise ExportError(f"{what}: expected finite numbers, found NaN or infinity")
        return array


def _end(path: LeafPath) -> LeafPath:
    """The part of a leaf's path that other exporters keep."""
    return path[2:] if path[1] == "embedding_model" else path[1:]


def _agreement(found: dict[int, Shape], expected: Sequence[tuple[LeafPath, Shape]]) -> int:
    return sum(found.get(number) == shape for number, (_, shape) in enumerate(expected))


def _best_table(
    shapes: Sequence[Shape], agreement: Callable[[list[tuple[LeafPath, Shape]]], int]
) -> tuple[Architecture, int | None]:
    """The width of the network and the number of classes that most shapes agree with."""
    prototypes = [s for s in shapes if len(s) == 3 and s[2] == PROTOTYPES_PER_CLASS]
    classes = prototypes[0][0] if prototypes else None
    present = set(shapes)
    tables = [architecture(width) for width in candidate_widths()]
    # the stem's kernel alone rules out most widths
    likely = [table for table in tables if (3, 3, 1, table.stem_channels) in present]
    return max(likely or tables[:1], key=lambda table: agreement(leaves(table, classes))), classes


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


# --- running ----------------------------------------------------------------------------------------------------


def _reference(
    folder: Path, weights: Weights, blocks: Sequence[int], outputs: Sequence[str]
) -> Callable[[Array], dict[str, Array]]:
    """The module's ``serving_default``, one window at a time: each batch size is compiled anew.

    The module does not show its blocks. Their features come from the network rebuilt in torch, run on the module's
    own log-mel, and are given out only where the embedding of that network is the module's: every block leads to it.

    Raises:
        CannotRun: TensorFlow cannot run the module on this machine.
    """
    from bce.export.sources import CannotRun

    tf = tensorflow()
    try:
        module = tf.saved_model.load(str(folder))
        signature = module.signatures[SIGNATURE]
        (waveform,) = signature.structured_input_signature[1]
        names = _output_names(signature, weights)
        signature(**{waveform: tf.zeros([1, WINDOW_SAMPLES])})
    except KeyError:
        raise CannotRun(f"has no signature '{SIGNATURE}'", folder) from None
    except (tf.errors.OpError, ValueError, TypeError, OSError) as error:
        raise CannotRun(f"TensorFlow {tf.__version__} cannot run it here ({telling_line(error)})", folder) from None
    if "spectrogram" not in names or (blocks and "embedding" not in names):
        raise CannotRun("does not put out the log-mel and the embedding, nothing can be compared", folder)
    network = build(weights)
    kept = ["spectrogram", *(name for name in ("embedding", "label") if name in outputs and name in names)]

    def run(waveforms: Array) -> dict[str, Array]:
        rows = []
        for window in np.asarray(waveforms, np.float32):
            found = signature(**{waveform: tf.constant(window[None])})
            rows.append({name: found[key].numpy() for name, key in names.items()})
        # the module is kept alive by its use here: its signature alone does not hold the variables
        assert module is not None
        arrays = {name: np.concatenate([row[name] for row in rows]) for name in names}
        arrays["spectrogram"] = arrays["spectrogram"].reshape(-1, FRAMES, MELS)
        found_blocks = _rebuilt(network, blocks, arrays["spectrogram"], arrays["embedding"], folder) if blocks else {}
        return {name: arrays[name] for name in kept} | found_blocks

    run.notes = (  # type: ignore[attr-defined]
        "the module does not show its blocks: their numbers are those of the network rebuilt in torch, whose embedding "
        f"was the module's to relative L2 {REBUILT_RELATIVE_L2:g} on every window",
    ) * bool(blocks)
    return run


def _output_names(signature: Any, weights: Weights) -> dict[str, str]:
    """The signature's outputs by what they are: by name, or by shape where the names differ."""
    shapes = {name: tuple(spec.shape.as_list()[1:]) for name, spec in signature.structured_outputs.items()}
    wanted: dict[str, Shape] = {"spectrogram": (FRAMES, MELS), "embedding": (weights.architecture.head_channels,)}
    if weights.prototypes is not None:
        wanted["label"] = (weights.prototypes.classes,)
    names = {}
    for what, shape in wanted.items():
        fitting = [name for name, found in shapes.items() if found == shape]
        if what in fitting or fitting:
            names[what] = what if what in fitting else fitting[0]
    return names


def _rebuilt(
    network: Backbone, blocks: Sequence[int], spectrogram: Array, embedding: Array, folder: Path
) -> dict[str, Array]:
    with torch.no_grad():
        maps = network.block_maps(torch.from_numpy(spectrogram))
        found = pooled(network.head(maps[-1])).numpy()
        features = {f"block_{index}": pooled(maps[index]).numpy() for index in blocks}
    difference = float(np.linalg.norm(found - embedding) / np.linalg.norm(embedding))
    if not difference <= REBUILT_RELATIVE_L2:
        raise ParityError(
            "the network rebuilt from its variables does not give its embedding: relative L2 "
            f"{difference:.1e}, allowed {REBUILT_RELATIVE_L2:g}; its layers are computed otherwise (another activation "
            "or padding), or its variables have another order",
            folder,
        )
    return features


# --- the folder -------------------------------------------------------------------------------------------------


def _file_digests(folder: Path) -> dict[str, str]:
    files = (folder / "saved_model.pb", *sorted((folder / "variables").iterdir()))
    return {file.relative_to(folder).as_posix(): sha256(file) for file in files if file.is_file()}


def folder_digest(files: dict[str, str]) -> str:
    """One SHA-256 for several files: that of the lines ``sha256sum`` prints for them, sorted by name."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def tensorflow() -> Any:
    """TensorFlow, imported without its remarks about the machine.

    Raises:
        ExportError: it is not installed.
    """
    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "2"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
        os.environ.setdefault(name, value)
    try:
        import tensorflow as tf
    except ImportError:
        raise ExportError(f"a SavedModel needs TensorFlow to be read: {EXTRA}") from None
    return tf


def telling_line(error: BaseException) -> str:
    """The line of a library's message that says what is wrong: TensorFlow puts headings before and nodes after it."""
    lines = [line for line in str(getattr(error, "message", "") or error).splitlines() if line[:1].strip()]
    return lines[-1].rstrip(". ") if lines else type(error).__name__
