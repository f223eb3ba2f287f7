"""Files that something happened to."""

from __future__ import annotations

import numpy as np


def damaged(whole: bytes, trial: int, rng: np.random.Generator) -> bytes:
    """A cut, a flipped bit, 99 random bytes somewhere, or nothing but random bytes, in turn by the trial's number."""
    content = bytearray(whole)
    start = int(rng.integers(len(whole)))
    if trial % 4 == 0:
        del content[start:]
    elif trial % 4 == 1:
        content[start] ^= 1 << int(rng.integers(8))
    elif trial % 4 == 2:
        content[start : start + 99] = rng.bytes(99)
    else:
        content = bytearray(rng.bytes(int(rng.integers(400))))
    return bytes(content)
