"""``bce-tools``: finds the command, lets its module parse and run; imports nothing that the command does not need."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

from bce.engine.errors import BceError

COMMANDS = {
    "evaluate": ("bce.tools.judge.evaluate", "macro ROC-AUC of a score table against labelled windows"),
    "priors": ("bce.tools.commands.priors", "count a site x hour prior out of labelled windows, or judge one"),
    "synth": ("bce.tools.data.synth.dataset", "make labelled synthetic soundscapes in BirdCLEF layout"),
    "features": ("bce.tools.learn.features", "block features of labelled recordings, cached"),
    "probe": ("bce.tools.judge.probe", "which blocks tell classes apart: a kNN probe on their features"),
    "backbone": ("bce.tools.learn.backbone_training", "train a small backbone of Perch v2's layout"),
    "train": ("bce.tools.commands.train", "train a head on block features"),
}
"""Command -> its module and one line of help. The module has ``add_parser(subparsers)``, which sets ``run``:
from the parsed options to an exit code, or to the lines to print."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the return value is the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="bce-tools", description="Learn from labelled recordings, and judge what was learnt."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {metadata.version('bce')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((text for text in arguments if not text.startswith("-")), None)
    try:
        for name, (module, about) in COMMANDS.items():
            if name == chosen:
                import_module(module).add_parser(subparsers)
            else:
                subparsers.add_parser(name, help=about)
        options = parser.parse_args(arguments)
        answer: int | Sequence[str] = options.run(options)
        if isinstance(answer, int):
            return answer
        print("\n".join(answer))
        return 0
    except BceError as error:
        print(f"bce-tools: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "bce":
            raise
        print(f"bce-tools: {chosen} needs the package {error.name}: install bce[tools]", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bce-tools: interrupted", file=sys.stderr)
        return 130
