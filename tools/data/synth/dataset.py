"""Labelled synthetic soundscapes in BirdCLEF layout, written as files.

    taxonomy.csv                      the classes, in output order
    train.csv, train_audio/           focal clips, one folder per class
    train_soundscapes_labels.csv,     recordings of the seen sites, labelled in chunks of 5 s
    train_soundscapes/
    sample_submission.csv,            recordings of seen and unseen sites and the rows to fill,
    test_soundscapes/
    test_labels.csv                   the hidden answers, with the columns of train_soundscapes_labels.csv
    synth.json                        what the data set was made from

Every file has a stream of random numbers of its own: the same options give the same bytes, and a larger data set holds
the smaller one.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from bce.engine.errors import OptionsError
from bce.engine.files import beside, write_bytes, write_json
from bce.engine.tables.schema import row_id
from bce.engine.taxonomy import Taxonomy
from bce.tools.data.datasets import (
    TAXONOMY,
    TEST_LABELS,
    TEST_SOUNDSCAPES,
    TRAIN,
    TRAIN_AUDIO,
    TRAIN_LABELS,
    TRAIN_SOUNDSCAPES,
)
from bce.tools.data.labels import COLUMNS as LABEL_COLUMNS
from bce.tools.data.synth.options import CHUNK_S, SynthOptions
from bce.tools.data.synth.recordings import FocalClip, Soundscape, Split, focal_clip, soundscape, world_of
from bce.tools.data.synth.scenes import World
from bce.tools.data.synth.vorbis import encode_vorbis

ABOUT = "synth.json"
SAMPLE_SUBMISSION = "sample_submission.csv"

TRAIN_COLUMNS = (
    "primary_label", "secondary_labels", "type", "latitude", "longitude", "scientific_name", "common_name",
    "class_name", "inat_taxon_id", "author", "license", "rating", "url", "filename", "collection",
)  # fmt: skip

_MADE = (ABOUT, TAXONOMY, TRAIN, TRAIN_AUDIO, TRAIN_SOUNDSCAPES, TRAIN_LABELS, TEST_SOUNDSCAPES, TEST_LABELS,
         SAMPLE_SUBMISSION)  # fmt: skip


def write_dataset(
    out: str | os.PathLike[str], options: SynthOptions | None = None, *, force: bool = False, quiet: bool = True
) -> None:
    """Make a data set.

    An interrupt stops between two files: what is there is whole, and the tables name what is there.

    Args:
        out: the folder, new or empty.
        options: what to make.
        force: replace an earlier data set of this function in ``out``.
        quiet: show no progress.

    Raises:
        OptionsError: ``out`` holds something, and without ``force`` or not a synthetic data set.
    """
    options = options or SynthOptions()
    root = Path(out)
    _clear(root, force)
    world = world_of(options.world, options.species)
    about = {key: value for key, value in asdict(options).items() if key != "jobs"}
    about["unseen_sites"] = [site.name for site in world.sites if not site.seen]
    write_json(root / ABOUT, about)
    _write_taxonomy(root / TAXONOMY, world)

    tasks: list[tuple[Path, SynthOptions, Split | int, int]] = []
    if not options.test_only:
        clips = [(k, i) for k in range(options.species) for i in range(options.clips_per_species)]
        tasks += [(root / TRAIN_AUDIO, options, k, i) for k, i in clips]
        tasks += [(root / TRAIN_SOUNDSCAPES, options, "Train", i) for i in range(options.train_soundscapes)]
    tasks += [(root / TEST_SOUNDSCAPES, options, "Test", i) for i in range(options.test_soundscapes)]
    for folder in {task[0] for task in tasks}:
        folder.mkdir(exist_ok=True)
    for label in world.labels if root / TRAIN_AUDIO in {task[0] for task in tasks} else ():
        (root / TRAIN_AUDIO / label).mkdir(exist_ok=True)

    made: dict[str, list[Soundscape | FocalClip]] = {folder.name: [] for folder, *_ in tasks}
    try:
        with tqdm(total=len(tasks), unit="file", disable=True if quiet else None) as bar:
            for name, result in _run(tasks, options.jobs):
                made[name].append(result)
                bar.update()
    finally:
        _write_tables(root, world, made)


def _run(
    tasks: Sequence[tuple[Path, SynthOptions, Split | int, int]], jobs: int | None
) -> Iterator[tuple[str, Soundscape | FocalClip]]:
    if jobs is None:
        from bce.engine.run.engine import usable_cpus

        jobs = usable_cpus()
    if min(jobs, len(tasks)) <= 1:
        yield from map(_write_one, tasks)
        return
    context = multiprocessing.get_context("spawn")
    # workers leave Ctrl-C to the parent, which lets the files in flight finish
    pool = ProcessPoolExecutor(jobs, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(_write_one, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_one(task: tuple[Path, SynthOptions, Split | int, int]) -> tuple[str, Soundscape | FocalClip]:
    folder, options, what, index = task
    made: Soundscape | FocalClip
    if isinstance(what, int):
        made, scene = focal_clip(options, what, index)
    else:
        made, scene = soundscape(options, what, index)
    write_bytes(folder / made.filename, encode_vorbis(scene.samples))
    return folder.name, made


def _clear(root: Path, force: bool) -> None:
    if root.exists() and not root.is_dir():
        raise OptionsError("is a file: expected a folder to write to", root)
    root.mkdir(parents=True, exist_ok=True)
    there = {path.name for path in root.iterdir()}
    if not there:
        return
    if ABOUT not in there or there - set(_MADE):
        raise OptionsError("is not empty and holds other things than a synthetic data set: expected a new folder", root)
    if not force:
        raise OptionsError("holds a synthetic data set: give another folder, or --force to replace it", root)
    for name in there:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_taxonomy(path: Path, world: World) -> None:
    names = ("primary_label", "inat_taxon_id", "scientific_name", "common_name", "class_name")
    Taxonomy.from_columns({name: [str(getattr(s, name)) for s in world.species] for name in names}).write(path)


def _write_tables(root: Path, world: World, made: dict[str, list[Soundscape | FocalClip]]) -> None:
    for folder, results in made.items():
        soundscapes = [item for item in results if isinstance(item, Soundscape)]
        if folder == TRAIN_AUDIO:
            clips = [item for item in results if isinstance(item, FocalClip)]
            _write_csv(root / TRAIN, TRAIN_COLUMNS, (_train_row(world, clip) for clip in clips))
            continue
        _write_csv(
            root / (TRAIN_LABELS if folder == TRAIN_SOUNDSCAPES else TEST_LABELS),
            LABEL_COLUMNS,
            _label_rows(soundscapes),
        )
        if folder == TEST_SOUNDSCAPES:
            even = repr(1 / len(world.labels))
            ends = ((Path(s.filename).stem, CHUNK_S * (c + 1)) for s in soundscapes for c in range(len(s.labels)))
            rows = ([row_id(stem, end_s), *[even] * len(world.labels)] for stem, end_s in ends)
            _write_csv(root / SAMPLE_SUBMISSION, ("row_id", *world.labels), rows)


def _label_rows(soundscapes: Iterable[Soundscape]) -> Iterator[tuple[str, str, str, str]]:
    for item in soundscapes:
        for chunk, labels in enumerate(item.labels):
            yield item.filename, _clock(CHUNK_S * chunk), _clock(CHUNK_S * (chunk + 1)), ";".join(labels)


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _train_row(world: World, clip: FocalClip) -> Sequence[object]:
    s = world.species[clip.species]
    return (
        s.primary_label, str(list(clip.secondary)), "['song']", clip.latitude, clip.longitude, s.scientific_name,
        s.common_name, s.class_name, s.inat_taxon_id, "bce-tools synth", "CC0 1.0", clip.rating, "",
        clip.filename, "synthetic",
    )  # fmt: skip


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with beside(path) as partial, open(partial, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
