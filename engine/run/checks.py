"""What a run can be refused for before anything of it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bce.engine.audio.recordings import NoRecordingsError, find_recordings
from bce.engine.errors import OptionsError, TableError
from bce.engine.files import check_apart, check_place
from bce.engine.network.bundle import Bundle
from bce.engine.post.deployments import Deployments, Places
from bce.engine.recording import Recording
from bce.engine.run.engine import EngineOptions
from bce.engine.run.options import RunOptions
from bce.engine.tables.detections import check_detections
from bce.engine.tables.feature_files import check_feature_file
from bce.engine.tables.schema import check_format, whole_chunk_s
from bce.engine.tables.submissions import SampleSubmission


def engine_options(options: RunOptions) -> EngineOptions:
    """The engine's options of a run: it keeps features where a run writes them, in the run's form.

    Raises:
        OptionsError: the engine's own wish for features is another one.
    """
    engine = options.engine
    wanted = None if options.features_out is None else options.features_per
    if engine.features not in (None, wanted):
        raise OptionsError(
            f"the engine's features are '{engine.features}', the run's are "
            f"{f'{wanted!r}' if wanted else 'not written'}: leave them to RunOptions.features_out and features_per"
        )
    return replace(engine, features=wanted)


def check_outputs(bundle: Bundle, options: RunOptions, also_written: Sequence[Path] = ()) -> list[Path]:
    """The files that a run writes, each of which can be written.

    Raises:
        OptionsError: one cannot, or the bundle does not give what it should hold.
    """
    if options.scored and bundle.manifest.score is None:
        raise OptionsError(
            "has no head, so there are no scores to write: ask for --features alone, or export it with --head",
            bundle.path,
        )
    if not options.scored and (options.place is not None or options.deployments is not None):
        raise OptionsError("a place is for scores: ask for a table or detections too, or leave the place out")
    outputs = [*options.outputs, *also_written]
    for out in outputs:
        check_place(out)
    if options.out is not None:
        check_format(options.out)
        whole_chunk_s(options.engine.grid_for(bundle))
    if options.detections_out is not None:
        check_detections(options.detections_out, options.threshold)
    if options.features_out is not None:
        check_feature_file(options.features_out)
    tables = [out for out in (options.out, options.detections_out) if out is not None]
    if options.safe_csv and not any(out.suffix.lower() == ".csv" for out in tables):
        raise OptionsError("--safe-csv is for CSV tables: give --out a name that ends in .csv, or leave it out")
    return outputs


def check_inputs(bundle: Bundle, options: RunOptions, recordings: Sequence[Recording], outputs: Sequence[Path]) -> None:
    """Refuse outputs that would overwrite what is read.

    Raises:
        OptionsError: one would; or lies in the bundle, or is another output.
    """
    tables = (options.sample_submission, options.priors, options.deployments)
    inputs = [*(recording.path for recording in recordings), *(path for path in tables if path is not None)]
    check_apart(outputs, inputs, [bundle.path])


def places(options: RunOptions) -> Places | None:
    """Where the recordings were made, as far as the run was told.

    Raises:
        TableError: the table of deployments cannot be read.
    """
    return options.place if options.deployments is None else Deployments.read(options.deployments)


def find(options: RunOptions, passed_over: list[str], *, may_be_none: bool) -> list[Recording]:
    """The recordings; with a sample submission there may be none, as in a notebook's dry run.

    Args:
        options: paths and how names are read.
        passed_over: given a line for each path that cannot be looked into.
        may_be_none: whether an empty folder is no error.

    Raises:
        OptionsError: there are none, or two of one name.
    """
    if not options.paths and not may_be_none:
        raise OptionsError("no recordings: name files or folders")
    try:
        return find_recordings(options.paths, options.name_rule, lambda trouble: passed_over.append(str(trouble)))
    except NoRecordingsError:
        if may_be_none:
            return []
        raise


def read_sample(bundle: Bundle, options: RunOptions) -> SampleSubmission | None:
    """The sample submission, which fits the bundle.

    Raises:
        OptionsError: no table is written that could have its rows.
        TableError: it cannot be read, or has other classes or rows than the bundle gives.
    """
    if options.sample_submission is None:
        return None
    if options.out is None:
        raise OptionsError("a sample submission needs a score table to be written: give --out")
    sample = SampleSubmission.read(options.sample_submission)
    sample.check_classes(bundle.classes)
    sample.positions(options.engine.grid_for(bundle))  # rows that no chunk ends with are refused here
    return sample


def compare(sample: SampleSubmission, recordings: Sequence[Recording]) -> list[str]:
    """Stems of the sample submission without a recording.

    Raises:
        TableError: a recording has no ids in it.
    """
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
