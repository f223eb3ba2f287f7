"""``bce-infer``: parses, calls :func:`bce.engine.run.infer.infer`, prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from bce.engine.commands import flags, range_flags
from bce.engine.commands.main import run_command
from bce.engine.errors import OptionsError
from bce.engine.network.default import OBJECTS_VARIABLE, bundle_path, objects_path
from bce.engine.screen import Screen

if TYPE_CHECKING:
    from bce.engine.network.bundle import Bundle
    from bce.engine.post.options import Step
    from bce.engine.run.engine import Engine
    from bce.engine.run.options import RunOptions
    from bce.engine.run.record import RunReport

NAME = "bce-infer"
MOST_LINES = 20
"""Bad recordings named on the screen; the report has all."""


def parser() -> argparse.ArgumentParser:
    """The command line of ``bce-infer``."""
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Run a bundle over soundscape recordings and write a table of scores, a row for every chunk.",
        epilog="Exit codes: 0 all done; 2 wrong use; 3 the table is complete but rows were filled; 130 interrupted.",
    )
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="RECORDING_OR_FOLDER", help="recordings, or folders to walk")
    flags.add_bundle(parser)
    flags.add_threads(parser)
    flags.add_shifts(parser)
    add(
        "--chunk",
        type=float,
        metavar="SECONDS",
        help="length of the table's rows (default: the bundle's windows, 5 s for Perch, 3 s for BirdNET)",
    )
    add("--out", type=Path, help="score table, .csv or .parquet (default: submission.csv, if nothing else is)")
    add(
        "--detections",
        type=Path,
        metavar="CSV",
        help="write what was heard: a line for each class and chunk with a score of at least --threshold",
    )
    add("--threshold", type=float, metavar="P", help="of the scores of detections (default: 0.25)")
    add("--features", type=Path, metavar="PARQUET", help="also write the block features")
    add(
        "--features-per",
        choices=("chunk", "window"),
        help="features as a mean over a chunk's shifts, or of every window (default: chunk)",
    )
    add("--sample-submission", type=Path, metavar="CSV", help="the rows and the order that the table must have")
    flags.add_names(parser)
    add("--priors", type=Path, metavar="NPZ", help="a site x hour table in place of the bundle's")
    add(
        "--prior-strength",
        metavar="A",
        help="factor on the prior's log-odds: a number, known=0.5,unknown=0.2 or none "
        "(default: the bundle's, else 0.5)",
    )
    add(
        "--sigma",
        metavar="CHUNKS",
        help="Gaussian over a recording's chunks, or none (default: the bundle's, else 1.0)",
    )
    add(
        "--smooth-on",
        choices=("logits", "probabilities"),
        help="what the Gaussian averages (default: the bundle's, else logits)",
    )
    flags.add_taxonomy_smoothing(parser, "the bundle's, else genus=0.15,class=0.05")
    range_flags.add_range(parser)
    add("--raw", action="store_true", help="no prior, no range, no smoothing: what the network says")
    add("--precision", default="fp32", help="of the backbone: fp32, bf16 or int8 (default: fp32)")
    add(
        "--backend",
        choices=("auto", "compiled", "onnxruntime", "openvino"),
        default="auto",
        help="what runs the backbone: auto takes kernels compiled for this CPU, else onnxruntime; what runs is held to "
        "onnxruntime's numbers first (default: auto)",
    )
    add(
        "--objects",
        type=Path,
        metavar="DIR",
        help=f"a folder with kernels that were compiled ahead (default: ${OBJECTS_VARIABLE}, else none)",
    )
    add(
        "--budget-minutes",
        type=float,
        metavar="M",
        help="finish within M minutes of the start, with fewer shifts if need be",
    )
    add(
        "--reserve-minutes",
        type=float,
        metavar="M",
        help="of the budget, kept for writing (default: 3, or a quarter of a short budget)",
    )
    add(
        "--stall-seconds",
        type=float,
        default=120.0,
        metavar="S",
        help="a recording that delivers nothing for S seconds fails (default: 120)",
    )
    add("--plan", action="store_true", help="measure a few windows, print how long a run would take, and write nothing")
    add("--report", type=Path, metavar="JSON", help="write a report of the run")
    flags.add_safe_csv(parser)
    flags.add_quiet(parser)
    flags.add_version(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    code = run_command(NAME, lambda: _run(parser().parse_args(arguments)))
    _leave_at_once(code, is_process=arguments is None)
    return code


def _leave_at_once(code: int, *, is_process: bool) -> None:
    """End the process without taking it apart, if it is the command's, or a thread of the engine still hangs in it.

    Everything is written by then. Python's own way out takes half a second of work to free kernels and graphs, which is
    many seconds on a busy machine and no part of a deadline's reserve; it would tear a thread that hangs in a reader or
    in the network out of its C code and abort.
    """
    if is_process or any(thread.name.startswith("bce-") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            Screen(stream).flush()
        os._exit(code)


def _run(args: argparse.Namespace) -> int:
    path = bundle_path(args.bundle)
    # slow imports come after everything that can be said without them
    from bce.engine.network.bundle import Bundle
    from bce.engine.post.bundled import postprocess_options
    from bce.engine.run.infer import infer

    options, changes = _options(args), _postprocess_changes(args)
    bundle = Bundle.load(path)
    if not args.raw:
        options = replace(options, postprocess=replace(postprocess_options(bundle), **changes))
    say: Callable[[str], None] = (lambda line: None) if args.quiet else Screen(sys.stderr).say
    if bundle.manifest.notice:
        say(f"{bundle.manifest.name}: {bundle.manifest.notice}")
    if args.plan:
        return _plan(bundle, options)
    interrupts = _Interrupts(say)
    with interrupts.handled():
        report = infer(bundle, options, interrupts.watch, () if args.report is None else (args.report,))
        report.interrupted = interrupts.name
        _name_the_bad(report)
        for line in (report.ranges(), report.last_line()):
            if line:
                say(line)
        for written in report.written:
            say(f"wrote {written}")
        if args.report is not None:
            report.write(args.report)
    return report.exit_code


def _plan(bundle: Bundle, options: RunOptions) -> int:
    import time

    from bce.engine.audio.recordings import find_recordings
    from bce.engine.run.budget import process_began
    from bce.engine.run.plan import plan

    screen = Screen(sys.stderr)
    recordings = find_recordings(
        options.paths, options.name_rule, lambda trouble: screen.say(f"{trouble}: passed over")
    )
    made = plan(bundle, options.engine, recordings, time.monotonic() - process_began())
    print("\n".join(made.lines(None if options.budget is None else options.budget.minutes)))
    return 0


def _name_the_bad(report: RunReport) -> None:
    """What did not go well, also when all else is to be quiet."""
    lines = [f"{line}: passed over" for line in report.passed_over]
    lines += [f"{entry['recording']}: {entry['status']}: {entry['reason']}" for entry in report.bad]
    lines += [f"{stem}: the sample submission names it, but there is no such recording" for stem in report.missing]
    screen = Screen(sys.stderr)
    for line in lines[:MOST_LINES]:
        screen.say(line)
    if len(lines) > MOST_LINES:
        screen.say(f"... and {len(lines) - MOST_LINES} more (--report run.json names them all)")


def _options(args: argparse.Namespace) -> RunOptions:
    from bce.engine.geometry import parse_shifts
    from bce.engine.network.runtimes import PRECISIONS, runs_kernels
    from bce.engine.post.deployments import parse_place
    from bce.engine.post.options import PostprocessOptions
    from bce.engine.run.budget import BudgetOptions
    from bce.engine.run.engine import EngineOptions, usable_cpus
    from bce.engine.run.options import RunOptions
    from bce.engine.tables.detections import THRESHOLD

    if args.reserve_minutes is not None and args.budget_minutes is None:
        raise OptionsError("--reserve-minutes is a part of a budget: give --budget-minutes, or drop it")
    if args.objects is not None and args.precision in PRECISIONS and not runs_kernels(args.backend, args.precision):
        asked = f"--backend {args.backend} --precision {args.precision}"
        raise OptionsError(f"--objects names compiled kernels, which {asked} does not run: leave --objects out")
    out = args.out
    if out is None and args.features is None and args.detections is None:
        out = Path("submission.csv")
    if args.threshold is not None and args.detections is None:
        raise OptionsError("--threshold is that of detections: give --detections as well, or leave it out")
    if args.features_per is not None and args.features is None:
        raise OptionsError("--features-per says how features are written: give --features as well, or leave it out")
    return RunOptions(
        paths=tuple(args.paths),
        out=out,
        features_out=args.features,
        features_per=args.features_per or "chunk",
        detections_out=args.detections,
        threshold=THRESHOLD if args.threshold is None else args.threshold,
        sample_submission=args.sample_submission,
        name_rule=flags.name_rule(args),
        engine=EngineOptions(
            threads=usable_cpus() if args.threads is None else args.threads,
            shifts_s=None if args.shifts is None else parse_shifts(args.shifts),
            chunk_s=args.chunk,
            precision=args.precision,
            backend=args.backend,
            objects=objects_path() if args.objects is None else args.objects,
            stall_s=args.stall_seconds,
        ),
        postprocess=PostprocessOptions.raw() if args.raw else None,
        required=_required(args),
        priors=args.priors,
        place=None if args.place is None else parse_place(args.place),
        deployments=args.deployments,
        budget=None if args.budget_minutes is None else BudgetOptions(args.budget_minutes, args.reserve_minutes),
        safe_csv=args.safe_csv,
        quiet=args.quiet,
    )


def _postprocess_changes(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of post-processing; the bundle or the defaults say the rest."""
    from bce.engine.post.options import parse_prior_strength, parse_sigma, parse_taxonomy_smoothing

    if args.raw:
        asked = ("priors", "prior_strength", "sigma", "taxonomy_smoothing", "taxonomy_exclude", *range_flags.FLAGS)
        for flag in asked:
            if getattr(args, flag) not in (None, "", (), []):
                raise OptionsError(f"--raw switches off what --{flag.replace('_', '-')} asks for: drop one of them")
    changes = range_flags.range_changes(args)
    if args.prior_strength is not None:
        changes["prior_known"], changes["prior_unknown"] = parse_prior_strength(args.prior_strength)
    if args.sigma is not None:
        changes["sigma"] = parse_sigma(args.sigma)
    if args.smooth_on is not None:
        changes["smooth_on"] = args.smooth_on
    if args.taxonomy_smoothing is not None:
        changes["taxonomy"] = parse_taxonomy_smoothing(args.taxonomy_smoothing)
    if args.taxonomy_exclude:
        changes["exclude"] = flags.names_of(args.taxonomy_exclude)
    return changes


def _required(args: argparse.Namespace) -> tuple[Step, ...]:
    """Steps that were asked for by name and must not be left out silently."""
    steps: list[Step] = []
    if args.prior_strength is not None:
        steps.append("prior")
    if args.taxonomy_smoothing is not None:
        steps.append("taxonomy")
    if range_flags.asks_for_range(args):
        steps.append("range")
    return tuple(steps)


class _Interrupts:
    """Ctrl-C, SIGTERM and SIGHUP: the first finishes what is in flight, the second does not."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.name: str | None = None
        self._say = say
        self._engine: Engine | None = None

    def watch(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Take the signals for the time of the block."""
        numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            numbers.append(signal.SIGHUP)
        before: dict[int, Any] = {}
        with suppress(ValueError):  # not in the main thread, where alone signals come
            for number in numbers:
                before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

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
