"""What each product of a network costs in each precision on the machine at hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.layers import Layers, PatchHead
from bce.engine.compiled.maps import Element
from bce.engine.compiled.products import products
from bce.engine.compiled.targets import host_target
from bce.engine.compiled.timing import Timed
from bce.engine.errors import CompiledError
from bce.engine.network.sessions import profiled_nodes

ROUNDS = 12
WINDOWS = 4
ASSUMED: dict[Element, float] = {"f32": 1.0, "i16": 0.5, "i8": 0.25}
"""Of a product's time in float32 where the machine cannot run the others: what the instructions multiply a cycle."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Costs:
    """Milliseconds of a window by element, float64 [products].

    Attributes:
        ms: by element.
        measured: False where they are counted multiplications and no times.
    """

    ms: dict[Element, Floats]
    measured: bool


def compiled_costs(layers: Layers, inputs: NDArray[np.float32]) -> Costs:
    """Of each product in the kernels, with what belongs to it: activations, depthwise convolution, bytes of its input.

    Each is measured in a network whose products all have the same element. Where this CPU does not multiply bytes,
    costs are multiply-adds times :data:`ASSUMED`.

    Args:
        layers: the network.
        inputs: float32 [windows, *shape of one].
    """
    target, names = host_target(), list(products(layers))
    try:
        if target is None or not target.vnni:
            raise CompiledError("this CPU multiplies no bytes")
        timed = {element: Timed(layers, "int8", target, dict.fromkeys(names, element)) for element in ASSUMED}
    except CompiledError:  # also where llvmlite is too old
        size = _multiplications(layers)
        return Costs({element: size * share for element, share in ASSUMED.items()}, measured=False)
    ticks: dict[Element, list[NDArray[np.int64]]] = {element: [] for element in timed}
    began, first, last = time.perf_counter(), 0, 0
    for number in range(ROUNDS + 1):  # the first warms up
        for x in inputs[:WINDOWS]:
            for element, network in timed.items():
                clock = network.run(np.ascontiguousarray(x))
                if not number:
                    began, first = time.perf_counter(), int(clock[-1])
                else:
                    ticks[element].append(np.diff(clock))
                    last = int(clock[-1])
    ticks_per_ms = (last - first) / (time.perf_counter() - began) / 1e3
    return Costs(
        {
            element: _of_products(names, network.stages, np.median(ticks[element], axis=0) / ticks_per_ms)
            for element, network in timed.items()
        },
        measured=True,
    )


def _of_products(names: Sequence[str], stages: Sequence[str], ms: Floats) -> Floats:
    took = dict(zip(stages, ms, strict=True))
    found = []
    for name in names:
        block, _, kind = name.partition(".")
        parts = {"expand": ("expand",), "project": ("scale", "project")}.get(kind)
        found.append(took[name] if parts is None else sum(took[f"{block} {part}"] for part in parts))
    return np.array(found)


def _multiplications(layers: Layers) -> Floats:
    """Of each product, in millions."""
    sizes, known = list(layers.sizes()), products(layers)
    found = []
    for name, layer in known.items():
        block, _, kind = name.partition(".")
        pixels = 1
        if kind:
            height, width = sizes[int(block)][0 if kind == "expand" else 1]
            pixels = height * width
        elif name == "head":
            height, width = sizes[-1][1]
            if isinstance(layers.head, PatchHead):
                height, width = layers.head.size(height, width)
            pixels = height * width
        found.append(layer.weight.size * pixels / 1e6)
    return np.array(found)


def onnx_costs(
    exact: Path,
    whole: Path,
    nodes: Mapping[str, tuple[Collection[str], Collection[str]]],
    inputs: NDArray[np.float32],
) -> dict[Element, Floats]:
    """Of each product's node in ONNX Runtime, by its own profile.

    Args:
        exact: the float32 graph.
        whole: the same with every product of bytes.
        nodes: of each product, the names that its node may have in either graph.
        inputs: float32 [windows, *shape of one].
    """
    found: dict[Element, Floats] = {}
    elements: tuple[Element, ...] = ("f32", "i8")
    for place, (element, graph) in enumerate(zip(elements, (exact, whole), strict=True)):
        with tempfile.TemporaryDirectory() as folder:
            took = profiled_nodes(graph, inputs[:WINDOWS], ROUNDS, Path(folder))
        each = [[took[name] for name in names[place] if name in took] for names in nodes.values()]
        # a node that is not found has become another: it stays what it is
        found[element] = np.array([sum(ms) if ms else (np.inf if element == "i8" else 0.0) for ms in each])
    return found
