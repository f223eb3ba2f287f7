"""``bce-tools``: finds the command, lets its module parse and run; imports nothing that the command does not need."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from bce.engine.commands import flags
from bce.engine.commands.main import run_command
from bce.engine.screen import printable

NAME = "bce-tools"
COMMANDS = {
    "evaluate": "macro ROC-AUC of a score table against labelled windows; how near it is to another table",
    "priors": "count a site x hour prior out of labelled windows, or judge one",
    "tune": "choose values of post-processing on scores of labelled windows",
    "synth": "make labelled synthetic soundscapes in BirdCLEF layout",
    "features": "block features of labelled recordings, cached",
    "probe": "which blocks tell classes apart: a kNN probe on their features",
    "backbone": "train a small backbone of Perch v2's layout",
    "train": "train a head on block features",
}
"""Command -> one line of help. The module of its name beside this one has ``add_arguments(parser)``, and ``run(args)``,
which returns the lines to print."""


class _Parser(argparse.ArgumentParser):
    """A command's own parser: files may stand between options, also where the last of them may be left out.

    Older versions of Python take such a file for left out where an option comes first. Behind ``--`` is no option.
    """

    _mixes = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._mixes or "--" in (args or ()):  # called by what is called below, which loses what is behind --
            return super().parse_known_args(args, namespace)
        self._mixes = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixes = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the exit code."""
    return run_command(NAME, lambda: _run(sys.argv[1:] if arguments is None else list(arguments)), "bce[tools]")


def _run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog=NAME, description="Learn from labelled recordings, and judge what was learnt."
    )
    flags.add_version(parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    parsers = {name: subparsers.add_parser(name, help=about) for name, about in COMMANDS.items()}
    chosen = next((text for text in arguments if not text.startswith("-")), "")
    if chosen in COMMANDS:
        module = import_module(f"bce.tools.commands.{chosen}")
        module.add_arguments(parsers[chosen])
        parser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    for line in args.run(args):
        print(printable(line))


if __name__ == "__main__":
    sys.exit(main())
