"""From a source and recordings to a bundle with both int8 forms, through the command; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.forms import host

pytest.importorskip("torch", reason="needs the extra bce[export]")

from bce.engine.errors import OptionsError, ParityError
from bce.engine.network import checking
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path
from bce.engine.network.int8 import INT8, Int8Form
from bce.engine.network.model import Model
from bce.export.commands import export as cli
from bce.export.commands.options import BirdnetOptions, ExportOptions
from bce.export.int8 import costs, making
from bce.export.int8 import windows as windows_module
from bce.export.int8.gate import Limits
from bce.export.int8.making import Network, make_int8
from bce.export.int8.windows import calibration_cuts


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings of 10 s whose loudness and colour differ, so that scores have an order to keep."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(3)
    time_s = np.arange(10 * 32_000) / 32_000
    for number in range(10):
        tone = np.sin(2 * np.pi * 300 * 1.35**number * time_s) * np.clip(np.sin(5 * time_s), 0, None)
        audio = 0.02 * rng.standard_normal(len(time_s)) * 1.3 ** (number % 5) + 0.03 * number * tone
        soundfile.write(folder / f"recording_{number:02d}.wav", np.clip(audio, -1, 1), 32_000, subtype="PCM_16")
    return folder


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of a network as narrow as a test's do not average out."""
    wide = Limits(typical=0.3, worst=5.0, rank_correlation=0.5, top1_loud=0.0, largest_change=1.0)
    monkeypatch.setattr(making, "LIMITS", wide)
    monkeypatch.setattr(making, "AIM", wide)
    monkeypatch.setitem(checking.LIMITS, "int8", (9.0, 9.0, 9.0))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little as there can be of what takes long."""
    monkeypatch.setattr(making, "SENSITIVE_WINDOWS", 4)
    monkeypatch.setattr(costs, "ROUNDS", 1)
    monkeypatch.setattr(costs, "host_target", lambda: None)  # compiles nothing: test_costs.py does
    monkeypatch.setattr(windows_module, "GROUP_WINDOWS", 16)


@pytest.mark.usefixtures("lenient")
def test_the_export_carries_int8_beside_fp32(
    small_onnx: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    words = [
        "--perch",
        str(small_onnx),
        "--head",
        "perch",
        "--out",
        str(out),
        "--precision",
        "fp32,int8",
        "--calibrate",
    ]
    assert cli.main([*words, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert cli.main([*words, str(recordings)]) == 0
    bundle = Bundle.load(out)
    assert bundle.manifest.variants == {"fp32": "backbone.onnx", "int8": "backbone.int8.onnx"}
    assert {"backbone.int8.onnx", INT8} < set(bundle.manifest.files)
    parity = json.loads((out / "parity.json").read_text())["int8"]
    assert parity["recordings"] == 10
    for form in ("kernels", "onnxruntime"):
        chosen = {product["name"]: product["element"] for product in parity[form]["products"]}
        assert "i8" in chosen.values()
        assert set(parity[form]["quality"]["outputs"]) == {"block_21", "block_24", "block_25"}
    assert Int8Form.load(out / INT8).elements == {p["name"]: p["element"] for p in parity["kernels"]["products"]}
    assert bundle.manifest.parity["int8_worst_window"] < 5

    cuts = calibration_cuts([recordings], bundle.manifest.window)
    windows = cuts.windows(bundle.frontend()).judge.inputs[:1]
    exact = Model(bundle, "fp32", "onnxruntime").features(windows)["label"]
    backends = ("onnxruntime", "compiled") if host().vnni else ("onnxruntime",)
    for backend in backends:
        found = Model(bundle, "int8", backend).features(windows)["label"]
        assert 0 < np.linalg.norm(found - exact) < 0.5 * np.linalg.norm(exact)
    capsys.readouterr()
    assert cli.main(["--info", str(out)]) == 0
    said = capsys.readouterr().out
    assert "int8         made on" in said
    assert "kernels" in said
    assert "onnxruntime, ONNX Runtime" in said


def test_what_keeps_no_limit_is_not_written(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither form, and the message says by how much each is off."""
    monkeypatch.setattr(making, "LIMITS", Limits(typical=-1.0))
    monkeypatch.setattr(making, "SHARES", (1.0,))
    bundle = Bundle.load(bundle_path(None))
    windows = calibration_cuts([recordings], bundle.manifest.window).windows(bundle.frontend())
    with pytest.raises(ParityError, match=r"kernels: relative L2 of .* onnxruntime: relative L2 of .*--precision fp32"):
        make_int8(Network(bundle.backbone()), windows, tmp_path / INT8, tmp_path / "a.onnx", lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [ExportOptions, BirdnetOptions])
def test_options_say_what_int8_needs(options: type) -> None:
    source = {ExportOptions: "perch", BirdnetOptions: "birdnet"}[options]
    for given, message in (
        ({"precisions": ("fp32", "int8")}, "--calibrate"),
        ({"calibrate": ("folder",)}, "--calibrate"),
        ({"precisions": ("int8",), "calibrate": ("folder",)}, "fp32 is always part"),
        ({"precisions": ("fp32", "fp16")}, "'fp16' is unknown"),
    ):
        with pytest.raises(OptionsError, match=message):
            options(**{source: "x"}, out="y", **given)


def test_silence_is_refused_before_anything_is_converted(
    small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "silent"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.zeros(32_000 * 120), 32_000)
    words = ["--perch", str(small_onnx), "--out", str(tmp_path / "b"), "--precision", "fp32,int8"]
    assert cli.main([*words, "--calibrate", str(folder)]) == 2
    said = capsys.readouterr()
    assert "are silent" in said.err
    assert str(folder) in said.err
    assert "wrote" not in said.out
    assert not (tmp_path / "b").exists()
