"""Heads trained in TensorFlow: a Keras file, a SavedModel or a TFLite file becomes ONNX through tf2onnx.

Such a head takes block features by name (``block_21``, ...) and gives logits. It does not say which classes it was
trained for nor how its windows were prepared, so whoever exports says so. tf2onnx reports operators that it does not
know, and still writes a file: what comes out is checked by its operators, by ONNX's checker, by names and shapes, and
by values against TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import compose, helper

from bce.engine.errors import BceError, BundleError, ExportError, OptionsError, ParityError
from bce.engine.files import write_bytes
from bce.engine.network.bundle import LOGITS
from bce.engine.network.manifest import HeadKind
from bce.engine.network.sessions import open_session
from bce.export.heads.tensorflow_graph import canonical
from bce.export.heads.tensorflow_opening import Run, open_head
from bce.export.readers.tensorflow import EXTRA, tensorflow

RELATIVE_L2 = 1e-5
"""Of the logits, ONNX Runtime against TensorFlow."""

_BATCHES = (1, 5)


@dataclass(frozen=True)
class TensorFlowHead:
    """A head as ONNX, and as TensorFlow runs it.

    Attributes:
        path: of the file or folder.
        blocks: width of each block's features by name, in order of the blocks.
        classes: how many logits it gives.
        model: inputs by block, one output "logits", any batch.
        run: the logits [batch, classes] of features by block, by TensorFlow.
        parameter_count: numbers among the graph's constants.
    """

    path: Path
    blocks: dict[str, int]
    classes: int
    model: onnx.ModelProto
    run: Run
    parameter_count: int

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
        """Like a head that was trained here: features in the order of ``blocks``."""
        given = {name: x.numpy() for name, x in zip(self.blocks, features, strict=True)}
        return torch.from_numpy(self.run(given).copy())


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
    tensorflow()
    try:
        import tf2onnx  # noqa: F401
    except ImportError:
        raise ExportError(f"a TensorFlow head needs tf2onnx: {EXTRA}", path) from None
    try:
        converted, run = open_head(path)
        model, blocks, classes = canonical(converted)
        head = TensorFlowHead(path, blocks, classes, model, run, _parameters(model))
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
    try:
        session = open_session(head.model.SerializeToString())
    except BundleError as error:
        raise ExportError(f"what tf2onnx wrote {error.reason}") from None
    rng = np.random.default_rng(0)
    for batch in _BATCHES:
        features = {name: rng.standard_normal((batch, w)).astype(np.float32) for name, w in head.blocks.items()}
        try:
            (found,) = session.run([LOGITS], features)
        except Exception as error:  # ONNX Runtime has no common class for its errors
            raise ExportError(f"ONNX Runtime cannot run it at batch {batch} ({str(error).splitlines()[0]})") from None
        expected = head.run(features)
        if found.shape != expected.shape or found.shape != (batch, head.classes):
            raise ExportError(f"expected logits {expected.shape}, found {found.shape} at batch {batch}")
        difference = float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30))
        if not difference <= RELATIVE_L2:
            raise ParityError(
                f"its logits in ONNX Runtime are not TensorFlow's: relative L2 {difference:.1e} at batch {batch}, "
                f"allowed {RELATIVE_L2:g}"
            )
