"""Graphs and frontends run as the engine runs them: sessions of one thread, called from as many as there are CPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bce.engine.frontends.base import Frontend
from bce.engine.run.engine import usable_cpus

Array = NDArray[np.float32]
A = TypeVar("A")
B = TypeVar("B")


def run_each(call: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """The results of a thread-safe call for each item, in their order."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        return list(pool.map(call, items))


def inputs_of(frontend: Frontend, windows: Sequence[Array] | Array) -> Array:
    """The network's inputs float32 [n, *shape of one] for windows [n, samples], each by itself."""
    inputs = np.empty((len(windows), *frontend.shape), np.float32)
    for window, out in zip(windows, inputs, strict=True):
        frontend.open(window).window(0, out)
    return inputs
