"""The proof: a bundle's numbers beside those of the file that it was made from.

Three gates stand apart, so that a miss says where it comes from: the log-mel, the backbone on the source's own
log-mel, and both together. Names and shapes are checked first, at the batch sizes that are compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.engine.frontends.perch import Frontend, Preparation, log_mel_reference
from bce.export.classes import NO_SIGNAL, ClassMap
from bce.export.commands.options import EMBEDDING, LABEL
from bce.export.heads.checkpoints import HeadCheckpoint
from bce.export.perch.architecture import FRAMES, MELS
from bce.export.perch.backbone import Backbone, ProtoClassifier, build, pooled
from bce.export.perch.graph import LOG_MEL, LOGITS
from bce.export.perch.weights import Weights
from bce.export.proof.check_audio import CheckInput, prepared
from bce.export.proof.comparison import (
    DEFAULT_LIMITS,
    HEAD_RELATIVE_L2,
    ROUNDING_RATIO,
    ROUNDING_RELATIVE_L2,
    ROUNDING_RELATIVE_L2_EXTREMES,
    SPECTROGRAM,
    SPECTROGRAM_ROUNDING_MAX_ABS,
    Array,
    Comparison,
    Limits,
    ParityReport,
    compared,
    relative_l2,
)
from bce.export.sources import Reference

BATCHES = (5, 1)
CLASSES_AT_ONCE = 512
SINGLE_WINDOWS = 3
"""So many windows of each kind, natural and extreme, are run one at a time as well."""

LONG_SUM_RELATIVE_L2 = 1e-4
"""A mean over a map of the first blocks adds up to 15,687 numbers in float32. On digital silence they are all equal, so
that all roundings go one way: such a mean may be this far from the exact one, however near the source happens to be."""

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Candidate:
    """What is to be proven: the graphs on disk and what they should be.

    Attributes:
        backbone: the backbone graph.
        weights: what the backbone was made from.
        outputs: the backbone's outputs in order.
        preparation: of the windows.
        class_map: how ``label`` was cut; None for all classes.
        classes: how many logits there are; 0 without any.
        head: the head graph with its folds; None without one.
        folds: what ``head`` was made from.
    """

    backbone: Path
    weights: Weights
    outputs: tuple[str, ...]
    preparation: Preparation
    class_map: ClassMap | None = None
    classes: int = 0
    head: Path | None = None
    folds: tuple[HeadCheckpoint, ...] = ()


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
        reference: the source, giving every block and output of the candidate; None when it cannot run.
        inputs: see :func:`bce.export.proof.check_audio.check_inputs`.
        source: what the report calls the source.
        limits: what the gates allow.

    Raises:
        ExportError: a graph does not load, or has other names or shapes than it should.
    """
    backbone = _session(candidate.backbone)
    structure = list(_check_structure(backbone, candidate))
    head = None if candidate.head is None else _session(candidate.head)
    if head is not None:
        structure += _check_head(head, candidate)
    exact = _Exact(candidate)
    comparisons: list[Comparison] = []
    for batch in BATCHES:
        chosen = list(inputs) if batch > 1 else list(_singles(inputs))
        for item, arrays in _run(candidate, backbone, reference, chosen, batch):
            comparisons += _compare(candidate, exact, item, batch, arrays, limits)
            if head is not None:
                comparisons.append(_compare_head(candidate, head, item, batch, arrays["found"]))
    numbers = reference is not None
    return ParityReport(source, candidate.preparation, numbers, tuple(structure), tuple(comparisons), limits)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # a second copy of every large matrix, laid out for speed, is not worth its memory for a few windows
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise ExportError(f"cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}", path) from error


def _widths(candidate: Candidate) -> dict[str, int]:
    """The width of each output of the backbone, in order."""
    known = {block.name: block.out_channels for block in candidate.weights.architecture.blocks}
    known |= {EMBEDDING: candidate.weights.architecture.head_channels, LABEL: candidate.classes}
    return {name: known[name] for name in candidate.outputs}


def _check_structure(session: ort.InferenceSession, candidate: Candidate) -> Iterator[str]:
    """Names, order, shapes and finite numbers, at every batch size, without any source."""
    widths = _widths(candidate)
    _expect("input", [(i.name, i.shape[1:]) for i in session.get_inputs()], [(LOG_MEL, [FRAMES, MELS])], candidate)
    _expect(
        "outputs",
        [(o.name, o.shape[1:]) for o in session.get_outputs()],
        [(n, [w]) for n, w in widths.items()],
        candidate,
    )
    listed = ", ".join(f"{name} [batch, {width}]" for name, width in widths.items())
    yield f"backbone: {LOG_MEL} [batch, {FRAMES}, {MELS}] -> {listed}"
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        log_mel = rng.uniform(-1.15, 0.3, (batch, FRAMES, MELS)).astype(np.float32)
        arrays = dict(zip(widths, session.run(None, {LOG_MEL: log_mel}), strict=True))
        _expect(
            f"shapes at batch {batch}",
            [a.shape for a in arrays.values()],
            [(batch, w) for w in widths.values()],
            candidate,
        )
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ExportError(f"output {name} holds NaN or infinity at batch {batch}", candidate.backbone)
        if LABEL in arrays and candidate.class_map is not None:
            silent = arrays[LABEL][:, candidate.class_map.silent]
            if not (silent == NO_SIGNAL).all():
                raise ExportError(f"classes without signal are not the constant {NO_SIGNAL:g}", candidate.backbone)
    yield f"batches of {' and '.join(map(str, BATCHES))}: shapes as they should be, all numbers finite"


def _check_head(session: ort.InferenceSession, candidate: Candidate) -> Iterator[str]:
    blocks = candidate.folds[0].blocks
    _expect(
        "head inputs",
        [(i.name, i.shape[1:]) for i in session.get_inputs()],
        [(n, [w]) for n, w in blocks.items()],
        candidate,
    )
    _expect(
        "head outputs",
        [(o.name, o.shape[1:]) for o in session.get_outputs()],
        [(LOGITS, [candidate.classes])],
        candidate,
    )
    yield f"head: {', '.join(blocks)} -> {LOGITS} [batch, {candidate.classes}], the mean of {len(candidate.folds)}"


def _expect(what: str, found: object, expected: object, candidate: Candidate) -> None:
    if found != expected:
        raise ExportError(f"{what}: expected {expected}, found {found}", candidate.backbone)


def _singles(inputs: Iterable[CheckInput]) -> Iterator[CheckInput]:
    """The first windows of each kind, for batch 1."""
    left = {True: SINGLE_WINDOWS, False: SINGLE_WINDOWS}
    for item in inputs:
        if take := min(left[item.natural], len(item.waveforms)):
            left[item.natural] -= take
            yield CheckInput(item.name, item.natural, item.waveforms[:take])


def _run(
    candidate: Candidate,
    backbone: ort.InferenceSession,
    reference: Reference | None,
    inputs: Sequence[CheckInput],
    batch: int,
) -> Iterator[tuple[CheckInput, dict[str, Arrays]]]:
    """Run everything in batches that reach across the inputs, and give each input its part.

    The arrays of an input: "found" (bundle end to end), and with a source "expected", "raw" (both log-mels of the
    unprepared samples) and "fed" (the backbone on the source's log-mel).
    """
    rows: dict[str, list[Arrays]] = {"found": [], "expected": [], "fed": [], "raw": []}
    waveforms = np.concatenate([item.waveforms for item in inputs])
    for start in range(0, len(waveforms), batch):
        samples = waveforms[start : start + batch]
        rows["found"].append(_backbone(candidate, backbone, _log_mel(samples, candidate.preparation)))
        if reference is None:
            continue
        expected = _expected(candidate, reference(prepared(samples, candidate.preparation)))
        rows["fed"].append(_backbone(candidate, backbone, expected[SPECTROGRAM]))
        rows["expected"].append(expected)
        raw = expected if candidate.preparation == "none" else reference(samples)
        rows["raw"].append({"found": _log_mel(samples, "none"), "expected": raw[SPECTROGRAM]})
    whole = {kind: _stacked(parts) for kind, parts in rows.items() if parts}
    start = 0
    for item in inputs:
        part = slice(start, start + len(item.waveforms))
        start = part.stop
        yield item, {kind: {name: array[part] for name, array in arrays.items()} for kind, arrays in whole.items()}


def _stacked(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _log_mel(samples: NDArray[np.float32], preparation: Preparation) -> NDArray[np.float32]:
    """The engine's log-mel of windows [n, 160000]."""
    return np.stack([Frontend(window, preparation).window(0) for window in samples])


def _backbone(candidate: Candidate, session: ort.InferenceSession, log_mel: NDArray[np.float32]) -> Arrays:
    return dict(zip(candidate.outputs, session.run(list(candidate.outputs), {LOG_MEL: log_mel}), strict=True))


def _expected(candidate: Candidate, arrays: Mapping[str, NDArray[np.float32]]) -> Arrays:
    """The source's outputs under the bundle's names, with its label mapped to the bundle's classes."""
    expected = {name: arrays[name] for name in (SPECTROGRAM, *candidate.outputs)}
    if LABEL in expected and candidate.class_map is not None:
        expected[LABEL] = candidate.class_map.apply(expected[LABEL])
    return expected


def _compare(
    candidate: Candidate, exact: _Exact, item: CheckInput, batch: int, arrays: dict[str, Arrays], limits: Limits
) -> Iterator[Comparison]:
    if "expected" not in arrays:
        return
    raw = arrays["raw"]
    limit = limits.spectrogram_max_abs if item.natural else None
    if limit is not None and np.abs(raw["found"] - raw["expected"]).max() > limit:
        truth: Array = np.stack([log_mel_reference(window, "none") for window in item.waveforms])
        if np.abs(raw["found"] - truth).max() <= limit:
            limit = SPECTROGRAM_ROUNDING_MAX_ABS
    yield compared(SPECTROGRAM, SPECTROGRAM, "source", item, batch, raw["found"], raw["expected"], limit)
    for name in candidate.outputs:
        columns: slice | NDArray[np.bool_] = slice(None)
        if name == LABEL and candidate.class_map is not None:
            # constants agree by themselves and would make the rest look better than it is
            columns = ~candidate.class_map.silent
        fed, found, expected = (arrays[kind][name][:, columns] for kind in ("fed", "found", "expected"))
        limit = limits.backbone_relative_l2
        if limit is not None and relative_l2(fed, expected) > limit:
            truth = exact(item.name, arrays["expected"][SPECTROGRAM])[name][:, columns]
            allowed = ROUNDING_RATIO * relative_l2(expected, truth)
            if not item.natural:
                allowed = max(allowed, LONG_SUM_RELATIVE_L2)
            if relative_l2(fed, truth) <= allowed:
                limit = max(limit, ROUNDING_RELATIVE_L2 if item.natural else ROUNDING_RELATIVE_L2_EXTREMES)
        yield compared("backbone", name, "source", item, batch, fed, expected, limit)
        limit = limits.end_to_end_relative_l2 if item.natural else None
        yield compared("end_to_end", name, "source", item, batch, found, expected, limit)


class _Exact:
    """The torch definition in float64, BatchNorm apart, built when it is first asked for."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate
        self._backbone: Backbone | None = None
        self._known: dict[tuple[str, int], dict[str, Array]] = {}

    def __call__(self, name: str, log_mel: Array) -> dict[str, Array]:
        """Every output for the log-mels [n, 500, 128] of the input of a name, float64."""
        key = (name, len(log_mel))
        if key not in self._known:
            with one_thread(), torch.no_grad():
                self._known[key] = self._run(log_mel)
        return self._known[key]

    def _run(self, log_mel: Array) -> dict[str, Array]:
        weights, outputs = self._candidate.weights, self._candidate.outputs
        if self._backbone is None:
            self._backbone = build(weights).double()
        maps = self._backbone.block_maps(torch.from_numpy(log_mel).double())
        arrays = {
            block.name: pooled(maps[block.index]).numpy()
            for block in weights.architecture.blocks
            if block.name in outputs
        }
        if EMBEDDING in outputs or LABEL in outputs:
            spatial = self._backbone.head(maps[-1])
            arrays[EMBEDDING] = pooled(spatial).numpy()
            if LABEL in outputs:
                arrays[LABEL] = self._label(spatial)
        return arrays

    def _label(self, spatial: torch.Tensor) -> Array:
        """Some classes at a time: all prototypes in float64 are most of a gigabyte."""
        prototypes, class_map = self._candidate.weights.prototypes, self._candidate.class_map
        assert prototypes is not None
        needed = np.arange(prototypes.classes) if class_map is None else class_map.needed
        logits: Array = np.zeros((len(spatial), prototypes.classes))
        for start in range(0, len(needed), CLASSES_AT_ONCE):
            part = needed[start : start + CLASSES_AT_ONCE]
            logits[:, part] = ProtoClassifier(prototypes.sliced(part)).double()(spatial).numpy()
        return logits if class_map is None else class_map.apply(logits)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: its threads wait for each other by spinning, which on a busy machine takes minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _compare_head(
    candidate: Candidate, session: ort.InferenceSession, item: CheckInput, batch: int, features: Arrays
) -> Comparison:
    """head.onnx against the mean of the folds where they were trained, on the bundle's own features."""
    names = list(candidate.folds[0].blocks)
    found = np.concatenate(
        [
            session.run([LOGITS], {name: features[name][start : start + batch] for name in names})[0]
            for start in range(0, len(item.waveforms), batch)
        ]
    )
    with one_thread(), torch.no_grad():
        tensors = [torch.from_numpy(features[name]) for name in names]
        logits = np.stack([fold.head(tensors).numpy() for fold in candidate.folds])
    against = "tensorflow" if candidate.folds[0].config.kind == "tensorflow" else "torch"
    return compared(
        "head", LOGITS, against, item, batch, found, logits.mean(axis=0, dtype=np.float64), HEAD_RELATIVE_L2
    )
