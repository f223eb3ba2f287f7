"""``bce-tools probe``: parses, calls :func:`bce.tools.judge.probe.probe`, prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bce.engine.errors import OptionsError
from bce.tools.commands.inputs import add_features, cache_of, check_out_folder, feature_options, notice_of, read_bundle
from bce.tools.judge.options import Method, ProbeOptions

DRAWN = ("block_21", "block_24", "block_25")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``bce-tools probe``."""
    parser.description = (
        "Top-1 of nearest neighbours on each block's pooled features. Use a bundle that was exported with "
        "--blocks all. Writes probe.csv, probe.md, probe.png and umap.png."
    )
    defaults = ProbeOptions()
    add = parser.add_argument
    add("data", type=Path, metavar="DIR", help="a data set in BirdCLEF layout, or a folder of class folders")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for table and pictures")
    add("--classes", type=int, default=defaults.classes, help="in each draw (default: %(default)s)")
    add("--clips", type=int, default=defaults.clips, help="of each class (default: %(default)s)")
    add("--neighbours", type=int, default=defaults.neighbours, help="that vote (default: %(default)s)")
    add("--metrics", default=",".join(defaults.metrics), help="the first one ranks (default: %(default)s)")
    add("--method", choices=get_args(Method), default=defaults.method, help="(default: %(default)s)")
    add("--repeats", type=int, default=defaults.repeats, help="draws (default: %(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(default: %(default)s)")
    add("--umap", metavar="LIST", help="blocks to draw, or none (default: those of 21,24,25 that the bundle gives)")
    add("--compare-head", type=Path, metavar="CHECKPOINT", help="a trained head, to set its block weights beside this")
    add_features(parser)


def run(args: argparse.Namespace) -> list[str]:
    """Run the command; returns what to print."""
    options = ProbeOptions(
        classes=args.classes,
        clips=args.clips,
        neighbours=args.neighbours,
        metrics=tuple(args.metrics.split(",")),
        method=args.method,
        repeats=args.repeats,
        seed=args.seed,
    )

    from bce.export.perch.architecture import architecture
    from bce.tools.data.datasets import read_clips
    from bce.tools.judge.probe import probe
    from bce.tools.judge.probe_report import advice, head_weights, write_probe, write_umap
    from bce.tools.learn.features import clip_features

    check_out_folder(args.out)
    cache, computing = cache_of(args), feature_options(args)
    bundle = read_bundle(args)
    manifest = bundle.manifest
    wanted = _drawn(args.umap, [output.name for output in manifest.outputs if output.kind == "block"])
    weights = None if args.compare_head is None else head_weights(args.compare_head)
    clips = clip_features(read_clips(args.data), bundle, cache, computing, quiet=args.quiet)
    result = probe(clips.features, clips.labels, options)
    lines = advice(result, weights, len(architecture().blocks) if manifest.family == "perch" else None)
    if clips.failed:
        lines.append(f"left out {len(clips.failed)} of {len(clips.failed) + len(clips.labels)} clips, unreadable:")
        lines += [f"{path}: {reason}" for path, reason in clips.failed.items()]
    title = f"{manifest.name} on {args.data.resolve().name}"
    write_probe(args.out, result, options, title, lines)
    written = "probe.csv, probe.md, probe.png"
    if wanted:
        write_umap(args.out / "umap.png", {name: clips.features[name] for name in wanted}, clips.labels, options, title)
        written += ", umap.png"
    return [*notice_of(bundle), *lines, f"wrote {written} to {args.out}"]


def _drawn(text: str | None, blocks: Sequence[str]) -> list[str]:
    """The blocks that ``--umap`` asks for.

    Raises:
        OptionsError: the bundle does not give one of them.
    """
    if text is None:
        return [name for name in DRAWN if name in blocks]
    if text.strip() == "none":
        return []
    wanted = list(dict.fromkeys(f"block_{item.strip()}" for item in text.split(",")))
    for name in wanted:
        if name not in blocks:
            given = ",".join(block.removeprefix("block_") for block in blocks)
            raise OptionsError(f"umap '{text}': the bundle gives no {name}, only the blocks {given or '(none)'}")
    return wanted
