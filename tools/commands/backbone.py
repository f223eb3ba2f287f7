"""``bce-tools backbone``: parses, calls :mod:`bce.tools.learn.backbone_training`, prints."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bce.engine.commands import flags
from bce.engine.errors import OptionsError
from bce.tools.commands.inputs import check_out_folder, threads_of
from bce.tools.learn.options import BackboneOptions

if TYPE_CHECKING:
    from bce.export.perch.backbone import Backbone


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools backbone``."""
    parser.description = (
        "Train a small network of Perch v2's layout on labelled recordings, and write it as an "
        "ONNX file that bce-export reads like Perch's own. The log lies beside it."
    )
    defaults = BackboneOptions
    add = parser.add_argument
    add("data", type=Path, metavar="DIR", help="a data set in BirdCLEF layout")
    add("--out", type=Path, required=True, metavar="ONNX", help="the network")
    add("--notice", default="", help="shown wherever scores of this network are")
    add("--licence", default="", help="of this network, kept in the file")
    add("--width", type=float, default=defaults.width, help="of the network; Perch's is 1.2 (default: %(default)s)")
    add("--steps", type=int, default=defaults.steps, help="batches (default: %(default)s)")
    add("--batch", type=int, default=defaults.batch, help="windows in a batch (default: %(default)s)")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="the highest (default: %(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    add("--threads", type=int, metavar="N", help=f"of torch (default: at most {defaults.threads})")
    flags.add_quiet(parser, "no progress")


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    options = BackboneOptions(
        width=args.width,
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        seed=args.seed,
        # more threads give other sums: a network is to come out the same on every machine with two cores
        threads=min(BackboneOptions.threads, threads_of(args)) if args.threads is None else args.threads,
    )

    import torch

    from bce.engine.files import write_text
    from bce.tools.data.datasets import read_dataset
    from bce.tools.learn.backbone_training import train_backbone, write_source
    from bce.tools.learn.backbone_windows import read_windows

    out: Path = args.out
    if out.suffix != ".onnx" or out.is_dir():
        raise OptionsError("expected the name of an ONNX file to write, such as backbone.onnx", out)
    check_out_folder(out.parent)
    log = [json.dumps({"options": asdict(options), "torch": torch.__version__})]

    def after_check(backbone: Backbone, figures: dict[str, float]) -> None:
        # an interrupt loses what came after the last check, not the run
        write_source(backbone, out, args.notice, args.licence)
        log.append(json.dumps({name: round(value, 5) for name, value in figures.items()}))
        write_text(out.with_suffix(".jsonl"), "\n".join(log) + "\n")

    began = time.monotonic()
    windows = read_windows(read_dataset(args.data), options, quiet=args.quiet)
    backbone, auc = train_backbone(windows, options, after_check, quiet=args.quiet)
    write_source(backbone, out, args.notice, args.licence)
    return [
        f"{sum(p.numel() for p in backbone.parameters()):,} weights, {time.monotonic() - began:.0f} s; "
        f"macro ROC-AUC {auc:.4f} on held-out soundscapes",
        f"wrote {out}",
    ]
