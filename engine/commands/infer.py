"""``bce-infer``: parses, calls :func:`bce.engine.run.infer.infer`, prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from bce.engine.errors import BceError, OptionsError
from bce.engine.network.default import BUNDLE_VARIABLE, bundle_path

if TYPE_CHECKING:
    from bce.engine.network.bundle import Bundle
    from bce.engine.post.postprocess import PostprocessOptions, Step
    from bce.engine.run.engine import Engine
    from bce.engine.run.infer import RunOptions
    from bce.engine.run.record import RunReport

MOST_LINES = 20
"""Bad recordings named on the screen; the report has all."""


def parser() -> argparse.ArgumentParser:
    """The command line of ``bce-infer``."""
    parser = argparse.ArgumentParser(
        prog="bce-infer",
        description="Run a bundle over soundscape recordings and write a table of scores, a row for every 5 seconds.",
        epilog="Exit codes: 0 all done; 2 wrong use; 3 the table is complete but rows were filled; 130 interrupted.",
    )
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="RECORDING_OR_FOLDER", help="recordings, or folders to walk")
    add("--bundle", type=Path, help=f"the bundle's folder (default: ${BUNDLE_VARIABLE}, else the embedded demo model)")
    add("--threads", type=int, metavar="N", help="busy threads in all (default: the CPUs this process may use)")
    add(
        "--shifts",
        default="5",
        metavar="S",
        help="5 = -2,-1,0,1,2 s; 3 = -1,0,1 s; 1 = none; or a list in seconds such as -2.5,0,2.5 (default: 5)",
    )
    add("--out", type=Path, help="score table, .csv or .parquet (default: submission.csv)")
    add("--features", type=Path, metavar="PARQUET", help="also write the block features")
    add(
        "--features-per",
        choices=("chunk", "window"),
        default="chunk",
        help="features as a mean over a chunk's shifts, or of every window (default: chunk)",
    )
    add("--sample-submission", type=Path, metavar="CSV", help="the rows and the order that the table must have")
    add("--name-pattern", metavar="REGEX", help="how file names give (?P<site>), (?P<date>) and (?P<time>)")
    add("--utc-offset", type=float, default=0.0, metavar="HOURS", help="of the times in file names (default: 0)")
    add("--priors", type=Path, metavar="NPZ", help="a site x hour table in place of the bundle's")
    add(
        "--prior-strength",
        metavar="A",
        help="factor on the prior's log-odds: a number, known=0.5,unknown=0.2 or none (default: 0.5)",
    )
    add("--sigma", metavar="CHUNKS", help="Gaussian over a recording's chunks, or none (default: 1.0)")
    add(
        "--smooth-on",
        choices=("logits", "probabilities"),
        default="logits",
        help="what the Gaussian averages (default: logits)",
    )
    add(
        "--taxonomy-smoothing",
        metavar="LEVELS",
        help="towards the mean of relatives, or none (default: genus=0.15,class=0.05)",
    )
    add(
        "--taxonomy-exclude",
        metavar="GROUP",
        action="append",
        default=[],
        help="a group to leave alone, such as Insect; may be given again",
    )
    add("--raw", action="store_true", help="no prior, no smoothing: the mean of the shifts as it is")
    add("--precision", default="fp32", help="which backbone of the bundle to run: fp32, int8 or bf16 (default: fp32)")
    add(
        "--backend",
        choices=("onnxruntime", "openvino"),
        default="onnxruntime",
        help="what runs the backbone; openvino is checked against onnxruntime first (default: onnxruntime)",
    )
    add(
        "--budget-minutes",
        type=float,
        metavar="M",
        help="finish within M minutes of the start, with fewer shifts if need be",
    )
    add("--reserve-minutes", type=float, default=3.0, metavar="M", help="of the budget, kept for writing (default: 3)")
    add("--plan", action="store_true", help="measure a few windows, print how long a run would take, and write nothing")
    add("--report", type=Path, metavar="JSON", help="write a report of the run")
    add("--quiet", action="store_true", help="no progress, no summary")
    add("--version", action="version", version=f"%(prog)s {metadata.version('bce')}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    args = parser().parse_args(arguments)
    code = 2
    try:
        code = _run(args)
    except BceError as error:
        print(f"bce-infer: {error}", file=sys.stderr)
    except OSError as error:  # a full disk, a file that vanished
        print(f"bce-infer: {error.filename or 'writing'}: {error.strerror or error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("bce-infer: interrupted", file=sys.stderr)
        code = 130
    _leave_hanging_threads(code)
    return code


def _leave_hanging_threads(code: int) -> None:
    """End the process at once if a thread of the engine still hangs in a reader or in the network.

    Everything is written by then. Python's own way out would tear such a thread out of its C code and abort.
    """
    if any(thread.name.startswith("bce-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(args: argparse.Namespace) -> int:
    path = bundle_path(args.bundle)
    # slow imports come after everything that can be said without them
    from bce.engine.network.bundle import Bundle
    from bce.engine.run.infer import check_place, infer

    options = _options(args)
    if args.report is not None:
        check_place(args.report)
    bundle = Bundle.load(path)
    say: Callable[[str], None] = (lambda line: None) if args.quiet else (lambda line: print(line, file=sys.stderr))
    if bundle.manifest.notice:
        say(f"{bundle.manifest.name}: {bundle.manifest.notice}")
    if args.plan:
        return _plan(bundle, options)
    interrupts = _Interrupts(say)
    report = infer(bundle, options, interrupts.watch)
    report.interrupted = interrupts.name
    _name_the_bad(report)
    say(report.last_line())
    for written in (options.out, options.features_out):
        if written is not None:
            say(f"wrote {written}")
    if args.report is not None:
        report.write(args.report)
    return report.exit_code


def _plan(bundle: Bundle, options: RunOptions) -> int:
    import time

    from bce.engine.audio.recordings import find_recordings
    from bce.engine.run.budget import process_began
    from bce.engine.run.plan import plan

    recordings = find_recordings(options.paths, options.name_rule)
    made = plan(bundle, options.engine, recordings, time.monotonic() - process_began())
    print("\n".join(made.lines(None if options.budget is None else options.budget.minutes)))
    return 0


def _name_the_bad(report: RunReport) -> None:
    """What did not go well, also when all else is to be quiet."""
    lines = [f"{entry['recording']}: {entry['status']}: {entry['reason']}" for entry in report.bad]
    lines += [f"{stem}: the sample submission names it, but there is no such recording" for stem in report.missing]
    for line in lines[:MOST_LINES]:
        print(line, file=sys.stderr)
    if len(lines) > MOST_LINES:
        print(f"... and {len(lines) - MOST_LINES} more (--report run.json names them all)", file=sys.stderr)


def _options(args: argparse.Namespace) -> RunOptions:
    from bce.engine.audio.recordings import name_rule
    from bce.engine.geometry import parse_shifts
    from bce.engine.run.budget import BudgetOptions
    from bce.engine.run.engine import EngineOptions, usable_cpus
    from bce.engine.run.infer import RunOptions

    out = args.out
    if out is None and args.features is None:
        out = Path("submission.csv")
    return RunOptions(
        paths=tuple(args.paths),
        out=out,
        features_out=args.features,
        sample_submission=args.sample_submission,
        name_rule=name_rule(args.name_pattern, args.utc_offset),
        engine=EngineOptions(
            threads=usable_cpus() if args.threads is None else args.threads,
            shifts_s=parse_shifts(args.shifts),
            precision=args.precision,
            backend=args.backend,
            features=None if args.features is None else args.features_per,
        ),
        postprocess=_postprocess(args),
        required=_required(args),
        priors=args.priors,
        budget=None if args.budget_minutes is None else BudgetOptions(args.budget_minutes, args.reserve_minutes),
        quiet=args.quiet,
    )


def _postprocess(args: argparse.Namespace) -> PostprocessOptions:
    from bce.engine.post.postprocess import (
        PostprocessOptions,
        parse_prior_strength,
        parse_sigma,
        parse_taxonomy_smoothing,
    )

    if args.raw:
        flags = ("priors", "prior_strength", "sigma", "taxonomy_smoothing", "taxonomy_exclude")
        for flag in flags:
            if getattr(args, flag):
                raise OptionsError(f"--raw switches off what --{flag.replace('_', '-')} asks for: drop one of them")
        return PostprocessOptions.raw()
    options = PostprocessOptions(smooth_on=args.smooth_on, exclude=tuple(args.taxonomy_exclude))
    if args.prior_strength is not None:
        known, unknown = parse_prior_strength(args.prior_strength)
        options = replace(options, prior_known=known, prior_unknown=unknown)
    if args.sigma is not None:
        options = replace(options, sigma=parse_sigma(args.sigma))
    if args.taxonomy_smoothing is not None:
        options = replace(options, taxonomy=parse_taxonomy_smoothing(args.taxonomy_smoothing))
    return options


def _required(args: argparse.Namespace) -> tuple[Step, ...]:
    """Steps that were asked for by name and must not be left out silently."""
    steps: list[Step] = []
    if args.prior_strength is not None:
        steps.append("prior")
    if args.taxonomy_smoothing is not None:
        steps.append("taxonomy")
    return tuple(steps)


class _Interrupts:
    """Ctrl-C and SIGTERM: the first finishes what is in flight, the second does not."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.name: str | None = None
        self._say = say
        self._engine: Engine | None = None

    def watch(self, engine: Engine) -> None:
        self._engine = engine
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._engine is None:
            raise KeyboardInterrupt
        if self.name is not None:
            self._engine.stop(f"interrupted by {self.name}", abandon=True)
            return
        self.name = signal.Signals(number).name
        self._engine.stop(f"interrupted by {self.name}")
        self._say("stopping: what is in flight is finished and written; once more to stop at once")


if __name__ == "__main__":
    sys.exit(main())
