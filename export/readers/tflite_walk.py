"""Steps along the operators of a TFLite graph, for parts that are no network of terms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import ExportError
from bce.export.readers.tflite_graph import Operator, TfliteGraph


class TfliteWalk:
    """From a tensor to what uses it, and back to what it comes from.

    Args:
        graph: to walk.
        through: names of operators that are stepped over, along their first input.
    """

    def __init__(self, graph: TfliteGraph, through: Collection[str] = ()) -> None:
        self.graph = graph
        self.users: dict[int, list[Operator]] = defaultdict(list)
        self._through = frozenset(through)
        for op in graph.operators:
            for tensor in set(op.inputs):
                self.users[tensor].append(op)

    def next(self, tensor: int, name: str, what: str) -> Operator:
        """The one operator of a name that uses a tensor.

        Args:
            tensor: from which.
            name: of the operator.
            what: is looked for, for messages.

        Raises:
            ExportError: there is none, or more; it says what uses the tensor.
        """
        users = self.users[tensor]
        found = [op for op in users if op.name == name]
        if len(found) == 1:
            return found[0]
        over = [op for op in users if op.name in self._through and op.inputs[0] == tensor]
        if not found and len(over) == 1:
            return self.next(over[0].outputs[0], name, what)
        names = ", ".join(op.name for op in users) or "nothing"
        raise ExportError(f"{what}: expected {name}, found {names}")

    def back(self, tensor: int, name: str, what: str) -> Operator:
        """The nearest operator of a name that a tensor comes from, along first inputs."""
        op = self.graph.producer.get(tensor)
        while op is not None and op.name != name:
            op = self.graph.producer.get(op.inputs[0])
        if op is None:
            raise ExportError(f"{what}: expected {name} before it, found none")
        return op

    def constant(self, tensor: int, what: str) -> NDArray[Any]:
        """A constant of the graph; floats as float32."""
        value = self.graph.constant(tensor)
        if value is None or not value.size:
            raise ExportError(f"{what}: expected a constant, found something that is computed")
        return value

    def numbers(self, tensor: int, count: int, what: str) -> NDArray[np.float32]:
        """A constant of so many numbers, as float32."""
        value = self.constant(tensor, what).reshape(-1)
        if len(value) != count:
            raise ExportError(f"{what}: expected {count} number{'s' * (count > 1)}, found {len(value)}")
        return value.astype(np.float32)
