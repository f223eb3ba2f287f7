"""The proof (a parity test): a bundle's numbers beside those of the file that it was made from.

Three gates stand apart, so that a miss says where it comes from: the network's input, the backbone on the source's own
input, and both together. Names and shapes are checked first, at the batch sizes that are compared. The bundle runs in
the engine's own sessions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.engine.frontends.base import FrontendSpec, make_frontend
from bce.engine.geometry import WindowSpec
from bce.engine.network.bundle import LOGITS
from bce.engine.network.manifest import Input
from bce.engine.network.onnx_runtime import ort
from bce.engine.network.sessions import open_session
from bce.export.classes import NO_SIGNAL, ClassMap
from bce.export.heads.checkpoints import Fold
from bce.export.proof.check_audio import CheckInput
from bce.export.proof.comparison import DEFAULT_LIMITS, Comparison, ParityReport
from bce.export.proof.gates import BACKBONE, END_TO_END, HEAD, Array, Limits, constant_share
from bce.export.proof.running import inputs_of, run_each
from bce.export.sources import SPECTROGRAM, Reference
from bce.export.torch_graph import one_thread

BATCHES = (5, 1)
SINGLE_WINDOWS = 3
"""So many windows of each kind, natural and extreme, are run one at a time as well."""

Floats = NDArray[np.float32]
Arrays = dict[str, Floats]


@dataclass(frozen=True)
class Definition:
    """What a family's numbers are, apart from the engine and from the graphs.

    Attributes:
        plain: the frontend without any preparation of the samples, which every source has.
        prepared: windows float32 [n, samples] -> what a source is fed for the bundle's frontend; the same array where
            nothing is done to them.
        inputs: windows float32 [n, samples] -> the exact inputs of ``plain``, float64.
        outputs: the network's inputs [n, *shape of one] -> every output of the backbone by name, float64.
    """

    plain: FrontendSpec
    prepared: Callable[[Floats], Floats]
    inputs: Callable[[Floats], Array]
    outputs: Callable[[Array], Mapping[str, Array]]


@dataclass(frozen=True)
class Candidate:
    """What is to be proven: the graphs on disk and what they should be.

    Attributes:
        backbone: the backbone graph.
        window: rate and length of the windows.
        input: of the backbone graph.
        frontend: of the bundle.
        widths: width of each of the backbone's outputs by name, in order.
        definition: what its numbers are.
        logits: the output that has been cut to classes; empty where there is none.
        class_map: how it was cut; None for all classes.
        classes: how many classes there are; 0 without any.
        head: the head graph with its folds; None without one.
        folds: what ``head`` was made from.
    """

    backbone: Path
    window: WindowSpec
    input: Input
    frontend: FrontendSpec
    widths: Mapping[str, int]
    definition: Definition
    logits: str = ""
    class_map: ClassMap | None = None
    classes: int = 0
    head: Path | None = None
    folds: tuple[Fold, ...] = ()

    def columns(self, output: str) -> slice | NDArray[np.bool_]:
        """The columns of an output to compare: constants agree by themselves and would make the rest look better."""
        cut = output == self.logits and self.class_map is not None
        return ~self.class_map.silent if cut and self.class_map is not None else slice(None)


def prove(
    candidate: Candidate,
    reference: Reference | None,
    inputs: Sequence[CheckInput],
    source: str = "source",
    limits: Limits = DEFAULT_LIMITS,
) -> ParityReport:
    """Compare a candidate with its source. The report may hold failures: see :meth:`ParityReport.require`.

    Args:
        candidate: what was exported.
        reference: the source, giving every output of the candidate; None when it cannot run.
        inputs: see :func:`bce.export.proof.check_audio.check_inputs`.
        source: what the report calls the source.
        limits: what the gates allow.

    Raises:
        BundleError: a graph does not load.
        ExportError: a graph has other names or shapes than it should.
    """
    proof = _Proof(candidate, reference, limits)
    structure = tuple(proof.structure())
    comparisons = [
        comparison
        for batch in BATCHES
        for item, arrays in proof.runs(list(inputs) if batch > 1 else list(_singles(inputs)), batch)
        for comparison in proof.compare(item, batch, arrays)
    ]
    frontend = {"kind": candidate.frontend.kind, **candidate.frontend.settings}
    return ParityReport(
        source,
        frontend,
        reference is not None,
        structure,
        tuple(comparisons),
        limits,
        constant=proof.constant(),
        heads=tuple(str(fold.path) for fold in candidate.folds if fold.path is not None),
    )


def _singles(inputs: Iterable[CheckInput]) -> Iterator[CheckInput]:
    """The first windows of each kind, for batch 1."""
    left = {True: SINGLE_WINDOWS, False: SINGLE_WINDOWS}
    for item in inputs:
        if take := min(left[item.natural], len(item.waveforms)):
            left[item.natural] -= take
            yield CheckInput(item.name, item.natural, item.waveforms[:take])


@dataclass
class _Runs:
    """What was computed for some windows.

    Attributes:
        found: the bundle's outputs, end to end.
        expected: the source's outputs under the bundle's names, with its label mapped to the bundle's classes.
        fed: the backbone's outputs on the source's own inputs.
        inputs: of the network: "source" is the source's for the samples as the bundle prepares them, "raw" the source's
            for the samples as they are, and "plain" the engine's for those.
    """

    found: Arrays
    expected: Arrays = field(default_factory=dict)
    fed: Arrays = field(default_factory=dict)
    inputs: Arrays = field(default_factory=dict)

    def part(self, which: slice) -> _Runs:
        kinds = (self.found, self.expected, self.fed, self.inputs)
        return _Runs(*({name: array[which] for name, array in arrays.items()} for arrays in kinds))


class _Proof:
    def __init__(self, candidate: Candidate, reference: Reference | None, limits: Limits) -> None:
        self.candidate = candidate
        self.reference = reference
        self.limits = limits
        self.backbone = open_session(candidate.backbone)
        self.head = None if candidate.head is None else open_session(candidate.head)
        folder = candidate.backbone.parent
        self.frontend = make_frontend(candidate.frontend, candidate.window, folder)
        self.plain = make_frontend(candidate.definition.plain, candidate.window, folder)
        self.seen: dict[str, list[Floats]] = defaultdict(list)

    # --- structure ---------------------------------------------------------------------------------------------

    def structure(self) -> Iterator[str]:
        """Names, order, shapes and finite numbers, at every batch size, without any source; a line for each check."""
        candidate, entry, widths = self.candidate, self.candidate.input, self.candidate.widths
        self.expect("input", _shapes(self.backbone.get_inputs()), [(entry.name, list(entry.shape))])
        self.expect("outputs", _shapes(self.backbone.get_outputs()), [(name, [w]) for name, w in widths.items()])
        listed = ", ".join(f"{name} [batch, {width}]" for name, width in widths.items())
        yield f"backbone: {entry.name} [batch, {', '.join(map(str, entry.shape))}] -> {listed}"
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, (max(BATCHES), candidate.window.samples))
        inputs = inputs_of(self.frontend, noise.astype(np.float32))
        for batch in BATCHES:
            arrays = self.run(inputs[:batch])
            self.expect(
                f"shapes at batch {batch}", [a.shape for a in arrays.values()], [(batch, w) for w in widths.values()]
            )
            self.check_values(arrays, batch)
        yield f"batches of {' and '.join(map(str, BATCHES))}: shapes as they should be, all numbers finite"
        if self.head is not None:
            blocks = candidate.folds[0].blocks
            self.expect("head inputs", _shapes(self.head.get_inputs()), [(n, [w]) for n, w in blocks.items()])
            self.expect("head outputs", _shapes(self.head.get_outputs()), [(LOGITS, [candidate.classes])])
            folds = len(candidate.folds)
            yield f"head: {', '.join(blocks)} -> {LOGITS} [batch, {candidate.classes}], the mean of {folds}"

    def check_values(self, arrays: Arrays, batch: int) -> None:
        candidate = self.candidate
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ExportError(f"output {name} holds NaN or infinity at batch {batch}", candidate.backbone)
            if (
                name == candidate.logits
                and candidate.class_map is not None
                and not (array[:, candidate.class_map.silent] == NO_SIGNAL).all()
            ):
                raise ExportError(f"classes without signal are not the constant {NO_SIGNAL:g}", candidate.backbone)

    def expect(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            raise ExportError(f"{what}: expected {expected}, found {found}", self.candidate.backbone)

    # --- running -----------------------------------------------------------------------------------------------

    def runs(self, inputs: Sequence[CheckInput], batch: int) -> Iterator[tuple[CheckInput, _Runs]]:
        """Run everything in batches that reach across the inputs, and give each input its part."""
        if not inputs:
            return
        waveforms = np.concatenate([item.waveforms for item in inputs])
        whole = _Runs(self.in_batches(inputs_of(self.frontend, waveforms), batch))
        if self.reference is not None:
            prepared = self.candidate.definition.prepared(waveforms)
            given = [self.reference(prepared[i : i + batch]) for i in range(0, len(prepared), batch)]
            source = {name: np.concatenate([part[name] for part in given]) for name in given[0]}
            raw = source[SPECTROGRAM]
            if prepared is not waveforms:
                parts = [self.reference(waveforms[i : i + batch]) for i in range(0, len(waveforms), batch)]
                raw = np.concatenate([part[SPECTROGRAM] for part in parts])
            whole.expected = self.mapped(source)
            whole.fed = self.in_batches(source[SPECTROGRAM], batch)
            whole.inputs = {"source": source[SPECTROGRAM], "raw": raw, "plain": inputs_of(self.plain, waveforms)}
        start = 0
        for item in inputs:
            part = slice(start, start + len(item.waveforms))
            start = part.stop
            yield item, whole.part(part)

    def run(self, inputs: Floats) -> Arrays:
        names = list(self.candidate.widths)
        return dict(zip(names, self.backbone.run(names, {self.candidate.input.name: inputs}), strict=True))

    def in_batches(self, inputs: Floats, batch: int) -> Arrays:
        parts = run_each(self.run, [inputs[start : start + batch] for start in range(0, len(inputs), batch)])
        return {name: np.concatenate([part[name] for part in parts]) for name in self.candidate.widths}

    def mapped(self, arrays: Mapping[str, Floats]) -> Arrays:
        expected = {name: arrays[name] for name in self.candidate.widths}
        if self.candidate.logits in expected and self.candidate.class_map is not None:
            expected[self.candidate.logits] = self.candidate.class_map.apply(expected[self.candidate.logits])
        return expected

    # --- comparing ---------------------------------------------------------------------------------------------

    def constant(self) -> dict[str, float]:
        """The share of each output's numbers, and of a trained head's, that were the same on all windows seen."""
        return {name: constant_share(np.concatenate(arrays)) for name, arrays in self.seen.items()}

    def see(self, name: str, array: Floats, batch: int) -> None:
        """Keep an output for :meth:`constant`; windows that are run again one at a time say no more."""
        if batch == BATCHES[0]:
            self.seen[name].append(array)

    def compare(self, item: CheckInput, batch: int, runs: _Runs) -> Iterator[Comparison]:
        for name, array in runs.found.items():
            self.see(name, array[:, self.candidate.columns(name)], batch)
        if self.reference is not None:
            yield from self.compare_source(item, batch, runs)
        if self.head is not None:
            yield self.compare_head(self.head, item, batch, runs.found)

    def compare_source(self, item: CheckInput, batch: int, runs: _Runs) -> Iterator[Comparison]:
        gate = self.limits.gate(SPECTROGRAM, item.natural)
        verdict = gate.judge(
            runs.inputs["plain"], runs.inputs["raw"], lambda: self.candidate.definition.inputs(item.waveforms)
        )
        yield Comparison.of(SPECTROGRAM, SPECTROGRAM, "source", item, batch, verdict)
        exact = cache(lambda: self.candidate.definition.outputs(runs.inputs["source"]))  # slow: at most once
        backbone, end_to_end = (self.limits.gate(measure, item.natural) for measure in (BACKBONE, END_TO_END))
        for name in self.candidate.widths:
            columns = self.candidate.columns(name)
            fed, found, expected = (arrays[name][:, columns] for arrays in (runs.fed, runs.found, runs.expected))

            def truth(name: str = name, columns: slice | NDArray[np.bool_] = columns) -> Array:
                return exact()[name][:, columns]

            yield Comparison.of(BACKBONE, name, "source", item, batch, backbone.judge(fed, expected, truth))
            yield Comparison.of(END_TO_END, name, "source", item, batch, end_to_end.judge(found, expected))

    def compare_head(self, head: ort.InferenceSession, item: CheckInput, batch: int, features: Arrays) -> Comparison:
        """head.onnx against the mean of the folds where they were trained, on the bundle's own features."""
        folds = self.candidate.folds
        given = {name: features[name] for name in folds[0].blocks}

        def run(start: int) -> Floats:
            return head.run([LOGITS], {name: array[start : start + batch] for name, array in given.items()})[0]

        found = np.concatenate(run_each(run, range(0, len(item.waveforms), batch)))
        self.see(LOGITS, found, batch)
        with one_thread(), torch.no_grad():
            tensors = [torch.from_numpy(array) for array in given.values()]
            logits = np.stack([fold.head(tensors).numpy() for fold in folds])
        verdict = self.limits.gate(HEAD, item.natural).judge(found, logits.mean(axis=0, dtype=np.float64))
        return Comparison.of(HEAD, LOGITS, folds[0].head.runtime, item, batch, verdict)


def _shapes(nodes: Sequence[ort.NodeArg]) -> list[tuple[str, list[int]]]:
    """Names and shapes without the batch."""
    return [(node.name, node.shape[1:]) for node in nodes]
