"""What turns audio into the input of a network: the protocol, and which kinds there are.

A frontend belongs to a bundle: its manifest names the kind and the settings. To add a kind, write a module with
``make(window, settings, folder)`` and name it in :data:`KINDS`; nothing outside this wing knows what a frontend
computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.geometry import WindowSpec

KINDS: dict[str, str] = {
    "perch_log_mel": "bce.engine.frontends.perch",
    "birdnet_v24": "bce.engine.frontends.birdnet",
    "waveform": "bce.engine.frontends.waveform",
}
"""Kind -> the module that has its
``make(window: WindowSpec, settings: Mapping[str, Any], folder: Path | None) -> Frontend``."""


class BlockInputs(Protocol):
    """The network's inputs for the windows of one audio block, which share what they can."""

    def window(self, start: int, out: NDArray[np.float32]) -> None:
        """Fill the input of one window.

        Args:
            start: first sample of the window in the recording, with the whole window inside the block.
            out: float32, of the frontend's shape.
        """


class Frontend(Protocol):
    """How a bundle's windows become its network's input. Calls are thread-safe."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one window's input."""

    def open(self, samples: NDArray[np.float32], first_sample: int = 0) -> BlockInputs:
        """Begin with an audio block.

        Args:
            samples: float32 [samples] at the windows' rate, mono, full scale +-1, at least one window.
            first_sample: position of ``samples[0]`` in the recording.
        """


@dataclass(frozen=True)
class FrontendSpec:
    """The kind of a frontend, and the settings that its module takes.

    Attributes:
        kind: one of :data:`KINDS`.
        settings: by name; which there are depends on the kind.
    """

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)


def make_frontend(spec: FrontendSpec, window: WindowSpec, folder: Path | None = None) -> Frontend:
    """The frontend of a bundle.

    Args:
        spec: kind and settings.
        window: of the bundle.
        folder: of the bundle, where a kind that has arrays finds them.

    Raises:
        BundleError: no such kind, or a setting that the kind does not take: the reason names the field; or arrays that
            are missing or not those of the settings.
    """
    if spec.kind not in KINDS:
        raise BundleError(f"field 'frontend.kind' is {spec.kind!r}, expected one of {', '.join(KINDS)}")
    made: Frontend = import_module(KINDS[spec.kind]).make(window, spec.settings, folder)
    return made


def check_settings(kind: str, settings: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse settings that are missing, unknown, or have a value that is not allowed.

    Raises:
        BundleError: naming the field.
    """
    for name in settings:
        if name not in allowed:
            raise BundleError(f"has the unknown field 'frontend.{name}': the frontend '{kind}' does not take it")
    for name, values in allowed.items():
        if name not in settings:
            raise BundleError(f"lacks the field 'frontend.{name}', which the frontend '{kind}' needs")
        if settings[name] not in values:
            raise BundleError(
                f"field 'frontend.{name}' is {settings[name]!r}, expected one of {', '.join(map(str, values))}"
            )
