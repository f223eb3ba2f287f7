"""BirdNET's range model out of a TFLite file, and the file itself under LiteRT as its proof.

Followed is who feeds whom, from the input to the output; no name and no number of a tensor is relied on:

    three STRIDED_SLICE of the input [1, 3]: latitude, longitude, week, each with
        ADD or SUB a number; MUL a number; EXPAND_DIMS; MUL a number; ADD phases; SIN; MUL a number
    the week's times (week > 0) (week < 49); CONCATENATION of the three
    FULLY_CONNECTED with a rectifier, three times; FULLY_CONNECTED; LOGISTIC
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, ExportError, ParityError
from bce.engine.post.range_model import ALL_YEAR, INPUTS, WEEKS, Dense, RangeModel
from bce.export.readers.tflite_graph import EXTRA, Operator, TfliteGraph, damage_told
from bce.export.readers.tflite_walk import TfliteWalk
from bce.export.sources import CannotRun

LARGEST_DIFFERENCE = 1e-5
"""Of a probability, between the model and its file under LiteRT."""
LATITUDES = (-90.0, -54.8, -19.5, -0.2, 12.5, 42.5, 68.0, 90.0)
LONGITUDES = (-180.0, -122.3, -76.5, -56.5, 0.0, 8.4, 77.2, 151.2, 180.0)
GRID_WEEKS = (ALL_YEAR, 1, 12, 13, 24, 36, 48)

LEARNT = 0.01
"""A class that nowhere reaches this probability is one that the model has learnt nothing of.

So in the published file: 172 of its 6,522 classes stay below 0.01 everywhere, frogs, insects, mammals, noises and some
birds of small islands, all at much the same probability; the next one reaches 0.011."""
_STEP = 2
"""Degrees between the places of a world that :func:`learnt` looks at."""

_NAMES = ("latitude", "longitude", "week")
_DENSE = 4
_NO_ACTIVATION, _RELU = 0, 1
"""Of the schema's fused activations."""


def read_range_model(path: str | Path) -> RangeModel:
    """Read a range model of BirdNET v2.4, with numbers in float32 or float16 and any number of classes.

    Raises:
        ExportError: the file is missing, damaged, or another network; the message names the first thing that differs.
    """
    path = Path(path)
    graph = TfliteGraph(path)
    try:
        with damage_told(path):
            return _read(graph)
    except (ExportError, BundleError) as error:
        raise ExportError(f"is not BirdNET's range model: {error.reason}", path) from None


def prove_range_model(model: RangeModel, path: str | Path) -> float:
    """Compare a model with its file under LiteRT, on 504 places and weeks all over the world and the year.

    Returns:
        the largest difference of a probability, at most :data:`LARGEST_DIFFERENCE`.

    Raises:
        CannotRun: LiteRT is not installed, or cannot run the file.
        ParityError: they differ by more.
    """
    path = Path(path)
    run = _litert(path)
    worst, where = 0.0, (0.0, 0.0, 0)
    for latitude, longitude, week in product(LATITUDES, LONGITUDES, GRID_WEEKS):
        expected, found = run(latitude, longitude, week), model.probabilities(latitude, longitude, week)
        if expected.shape != found.shape:
            raise ParityError(f"gives {expected.shape} probabilities, the model {found.shape}", path)
        difference = float(np.abs(found - expected).max())
        if not difference <= worst:  # so that NaN is taken
            worst, where = difference, (latitude, longitude, week)
    if not worst <= LARGEST_DIFFERENCE:
        at = f"latitude {where[0]:g}, longitude {where[1]:g}, week {where[2]}"
        raise ParityError(
            f"range model: probabilities differ by {worst:.1e} at {at}, allowed are {LARGEST_DIFFERENCE:g}", path
        )
    return worst


def learnt(model: RangeModel) -> NDArray[np.bool_]:
    """Which classes the model knows anything of, bool [classes]: those that are likely anywhere, see :data:`LEARNT`.

    A model says of what it was not shown that it is unlikely everywhere; a mask would take it for absent.
    """
    longitudes = np.arange(-180, 180, _STEP)
    found = np.zeros(model.classes, bool)
    for latitude in range(-90, 91, _STEP):
        points = np.stack([np.full(len(longitudes), latitude), longitudes, np.full(len(longitudes), ALL_YEAR)], axis=1)
        found |= model.at(points).max(axis=0) >= LEARNT
    return found


def _litert(path: Path) -> Any:
    """The file as a function of latitude, longitude and week: float32 [classes]."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise CannotRun(f"its own numbers need LiteRT: {EXTRA}", path) from None
    try:
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(". ")
        raise CannotRun(f"LiteRT cannot run it ({reason})", path) from None
    entry, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(latitude: float, longitude: float, week: int) -> NDArray[np.float32]:
        interpreter.set_tensor(entry, np.array([[latitude, longitude, week]], np.float32))
        interpreter.invoke()
        found: NDArray[np.float32] = interpreter.get_tensor(out)[0]
        return found

    return run


def _read(graph: TfliteGraph) -> RangeModel:
    walk = _Walk(graph)
    entry = walk.entry()
    columns = walk.columns(entry)
    found = [_features(walk, name, columns[name]) for name in _NAMES]
    for name, (_, _, numbers, _) in zip(_NAMES, found, strict=True):
        if any(not np.array_equal(one, other) for one, other in zip(numbers, found[0][2], strict=True)):
            raise ExportError(f"{name}: expected the sines of latitude, found others")
    turn, phases, gain = found[0][2]
    ends = [end for *_, end in found]
    ends[2] = _gated(walk, columns["week"], ends[2])
    joined = walk.next(ends[0], "CONCATENATION", "features")
    if list(joined.inputs) != ends or joined.options.Axis() not in (1, -1) or _activation(joined):
        raise ExportError("features: expected latitude, longitude and week joined in this order")
    layers, tensor = [], joined.outputs[0]
    for number in range(1, _DENSE + 1):
        what = f"dense layer {number}"
        dense = walk.next(tensor, "FULLY_CONNECTED", what)
        if _activation(dense) != (_NO_ACTIVATION if number == _DENSE else _RELU):
            raise ExportError(f"{what}: expected {'no activation' if number == _DENSE else 'a rectifier'} behind it")
        if len(dense.inputs) != 3 or dense.options.WeightsFormat():
            raise ExportError(f"{what}: expected a plain kernel and a bias")
        layers.append(Dense(walk.constant(dense.inputs[1], what), walk.constant(dense.inputs[2], what)))
        tensor = dense.outputs[0]
    end = walk.next(tensor, "LOGISTIC", "probabilities")
    if graph.outputs != end.outputs:
        raise ExportError("probabilities: expected them as the one output")
    return RangeModel(
        np.array([offset for offset, *_ in found], np.float32),
        np.array([factor for _, factor, *_ in found], np.float32),
        turn,
        phases,
        gain,
        tuple(layers),
    )


def _features(walk: _Walk, name: str, tensor: int) -> tuple[np.float32, np.float32, tuple[Any, Any, Any], int]:
    """An input's offset and factor; turn, phases and gain of its sines; and the tensor that holds them."""
    shifted = walk.next(tensor, "SUB" if name == "week" else "ADD", name)
    offset = walk.number(walk.other(shifted, tensor, name), name)
    scaled, factor = walk.times(shifted.outputs[0], name)
    expanded = walk.next(scaled, "EXPAND_DIMS", name)
    turned, turn = walk.times(expanded.outputs[0], name)
    added = walk.next(turned, "ADD", name)
    phases = walk.constant(walk.other(added, turned, name), name)
    sines = walk.next(added.outputs[0], "SIN", name)
    end, gain = walk.times(sines.outputs[0], name)
    return -offset if shifted.name == "SUB" else offset, factor, (turn, phases.reshape(-1), gain), end


def _gated(walk: _Walk, week: int, features: int) -> int:
    """The week's features where the week is one of the year's, else 0."""
    chosen = []
    for name, bound in (("GREATER", 0), ("LESS", WEEKS + 1)):
        compared = walk.next(week, name, "week")
        if compared.inputs[0] != week or walk.number(compared.inputs[1], "week") != bound:
            raise ExportError(f"week: expected it compared with {bound}")
        select = walk.next(compared.outputs[0], "SELECT_V2", "week")
        if [walk.number(tensor, "week") for tensor in select.inputs[1:]] != [1, 0]:
            raise ExportError("week: expected a choice of 1 and 0")
        chosen.append(select.outputs[0])
    both = walk.next(chosen[0], "MUL", "week")
    gate = walk.next(both.outputs[0], "EXPAND_DIMS", "week")
    gated = walk.next(features, "MUL", "week")
    if set(both.inputs) != set(chosen) or set(gated.inputs) != {features, gate.outputs[0]}:
        raise ExportError("week: expected its features times whether it is a week of the year")
    if _activation(both) or _activation(gated):
        raise ExportError("week: expected a plain product")
    return gated.outputs[0]


def _activation(op: Operator) -> int:
    return int(op.options.FusedActivationFunction())


class _Walk(TfliteWalk):
    """Steps along the operators of a range model."""

    def entry(self) -> int:
        """The input: latitude, longitude, week."""
        graph = self.graph
        shapes = [list(graph.tensors[index].shape) for index in graph.inputs]
        if shapes != [[1, INPUTS]] or graph.tensors[graph.inputs[0]].dtype != "f4":
            found = ", ".join(map(str, shapes)) or "none"
            raise ExportError(f"input: expected float32 [1, {INPUTS}] (latitude, longitude, week), found {found}")
        return graph.inputs[0]

    def columns(self, entry: int) -> dict[str, int]:
        """Latitude, longitude and week, cut out of the input."""
        found: dict[str, int] = {}
        for op in self.users[entry]:
            if op.name != "STRIDED_SLICE":
                raise ExportError(f"input: expected STRIDED_SLICE, found {op.name}")
            begin, end, stride = (self.constant(tensor, "input").reshape(-1).tolist() for tensor in op.inputs[1:])
            options = op.options
            masks = (options.BeginMask(), options.EndMask(), options.ShrinkAxisMask())
            plain = not (options.EllipsisMask() or options.NewAxisMask())
            if masks != (1, 1, 2) or not plain or stride != [1, 1] or not 0 <= begin[-1] < INPUTS:
                raise ExportError("input: expected one column cut out of it, found another slice")
            if end[-1] != begin[-1] + 1 or _NAMES[begin[-1]] in found:
                raise ExportError("input: expected each column cut out of it once")
            found[_NAMES[begin[-1]]] = op.outputs[0]
        if len(found) != INPUTS:
            raise ExportError(f"input: expected {INPUTS} columns cut out of it, found {len(found)}")
        return found

    def times(self, tensor: int, what: str) -> tuple[int, np.float32]:
        """Where a tensor is multiplied by a number, and the number."""
        op = self.next(tensor, "MUL", what)
        return op.outputs[0], self.number(self.other(op, tensor, what), what)

    def other(self, op: Operator, tensor: int, what: str) -> int:
        """The other operand of a sum, a difference or a product that has nothing fused behind it."""
        if _activation(op):
            raise ExportError(f"{what}: expected a plain {op.name}, found one with an activation")
        first, second = op.inputs
        if op.name == "SUB" and second == tensor:
            raise ExportError(f"{what}: expected a number taken from it")
        return second if first == tensor else first

    def number(self, tensor: int, what: str) -> np.float32:
        """A constant that is one number."""
        return np.float32(self.numbers(tensor, 1, what)[0])
