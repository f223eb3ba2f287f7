"""From recordings to finished files: everything that ``bce-infer`` does, callable from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bce.engine.audio.names import BIRDCLEF, NameRule
from bce.engine.audio.recordings import NoRecordingsError, find_recordings
from bce.engine.errors import OptionsError, TableError
from bce.engine.files import check_place
from bce.engine.network.bundle import Bundle
from bce.engine.post.bundled import bundle_postprocessor, postprocess_options
from bce.engine.post.options import PostprocessOptions, Step
from bce.engine.recording import Recording
from bce.engine.run.budget import Budget, BudgetOptions, Headers, process_began
from bce.engine.run.engine import Engine, EngineOptions
from bce.engine.run.outputs import Outputs
from bce.engine.run.pace import Pace
from bce.engine.run.progress import Progress
from bce.engine.run.record import RunReport
from bce.engine.tables.feature_files import check_feature_file
from bce.engine.tables.schema import check_format, whole_chunk_s
from bce.engine.tables.submissions import SampleSubmission


@dataclass(frozen=True)
class RunOptions:
    """What to run and what to write.

    Attributes:
        paths: recordings and folders.
        out: the score table, .csv or .parquet; None writes none.
        features_out: block features as parquet; None writes none.
        sample_submission: a table whose rows and order the output must have.
        name_rule: how site and time are read from file names; default: BirdCLEF's.
        engine: threads, shifts, precision, features.
        postprocess: prior, Gaussian and taxonomy smoothing; None for the values that the bundle was tuned to.
        required: post-processing steps that were asked for by name: without what they need the run is refused.
        priors: a site x hour table in place of the bundle's own.
        budget: a deadline for the whole process; None takes the time it takes.
        quiet: no progress.
    """

    paths: tuple[Path, ...]
    out: Path | None
    features_out: Path | None = None
    sample_submission: Path | None = None
    name_rule: NameRule = BIRDCLEF
    engine: EngineOptions = field(default_factory=EngineOptions)
    postprocess: PostprocessOptions | None = None
    required: tuple[Step, ...] = ()
    priors: Path | None = None
    budget: BudgetOptions | None = None
    quiet: bool = False


def infer(bundle: Bundle, options: RunOptions, on_engine: Callable[[Engine], None] = lambda engine: None) -> RunReport:
    """Run a bundle over recordings and write the tables.

    Whatever raises in mid-run, no file with a final name is half written: it is then not there, or what it was before.

    Args:
        bundle: a checked bundle.
        options: what to run and write.
        on_engine: given the engine before it starts, so that a signal handler can stop it.

    Raises:
        BceError: the options, the recordings and the sample submission do not fit each other. Nothing has run then.
    """
    began = time.monotonic()
    postprocess = postprocess_options(bundle) if options.postprocess is None else options.postprocess
    report = RunReport(bundle=_describe(bundle), settings=_settings(bundle, options, postprocess))
    report.sample_rate = bundle.manifest.window.sample_rate
    _check_outputs(bundle, options)
    sample = _read_sample(bundle, options)
    recordings = _find(options, may_be_none=sample is not None)
    if sample is not None and not recordings:
        sample.write_unchanged(_out(options))
        report.rows = report.filled = len(sample.row_ids)
        report.missing = list(sample.stems)
        report.wall_s = time.monotonic() - began
        return report
    if sample is not None:
        report.missing = _compare(sample, recordings)
    grid = bundle.manifest.grid
    postprocessor = None
    if options.out is not None:
        postprocessor = bundle_postprocessor(bundle, postprocess, options.priors, options.required)
    steps = [] if postprocessor is None else postprocessor.describe()
    report.settings["postprocessing"] = steps

    engine = Engine(bundle, options.engine)
    stop = engine.stop_switch
    on_engine(engine)
    headers = Headers(recordings, report.sample_rate, grid)
    pace = _pace(engine, options, recordings, headers)
    progress = Progress(len(recordings), quiet=options.quiet)
    for line in steps:
        progress.say(line)
    outputs = Outputs(engine, options.out, options.features_out, sample, postprocessor, headers, report)
    try:
        report.ready_s = time.monotonic() - began
        with closing(engine.score(recordings, pace)) as parts:
            for part in parts:
                if report.first_result_s is None:
                    report.first_result_s = time.monotonic() - process_began()
                outputs.add(part)
                if part.outcome is not None:
                    progress.update(part.outcome)
        progress.close()
        if stop.reason is None:  # else a thread may still be inside the network
            engine.close()  # before the table is written, which takes memory of its own
        outputs.finish()
    except BaseException as error:
        progress.close()
        try:
            outputs.abort()
        except OSError as another:  # the disk is still full, say: what went wrong first is what matters
            error.add_note(str(another))
        raise
    report.wall_s = time.monotonic() - began
    return report


def _pace(engine: Engine, options: RunOptions, recordings: Sequence[Recording], headers: Headers) -> Pace | None:
    if options.budget is None:
        return None
    headers.start()
    return Budget(
        options.budget,
        engine.shifts_s,
        recordings,
        engine.stop_switch,
        engine.member.window,
        engine.grid,
        promised=headers.chunks,
        began=process_began(),
    )


def _read_sample(bundle: Bundle, options: RunOptions) -> SampleSubmission | None:
    if options.sample_submission is None:
        return None
    sample = SampleSubmission.read(options.sample_submission)
    sample.check_classes(bundle.classes)
    sample.positions(bundle.manifest.grid)  # rows that no chunk ends with are refused here
    return sample


def _out(options: RunOptions) -> Path:
    if options.out is None:
        raise OptionsError("a sample submission needs a score table to be written: give --out")
    return options.out


def _find(options: RunOptions, *, may_be_none: bool) -> list[Recording]:
    """The recordings; with a sample submission there may be none, as in a notebook's dry run."""
    if not options.paths and not may_be_none:
        raise OptionsError("no recordings: name files or folders")
    try:
        return find_recordings(options.paths, options.name_rule)
    except NoRecordingsError:
        if may_be_none:
            return []
        raise


def _check_outputs(bundle: Bundle, options: RunOptions) -> None:
    """Refuse what could not be written before anything runs."""
    if options.out is not None and bundle.manifest.score is None:
        raise OptionsError(
            "has no head, so there are no scores to write: ask for --features alone, or export it with --head",
            bundle.path,
        )
    for out in (options.out, options.features_out):
        if out is not None:
            check_place(out)
    if options.out is not None:
        check_format(options.out)
        whole_chunk_s(bundle.manifest.grid)
    if options.features_out is not None:
        check_feature_file(options.features_out)
    if options.out is not None and options.features_out is not None:
        same = options.out.absolute() == options.features_out.absolute()
        if same:
            raise OptionsError("is to hold both scores and features: give --out and --features two names", options.out)


def _compare(sample: SampleSubmission, recordings: Sequence[Recording]) -> list[str]:
    """Stems of the sample submission without a recording; a recording without ids is an error."""
    named = set(sample.stems)
    unknown = [recording.path for recording in recordings if recording.stem not in named]
    if unknown:
        raise TableError(
            f"has no rows for {len(unknown)} of {len(recordings)} recordings, the first is {unknown[0]}:"
            " take the recordings out, or give the sample submission that belongs to them",
            sample.path,
        )
    there = {recording.stem for recording in recordings}
    return [stem for stem in sample.stems if stem not in there]


def _describe(bundle: Bundle) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "name": manifest.name,
        "identity": bundle.identity,
        "source": manifest.source.file,
        "source_sha256": manifest.source.sha256,
        "family": manifest.family,
        "window": asdict(manifest.window),
        "frontend": {"kind": manifest.frontend.kind, **manifest.frontend.settings},
        "head": manifest.head.kind,
        "notice": manifest.notice,
    }


def _settings(bundle: Bundle, options: RunOptions, postprocess: PostprocessOptions) -> dict[str, object]:
    return {
        "paths": [str(path) for path in options.paths],
        "out": None if options.out is None else str(options.out),
        "features": None if options.features_out is None else str(options.features_out),
        "sample_submission": None if options.sample_submission is None else str(options.sample_submission),
        "threads": options.engine.threads,
        "shifts_s": list(options.engine.shifts_for(bundle)),
        "precision": options.engine.precision,
        "backend": options.engine.backend,
        "budget": None if options.budget is None else asdict(options.budget),
        "postprocess": asdict(postprocess),
        "priors": None if options.priors is None else str(options.priors),
    }
