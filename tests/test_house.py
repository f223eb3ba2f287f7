"""The house: who may import whom, what the engine may never load, and what only one room may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("engine", "export", "tools", "bench")
"""From the ground up: a floor imports from itself and from those below it."""
WINGS = {
    "engine": ("audio", "frontends", "compiled", "network", "post", "tables", "run", "commands"),
    "export": ("readers", "perch", "birdnet", "heads", "proof", "int8", "commands"),
    "tools": ("data", "learn", "judge", "commands"),
    "bench": (),
}
"""Of each floor, likewise: the files beside the wings are the ground, below all of them."""
HEAVY = {"torch", "tensorflow", "onnx", "onnxscript", "onnx_ir", "matplotlib", "sklearn", "umap", "safetensors"}
COMMANDS = (
    "bce.engine.commands.infer",
    "bce.engine.commands.blend",
    "bce.export.commands.export",
    "bce.tools.commands.tools",
    "bce.bench.cli",
)


@cache
def files(floor: str) -> tuple[Path, ...]:
    return tuple(sorted((ROOT / floor).rglob("*.py")))


def every_file() -> Iterator[Path]:
    for floor in FLOORS:
        yield from files(floor)


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("bce", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_of(path): path for path in every_file()}


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of a tree but what stands under ``if TYPE_CHECKING``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"):
            yield from runtime_nodes(child)


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports anywhere in it when it runs."""
    names: set[str] = set()
    for node in runtime_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name for name in inner if name in MODULES} or {node.module}
    return frozenset(names)


def height(module: str) -> tuple[int, int]:
    """The floor and the wing of a module, counted from below; the ground of a floor is wing 0."""
    _, floor, *rest = module.split(".")
    wings = WINGS[floor]
    return FLOORS.index(floor), wings.index(rest[0]) + 1 if rest and rest[0] in wings else 0


def test_no_arrow_points_upwards() -> None:
    for module, path in MODULES.items():
        floor, wing = height(module)
        for other in imported(path):
            if other.startswith("bce."):
                other_floor, other_wing = height(other)
                assert other_floor < floor or (other_floor == floor and other_wing <= wing), f"{module} imports {other}"


def test_no_imports_in_a_circle() -> None:
    graph = {module: {name for name in imported(path) if name in MODULES} for module, path in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # raises CycleError, which names them


def test_wings_are_wings() -> None:
    """Each says in one line what it holds, exports nothing, holds more than one file, and is packaged."""
    for floor in FLOORS:
        folders = {path.parent for path in files(floor)} - {ROOT / floor}
        assert {folder.relative_to(ROOT / floor).parts[0] for folder in folders} == set(WINGS[floor])
        for folder in folders:
            init = (folder / "__init__.py").read_text(encoding="utf-8")
            assert re.fullmatch(r'""".+"""\n', init), f"{shown(folder)}: __init__.py is more than a line of docstring"
            assert len(list(folder.glob("*.py"))) > 2, f"{shown(folder)} holds one file: it is no wing"
    packages = {module_of(path) for path in every_file() if path.name == "__init__.py"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == packages


def test_files_have_one_reason_to_change() -> None:
    """Rooms that grow past what one person reads in one go are to be split."""
    said = re.search(r"stay under (\d+) lines", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert said is not None
    for path in every_file():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines < int(said[1]), f"{shown(path)} has {lines} lines: split it"


# what only one room may do or know ------------------------------------------------------------------------------------

PERCH_ROOMS = ("engine/frontends/perch.py", "engine/frontends/melbank.py", "export/perch/", "bench/stock.py")
SILENCED = ("engine/network/onnx_runtime.py", "bench/stock.py")
SYNTHETIC_ROOM = ("tools/data/synth/",)


@pytest.mark.parametrize(
    ("pattern", "rooms"),
    [
        (r"\bInferenceSession\(", ("engine/network/sessions.py", "bench/stock.py")),
        (r"\b(import|from) onnxruntime\b", SILENCED),
        (r"\b(import|from) openvino\b", ("engine/network/openvino_backbone.py",)),
        (r"\bos\.(replace|rename)\(|\.rename\(|\.part(ial)?\b[^\w(]*[\"'{-]", ("engine/files.py",)),
        (r"\bos\.walk\(|\.rglob\(|glob\([\"'](\*\*?/|\*\.(wav|ogg|flac))", ("engine/audio/recordings.py",)),
        (r"except KeyboardInterrupt", ("engine/commands/main.py",)),
        (
            r"\bSAMPLE_RATE\b|\bWINDOW_S\b|\bWINDOW_SAMPLES\b|\b32_?000\b|\b160_?000\b|\b500, 128\b|\blog_mel\b"
            r"|\brange\(26\)|\b26[- ]blocks?\b|\b0\.\.25\b",
            (*PERCH_ROOMS, *SYNTHETIC_ROOM),
        ),
    ],
    ids=[
        "opening ONNX Runtime",
        "importing ONNX Runtime",
        "importing OpenVINO",
        "beside and rename",
        "walking folders",
        "interrupts",
        "a family's geometry",
    ],
)
def test_only_its_own_room_does_or_knows_it(pattern: str, rooms: tuple[str, ...]) -> None:
    assert all((ROOT / room).exists() for room in rooms)
    found = [
        f"{shown(path)}:{number}: {line.strip()}"
        for path in every_file()
        if not shown(path).startswith(rooms)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", SILENCED)
def test_onnx_runtime_is_silenced_before_it_is_imported(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert 0 < text.find('os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")') < text.index("import onnxruntime")


def test_the_plan_of_the_house_names_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:engine|export|tools|bench|tests|docs)/[\w./]*)`", text))
    assert len(paths) > 30
    missing = [path for path in sorted(paths) if not (ROOT / path).exists()]
    assert not missing
    wings = {f"{floor}/{wing}/" for floor in FLOORS for wing in WINGS[floor]}
    assert {path for path in wings if path not in text} == set()


# what is loaded -------------------------------------------------------------------------------------------------------


def test_the_engine_names_nothing_heavy() -> None:
    for path in files("engine"):
        heavy = {name.split(".")[0] for name in imported(path)} & HEAVY
        assert not heavy, f"{shown(path)} imports {sorted(heavy)}"


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
    modules = loaded_by("; ".join(f"import {module_of(path)}" for path in files("engine")))
    assert not modules & HEAVY


@pytest.mark.parametrize("module", COMMANDS)
def test_a_command_line_parses_before_it_loads(module: str) -> None:
    modules = loaded_by(
        f"import {module} as cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit as exit:\n    assert exit.code == 0"
    )
    assert not modules & (HEAVY | {"numpy", "onnxruntime", "numba", "pyarrow"})
