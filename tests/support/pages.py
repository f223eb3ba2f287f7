"""Pages of the documentation as programs: what they show being typed, and doing it.

A block is run if it is fenced as ``console`` (lines after ``$``, each followed by what it prints) or as ``python`` (a
``text`` block right behind it is what it prints), or if its lines are commands (fenced without a language or indented).
In what is printed numbers may be others, and a line ``...`` stands for any lines.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

MAINS = {
    "bce-bench": "bce.bench.cli",
    "bce-blend": "bce.engine.commands.blend",
    "bce-export": "bce.export.commands.export",
    "bce-infer": "bce.engine.commands.infer",
    "bce-tools": "bce.tools.commands.tools",
}
SHELL = ("cat", "cp", "cut", "echo", "head", "ls", "mkdir", "tail")
"""What else a page may let its reader type."""
MACHINE = "backbone: "
"""How a line begins that says what the machine at hand runs."""
OTHERS = ("make", "pip", "pytest", "python")


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        language: of a fenced block, else empty.
        line: number of its first line in the page.
        lines: without fence and indentation.
    """

    language: str
    line: int
    lines: tuple[str, ...]


@dataclass
class Shown:
    """A command or a piece of Python that a page shows, and what the page says that it prints."""

    page: Path
    line: int
    text: str
    output: list[str] | None = None
    output_line: int = 0
    python: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {self.text if not self.python else 'python'}"

    @property
    def words(self) -> list[str]:
        """The words of a command."""
        return shlex.split(self.text, comments=True)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced and the indented blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence, indented = re.fullmatch(r"```(\w*)", lines[number]), lines[number].startswith("    ")
        start = number
        if fence:
            end = lines.index("```", start + 1)
            yield Block(fence[1], start + 2, tuple(lines[start + 1 : end]))
            number = end + 1
        elif indented and (start == 0 or not lines[start - 1].strip()):
            while number < len(lines) and lines[number].startswith("    "):
                number += 1
            yield Block("", start + 1, tuple(line[4:] for line in lines[start:number]))
        else:
            number += 1


def shown(page: Path) -> list[Shown]:
    """All that a page shows to be run, in order."""
    found: list[Shown] = []
    last: Block | None = None
    for block in blocks(page):
        if block.language == "python":
            found.append(Shown(page, block.line, "\n".join(block.lines), python=True))
        elif block.language == "text" and last is not None and last.language == "python":
            found[-1].output, found[-1].output_line = list(block.lines), block.line
        elif block.language == "console":
            for number, line in enumerate(block.lines):
                if line.startswith("$ "):
                    found.append(Shown(page, block.line + number, line[2:], [], block.line + number + 1))
                else:
                    found[-1].output.append(line)  # type: ignore[union-attr]
        elif block.language in ("", "sh") and _is_command(block.lines[0]):
            found += _commands(page, block)
        last = block
    return found


def _is_command(line: str) -> bool:
    return line.split(" ")[0] in (*MAINS, *OTHERS)


def _commands(page: Path, block: Block) -> Iterator[Shown]:
    """The commands of a block that has nothing but commands; a line may go on after a backslash."""
    text = ""
    for number, line in enumerate(block.lines):
        text += line.removesuffix("\\")
        if not line.endswith("\\"):
            assert _is_command(text), f"{page.name}:{block.line + number}: '{text}' is no command, but the others are"
            yield Shown(page, block.line + number, text)
            text = ""


def main_of(command: str) -> Callable[[list[str]], int]:
    """The function behind a command of this project."""
    main: Callable[[list[str]], int] = import_module(MAINS[command]).main
    return main


class Session:
    """Runs what a page shows, one after the other, in the current folder; Python goes on where it left off."""

    def __init__(self) -> None:
        self.code = 0
        self._names: dict[str, Any] = {}

    def run(self, item: Shown) -> list[str]:
        """Run it, and return the lines that it prints but those of progress. :attr:`code` is a command's exit code."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            if item.python:
                # annotations of names that a sketch leaves open are not looked up
                program = f"from __future__ import annotations\n{item.text}"
                exec(compile(program, f"{item.page.name}:{item.line}", "exec", dont_inherit=True), self._names)
            elif item.words[0] in MAINS:
                self.code = self._main(item.words)
            else:
                assert item.words[0] in SHELL, f"{item}: not among {SHELL}"
                text = item.text.replace("$?", str(self.code))
                done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
                self.code = done.returncode
                print(done.stdout + done.stderr, end="")
        return [line for line in printed.getvalue().splitlines() if not re.match(r"\d+/\d+ recordings, ", line)]

    @staticmethod
    def _main(words: list[str]) -> int:
        try:
            return main_of(words[0])(words[1:])
        except SystemExit as error:  # argparse
            return int(error.code or 0)


def same(printed: list[str], expected: list[str]) -> bool:
    """Whether lines are the expected ones, up to numbers and to what a line ``...`` stands for."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else f"{re.escape(_plain(line))}\n" for line in expected)
    return re.fullmatch(pattern, "".join(f"{_plain(line)}\n" for line in printed)) is not None


def _plain(line: str) -> str:
    if line.startswith(MACHINE):
        return MACHINE
    return re.sub(r"\d+(\.\d+)?(e[-+]\d+)?", "0", " ".join(line.split()))


def rewrite(page: Path) -> None:
    """Run a page in the current folder, and put what its blocks print into it, but where it says ``...``."""
    session, lines = Session(), page.read_text(encoding="utf-8").splitlines()
    ran = [(item, session.run(item)) for item in shown(page) if item.output is not None or item.python]
    for item, printed in reversed(ran):
        if item.output is not None and "..." not in item.output:
            lines[item.output_line - 1 : item.output_line - 1 + len(item.output)] = printed
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        rewrite(Path(name))
