"""What a run writes: its parts through post-processing into sinks, each of which ends whole or leaves nothing."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict

from bce.engine.post.postprocessor import Postprocessor, ScoredPart
from bce.engine.results import Part
from bce.engine.run.engine import Engine
from bce.engine.run.headers import Headers
from bce.engine.run.options import RunOptions
from bce.engine.run.record import RunReport
from bce.engine.tables.detections import DetectionSink
from bce.engine.tables.expected_rows import ExpectedRows
from bce.engine.tables.feature_files import FeatureSink
from bce.engine.tables.sinks import ScoreTableSink, Sink
from bce.engine.tables.submissions import SampleSubmission


class Outputs:
    """The sinks of a run, and what the report hears of each recording.

    Args:
        engine: that runs.
        options: of the run: which tables, and how.
        sample: a sample submission, whose rows the table has.
        postprocessor: from logits to scores; None where nothing is written of them.
        headers: of the recordings, for those that cannot be opened later.
        report: told of every recording, and of the table.
    """

    def __init__(
        self,
        engine: Engine,
        options: RunOptions,
        sample: SampleSubmission | None,
        postprocessor: Postprocessor | None,
        headers: Headers,
        report: RunReport,
    ) -> None:
        bundle, grid, stop = engine.bundle, engine.grid, engine.stop_switch

        def fills() -> bool:
            return sample is not None or stop.fills

        self._report = report
        self._postprocessor = postprocessor
        self._expected = ExpectedRows(grid, sample, headers.all, fills)
        self._scores: ScoreTableSink | None = None
        self._detections: DetectionSink | None = None
        self._features: FeatureSink | None = None
        self._sinks: list[Sink[ScoredPart] | Sink[Part]] = []
        try:
            safe = options.safe_csv
            if (out := options.out) is not None:
                self._scores = ScoreTableSink(out, bundle.classes, grid, self._expected, sample, fills, safe=safe)
                self._sinks.append(self._scores)
            if (out := options.detections_out) is not None:
                self._detections = DetectionSink(out, bundle.taxonomy, grid, options.threshold, safe=safe)
                self._sinks.append(self._detections)
            if (out := options.features_out) is not None:
                widths, manifest = engine.member.model.widths, bundle.manifest
                self._features = FeatureSink(
                    out,
                    widths,
                    manifest.window,
                    grid,
                    bundle=bundle.identity,
                    backbone=str(engine.member.model.form),
                    notice=manifest.notice,
                )
                self._sinks.append(self._features)
        except BaseException:
            self.abort()
            raise

    def add(self, part: Part) -> None:
        """Post-process a part, hand it on, and count its recording when it ends."""
        scored: ScoredPart | None = None
        if self._postprocessor is not None:
            clock = time.perf_counter()
            scored = self._postprocessor.add(part)
            self._report.postprocess_s += time.perf_counter() - clock
            clock = time.perf_counter()
            for sink in (self._scores, self._detections):
                if sink is not None:
                    sink.add(scored)
            self._report.write_s += time.perf_counter() - clock
        if self._features is not None:
            self._features.add(part)
        if part.outcome is not None:
            chunks = part.first_chunk + len(part.logits)
            computed = len(self._expected.computed(part.recording, 0, chunks))
            missing = len(self._expected.missing(part.recording, part.outcome, chunks))
            prior = {} if scored is None else dict(scored.prior)
            ranges = None if scored is None or scored.range is None else asdict(scored.range)
            told = {"prior_from": prior, "range_from": ranges}
            self._report.add(part.recording, part.outcome, computed + missing, computed, **told)

    def finish(self) -> None:
        """Write the tables: each, also where another cannot be.

        Raises:
            OSError: of all that could not have their names, and where they are instead.
        """
        clock = time.perf_counter()
        lost: list[OSError] = []
        for sink in self._sinks:
            try:
                sink.finish()
            except OSError as error:
                lost.append(error)
        if lost:
            first, *others = lost
            told = "; ".join([str(first.strerror), *(f"{error.filename}: {error.strerror}" for error in others)])
            raise OSError(first.errno, told, first.filename)
        if self._scores is not None and (summary := self._scores.summary) is not None:
            self._report.rows, self._report.filled = summary.rows, summary.filled
        if self._detections is not None:
            self._report.detections = self._detections.count
        self._report.write_s += time.perf_counter() - clock

    def abort(self) -> None:
        """Leave nothing behind that was not finished."""
        with ExitStack() as stack:  # each is aborted, also where another cannot be
            for sink in self._sinks:
                stack.callback(sink.abort)
