"""Run a bundle over recordings: the floor that needs no torch, onnx or TensorFlow.

Names load on first use (PEP 562), so that importing the package, and ``bce-infer --help``, stay instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bce.engine.errors import (
        AudioError,
        BceError,
        BundleError,
        ExportError,
        OptionsError,
        ParityError,
        TableError,
    )
    from bce.engine.network.bundle import Bundle
    from bce.engine.results import Part, RecordingResult
    from bce.engine.run.engine import Engine, EngineOptions

_HOME = {
    "Bundle": "network.bundle",
    "Engine": "run.engine",
    "EngineOptions": "run.engine",
    "Part": "results",
    "RecordingResult": "results",
    "AudioError": "errors",
    "BceError": "errors",
    "BundleError": "errors",
    "ExportError": "errors",
    "OptionsError": "errors",
    "ParityError": "errors",
    "TableError": "errors",
}

__all__ = [
    "AudioError",
    "BceError",
    "Bundle",
    "BundleError",
    "Engine",
    "EngineOptions",
    "ExportError",
    "OptionsError",
    "ParityError",
    "Part",
    "RecordingResult",
    "TableError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
