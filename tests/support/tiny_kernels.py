"""Modules of one small function, which compile in milliseconds."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from bce.engine.compiled.compilation import Code
from bce.engine.compiled.targets import Target

BODY = """
define void @combine(ptr noalias %a, ptr noalias %b) #0 {{
  %x = load <8 x float>, ptr %a, align 4
  %y = load <8 x float>, ptr %b, align 4
  %z = {operation} <8 x float> %x, %y
  store <8 x float> %z, ptr %a, align 4
  ret void
}}
"""


def module(body: str) -> Callable[[Target], str]:
    """What a loader takes: the IR of functions with the attributes #0, for any target."""
    return lambda target: f"{body}\nattributes #0 = {{ nounwind {target.attributes} }}\n"


def combining(operation: str) -> Callable[[Target], str]:
    """A function ``combine`` of two vectors of eight floats, which leaves its result in the first."""
    return module(BODY.format(operation=operation))


def combine(code: Code) -> list[float]:
    """What it makes of 1 to 8 and 0.5."""
    a, b = np.arange(1, 9, dtype=np.float32), np.full(8, 0.5, np.float32)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code.address("combine"))(a.ctypes.data, b.ctypes.data)
    return a.tolist()


SUMS = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5]
PRODUCTS = [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
