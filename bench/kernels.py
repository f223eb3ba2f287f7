"""``bce-bench kernels``: milliseconds of each stage of the compiled network, beside what this machine can do at most.

The forms run one after the other over the same windows, round by round, on one thread; the peaks are measured in the
same rounds. A stage's time is the median of all windows, by the time-stamp counter.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from bce.bench import contestants as ways
from bce.bench.backbones import compiled_layers
from bce.bench.figures import figure
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, bundle, describe, model_file, recordings
from bce.bench.peaks import Peaks
from bce.bench.stages import Arithmetic, arithmetic, rows
from bce.engine.audio.recordings import find_recordings
from bce.engine.compiled.lanes import ISAS
from bce.engine.compiled.layers import Layers
from bce.engine.compiled.maps import Element
from bce.engine.compiled.network import lacks
from bce.engine.compiled.plan import Precision
from bce.engine.compiled.targets import IsaName, Target, host_target, why_none
from bce.engine.compiled.timing import Timed
from bce.engine.errors import BceError, OptionsError, shown
from bce.engine.network.bundle import Bundle
from bce.engine.network.mbconv import NotMbconv, read_layers


@dataclass(frozen=True)
class KernelsOptions:
    """What to time.

    Attributes:
        given_bundle: a bundle with a head; None makes one.
        perch: what it is made from; None for a stand-in.
        audio: recordings and folders; empty for synthetic soundscapes.
        precisions, isas: of the forms; those that this CPU or a given bundle does not have are left out. A bundle that
            is made has int8 if that is among them.
        windows: of a round, at least 1.
        rounds: kept rounds, at least 1.
    """

    given_bundle: Path | None = None
    perch: Path | None = None
    audio: tuple[Path, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "bf16")
    isas: tuple[str, ...] = field(default_factory=lambda: tuple(ISAS))
    windows: int = 12
    rounds: int = 15

    def __post_init__(self) -> None:
        for name, given, known in (
            ("precision", self.precisions, get_args(Precision)),
            ("isa", self.isas, tuple(ISAS)),
        ):
            for value in given:
                if value not in known:
                    raise OptionsError(f"{name} is {shown(value)}, it must be one of {', '.join(known)}")
        for name in ("windows", "rounds"):
            if getattr(self, name) < 1:
                raise OptionsError(f"{name} is {getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True, eq=False)
class Form:
    """A form of the compiled network.

    Attributes:
        precision, target: of the kernels.
        layers: the network.
        chosen: for "int8", what its products are.
    """

    precision: Precision
    target: Target
    layers: Layers
    chosen: Mapping[str, Element] | None = None

    @property
    def name(self) -> str:
        """As in the tables: "compiled fp32, avx512"."""
        return form_name(self.precision, self.target.isa)


def form_name(precision: Precision, isa: IsaName) -> str:
    """See :attr:`Form.name`."""
    return f"compiled {precision}, {isa}"


def kernels(options: KernelsOptions, work: Work) -> dict[str, Any]:
    """Measure, and return everything as JSON can hold it: see :func:`bce.bench.kernel_tables.kernels_tables`."""
    precisions = tuple(one for one in ("fp32", "int8") if one == "fp32" or one in options.precisions)
    made = bundle(work, options.given_bundle, lambda: model_file(work, options.perch), precisions)
    try:
        read_layers(made.backbone())
    except NotMbconv as error:
        raise OptionsError(f"{error.reason}: there are no kernels for it", error.path) from error
    folder = recordings(work, options.audio, 6)
    audio = ways.load_audio(find_recordings([folder]), options.windows, (0.0,), made.manifest.window, 1)
    inputs = ways.network_inputs(made, audio)[: options.windows]
    forms, absent = _forms(options, made)
    if not forms:
        raise OptionsError("; ".join(absent.values()))
    machine, watch = describe_machine(), Watch()
    timed = []
    for form in forms:
        work.say(f"compiling {form.name.removeprefix('compiled ')}")
        timed.append(Timed(form.layers, form.precision, form.target, form.chosen))
    peaks = {form.target.isa: Peaks(form.target) for form in reversed(forms)}
    clocks: list[list[NDArray[np.int64]]] = [[] for _ in forms]
    rates: dict[str, list[dict[str, float]]] = {isa: [] for isa in peaks}
    began, first = time.perf_counter(), 0
    for number in range(options.rounds + 1):
        work.say(f"round {number} of {options.rounds}" + (" (warm-up, dropped)" if not number else ""))
        for isa, loops in peaks.items():
            rates[isa].append(loops.measure())
        for program, kept in zip(timed, clocks, strict=True):
            found = [program.run(x) for x in inputs]
            if number:
                kept += found
            elif not first:
                began, first = time.perf_counter(), int(found[-1][-1])
    ticks_per_s = (int(clocks[-1][-1][-1]) - first) / (time.perf_counter() - began)
    return {
        "kind": "kernels",
        "machine": machine,
        "weights": describe(made),
        "rounds": options.rounds,
        "windows": len(inputs),
        "ticks_per_s": ticks_per_s,
        "peaks": [
            {"isa": isa, "name": name, "rate": figure([rate[name] for rate in of_isa[1:]]).to_json()}
            for isa, of_isa in rates.items()
            for name in of_isa[0]
        ],
        "forms": [
            _form(form, program.stages, np.stack(kept) / ticks_per_s, _medians(rates[form.target.isa][1:]))
            for form, program, kept in zip(forms, timed, clocks, strict=True)
        ],
        "absent": absent,
        "load": watch.stop(),
    }


def _forms(options: KernelsOptions, made: Bundle) -> tuple[list[Form], dict[str, str]]:
    """The forms that this CPU and the bundle have, and why not the others."""
    found: list[Form] = []
    absent: dict[str, str] = {}
    isas: tuple[IsaName, ...] = tuple(isa for isa in get_args(IsaName) if isa in options.isas)
    for precision in (one for one in get_args(Precision) if one in options.precisions):
        try:
            layers, chosen = compiled_layers(made, precision)
        except BceError as error:
            absent |= {form_name(precision, isa): error.reason for isa in isas}
            continue
        for isa in isas:
            target = host_target(isa)
            if target is None:
                absent[form_name(precision, isa)] = why_none(isa)
            elif (missing := lacks(target, precision)) is not None:
                absent[form_name(precision, isa)] = f"this CPU has no {missing}"
            else:
                found.append(Form(precision, target, layers, chosen))
    return found, absent


def _medians(rates: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.median([rate[name] for rate in rates])) for name in rates[0]}


def _form(form: Form, stages: list[str], seconds: NDArray[np.float64], rates: dict[str, float]) -> dict[str, Any]:
    """A form's table: each part's milliseconds, multiply-adds, and milliseconds at the peaks.

    Args:
        seconds: [windows, 1 + stages], see :meth:`Timed.run`.
        rates: see :meth:`bce.bench.peaks.Peaks.measure`.
    """
    target = form.target
    counted = arithmetic(form.layers, form.precision, ISAS[target.isa], form.chosen)
    took = dict(zip(stages, np.diff(seconds, axis=1).T, strict=True))

    def part(names: list[str]) -> dict[str, Any]:
        of_part = sum((counted.get(name, Arithmetic()) for name in names), Arithmetic())
        return {
            "ms": 1e3 * float(np.median(sum(took[name] for name in names))),
            "multiplications": of_part.multiplications,
            "floor_ms": 1e3 * of_part.floor_s(rates),
        }

    whole = figure(list(1e3 * (seconds[:, -1] - seconds[:, 0])))
    return {
        "name": form.name,
        "precision": form.precision,
        "isa": target.isa,
        "cpu": target.cpu,
        "products": dict(Counter((form.chosen or {}).values())),
        "figure": whole.to_json(),
        "multiplications": sum(one.multiplications for one in counted.values()),
        "floor_ms": 1e3 * sum(one.floor_s(rates) for one in counted.values()),
        "rows": [
            {"name": name, "parts": {key: part(names) for key, names in parts.items()}}
            for name, parts in rows(form.layers, stages).items()
        ],
    }
