"""Settings of torch that hold for the whole process: set for a training, put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_set_to(threads: int, *, flush_denormal: bool = False) -> Iterator[None]:
    """Run torch on so many threads; optionally with denormal numbers taken as zero, which are slow to compute with.

    The latter is a state of the processor that every floating-point operation of this thread sees, torch's or not:
    left set, Python's own 1e-310 would be 0.
    """
    before = torch.get_num_threads()
    flushed = flushes_denormal()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush_denormal or flushed)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


def flushes_denormal() -> bool:
    """Whether denormal numbers are zero to this thread; torch sets that, but does not tell."""
    return float(torch.tensor(1e-40, dtype=torch.float32) * 0.5) == 0.0
