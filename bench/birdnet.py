"""``bce-bench birdnet``: BirdNET v2.4 from samples to logits beside LiteRT, and what lower precision changes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.bench import litert
from bce.bench.backbones import REFERENCE, BackboneAlone, backbones
from bce.bench.figures import figure, ratio
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, describe
from bce.engine.audio.reader import AudioReader
from bce.engine.errors import OptionsError
from bce.engine.files import sha256 as sha256_of
from bce.engine.network.bundle import Bundle
from bce.export.birdnet.frontend import read_frontend
from bce.export.birdnet.locate import locate
from bce.export.commands.birdnet import export_birdnet
from bce.export.commands.options import FP32, INT8, BirdnetOptions, check_precisions
from bce.export.int8.listening import recordings_of
from bce.export.proof.agreement import Agreement, rank_correlation_each
from bce.export.readers.tflite_graph import TfliteGraph

Array = NDArray[np.float32]
_TAKE = re.compile(r"(?<=.)[-_ ][A-Za-z]$")
"""What tells takes of a recording apart at the end of a name."""
PUBLISHED, FIXED, FRONTEND = "LiteRT, the published file", "LiteRT, its network alone, fixed shapes", "frontend"


@dataclass(frozen=True)
class BirdnetBenchOptions:
    """What to measure.

    Attributes:
        birdnet: as ``bce-export --birdnet`` takes it.
        audio: recordings and folders of them.
        calibrate: of those on which int8 is made, which are then not compared on; none for every second one of
            ``audio``.
        precisions: of the bundles that are made.
        taxonomy: classes of a second bundle; None for all classes alone.
        windows: so many are timed in a round.
        rounds: of which the first warms up.
        compared: windows on which precisions are compared, 0 for all there are.
    """

    birdnet: str
    audio: tuple[Path, ...]
    taxonomy: Path | None = None
    windows: int = 12
    rounds: int = 25
    compared: int = 0
    calibrate: tuple[Path, ...] = ()
    precisions: tuple[str, ...] = (FP32, INT8)

    def __post_init__(self) -> None:
        if self.windows < 1 or self.rounds < 2:
            raise OptionsError("give at least one window and two rounds, of which the first warms up")
        if not self.audio:
            raise OptionsError("give real recordings with --audio: what is compared means nothing on others")
        check_precisions(self.precisions, self.audio if INT8 in self.precisions else ())
        if self.calibrate and INT8 not in self.precisions:
            raise OptionsError("--calibrate is for int8: leave --precisions at fp32,int8")


@dataclass(frozen=True)
class Recordings:
    """Whole recordings for either purpose: no copy of one serves both.

    Attributes:
        calibrate: on which int8 is made; none without int8.
        compare: on which everything is timed and compared.
    """

    calibrate: tuple[Path, ...]
    compare: tuple[Path, ...]

    @property
    def key(self) -> str:
        """Names what int8 is made on: another set of recordings has another."""
        return sha256("".join(sorted(map(sha256_of, self.calibrate))).encode()).hexdigest()[:12]


def divided(options: BirdnetBenchOptions) -> Recordings:
    """Divide the recordings; takes of one recording, such as clip-A and clip-B, stay together.

    Raises:
        OptionsError: none are left to compare on, or to calibrate on; a path does not exist.
        AudioError: a folder holds no recordings.
    """
    if options.calibrate:
        calibrate, _ = recordings_of(options.calibrate)
        both, _ = recordings_of([*calibrate, *options.audio])  # of copies the first is kept
        compare = both[len(calibrate) :]
        if not compare:
            raise OptionsError("all recordings of --audio are among those of --calibrate: give others to compare on")
        return Recordings(tuple(calibrate), tuple(compare))
    found, _ = recordings_of(options.audio)
    if INT8 not in options.precisions:
        return Recordings((), tuple(found))
    sides: tuple[list[Path], list[Path]] = ([], [])
    for place, (_, takes) in enumerate(groupby(found, lambda path: path.with_name(_TAKE.sub("", path.stem)))):
        sides[place % 2].extend(takes)
    if not sides[1]:
        raise OptionsError(
            "one recording cannot be divided: give more, or others to --calibrate, or leave int8 out with "
            "--precisions fp32",
            options.audio[0],
        )
    return Recordings(tuple(sides[1]), tuple(sides[0]))


@dataclass
class _Bundle:
    """A bundle's forms, ready to run."""

    bundle: Bundle
    forms: list[BackboneAlone]
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.bundle.classes)


def birdnet(options: BirdnetBenchOptions, work: Work) -> dict[str, Any]:
    """Measure on one thread, everything window by window in turn, in CPU time of the process."""
    model = locate(options.birdnet).model
    recordings = divided(options)
    made = [_opened(bundle) for bundle in _bundles(options, recordings, work)]
    machine, watch = describe_machine(), Watch()
    windows = list(_windows(made[0].bundle, recordings.compare, options.windows))
    work.say(f"timing {len(windows)} windows, {options.rounds} rounds")
    times = _times(_contestants(model, made, windows), len(windows), options.rounds)
    work.say("comparing precisions")
    whole = made[0]
    compared = _compared(whole, _windows(whole.bundle, recordings.compare, options.compared))
    return {
        "kind": "birdnet",
        "machine": machine,
        "weights": describe(whole.bundle),
        "windows": len(windows),
        "rounds": options.rounds - 1,
        "recordings": {"calibrate": len(recordings.calibrate), "compare": len(recordings.compare)},
        "speed": [
            {
                "name": name,
                "ms": figure([1e3 * t for t in found]).to_json(),
                "litert": ratio(times[PUBLISHED], found).to_json(),
            }
            for name, found in times.items()
        ],
        "precision": [{"name": name, **change} for name, change in compared.items()],
        "absent": {f"{name}, {each.classes} classes": why for each in made for name, why in each.absent.items()},
        "load": watch.stop(),
    }


def _bundles(options: BirdnetBenchOptions, recordings: Recordings, work: Work) -> Iterator[Bundle]:
    for taxonomy in dict.fromkeys((None, options.taxonomy)):
        name = "birdnet" if taxonomy is None else f"birdnet_{taxonomy.stem}"
        if recordings.calibrate:
            name = f"{name}_int8_{recordings.key}"
        given = BirdnetOptions(
            options.birdnet,
            work.folder / name,
            taxonomy=taxonomy,
            precisions=options.precisions,
            calibrate=recordings.calibrate,
        )
        yield Bundle.load(given.out) if Path(given.out).exists() else export_birdnet(given, work.say)


def _opened(bundle: Bundle) -> _Bundle:
    absent: dict[str, str] = {}
    return _Bundle(bundle, list(backbones(bundle, 1, absent)), absent)


def _windows(bundle: Bundle, recordings: Sequence[Path], most: int) -> Iterator[Array]:
    """Windows of recordings, side by side; spread evenly over them where not all are wanted."""
    manifest = bundle.manifest
    found: list[Array] = []
    for path in recordings:
        with AudioReader(path, manifest.window.sample_rate, manifest.grid) as reader:
            for block in reader:
                found.extend(block.samples.reshape(-1, manifest.window.samples))
    step = max(1, len(found) // most) if most else 1
    yield from found[::step][: most or None]


def _contestants(model: Path, made: list[_Bundle], windows: list[Array]) -> dict[str, Callable[[int], object]]:
    """By name, what runs the window of a number."""
    frontend = made[0].bundle.frontend()
    inputs = [np.empty((1, *frontend.shape), np.float32) for _ in windows]
    for samples, x in zip(windows, inputs, strict=True):
        frontend.open(samples).window(0, x[0])
    nhwc = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for x in inputs]
    whole, alone = litert.published(model), litert.fixed_backbone(model, read_frontend(TfliteGraph(model)).output)
    own = np.empty((1, *frontend.shape), np.float32)

    def through(form: BackboneAlone | None) -> Callable[[int], object]:
        def run(number: int) -> object:
            frontend.open(windows[number]).window(0, own[0])
            return None if form is None else form.run(own)

        return run

    found: dict[str, Callable[[int], object]] = {
        PUBLISHED: lambda number: whole(windows[number]),
        FIXED: lambda number: alone(nhwc[number]),
        FRONTEND: through(None),
    }
    for bundle in made:
        for form in bundle.forms:
            found[f"{form.name}, {bundle.classes} classes"] = through(form)
    return found


def _times(contestants: dict[str, Callable[[int], object]], windows: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each, window by window; the first round is left out."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(rounds):
        for number in range(windows):
            for name, run in contestants.items():
                began = time.process_time()
                run(number)
                if round_number:
                    times[name].append(time.process_time() - began)
    return times


def _compared(made: _Bundle, windows: Iterator[Array]) -> dict[str, dict[str, Any]]:
    """Every form's logits against ONNX Runtime's in float32."""
    frontend, place = made.bundle.frontend(), list(made.bundle.manifest.output_names).index("logits")
    logits: dict[str, list[Array]] = {form.name: [] for form in made.forms}
    x = np.empty((1, *frontend.shape), np.float32)
    for samples in windows:
        frontend.open(samples).window(0, x[0])
        for form in made.forms:
            logits[form.name].append(form.run(x)[place][0])
    trusted = np.stack(logits.pop(REFERENCE))
    return {name: changes(np.stack(rows), trusted) for name, rows in logits.items()}


def changes(found: Array, trusted: Array) -> dict[str, Any]:
    """What a result says of logits [windows, classes], None where that is no finite number.

    ``rank_correlation`` is of the classes of a window, averaged over the windows; ``class_rank_correlation`` is
    :attr:`bce.export.proof.agreement.Agreement.rank_correlation`, of a class over the windows.
    """
    near = Agreement.between(found, trusted).to_dict()
    in_windows = rank_correlation_each(found.T, trusted.T)
    in_a_window = float(in_windows.mean()) if len(in_windows) else math.nan
    return {
        "windows": near["windows"],
        "relative_l2": near["distance"]["pooled"],
        "relative_l2_typical": near["distance"]["typical"],
        "relative_l2_worst": near["distance"]["worst"],
        "rank_correlation": in_a_window if math.isfinite(in_a_window) else None,
        "class_rank_correlation": near["rank_correlation"],
        "class_rank_correlation_worst": near["rank_correlation_worst"],
        "top1": near["top1"],
        "loud": near["loud"],
        "top1_loud": near["top1_loud"],
        "largest_change": near["largest_change"],
    }
