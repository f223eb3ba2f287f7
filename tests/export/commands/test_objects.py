"""``bce-export --compile-for``: kernels for other machines, which a run finds again, and never in a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from bce.engine.compiled import ahead
from bce.engine.compiled.network import CompiledNetwork
from bce.engine.compiled.targets import TRAVELLING, host_target
from bce.engine.network.default import DEFAULT_BUNDLE
from bce.engine.network.mbconv import read_layers
from bce.export.commands.export import main


def test_a_run_finds_what_was_made_for_its_bundle(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    if host_target() is None:
        pytest.skip("there are no kernels for this CPU")
    folder = tmp_path / "new" / "objects"
    assert main(["--compile-for", "haswell", "--objects", str(folder), "--bundle", str(DEFAULT_BUNDLE)]) == 0
    (file,) = folder.iterdir()
    assert f"wrote {file}: " in capsys.readouterr().out
    form = CompiledNetwork(read_layers(DEFAULT_BUNDLE / "backbone.onnx"), "fp32", [folder], isa="avx2").form
    assert (form.origin, form.cpu, form.isa) == (str(folder), "haswell", "avx2")


def test_every_precision_that_a_cpu_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def write(ir: str, target: ahead.Target, precision: str, folder: Path) -> Path:
        assert target.attributes in ir
        assert ("bfloat" in ir) == (precision == "bf16")
        made.append((target.cpu, precision))
        (folder / "file").write_text(ir)
        return folder / "file"

    monkeypatch.setattr(ahead, "write_object", write)
    assert main(["--compile-for", "all", "--objects", str(tmp_path)]) == 0
    with_bf16 = ("znver4", "znver5", "sapphirerapids")  # as their makers' manuals say
    assert sorted(made) == sorted([(cpu, "fp32") for cpu in TRAVELLING] + [(cpu, "bf16") for cpu in with_bf16])


def test_names_are_taken_once_and_in_order() -> None:
    assert [target.cpu for target in ahead.targets_named("haswell, ZNVER4,haswell")] == ["haswell", "znver4"]
    assert len(ahead.targets_named("All")) == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--compile-for", "z80", "--objects", "{tmp}"], "CPU 'z80' is unknown: give 'all', or some of znver5,znver4,"),
        (["--compile-for", "", "--objects", "{tmp}"], "CPU '' is unknown"),
        (["--compile-for", "all"], "give the folder for them with --objects DIR"),
        (["--compile-for", "all", "--objects", "{tmp}", "--perch", "x"], "makes no bundle, it goes with --objects and"),
        (["--compile-for", "all", "--objects", "{tmp}", "--precision", "fp32,int8"], "leave out --precision"),
        (["--info", "{tmp}/bundle", "--objects", "{tmp}"], "--info makes no bundle: leave out --objects"),
        (["--compile-for", "all", "--objects", "{tmp}/file"], "{tmp}/file: is a file, expected a folder"),
        (["--compile-for", "all", "--objects", "{tmp}/file/o"], "{tmp}/file/o: cannot be made: Not a directory"),
        (["--compile-for", "all", "--objects", "{tmp}/bundle/o"], "{tmp}/bundle/o: lies in the bundle {tmp}/bundle, "),
        (["--compile-for", "all", "--objects", "{tmp}/o", "--bundle", "{tmp}/none"], "{tmp}/none"),
        (["--objects", "{tmp}"], "--objects and --bundle go with --compile-for CPUS"),
        (["--bundle", "{tmp}"], "--objects and --bundle go with --compile-for CPUS"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bce-export: ")
    assert says.format(tmp=tmp_path) in line
    assert sorted(tmp_path.rglob("*")) == before
