"""The three floors: who may import whom, and what the engine may never load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BELOW = {
    "engine": {"engine"},
    "export": {"engine", "export"},
    "tools": {"engine", "export", "tools"},
    "bench": {"engine", "export", "tools", "bench"},
}
HEAVY = {"torch", "tensorflow", "onnx", "onnxscript", "onnx_ir", "matplotlib", "sklearn", "umap", "safetensors"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("floor", BELOW)
def test_a_floor_imports_only_from_itself_and_below(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    for path in files:
        used = {name.split(".")[1] for name in imported(path) if name.startswith("bce.")}
        assert used <= BELOW[floor], f"{path} imports from {sorted(used - BELOW[floor])}"


def test_the_engine_names_nothing_heavy() -> None:
    for path in (ROOT / "engine").rglob("*.py"):
        heavy = {name.split(".")[0] for name in imported(path)} & HEAVY
        assert not heavy, f"{path} imports {sorted(heavy)}"


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh Python has loaded after some code."""
    program = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_engine_costs_nothing() -> None:
    modules = loaded_by("import bce.engine")
    assert not modules & (HEAVY | {"numpy", "onnxruntime", "numba", "pyarrow", "soundfile"})


def test_all_of_the_engine_loads_without_anything_heavy() -> None:
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "engine").rglob("*.py")]
    modules = loaded_by("; ".join(f"import bce.{'.'.join(path.parts)}" for path in paths if path.stem != "__init__"))
    assert not modules & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "bce.engine.commands.infer",
        "bce.engine.commands.blend",
        "bce.export.commands.export",
        "bce.tools.commands.tools",
    ],
)
def test_a_command_line_parses_before_it_loads(module: str) -> None:
    modules = loaded_by(
        f"import {module} as cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit as exit:\n    assert exit.code == 0"
    )
    assert not modules & (HEAVY | {"numpy", "onnxruntime", "numba", "pyarrow"})


def test_the_face_of_the_engine() -> None:
    import bce.engine

    for name in bce.engine.__all__:
        assert getattr(bce.engine, name).__name__ == name
    assert set(dir(bce.engine)) == set(bce.engine.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bce.engine.nonsense


def test_files_have_one_reason_to_change() -> None:
    """Rooms that grow past what one person reads in one go are to be split."""
    for floor in BELOW:
        for path in (ROOT / floor).rglob("*.py"):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            assert lines <= 450, f"{path} has {lines} lines: split it"
