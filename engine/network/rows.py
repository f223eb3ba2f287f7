"""What a network gives, held to what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, one_line


def check_rows(
    found: Sequence[NDArray[np.float32]],
    widths: Mapping[str, int],
    windows: int,
    given: Iterable[NDArray[np.float32]],
    path: str | os.PathLike[str],
) -> None:
    """Refuse outputs of another shape, or numbers that are not finite out of finite ones.

    Args:
        found: the outputs, which should be float32 [windows, width].
        widths: width of each by name, in order.
        windows: how many windows went in.
        given: the inputs.
        path: the graph.

    Raises:
        BundleError: naming the output.
    """
    for (name, width), values in zip(widths.items(), found, strict=True):
        if values.shape != (windows, width):
            raise BundleError(
                f"gives {one_line(name)} as {list(values.shape)} for {windows} windows, expected [{windows}, {width}]",
                path,
            )
        if not np.isfinite(values).all() and all(np.isfinite(array).all() for array in given):
            raise BundleError(f"gives {one_line(name)} with numbers that are not finite", path)
