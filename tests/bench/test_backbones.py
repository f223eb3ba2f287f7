"""Distances against numpy's definition, and OpenVINO held to AVX2 in its own process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.forms import host
from support.int8_bundle import with_int8

pytest.importorskip("psutil", reason="benchmarks need the extra bce[bench]")

from bce.bench import backbones as forms_of
from bce.bench import capped
from bce.bench.backbones import COMPILED, REFERENCE, Distance, NotHere, backbones, furthest, has_kernels
from bce.engine.compiled.targets import Target
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path


def test_distance_is_the_relative_l2() -> None:
    rng = np.random.default_rng(0)
    expected = [rng.standard_normal((6, width)).astype(np.float32) for width in (3, 5)]
    found = [output + 0.01 * rng.standard_normal(output.shape).astype(np.float32) for output in expected]
    distance = Distance(("a", "b"))
    for part in (slice(0, 2), slice(2, 6)):
        distance.add([output[part] for output in expected], [output[part] for output in found])
    result = distance.to_json()
    assert result["windows"] == 6
    for name, a, b in zip("ab", expected, found, strict=True):
        of_window = [np.linalg.norm(y - x) / np.linalg.norm(x) for x, y in zip(a, b, strict=True)]
        assert result["outputs"][name] == pytest.approx(
            {"all": np.linalg.norm(b - a) / np.linalg.norm(a), "median": np.median(of_window), "worst": max(of_window)},
            rel=1e-5,
        )
    assert furthest(result)["worst"] == max(output["worst"] for output in result["outputs"].values())


def test_all_forms_give_what_onnx_runtime_gives() -> None:
    bundle, absent = Bundle.load(bundle_path()), dict[str, str]()
    forms = {form.name: form.run for form in backbones(bundle, 1, absent)}
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1, 0.2, (2, *bundle.manifest.input.shape)).astype(np.float32)
    expected = forms.pop(REFERENCE)(inputs)
    assert f"compiled fp32, {host().isa}" in forms
    names = {f"compiled {precision}, {isa}" for precision, isa in COMPILED if precision != "int8"}
    assert names | {"OpenVINO fp32", "OpenVINO bf16"} == set(forms) | set(absent)  # it was exported without int8
    for name, run in forms.items():
        distance = Distance(bundle.manifest.output_names)
        distance.add(expected, run(inputs))
        assert furthest(distance.to_json())["worst"] < (1e-4 if "fp32" in name else 0.1), name


@pytest.mark.parametrize(("kernels", "graph"), [(True, True), (True, False), (False, True)])
def test_int8_is_where_the_bundle_and_the_cpu_have_it(tmp_path: Path, kernels: bool, graph: bool) -> None:
    bundle, absent = with_int8(tmp_path / "b", kernels=kernels, graph=graph), dict[str, str]()
    forms = {form.name: form.run for form in backbones(bundle, 1, absent)}
    inputs = np.random.default_rng(0).uniform(-1, 0.2, (2, *bundle.manifest.input.shape)).astype(np.float32)
    best = f"compiled int8, {host().isa}"
    assert {"ONNX Runtime int8", *(f"compiled int8, {isa}" for precision, isa in COMPILED if precision == "int8")} <= (
        set(forms) | set(absent)
    )
    assert ("ONNX Runtime int8" in forms) == graph
    assert (best in forms) == (kernels and host().vnni) == has_kernels(bundle, "int8")
    if not graph:
        assert absent["ONNX Runtime int8"].startswith("has int8 for the compiled kernels alone")
    if not kernels:
        assert absent[best] == "has int8 for ONNX Runtime alone"
    if best in forms:
        distance = Distance(bundle.manifest.output_names)
        distance.add(forms[REFERENCE](inputs), forms[best](inputs))
        assert 1e-4 < furthest(distance.to_json())["worst"] < 0.2


def test_a_cpu_without_dot_products_of_bytes_has_no_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = with_int8(tmp_path / "b", kernels=True, graph=True)
    monkeypatch.setattr(forms_of, "host_target", lambda: Target("haswell", "avx2"))
    assert not has_kernels(bundle, "int8")
    assert has_kernels(bundle, "fp32")
    monkeypatch.setattr(forms_of, "host_target", lambda: Target("alderlake", "avx2", vnni=True))
    assert has_kernels(bundle, "int8")


def test_openvino_held_to_avx2_runs_and_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    bundle = Bundle.load(bundle_path())
    inputs = np.zeros((3, *bundle.manifest.input.shape), np.float32)
    with capped.Capped(bundle, inputs, 1, tmp_path) as held:
        assert held.contestant.run() == 3
        assert held.contestant.run() == 3
    if host().isa == "avx512":
        monkeypatch.setattr(capped, "LIMIT", {})
        with pytest.raises(NotHere, match="in spite of the limit"):
            capped.Capped(bundle, inputs, 1, tmp_path)
