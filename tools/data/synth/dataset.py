"""Labelled synthetic soundscapes in BirdCLEF layout: ``bce-tools synth``.

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

import argparse
import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bce.engine.errors import OptionsError
from bce.engine.tables.score_files import row_id
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
from bce.tools.data.synth.scenes import (
    CHUNK_S,
    SEEN_SITES,
    UNSEEN_SITES,
    Scene,
    World,
    draw_focal_singers,
    draw_singers,
    make_site,
    make_world,
    render,
)
from bce.tools.data.synth.voices import MAX_SPECIES, MIN_SPECIES
from bce.tools.data.synth.vorbis import encode_vorbis

Split = Literal["Train", "Test"]

ABOUT = "synth.json"
SAMPLE_SUBMISSION = "sample_submission.csv"

TRAIN_COLUMNS = (
    "primary_label", "secondary_labels", "type", "latitude", "longitude", "scientific_name", "common_name",
    "class_name", "inat_taxon_id", "author", "license", "rating", "url", "filename", "collection",
)  # fmt: skip

_MADE = (ABOUT, TAXONOMY, TRAIN, TRAIN_AUDIO, TRAIN_SOUNDSCAPES, TRAIN_LABELS, TEST_SOUNDSCAPES, TEST_LABELS,
         SAMPLE_SUBMISSION)  # fmt: skip
_STREAM = {"Train": 101, "Test": 102, "focal": 103}  # apart from the world's own streams


@dataclass(frozen=True)
class SynthOptions:
    """What to make.

    Attributes:
        seed: of the recordings; another seed gives other recordings of the same world.
        world: seed of the species' voices, the sites and who sings where and when.
        species: number of classes, 4..48.
        clips_per_species: focal clips of each class, 0..999.
        train_soundscapes, test_soundscapes: number of recordings, 0..99999; every fourth of the test is of an
            unseen site.
        duration_s: of each soundscape, a multiple of 5 s up to an hour.
        test_only: make the test soundscapes and their tables alone.
        jobs: processes; None takes the CPUs that this process may use.

    Raises:
        OptionsError: a value is out of range.
    """

    seed: int = 0
    world: int = 0
    species: int = 24
    clips_per_species: int = 20
    train_soundscapes: int = 96
    test_soundscapes: int = 48
    duration_s: int = 60
    test_only: bool = False
    jobs: int | None = None

    def __post_init__(self) -> None:
        ranges = {
            "seed": (0, 2**32 - 1),
            "world": (0, 2**32 - 1),
            "species": (MIN_SPECIES, MAX_SPECIES),
            "clips_per_species": (0, 999),
            "train_soundscapes": (0, 99_999),
            "test_soundscapes": (0, 99_999),
            "duration_s": (CHUNK_S, 3600),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise OptionsError(f"{name} is {getattr(self, name)}, it must be {low} to {high}")
        if self.duration_s % CHUNK_S:
            raise OptionsError(f"duration_s is {self.duration_s}, it must be a multiple of {CHUNK_S}")
        if self.jobs is not None and self.jobs < 1:
            raise OptionsError(f"jobs is {self.jobs}, it must be at least 1")


@dataclass(frozen=True)
class Soundscape:
    """A soundscape: its file name and the labels of each chunk."""

    filename: str
    labels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class FocalClip:
    """A focal clip: its row of train.csv, and the labels heard behind its own."""

    filename: str
    species: int
    secondary: tuple[str, ...]
    latitude: float
    longitude: float
    rating: float


_world = cache(make_world)


def soundscape(options: SynthOptions, split: Split, index: int) -> tuple[Soundscape, Scene]:
    """Make one soundscape, in memory.

    Args:
        index: its number in its split, from 0.
    """
    world = _world(options.world, options.species)
    rng = np.random.default_rng([options.world, options.seed, _STREAM[split], index])
    site = _site_of(split, index)
    new_year = datetime(2024 if split == "Train" else 2025, 1, 1, tzinfo=UTC)
    start = new_year + timedelta(seconds=int(rng.integers(365 * 86_400)))
    singers = draw_singers(world, site, start.hour, options.duration_s, rng)
    scene = render(world, world.sites[site], start.hour, singers, options.duration_s, rng)
    name = f"BC0000_Syn{split}_{index + 1:04d}_{world.sites[site].name}_{start:%Y%m%d_%H%M%S}.ogg"
    return Soundscape(name, tuple(_labels(world, row) for row in scene.present)), scene


def focal_clip(options: SynthOptions, species: int, index: int) -> tuple[FocalClip, Scene]:
    """Make one focal clip of a species (its place in the taxonomy), in memory: 5 to 30 s by a recordist somewhere."""
    world = _world(options.world, options.species)
    kind = world.species[species]
    rng = np.random.default_rng([options.world, options.seed, _STREAM["focal"], kind.inat_taxon_id * 1000 + index])
    site = make_site(rng, "", seen=True)
    duration_s = round(min(CHUNK_S + rng.exponential(7), 30.0), 2)
    singers = draw_focal_singers(world, species, duration_s, rng)
    scene = render(world, site, int(rng.integers(24)), singers, duration_s, rng)
    heard: NDArray[np.bool_] = np.any(scene.present, axis=0) & (np.arange(options.species) != species)
    rating = float(np.clip(round(11 - singers[0].distance_m / 2) / 2, 0.5, 5))
    filename = f"{kind.primary_label}/SYN{kind.inat_taxon_id}-{index + 1:03d}.ogg"
    return FocalClip(filename, species, _labels(world, heard), site.latitude, site.longitude, rating), scene


def _site_of(split: Split, index: int) -> int:
    """Place of a recording's site: the seen ones in turn, but for every fourth test recording."""
    if split == "Test" and index % 4 == 3:
        return SEEN_SITES + index // 4 % UNSEEN_SITES
    return (index - index // 4 if split == "Test" else index) % SEEN_SITES


def _labels(world: World, present: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(world.labels[k] for k in np.flatnonzero(present))


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
    world = _world(options.world, options.species)
    about = {key: value for key, value in asdict(options).items() if key != "jobs"}
    about["unseen_sites"] = [site.name for site in world.sites if not site.seen]
    _write_text(root / ABOUT, json.dumps(about, indent=2) + "\n")
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
    _write(folder / made.filename, encode_vorbis(scene.samples))
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
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    _write_text(path, text.getvalue())


def _write_text(path: Path, text: str) -> None:
    _write(path, text.encode())


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``bce-tools synth``."""
    defaults = SynthOptions()
    parser = subparsers.add_parser(
        "synth",
        help="make labelled synthetic soundscapes in BirdCLEF layout",
        description="Make a labelled data set of made-up species in BirdCLEF layout: focal clips, labelled "
        "soundscapes, and test soundscapes with their answers. The same options give the same files.",
    )
    add: Callable[..., argparse.Action] = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="new folder")
    add("--seed", type=int, default=defaults.seed, help="of the recordings (default: %(default)s)")
    add("--world", type=int, default=defaults.world, help="seed of species, sites and habits (default: %(default)s)")
    add("--species", type=int, default=defaults.species, metavar="N", help="4 to 48 classes (default: %(default)s)")
    add("--clips-per-species", type=int, default=defaults.clips_per_species, metavar="N", help="(default: %(default)s)")
    add("--train-soundscapes", type=int, default=defaults.train_soundscapes, metavar="N", help="(default: %(default)s)")
    add("--test-soundscapes", type=int, default=defaults.test_soundscapes, metavar="N", help="(default: %(default)s)")
    add("--duration", type=int, default=defaults.duration_s, metavar="S", help="of a soundscape (default: %(default)s)")
    add("--test-only", action="store_true", help="make the test soundscapes alone")
    add("--jobs", type=int, metavar="N", help="processes (default: the CPUs this process may use)")
    add("--force", action="store_true", help="replace a synthetic data set that is there")
    add("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=_run_command)


def _run_command(arguments: argparse.Namespace) -> int:
    options = SynthOptions(
        seed=arguments.seed,
        world=arguments.world,
        species=arguments.species,
        clips_per_species=arguments.clips_per_species,
        train_soundscapes=arguments.train_soundscapes,
        test_soundscapes=arguments.test_soundscapes,
        duration_s=arguments.duration,
        test_only=arguments.test_only,
        jobs=arguments.jobs,
    )
    write_dataset(arguments.out, options, force=arguments.force, quiet=arguments.quiet)
    return 0
