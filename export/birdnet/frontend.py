"""The settings of BirdNET's frontend in its TFLite graph: window, hop, mel bank and power of each branch.

Found is who feeds whom, never a name or a number of a tensor:

    frames = GATHER(samples); RFFT2D(frames x window); mel = FULLY_CONNECTED; POW(mel x mel, p); REVERSE; TRANSPOSE
    CONCATENATION of the branches, then a factor and an offset for each: the network's input

Whether everything between is what the engine's frontend computes, the proof says, which compares both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bce.engine.errors import ExportError
from bce.engine.frontends.birdnet import Branch
from bce.export.birdnet.architecture import BRANCH_CHANNELS
from bce.export.readers.tflite_graph import Operator, TfliteGraph
from bce.export.readers.tflite_walk import TfliteWalk

_WHAT = "frontend"
_THROUGH = frozenset({"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "CAST"})
"""Operators that move numbers and do not change them."""


@dataclass(frozen=True)
class Frontend:
    """What was found.

    Attributes:
        branches: in the order of the network's channels.
        output: the tensor that is the network's input, [batch, mel, time, branch].
    """

    branches: tuple[Branch, ...]
    output: int


def read_frontend(graph: TfliteGraph) -> Frontend:
    """Find the frontend.

    Raises:
        ExportError: something is not there; the reason says what is expected and what is found.
    """
    walk = TfliteWalk(graph, _THROUGH)
    transforms = [op for op in graph.operators if op.name == "RFFT2D"]
    if len(transforms) != BRANCH_CHANNELS:
        raise ExportError(f"frontend: expected {BRANCH_CHANNELS} spectrograms (RFFT2D), found {len(transforms)}")
    found = {op.outputs[0]: _branch(walk, op) for op in transforms}
    joined = walk.next(next(iter(found.values()))[1], "CONCATENATION", _WHAT)
    scaled = walk.next(joined.outputs[0], "MUL", _WHAT)
    shifted = walk.next(scaled.outputs[0], "ADD", _WHAT)
    scales, shifts = (walk.numbers(op.inputs[1], BRANCH_CHANNELS, _WHAT) for op in (scaled, shifted))
    branches = []
    for tensor, scale, shift in zip(joined.inputs, scales, shifts, strict=False):
        of = walk.back(tensor, "RFFT2D", _WHAT)
        branches.append(replace(found[of.outputs[0]][0], scale=float(scale), shift=float(shift)))
    if len(branches) != BRANCH_CHANNELS or shifted.options.FusedActivationFunction():
        raise ExportError(f"frontend: expected {BRANCH_CHANNELS} spectrograms joined, then a factor and an offset")
    return Frontend(tuple(branches), shifted.outputs[0])


def _branch(walk: TfliteWalk, transform: Operator) -> tuple[Branch, int]:
    """A branch, its factor and offset still 1 and 0, and the tensor that it ends in."""
    windowed = walk.back(transform.inputs[0], "MUL", _WHAT)
    window = walk.constant(windowed.inputs[1], _WHAT)
    length = int(walk.constant(transform.inputs[1], _WHAT).reshape(-1)[-1])
    # frames are gathered as pieces of the greatest common divisor of hop and length; their places are a column of
    # starts, RANGE x (pieces of a hop), plus a row 0, 1, ... with the pieces of a frame
    gathered = walk.back(windowed.inputs[0], "GATHER", _WHAT)
    places = walk.back(gathered.inputs[1], "ADD", _WHAT)
    row = walk.constant(places.inputs[1], _WHAT)
    starts = walk.back(places.inputs[0], "MUL", _WHAT)
    step = int(walk.constant(starts.inputs[1], _WHAT).reshape(-1)[0]) * (length // row.shape[-1])
    dense = walk.next(transform.outputs[0], "FULLY_CONNECTED", _WHAT)
    squared = walk.next(dense.outputs[0], "MUL", _WHAT)
    if squared.inputs[0] != squared.inputs[1]:
        raise ExportError("frontend: expected the mel bands squared, found a product with something else")
    power = walk.next(squared.outputs[0], "POW", _WHAT)
    turned = walk.next(walk.next(power.outputs[0], "REVERSE_V2", _WHAT).outputs[0], "TRANSPOSE", _WHAT)
    mel, exponent = walk.constant(dense.inputs[1], _WHAT), walk.numbers(power.inputs[1], 1, _WHAT)
    branch = Branch(length, step, window.reshape(-1), mel, float(exponent[0]), 1.0, 0.0)
    return branch, turned.outputs[0]
