"""``bce-bench peers``: the stock graph, other runtimes and ``bce``, side by side in one run on the same audio.

Method: every contestant goes over the same windows once per round, and the rounds are interleaved (A B C, A B C), so
that whatever disturbs the machine for a while disturbs all of them. The first round warms up and is dropped. Figures
are medians with quartiles; ratios are taken within a round. How far a backbone's outputs are from ONNX Runtime's is
measured on the same windows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.bench import contestants as ways
from bce.bench.backbones import REFERENCE, Distance, NotHere, backbones, has_kernels
from bce.bench.capped import NAME as CAPPED
from bce.bench.capped import Capped
from bce.bench.contestants import ALONE, Contestant
from bce.bench.end_to_end import end_to_end
from bce.bench.figures import figure, ratio
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, bundle, describe, headless, model_file, recordings
from bce.engine.audio.recordings import find_recordings
from bce.engine.errors import OptionsError
from bce.engine.geometry import SHIFT_SETS
from bce.engine.network.bundle import Bundle

STOCK = "stock graph, ONNX Runtime"
HEADLESS = "headless graph, ONNX Runtime"
HEADLESS_OPENVINO = "headless graph, OpenVINO"
WHOLE = {"times_stock": STOCK, "times_headless": HEADLESS}
"""What everything is compared with, by the name that a result has for the ratio."""
BACKBONES = {"times_onnxruntime": f"{ALONE}{REFERENCE}", "times_capped": f"{ALONE}{CAPPED}"}
"""What backbones alone are compared with besides."""
_PAUSE_S = 0.1
"""Between contestants: the thread pool of the last one spins for a while before it sleeps."""


@dataclass(frozen=True)
class PeersOptions:
    """What to compare.

    Attributes:
        perch: the published ONNX file; None for a stand-in.
        given_bundle: a bundle made from it; None makes one.
        tflite: a published TFLite file, for LiteRT.
        audio: recordings and folders; empty for synthetic soundscapes.
        threads: each at least 1.
        windows: about how many windows each contestant runs in a round.
        rounds: kept rounds, at least 1.
        recordings: of a minute, end to end at five shifts; 0 leaves end to end out.
        end_to_end_rounds: kept rounds of whole programs.
        precisions: of the bundle that is made.
    """

    perch: Path | None = None
    given_bundle: Path | None = None
    tflite: Path | None = None
    audio: tuple[Path, ...] = ()
    threads: tuple[int, ...] = (1, 2)
    windows: int = 120
    rounds: int = 7
    recordings: int = 6
    end_to_end_rounds: int = 3
    precisions: tuple[str, ...] = ("fp32",)

    def __post_init__(self) -> None:
        for name in ("windows", "rounds", "end_to_end_rounds"):
            if getattr(self, name) < 1:
                raise OptionsError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.recordings < 0 or not self.threads or min(self.threads) < 1:
            raise OptionsError("recordings must be 0 or more, and each number of threads 1 or more")


def peers(options: PeersOptions, work: Work) -> dict[str, Any]:
    """Measure, and return everything as JSON can hold it: see :func:`bce.bench.tables.peers_tables`."""
    model = model_file(work, options.perch)
    made = bundle(work, options.given_bundle, lambda: model, options.precisions)
    weights = describe(made, model)
    folder = recordings(work, options.audio, max(options.recordings, 6))
    machine, watch = describe_machine(), Watch()
    result: dict[str, Any] = {"kind": "peers", "machine": machine, "weights": weights}
    result |= _per_window(options, work, model, made, folder)
    if options.recordings:
        names = {row["name"] for row in result["contestants"]}
        runs = [way for way in our_ways(made) if ways.engine_name(*way) in names]
        counts = options.recordings, options.end_to_end_rounds
        result["end_to_end"] = end_to_end(work, model, made, folder, *counts, options.threads, runs)
    result["load"] = watch.stop()
    return result


# --- a window ------------------------------------------------------------------------------------------------------


def our_ways(made: Bundle) -> list[tuple[str, str]]:
    """Precision and backend of each way to run ``bce``: by itself in all precisions, and as it was without kernels.

    Where int8 runs in ONNX Runtime by itself, it is not measured there twice.
    """
    others = [precision for precision in made.precisions if precision != "fp32"]
    alone = [precision for precision in made.manifest.variants if has_kernels(made, precision)]
    by_itself = [(precision, "auto") for precision in ("fp32", "bf16", *others)]
    return [*by_itself, *((precision, "onnxruntime") for precision in alone)]


def _per_window(options: PeersOptions, work: Work, model: Path, made: Bundle, folder: Path) -> dict[str, Any]:
    window = made.manifest.window
    audio = ways.load_audio(find_recordings([folder]), options.windows, SHIFT_SETS[5], window, max(options.threads))
    inputs = ways.network_inputs(made, audio)
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        field = list(_field(options, work, model, made, audio, inputs, absent, stack))
        times, windows = _rounds(field, options.rounds, work)
    distances = _distances(field, inputs, made.manifest.output_names)
    rows = []
    for index, contestant in enumerate(field):
        row: dict[str, Any] = {
            "name": contestant.name,
            "threads": contestant.threads,
            "note": contestant.note,
            "form": contestant.form,
            "windows": windows[index],
            "ms": times[index],
            "figure": figure(times[index]).to_json(),
        }
        for key, name in (WHOLE | (BACKBONES if contestant.name.startswith(ALONE) else {})).items():
            slow = _find(field, name, contestant.threads)
            if slow is not None and slow != index:
                row[key] = ratio(times[slow], times[index]).to_json()
        single = _find(field, contestant.name, 1)
        if single is not None and single != index:
            row["times_one_thread"] = ratio(times[single], times[index]).to_json()
        if contestant.name in distances:
            row["distance"] = distances[contestant.name].to_json()
        rows.append(row)
    return {
        "audio": {
            "windows": len(audio.waveforms),
            "blocks": len(audio.blocks),
            "shifts_s": list(audio.shifts_s),
            "given": [str(path) for path in options.audio],
        },
        "rounds": options.rounds,
        "batch": ways.BATCH,
        "contestants": rows,
        "absent": absent,
    }


def _rounds(field: Sequence[Contestant], rounds: int, work: Work) -> tuple[list[list[float]], list[int]]:
    """Milliseconds of a window for each contestant in each round, and how many windows each runs."""
    times: list[list[float]] = [[] for _ in field]
    windows = [0] * len(field)
    for number in range(rounds + 1):
        work.say(f"round {number} of {rounds}" + (" (warm-up, dropped)" if not number else ""))
        for index, contestant in enumerate(field):
            time.sleep(_PAUSE_S)
            began = time.perf_counter()
            windows[index] = contestant.run()
            elapsed = time.perf_counter() - began
            if number:
                times[index].append(1e3 * elapsed / windows[index])
    return times, windows


def _distances(field: Sequence[Contestant], inputs: NDArray[np.float32], names: Sequence[str]) -> dict[str, Distance]:
    """How far each backbone's outputs are from ONNX Runtime's, by the name of the contestant."""
    forms = {contestant.name: contestant.outputs for contestant in field if contestant.outputs is not None}
    trusted = forms.pop(f"{ALONE}{REFERENCE}")
    found = {name: Distance(names) for name in forms}
    for window in range(len(inputs)):
        x = inputs[window : window + 1]
        expected = trusted(x)
        for name, outputs in forms.items():
            found[name].add(expected, outputs(x))
    return found


def _field(
    options: PeersOptions,
    work: Work,
    model: Path,
    made: Bundle,
    audio: ways.Audio,
    inputs: NDArray[np.float32],
    absent: dict[str, str],
    stack: ExitStack,
) -> Iterator[Contestant]:
    cut = headless(work, model)
    sounds = audio.waveforms
    for threads in options.threads:
        yield ways.onnx_runtime(STOCK, model, sounds, threads, ways.BATCH, f"all outputs, batch {ways.BATCH}")
        yield ways.onnx_runtime(HEADLESS, cut, sounds, threads, ways.BATCH, f"embedding only, batch {ways.BATCH}")
        yield ways.onnx_runtime(f"{HEADLESS}, one by one", cut, sounds, threads, 1, "embedding only, batch 1")
        whole: dict[str, Callable[[], Contestant]] = {
            "LiteRT": partial(_tflite, "LiteRT", options.tflite, sounds, threads),
            HEADLESS_OPENVINO: partial(
                ways.openvino, HEADLESS_OPENVINO, cut, sounds, threads, 1, "embedding only, batch 1"
            ),
        }
        whole |= {
            ways.engine_name(precision, backend): partial(ways.engine, made, precision, audio, threads, backend)
            for precision, backend in our_ways(made)
        }
        yield from _those_here(whole, absent)
        for form in backbones(made, threads, absent):
            yield ways.backbone(form, inputs, threads)
        yield from _those_here({CAPPED: partial(_capped, made, inputs, threads, work, stack)}, absent)


def _those_here(makers: dict[str, Callable[[], Contestant]], absent: dict[str, str]) -> Iterator[Contestant]:
    for name, make in makers.items():
        try:
            yield make()
        except NotHere as reason:
            absent[name] = str(reason)


def _capped(made: Bundle, inputs: NDArray[np.float32], threads: int, work: Work, stack: ExitStack) -> Contestant:
    return stack.enter_context(Capped(made, inputs, threads, work.folder)).contestant


def _tflite(name: str, model: Path | None, inputs: NDArray[np.float32], threads: int) -> Contestant:
    if model is None:
        raise NotHere("no TFLite file was given")
    return ways.litert(name, model, inputs, threads)


def _find(field: Sequence[Contestant], name: str, threads: int) -> int | None:
    return next((i for i, c in enumerate(field) if (c.name, c.threads) == (name, threads)), None)
