"""The proof must pass for a true conversion and name exactly what is wrong with a false one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports need the extra bce[export]")

import onnx  # noqa: E402
import soundfile  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from bce.engine.errors import AudioError, ExportError, ParityError  # noqa: E402
from bce.engine.taxonomy import Taxonomy  # noqa: E402
from bce.export.classes import ClassMap  # noqa: E402
from bce.export.heads.checkpoints import HeadCheckpoint, HeadConfig, build_head  # noqa: E402
from bce.export.perch.graph import export_backbone, export_head  # noqa: E402
from bce.export.perch.weights import Weights  # noqa: E402
from bce.export.proof import parity  # noqa: E402
from bce.export.proof.check_audio import CheckInput, check_inputs, prepared  # noqa: E402
from bce.export.sources import Reference, read_source  # noqa: E402

BLOCKS = (21, 24)
MEMBERS = ((7,), (), (0, 3, 11))


@pytest.fixture(scope="module")
def candidate(small_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> parity.Candidate:
    labels = ["a", "b", "c"]
    class_map = ClassMap(Taxonomy.from_columns({"primary_label": labels, "scientific_name": labels}), MEMBERS)
    path = tmp_path_factory.mktemp("parity") / "backbone.onnx"
    outputs = export_backbone(small_weights, path, BLOCKS, ("blocks", "label"), class_map)
    return parity.Candidate(path, small_weights, outputs, "none", class_map, len(labels))


@pytest.fixture(scope="module")
def reference(small_onnx: Path) -> Reference:
    reference = read_source(small_onnx).reference(BLOCKS, ("label",))
    assert reference is not None
    return reference


@pytest.fixture(scope="module")
def inputs() -> list[CheckInput]:
    every = check_inputs()
    return [every[0], every[3], next(item for item in every if item.name == "DC offset")]


@pytest.fixture(scope="module")
def true_report(candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput]) -> parity.ParityReport:
    return parity.prove(candidate, reference, inputs, "small.onnx")


def test_a_true_conversion_passes_every_gate(true_report: parity.ParityReport) -> None:
    true_report.require()
    assert true_report.numbers
    seen = {(c.measure, c.output, c.natural, c.batch) for c in true_report.comparisons}
    outputs = ("block_21", "block_24", "label")
    for natural in (True, False):
        for batch in (1, 5):
            assert ("spectrogram", "spectrogram", natural, batch) in seen
            for measure in ("backbone", "end_to_end"):
                assert {(measure, output, natural, batch) for output in outputs} <= seen
    for comparison in true_report.comparisons:
        gated = comparison.natural or comparison.measure == "backbone"
        assert (comparison.limit is not None) == gated
    assert 0 < true_report.summary()["backbone_relative_l2"] <= 1e-5
    assert 0 < true_report.summary()["end_to_end_relative_l2"] <= 1e-4
    content = json.loads(true_report.to_json())
    assert content["status"] == "numbers compared"
    assert len(content["comparisons"]) == len(true_report.comparisons)


def doctored(candidate: parity.Candidate, path: Path, change: Callable[[onnx.ModelProto], None]) -> parity.Candidate:
    model = onnx.load(candidate.backbone)
    change(model)
    onnx.save(model, path)
    return replace(candidate, backbone=path)


def scale(part: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        found = [i for i in model.graph.initializer if part in i.name and i.name.endswith("weight")]
        assert len(found) == 1
        found[0].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(found[0]) * np.float32(factor), found[0].name))

    return change


def test_a_wrong_weight_is_named_from_its_block_on(
    candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput], tmp_path: Path
) -> None:
    wrong = doctored(candidate, tmp_path / "b.onnx", scale("blocks.23.project", 1.01))
    report = parity.prove(wrong, reference, inputs)
    assert {(c.measure, c.output) for c in report.failures} == {
        (measure, output) for measure in ("backbone", "end_to_end") for output in ("block_24", "label")
    }
    with pytest.raises(ParityError) as raised:
        report.require()
    for part in ("backbone block_24", "backbone label", "end_to_end block_24", "end_to_end label"):
        assert part in raised.value.reason
    assert "block_21" not in raised.value.reason


def test_a_wrong_class_order_is_a_miss_of_the_label_alone(
    candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput]
) -> None:
    assert candidate.class_map is not None
    wrong = replace(candidate, class_map=replace(candidate.class_map, members=((0, 3, 11), (), (7,))))
    failures = parity.prove(wrong, reference, inputs).failures
    assert {c.output for c in failures} == {"label"}


def test_a_wrong_log_mel_is_told_from_a_wrong_backbone(
    candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput], true_report: parity.ParityReport
) -> None:
    def shifted(waveforms: np.ndarray) -> dict[str, np.ndarray]:
        arrays = reference(waveforms)
        return arrays | {"spectrogram": arrays["spectrogram"] + np.float32(1e-2)}

    failures = parity.prove(candidate, shifted, inputs).failures
    assert "spectrogram" in {c.measure for c in failures}
    assert all(c.natural for c in failures if c.measure == "spectrogram")


def test_rounding_of_the_source_is_told_from_a_wrong_bundle(
    candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput]
) -> None:
    """A source up to 2e-3 off near the floor is let pass where the bundle is right, a wrong one never."""

    def rough(size: float) -> Reference:
        def run(waveforms: np.ndarray) -> dict[str, np.ndarray]:
            arrays = reference(waveforms)
            noise = size * np.random.default_rng(0).choice([-1.0, 1.0], arrays["spectrogram"].shape)
            return arrays | {"spectrogram": (arrays["spectrogram"] + noise).astype(np.float32)}

        return run

    def missed(size: float) -> bool:
        report = parity.prove(candidate, rough(size), inputs[:1])
        return "spectrogram" in {c.measure for c in report.failures}

    assert not missed(1e-3)
    assert missed(3e-3)


def test_nan_is_a_miss(candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput]) -> None:
    def broken(waveforms: np.ndarray) -> dict[str, np.ndarray]:
        arrays = reference(waveforms)
        return arrays | {"block_21": arrays["block_21"] * np.float32("nan")}

    report = parity.prove(candidate, broken, inputs[:1])
    assert {c.output for c in report.failures} == {"block_21"}
    with pytest.raises(ParityError, match="block_21"):
        report.require()


def test_without_a_source_the_structure_is_checked(candidate: parity.Candidate, inputs: list[CheckInput]) -> None:
    report = parity.prove(candidate, None, inputs)
    report.require()
    assert not report.numbers
    assert not report.comparisons
    assert json.loads(report.to_json())["status"] == "structure checked, numbers not"
    assert "block_21" in report.structure[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ("block_24", "block_21", "label")}, "outputs: expected"),
        ({"classes": 4}, "outputs: expected"),
        ({"outputs": ("block_21", "label")}, "outputs: expected"),
    ],
)
def test_wrong_names_and_shapes_are_refused(
    candidate: parity.Candidate, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        parity.prove(replace(candidate, **changes), None, [])  # type: ignore[arg-type]


def test_a_class_that_should_be_constant_is_refused(candidate: parity.Candidate) -> None:
    assert candidate.class_map is not None
    wrong = replace(candidate, class_map=replace(candidate.class_map, members=((7,), (1,), ())))
    with pytest.raises(ExportError, match="constant -10"):
        parity.prove(wrong, None, [])


def test_a_wrong_head_is_a_miss(
    candidate: parity.Candidate, small_weights: Weights, inputs: list[CheckInput], tmp_path: Path
) -> None:
    widths = {b.name: b.out_channels for b in small_weights.architecture.blocks if b.index in BLOCKS}
    folds = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        head = build_head(HeadConfig(d=16, ffn=24), tuple(widths.values()), 3).eval()
        folds.append(HeadCheckpoint(head, ("a", "b", "c"), widths, "none"))
    export_head(folds, tmp_path / "head.onnx")
    with_head = replace(candidate, head=tmp_path / "head.onnx", folds=tuple(folds))
    report = parity.prove(with_head, None, inputs)
    report.require()
    assert {c.measure for c in report.comparisons} == {"head"}
    assert parity.prove(replace(with_head, folds=(folds[0],)), None, inputs).failures


def test_relative_l2() -> None:
    assert parity.relative_l2(np.array([3.0, 4.0]), np.array([3.0, 0.0])) == pytest.approx(4 / 3)
    assert parity.relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert parity.relative_l2(np.ones(3), np.zeros(3)) == np.inf
    big = np.full(10, 1e30, np.float32)
    assert parity.relative_l2(big, big * np.float32(2)) == pytest.approx(0.5)


def test_preparations_as_they_are_defined() -> None:
    x = np.array([[0.0, 0.5, -0.1, 0.2], [0.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.3]], np.float32)
    assert prepared(x, "none") is x
    np.testing.assert_allclose(prepared(x, "peak")[0], x[0] / 2, atol=1e-7)
    assert not prepared(x, "peak")[1].any()
    hoplite = prepared(x, "hoplite")
    np.testing.assert_allclose(hoplite[0], (x[0] - 0.15) * 0.25 / 0.35, atol=1e-7)
    assert not hoplite[1].any()


def test_windows_come_from_the_recordings(tmp_path: Path) -> None:
    rate = 32_000
    samples = np.repeat(np.arange(1, 7) / 10, 5 * rate).astype(np.float32)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "steps.wav", samples, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "in" / "short.wav", samples[: 2 * rate], rate, subtype="FLOAT")
    short, steps, *extremes = check_inputs([tmp_path / "in"])
    assert (short.name, steps.name) == ("short.wav", "steps.wav")
    assert short.waveforms.shape == (1, 160_000)
    np.testing.assert_allclose(short.waveforms[0, [0, 2 * rate]], [0.1, 0.0], atol=1e-6)
    np.testing.assert_allclose(steps.waveforms[:, 80_000], [0.1, 0.3, 0.4, 0.6], atol=1e-6)
    assert not any(item.natural for item in extremes)
    assert {"silence", "DC offset", "clipping", "full-scale noise"} <= {item.name for item in extremes}
    assert all(np.abs(item.waveforms).max() <= 1 for item in extremes)


def test_synthetic_windows_are_the_same_every_time() -> None:
    first, second = check_inputs(), check_inputs()
    assert sum(item.natural for item in first) >= 5
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.waveforms, b.waveforms)
    levels = [20 * np.log10(item.waveforms.std()) for item in first if item.natural]
    assert max(levels) - min(levels) > 20


def test_missing_check_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        check_inputs([tmp_path / "none"])
    with pytest.raises(AudioError, match="holds no recordings"):
        check_inputs([tmp_path])
