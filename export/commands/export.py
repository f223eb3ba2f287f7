"""``bce-export``: parses, calls :func:`bce.export.commands.bundling.export_bundle`, prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from bce.engine.errors import BceError, OptionsError

if TYPE_CHECKING:
    from bce.engine.network.bundle import Bundle

EXTRA = "pip install 'bce[export]'"


def parser() -> argparse.ArgumentParser:
    """The command line of ``bce-export``."""
    parser = argparse.ArgumentParser(
        prog="bce-export",
        description="Turn a published Perch v2 file, and a trained head, into a small bundle for bce-infer. "
        "The bundle is compared with the file that it comes from before it is written.",
        epilog="Exit codes: 0 done; 2 wrong use or a source that does not convert; 1 anything else.",
    )
    add = parser.add_argument
    add(
        "--perch",
        metavar="FILE_OR_NAME",
        help="an ONNX or TFLite file, a SavedModel folder, or the name of a published one to download "
        "(perch_v2, perch_v2_no_dft, kaggle:perch_v2_cpu, kaggle:perch_v2)",
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
    add("--outputs", default="blocks", metavar="LIST", help="of blocks,embedding,label (default: blocks)")
    add("--preparation", help="of each window: none, peak or hoplite (default: the head's, else none)")
    add("--priors", type=Path, metavar="NPZ", help="a site and hour table to put into the bundle")
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
        help="fp32, or fp32,int8 for a faster, less exact second backbone",
    )
    add("--calibrate", nargs="+", default=(), type=Path, metavar="PATH", help="recordings to measure int8 on")
    add("--out", type=Path, metavar="BUNDLE", help="the bundle's folder")
    add("--force", action="store_true", help="replace the bundle that is there")
    add("--info", type=Path, metavar="BUNDLE", help="describe a bundle and its proof, and do nothing else")
    add("--version", action="version", version=f"%(prog)s {metadata.version('bce')}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    args = parser().parse_args(arguments)
    try:
        if args.info is not None:
            from bce.engine.network.bundle import Bundle

            for line in info_lines(Bundle.load(args.info)):
                print(line)
        else:
            _export(args)
    except BceError as error:
        print(f"bce-export: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bce-export: interrupted, nothing was written", file=sys.stderr)
        return 130
    return 0


def _export(args: argparse.Namespace) -> None:
    if args.perch is None or args.out is None:
        raise OptionsError("give --perch FILE_OR_NAME and --out BUNDLE, or --info BUNDLE")
    blocks, outputs = parse_blocks(args.blocks), tuple(args.outputs.split(","))
    # torch and onnx come after everything that can be said without them
    try:
        from bce.export.commands.bundling import ExportOptions, export_bundle
    except ModuleNotFoundError as error:
        raise OptionsError(f"needs the package '{error.name}': {EXTRA}") from None
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
        check_audio=tuple(args.check_audio),
        check_against=args.check_against,
        precisions=tuple(args.precision.split(",")),
        calibrate=tuple(args.calibrate),
        force=args.force,
    )
    export_bundle(options, lambda line: print(line, flush=True))


def parse_blocks(text: str | None) -> tuple[int, ...] | None:
    """Read ``--blocks``: indices with commas, or 'all'; None stays None.

    Raises:
        OptionsError: it is neither.
    """
    if text is None:
        return None
    if text == "all":
        return tuple(range(26))
    try:
        return tuple(sorted({int(item) for item in text.split(",")}))
    except ValueError:
        raise OptionsError(f"--blocks {text}: expected numbers with commas, such as 21,24,25, or 'all'") from None


def info_lines(bundle: Bundle) -> Iterator[str]:
    """A bundle and its proof, for reading."""
    import json

    from bce.engine.network.bundle import PARITY

    manifest = bundle.manifest
    head = manifest.head
    yield f"{manifest.name} ({bundle.path})"
    if manifest.notice:
        yield f"  notice       {manifest.notice}"
    yield f"  source       {manifest.source.file}, {manifest.source.form}, licence {manifest.source.licence}"
    yield f"               SHA-256 {manifest.source.sha256}"
    yield f"  window       {manifest.window_s:g} s at {manifest.sample_rate} Hz, preparation {manifest.preparation}"
    yield f"  outputs      {', '.join(manifest.outputs)}"
    if head.kind in ("none", "perch"):
        yield f"  head         {'none: features only' if head.kind == 'none' else 'perch: its own classifier'}"
    else:
        yield f"  head         {head.kind}, {head.folds} folds, {head.parameters:,} parameters"
    if bundle.classes:
        yield f"  classes      {len(bundle.classes)}: {', '.join(bundle.classes[:3])}, ..."
    for name in manifest.files:
        yield f"  file         {name}, {(bundle.path / name).stat().st_size / 1e6:.2f} MB"
    yield f"  precisions   {', '.join(manifest.variants)}"
    yield f"  made with    {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}"
    path = bundle.file(PARITY)
    if path is not None:
        parity = json.loads(path.read_text(encoding="utf-8"))
        yield f"  parity       {parity['status']}, {len(parity['comparisons'])} comparisons"
        yield from _parity_table(parity["comparisons"])
        if (int8 := parity.get("int8")) is not None:
            ranks = int8["rank_correlation"]
            yield f"    int8 against fp32 on {int8['windows']} windows, from block {int8['first_block']} on:" + (
                "" if ranks is None else f" rank correlation {ranks:.4f}"
            )
            for output, value in int8["relative_l2"].items():
                yield f"    {'int8':<12} {output:<12} {value:>9.1e}"


def _parity_table(comparisons: Sequence[dict[str, object]]) -> Iterator[str]:
    """The worst of each measure and output, on natural audio and on extremes."""
    worst: dict[tuple[object, object], dict[bool, float]] = {}
    for row in comparisons:
        value = row["max_abs" if row["measure"] == "spectrogram" else "relative_l2"]
        assert isinstance(value, float)
        cell = worst.setdefault((row["measure"], row["output"]), {})
        natural = bool(row["natural"])
        cell[natural] = max(cell.get(natural, 0.0), value)
    if worst:
        yield f"    {'measure':<12} {'output':<12} {'natural':>9} {'extremes':>9}"
    for (measure, output), cell in worst.items():
        shown = [f"{cell[kind]:.1e}" if kind in cell else "-" for kind in (True, False)]
        yield f"    {measure!s:<12} {output!s:<12} {shown[0]:>9} {shown[1]:>9}"
