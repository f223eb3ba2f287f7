"""A TFLite file as a graph to walk: tensors, operators, constants in float32, and the file with other outputs.

TFLite is a flatbuffer; its schema comes with the LiteRT runtime.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError

EXTRA = "pip install 'bce[tflite]'"

_DTYPES = {0: "f4", 1: "f2", 2: "i4", 3: "u1", 4: "i8", 6: "?", 7: "i2", 9: "i1", 10: "f8"}
"""numpy's names of the schema's tensor types that constants of a network have."""


@dataclass(frozen=True)
class Quantization:
    """A constant is ``(stored - zero) * scale``, with one scale or one for each index along ``axis``."""

    scale: NDArray[np.float32]
    zero: NDArray[np.int64]
    axis: int

    def steps(self, rank: int) -> NDArray[np.float32]:
        """The scale, to broadcast against a constant of a rank."""
        return self._along(self.scale, rank)

    def zeros(self, rank: int) -> NDArray[np.float32]:
        """The zero point, to broadcast against a constant of a rank."""
        return self._along(self.zero.astype(np.float32), rank)

    def _along(self, array: NDArray[Any], rank: int) -> NDArray[Any]:
        return array.reshape([-1 if axis == self.axis and array.size > 1 else 1 for axis in range(rank)])


@dataclass(frozen=True)
class TensorInfo:
    """A tensor: its name, shape (-1 where dynamic), stored constant if it is one, and how that is quantised."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None
    stored: NDArray[Any] | None
    quantization: Quantization | None


@dataclass(frozen=True)
class Operator:
    """One operator: its builtin name or the name of a custom one, tensors by index (-1: absent), and options."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


def schema() -> Any:
    """The flatbuffer schema of TFLite.

    Raises:
        ExportError: neither LiteRT nor TensorFlow is installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        try:
            from tensorflow.lite.python import schema_py_generated
        except ImportError:
            raise ExportError(f"a TFLite file needs LiteRT to be read: {EXTRA}") from None
    return schema_py_generated


_DAMAGE = (
    *(struct.error, IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError),
    ZeroDivisionError,
)
"""What damaged bytes do to those who read them: numbers, operands and options are not what they should be."""


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what a damaged graph does to those who walk it into one line.

    Raises:
        ExportError: the file is damaged.
    """
    try:
        yield
    except _DAMAGE:
        raise ExportError("is damaged: its operators and constants do not fit together", path) from None


class TfliteGraph:
    """The main subgraph of a file."""

    def __init__(self, path: Path) -> None:
        self.schema = schema()
        try:
            self.content = path.read_bytes()
        except OSError as error:
            raise ExportError(f"cannot be read: {error.strerror or error}", path) from None
        if self.content[4:8] != b"TFL3":
            raise ExportError("is not a TFLite file: it does not carry TFLite's mark", path)
        try:
            model = self.schema.Model.GetRootAs(self.content, 0)
            main = model.Subgraphs(0)
            self.tensors = [self._tensor(model, main.Tensors(i)) for i in range(main.TensorsLength())]
            codes = [self._code(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
            self.operators = [self._operator(main.Operators(i), codes) for i in range(main.OperatorsLength())]
            self.inputs, self.outputs = _indices(main.InputsAsNumpy()), _indices(main.OutputsAsNumpy())
            for index in (*self.inputs, *self.outputs):
                self.tensors[index]
        except _DAMAGE:
            raise ExportError("is cut short or damaged: it cannot be parsed as a TFLite model", path) from None
        if not self.operators:
            raise ExportError("is not a TFLite model: it holds no graph", path)
        made = set(self.inputs)
        later = {index for op in self.operators for index in op.outputs}
        for op in self.operators:
            if any(index in later and index not in made for index in op.inputs):
                raise ExportError("is damaged: one of its operators takes what is made after it", path)
            made.update(op.outputs)
        self.producer = {index: op for op in self.operators for index in op.outputs}
        self.consumers = Counter(index for op in self.operators for index in op.inputs)
        self.consumers.update(self.outputs)
        self.varying = self.depending_on(self.inputs)
        self._constants: dict[int, NDArray[Any] | None] = {}

    # --- parsing -----------------------------------------------------------------------------------------------

    def _tensor(self, model: Any, tensor: Any) -> TensorInfo:
        shape = _indices(tensor.ShapeAsNumpy())
        dtype = _DTYPES.get(tensor.Type())
        buffer = model.Buffers(tensor.Buffer())
        stored = None
        if buffer.DataLength() and dtype is not None:
            data = buffer.DataAsNumpy()
            if len(data) != buffer.DataLength():
                raise ValueError("a buffer reaches past the end of the file")
            stored = data.view(dtype).reshape(shape)
        quantization = tensor.Quantization()
        found = None
        if quantization is not None and quantization.ScaleLength() and dtype in ("i1", "u1", "i2", "i4"):
            zero = quantization.ZeroPointAsNumpy() if quantization.ZeroPointLength() else np.zeros(1, np.int64)
            found = Quantization(quantization.ScaleAsNumpy(), zero, quantization.QuantizedDimension())
        return TensorInfo((tensor.Name() or b"").decode(errors="replace"), shape, dtype, stored, found)

    def _code(self, code: Any) -> str:
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if builtin == self.schema.BuiltinOperator.CUSTOM:
            return (code.CustomCode() or b"CUSTOM").decode(errors="replace")
        names = {value: name for name, value in vars(self.schema.BuiltinOperator).items() if isinstance(value, int)}
        return names.get(builtin, f"operator {builtin}")

    def _operator(self, operator: Any, codes: Sequence[str]) -> Operator:
        table, options = operator.BuiltinOptions(), None
        kind = operator.BuiltinOptionsType()
        if table is not None and kind:
            names = {value: name for name, value in vars(self.schema.BuiltinOptions).items() if isinstance(value, int)}
            options = getattr(self.schema, names[kind])()
            options.Init(table.Bytes, table.Pos)
        inputs, outputs = _indices(operator.InputsAsNumpy()), _indices(operator.OutputsAsNumpy())
        for index in (*inputs, *outputs):
            self.tensors[index]
        return Operator(codes[operator.OpcodeIndex()], inputs, outputs, options)

    # --- walking -----------------------------------------------------------------------------------------------

    def depending_on(self, tensors: Iterable[int]) -> set[int]:
        """The tensors and everything that is computed from them."""
        found = set(tensors)
        for op in self.operators:
            if found.intersection(op.inputs):
                found.update(op.outputs)
        return found

    def leading_to(self, tensors: Iterable[int]) -> list[Operator]:
        """The operators that tensors are computed from, in order."""
        wanted, kept = set(tensors), []
        for op in reversed(self.operators):
            if wanted.intersection(op.outputs):
                kept.append(op)
                wanted.update(op.inputs)
        return kept[::-1]

    def constant(self, index: int) -> NDArray[Any] | None:
        """The value of a tensor that does not depend on the input, floats as float32, else None."""
        if index < 0 or index in self.varying:
            return None
        if index not in self._constants:
            info = self.tensors[index]
            value: NDArray[Any] | None = None
            if info.stored is not None:
                value = dequantised(info)
            elif index in self.producer and self.producer[index].name == "DEQUANTIZE":
                value = self.constant(self.producer[index].inputs[0])
            self._constants[index] = value
        return self._constants[index]

    @cached_property
    def rounded(self) -> dict[str, list[int]]:
        """The constant tensors with fewer than 32 bits that the network is computed with, by their type."""
        used = {index for op in self.operators for index in op.inputs}
        found: dict[str, list[int]] = {}
        for index in sorted(used):
            info = self.tensors[index] if index >= 0 else None
            if info is not None and info.stored is not None:
                if info.dtype == "f2":
                    found.setdefault("float16", []).append(index)
                elif info.quantization is not None and info.dtype in ("i1", "u1"):
                    found.setdefault("int8", []).append(index)
        return found

    # --- writing -----------------------------------------------------------------------------------------------

    def with_outputs(self, outputs: Sequence[int]) -> bytes:
        """The file with other tensors as its outputs, only the operators that they need, and weights in float32.

        An integer weight makes the runtime round activations too; as float32 of the same value it is exact.
        """
        import flatbuffers

        schema = self.schema
        model = schema.ModelT.InitFromPackedBuf(self.content, 0)
        main = model.subgraphs[0]
        keep = {op.outputs for op in self.leading_to(outputs)}
        main.operators = [op for op in main.operators if tuple(op.outputs) in keep]
        main.outputs = np.asarray(outputs, np.int32)
        model.signatureDefs, model.metadata = None, None
        for index in self.rounded.get("int8", []):
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(dequantised(self.tensors[index])).tobytes(), np.uint8)
            model.buffers.append(buffer)
            tensor = main.tensors[index]
            tensor.buffer, tensor.type, tensor.quantization = len(model.buffers) - 1, schema.TensorType.FLOAT32, None
        # a dequantisation of what is float32 by now has nothing to do
        floats = set(self.rounded.get("int8", []))
        idle = [op for op in self.operators if op.name == "DEQUANTIZE" and op.inputs[0] in floats]
        gone = {op.outputs[0]: op.inputs[0] for op in idle}
        main.operators = [op for op in main.operators if op.outputs[0] not in gone]
        for op in main.operators:
            op.inputs = np.array([gone.get(int(index), int(index)) for index in op.inputs], np.int32)
        builder = flatbuffers.Builder(len(self.content))
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def dequantised(info: TensorInfo) -> NDArray[Any]:
    """A stored constant as it is meant: floats and quantised integers as float32, other integers as they are."""
    assert info.stored is not None
    if info.quantization is None:
        return info.stored.astype(np.float32) if info.stored.dtype.kind == "f" else info.stored
    rank = info.stored.ndim
    return (info.stored.astype(np.float32) - info.quantization.zeros(rank)) * info.quantization.steps(rank)


def _indices(array: Any) -> tuple[int, ...]:
    return () if isinstance(array, int) else tuple(int(i) for i in array)
