"""Numba kernels whose machine code is kept on disk where that can be done, and compiled anew where it cannot.

Numba's own cache raises at every call where a file of it was cut short, and where its disk is full.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: ``njit`` with its options, releasing the GIL and cached: only the first call ever compiles."""

    def compiled(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, **options)(function)
        try:
            dispatcher._cache = _Cache(function)
        except RuntimeError as error:  # there is no folder that can be written
            _say_once(str(error))
        return dispatcher

    return compiled


class _Cache(FunctionCache):  # type: ignore[misc]
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what is unpickled out of a damaged file can raise anything
            with suppress(OSError):
                self.flush()  # the next one to save begins anew
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:  # likewise: it reads the index before it writes
            _say_once(f"{self.cache_path}: {error}")


@cache
def _say_once(reason: str) -> None:
    logging.getLogger(__name__).warning("kernels are compiled at every start, which takes seconds: %s", reason)
