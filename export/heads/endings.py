"""How a head's graph ends: in logits, or in a function of them that is taken off or refused."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.engine.network.bundle import LOGITS

_LAYOUT = frozenset({"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""What may stand behind a head's last function and changes no number."""

_NO_LOGITS = frozenset({"HardSigmoid", "LogSoftmax", "Softmax", "Softsign", "Tanh"})
"""Last functions whose values are no logits, nor one class' alone: a logit cannot be told from them."""


def take_off_sigmoid(model: onnx.ModelProto) -> bool:
    """Make a sigmoid at a head's end an identity, in place; its input are the logits, exactly.

    Args:
        model: with the one output "logits".

    Returns:
        Whether there was one.

    Raises:
        ExportError: it ends in another function that leaves no logits.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    node = producer.get(LOGITS)
    while node is not None and node.op_type in _LAYOUT:
        node = producer.get(node.input[0])
    if node is None:
        return False
    if node.op_type in _NO_LOGITS:
        raise ExportError(f"it ends in {node.op_type}, behind which there are no logits: save it without that")
    if node.op_type != "Sigmoid":
        return False
    node.op_type = "Identity"
    return True


def check_range(outputs: NDArray[np.floating]) -> None:
    """Refuse outputs [windows, classes] that look like probabilities, whatever operators they were computed with.

    Args:
        outputs: of features drawn at random, which real ones need not resemble.

    Raises:
        ExportError: all of them lie within 0..1.
    """
    if outputs.size and outputs.min() >= 0 and outputs.max() <= 1:
        raise ExportError(
            f"its outputs lie within {outputs.min():.2g}..{outputs.max():.2g} on random features: they are "
            "probabilities, logits are expected; save it without its last function"
        )
