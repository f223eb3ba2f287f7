"""The proof must pass for a true conversion and name exactly what is wrong with a false one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="exports need the extra bce[export]")

import onnx  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from bce.engine.errors import BundleError, ExportError, OptionsError, ParityError  # noqa: E402
from bce.engine.frontends import perch  # noqa: E402
from bce.engine.frontends.base import FrontendSpec  # noqa: E402
from bce.engine.geometry import WindowSpec  # noqa: E402
from bce.engine.network.manifest import Input  # noqa: E402
from bce.engine.network.sessions import open_session  # noqa: E402
from bce.engine.taxonomy import Taxonomy  # noqa: E402
from bce.export.classes import ClassMap  # noqa: E402
from bce.export.heads.checkpoints import HeadCheckpoint  # noqa: E402
from bce.export.heads.graph import export_head  # noqa: E402
from bce.export.heads.modules import HeadConfig, build_head  # noqa: E402
from bce.export.perch.exact import Exact, exact_log_mel  # noqa: E402
from bce.export.perch.graph import export_backbone, output_widths  # noqa: E402
from bce.export.perch.sources import read_source  # noqa: E402
from bce.export.perch.weights import Weights  # noqa: E402
from bce.export.proof import parity  # noqa: E402
from bce.export.proof.check_audio import CheckInput, check_inputs  # noqa: E402
from bce.export.proof.comparison import ParityReport  # noqa: E402
from bce.export.proof.gates import Limits  # noqa: E402
from bce.export.sources import Reference  # noqa: E402

BLOCKS = (21, 24)
MEMBERS = ((7,), (), (0, 3, 11))


@pytest.fixture(scope="module")
def candidate(small_weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> parity.Candidate:
    labels = ["a", "b", "c"]
    class_map = ClassMap(Taxonomy.from_columns({"primary_label": labels, "scientific_name": labels}), MEMBERS)
    path = tmp_path_factory.mktemp("parity") / "backbone.onnx"
    outputs = export_backbone(small_weights, path, BLOCKS, ("blocks", "label"), class_map)
    return parity.Candidate(
        path,
        perch.WINDOW,
        Input("log_mel", (500, 128)),
        perch.spec("none"),
        output_widths(small_weights.architecture, outputs, len(labels)),
        parity.Definition(
            perch.spec("none"), lambda windows: windows, exact_log_mel, Exact(small_weights, outputs, class_map)
        ),
        "label",
        class_map,
        len(labels),
    )


@pytest.fixture(scope="module")
def reference(small_onnx: Path) -> Reference:
    reference = read_source(small_onnx).reference(BLOCKS, ("label",))
    assert reference is not None
    return reference


@pytest.fixture(scope="module")
def inputs() -> list[CheckInput]:
    every = check_inputs(perch.WINDOW)
    return [every[0], every[3], next(item for item in every if item.name == "DC offset")]


@pytest.fixture(scope="module")
def true_report(candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput]) -> ParityReport:
    return parity.prove(candidate, reference, inputs, "small.onnx")


def test_a_true_conversion_passes_every_gate(true_report: ParityReport) -> None:
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
    assert true_report.constant == {"block_21": 0.0, "block_24": 0.0, "label": 0.0}
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


def test_a_dead_network_is_refused_although_it_agrees(
    candidate: parity.Candidate, inputs: list[CheckInput], tmp_path: Path
) -> None:
    """Its source, dead alike, would give the same numbers: nothing but the sound tells."""
    dead = doctored(candidate, tmp_path / "dead.onnx", scale("blocks.23.project", 0.0))
    report = parity.prove(dead, None, inputs, "dead.onnx")
    assert report.constant["block_21"] == 0
    assert report.constant["block_24"] == report.constant["label"] == 0
    deader = doctored(candidate, tmp_path / "deader.onnx", scale("blocks.24.project", 0.0))
    report = parity.prove(deader, None, inputs, "deader.onnx")
    assert report.constant == {"block_21": 0.0, "block_24": 1.0, "label": 1.0}
    with pytest.raises(ParityError, match=r"do not depend on the sound.*: block_24 \(100%\), label \(100%\)"):
        report.require()


@pytest.mark.parametrize("share", [0.67, 1.0])
def test_logits_of_a_head_may_be_constant_but_not_all(true_report: ParityReport, share: float) -> None:
    report = replace(true_report, constant={"block_24": 0.0, "logits": share})
    if share < 1:
        report.require()
    else:
        with pytest.raises(ParityError, match="all logits are the same"):
            report.require()


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
    candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput], true_report: ParityReport
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
        ({"names": ("block_24", "block_21", "label")}, "outputs: expected"),
        ({"label": 4}, "outputs: expected"),
        ({"names": ("block_21", "label")}, "outputs: expected"),
        ({"input": Input("mel", (500, 128))}, "input: expected"),
        ({"input": Input("log_mel", (128, 500))}, "input: expected"),
    ],
)
def test_wrong_names_and_shapes_are_refused(candidate: parity.Candidate, changes: dict[str, Any], message: str) -> None:
    known = {**candidate.widths, "label": changes.get("label", candidate.widths["label"])}
    widths = {name: known[name] for name in changes.get("names", known)}
    wrong = replace(candidate, widths=widths, input=changes.get("input", candidate.input))
    with pytest.raises(ExportError, match=message):
        parity.prove(wrong, None, [])


def test_a_graph_that_does_not_load_is_named(candidate: parity.Candidate, tmp_path: Path) -> None:
    (tmp_path / "b.onnx").write_bytes(candidate.backbone.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"b\.onnx: cannot be loaded by ONNX Runtime"):
        parity.prove(replace(candidate, backbone=tmp_path / "b.onnx"), None, [])


def test_the_proof_runs_in_the_engines_sessions(
    candidate: parity.Candidate, reference: Reference, inputs: list[CheckInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def noted(path: Path) -> Any:
        opened.append(path)
        return open_session(path)

    monkeypatch.setattr(parity, "open_session", noted)
    parity.prove(candidate, reference, inputs[:1]).require()
    assert opened == [candidate.backbone]
    options = open_session(candidate.backbone).get_session_options()
    assert options.intra_op_num_threads == 1


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
    report = parity.prove(with_head, None, inputs[:1])
    report.require()
    assert {c.measure for c in report.comparisons} == {"head"}
    assert parity.prove(replace(with_head, folds=(folds[0],)), None, inputs[:1]).failures


class Doubling:
    """A head of another make: twice the first three features of a block."""

    kind = "tensorflow"
    runtime = "by hand"
    parameter_count = 0

    def __call__(self, features: Sequence[torch.Tensor], /) -> torch.Tensor:
        return 2 * features[0][:, :3]

    def write_mean(self, heads: Sequence[Doubling], blocks: Mapping[str, int], path: Path) -> None:
        write_doubling(path, blocks["block_21"], 2.0)


def write_doubling(path: Path, width: int, factor: float | NDArray[np.float64]) -> None:
    matrix = (factor * np.eye(width))[:, :3].astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["block_21", "m"], ["logits"])],
        "head",
        [helper.make_tensor_value_info("block_21", 1, ["batch", width])],
        [helper.make_tensor_value_info("logits", 1, ["batch", 3])],
        [numpy_helper.from_array(matrix, "m")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.parametrize(("factor", "passed"), [(2.0, True), (2.001, False)])
def test_any_trained_head_is_proven(
    candidate: parity.Candidate, inputs: list[CheckInput], tmp_path: Path, factor: float, passed: bool
) -> None:
    width = candidate.widths["block_21"]
    write_doubling(tmp_path / "h.onnx", width, factor)
    fold = HeadCheckpoint(Doubling(), ("a", "b", "c"), {"block_21": width}, "none")
    report = parity.prove(replace(candidate, head=tmp_path / "h.onnx", folds=(fold,)), None, inputs[:1])
    assert {(c.measure, c.against, c.limit) for c in report.comparisons} == {("head", "by hand", 1e-5)}
    assert bool(report.failures) != passed


class Deaf(Doubling):
    """The same, of which all classes but the first few have no weight."""

    def __init__(self, hearing: int) -> None:
        self.hears = torch.arange(3) < hearing

    def __call__(self, features: Sequence[torch.Tensor], /) -> torch.Tensor:
        return super().__call__(features) * self.hears


@pytest.mark.parametrize("hearing", [1, 0])
def test_a_head_is_refused_by_its_own_name_where_no_class_hears(
    hearing: int, candidate: parity.Candidate, inputs: list[CheckInput], tmp_path: Path
) -> None:
    width = candidate.widths["block_21"]
    write_doubling(tmp_path / "h.onnx", width, 2.0 * (np.arange(width) < hearing))
    fold = HeadCheckpoint(Deaf(hearing), ("a", "b", "c"), {"block_21": width}, "none", path="in/fold_1.pt")
    with_head = replace(candidate, head=tmp_path / "h.onnx", folds=(fold,))
    report = parity.prove(with_head, None, inputs, "small.onnx")
    assert report.constant["logits"] == pytest.approx(1 - hearing / 3)
    if hearing:
        report.require()
        return
    with pytest.raises(ParityError, match="do not depend on the sound, all logits") as raised:
        report.require()
    assert raised.value.path == "in/fold_1.pt"


def test_any_trained_head_writes_its_own_graph(candidate: parity.Candidate, tmp_path: Path) -> None:
    width, labels = candidate.widths["block_21"], ("a", "b", "c")
    fold = HeadCheckpoint(Doubling(), labels, {"block_21": width}, "none")
    export_head([fold, fold], tmp_path / "head.onnx")
    x = np.random.default_rng(0).standard_normal((4, width)).astype(np.float32)
    found = open_session(tmp_path / "head.onnx").run(["logits"], {"block_21": x})[0]
    np.testing.assert_array_equal(found, 2 * x[:, :3])
    other = HeadCheckpoint(build_head(HeadConfig(d=16), (width,), 3).eval(), labels, {"block_21": width}, "none")
    with pytest.raises(OptionsError, match="is a head of another kind than the first fold"):
        export_head([fold, other], tmp_path / "mixed.onnx")
    assert not (tmp_path / "mixed.onnx").exists()


def test_limits_of_a_head_are_those_given(
    candidate: parity.Candidate, small_weights: Weights, inputs: list[CheckInput], tmp_path: Path
) -> None:
    widths = {name: candidate.widths[name] for name in ("block_21",)}
    fold = HeadCheckpoint(
        build_head(HeadConfig(d=16), tuple(widths.values()), 3).eval(), ("a", "b", "c"), widths, "none"
    )
    export_head([fold], tmp_path / "head.onnx")
    with_head = replace(candidate, head=tmp_path / "head.onnx", folds=(fold,))
    report = parity.prove(with_head, None, inputs[:1], limits=Limits(head_relative_l2=0.0))
    assert {c.limit for c in report.comparisons} == {0.0}
    assert report.failures


def test_another_family_is_proven_like_perch(tmp_path: Path) -> None:
    """Windows of 1.5 s at 8 kHz, samples as the network's input, one output: nothing of Perch is in a proof."""
    window = WindowSpec(8_000, 1.5)
    matrix = np.random.default_rng(3).standard_normal((window.samples, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["sound", "m"], ["embedding"])],
        "other",
        [helper.make_tensor_value_info("sound", 1, ["batch", window.samples])],
        [helper.make_tensor_value_info("embedding", 1, ["batch", 4])],
        [numpy_helper.from_array(matrix, "m")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "other.onnx")
    frontend = FrontendSpec("waveform")
    other = parity.Candidate(
        tmp_path / "other.onnx",
        window,
        Input("sound", (window.samples,)),
        frontend,
        {"embedding": 4},
        parity.Definition(
            frontend,
            lambda windows: windows,
            lambda windows: windows.astype(np.float64),
            lambda inputs: {"embedding": inputs.astype(np.float64) @ matrix.astype(np.float64)},
        ),
    )

    def right(waveforms: np.ndarray) -> dict[str, np.ndarray]:
        return {"spectrogram": waveforms, "embedding": waveforms[:, ::-1] @ matrix[::-1]}

    def wrong(waveforms: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array * np.float32(1.02) for name, array in right(waveforms).items()}

    report = parity.prove(other, right, check_inputs(window))
    report.require()
    assert json.loads(report.to_json())["frontend"] == {"kind": "waveform"}
    assert {c.measure for c in parity.prove(other, wrong, check_inputs(window)).failures} == {
        "spectrogram",
        "end_to_end",
    }
