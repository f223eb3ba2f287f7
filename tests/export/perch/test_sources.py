"""Readers find the weights that a file was written with, whatever it was written like, and refuse anything else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from bce.engine.errors import ExportError
from bce.engine.files import sha256
from bce.export.perch.architecture import architecture
from bce.export.perch.backbone import Backbone, ProtoClassifier, build, extract
from bce.export.perch.published_graph import write_onnx
from bce.export.perch.sources import read_source
from bce.export.perch.weights import ConvNorm, Prototypes, Weights

WIDTH, CLASSES, WINDOW = 0.2, 6, 160_000


def random_weights(width: float = WIDTH) -> Weights:
    """A network with varied BatchNorm statistics and a classifier with a negative bias."""
    torch.manual_seed(1)
    backbone = Backbone(architecture(width)).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((backbone.architecture.head_channels, CLASSES, 4))
    vectors /= np.linalg.norm(vectors, axis=0)
    return extract(
        backbone,
        Prototypes(
            vectors.astype(np.float32),
            rng.uniform(0.5, 2, (CLASSES, 4)).astype(np.float32),
            rng.standard_normal(CLASSES).astype(np.float32) - 2,
        ),
    )


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights()


@dataclass(frozen=True)
class Style:
    """How another program might write the same network."""

    act: str = "mul_sigmoid"
    norm: str = "node"
    mean: str = "GlobalAveragePool"
    dense: str = "Conv"
    pads: str = "conv"
    constants: str = "initializers"
    batch: int | str = "n"
    classifier: bool = True
    length_offset: float = 1e-5
    best: str = "ReduceMax"
    maps: bool = False
    identities: bool = False
    epsilon: float = 1e-5
    skip_residual: int = -1


class Writer:
    """An NCHW file written by hand, independent of the published structure."""

    def __init__(self, style: Style) -> None:
        self.style, self.nodes, self.tensors = style, [], []

    def const(self, array: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.nodes)}_{len(self.tensors)}"
        tensor = numpy_helper.from_array(np.array(array, dtype), name)
        if self.style.constants == "nodes":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.tensors.append(tensor)
        return name

    def add(self, op: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        out = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], **attributes))
        if self.style.identities and not out.isalpha():
            self.nodes.append(helper.make_node("Identity", [out], [out + "_same"]))
            return out + "_same"
        return out

    def sigmoid(self, x: str) -> str:
        one, half = self.const(1.0), self.const(0.5)
        if self.style.act == "tanh":
            return self.add("Mul", half, self.add("Add", one, self.add("Tanh", self.add("Mul", x, half))))
        if self.style.act in ("divided", "reciprocal"):
            below = self.add("Add", self.add("Exp", self.add("Mul", x, self.const([[[[-1.0]]]]))), one)
            return self.add("Reciprocal", below) if self.style.act == "reciprocal" else self.add("Div", one, below)
        if self.style.act == "stable":
            small = self.add("Exp", self.add("Neg", self.add("Abs", x)))
            below = self.add("Add", small, one)
            positive = self.add("GreaterOrEqual", x, self.const(0.0))
            return self.add("Where", positive, self.add("Div", one, below), self.add("Div", small, below))
        return self.add("Sigmoid", x)

    def swish(self, x: str) -> str:
        if self.style.act in ("Relu", "HardSwish", "Swish"):
            return self.add(self.style.act, x)
        if self.style.act == "divided":
            return self.add("Div", x, self.add("Add", self.const(1.0), self.add("Exp", self.add("Neg", x))))
        return self.add("Mul", self.sigmoid(x), x)

    def conv(self, x: str, conv: ConvNorm, stride: int = 1, pads: tuple = ((0, 0), (0, 0)), groups: int = 1) -> str:
        (top, bottom), (left, right) = pads
        scale, shift = conv.scale.astype(np.float64), conv.shift.astype(np.float64)
        if self.style.pads == "nodes" and any((top, bottom, left, right)):
            x = self.add("Pad", x, self.const([0, 0, top, left, 0, 0, bottom, right], np.int64))
            top = left = bottom = right = 0
        attributes = {"strides": [stride, stride], "pads": [top, left, bottom, right], "group": groups}
        if self.style.norm == "folded":
            kernel = conv.kernel * scale[:, None, None, None]
            return self.add("Conv", x, self.const(kernel), self.const(shift), **attributes)
        if self.style.norm == "affine":
            bias, column = np.linspace(-1, 1, len(scale)), (-1, 1, 1)
            x = self.add("Conv", x, self.const(conv.kernel), self.const(bias), **attributes)
            x = self.add("Mul", self.const(scale.reshape(column)), x)
            return self.add("Sub", x, self.const((scale * bias - shift).reshape(column)))
        x = self.add("Conv", x, self.const(conv.kernel), **attributes)
        mean, variance = np.linspace(-1, 1, len(scale)), np.linspace(0.5, 2, len(scale))
        gamma = scale * np.sqrt(variance + self.style.epsilon)
        arrays = (gamma, shift + mean * scale, mean, variance)
        return self.add("BatchNormalization", x, *map(self.const, arrays), epsilon=self.style.epsilon)

    def mean(self, x: str, size: tuple[int, int], keep: bool = True) -> str:
        if self.style.mean == "GlobalAveragePool":
            x = self.add("GlobalAveragePool", x)
            return x if keep else self.add("Flatten", x)
        axes = self.const([2, 3], np.int64)
        if self.style.mean == "ReduceMean":
            return self.add("ReduceMean", x, axes, keepdims=int(keep))
        total = self.add("ReduceSum", x, axes, keepdims=int(keep))
        return self.add("Mul", total, self.const(1 / (size[0] * size[1])))

    def layer(self, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        """[n, in, 1, 1] -> [n, out, 1, 1]"""
        if self.style.dense == "Conv":
            return self.add("Conv", x, self.const(kernel[:, :, None, None]), self.const(bias))
        x = self.add("Reshape", x, self.const([0, -1], np.int64))
        if self.style.dense == "Gemm":
            x = self.add("Gemm", x, self.const(kernel), self.const(bias), transB=1)
        else:
            x = self.add("Add", self.add("MatMul", x, self.const(kernel.T)), self.const(bias))
        return self.add("Unsqueeze", x, self.const([2, 3], np.int64))

    def network(self, weights: Weights) -> onnx.ModelProto:
        arch = weights.architecture
        frames = self.add("Reshape", "sound", self.const([-1, 500, 320], np.int64))
        mel = self.const(np.random.default_rng(5).standard_normal((320, 128)) / 5)
        self.add("Tanh", self.add("MatMul", frames, mel), out="picture")
        x = self.add("Unsqueeze", "picture", self.const([1], np.int64))
        x = self.swish(self.conv(x, weights.stem, 2))
        outputs = ["vector", "picture"]
        for block, of in zip(arch.blocks, weights.blocks, strict=True):
            y = x if of.expand is None else self.swish(self.conv(x, of.expand))
            y = self.swish(self.conv(y, of.depthwise, block.stride, block.padding, block.expanded))
            gate = self.swish(self.layer(self.mean(y, block.out_size), of.gate.reduce_kernel, of.gate.reduce_bias))
            gate = self.sigmoid(self.layer(gate, of.gate.expand_kernel, of.gate.expand_bias))
            y = self.conv(self.add("Mul", y, gate), of.project)
            if block.residual and block.index != self.style.skip_residual:
                y = self.add("Add", y, x)
            x = y
            if self.style.maps:
                outputs.append(self.add("Identity", x, out=f"map{block.index}"))
        s = self.swish(self.conv(x, weights.head))
        self.add("Identity", self.mean(s, arch.map_size, keep=False), out="vector")
        if self.style.classifier and weights.prototypes is not None:
            self.classifier(s, weights.prototypes)
            outputs.append("scores")
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("sound", 1, [self.style.batch, WINDOW])],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            self.tensors,
        )
        opset = 24 if self.style.act == "Swish" else 18
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)

    def classifier(self, s: str, prototypes: Prototypes) -> None:
        rows = self.add("Transpose", self.add("Reshape", s, self.const([0, 0, -1], np.int64)), perm=[0, 2, 1])
        squares = self.add("ReduceSum", self.add("Mul", rows, rows), self.const([2], np.int64))
        length = self.add("Add", self.add("Sqrt", squares), self.const(self.style.length_offset))
        columns = prototypes.vectors.reshape(len(prototypes.vectors), -1)
        cosines = self.add("MatMul", self.add("Div", rows, length), self.const(columns))
        best = self.add(self.style.best, cosines, self.const([1], np.int64), keepdims=0)
        best = self.add("Reshape", best, self.const([-1, CLASSES, 4], np.int64))
        weighed = self.add("Mul", best, self.add("Relu", self.const(prototypes.strength)))
        total = self.add("ReduceSum", weighed, self.const([2], np.int64), keepdims=0)
        self.add("Add", total, self.const(prototypes.bias), out="scores")


def write(path: Path, weights: Weights, style: Style = Style()) -> Path:
    onnx.save(Writer(style).network(weights), path)
    return path


def assert_same(found: Weights, written: Weights, folded: bool = False) -> None:
    assert [x.out_channels for x in found.architecture.blocks] == [x.out_channels for x in written.architecture.blocks]
    for (part, name, array), (_, _, expected) in zip(_arrays(found, folded), _arrays(written, folded), strict=True):
        if folded or name.endswith(("scale", "shift")):
            np.testing.assert_allclose(
                array, expected, rtol=1e-6, atol=2e-6 * float(np.abs(expected).max()), err_msg=f"{part} {name}"
            )
        else:
            np.testing.assert_array_equal(array, expected, f"{part} {name}")


def _arrays(weights: Weights, folded: bool) -> list[tuple[str, str, np.ndarray]]:
    arrays = list(weights.arrays())
    if not folded:
        return arrays
    scales = {(part, name.split()[0]): array for part, name, array in arrays if name.endswith(" scale")}
    result = []
    for part, name, array in arrays:
        if name.endswith(" kernel") and (part, name.split()[0]) in scales:
            array = array * scales[part, name.split()[0]][:, None, None, None]
        if not name.endswith(" scale"):
            result.append((part, name, array))
    return result


STYLES = {
    "BatchNorm nodes": Style(),
    "folded, decomposed, ReduceMean, Gemm": Style("reciprocal", "folded", "ReduceMean", "Gemm"),
    "affine behind, x / (1 + exp(-x)), sums, MatMul": Style("divided", "affine", "ReduceSum", "MatMul"),
    "tanh, Pad nodes, Constant nodes": Style("tanh", pads="nodes", constants="nodes"),
    "stable sigmoid, Identity everywhere": Style("stable", "affine", identities=True),
    "batch of one": Style(norm="folded", batch=1, dense="MatMul"),
    "no classifier": Style(classifier=False, mean="ReduceSum"),
}


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())
def test_weights_come_back_whatever_the_style(style: Style, weights: Weights, tmp_path: Path) -> None:
    path = write(tmp_path / "other.onnx", weights, style)
    source = read_source(path)
    expected = weights if style.classifier else replace(weights, prototypes=None)
    assert_same(source.weights, expected, folded=style.norm == "folded")
    assert (source.form, source.licence, source.notice, source.sha256) == ("onnx", "unknown", "", sha256(path))


def test_fused_swish(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the runtime may not have the operator: only the frontend, which does not use it, is run
    assert_same(read_source(write(tmp_path / "a.onnx", weights, Style("Swish"))).weights, weights)


def _uniform(conv: ConvNorm | None) -> Any:
    return conv and ConvNorm(conv.kernel, np.full_like(conv.scale, 0.75), np.full_like(conv.shift, -0.25))


@pytest.mark.parametrize("act", ["mul_sigmoid", "divided"])
def test_constants_of_one_value_are_no_activation(act: str, weights: Weights, tmp_path: Path) -> None:
    """An untrained network's scales are all 1, and one number may look like a part of the activation behind it."""
    assert weights.prototypes is not None
    ones = np.full_like
    same = replace(
        weights,
        stem=_uniform(weights.stem),
        head=_uniform(weights.head),
        blocks=tuple(
            replace(
                block,
                expand=_uniform(block.expand),
                depthwise=_uniform(block.depthwise),
                project=_uniform(block.project),
                gate=replace(
                    block.gate,
                    reduce_bias=ones(block.gate.reduce_bias, 0.5),
                    expand_bias=ones(block.gate.expand_bias, -0.5),
                ),
            )
            for block in weights.blocks
        ),
        prototypes=replace(
            weights.prototypes, strength=ones(weights.prototypes.strength, 2), bias=ones(weights.prototypes.bias, -2)
        ),
    )
    for norm, dense in (("affine", "MatMul"), ("folded", "Gemm")):
        path = write(tmp_path / f"{norm}.onnx", same, Style(act, norm, dense=dense))
        assert_same(read_source(path).weights, same, folded=norm == "folded")


@pytest.mark.parametrize(("form", "swish"), [("no_dft", "decomposed"), ("dft", "sigmoid")])
def test_published_structure(form: Any, swish: Any, weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "perch.onnx"
    write_onnx(weights, path, form=form, swish=swish, names=swish == "sigmoid", notice="not Perch's own")
    source = read_source(path)
    assert_same(source.weights, weights)
    assert source.notice == "not Perch's own"
    waveforms = _noise(2)
    plain = dict(
        zip(
            ("embedding", "spectrogram", "label"),
            _run(path, waveforms, "embedding", "spectrogram", "label"),
            strict=True,
        )
    )
    reference = source.reference([3], ["embedding", "label"])
    assert reference is not None
    for name, array in reference(waveforms).items():
        if name in plain:
            np.testing.assert_allclose(array, plain[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_reference_is_the_source(batch: int | str, weights: Weights, tmp_path: Path) -> None:
    path = write(tmp_path / "maps.onnx", weights, Style(batch=batch, maps=True, norm="affine"))
    waveforms = _noise(3)
    names = ["vector", "picture", "scores", "map0", "map13", "map25"]
    step = 3 if batch == "n" else int(batch)
    padded = np.concatenate([waveforms, np.zeros((-3 % step, WINDOW), np.float32)])
    runs = [_run(path, padded[i : i + step], *names) for i in range(0, len(padded), step)]
    plain = {name: np.concatenate([run[i] for run in runs])[:3] for i, name in enumerate(names)}
    reference = read_source(path).reference([0, 13, 25], ["embedding", "label"])
    assert reference is not None
    found = reference(waveforms)
    expected = {"spectrogram": plain["picture"], "embedding": plain["vector"], "label": plain["scores"]}
    expected |= {f"block_{k}": plain[f"map{k}"].mean(axis=(2, 3), dtype=np.float64) for k in (0, 13, 25)}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_reference_leaves_out_what_is_not_there(weights: Weights, tmp_path: Path) -> None:
    source = read_source(write(tmp_path / "a.onnx", weights, Style(classifier=False)))
    reference = source.reference([], ["embedding", "label"])
    assert reference is not None
    assert reference(_noise(1)).keys() == {"spectrogram", "embedding"}


def test_read_weights_compute_what_the_source_computes(weights: Weights, tmp_path: Path) -> None:
    source = read_source(write(tmp_path / "a.onnx", weights, Style("stable", "affine", "ReduceSum", "Gemm")))
    reference = source.reference([5, 24], ["embedding", "label"])
    assert reference is not None
    found = reference(_noise(1))
    backbone = build(source.weights)
    assert source.weights.prototypes is not None
    with torch.no_grad():
        maps = backbone.block_maps(torch.from_numpy(found["spectrogram"]))
        spatial = backbone.head(maps[-1])
        label = ProtoClassifier(source.weights.prototypes)(spatial)
    expected = {"block_5": maps[5].mean((2, 3)), "block_24": maps[24].mean((2, 3)), "embedding": spatial.mean((2, 3))}
    for name, tensor in (expected | {"label": label}).items():
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


def _noise(count: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(count).standard_normal((count, WINDOW))).astype(np.float32)


def _run(path: Path, waveforms: np.ndarray, *outputs: str) -> list[np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {session.get_inputs()[0].name: waveforms})


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "reason"),
    [
        (Style("Relu"), "stem: expected swish, found ReLU"),
        (Style("HardSwish"), "stem: expected swish, found hard swish"),
        (Style(epsilon=1e-3), "stem, conv: expected BatchNorm's epsilon 1e-05, found 0.001"),
        (Style(length_offset=1e-3), "classifier: expected the features divided by their length"),
        (Style(best="ReduceMean"), "classifier: expected a max over mel and time, found a mean"),
        (Style(skip_residual=7), "block 7, residual: expected its input added to the output, found no input added"),
    ],
)
def test_another_variant_is_refused(style: Style, reason: str, weights: Weights, tmp_path: Path) -> None:
    _refused(write(tmp_path / "other.onnx", weights, style), reason)


def _with_block(weights: Weights, index: int, **changes: Any) -> Weights:
    arch = weights.architecture
    changed = replace(arch.blocks[index], **changes)
    return replace(
        weights, architecture=replace(arch, blocks=(*arch.blocks[:index], changed, *arch.blocks[index + 1 :]))
    )


def _with_kernel(weights: Weights, index: int, change: Callable[[np.ndarray], np.ndarray]) -> Weights:
    block = weights.blocks[index]
    block = replace(block, depthwise=replace(block.depthwise, kernel=change(block.depthwise.kernel)))
    return replace(weights, blocks=(*weights.blocks[:index], block, *weights.blocks[index + 1 :]))


def test_another_depth_is_refused(weights: Weights, tmp_path: Path) -> None:
    keep = [0, 2, 3, 5, 6, 8, 9, 10, 13, 14, 15, 18, 19, 20, 21, 24]
    arch = replace(weights.architecture, blocks=tuple(weights.architecture.blocks[i] for i in keep))
    narrow = replace(weights, architecture=arch, blocks=tuple(weights.blocks[i] for i in keep))
    _refused(write(tmp_path / "b0.onnx", narrow), "expected 26 blocks, found 16")


def test_another_kernel_is_refused(weights: Weights, tmp_path: Path) -> None:
    wider = _with_kernel(weights, 9, lambda kernel: np.pad(kernel, ((0, 0), (0, 0), (1, 1), (1, 1))))
    wider = _with_block(wider, 9, padding=((2, 2), (2, 2)))
    _refused(write(tmp_path / "k.onnx", wider), r"block 9, depthwise: expected kernel size \(3, 3\), found \(5, 5\)")


def test_another_padding_is_refused(weights: Weights, tmp_path: Path) -> None:
    begin = _with_block(weights, 8, padding=((1, 1), (1, 0)))
    reason = r"block 8, depthwise: expected padding .* \(\(1, 1\), \(0, 1\)\), found \(\(1, 1\), \(1, 0\)\)"
    for pads in ("conv", "nodes"):
        _refused(write(tmp_path / "p.onnx", begin, Style(pads=pads)), reason)


def test_another_channel_count_is_refused(weights: Weights, tmp_path: Path) -> None:
    block = weights.blocks[25]
    gate = replace(
        block.gate,
        reduce_kernel=block.gate.reduce_kernel[:-1],
        reduce_bias=block.gate.reduce_bias[:-1],
        expand_kernel=block.gate.expand_kernel[:, :-1],
    )
    changed = replace(weights, blocks=(*weights.blocks[:25], replace(block, gate=gate)))
    squeezed = weights.architecture.blocks[25].squeezed
    _refused(
        write(tmp_path / "c.onnx", changed),
        f"block 25, gate reduce: expected output channels {squeezed}, found {squeezed - 1}",
    )


def test_not_finite_is_refused(weights: Weights, tmp_path: Path) -> None:
    broken = _with_kernel(weights, 4, lambda kernel: np.full_like(kernel, np.nan))
    _refused(write(tmp_path / "n.onnx", broken), "block 4, depthwise kernel: expected finite numbers")


@pytest.mark.parametrize("shape", [["n", 96_000], ["n", 1, WINDOW], [WINDOW]])
def test_another_input_is_refused(shape: list[Any], weights: Weights, tmp_path: Path) -> None:
    model = Writer(Style()).network(weights)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("sound", 1, shape))
    onnx.save(model, tmp_path / "i.onnx")
    _refused(tmp_path / "i.onnx", r"input 'sound': expected float \[batch, 160000\]")


def test_another_classifier_is_refused(weights: Weights, tmp_path: Path) -> None:
    model = Writer(Style(classifier=False)).network(weights)
    channels = weights.architecture.head_channels
    model.graph.initializer.append(numpy_helper.from_array(np.ones((channels, 3), np.float32), "linear"))
    model.graph.node.append(helper.make_node("MatMul", ["vector", "linear"], ["label"]))
    onnx.save(model, tmp_path / "own_output.onnx")
    assert read_source(tmp_path / "own_output.onnx").weights.prototypes is None  # nobody asks for the value

    model.graph.output.append(onnx.ValueInfoProto(name="label"))
    onnx.save(model, tmp_path / "linear.onnx")
    _refused(tmp_path / "linear.onnx", "classifier: expected 'label' to come from prototypes")


def test_another_model_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info("x", 1, ["n", WINDOW])],
        [helper.make_tensor_value_info("y", 1, ["n", 2])],
        [numpy_helper.from_array(np.zeros((WINDOW, 2), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    _refused(tmp_path / "other.onnx", "stem: expected a two-dimensional convolution of one channel, found none")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "missing.onnx", "does not exist")
    (tmp_path / "text.onnx").write_text("not a model at all\n" * 50)
    _refused(tmp_path / "text.onnx", "is not an ONNX")
    (tmp_path / "empty.onnx").touch()
    _refused(tmp_path / "empty.onnx", "is not an ONNX model: it holds no graph")


@given(st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_short_is_refused(weights: Weights, tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "whole.onnx"
    if not whole.exists():
        write(whole, weights)
    content = whole.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(content[: data.draw(st.integers(1, len(content) - 20))])
    _refused(cut, "is cut short|no graph|is not an ONNX")


def _refused(path: Path, reason: str) -> None:
    with pytest.raises(ExportError, match=reason) as error:
        read_source(path)
    assert "\n" not in str(error.value)
    assert error.value.path == str(path)


def test_weights_beside_the_file_are_part_of_its_digest(small_onnx: Path, tmp_path: Path) -> None:
    """As ``sha256sum a.onnx w.bin | sha256sum`` has it; another file of weights is another source."""
    path, beside = tmp_path / "a.onnx", tmp_path / "w.bin"
    onnx.save(onnx.load(small_onnx), path, save_as_external_data=True, location="w.bin")
    source = read_source(path)
    digests = {"a.onnx": sha256(path), "w.bin": sha256(beside)}
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    assert source.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert source.notes == tuple(f"source file {name}: SHA-256 {digest}" for name, digest in digests.items())
    whole = read_source(small_onnx).weights.arrays()
    for (_, _, found), (_, _, expected) in zip(source.weights.arrays(), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("place", "name"),
    [(1, "stem, conv"), (2, "block 0, depthwise"), (5, "block 1, project"), (70, "block 23, depthwise")],
)
def test_an_attribute_that_changes_a_maps_size_is_named_itself(
    small_onnx: Path, tmp_path: Path, place: int, name: str
) -> None:
    """And not what breaks behind it: the mean is a sum divided by the size that the map should have."""
    model = onnx.load(small_onnx)
    node = [node for node in model.graph.node if node.op_type == "Conv"][place]
    kept = [attribute for attribute in node.attribute if attribute.name not in ("pads", "auto_pad")]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("pads", [0, 1, 1, 2])])
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ExportError, match=rf"x.onnx: {name}: expected padding .*, found \(\(0, 1\), \(1, 2\)\)"):
        read_source(tmp_path / "x.onnx")


def test_a_node_that_contradicts_itself_is_named(small_onnx: Path, tmp_path: Path) -> None:
    """As a flipped bit makes it: an axis that there is not."""
    model = onnx.load(small_onnx)
    node = [node for node in model.graph.node if node.op_type == "Transpose"][9]
    node.attribute[0].CopyFrom(helper.make_attribute("perm", [0, 3, 1, 9]))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(ExportError, match=r"x.onnx: block .*, found .*Transpose"):
        read_source(tmp_path / "x.onnx")
