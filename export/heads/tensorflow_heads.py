"""Heads trained in TensorFlow: a Keras file, a SavedModel or a TFLite file becomes ONNX through tf2onnx.

Such a head takes block features by name (``block_21``, ...) and gives logits. It does not say which classes it was
trained for nor how its windows were prepared, so whoever exports says so. tf2onnx reports operators that it does not
know, and still writes a file: what comes out is checked by its operators, by ONNX's checker, by names and shapes, and
by values against TensorFlow.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper

from bce.engine.errors import BceError, ExportError, OptionsError, ParityError
from bce.engine.frontends.perch import Preparation
from bce.export.heads.checkpoints import Head, HeadCheckpoint, load_checkpoint
from bce.export.perch.saved_model import SIGNATURE, telling_line, tensorflow

LOGITS = "logits"
RELATIVE_L2 = 1e-5
"""Of the logits, ONNX Runtime against TensorFlow."""

_OPSET = 18
_BATCHES = (1, 5)
_BLOCK = re.compile(r"(?:^|[^a-zA-Z0-9])(block_\d+)(?:$|[^0-9])")
_EXTRA = "pip install 'bce[tensorflow]'"

Array = NDArray[np.float32]
Run = Callable[[Mapping[str, Array]], Array]


@dataclass(frozen=True)
class TensorFlowKind:
    """Stands where a head that was trained here has its sizes."""

    kind: str = "tensorflow"


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
    config: TensorFlowKind = TensorFlowKind()

    def __call__(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Like a head that was trained here: features in the order of ``blocks``."""
        given = {name: x.numpy() for name, x in zip(self.blocks, features, strict=True)}
        return torch.from_numpy(self.run(given).copy())


def is_tensorflow_head(path: Path) -> bool:
    """Whether a head's file is TensorFlow's, by its name or what it holds."""
    return path.suffix in (".keras", ".tflite", ".h5") or (path / "saved_model.pb").is_file()


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
        raise ExportError(f"a TensorFlow head needs tf2onnx: {_EXTRA}", path) from None
    opened = _tflite if path.suffix == ".tflite" else _saved_model if path.is_dir() else _keras
    try:
        converted, run = opened(path)
        model, blocks, classes = _canonical(converted)
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


def load_head(path: str, labels: tuple[str, ...] | None, preparation: Preparation | None) -> HeadCheckpoint:
    """A trained head of any kind: a checkpoint, or TensorFlow's with the classes and the preparation that it lacks.

    Raises:
        ExportError: the head cannot be read or converted.
        OptionsError: it is TensorFlow's and the classes or the preparation are missing, or are not as many.
    """
    if not is_tensorflow_head(Path(path)):
        return load_checkpoint(path)
    if labels is None:
        raise OptionsError("does not say its classes: give --taxonomy with them, in the order of its logits", path)
    if preparation is None:
        raise OptionsError("does not say how its windows were prepared: give --preparation", path)
    head = load_tensorflow_head(path)
    if len(labels) != head.classes:
        raise OptionsError(f"gives {head.classes} logits, the taxonomy has {len(labels)} classes", path)
    return HeadCheckpoint(cast(Head, head), labels, head.blocks, preparation, path=path)


# --- opening ----------------------------------------------------------------------------------------------------


def _keras(path: Path) -> tuple[onnx.ModelProto, Run]:
    tf = tensorflow()
    if path.suffix != ".keras":
        raise ExportError("is not a TensorFlow head: give a .keras file, a SavedModel folder or a .tflite file")
    try:
        # safe_mode refuses layers that would run code out of the file
        model = tf.keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, AttributeError) as error:
        raise ExportError(f"Keras cannot load it ({telling_line(error)})") from None
    names = [_block_name(x.name) for x in model.inputs]
    signature = [
        tf.TensorSpec([None, x.shape[-1]], tf.float32, name=n) for x, n in zip(model.inputs, names, strict=True)
    ]
    given = list if len(names) > 1 else next

    @tf.function(input_signature=signature)
    def call(*features: Any) -> Any:
        return model(given(iter(features)), training=False)

    return _from_function(call, names)


def _saved_model(path: Path) -> tuple[onnx.ModelProto, Run]:
    tf = tensorflow()
    try:
        module = tf.saved_model.load(str(path))
        serve = module.signatures[SIGNATURE]
    except KeyError:
        raise ExportError(f"has no signature '{SIGNATURE}'") from None
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise ExportError(f"TensorFlow cannot load it ({telling_line(error)})") from None
    arguments = {_block_name(name): name for name in serve.structured_input_signature[1]}
    if len(serve.structured_outputs) != 1:
        raise ExportError(f"expected one output, the logits, found {', '.join(serve.structured_outputs)}")
    (output,) = serve.structured_outputs
    specs = serve.structured_input_signature[1]
    signature = [tf.TensorSpec(specs[arguments[n]].shape, tf.float32, name=n) for n in arguments]

    @tf.function(input_signature=signature)
    def call(*features: Any) -> Any:
        return serve(**dict(zip(arguments.values(), features, strict=True)))[output]

    call.module = module  # the signature alone does not keep its variables
    return _from_function(call, list(arguments))


def _from_function(call: Any, names: Sequence[str]) -> tuple[onnx.ModelProto, Run]:
    import tf2onnx

    tf = tensorflow()
    function = call.get_concrete_function()
    graph = function.graph.as_graph_def()
    used = {node.op for node in graph.node} | {n.op for f in graph.library.function for n in f.node_def}
    if "XlaCallModule" in used:
        raise ExportError(
            "tf2onnx cannot convert it: it holds the operator XlaCallModule, compiled code without a graph"
        )
    if isinstance(function.structured_outputs, list | tuple | dict) and len(function.structured_outputs) != 1:
        raise ExportError(f"expected one output, the logits, found {len(function.structured_outputs)}")

    def run(features: Mapping[str, Array]) -> Array:
        result = call(*(tf.constant(features[name]) for name in names))
        return np.asarray(tf.nest.flatten(result)[0])

    with _quiet(), _refusing():
        model, _ = tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=_OPSET)
    return model, run


def _tflite(path: Path) -> tuple[onnx.ModelProto, Run]:
    import tf2onnx

    tf = tensorflow()
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    try:
        interpreter = Interpreter(model_path=str(path))
    except (ValueError, RuntimeError, OSError) as error:
        raise ExportError(f"is not a whole TFLite file ({telling_line(error)})") from None
    inputs = {_block_name(detail["name"]): detail["index"] for detail in interpreter.get_input_details()}
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    if len(outputs) != 1:
        raise ExportError(f"expected one output, the logits, found {len(outputs)}")

    def run(features: Mapping[str, Array]) -> Array:
        for name, index in inputs.items():
            interpreter.resize_tensor_input(index, features[name].shape)
        interpreter.allocate_tensors()
        for name, index in inputs.items():
            interpreter.set_tensor(index, features[name])
        interpreter.invoke()
        return interpreter.get_tensor(outputs[0])

    with _quiet(), _refusing():
        model, _ = tf2onnx.convert.from_tflite(str(path), opset=_OPSET)
    return model, run


def _block_name(name: str) -> str:
    """``serving_default_block_21:0`` -> ``block_21``."""
    found = _BLOCK.search(name.replace("serving_default_", ""))
    if found is None:
        raise ExportError(f"expected inputs named after blocks, such as block_21, found '{name}'")
    return found.group(1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tf2onnx' remarks from the user's terminal: what it cannot convert is found in what it writes."""
    logger = logging.getLogger("tf2onnx")
    level, disabled = logger.level, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        logger.setLevel(level)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # tf2onnx raises whatever it meets
        raise ExportError(f"tf2onnx cannot convert it ({telling_line(error)})") from None


# --- the graph --------------------------------------------------------------------------------------------------


def _canonical(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, int], int]:
    """The graph with blocks as inputs in order, "logits" as its output, any batch, and ONNX's operators only.

    Returns:
        The graph, the blocks' widths, and the number of classes.
    """
    nodes = [new for node in model.graph.node for new in _known(node)]
    for node in nodes:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            raise ExportError(f"tf2onnx cannot convert the operator {node.op_type} (node '{node.name}')")
        if node.domain not in ("", "ai.onnx"):
            raise ExportError(f"it needs the operator {node.op_type} of '{node.domain}', which is not ONNX's")
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {_block_name(value.name): value for value in model.graph.input if value.name not in constants}
    order = sorted(inputs, key=lambda name: int(name.removeprefix("block_")))
    if len(model.graph.output) != 1:
        raise ExportError(f"expected one output, the logits, found {len(model.graph.output)}")
    (output,) = model.graph.output
    widths = {name: _width(name, inputs[name]) for name in order}
    classes = _width(LOGITS, output)
    new_names = {inputs[name].name: name for name in order} | {output.name: LOGITS}
    for node in nodes:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.output[:] = [new_names.get(name, name) for name in node.output]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", w]) for n, w in widths.items()],
        [helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, ["batch", classes])],
        model.graph.initializer,
    )
    result = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8, producer_name="bce"
    )
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"what tf2onnx wrote is not valid ONNX ({str(error).splitlines()[0]})") from None
    return result, widths, classes


def _width(name: str, value: onnx.ValueInfoProto) -> int:
    dims = value.type.tensor_type.shape.dim
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or len(dims) != 2 or not dims[1].dim_value:
        shown = [d.dim_value or "?" for d in dims]
        raise ExportError(f"{name}: expected float32 [batch, numbers], found {shown}")
    return int(dims[1].dim_value)


def _known(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A node, or several that say the same in ONNX where tf2onnx leaves TensorFlow's own name."""
    if node.op_type == "Erfc":
        return _composed(node, [("Erf", ["x"], "erf"), ("Sub", [1.0, "erf"], "y")])
    if node.op_type == "TFL_GELU":
        approximate = any(a.name == "approximate" and a.i for a in node.attribute)
        if not approximate:
            steps: list[tuple[str, list[str | float], str]] = [
                ("Mul", ["x", 0.5**0.5], "scaled"),
                ("Erf", ["scaled"], "erf"),
                ("Add", ["erf", 1.0], "opening"),
                ("Mul", ["x", 0.5], "half"),
                ("Mul", ["half", "opening"], "y"),
            ]
            return _composed(node, steps)
    return [node]


def _composed(node: onnx.NodeProto, steps: Sequence[tuple[str, Sequence[str | float], str]]) -> list[onnx.NodeProto]:
    """Nodes for steps of (operator, inputs, output), where "x" and "y" are the node's own and numbers are constants."""
    (result,) = node.output
    names = {"x": node.input[0], "y": result}
    nodes = []
    for op_type, operands, output in steps:
        inputs = []
        for operand in operands:
            if isinstance(operand, float):
                inputs.append(f"{result}/{output}/{operand:g}")
                number = numpy_helper.from_array(np.float32(operand), inputs[-1])
                nodes.append(helper.make_node("Constant", [], [inputs[-1]], value=number))
            else:
                inputs.append(names.setdefault(operand, f"{result}/{operand}"))
        nodes.append(helper.make_node(op_type, inputs, [names.setdefault(output, f"{result}/{output}")]))
    return nodes


def _parameters(model: onnx.ModelProto) -> int:
    return sum(
        int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    )


def _prove(head: TensorFlowHead) -> None:
    """ONNX Runtime against TensorFlow on features like those of blocks, at batch 1 and more."""
    try:
        session = ort.InferenceSession(head.model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common class for its errors
        raise ExportError(f"ONNX Runtime cannot load what tf2onnx wrote ({str(error).splitlines()[0]})") from None
    rng = np.random.default_rng(0)
    for batch in _BATCHES:
        features = {name: rng.standard_normal((batch, w)).astype(np.float32) for name, w in head.blocks.items()}
        try:
            (found,) = session.run([LOGITS], features)
        except Exception as error:
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
