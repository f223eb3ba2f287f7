"""From recordings to a finished table: everything that ``bce-infer`` does, callable from Python."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.audio.recordings import BIRDCLEF, NameRule, NoRecordingsError, Recording, find_recordings
from bce.engine.errors import OptionsError, TableError
from bce.engine.network.bundle import PRIORS, Bundle
from bce.engine.post.postprocess import PostprocessOptions, Postprocessor, Step
from bce.engine.post.priors import Basis, Priors
from bce.engine.results import RecordingResult
from bce.engine.run.budget import OUT_OF_TIME, Budget, BudgetOptions, Survey, process_began
from bce.engine.run.engine import Engine, EngineOptions
from bce.engine.run.progress import Progress
from bce.engine.run.record import RunReport
from bce.engine.tables.feature_files import FeatureWriter
from bce.engine.tables.score_files import CHUNK_S, check_format
from bce.engine.tables.scores import SampleSubmission, ScoreWriter

DEFAULT_CHUNKS = 12
"""Rows of a recording that cannot be opened and that no sample submission names: those of one minute."""


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
        postprocess: prior, Gaussian and taxonomy smoothing.
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
    postprocess: PostprocessOptions = field(default_factory=PostprocessOptions)
    required: tuple[Step, ...] = ()
    priors: Path | None = None
    budget: BudgetOptions | None = None
    quiet: bool = False


def infer(bundle: Bundle, options: RunOptions, on_engine: Callable[[Engine], None] = lambda engine: None) -> RunReport:
    """Run a bundle over recordings and write the tables.

    Args:
        bundle: a checked bundle.
        options: what to run and write.
        on_engine: given the engine before it starts, so that a signal handler can stop it.

    Raises:
        BceError: the options, the recordings and the sample submission do not fit each other. Nothing has run then.
    """
    began = time.monotonic()
    report = RunReport(bundle=_describe(bundle), settings=_settings(options))
    _check_outputs(bundle, options)
    sample = _read_sample(bundle, options)
    recordings = _find(options, may_be_none=sample is not None)
    if sample is not None and not recordings:
        sample.write_unchanged(_out(options))
        report.rows = report.filled = len(sample.row_ids)
        report.missing = list(sample.expected)
        report.wall_s = time.monotonic() - began
        return report
    if sample is not None:
        report.missing = _compare(sample, recordings)
    postprocessor = _postprocessor(bundle, options)
    steps = [] if postprocessor is None else postprocessor.describe()
    report.settings["postprocessing"] = steps

    engine = Engine(bundle, options.engine)
    on_engine(engine)
    survey = Survey(recordings)
    pace = None
    if options.budget is not None:
        survey.start()
        began_at = process_began()
        shifts_s = options.engine.shifts_s
        pace = Budget(options.budget, shifts_s, recordings, engine.stop_switch, promised=survey.chunks, began=began_at)
    progress = Progress(len(recordings), quiet=options.quiet)
    for line in steps:
        progress.say(line)
    with _outputs(engine, options, sample, report) as (scores_out, features_out):
        report.ready_s = time.monotonic() - began
        for result in engine.run(recordings, pace):
            if report.first_result_s is None:
                report.first_result_s = time.monotonic() - process_began()
            computed, missing = _split_rows(result, sample, survey)
            prior: Mapping[Basis, int] = {}
            if scores_out is not None and postprocessor is not None:
                clock = time.perf_counter()
                starts = np.arange(len(result.logits), dtype=np.int64) * CHUNK_S
                processed = postprocessor(result.recording, result.logits, starts)
                prior = processed.prior
                report.postprocess_s += time.perf_counter() - clock
                clock = time.perf_counter()
                if len(computed):
                    scores_out.add(result.recording, processed.scores[computed // CHUNK_S - 1], computed)
                if len(missing):
                    scores_out.add_missing(result.recording, missing)
                report.write_s += time.perf_counter() - clock
            if features_out is not None:
                features_out.add(result)
            report.add(result, len(computed) + len(missing), len(computed), prior_from=dict(prior))
            progress.update(result)
        progress.close()
        if engine.stop_switch.reason is None:  # else a thread may still be inside the network
            engine.close()  # before the table is written, which takes memory of its own
    report.wall_s = time.monotonic() - began
    return report


@contextmanager
def _outputs(
    engine: Engine, options: RunOptions, sample: SampleSubmission | None, report: RunReport
) -> Iterator[tuple[ScoreWriter | None, FeatureWriter | None]]:
    """The writers of a run, finished whatever ended it; the gaps of a run that was not interrupted are filled."""
    bundle = engine.bundle
    scores = None if options.out is None else ScoreWriter(options.out, bundle.classes, sample)
    features = None
    if options.features_out is not None:
        widths = engine.model.widths
        features = FeatureWriter(options.features_out, widths, bundle=bundle.sha256, notice=bundle.manifest.notice)
    whole = False
    try:
        yield scores, features
        whole = sample is not None or engine.stop_switch.reason in (None, OUT_OF_TIME)
    finally:
        clock = time.perf_counter()
        if scores is not None:
            summary = scores.close(fill=whole)
            report.rows, report.filled = summary.rows, summary.filled
        if features is not None:
            features.close()
        report.write_s += time.perf_counter() - clock


def _postprocessor(bundle: Bundle, options: RunOptions) -> Postprocessor | None:
    if options.out is None:
        return None
    path = options.priors or bundle.file(PRIORS)
    priors = None if path is None or not options.postprocess.uses_prior else Priors.load(path)
    return Postprocessor(options.postprocess, bundle.taxonomy, priors, options.required)


def _read_sample(bundle: Bundle, options: RunOptions) -> SampleSubmission | None:
    if options.sample_submission is None:
        return None
    sample = SampleSubmission.read(options.sample_submission)
    sample.check_classes(bundle.classes)
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
    if options.out is not None and bundle.manifest.head.kind == "none":
        raise OptionsError(
            "has no head, so there are no scores to write: ask for --features alone, or export it with --head",
            bundle.path,
        )
    for out in (options.out, options.features_out):
        if out is not None:
            check_place(out)
    if options.out is not None:
        check_format(options.out)


def check_place(out: Path) -> None:
    """Refuse a file that could not be written.

    Raises:
        OptionsError: its folder does not exist or is not writable, or it is a folder itself.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        raise OptionsError("its folder does not exist: make it first", out)
    if not os.access(folder, os.W_OK):
        raise OptionsError("its folder is not writable: choose another place", out)
    if out.is_dir():
        raise OptionsError("is a folder, expected the name of a file to write", out)


def _compare(sample: SampleSubmission, recordings: Sequence[Recording]) -> list[str]:
    """Stems of the sample submission without a recording; a recording without ids is an error."""
    unknown = [recording.path for recording in recordings if recording.stem not in sample.expected]
    if unknown:
        raise TableError(
            f"has no rows for {len(unknown)} of {len(recordings)} recordings, the first is {unknown[0]}:"
            " take the recordings out, or give the sample submission that belongs to them",
            sample.path,
        )
    there = {recording.stem for recording in recordings}
    return [stem for stem in sample.expected if stem not in there]


def _split_rows(
    result: RecordingResult, sample: SampleSubmission | None, survey: Survey
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """End seconds of a recording's rows: those that are computed, and those that are missing.

    After an interruption the table ends where the run did; a deadline's table and one with a sample submission are
    complete.
    """
    stem = result.recording.stem
    if sample is not None:
        ends = sample.expected[stem]
    else:
        promised = survey.chunks.get(stem, DEFAULT_CHUNKS) if result.promised_chunks is None else result.promised_chunks
        if result.status == "not_run" and OUT_OF_TIME not in (result.reason or ""):
            promised = 0
        ends = np.arange(1, max(promised, len(result.logits)) + 1, dtype=np.int64) * CHUNK_S
    there = ends <= len(result.logits) * CHUNK_S
    return ends[there], ends[~there]


def _describe(bundle: Bundle) -> dict[str, object]:
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "name": manifest.name,
        "sha256": bundle.sha256,
        "source": manifest.source.file,
        "source_sha256": manifest.source.sha256,
        "head": manifest.head.kind,
        "preparation": manifest.preparation,
        "notice": manifest.notice,
    }


def _settings(options: RunOptions) -> dict[str, object]:
    return {
        "paths": [str(path) for path in options.paths],
        "out": None if options.out is None else str(options.out),
        "features": None if options.features_out is None else str(options.features_out),
        "sample_submission": None if options.sample_submission is None else str(options.sample_submission),
        "threads": options.engine.threads,
        "shifts_s": list(options.engine.shifts_s),
        "precision": options.engine.precision,
        "backend": options.engine.backend,
        "budget": None if options.budget is None else asdict(options.budget),
        "postprocess": asdict(options.postprocess),
        "priors": None if options.priors is None else str(options.priors),
    }
