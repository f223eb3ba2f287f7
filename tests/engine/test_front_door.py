"""The front door: what ``bce.engine`` offers, and that offering it costs nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bce.engine

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "engine" / "__init__.py"
PAGE = ROOT / "docs" / "python.md"


def for_type_checkers() -> dict[str, str]:
    """Each name under ``if TYPE_CHECKING`` and the module that it is imported from."""
    block = next(node for node in ast.parse(SOURCE.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    return {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


@pytest.mark.parametrize("name", bce.engine.__all__)
def test_a_name_is_what_its_module_defines_and_says_what_it_is(name: str) -> None:
    thing = getattr(bce.engine, name)
    assert thing.__name__ == name
    assert thing.__module__ == for_type_checkers()[name]
    assert thing.__doc__
    # what @dataclass writes where a class has no docstring of its own
    assert not thing.__doc__.startswith(f"{name}(")


def test_programs_type_checkers_and_dir_see_the_same_names() -> None:
    assert list(bce.engine.__all__) == sorted(set(bce.engine.__all__))
    assert set(for_type_checkers()) == set(bce.engine.__all__) == set(dir(bce.engine))
    names: dict[str, object] = {}
    exec("from bce.engine import *", names)
    assert set(names) - {"__builtins__"} == set(bce.engine.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = bce.engine.nonsense
    with pytest.raises(ImportError, match="nonsense"):
        exec("from bce.engine import nonsense")


def test_looking_at_the_door_loads_nothing() -> None:
    program = """
import sys, threading
before = set(sys.modules)
import bce.engine
dir(bce.engine), bce.engine.__all__, hasattr(bce.engine, "nonsense")
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - sys.stdlib_module_names), threading.active_count())
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("bce 1\n", "")


def test_the_page_has_every_name_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    listed = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    names = [name for cell in listed for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(names) == sorted(bce.engine.__all__)
