"""From recordings to finished files: everything that ``bce-infer`` does, callable from Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

from bce.engine.errors import BceError, RunError
from bce.engine.locks import held
from bce.engine.network.bundle import Bundle
from bce.engine.post.bundled import bundle_postprocessor, postprocess_options
from bce.engine.post.options import PostprocessOptions
from bce.engine.post.postprocessor import Postprocessor
from bce.engine.recording import Recording
from bce.engine.run import checks
from bce.engine.run.budget import Budget, process_began
from bce.engine.run.engine import Engine
from bce.engine.run.headers import Headers
from bce.engine.run.options import RunOptions
from bce.engine.run.outputs import Outputs
from bce.engine.run.pace import Pace
from bce.engine.run.progress import Progress
from bce.engine.run.record import RunReport
from bce.engine.tables.submissions import SampleSubmission


def infer(
    bundle: Bundle,
    options: RunOptions,
    on_engine: Callable[[Engine], None] = lambda engine: None,
    also_written: Sequence[Path] = (),
) -> RunReport:
    """Run a bundle over recordings and write the tables.

    Whatever raises in mid-run, no file with a final name is half written: it is then not there, or what it was before.

    Args:
        bundle: a checked bundle.
        options: what to run and write.
        on_engine: given the engine before it starts, so that a signal handler can stop it.
        also_written: files that the caller writes of the run afterwards, a report: they are checked with the run's own.

    Raises:
        RunError: the run broke off after it had begun.
        BceError: the options, the recordings and the sample submission do not fit each other, or another process writes
            an output. Nothing has run then.
        OSError: an output cannot have its name at the end; what was computed is in another file, which the error names.
    """
    began = time.monotonic()
    options = replace(options, engine=checks.engine_options(options))
    postprocess = postprocess_options(bundle) if options.postprocess is None else options.postprocess
    report = RunReport(bundle=_describe(bundle), settings=_settings(bundle, options, postprocess))
    report.sample_rate = bundle.manifest.window.sample_rate
    outputs = checks.check_outputs(bundle, options, also_written)
    sample = checks.read_sample(bundle, options)
    recordings = checks.find(options, report.passed_over, may_be_none=sample is not None)
    checks.check_inputs(bundle, options, recordings, outputs)
    if sample is not None:
        report.missing = checks.compare(sample, recordings)
    postprocessor = None
    if options.scored:
        postprocessor = bundle_postprocessor(
            bundle,
            postprocess,
            options.priors,
            options.required,
            options.engine.grid_for(bundle),
            checks.places(options),
        )
    report.ranged = postprocessor is not None and postprocessor.ranges is not None
    report.settings["postprocessing"] = [] if postprocessor is None else postprocessor.describe()
    with ExitStack() as stack:
        for out in outputs:
            stack.enter_context(held(out))
        if sample is not None and options.out is not None and not recordings:
            sample.write_unchanged(options.out, safe=options.safe_csv)
            report.rows = report.filled = len(sample.row_ids)
            report.written = [options.out]
        else:
            _run(Engine(bundle, options.engine), options, recordings, sample, postprocessor, report, on_engine, began)
            report.written = list(options.outputs)
    report.wall_s = time.monotonic() - began
    return report


def _run(
    engine: Engine,
    options: RunOptions,
    recordings: Sequence[Recording],
    sample: SampleSubmission | None,
    postprocessor: Postprocessor | None,
    report: RunReport,
    on_engine: Callable[[Engine], None],
    began: float,
) -> None:
    """From the first recording to the finished tables, or to nothing."""
    stop = engine.stop_switch  # of this run: the engine has another one afterwards
    on_engine(engine)
    headers = Headers(recordings, engine.member.window.sample_rate, engine.grid, stop, engine.options.stall_s)
    pace = _pace(engine, options, recordings, headers)
    progress = Progress(len(recordings), quiet=options.quiet)
    form = engine.member.model.form
    report.backbone = form.record()
    progress.say(f"backbone: {form}")
    for line in () if postprocessor is None else postprocessor.describe():
        progress.say(line)
    outputs = Outputs(engine, options, sample, postprocessor, headers, report)
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
        except OSError as another:  # what went wrong first is what matters
            error.add_note(str(another))
        if isinstance(error, BceError):  # too late to be wrong use
            raise RunError(error.reason, error.path) from error
        raise


def _pace(engine: Engine, options: RunOptions, recordings: Sequence[Recording], headers: Headers) -> Pace | None:
    if options.budget is None:
        return None
    budget = Budget(
        options.budget,
        engine.shifts_s,
        recordings,
        engine.stop_switch,
        engine.member.window,
        engine.grid,
        offsets_s=engine.member.offsets_s,
        promised=headers.chunks,
        began=process_began(),
    )
    headers.start(budget.patience_s)
    return budget


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
        "detections": None if options.detections_out is None else str(options.detections_out),
        "threshold": None if options.detections_out is None else options.threshold,
        "features": None if options.features_out is None else str(options.features_out),
        "features_per": None if options.features_out is None else options.features_per,
        "sample_submission": None if options.sample_submission is None else str(options.sample_submission),
        "threads": options.engine.threads,
        "chunk_s": options.engine.grid_for(bundle).chunk_s,
        "shifts_s": list(options.engine.shifts_for(bundle)),
        "precision": options.engine.precision,
        "backend": options.engine.backend,
        "objects": None if options.engine.objects is None else str(options.engine.objects),
        "budget": None if options.budget is None else asdict(options.budget),
        "postprocess": asdict(postprocess),
        "priors": None if options.priors is None else str(options.priors),
        "place": None if options.place is None else asdict(options.place),
        "deployments": None if options.deployments is None else str(options.deployments),
    }
