"""Who feeds whom in a graph: nodes taken one after another, each only if it is exactly what is expected there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import one_line, shown
from bce.engine.network.onnx_graph import Array, Attribute, Graph, Node

ONNX = ("", "ai.onnx")
"""Two names of the domain of ONNX' own operators."""

DEFAULTS: dict[str, Attribute] = {
    "allowzero": 0,
    "alpha": 1.0,
    "auto_pad": b"NOTSET",
    "axis": 0,
    "beta": 1.0,
    "ceil_mode": 0,
    "dilations": (1, 1),
    "group": 1,
    "keepdims": 1,
    "noop_with_empty_axes": 0,
    "pads": (0, 0, 0, 0),
    "storage_order": 0,
    "transA": 0,
    "transB": 0,
}
"""What an attribute that is not there stands for (ONNX' operators, version 18)."""


class Misfit(ValueError):
    """Which node does not fit, in one line."""


class Nodes:
    """The nodes of a graph, until each was taken.

    Raises:
        Misfit: two of its values have one name.
    """

    def __init__(self, graph: Graph) -> None:
        self._constants = graph.constants
        self._users: dict[str, list[Node]] = defaultdict(list)
        self._maker: dict[str, Node] = {}
        self.left = dict.fromkeys(graph.nodes)
        """Those that were not taken, in the graph's order."""
        given = {*graph.constants, *(signature.name for signature in graph.inputs)}
        for node in graph.nodes:
            for name in dict.fromkeys(node.inputs):
                self._users[name].append(node)
            for name in node.outputs:
                if name in self._maker or name in given:
                    refuse(node, f"makes '{one_line(name)}', which is there already")
                self._maker[name] = node

    def users(self, value: str, operator: str) -> list[Node]:
        """The nodes of an operator that take a value."""
        return [node for node in self._users[value] if operator_of(node) == operator]

    def only(self, value: str, operator: str) -> Node | None:
        """The one node of an operator that takes a value, if there is one.

        Raises:
            Misfit: there are more.
        """
        found = self.users(value, operator)
        if len(found) > 1:
            refuse(found[1], f"takes '{one_line(value)}', which another {operator} takes")
        return found[0] if found else None

    def user(self, value: str, operator: str) -> Node:
        """The one node of an operator that takes a value.

        Raises:
            Misfit: there is none, or more; naming what takes it instead, or what makes it.
        """
        if found := self.only(value, operator):
            return found
        for node in self._users[value]:
            if node in self.left:
                refuse(node, f"takes '{one_line(value)}', expected a {operator} there")
        raise Misfit(f"nothing takes '{one_line(value)}' of {self.made(value)}, expected a {operator}")

    def both(self, one: str, other: str, operator: str) -> Node | None:
        """The first node of an operator that takes two values, in any order."""
        pairs = ([one, other], [other, one])
        return next((node for node in self.users(one, operator) if list(node.inputs) in pairs), None)

    def made(self, value: str) -> str:
        """What makes a value, for a message."""
        maker = self._maker.get(value)
        return "the graph" if maker is None else label(maker)

    def take(self, node: Node, inputs: Collection[str], free: Collection[str] = (), **attributes: Attribute) -> str:
        """Take a node that is as expected, and name its output.

        Args:
            node: not taken yet.
            inputs: all that it may take, in order.
            free: attributes that may have any value.
            attributes: all others that it may have, with the values that they must have.

        Raises:
            Misfit: saying what of it is not as expected.
        """
        if node not in self.left:
            refuse(node, "is in two places at once")
        del self.left[node]
        if list(node.inputs) != list(inputs):
            refuse(node, f"takes {_names(node.inputs)}, expected {_names(inputs)}")
        if len(node.outputs) != 1:
            refuse(node, f"makes {len(node.outputs)} values, expected one")
        for name in node.attributes:
            if name not in attributes and name not in free:
                refuse(node, f"has the unknown attribute '{one_line(name)}'")
        for name, wanted in attributes.items():
            found = node.attributes.get(name, DEFAULTS.get(name))
            if type(found) is not type(wanted) or found != wanted:
                refuse(node, f"has {name} {_value(found)}, expected {_value(wanted)}")
        return node.outputs[0]

    def weights(self, node: Node, place: int, *shape: int | None) -> NDArray[np.float32]:
        """The constant float32 numbers that a node takes, of this shape (None: any size).

        Raises:
            Misfit: they are not there, or have another type or shape, or are not finite.
        """
        constant = self._constant(node, place)
        if constant is None or constant.dtype != np.float32:
            refuse(node, f"takes no constant of float32 as input {place}")
        array: NDArray[np.float32] = constant.view(np.float32)
        fits = array.ndim == len(shape) and all(
            wanted is None or wanted == size for size, wanted in zip(array.shape, shape, strict=True)
        )
        if not fits:
            wanted_shape = ", ".join("any" if size is None else str(size) for size in shape)
            refuse(node, f"takes a constant {list(array.shape)} as input {place}, expected [{wanted_shape}]")
        if not np.isfinite(array).all():
            refuse(node, f"takes numbers that are not finite as input {place}")
        return array

    def axes(self, node: Node, place: int) -> int:
        """How many axes the constant has that a node takes; 0 where it takes none."""
        constant = self._constant(node, place)
        return 0 if constant is None else constant.ndim

    def integers(self, node: Node, place: int) -> tuple[int, ...]:
        """The list of constant int64 that a node takes.

        Raises:
            Misfit: it is not there, or has another type or shape.
        """
        array = self._constant(node, place)
        if array is None or array.dtype != np.int64 or array.ndim != 1:
            refuse(node, f"takes no list of constant int64 as input {place}")
        return tuple(array.tolist())

    def _constant(self, node: Node, place: int) -> Array | None:
        return self._constants.get(node.inputs[place]) if place < len(node.inputs) else None


def operator_of(node: Node) -> str:
    """The name of a node's operator, with its domain where that is not ONNX' own."""
    return node.operator if node.domain in ONNX else f"{node.domain}.{node.operator}"


def label(node: Node) -> str:
    """A node as messages name it."""
    name = node.name or next(iter(node.outputs), "")
    return f"{one_line(operator_of(node))} '{one_line(name)}'"


def refuse(node: Node, why: str) -> NoReturn:
    """Say that a node does not fit.

    Raises:
        Misfit: always.
    """
    raise Misfit(f"{label(node)} {why}")


def _names(names: Collection[str]) -> str:
    return one_line(", ".join(names)) or "nothing"


def _value(value: Attribute) -> str:
    if isinstance(value, tuple):
        return one_line(str(list(value)))
    if isinstance(value, bytes):
        return shown(value.decode("utf-8", "replace"))
    return "of another kind" if value is None or isinstance(value, np.ndarray) else str(value)
