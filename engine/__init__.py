"""Run a bundle over recordings: the floor that needs no torch, onnx or TensorFlow.

What a program needs of the engine stands here; ``docs/python.md`` shows it at work. Names load on first use (PEP 562),
so that importing the package, and ``bce-infer --help``, stay instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bce.engine.audio.names import NameRule
    from bce.engine.audio.recordings import find_recordings
    from bce.engine.errors import (
        AudioError,
        BceError,
        BundleError,
        ExportError,
        OptionsError,
        ParityError,
        RunError,
        TableError,
    )
    from bce.engine.geometry import ChunkGrid, WindowSpec
    from bce.engine.network.bundle import Bundle
    from bce.engine.network.default import bundle_path
    from bce.engine.post.bundled import postprocess_options
    from bce.engine.post.deployments import Place
    from bce.engine.post.options import PostprocessOptions
    from bce.engine.post.priors import Priors, Shrinkage
    from bce.engine.recording import Recording
    from bce.engine.results import Outcome, Part, RecordingResult
    from bce.engine.run.budget import BudgetOptions
    from bce.engine.run.engine import Engine, EngineOptions
    from bce.engine.run.infer import infer
    from bce.engine.run.options import RunOptions
    from bce.engine.run.plan import Plan, plan
    from bce.engine.run.record import RunReport
    from bce.engine.tables.blend import BlendOptions, BlendSummary, blend
    from bce.engine.tables.score_files import ScoreFile
    from bce.engine.taxonomy import Taxonomy

_HOME = {
    "AudioError": "errors",
    "BceError": "errors",
    "BlendOptions": "tables.blend",
    "BlendSummary": "tables.blend",
    "BudgetOptions": "run.budget",
    "Bundle": "network.bundle",
    "BundleError": "errors",
    "ChunkGrid": "geometry",
    "Engine": "run.engine",
    "EngineOptions": "run.engine",
    "ExportError": "errors",
    "NameRule": "audio.names",
    "OptionsError": "errors",
    "Outcome": "results",
    "ParityError": "errors",
    "Part": "results",
    "Place": "post.deployments",
    "Plan": "run.plan",
    "PostprocessOptions": "post.options",
    "Priors": "post.priors",
    "Recording": "recording",
    "RecordingResult": "results",
    "RunError": "errors",
    "RunOptions": "run.options",
    "RunReport": "run.record",
    "ScoreFile": "tables.score_files",
    "Shrinkage": "post.priors",
    "TableError": "errors",
    "Taxonomy": "taxonomy",
    "WindowSpec": "geometry",
    "blend": "tables.blend",
    "bundle_path": "network.default",
    "find_recordings": "audio.recordings",
    "infer": "run.infer",
    "plan": "run.plan",
    "postprocess_options": "post.bundled",
}
"""Each name and the module that defines it."""

__all__ = [  # spelt out, because type checkers read it
    "AudioError",
    "BceError",
    "BlendOptions",
    "BlendSummary",
    "BudgetOptions",
    "Bundle",
    "BundleError",
    "ChunkGrid",
    "Engine",
    "EngineOptions",
    "ExportError",
    "NameRule",
    "OptionsError",
    "Outcome",
    "ParityError",
    "Part",
    "Place",
    "Plan",
    "PostprocessOptions",
    "Priors",
    "Recording",
    "RecordingResult",
    "RunError",
    "RunOptions",
    "RunReport",
    "ScoreFile",
    "Shrinkage",
    "TableError",
    "Taxonomy",
    "WindowSpec",
    "blend",
    "bundle_path",
    "find_recordings",
    "infer",
    "plan",
    "postprocess_options",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
