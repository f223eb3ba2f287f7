"""int8: the rewritten graph against numpy definitions of what it computes, the gate, and the export that carries it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import spearmanr

pytest.importorskip("torch", reason="needs the extra bce[export]")

from bce.engine.errors import ExportError, OptionsError, ParityError
from bce.engine.frontends.perch import WINDOW, PerchFrontend, Preparation, log_mel_reference
from bce.engine.network.bundle import Bundle
from bce.engine.network.model import Model
from bce.export.commands import export as cli
from bce.export.commands.options import ExportOptions
from bce.export.perch.architecture import INT8_FIRST_BLOCKS
from bce.export.perch.graph import export_backbone, pointwise_block
from bce.export.perch.weights import Weights
from bce.export.proof import calibration
from bce.export.proof.calibration import (
    Int8,
    calibration_inputs,
    compare,
    quantize_within_limits,
    rank_correlation,
)
from bce.export.proof.quantize import LARGEST_WEIGHT, quantize_backbone, quantized_weights

INT8 = Int8(INT8_FIRST_BLOCKS, pointwise_block)


def calibration_windows(paths: list[Path], preparation: Preparation) -> np.ndarray:
    return calibration_inputs(paths, WINDOW, PerchFrontend(preparation))


def run(path: Path, log_mel: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"log_mel": log_mel}), strict=True))


def product(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The product of activations [positions, inputs] and weights [inputs, outputs] in 8 bits, by its definition."""
    low, high = min(activations.min(), 0), max(activations.max(), 0)
    step = (high - low) / 255 or 1.0
    zero = np.clip(np.round(-low / step), 0, 255)
    rounded = (np.clip(np.round(activations / step) + zero, 0, 255) - zero) * step
    scale = np.abs(weights).max(axis=0) / 64
    scale[scale == 0] = 1
    return rounded @ (np.round(weights / scale) * scale)


@pytest.fixture(scope="module")
def backbone(small_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fp32") / "backbone.onnx"
    export_backbone(small_weights, path, (21, 24, 25), ("blocks", "embedding", "label"))
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of 6 s whose loudness and colour differ, so that scores have an order to keep."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(3)
    time_s = np.arange(6 * 32_000) / 32_000
    for number in range(12):
        tone = np.sin(2 * np.pi * 300 * 1.35**number * time_s) * np.clip(np.sin(5 * time_s), 0, None)
        audio = 0.02 * rng.standard_normal(len(time_s)) * 1.3 ** (number % 5) + 0.03 * number * tone
        soundfile.write(folder / f"recording_{number:02d}.wav", np.clip(audio, -1, 1), 32_000, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def log_mels(recordings: Path) -> np.ndarray:
    return calibration_windows([recordings], "none")


weights_arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(-8, 8, width=32).map(lambda value: 0.0 if abs(value) < 1e-6 else value),
)


@given(weights_arrays)
@settings(max_examples=60, deadline=None)
def test_weights_are_within_half_a_step_and_never_saturate(weights: np.ndarray) -> None:
    values, scale = quantized_weights(weights)
    assert values.dtype == np.int8
    assert np.abs(values.astype(int)).max(initial=0) <= LARGEST_WEIGHT
    # two products of an uint8 and a weight fit in 16 bits with a sign
    assert 255 * LARGEST_WEIGHT * 2 < 2**15
    assert np.allclose(values * scale.astype(np.float64), weights, atol=0.5001 * scale.max() + 1e-12)
    assert (np.abs(values * scale.astype(np.float64) - weights) <= 0.5001 * scale).all()


def small_graph(path: Path, kernel: np.ndarray, bias: np.ndarray, gated: bool) -> None:
    """A pointwise convolution of block 20 between two depthwise ones, with a gate before it and a residual after."""
    width = kernel.shape[1]
    depthwise = np.random.default_rng(1).standard_normal((width, 1, 3, 3)).astype(np.float32)
    arrays = {"first": depthwise, "blocks.20.project.conv.weight": kernel, "bias": bias, "last": depthwise}
    conv = {"kernel_shape": [3, 3], "pads": [1] * 4, "group": width}
    nodes = [
        helper.make_node("Conv", ["log_mel", "first"], ["a"], **conv),
        helper.make_node("GlobalAveragePool", ["a"], ["mean"]),
        helper.make_node("Sigmoid", ["mean"], ["gate"]),
        helper.make_node("Mul", ["a", "gate"], ["b"]),
        helper.make_node("Conv", ["b" if gated else "a", "blocks.20.project.conv.weight", "bias"], ["c"]),
        helper.make_node("Add", ["c", "log_mel"], ["d"]),
        helper.make_node("Conv", ["d", "last"], ["out"], **conv),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("log_mel", TensorProto.FLOAT, ["batch", width, 7, 5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("b", "c", "out")],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    Path(path).write_bytes(model.SerializeToString())


@pytest.mark.parametrize("gated", [True, False])
def test_a_convolution_becomes_the_8_bit_product_of_its_definition(tmp_path: Path, gated: bool) -> None:
    rng = np.random.default_rng(5)
    width = 24
    kernel = rng.standard_normal((width, width, 1, 1)).astype(np.float32)
    bias = rng.standard_normal(width).astype(np.float32)
    small_graph(tmp_path / "fp32.onnx", kernel, bias, gated)
    assert quantize_backbone(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", 20, pointwise_block) == 1
    data = rng.standard_normal((1, width, 7, 5)).astype(np.float32)
    exact, found = run(tmp_path / "fp32.onnx", data), run(tmp_path / "int8.onnx", data)
    assert np.allclose(found["b"], exact["b"], atol=1e-5)
    if gated:
        activations = exact["b"]
        positions = activations[0].reshape(width, -1).T.astype(np.float64)
        expected = product(positions, kernel[:, :, 0, 0].T.astype(np.float64)) + bias
        assert np.allclose(found["c"][0].reshape(width, -1).T, expected, atol=2e-3 * np.abs(expected).max())
    difference = np.linalg.norm(found["out"] - exact["out"]) / np.linalg.norm(exact["out"])
    assert 1e-4 < difference < 0.05


@pytest.mark.parametrize("first_block", [0, 8, 25])
def test_only_what_was_chosen_is_int8(backbone: Path, log_mels: np.ndarray, tmp_path: Path, first_block: int) -> None:
    path = tmp_path / "int8.onnx"
    count = quantize_backbone(backbone, path, first_block, pointwise_block)
    # 24 blocks expand and all 26 project; then the convolution behind the last block, and the classifier
    assert count == sum(1 + (block > 1) for block in range(first_block, 26)) + 2
    model = onnx.load(path)
    onnx.checker.check_model(model)
    kept = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    assert sum("gate" in name for name in kept) == 52
    assert sum("depthwise" in name for name in kept) == 26
    assert len(kept) + count == len([n for n in onnx.load(backbone).graph.node if n.op_type in ("Conv", "MatMul")])
    expected, found = run(backbone, log_mels[:1]), run(path, log_mels[:1])
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert np.isfinite(found[name]).all()
    # how near is the gate's to say: errors of a network this narrow do not average out
    assert (found["block_25"] != expected["block_25"]).any()
    assert (found["block_21"] == expected["block_21"]).all() == (first_block > 21)
    assert run(path, log_mels[:3])["label"].shape == (3, expected["label"].shape[1])


def test_without_quantising_the_rewritten_layouts_change_nothing(
    backbone: Path, log_mels: np.ndarray, tmp_path: Path
) -> None:
    """The same graph with float32 products in place of the int8 ones: all that is left is rounding."""
    quantize_backbone(backbone, tmp_path / "int8.onnx", 0, pointwise_block)
    model = onnx.load(tmp_path / "int8.onnx")
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    sources = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(backbone).graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "DynamicQuantizeMatMul":
            nodes.append(node)
            continue
        name = node.input[1].removesuffix("_int8")
        matrix = sources[name] if name in sources else sources[name.removesuffix("_matrix")][:, :, 0, 0].T
        arrays[name] = numpy_helper.from_array(np.ascontiguousarray(matrix), name)
        biased = len(node.input) > 4
        nodes.append(helper.make_node("MatMul", [node.input[0], name], [node.output[0] + ("_raw" if biased else "")]))
        if biased:
            nodes.append(helper.make_node("Add", [node.output[0] + "_raw", node.input[4]], [node.output[0]]))
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(arrays.values())
    onnx.save(model, tmp_path / "float.onnx")
    expected, found = run(backbone, log_mels[:2]), run(tmp_path / "float.onnx", log_mels[:2])
    for name, array in expected.items():
        assert np.linalg.norm(found[name] - array) < 1e-5 * np.linalg.norm(array)


def test_a_graph_with_nothing_to_quantise_is_refused(tmp_path: Path) -> None:
    small_graph(tmp_path / "fp32.onnx", np.ones((4, 4, 1, 1), np.float32), np.zeros(4, np.float32), True)
    with pytest.raises(ExportError, match="no pointwise convolution from block 21"):
        quantize_backbone(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", 21, pointwise_block)
    assert not (tmp_path / "int8.onnx").exists()


@given(
    hnp.arrays(np.float64, (9, 4), elements=st.integers(-3, 3).map(float)),
    hnp.arrays(np.float64, (9, 4), elements=st.integers(-3, 3).map(float)),
)
@settings(max_examples=60, deadline=None)
def test_rank_correlation_is_the_mean_of_scipys(found: np.ndarray, expected: np.ndarray) -> None:
    columns = [c for c in range(4) if np.ptp(expected[:, c]) > 0]
    value = rank_correlation(found, expected)
    if not columns:
        assert np.isnan(value)
        return
    each = [spearmanr(found[:, c], expected[:, c])[0] if np.ptp(found[:, c]) > 0 else 0.0 for c in columns]
    assert value == pytest.approx(np.mean(each), abs=1e-9)


def test_the_gate_wants_both_nearness_and_order() -> None:
    rng = np.random.default_rng(1)
    expected = {"block_25": rng.standard_normal((20, 8)), "label": rng.standard_normal((20, 6))}
    near = {name: array * 1.05 for name, array in expected.items()}
    assert compare(near, expected, 8, 1, "label").passed
    assert compare(near, expected, 8, 1, "label").relative_l2["block_25"] == pytest.approx(0.05)
    assert not compare(near | {"block_25": expected["block_25"] * 1.11}, expected, 8, 1, "label").passed
    assert not compare(near | {"block_25": expected["block_25"] * np.nan}, expected, 8, 1, "label").passed
    # nearly equal scores in another order
    flat = {"label": 100 + 0.01 * expected["label"]}
    assert not compare({"label": flat["label"][::-1]}, flat, 8, 1, "label").passed
    assert (
        compare({"block_25": near["block_25"]}, {"block_25": expected["block_25"]}, 8, 1, None).rank_correlation is None
    )


@pytest.mark.parametrize("preparation", ["none", "hoplite"])
def test_windows_are_the_engines(recordings: Path, preparation: Preparation) -> None:
    windows = calibration_windows([recordings], preparation)
    audio = [soundfile.read(path)[0] for path in sorted(recordings.iterdir())]
    # 6 s make a chunk and one of a tail of 1 s
    assert windows.shape == (24, 500, 128)
    for place, samples in ((0, audio[0][:160_000]), (1, np.pad(audio[0][160_000:], (0, 128_000)))):
        assert np.abs(windows[place] - log_mel_reference(samples, preparation)).max() < 1e-5


def test_windows_of_one_long_recording_come_from_all_its_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    soundfile.write(tmp_path / "long.wav", 0.1 * rng.standard_normal(32_000 * 130), 32_000)
    assert len(calibration_windows([tmp_path / "long.wav"], "none")) == 26


def test_too_few_windows_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(32_000 * 10), 32_000)
    with pytest.raises(OptionsError, match="2 windows of 5 s, at least 8"):
        calibration_windows([tmp_path], "none")


def test_the_fastest_form_that_keeps_the_quality_is_taken(
    backbone: Path, log_mels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "RELATIVE_L2_LIMIT", 10.0)
    monkeypatch.setattr(calibration, "RANK_CORRELATION_LIMIT", -1.0)
    widest = quantize_within_limits(backbone, tmp_path / "a.onnx", log_mels, INT8, "label")
    assert widest.first_block == 8
    expected, found = ([run(path, w[None]) for w in log_mels] for path in (backbone, tmp_path / "a.onnx"))
    for name, value in widest.relative_l2.items():
        one, other = (np.concatenate([row[name] for row in rows]) for rows in (found, expected))
        assert value == pytest.approx(np.linalg.norm(one - other) / np.linalg.norm(other), rel=1e-3)
    monkeypatch.setattr(calibration, "RELATIVE_L2_LIMIT", 0.999 * max(widest.relative_l2.values()))
    lines: list[str] = []
    less = quantize_within_limits(backbone, tmp_path / "b.onnx", log_mels, INT8, "label", say=lines.append)
    assert less.first_block > 8
    assert "too far from fp32" in lines[0]
    monkeypatch.setattr(calibration, "RELATIVE_L2_LIMIT", 1e-9)
    with pytest.raises(ParityError, match="export with --precision fp32"):
        quantize_within_limits(backbone, tmp_path / "c.onnx", log_mels, INT8, "label")
    assert not (tmp_path / "c.onnx").exists()


def test_options_say_what_int8_needs() -> None:
    for options, message in (
        ({"precisions": ("fp32", "int8")}, "--calibrate"),
        ({"calibrate": ("folder",)}, "--calibrate"),
        ({"precisions": ("int8",), "calibrate": ("folder",)}, "fp32 is always part"),
        ({"precisions": ("fp32", "fp16")}, "'fp16' is unknown"),
    ):
        with pytest.raises(OptionsError, match=message):
            ExportOptions(perch="x.onnx", out="y", **options)


def test_the_export_carries_int8_beside_fp32(
    small_onnx: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    words = ["--perch", str(small_onnx), "--head", "perch", "--out", str(out)]
    assert cli.main([*words, "--precision", "fp32,int8", "--calibrate", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert cli.main([*words, "--precision", "fp32,int8", "--calibrate", str(recordings)]) == 0
    bundle = Bundle.load(out)
    assert bundle.manifest.variants == {"fp32": "backbone.onnx", "int8": "backbone.int8.onnx"}
    assert "backbone.int8.onnx" in bundle.manifest.files
    int8 = json.loads((out / "parity.json").read_text())["int8"]
    assert set(int8["relative_l2"]) == {"block_21", "block_24", "block_25", "label"}
    assert int8["windows"] == 24
    assert bundle.manifest.parity["int8_relative_l2"] == max(int8["relative_l2"].values()) <= 0.1
    assert bundle.manifest.parity["int8_rank_correlation"] == int8["rank_correlation"] >= 0.95
    window = calibration_windows([recordings], "none")[:1]
    one, other = (Model(bundle, precision).features(window)["label"] for precision in ("int8", "fp32"))
    assert 0 < np.linalg.norm(one - other) < 0.2 * np.linalg.norm(other)
    capsys.readouterr()
    assert cli.main(["--info", str(out)]) == 0
    assert "int8 against fp32 on 24 windows" in capsys.readouterr().out


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="does not exist"):
        calibration_windows([tmp_path / "nowhere"], "none")


def test_hidden_files_are_passed_over(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "card"
    shutil.copytree(recordings, folder)
    (folder / "._recording_00.wav").write_bytes(b"not a recording")
    assert np.array_equal(calibration_windows([folder], "none"), calibration_windows([recordings], "none"))
