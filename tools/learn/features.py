"""Block features of recordings through the engine, kept on disk.

A cache holds one file per recording, named after the SHA-256 of the recording, in a folder named after what else the
features depend on: the bundle's identity, its backbone, the shifts. So a recording is computed once, however often it
is moved, and an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bce.engine.audio.recordings import audio_files
from bce.engine.errors import OptionsError
from bce.engine.files import beside, cache_folder, sha256
from bce.engine.geometry import ChunkGrid
from bce.engine.network.bundle import Bundle
from bce.engine.recording import Recording
from bce.engine.run.engine import Engine, EngineOptions, usable_cpus
from bce.tools.data.datasets import Clips

DURATION = "delivered_s"
BACKBONE = "backbone"
"""What computed a file's features: runtimes differ in the last digits of float32, so the key has nothing of it."""


@dataclass(frozen=True)
class FeatureOptions:
    """How features are computed.

    Attributes:
        threads: of the engine; default: the CPUs that this process may use.
        shifts_s: features are a mean over these shifts of a chunk's window, in seconds.
        precision: which backbone of the bundle.
    """

    threads: int = field(default_factory=usable_cpus)
    shifts_s: tuple[float, ...] = (0.0,)
    precision: str = "fp32"


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Block features of recordings, a row for each chunk.

    Attributes:
        features: float32 [rows, width] by name of the block, "block_21".
        recording: the place of each row's recording in ``paths``, int64 [rows], rising.
        chunk: the place of each row's chunk in its recording, int64 [rows].
        grid: the chunks.
        paths: the recordings, in the order given; one that could not be read has no rows.
        failed: why recordings could not be read, by path.
        computed: recordings that were not in the cache.
        backbone: what computed these, a list where there are several; empty where nothing says it.
    """

    features: dict[str, NDArray[np.float32]]
    recording: NDArray[np.int64]
    chunk: NDArray[np.int64]
    grid: ChunkGrid
    paths: tuple[Path, ...]
    failed: dict[Path, str]
    computed: int
    backbone: str = ""

    def __len__(self) -> int:
        return len(self.recording)

    @property
    def widths(self) -> dict[str, int]:
        return {name: values.shape[1] for name, values in self.features.items()}

    def per_recording(self) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
        """Means over each recording's chunks, and the places of the recordings that have any."""
        places, first = np.unique(self.recording, return_index=True)
        count = np.diff([*first, len(self.recording)])[:, None]
        means = {name: (np.add.reduceat(x, first) / count).astype(np.float32) for name, x in self.features.items()}
        return means, places


def cache_key(bundle: Bundle, options: FeatureOptions) -> str:
    """What features depend on besides the recording, as 16 hexadecimal digits. A bundle's head is not part of it.

    Raises:
        BundleError: the bundle does not have the precision.
    """
    backbone = bundle.manifest.files[bundle.backbone(options.precision).name]
    text = f"{bundle.identity} {backbone} {sorted(options.shifts_s)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/bce/features``, by default in ``~/.cache``."""
    return cache_folder("features")


def find_audio(paths: Sequence[Path]) -> list[Path]:
    """The given files and the recordings of the given folders, those of a folder sorted.

    Raises:
        OptionsError: a path does not exist, or a folder holds no recordings.
    """
    found: list[Path] = []
    for path in paths:
        there = sorted(audio_files(path))
        if not there:
            raise OptionsError("holds no recordings", path)
        found += there
    return found


def read_features(
    paths: Sequence[Path],
    bundle: Bundle,
    cache: str | os.PathLike[str] | None = None,
    options: FeatureOptions | None = None,
    *,
    quiet: bool = True,
) -> FeatureTable:
    """The features of recordings: from the cache, or computed and put there, one recording after the other.

    Only whole recordings are kept, each written beside and renamed. A last chunk that is mostly padding has no row,
    unless it is the only one.

    Args:
        paths: the recordings.
        bundle: a bundle that gives block features; its head is not used.
        cache: a folder, made where it is missing; default: :func:`default_cache`.
        options: how features are computed.
        quiet: show no progress.

    Raises:
        OptionsError: the bundle gives no block features, or no recording can be read.
    """
    options = options or FeatureOptions()
    blocks = [output.name for output in bundle.manifest.outputs if output.kind == "block"]
    if not blocks:
        raise OptionsError("gives no block features: export it with --outputs blocks", bundle.path)
    grid = bundle.manifest.grid
    folder = Path(default_cache() if cache is None else cache) / cache_key(bundle, options)
    folder.mkdir(parents=True, exist_ok=True)
    files = {path: folder / f"{sha256(path)}.npz" for path in dict.fromkeys(paths)}
    kept = {path: found for path, file in files.items() if (found := _load(file, blocks)) is not None}
    missing = [path for path in files if path not in kept]
    failed: dict[Path, str] = {}
    for path, found, reason in _computed(missing, bundle, blocks, options, quiet):
        if found is None:
            failed[path] = reason
        else:
            _save(files[path], found)
            kept[path] = found
    if not kept:
        path, reason = next(iter(failed.items()), (folder, "no recordings were given"))
        raise OptionsError(f"no recording could be read, first: {reason}", path)
    rows = {path: max(1, round(float(kept[path][DURATION]) / grid.chunk_s)) for path in kept}
    order = [(place, path) for place, path in enumerate(paths) if path in kept]
    counts = [min(rows[path], len(kept[path][blocks[0]])) for _, path in order]
    return FeatureTable(
        {
            name: np.concatenate([kept[path][name][:count] for (_, path), count in zip(order, counts, strict=True)])
            for name in blocks
        },
        np.repeat(np.array([place for place, _ in order], dtype=np.int64), counts),
        np.concatenate([np.arange(count, dtype=np.int64) for count in counts]),
        grid,
        tuple(paths),
        failed,
        len(missing) - len(failed),
        ", ".join(sorted({str(kept[path][BACKBONE]) for path in kept if BACKBONE in kept[path]})),
    )


def _computed(
    paths: Sequence[Path], bundle: Bundle, blocks: Sequence[str], options: FeatureOptions, quiet: bool
) -> Iterator[tuple[Path, dict[str, NDArray[Any]] | None, str]]:
    """Each recording with its features, or None and the reason."""
    if not paths:
        return
    engine = Engine(
        bundle,
        EngineOptions(
            threads=options.threads, shifts_s=options.shifts_s, precision=options.precision, features="chunk"
        ),
    )
    recordings = [Recording(path, path.stem) for path in paths]
    with tqdm(total=len(paths), unit="recording", disable=True if quiet else None) as bar:
        for path, result in zip(paths, engine.run(recordings), strict=True):
            if result.status == "ok":
                about = {DURATION: np.array(result.delivered_s), BACKBONE: np.array(str(engine.member.model.form))}
                yield path, {name: result.features[name] for name in blocks} | about, ""
            else:
                yield path, None, result.reason or result.status
            bar.update()


def _save(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with beside(file) as partial, open(partial, "wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def _load(file: Path, blocks: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """The features of a recording; None where they are not there, or not whole: they are computed again."""
    try:
        with np.load(file) as arrays:
            about = (BACKBONE,) if BACKBONE in arrays else ()  # files of 0.1 do not say it
            return {name: arrays[name] for name in (*blocks, DURATION, *about)}
    except PermissionError:
        raise
    except Exception:  # zipfile, its decompressors, numpy and the parser of its headers each have their own
        return None


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """Focal clips as one vector each: the mean of their chunks' features.

    Attributes:
        features: float32 [clips, width] by block.
        labels: the class of each clip.
        failed: clips that could not be read, which have no row, and why.
    """

    features: dict[str, NDArray[np.float32]]
    labels: tuple[str, ...]
    failed: dict[Path, str]


def clip_features(
    clips: Clips, bundle: Bundle, cache: Path | None, options: FeatureOptions | None = None, *, quiet: bool = True
) -> ClipFeatures:
    """The features of clips; those that cannot be read are left out, as long as each class keeps one.

    Args:
        clips: the recordings.
        bundle, cache, options, quiet: as in :func:`read_features`.

    Raises:
        OptionsError: a class has no clip that can be read, or as :func:`read_features` does.
    """
    table = read_features(clips.paths, bundle, cache, options, quiet=quiet)
    features, places = table.per_recording()
    labels = tuple(clips.labels[place] for place in places)
    check_classes(clips, table.failed)
    return ClipFeatures(features, labels, table.failed)


def check_classes(clips: Clips, failed: Mapping[Path, str]) -> None:
    """Refuse clips that leave a class without one that can be read.

    Args:
        clips: the recordings.
        failed: those that could not be read, and why.

    Raises:
        OptionsError: naming the class and its first clip.
    """
    pairs = list(zip(clips.paths, clips.labels, strict=True))
    readable = {label for path, label in pairs if path not in failed}
    for path, label in pairs:
        if label not in readable:
            count = clips.labels.count(label)
            raise OptionsError(
                f"{failed[path]}; none of the {count} clips of the class '{label}' can be read: mend them, or "
                "take the class out",
                path,
            )
