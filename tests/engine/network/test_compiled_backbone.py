"""The engine's own kernels behind a bundle: they run by default, and give ONNX Runtime's numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.forms import assert_compiled, host

from bce.engine.commands.infer import main
from bce.engine.compiled.ahead import compile_ahead
from bce.engine.compiled.targets import host_target, travelling_targets
from bce.engine.errors import BundleError
from bce.engine.frontends.base import KINDS
from bce.engine.network.bundle import Bundle
from bce.engine.network.checking import check_inputs
from bce.engine.network.compiled_backbone import CompiledBackbone
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.mbconv import read_layers
from bce.engine.network.model import Model
from bce.engine.tables.scores import read_scores


@pytest.fixture(scope="module")
def default_bundle() -> Bundle:
    return Bundle.load(DEFAULT_BUNDLE)


@pytest.fixture(params=["default_bundle", "small_bundle", "old_bundle"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """Every kind: blocks under a trained head, a stand-in with Perch's own classifier, the same in schema 1."""
    found: Bundle = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def old_bundle(small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The stand-in's bundle as the first version wrote it."""
    folder = tmp_path_factory.mktemp("old") / "bundle"
    shutil.copytree(small_bundle.path, folder)
    manifest = small_bundle.manifest
    content = {
        "schema": 1,
        "name": "old",
        "source": {"file": "f.onnx", "sha256": "0" * 64, "form": "onnx", "licence": "Apache-2.0"},
        "blocks": manifest.blocks,
        "outputs": list(manifest.output_names),
        "head": {"kind": "perch", "folds": 0, "parameters": 0},
        "preparation": manifest.frontend.settings["preparation"],
        "variants": manifest.variants,
        "files": manifest.files,
        "parity": {},
        "versions": {},
        "notice": "",
        "sample_rate": manifest.window.sample_rate,
        "window_s": manifest.window.window_s,
    }
    (folder / "bundle.json").write_text(json.dumps(content))
    return Bundle.load(folder)


def log_mels(count: int) -> NDArray[np.float32]:
    """Windows that are not those of the check: noise of the log-mel's own range."""
    return np.random.default_rng(7).normal(-0.8, 0.4, (count, 500, 128)).astype(np.float32)


def relative_l2(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def test_a_bundle_runs_compiled_by_default_and_gives_onnx_runtimes_numbers(bundle: Bundle) -> None:
    model = Model(bundle)
    assert_compiled(model.form)
    trusted = Model(bundle, backend="onnxruntime")
    assert list(model.widths.items()) == list(trusted.widths.items())
    for windows, limit in ((log_mels(6), 1e-5), (check_inputs(bundle), 1e-4)):
        expected = trusted.features(windows)
        for name, found in model.features(windows).items():
            assert found.dtype == np.float32
            for got, want in zip(found, expected[name], strict=True):
                assert relative_l2(got, want) < limit, name


def test_the_screen_and_the_report_say_so(
    bundle: Bundle, soundscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = host()
    report = tmp_path / "run.json"
    out = ["--shifts", "1", "--out", str(tmp_path / "s.csv"), "--report", str(report), str(soundscapes)]
    assert main(["--bundle", str(bundle.path), *out]) == 0
    said = json.loads(report.read_text())["backbone"]
    assert (said["backend"], said["isa"], said["precision"]) == ("compiled", target.isa, "fp32")
    assert said["cpu"] == target.cpu
    assert said["origin"] in ("compiled", "cache")
    assert said["why_not_compiled"] is None
    assert f"backbone: compiled fp32, {target.isa} ({target.cpu})" in capsys.readouterr().err.splitlines()


def test_the_same_bytes_for_any_number_of_threads(default_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    assert_compiled(Model(default_bundle).form)
    tables: dict[int, bytes] = {}
    for threads in (1, 2, 3):
        out = tmp_path / f"{threads}.csv"
        common = ["--quiet", "--shifts", "3", "--backend", "compiled", "--threads", str(threads)]
        assert main(["--bundle", str(default_bundle.path), *common, "--out", str(out), str(soundscapes)]) == 0
        tables[threads] = out.read_bytes()
    assert tables[1] == tables[2] == tables[3]


def test_scores_are_onnx_runtimes(default_bundle: Bundle, soundscapes: Path, tmp_path: Path) -> None:
    tables = []
    for backend in ("compiled", "onnxruntime"):
        out = tmp_path / f"{backend}.csv"
        common = ["--quiet", "--shifts", "1", "--backend", backend]
        assert main(["--bundle", str(default_bundle.path), *common, "--out", str(out), str(soundscapes)]) == 0
        tables.append(read_scores(out))
    assert tables[0].row_ids == tables[1].row_ids
    np.testing.assert_allclose(tables[0].scores, tables[1].scores, atol=1e-4)


def test_more_callers_than_cores(default_bundle: Bundle) -> None:
    model, windows = Model(default_bundle), log_mels(16)
    assert_compiled(model.form)
    alone = model.features(windows)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: model.features(windows[index : index + 1]), range(len(windows))))
    for name, want in alone.items():
        np.testing.assert_array_equal(np.concatenate([one[name] for one in found]), want)


def test_bfloat16_is_near_for_trained_weights(default_bundle: Bundle) -> None:
    if not host().bf16:
        pytest.skip("this CPU has no bfloat16 arithmetic")
    windows = log_mels(6)
    model = Model(default_bundle, "bf16")
    assert_compiled(model.form, "bf16")
    expected, found = Model(default_bundle, backend="onnxruntime").features(windows), model.features(windows)
    errors = [relative_l2(found[name], want) for name, want in expected.items()]
    assert max(errors) < 0.03
    assert min(errors) > 1e-4, "this was not computed in bfloat16"


def test_a_cpu_without_bfloat16_is_said_and_nothing_else_runs(
    default_bundle: Bundle, soundscapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Float32 would be slower than what was asked for."""
    plainer = replace(host(), bf16=False)
    monkeypatch.setattr("bce.engine.compiled.loading.host_target", lambda isa: plainer)
    assert main(["--quiet", "--precision", "bf16", str(soundscapes)]) == 2
    said = "bce-infer: this CPU has no bfloat16 arithmetic (AVX512_BF16), so bf16 cannot run here: leave --precision at"
    assert capsys.readouterr().err == f"{said} fp32\n"
    monkeypatch.setattr("bce.engine.compiled.loading.host_target", lambda isa: None)
    monkeypatch.setattr("bce.engine.compiled.loading.why_none", lambda isa: "this CPU has no AVX2, FMA")
    assert str(Model(default_bundle).form) == "ONNX Runtime fp32, because this CPU has no AVX2, FMA"


def test_the_smaller_form_gives_the_same_scores(default_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    if host().isa == "avx2":
        pytest.skip("it is this CPU's only one")
    expected = Model(default_bundle, backend="onnxruntime").features(log_mels(3))
    monkeypatch.setattr("bce.engine.compiled.loading.host_target", lambda isa: host_target("avx2"))
    model = Model(default_bundle)
    assert_compiled(model.form, isa="avx2")
    for name, found in model.features(log_mels(3)).items():
        assert relative_l2(found, expected[name]) < 1e-5


def test_kernels_that_were_compiled_ahead_come_from_the_folder_that_is_named(
    default_bundle: Bundle,
    soundscapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host()
    objects, report = tmp_path / "objects", tmp_path / "run.json"
    objects.mkdir()
    target = travelling_targets()[0]
    file, *_ = compile_ahead(read_layers(default_bundle.backbone()), [target], objects)
    command = ["--quiet", "--bundle", str(default_bundle.path), "--shifts", "1", "--report", str(report)]
    command += ["--out", str(tmp_path / "s.csv"), str(next(soundscapes.glob("*S04*")))]

    monkeypatch.setenv("BCE_OBJECTS", str(objects))
    assert main(command) == 0
    found = json.loads(report.read_text())["backbone"]
    assert (found["backend"], found["isa"], found["cpu"]) == ("compiled", target.isa, target.cpu)
    assert found["origin"] == str(objects)
    file.write_bytes(file.read_bytes()[:-100])
    capsys.readouterr()
    assert main(command) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{file}: is damaged" in said


def test_other_families_run_in_onnx_runtime_and_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason="its graph is written with onnx")
    from support import second_family

    monkeypatch.setitem(KINDS, second_family.KIND, "support.second_family")
    form = Model(second_family.write_bundle(tmp_path / "bundle")).form
    assert str(form).startswith("ONNX Runtime fp32, because net.onnx is no MBConv network that is known: ")
    assert form.isa is None


def test_windows_that_are_not_finite_or_lie_across_memory(default_bundle: Bundle) -> None:
    model, windows = Model(default_bundle), log_mels(4)
    assert_compiled(model.form)
    across = np.ascontiguousarray(windows.transpose(0, 2, 1)).transpose(0, 2, 1)
    assert not across[0].flags.c_contiguous
    for name, want in model.features(windows).items():
        np.testing.assert_array_equal(model.features(across)[name], want)
    windows[2, 100, 50] = np.nan
    whole = model.features(windows)
    for name, values in model.features(windows[3:]).items():
        np.testing.assert_array_equal(whole[name][3:], values, "and the next window is not touched")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_end_the_run(
    default_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    model = Model(default_bundle)
    assert_compiled(model.form)
    outputs: Callable[..., list[NDArray[np.float32]]] = CompiledBackbone._outputs

    def spoiled(self: CompiledBackbone, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = outputs(self, inputs)
        found[1][1, 3] = wrong
        return found

    monkeypatch.setattr(CompiledBackbone, "_outputs", spoiled)
    with pytest.raises(BundleError, match=r"backbone\.onnx: gives block_24 with numbers that are not finite"):
        model.features(log_mels(2))
