"""``bce-bench birdnet``: BirdNET v2.4 from samples to logits beside LiteRT, and what lower precision changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from bce.engine.audio.recordings import audio_files
from bce.engine.errors import OptionsError
from bce.engine.network.bundle import Bundle
from bce.export.birdnet.frontend import read_frontend
from bce.export.birdnet.locate import locate
from bce.export.commands.birdnet import export_birdnet
from bce.export.commands.options import BirdnetOptions
from bce.export.proof.agreement import Agreement, rank_correlation_each
from bce.export.readers.tflite_graph import TfliteGraph

Array = NDArray[np.float32]
PUBLISHED, FIXED, FRONTEND = "LiteRT, the published file", "LiteRT, its network alone, fixed shapes", "frontend"


@dataclass(frozen=True)
class BirdnetBenchOptions:
    """What to measure.

    Attributes:
        birdnet: as ``bce-export --birdnet`` takes it.
        audio: recordings and folders of them.
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

    def __post_init__(self) -> None:
        if self.windows < 1 or self.rounds < 2:
            raise OptionsError("give at least one window and two rounds, of which the first warms up")
        if not self.audio:
            raise OptionsError("give real recordings with --audio: what is compared means nothing on others")


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
    made = [_opened(bundle) for bundle in _bundles(options, work)]
    machine, watch = describe_machine(), Watch()
    windows = list(_windows(made[0].bundle, options.audio, options.windows))
    work.say(f"timing {len(windows)} windows, {options.rounds} rounds")
    times = _times(_contestants(model, made, windows), len(windows), options.rounds)
    work.say("comparing precisions")
    whole = made[0]
    compared = _compared(whole, _windows(whole.bundle, options.audio, options.compared))
    return {
        "kind": "birdnet",
        "machine": machine,
        "weights": describe(whole.bundle),
        "windows": len(windows),
        "rounds": options.rounds - 1,
        "speed": [
            {
                "name": name,
                "ms": figure([1e3 * t for t in found]).to_json(),
                "litert": ratio(times[PUBLISHED], found).to_json(),
            }
            for name, found in times.items()
        ],
        "precision": [{"name": name, **change} for name, change in compared.items()],
        "absent": whole.absent,
        "load": watch.stop(),
    }


def _bundles(options: BirdnetBenchOptions, work: Work) -> Iterator[Bundle]:
    for taxonomy in dict.fromkeys((None, options.taxonomy)):
        name = "birdnet" if taxonomy is None else f"birdnet_{taxonomy.stem}"
        given = BirdnetOptions(options.birdnet, work.folder / name, taxonomy=taxonomy)
        yield Bundle.load(given.out) if Path(given.out).exists() else export_birdnet(given, work.say)


def _opened(bundle: Bundle) -> _Bundle:
    absent: dict[str, str] = {}
    return _Bundle(bundle, list(backbones(bundle, 1, absent)), absent)


def _windows(bundle: Bundle, audio: tuple[Path, ...], most: int) -> Iterator[Array]:
    """Windows of recordings, side by side; the first of each recording, the second, ... where not all are wanted."""
    manifest = bundle.manifest
    found: list[Array] = []
    for path in (path for given in audio for path in audio_files(given)):
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
