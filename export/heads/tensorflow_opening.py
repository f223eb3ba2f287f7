"""Opening a head of TensorFlow's: a Keras file, a SavedModel or a TFLite file as ONNX, and as TensorFlow runs it."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.readers.tensorflow import SIGNATURE, telling_line, tensorflow

OPSET = 18
_BLOCK = re.compile(r"(?:^|[^a-zA-Z0-9])(block_\d+)(?:$|[^0-9])")

Array = NDArray[np.float32]
Run = Callable[[Mapping[str, Array]], Array]
"""The logits [batch, classes] of features by block."""


def is_tensorflow_head(path: Path) -> bool:
    """Whether a head's file is TensorFlow's, by its name or what it holds."""
    return path.suffix in (".keras", ".tflite", ".h5") or (path / "saved_model.pb").is_file()


def form_of(path: Path) -> str:
    """What a head's file is called in messages."""
    if path.is_dir():
        return "a head as a SavedModel"
    return "a TFLite head" if path.suffix == ".tflite" else "a Keras head"


def open_head(path: Path) -> tuple[onnx.ModelProto, Run]:
    """What tf2onnx makes of a head, unchecked, and the head under TensorFlow.

    Raises:
        ExportError: it is no head of TensorFlow's, or tf2onnx cannot convert it; the reason names no file.
    """
    opened = _tflite if path.suffix == ".tflite" else _saved_model if path.is_dir() else _keras
    return opened(path)


def block_name(name: str) -> str:
    """``serving_default_block_21:0`` -> ``block_21``.

    Raises:
        ExportError: the name has no block in it.
    """
    found = _BLOCK.search(name.replace("serving_default_", ""))
    if found is None:
        raise ExportError(f"expected inputs named after blocks, such as block_21, found '{name}'")
    return found.group(1)


def _keras(path: Path) -> tuple[onnx.ModelProto, Run]:
    tf = tensorflow()
    try:
        # safe_mode refuses layers that would run code out of the file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = tf.keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, zipfile and h5py raise whatever the damage leads to
        raise ExportError(f"Keras cannot load it ({telling_line(error)})") from None
    names = [block_name(x.name) for x in model.inputs]
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
        signatures = module.signatures
    except Exception as error:  # TensorFlow and protobuf raise whatever the damage leads to
        raise ExportError(f"TensorFlow cannot load it ({telling_line(error)})") from None
    if SIGNATURE not in signatures:
        raise ExportError(f"has no signature '{SIGNATURE}'")
    serve = signatures[SIGNATURE]
    arguments = {block_name(name): name for name in serve.structured_input_signature[1]}
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
        model, _ = tf2onnx.convert.from_function(call, input_signature=call.input_signature, opset=OPSET)
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
    except Exception as error:  # as above
        raise ExportError(f"is not a whole TFLite file ({telling_line(error)})") from None
    inputs = {block_name(detail["name"]): detail["index"] for detail in interpreter.get_input_details()}
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
        model, _ = tf2onnx.convert.from_tflite(str(path), opset=OPSET)
    return model, run


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
