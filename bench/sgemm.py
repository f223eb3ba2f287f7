"""The bound: how fast this machine multiplies the network's matrices in float32 on one core.

Nearly all of the network's arithmetic is 1 x 1 convolutions, which are matrix products. Two rates make a bound when all
multiplications are taken to run at them: that of the fastest product that occurs, and that of all products of a window
one after the other, which is what a library's kernels give for just this network.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bce.export.perch.architecture import architecture

_LEAST_S = 0.02
"""Each product is repeated for at least this long."""


def multiplications(*, with_head: bool = True) -> int:
    """Multiply-adds of a window: stem, blocks and, with ``with_head``, the last 1 x 1 convolution."""
    network = architecture()
    total = 9 * network.stem_channels * prod(network.stem_size)
    for block in network.blocks:
        if block.expand_ratio > 1:
            total += block.in_channels * block.expanded * prod(block.in_size)
        total += block.kernel**2 * block.expanded * prod(block.out_size)
        total += 2 * block.expanded * block.squeezed
        total += block.expanded * block.out_channels * prod(block.out_size)
    if with_head:
        total += network.blocks[-1].out_channels * network.head_channels * prod(network.map_size)
    return total


def shapes() -> Counter[tuple[int, int, int]]:
    """(channels out, channels in, positions) of the 1 x 1 convolutions of a window, and how often each occurs."""
    found: Counter[tuple[int, int, int]] = Counter()
    for block in architecture().blocks:
        if block.expand_ratio > 1:
            found[block.expanded, block.in_channels, prod(block.in_size)] += 1
        found[block.out_channels, block.expanded, prod(block.out_size)] += 1
    return found


@dataclass(frozen=True)
class Rates:
    """GFLOP/s of one core in one round; a multiply-add is two operations.

    Attributes:
        best: of the fastest product of all libraries.
        best_of: the library and the shape of that.
        network: by library, of all products of a window one after the other.
    """

    best: float
    best_of: str
    network: dict[str, float]


def bound_ms(gflops: float, *, with_head: bool = True) -> float:
    """Milliseconds of a window if all its multiplications ran at a rate."""
    return 2 * multiplications(with_head=with_head) / gflops / 1e6


class Sgemm:
    """Measures numpy's matrix product, and torch's where it is installed, on one core."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._operands = [
            (
                shape,
                rng.standard_normal(shape[:2], dtype=np.float32),
                rng.standard_normal(shape[1:], dtype=np.float32),
                np.empty((shape[0], shape[2]), np.float32),
            )
            for shape in shapes()
        ]

    def measure(self) -> Rates:
        """The rates of this round: means over many calls, as the contestants' times are."""
        with threadpool_limits(1):
            seconds = {"numpy": [_seconds(np.matmul, *arrays) for _, *arrays in self._operands]}
        seconds |= self._torch()
        work = [2 * prod(shape) for shape, *_ in self._operands]
        times = [shapes()[shape] for shape, *_ in self._operands]
        best, best_of = max(
            (flop / second / 1e9, f"{library}, {'x'.join(map(str, shape))}")
            for library, of_library in seconds.items()
            for flop, second, (shape, *_) in zip(work, of_library, self._operands, strict=True)
        )
        network = {
            library: float(np.dot(times, work) / np.dot(times, of_library) / 1e9)
            for library, of_library in seconds.items()
        }
        return Rates(best, best_of, network)

    def _torch(self) -> dict[str, list[float]]:
        try:
            import torch
        except ImportError:
            return {}
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return {"torch": [_seconds(torch.mm, *map(torch.from_numpy, arrays)) for _, *arrays in self._operands]}
        finally:
            torch.set_num_threads(threads)


def _seconds(multiply: Callable[..., Any], a: Any, b: Any, out: Any) -> float:
    """Mean time of repeated calls."""
    multiply(a, b, out=out)
    calls, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < _LEAST_S:
        multiply(a, b, out=out)
        calls += 1
    return elapsed / calls
