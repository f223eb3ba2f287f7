"""Names of generated functions: what they do and for which shapes, so that two of the same shapes are one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any


def name_of(spec: Any) -> str:
    """The name of a kernel's function out of the fields of its dataclass."""
    values = [getattr(spec, field.name) for field in fields(spec)]
    return "_".join([type(spec).__name__.lower(), *("no" if v is None else str(v).replace("-", "m") for v in values)])
