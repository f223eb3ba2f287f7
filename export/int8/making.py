"""A network's int8 forms out of calibration windows: rounded, chosen, judged; for the kernels and for ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.layers import Layers, Rounded
from bce.engine.compiled.maps import Element, levels
from bce.engine.compiled.network import CompiledNetwork
from bce.engine.compiled.products import products
from bce.engine.errors import ParityError
from bce.engine.network.bundle import LOGITS
from bce.engine.network.int8 import Int8Form
from bce.engine.network.mbconv import read_layers
from bce.engine.network.sessions import open_session
from bce.export.int8.choice import choose
from bce.export.int8.costs import Costs, compiled_costs, onnx_costs
from bce.export.int8.forms import integer_product, word_product
from bce.export.int8.forward import Forward, Product, batches, joined, side_by_side
from bce.export.int8.gate import AIM, LIMITS, Arrays, Quality, judge
from bce.export.int8.moments import hessians
from bce.export.int8.onnx_form import LARGEST_WEIGHT, nodes_of, quantize_backbone
from bce.export.int8.rounding import rounded
from bce.export.int8.sensitivity import actual, sensitivities
from bce.export.int8.windows import Group, Windows
from bce.export.proof.running import run_each

ByElement = Mapping[Element, NDArray[np.float64]]
Inputs = NDArray[np.float32]
Run = Callable[[Inputs], Arrays]
"""Inputs of windows to outputs by name, each [windows, width]."""
Weights = Mapping[str, tuple[Rounded, NDArray[np.float32]]]
Say = Callable[[str], None]

SENSITIVE_WINDOWS = 24
"""On which each product is tried alone: half of them those that all products together change most."""
SHARES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.15)
"""Of the aims that the choice is held to, in turn, until the whole form keeps them on calibration windows."""


@dataclass(frozen=True)
class Network:
    """What is to become int8.

    Attributes:
        backbone: its float32 graph.
        scores: the output that is logits of classes; None without one, or where a head makes them.
        head: the graph of a trained head, whose logits are then the scores.
    """

    backbone: Path
    scores: str | None = None
    head: Path | None = None

    @property
    def judged(self) -> str | None:
        """The name of the scores among the outputs."""
        return self.scores if self.head is None else LOGITS


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What both forms are made with.

    Attributes:
        network, layers, forward: the float32 form.
        tried: windows that the choice is made on: those of calibration, and some of other recordings.
        judged: windows that nothing has seen.
        tried_exact, judged_exact: float32 outputs on them.
    """

    network: Network
    layers: Layers
    forward: Forward
    tried: Group
    judged: Group
    tried_exact: Arrays
    judged_exact: Arrays


@dataclass(frozen=True, eq=False)
class _Settled:
    """A form that was chosen.

    Attributes:
        elements: of each product by name.
        run: the form.
        share: of the aims, that the choice was held to.
        quality: on windows that calibration never saw.
    """

    elements: dict[str, Element]
    run: Run
    share: float
    quality: Quality


def make_int8(network: Network, windows: Windows, kernels: Path, graph: Path, say: Say) -> dict[str, Any]:
    """Write a network's int8 forms, each if it keeps the limits.

    Args:
        network: the float32 form.
        windows: on which it is made and judged.
        kernels: where the form for the kernels goes.
        graph: where the one for ONNX Runtime goes.
        say: takes a line for each step.

    Returns:
        for ``parity.json``: windows, limits, and of each form its products' elements, costs and sensitivity, and its
        quality.

    Raises:
        NotMbconv: the graph's products are not known.
        ParityError: neither form keeps the limits; nothing was written.
    """
    layers = read_layers(network.backbone)
    forward = Forward(layers)
    exact = _session_run(network.backbone, network.head)
    check, judged = windows.judge.halves()
    tried = windows.calibrate.joined(check)
    prepared = _Prepared(network, layers, forward, tried, judged, exact(tried.inputs), exact(judged.inputs))
    say(
        f"int8: rounding the weights of {len(forward.names)} products on {len(windows.calibrate.inputs)} windows of "
        f"{windows.recordings} recording{'s' * (windows.recordings != 1)}"
    )
    moments = hessians(forward, windows.calibrate.inputs)
    report: dict[str, Any] = {
        "windows": len(judged.inputs),
        "calibrated_on": len(windows.calibrate.inputs),
        "chosen_on": len(tried.inputs),
        "recordings": windows.recordings,
        "independent": windows.independent,
        "notes": list(windows.notes),
        "limits": asdict(LIMITS),
    }
    failed = []
    makers = {"kernels": (levels("i8", 1).weight, _kernels, kernels), "onnxruntime": (LARGEST_WEIGHT, _onnx, graph)}
    for name, (largest, make, out) in makers.items():
        report[name], misses = make(prepared, rounded(forward, moments, largest), out, say)
        if misses:
            report[name] = None
            failed.append(f"{name}: {'; '.join(misses)}")
            say(f"int8 for {name} is too far from fp32: {'; '.join(misses)}")
    if len(failed) == len(makers):
        raise ParityError(
            f"int8 is too far from fp32 on these recordings ({' | '.join(failed)}): export with --precision fp32",
            network.backbone,
        )
    return report


def _kernels(prepared: _Prepared, weights: Weights, out: Path, say: Say) -> tuple[dict[str, Any], list[str]]:
    """The form for the kernels, and what it misses."""
    layers, forward = prepared.layers, prepared.forward
    names = list(products(layers))
    integers = {name: integer_product(*weights[name]) for name in names}
    words = {name: word_product(forward.layers[name]) for name in names}
    costs = compiled_costs(layers, prepared.tried.inputs)
    forms: dict[Element, dict[str, Product]] = {"i8": integers, "i16": words}
    errors = _sensitivities(forward, prepared.tried.inputs, forms, names)

    def form(elements: Mapping[str, Element]) -> Int8Form:
        whole = {name: weights[name] for name, element in elements.items() if element == "i8"}
        return Int8Form(dict(elements), whole)

    def build(elements: Mapping[str, Element]) -> Run:
        if costs.measured:
            made = form(elements)
            return _compiled_run(made.applied(layers), made.elements, prepared.network.head)
        replaced = {name: forms[element][name] for name, element in elements.items() if element != "f32"}
        return _forward_run(forward, replaced, prepared.network.head)

    found = _settle(prepared, names, errors, costs.ms, build, say, "kernels")
    misses = _misses(found)
    if not misses:
        form(found.elements).save(out)
    return _report(names, found, errors, costs, judged_by="kernels" if costs.measured else "simulation"), misses


def _onnx(prepared: _Prepared, weights: Weights, out: Path, say: Say) -> tuple[dict[str, Any], list[str]]:
    """The form for ONNX Runtime, and what it misses."""
    backbone, inputs = prepared.network.backbone, prepared.tried.inputs
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.onnx"
        nodes = nodes_of(backbone)
        names = list(nodes)
        quantize_backbone(backbone, whole, {name: weights[name] for name in names})
        costs = Costs(onnx_costs(backbone, whole, nodes, inputs), measured=True)
    integers = {name: integer_product(*weights[name]) for name in names}
    errors = _sensitivities(prepared.forward, inputs, {"i8": integers}, names)

    def build(elements: Mapping[str, Element]) -> Run:
        chosen = {name: weights[name] for name, element in elements.items() if element == "i8"}
        quantize_backbone(backbone, out, chosen)
        return _session_run(out, prepared.network.head)

    found = _settle(prepared, names, errors, costs.ms, build, say, "ONNX Runtime")
    misses = _misses(found)
    if misses:
        out.unlink()
    return _report(names, found, errors, costs, judged_by="ONNX Runtime"), misses


def _settle(
    prepared: _Prepared,
    names: Sequence[str],
    errors: ByElement,
    costs: ByElement,
    build: Callable[[Mapping[str, Element]], Run],
    say: Say,
    form: str,
) -> _Settled:
    """Choose, until the whole keeps its aims on the windows tried; then judge on the others."""
    tried, judged, scores = prepared.tried, prepared.judged, prepared.network.judged
    for share in SHARES:
        chosen = choose(errors, costs, share * AIM.typical, share * AIM.worst)
        elements = dict(zip(names, chosen, strict=True))
        run = build(elements)
        quality = judge(run(tried.inputs), prepared.tried_exact, tried.quiet, scores)
        if not list(quality.misses(AIM)):
            break
    quality = judge(run(judged.inputs), prepared.judged_exact, judged.quiet, scores)
    counted = ", ".join(f"{chosen.count(element)} {element}" for element in ("i8", "i16", "f32") if element in chosen)
    say(f"int8 for {form}: {counted}; {quality} on {quality.windows} other windows")
    return _Settled(elements, run, share, quality)


def _misses(found: _Settled) -> list[str]:
    """Why a form is not to be written."""
    if set(found.elements.values()) == {"f32"}:
        return ["no product can be less than float32"]
    return list(found.quality.misses(LIMITS))


def _report(names: Sequence[str], found: _Settled, errors: ByElement, costs: Costs, judged_by: str) -> dict[str, Any]:
    """What is kept of a choice: numbers that a reader can check it by."""
    sensitive = {element: np.sqrt(np.median(each, axis=1)) for element, each in errors.items()}
    return {
        "judged_by": judged_by,
        "costs_measured": costs.measured,
        "aimed_at": found.share,
        "products": [
            {
                "name": name,
                "element": found.elements[name],
                "ms": {element: round(float(ms[place]), 4) for element, ms in costs.ms.items()},
                "relative_l2": {element: float(f"{values[place]:.3g}") for element, values in sensitive.items()},
            }
            for place, name in enumerate(names)
        ],
        "quality": found.quality.to_dict(),
    }


def _sensitivities(
    forward: Forward, inputs: Inputs, forms: Mapping[Element, Mapping[str, Product]], names: Sequence[str]
) -> dict[Element, NDArray[np.float64]]:
    """What each product does alone, [products, windows], on the hardest windows and on others spread evenly.

    Each of the others stands for as many as were left out, so that the median is that of all.
    """
    most = SENSITIVE_WINDOWS // 2
    hardest = np.argsort(-actual(forward, inputs, forms["i8"]), kind="stable")[:most]
    others = np.setdiff1d(np.arange(len(inputs)), hardest)
    spread = others[np.unique(np.linspace(0, len(others) - 1, min(len(others), most)).round().astype(int))]
    found = sensitivities(forward, inputs[np.concatenate([hardest, spread])], forms)
    alike = np.arange(len(hardest), len(hardest) + len(spread)).repeat(round(len(others) / len(spread)))
    counted = np.concatenate([np.arange(len(hardest)), alike])
    places = [forward.names.index(name) for name in names]
    return {element: errors[places][:, counted] for element, errors in found.items()}


# runs -----------------------------------------------------------------------------------------------------------------


def _session_run(graph: Path, head: Path | None) -> Run:
    """A graph in ONNX Runtime, one window a call as the engine runs it."""

    def run(inputs: Inputs) -> Arrays:
        session = open_session(graph)
        names = [output.name for output in session.get_outputs()]
        (entry,) = (node.name for node in session.get_inputs())
        rows = run_each(lambda one: session.run(names, {entry: one[None]}), inputs)
        columns = zip(names, zip(*rows, strict=True), strict=True)
        return _with_logits({name: np.concatenate(found) for name, found in columns}, head)

    return run


def _compiled_run(layers: Layers, elements: Mapping[str, Element], head: Path | None) -> Run:
    network = CompiledNetwork(layers, "int8", chosen=elements)

    def run(inputs: Inputs) -> Arrays:
        rows = run_each(network.run, inputs)
        columns = zip(network.widths, zip(*rows, strict=True), strict=True)
        return _with_logits({name: np.stack(found).reshape(len(inputs), -1) for name, found in columns}, head)

    return run


def _forward_run(forward: Forward, replaced: Mapping[str, Product], head: Path | None) -> Run:
    def run(inputs: Inputs) -> Arrays:
        parts = side_by_side(lambda batch: forward.outputs(forward.stem(batch), 0, replaced), batches(inputs))
        return _with_logits({name: values.numpy() for name, values in joined(parts).items()}, head)

    return run


def _with_logits(outputs: dict[str, NDArray[np.float32]], head: Path | None) -> Arrays:
    if head is None:
        return outputs
    trained = open_session(head)
    features = {node.name: outputs[node.name] for node in trained.get_inputs()}
    return outputs | {LOGITS: trained.run([LOGITS], features)[0]}
