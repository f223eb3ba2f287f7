"""What runs a backbone, and what is said of it: kernels that cannot be had, or are wrong, never pass for right ones.

The kernels here are made up, so that all of this is tested on any CPU; those of the engine are in
``test_compiled_backbone.py``.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx", reason="the tiny bundle's graphs are written with onnx")

from support import tiny_bundle as tiny
from support.sounds import write_sound

from bce.engine.commands.infer import main
from bce.engine.compiled.network import Form
from bce.engine.errors import BundleError, CompiledError, OptionsError
from bce.engine.network import compiled_backbone, reference, runtimes
from bce.engine.network.bundle import Bundle
from bce.engine.network.mbconv import NotMbconv
from bce.engine.network.model import Model
from bce.engine.network.onnx_backbone import OnnxRuntimeBackbone
from bce.engine.run.engine import EngineOptions


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    tiny.write_files(folder)
    tiny.seal(folder)
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sound(tmp_path_factory.mktemp("sounds") / "a.wav", 4.0, 1, tiny.RATE)


@dataclass
class Kernels:
    """What stands in for compiled kernels: the graph's own numbers, unless they are spoiled."""

    bundle: Bundle
    refuses: Exception | None = None
    unknown: Exception | None = None
    spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda row: row
    widths: dict[str, int] = field(default_factory=lambda: {"block_1": tiny.FEATURES})
    opened: list[tuple[str, Path | None]] = field(default_factory=list)
    form: Any = None

    def read_layers(self, path: Path) -> Any:
        if self.unknown is not None:
            raise self.unknown
        assert path == self.bundle.backbone()
        return SimpleNamespace(input_shape=self.bundle.manifest.input.shape)

    def open_network(self, layers: Any, precision: Any, folders: Sequence[Path] = (), chosen: Any = None) -> Kernels:
        assert chosen is None
        assert layers.input_shape == self.bundle.manifest.input.shape
        self.opened.append((precision, next(iter(folders), None)))
        if self.refuses is not None:
            raise self.refuses
        self.form = Form(isa="avx2", precision=precision, cpu="made-up", origin="cache")
        self._graph = OnnxRuntimeBackbone(self.bundle, "fp32")
        return self

    def run(self, window: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        assert window.shape == self.bundle.manifest.input.shape
        return [self.spoil(row[0]) for row in self._graph.run(window[None])]


@pytest.fixture
def kernels(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    made = Kernels(bundle)
    monkeypatch.setattr(compiled_backbone, "CompiledNetwork", made.open_network)
    monkeypatch.setattr(runtimes, "read_layers", made.read_layers)
    monkeypatch.delenv("BCE_OBJECTS", raising=False)
    return made


def windows(count: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((count, tiny.RATE * tiny.WINDOW_S)).astype(np.float32)


def only_at(call: int, wrong: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    calls: list[int] = []

    def spoil(row: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append(1)
        return np.full_like(row, wrong) if len(calls) == call else row

    return spoil


def test_compiled_kernels_are_the_first_choice(kernels: Kernels, bundle: Bundle) -> None:
    for precision in ("fp32", "bf16"):
        for backend in ("auto", "compiled"):
            model = Model(bundle, precision, backend)
            assert str(model.form) == f"compiled {precision}, avx2 (made-up)"
            assert model.form.isa == "avx2"
            assert model.form.record() == {
                "backend": "compiled",
                "precision": precision,
                "isa": "avx2",
                "cpu": "made-up",
                "origin": "cache",
                "why_not_compiled": None,
            }
    trusted = Model(bundle, backend="onnxruntime")
    np.testing.assert_array_equal(
        Model(bundle).features(windows())["block_1"], trusted.features(windows())["block_1"], "rows in their order"
    )
    assert str(trusted.form) == "ONNX Runtime fp32"
    assert trusted.form.isa is None


NOT_HERE = [
    ({"refuses": CompiledError("this CPU has no AVX2")}, "this CPU has no AVX2"),
    ({"unknown": NotMbconv("is no MBConv network", "/x/net.onnx")}, "net.onnx is no MBConv network"),
    ({"spoil": lambda row: 1.001 * row}, "net.onnx gives block_1 0.001 off ONNX Runtime's on sound in compiled"),
    ({"spoil": only_at(3, np.nan)}, "net.onnx gives block_1 nan off ONNX Runtime's on silence in compiled"),
    ({"widths": {"block_1": 5}}, "net.onnx gives block_1 [5] when it is compiled, not block_1 [4]"),
    ({"widths": {"block_2": 4}}, "net.onnx gives block_2 [4] when it is compiled, not block_1 [4]"),
]


@pytest.mark.parametrize(("changes", "why"), NOT_HERE, ids=[why for _, why in NOT_HERE])
def test_where_they_cannot_be_had_onnx_runtime_runs_and_says_why(
    kernels: Kernels, bundle: Bundle, changes: dict[str, Any], why: str
) -> None:
    vars(kernels).update(changes)
    model = Model(bundle)
    assert str(model.form).startswith(f"ONNX Runtime fp32, because {why}")
    record = model.form.record()
    assert record["backend"] == "onnxruntime"
    assert record["why_not_compiled"].startswith(why)
    assert model.features(windows())["block_1"].shape == (3, tiny.FEATURES)


@pytest.mark.parametrize(("changes", "why"), NOT_HERE, ids=[why for _, why in NOT_HERE])
@pytest.mark.parametrize(
    ("asked", "end"),
    [
        (("--backend", "compiled"), "so the backbone cannot run compiled: leave --backend at auto"),
        (("--precision", "bf16"), "so bf16 cannot run here: leave --precision at fp32"),
        (("--precision", "bf16", "--backend", "compiled"), "so bf16 cannot run here: leave --precision at fp32"),
    ],
)
def test_what_was_asked_for_by_name_is_refused_in_one_line(
    kernels: Kernels,
    bundle: Bundle,
    recording: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    why: str,
    asked: tuple[str, ...],
    end: str,
) -> None:
    if "spoil" in changes and "bf16" in asked:
        changes = {"spoil": lambda row: 1.2 * row}  # what is wrong in fp32 may be right in bf16
        why = "net.onnx gives block_1 0.2 off ONNX Runtime's on sound in compiled bf16"
    if "spoil" in changes and "nan" in why:
        changes = {"spoil": only_at(3, np.nan)}
    vars(kernels).update(changes)
    command = ["--bundle", str(bundle.path), "--quiet", *asked, "--out", str(tmp_path / "s.csv"), str(recording)]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert why.split("net.onnx ")[-1] in said[0]
    assert said[0].endswith(end)
    assert list(tmp_path.iterdir()) == []


def test_int8_without_a_file_for_the_kernels_is_onnx_runtimes(kernels: Kernels, bundle: Bundle) -> None:
    assert str(Model(bundle, "int8").form) == "ONNX Runtime int8, because bundle has int8 for ONNX Runtime alone"
    with pytest.raises(OptionsError, match="has int8 for ONNX Runtime alone, so the backbone cannot run compiled"):
        Model(bundle, "int8", "compiled")
    assert kernels.opened == []


def test_other_errors_are_no_reason_to_fall_back(kernels: Kernels, bundle: Bundle) -> None:
    """A mistake in the engine shall be seen."""
    kernels.refuses = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        Model(bundle)


def test_what_turns_wrong_later_ends_the_run(kernels: Kernels, bundle: Bundle) -> None:
    model = Model(bundle)
    kernels.spoil = lambda row: row * np.float32(np.inf)
    with pytest.raises(BundleError, match=r"net\.onnx: gives block_1 with numbers that are not finite"):
        model.features(windows())
    with np.errstate(invalid="ignore"):
        model.features(windows() * np.float32(np.nan))  # out of such there come such
    kernels.spoil = lambda row: row[:2]
    with pytest.raises(BundleError, match=r"gives block_1 as \[3, 2\] for 3 windows, expected \[3, 4\]"):
        model.features(windows())


def test_onnx_runtimes_memory_is_given_back_after_the_check(
    kernels: Kernels, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And where its numbers are kept from an earlier start, it is not opened."""
    opened: list[weakref.ref[object]] = []

    class Watched(OnnxRuntimeBackbone):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            opened.append(weakref.ref(self._session))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runtimes, "OnnxRuntimeBackbone", Watched)
    monkeypatch.setattr(reference, "OnnxRuntimeBackbone", Watched)
    for _ in range(2):
        model = Model(bundle)
        gc.collect()
        assert [session() for session in opened] == [None]
        assert model.form.isa is not None
    kernels.refuses = CompiledError("not here")
    fallen = Model(bundle)
    gc.collect()
    assert [session() is None for session in opened] == [True, False]
    assert fallen.form.isa is None


def test_wrong_numbers_of_an_earlier_start_are_computed_anew(
    kernels: Kernels, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Right kernels are not refused for them; wrong kernels are still, also where they are right the next time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pack = reference._pack
    with monkeypatch.context() as patched:
        patched.setattr(reference, "_pack", lambda numbers, key: pack({n: 2 * v for n, v in numbers.items()}, key))
        assert Model(bundle).form.isa is not None
    assert Model(bundle).form.isa is not None
    assert Model(bundle).form.isa is not None
    kernels.spoil = only_at(1, np.nan)
    assert Model(bundle).form.isa is None


def test_a_run_says_what_ran_on_the_screen_and_in_all_it_writes(
    kernels: Kernels, bundle: Bundle, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, report = tmp_path / "f.parquet", tmp_path / "run.json"
    command = ["--bundle", bundle.path, "--features", features, "--report", report, recording]
    for refuses, says in (
        (None, "compiled fp32, avx2 (made-up)"),
        (CompiledError("of the weather"), "ONNX Runtime fp32, because of the weather"),
    ):
        kernels.refuses = refuses
        assert main([*map(str, command)]) == 0
        assert capsys.readouterr().err.splitlines().count(f"backbone: {says}") == 1
        assert pq.read_schema(features).metadata[b"backbone"].decode() == says
        content = json.loads(report.read_text())
        assert content["settings"]["backend"] == "auto"
        assert content["settings"]["objects"] is None
        assert content["backbone"]["why_not_compiled"] == (None if refuses is None else "of the weather")
        assert content["backbone"].get("isa") == (None if refuses else "avx2")
        assert "llvmlite" in content["versions"]
        assert main([*map(str, command), "--quiet"]) == 0
        assert capsys.readouterr().err == ""
        assert main([*map(str, command), "--plan", "--quiet"]) == 0
        assert f"backbone: {says}" in capsys.readouterr().out.splitlines()


def test_objects_come_from_where_the_user_says(
    kernels: Kernels, bundle: Bundle, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    named.mkdir()
    other.mkdir()
    Model(bundle)
    command = ["--bundle", str(bundle.path), "--quiet", "--out", str(tmp_path / "s.csv"), str(recording)]
    assert main([*command, "--objects", str(named)]) == 0
    monkeypatch.setenv("BCE_OBJECTS", str(other))
    assert main(command) == 0
    assert main([*command, "--objects", str(named)]) == 0
    assert EngineOptions().objects == other
    monkeypatch.setenv("BCE_OBJECTS", "")
    assert main(command) == 0
    assert EngineOptions(objects=str(named)).objects == named  # type: ignore[arg-type]
    assert kernels.opened == [("fp32", folder) for folder in (None, named, other, named, None)]


@pytest.mark.parametrize("backend", ["auto", "compiled"])
def test_native_code_never_comes_out_of_a_bundle(
    kernels: Kernels, tmp_path: Path, capsys: pytest.CaptureFixture[str], recording: Path, backend: str
) -> None:
    folder = tmp_path / "bundle"
    tiny.write_files(folder)
    tiny.seal(folder)
    kernels.bundle = Bundle.load(folder)
    (folder / "objects" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder / "objects")
    (tmp_path / "file").write_text("no folder")
    out = ["--quiet", "--out", str(tmp_path / "s.csv"), str(recording)]
    for place in (folder, folder / "objects", folder / "objects" / "deep", tmp_path / "link", tmp_path / "link/deep"):
        assert main(["--bundle", str(folder), "--backend", backend, "--objects", str(place), *out]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{place}: lies in the bundle {folder}, and native code is never loaded out of a bundle" in said
    for place in ("file", "nowhere"):
        asked = ["--backend", backend, "--objects", str(tmp_path / place)]
        assert main(["--bundle", str(folder), *asked, *out]) == 2
        assert f"{tmp_path / place}: is no folder: --objects and $BCE_OBJECTS name one" in capsys.readouterr().err
    assert kernels.opened == []
    with pytest.raises(OptionsError, match="lies in the bundle"):
        Model(kernels.bundle, objects=folder)
