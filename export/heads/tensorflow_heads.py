"""Heads trained in TensorFlow: a Keras file, a SavedModel or a TFLite file becomes ONNX through tf2onnx.

Such a head takes block features by name (``block_21``, ...) and gives logits. It does not say which classes it was
trained for nor how its windows were prepared, so whoever exports says so. tf2onnx reports operators that it does not
know, and still writes a file: what comes out is checked by its operators, by ONNX's checker, by names and shapes, and
by values against TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import compose, helper
from scipy.special import expit

from bce.engine.errors import BceError, BundleError, ExportError, OptionsError, ParityError
from bce.engine.files import write_bytes
from bce.engine.network.bundle import LOGITS
from bce.engine.network.manifest import HeadKind
from bce.engine.network.onnx_runtime import ort
from bce.engine.network.sessions import open_session
from bce.export.heads.endings import check_range, take_off_sigmoid
from bce.export.heads.tensorflow_graph import canonical
from bce.export.heads.tensorflow_opening import Array, Run, form_of, open_head
from bce.export.readers.tensorflow import EXTRA, telling_line, tensorflow

RELATIVE_L2 = 1e-5
"""Of the logits, ONNX Runtime against TensorFlow."""

_BATCHES = (1, 50)


@dataclass(frozen=True)
class TensorFlowHead:
    """A head as ONNX, and as TensorFlow runs it.

    Attributes:
        path: of the file or folder.
        blocks: width of each block's features by name, in order of the blocks.
        classes: how many logits it gives.
        model: inputs by block, one output "logits", any batch.
        run: the outputs [batch, classes] of features by block, by TensorFlow.
        parameter_count: numbers among the graph's constants.
        squashed: whether ``run`` gives the sigmoid of the logits.
    """

    path: Path
    blocks: dict[str, int]
    classes: int
    model: onnx.ModelProto
    run: Run
    parameter_count: int
    squashed: bool = False

    @property
    def kind(self) -> HeadKind:
        """What it is, for manifests."""
        return "tensorflow"

    @property
    def runtime(self) -> str:
        """What runs it where it was trained."""
        return "tensorflow"

    def write_mean(self, heads: Sequence[TensorFlowHead], blocks: Mapping[str, int], path: Path) -> None:
        """See :class:`bce.export.heads.base.TrainedHead`."""
        write_bytes(path, mean_head(heads).SerializeToString())

    def __call__(self, features: Sequence[torch.Tensor], /) -> torch.Tensor:
        """Like a head that was trained here: features in the order of ``blocks``.

        Where TensorFlow gives the sigmoid of the logits, they come from the graph, whose sigmoid must be TensorFlow's.

        Raises:
            ParityError: it is not.
        """
        given = {name: x.numpy() for name, x in zip(self.blocks, features, strict=True)}
        if not self.squashed:
            return torch.from_numpy(self.run(given).copy())
        return torch.from_numpy(self.compared(given))

    @cached_property
    def session(self) -> ort.InferenceSession:
        """The graph, as the engine runs it."""
        try:
            return open_session(self.model.SerializeToString())
        except BundleError as error:
            raise ExportError(f"what tf2onnx wrote {error.reason}") from None

    def compared(self, features: Mapping[str, Array]) -> Array:
        """The graph's logits [batch, classes], which must be TensorFlow's.

        Raises:
            ExportError: ONNX Runtime cannot run it, or gives another shape.
            ParityError: they are not.
        """
        batch = len(next(iter(features.values())))
        try:
            (logits,) = self.session.run([LOGITS], dict(features))
        except Exception as error:  # ONNX Runtime has no common class for its errors
            raise ExportError(f"ONNX Runtime cannot run it at batch {batch} ({str(error).splitlines()[0]})") from None
        try:
            expected = self.run(features)
        except Exception as error:  # TensorFlow has many
            raise ExportError(f"TensorFlow cannot run it at batch {batch} ({telling_line(error)})") from None
        if logits.shape != expected.shape or logits.shape != (batch, self.classes):
            raise ExportError(f"expected logits {expected.shape}, found {logits.shape} at batch {batch}")
        found = expit(logits) if self.squashed else logits
        difference = float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30))
        if not difference <= RELATIVE_L2:
            raise ParityError(
                f"its outputs in ONNX Runtime are not TensorFlow's: relative L2 {difference:.1e} at batch {batch}, "
                f"allowed {RELATIVE_L2:g}",
                self.path,
            )
        if not self.squashed and batch > 1:
            check_range(expected)
        return np.asarray(logits, np.float32)


def load_tensorflow_head(path: str | Path) -> TensorFlowHead:
    """Convert a head and compare it with TensorFlow.

    Args:
        path: a ``.keras`` file, a SavedModel folder with the signature ``serving_default``, or a ``.tflite`` file.

    Raises:
        ExportError: it is none of these, its inputs are not block features, or tf2onnx cannot convert it; the reason
            names the operator.
        ParityError: ONNX Runtime does not give TensorFlow's logits.
    """
    path = Path(path)
    if not path.exists():
        raise ExportError("there is no such head", path)
    if path.suffix == ".h5":
        raise ExportError("is a Keras head in the old HDF5 format: save it as .keras, as a SavedModel or TFLite", path)
    try:
        tensorflow(form_of(path))
        try:
            import tf2onnx  # noqa: F401
        except ImportError:
            raise ExportError(f"{form_of(path)} needs tf2onnx: {EXTRA}") from None
        converted, run = open_head(path)
        model, blocks, classes = canonical(converted)
        squashed = take_off_sigmoid(model)
        head = TensorFlowHead(path, blocks, classes, model, run, _parameters(model), squashed)
        _prove(head)
    except BceError as error:
        raise type(error)(error.reason, path) from None
    return head


def mean_head(heads: Sequence[TensorFlowHead]) -> onnx.ModelProto:
    """One graph whose logits are the mean of the folds'.

    Raises:
        OptionsError: the folds take other features or give other numbers of logits.
    """
    first = heads[0]
    for other in heads[1:]:
        if (other.blocks, other.classes) != (first.blocks, first.classes):
            raise OptionsError(
                f"takes {other.blocks} and gives {other.classes} logits, the first fold {first.path} takes "
                f"{first.blocks} and gives {first.classes}",
                other.path,
            )
    if len(heads) == 1:
        return first.model
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for index, head in enumerate(heads):
        graph = compose.add_prefix_graph(head.model.graph, f"fold{index}/")
        for node in graph.node:
            # the features are the same for all folds
            names = {f"fold{index}/{name}": name for name in head.blocks}
            node.input[:] = [names.get(name, name) for name in node.input]
        nodes.extend(graph.node)
        initializers.extend(graph.initializer)
    folds = [f"fold{index}/{LOGITS}" for index in range(len(heads))]
    nodes.append(helper.make_node("Mean", folds, [LOGITS], "mean"))
    graph = helper.make_graph(nodes, "head", first.model.graph.input, first.model.graph.output, initializers)
    model = helper.make_model(graph, opset_imports=first.model.opset_import, ir_version=first.model.ir_version)
    onnx.checker.check_model(model, full_check=True)
    return model


def _parameters(model: onnx.ModelProto) -> int:
    return sum(
        int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    )


def _prove(head: TensorFlowHead) -> None:
    """ONNX Runtime against TensorFlow on features like those of blocks, at batch 1 and more."""
    rng = np.random.default_rng(0)
    for batch in _BATCHES:
        head.compared({name: rng.standard_normal((batch, w)).astype(np.float32) for name, w in head.blocks.items()})
