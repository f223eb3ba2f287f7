"""One network in every published form: all convert, give one bundle, and that gives what each form gives by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bce.engine.errors import ExportError, ParityError
from bce.engine.frontends.perch import log_mel as engine_log_mel
from bce.engine.network.bundle import PARITY, Bundle
from bce.export.perch.sources import PerchSource, read_source
from bce.export.sources import CannotRun

ALL_BLOCKS = tuple(range(26))
OUTPUTS = ("blocks", "embedding", "label")
Arrays = dict[str, NDArray[np.float32]]


def relative_l2(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected.astype(np.float64)))


def export(perch: Path, out: Path, **options: object) -> Bundle:
    from bce.export.commands.perch import ExportOptions, export_bundle

    return export_bundle(ExportOptions(perch=perch, out=out, outputs=OUTPUTS, **options))


def run_bundle(bundle: Bundle, log_mel: NDArray[np.float32]) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.path / "backbone.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"log_mel": log_mel}), strict=True))


def everything(source: PerchSource, windows: NDArray[np.float32]) -> Arrays:
    reference = source.reference(ALL_BLOCKS, ("embedding", "label"))
    assert reference is not None
    return reference(windows)


def maps(source: PerchSource) -> list[NDArray[np.float32]]:
    """The weights with scale and kernel joined, which no form can tell apart."""
    weights = source.weights
    convs = [weights.stem, weights.head]
    for block in weights.blocks:
        convs += [conv for conv in (block.expand, block.depthwise, block.project) if conv is not None]
    rest = [array for part, name, array in weights.arrays() if "gate" in name or part == "classifier"]
    return [array for conv in convs for array in conv.folded()] + rest


# --- full width -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundles(full: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Bundles of the three forms, proven on a real recording."""
    out = tmp_path_factory.mktemp("bundles")
    audio = (shared / "data/audio/scikit_maad/S4A03895_20190522_060000.wav",)
    files = {"onnx": "onnx.onnx", "saved_model": "saved_model", "tflite": "tflite.tflite"}
    return {form: export(full / file, out / form, check_audio=audio) for form, file in files.items()}


def test_three_forms_of_a_seed_give_one_bundle(bundles: dict[str, Bundle], windows: NDArray[np.float32]) -> None:
    log_mel = np.stack([engine_log_mel(window, "none") for window in windows])
    found = {form: run_bundle(bundle, log_mel) for form, bundle in bundles.items()}
    for form in ("saved_model", "tflite"):
        assert list(found[form]) == ["block_21", "block_24", "block_25", "embedding", "label"]
        for name, array in found[form].items():
            assert relative_l2(array, found["onnx"][name]) <= 1e-5, (form, name)


def test_bundles_give_what_tensorflow_gives(
    bundles: dict[str, Bundle], full: Path, windows: NDArray[np.float32]
) -> None:
    import tensorflow as tf

    module = tf.saved_model.load(str(full / "saved_model"))
    expected = module.signatures["serving_default"](inputs=tf.constant(windows))
    log_mel = np.stack([engine_log_mel(window, "none") for window in windows])
    found = run_bundle(bundles["saved_model"], log_mel)
    for name in ("embedding", "label"):
        assert relative_l2(found[name], expected[name].numpy()) <= 1e-4, name
    assert np.abs(log_mel - expected["spectrogram"].numpy()).max() <= 2e-4


def test_bundles_give_what_litert_gives(bundles: dict[str, Bundle], full: Path, windows: NDArray[np.float32]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(full / "tflite.tflite"))
    interpreter.allocate_tensors()
    log_mel = np.stack([engine_log_mel(window, "none") for window in windows])
    found = run_bundle(bundles["tflite"], log_mel)
    rows = []
    for window in windows:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], window[None])
        interpreter.invoke()
        # the published order: embedding, spatial embedding, spectrogram, label
        rows.append([interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()])
    for name, index in (("embedding", 0), ("label", 3)):
        assert relative_l2(found[name], np.concatenate([row[index] for row in rows])) <= 1e-4, name


def test_the_proof_says_where_its_numbers_come_from(bundles: dict[str, Bundle]) -> None:
    parity = json.loads((bundles["saved_model"].path / PARITY).read_text())
    assert parity["status"] == "numbers compared"
    text = "\n".join(parity["structure"])
    assert "497 variables in the known order" in text
    assert "source file variables/variables.index: SHA-256 " in text
    assert "does not show its blocks" in text
    assert {row["output"] for row in parity["comparisons"]} >= {"block_21", "embedding", "label", "spectrogram"}


# --- every form, a quarter of the width ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(small: Path, windows: NDArray[np.float32]) -> Arrays:
    """What the ONNX form gives by itself."""
    return everything(read_source(small / "onnx.onnx"), windows)


@pytest.mark.parametrize(
    "form", ["saved_model", "named", "cuda", "tflite.tflite", "plain.tflite", "plain_apart.tflite"]
)
def test_all_readers_give_the_same_weights(form: str, small: Path) -> None:
    for found, original in zip(maps(read_source(small / form)), maps(read_source(small / "onnx.onnx")), strict=True):
        assert relative_l2(found, original) <= 1e-5


@pytest.mark.parametrize("form", ["saved_model", "named", "tflite.tflite", "plain.tflite", "plain_apart.tflite"])
def test_every_block_of_every_form_is_that_of_the_onnx_form(
    form: str, small: Path, windows: NDArray[np.float32], expected: Arrays
) -> None:
    found = everything(read_source(small / form), windows)
    assert set(found) == set(expected)
    assert np.abs(found["spectrogram"] - expected["spectrogram"]).max() <= 2e-4
    for name in set(found) - {"spectrogram"}:
        assert relative_l2(found[name], expected[name]) <= 1e-4, name


def test_a_folded_batch_norm_and_one_apart_are_two_graphs(small: Path) -> None:
    from bce.export.readers.tflite_graph import TfliteGraph

    folded, apart = (TfliteGraph(small / f"{name}.tflite") for name in ("plain", "plain_apart"))
    assert len(apart.operators) > len(folded.operators) + 78


def test_a_module_for_another_platform_converts_and_is_proven_by_another_form(small: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="CUDA"):
        read_source(small / "cuda").reference((), ("embedding",))
    alone = export(small / "cuda", tmp_path / "alone")
    parity = json.loads((alone.path / PARITY).read_text())
    assert (parity["status"], parity["comparisons"]) == ("structure checked, numbers not", [])
    proven = export(small / "cuda", tmp_path / "proven", check_against=small / "onnx.onnx")
    parity = json.loads((proven.path / PARITY).read_text())
    assert (parity["status"], parity["source"]) == ("numbers compared", "onnx.onnx")
    assert all(row["passed"] for row in parity["comparisons"])


def test_another_network_proves_nothing(small: Path, full: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"onnx\.onnx: is another network than cuda"):
        export(small / "cuda", tmp_path / "out", check_against=full / "onnx.onnx")


@pytest.mark.parametrize(("form", "bits"), [("float16", "float16"), ("int8", "int8")])
def test_rounded_weights_convert_with_their_loss_stated(form: str, bits: str, small: Path, tmp_path: Path) -> None:
    source = read_source(small / f"{form}.tflite")
    assert source.lossy
    bundle = export(small / f"{form}.tflite", tmp_path / "own")
    parity = json.loads((bundle.path / PARITY).read_text())
    assert any(f"rounded to {bits}" in line for line in parity["structure"])
    backbone = [row for row in parity["comparisons"] if row["measure"] == "backbone"]
    assert backbone
    assert all(row["limit"] is not None for row in backbone)
    # against the exact form the loss shows, and is reported
    exact = export(small / f"{form}.tflite", tmp_path / "exact", check_against=small / "onnx.onnx")
    rows = json.loads((exact.path / PARITY).read_text())["comparisons"]
    losses = [row["relative_l2"] for row in rows if row["measure"] == "backbone" and row["output"] == "embedding"]
    assert 1e-4 < max(losses) < 0.5


def test_another_activation_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"relu_tflite\.tflite: stem: expected swish, found ReLU"):
        read_source(small / "relu_tflite.tflite")
    with pytest.raises(ParityError, match="does not give its embedding") as caught:
        export(small / "relu", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
