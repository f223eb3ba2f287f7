"""Perch v2's published graph, node by node, for weights of any kind: trained here, or a stand-in's.

The structure is that of ``perch_v2_no_dft.onnx`` and ``perch_v2.onnx``: framing as a convolution with an identity
kernel, NHWC with Transposes around every convolution, a bias in the convolution and BatchNorm apart behind it, means
as sums, the ProtoPNet classifier over all positions, scoped tensor names. So a backbone that was trained here leaves as
a file that ``bce-export`` reads like Perch's own. The graph's frontend is written apart from the engine's so that one
can be checked against the other.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from bce.engine.files import beside
from bce.export.perch.architecture import FRAMES, MELS, PROTOTYPES_PER_CLASS, Block
from bce.export.perch.backbone import COSINE_EPSILON
from bce.export.perch.weights import BlockWeights, ConvNorm, Prototypes, SqueezeExcite, Weights

Form = Literal["no_dft", "dft"]
Swish = Literal["sigmoid", "decomposed"]

WINDOW_SAMPLES = 160_000
FRAME_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 640, 320, 1024
PAD_SAMPLES = 160
LOG_FLOOR, LOG_SCALE = 1e-5, 0.1
_BINS = FFT_SAMPLES // 2 + 1

_OPSET, _IR_VERSION = 18, 8
_FIRST_CONV = 7
"""Number in the name of the framing convolution; the others follow in the order of the network."""

_SCOPE = "jit(infer_fn)/MultiHeadClassifier/MultiHeadClassifier._call_model/"
_BACKBONE = _SCOPE + "embedding_model/backbone/"
_PROTOPNET = _SCOPE + "heads_protopnet_logits/"
_STRENGTH, _BIAS, _FIRST_CONSTANT = "arith.constant62", "arith.constant61", 63


def hann_window() -> NDArray[np.float64]:
    """The symmetric Hann window divided by its sum: [640] (chirp ``signal``, SimpleMelspec)."""
    window = np.hanning(FRAME_SAMPLES)
    return window / window.sum()


def mel_matrix() -> NDArray[np.float64]:
    """Triangles that are linear on the HTK mel scale, from 60 to 16,000 Hz, without area norm: [513, 128]."""

    def mel(frequency: ArrayLike) -> NDArray[np.float64]:
        return 1127.0 * np.log1p(np.asarray(frequency, np.float64) / 700.0)

    edges = np.linspace(mel(60.0), mel(16_000.0), MELS + 2)
    bins = mel(np.arange(_BINS) * (32_000 / FFT_SAMPLES))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    matrix = np.maximum(0.0, np.minimum(rising, falling))
    matrix[0] = 0.0
    return matrix


def dft_matrix() -> NDArray[np.float64]:
    """Real parts and imaginary parts of a real DFT, interleaved: [1024, 1026]."""
    angle = 2 * np.pi * (np.outer(np.arange(FFT_SAMPLES), np.arange(_BINS)) % FFT_SAMPLES) / FFT_SAMPLES
    return np.stack([np.cos(angle), -np.sin(angle)], axis=2).reshape(FFT_SAMPLES, 2 * _BINS)


def log_mel(windows: NDArray[np.floating]) -> NDArray[np.float64]:
    """What the frontend of the graph computes, in float64: samples [n, 160000] -> log-mel [n, 500, 128]."""
    padded = np.pad(np.asarray(windows, np.float64), ((0, 0), (PAD_SAMPLES, PAD_SAMPLES)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME_SAMPLES, axis=1)[:, ::HOP_SAMPLES]
    weighted, matrix = hann_window(), mel_matrix()
    # one window at a time: the spectra of all of them would fill the memory
    mel = np.stack([np.abs(np.fft.rfft(of_window * weighted, FFT_SAMPLES)) @ matrix for of_window in frames])
    return LOG_SCALE * np.log(np.maximum(mel, LOG_FLOOR))


def write_onnx(
    weights: Weights,
    path: str | os.PathLike[str],
    *,
    form: Form = "no_dft",
    swish: Swish = "sigmoid",
    names: bool = True,
    notice: str = "",
    licence: str = "",
) -> None:
    """Write weights as an ONNX file of the published structure.

    Input ``inputs`` [batch, 160000]; outputs ``embedding`` [batch, 1536], ``spatial_embedding`` [batch, 16, 4, 1536],
    ``spectrogram`` [batch, 500, 128] and, where the weights have a classifier, ``label`` [batch, classes].

    Args:
        weights: of any width.
        path: of the file; it is written beside and renamed.
        form: the Fourier transform as a dense matrix (``perch_v2_no_dft.onnx``) or as an operator (``perch_v2.onnx``).
        swish: sigmoid as one operator or as 1 / (1 + exp(-x)), in activations and gates alike.
        names: scoped tensor names as in the published file; otherwise only inputs and outputs have a telling name.
        notice, licence: kept in the file's metadata under these names.
    """
    graph = _Graph(names, swish)
    spectrogram = _frontend(graph, form)
    spatial = _backbone(graph, weights, spectrogram)
    _embedding(graph, spatial, weights.architecture.map_size)
    height, width = weights.architecture.map_size
    channels = weights.architecture.head_channels
    outputs: dict[str, tuple[int, ...]] = {
        "embedding": (channels,),
        "spatial_embedding": (height, width, channels),
        "spectrogram": (FRAMES, MELS),
    }
    if weights.prototypes is not None:
        _classifier(graph, spatial, weights.prototypes, (height, width))
        outputs["label"] = (weights.prototypes.classes,)
    model = graph.finish({"inputs": (WINDOW_SAMPLES,)}, outputs)
    helper.set_model_props(model, {key: text for key, text in (("notice", notice), ("licence", licence)) if text})
    with beside(path) as partial:
        onnx.save(model, partial)


class _Graph:
    """A graph under construction: every method adds nodes and returns the name of what they put out."""

    def __init__(self, names: bool, swish: Swish) -> None:
        # filled in place: helper.make_graph and make_model would each copy 400 MB
        self.model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="bce")
        self.model.opset_import.add(domain="", version=_OPSET)
        self.model.graph.name = "main_graph"
        self.names = names
        self.decomposed = swish == "decomposed"
        self.convolutions = 0
        self.constants = _FIRST_CONSTANT
        self.used: dict[str, int] = {}
        # one seed for all files: it only decides how each BatchNorm's shift is spread over two constants
        self.rng = np.random.default_rng(0)

    def name(self, hint: str) -> str:
        if not self.names:
            hint = "v"
        count = self.used[hint] = self.used.get(hint, -1) + 1
        return f"{hint}_{count}" if count or not self.names else hint

    def constant(self, values: ArrayLike, hint: str = "", dtype: type = np.float32) -> str:
        if not hint:
            hint = f"arith.constant{self.constants}"
            self.constants += 1
        name = self.name(hint)
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype, order="C"), name))
        return name

    def add(self, op: str, *inputs: str, hint: str = "val", out: str = "", **attributes: Any) -> str:
        """A node. ``out`` is an exact name for an output of the graph, ``hint`` one that may be changed."""
        out = out or self.name(hint)
        node = helper.make_node(op, inputs, [out], name=self.name(f"node_{op}"), **attributes)
        self.model.graph.node.append(node)
        return out

    def reshape(self, x: str, *shape: int, hint: str = "val") -> str:
        return self.add("Reshape", x, self.constant(shape, dtype=np.int64), hint=hint)

    def reduce(self, op: str, x: str, *axes: int, keepdims: int, hint: str = "val") -> str:
        return self.add(op, x, self.constant(axes, dtype=np.int64), hint=hint, keepdims=keepdims)

    def sigmoid(self, x: str, scope: str) -> str:
        if not self.decomposed:
            return self.add("Sigmoid", x, hint=f"{scope}logistic")
        one = self.constant(1.0)
        exponential = self.add("Exp", self.add("Neg", x, hint=f"{scope}neg"), hint=f"{scope}exp")
        return self.add("Div", one, self.add("Add", exponential, one, hint=f"{scope}add"), hint=f"{scope}div")

    def swish(self, x: str, scope: str, out: str = "") -> str:
        return self.add("Mul", x, self.sigmoid(x, scope), hint=f"{scope}mul", out=out)

    def conv(self, x: str, kernel: NDArray[np.floating], bias: ArrayLike, scope: str, **attributes: Any) -> str:
        """NHWC -> Transpose, Conv, Transpose -> NHWC."""
        number = _FIRST_CONV + self.convolutions
        self.convolutions += 1
        x = self.add("Transpose", x, hint=f"{scope}conv_general_dilated", perm=[0, 3, 1, 2])
        out = self.name(f"Conv_{number}")
        node = helper.make_node(
            "Conv",
            [x, self.constant(kernel), self.constant(bias)],
            [out],
            name=f"node_Conv_{number}" if self.names else self.name(""),
            kernel_shape=kernel.shape[2:],
            **attributes,
        )
        self.model.graph.node.append(node)
        return self.add("Transpose", out, perm=[0, 2, 3, 1])

    def conv_norm(self, x: str, weights: ConvNorm, scope: str, conv: str, norm: str, **attributes: Any) -> str:
        """A convolution with a bias, then Mul and Add: scale * (conv + bias) + beta, a part of the shift in each."""
        scale, shift = weights.scale.astype(np.float64), weights.shift.astype(np.float64)
        bias = (self.rng.uniform(0.5, 1.2, shift.shape) * shift / np.where(scale == 0, 1, scale)).astype(np.float32)
        beta = shift - scale * bias
        x = self.conv(x, weights.kernel, bias, f"{scope}{conv}/", **attributes)
        x = self.add("Mul", x, self.constant(scale.reshape(1, 1, 1, -1)), hint=f"{scope}{norm}/mul")
        return self.add("Add", x, self.constant(beta.reshape(1, 1, 1, -1)), hint=f"{scope}{norm}/add")

    def finish(self, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
        graph = self.model.graph
        for values, shapes in ((graph.input, inputs), (graph.output, outputs)):
            for name, shape in shapes.items():
                values.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape]))
        return self.model


def _frontend(graph: _Graph, form: Form) -> str:
    x = graph.reshape("inputs", -1, WINDOW_SAMPLES, 1, 1)
    identity = np.eye(FRAME_SAMPLES).reshape(FRAME_SAMPLES, 1, FRAME_SAMPLES, 1)
    pads = [PAD_SAMPLES, 0, PAD_SAMPLES, 0]
    scope = _SCOPE + "frontend/"
    x = graph.conv(x, identity, np.zeros(FRAME_SAMPLES), scope, pads=pads, strides=[HOP_SAMPLES, 1])
    x = graph.reshape(x, -1, FRAMES, FRAME_SAMPLES)
    x = graph.add("Mul", x, graph.constant(hann_window()), hint=f"{scope}mul")
    beyond = graph.constant([0, 0, 0, 0, 0, FFT_SAMPLES - FRAME_SAMPLES], dtype=np.int64)
    x = graph.add("Pad", x, beyond, graph.constant(0.0), hint=f"{scope}pad")
    if form == "dft":
        x = graph.reshape(x, -1, FRAMES, FFT_SAMPLES, 1)
        length = graph.constant(FFT_SAMPLES, dtype=np.int64)
        x = graph.add("DFT", x, length, hint=f"{scope}fft", axis=-2, onesided=1)
    else:
        x = graph.add("MatMul", x, graph.constant(dft_matrix()), hint=f"{scope}fft")
        x = graph.reshape(x, -1, FRAMES, _BINS, 2)
    x = graph.reduce("ReduceL2", x, -1, keepdims=0, hint=f"{scope}abs")
    x = graph.add("MatMul", x, graph.constant(mel_matrix()), hint=f"{scope}dot_general")
    x = graph.add("Max", x, graph.constant(LOG_FLOOR), hint=f"{scope}max")
    x = graph.add("Log", x, hint=f"{scope}log")
    return graph.add("Mul", x, graph.constant(LOG_SCALE), out="spectrogram")


def _backbone(graph: _Graph, weights: Weights, spectrogram: str) -> str:
    x = graph.reshape(spectrogram, -1, FRAMES, MELS, 1)
    scope = f"{_BACKBONE}Stem_0/"
    x = graph.conv_norm(x, weights.stem, scope, "Conv_0", "BatchNorm_0", strides=[2, 2])
    x = graph.swish(x, scope)
    for block, of_block in zip(weights.architecture.blocks, weights.blocks, strict=True):
        x = _block(graph, block, of_block, x)
    scope = f"{_BACKBONE}Head_0/"
    x = graph.conv_norm(x, weights.head, scope, "Conv_0", "BatchNorm_0")
    return graph.swish(x, scope, out="spatial_embedding")


def _block(graph: _Graph, block: Block, weights: BlockWeights, x: str) -> str:
    scope = f"{_BACKBONE}MBConv_{block.index}/"
    entering = x
    if weights.expand is not None:
        x = graph.conv_norm(x, weights.expand, scope, "ExpandConv", "ExpandBatchNorm")
        x = graph.swish(x, scope)
    (top, bottom), (left, right) = block.padding
    x = graph.conv_norm(
        x,
        weights.depthwise,
        scope,
        "DepthwiseConv",
        "DepthwiseBatchNorm",
        group=block.expanded,
        strides=[block.stride, block.stride],
        pads=[top, left, bottom, right],
    )
    x = graph.swish(x, scope)
    x = _gate(graph, weights.gate, x, block.out_size, f"{scope}SqueezeAndExcitation_0/")
    x = graph.conv_norm(x, weights.project, scope, "ProjectConv", "ProjectBatchNorm")
    return graph.add("Add", x, entering, hint=f"{scope}add") if block.residual else x


def _gate(graph: _Graph, gate: SqueezeExcite, x: str, size: tuple[int, int], scope: str) -> str:
    pooled = graph.reduce("ReduceSum", x, 1, 2, keepdims=1, hint=f"{scope}reduce_sum")
    pooled = graph.add("Div", pooled, graph.constant(float(size[0] * size[1])), hint=f"{scope}div")
    y = graph.add("MatMul", pooled, graph.constant(gate.reduce_kernel.T), hint=f"{scope}Reduce/dot_general")
    y = graph.add("Add", y, graph.constant(gate.reduce_bias), hint=f"{scope}Reduce/add")
    y = graph.swish(y, scope)
    y = graph.add("MatMul", y, graph.constant(gate.expand_kernel.T), hint=f"{scope}Expand/dot_general")
    y = graph.add("Add", y, graph.constant(gate.expand_bias), hint=f"{scope}Expand/add")
    return graph.add("Mul", x, graph.sigmoid(y, scope), hint=f"{scope}mul")


def _embedding(graph: _Graph, spatial: str, size: tuple[int, int]) -> None:
    total = graph.reduce("ReduceSum", spatial, 1, 2, keepdims=0)
    graph.add("Mul", total, graph.constant(1 / (size[0] * size[1])), out="embedding")


def _classifier(graph: _Graph, spatial: str, prototypes: Prototypes, size: tuple[int, int]) -> None:
    classes = prototypes.classes
    length = graph.reduce("ReduceL2", spatial, -1, keepdims=1, hint=f"{_PROTOPNET}norm")
    length = graph.add("Add", length, graph.constant(COSINE_EPSILON), hint=f"{_PROTOPNET}add")
    unit = graph.add("Div", spatial, length, hint=f"{_PROTOPNET}div")
    columns = prototypes.vectors.reshape(len(prototypes.vectors), -1)
    kernel = graph.constant(columns, f"{_PROTOPNET}dot_general6_reshaped_0")
    cosines = graph.add("MatMul", unit, kernel, hint=f"{_PROTOPNET}dot_general")
    cosines = graph.reshape(cosines, -1, *size, classes, PROTOTYPES_PER_CLASS)
    best = graph.reduce("ReduceMax", cosines, 1, 2, keepdims=0, hint=f"{_PROTOPNET}reduce_max")
    weighed = graph.add("Mul", best, graph.constant(prototypes.strength[None], _STRENGTH), hint=f"{_PROTOPNET}mul")
    total = graph.reduce("ReduceSum", weighed, -1, keepdims=0, hint=f"{_PROTOPNET}reduce_sum")
    graph.add("Add", total, graph.constant(prototypes.bias[None], _BIAS), out="label")
