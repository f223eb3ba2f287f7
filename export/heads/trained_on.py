"""Which network a head was trained on, told by what that network makes of one window.

A head's file keeps the features that its bundle gave for a window that every version makes alike. Another bundle of the
same network gives them again, with whatever outputs, head and version it was exported and from whichever published form
of the weights; hashes would differ in all of these. Another network, or another preparation of the samples, does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import OptionsError
from bce.engine.frontends.base import Frontend
from bce.engine.geometry import WindowSpec
from bce.engine.network.sessions import open_session
from bce.export.heads.checkpoints import Fold

LIMIT = 0.15
"""The largest relative L2 between the features of one network. Its exact forms agree to 1e-5, those with float16 or
int8 weights to 0.08; the features of another network of the same shape differ by more than 1."""

BUNDLE = "bundle"
"""The fact under which a trained head keeps the identity of its bundle."""


@dataclass(frozen=True)
class Network:
    """What a head goes onto.

    Attributes:
        identity: of the bundle.
        features: of the sample window by block, see :func:`sample_features`.
    """

    identity: str
    features: Mapping[str, Sequence[float]]


def sample_window(window: WindowSpec) -> NDArray[np.float32]:
    """Samples float32 [samples]: a sweep, pulses and an offset, whose features depend on each preparation."""
    time_s = np.arange(window.samples) / window.sample_rate
    highest = window.sample_rate / 4
    sweep = np.sin(2 * np.pi * (500 + (highest - 500) / (2 * window.window_s) * time_s) * time_s)
    pulses = np.sin(2 * np.pi * 0.09 * window.sample_rate * time_s) * (np.sin(4 * np.pi * time_s) > 0)
    return (0.11 * sweep + 0.04 * pulses + 0.02).astype(np.float32)


def sample_features(
    backbone: Path, frontend: Frontend, window: WindowSpec, blocks: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """The features of the sample window by block, to seven digits.

    Args:
        backbone: the float32 graph.
        frontend: what makes its input.
        window: what it is fed.
        blocks: names of its outputs.

    Raises:
        BundleError: the graph does not load.
    """
    session = open_session(backbone)
    entry = np.empty((1, *frontend.shape), np.float32)
    frontend.open(sample_window(window)).window(0, entry[0])
    arrays = session.run(list(blocks), {session.get_inputs()[0].name: entry})
    return {
        name: tuple(float(f"{number:.7g}") for number in array[0]) for name, array in zip(blocks, arrays, strict=True)
    }


def compare_networks(fold: Fold, network: Network, insist: bool = False) -> str:
    """What is to be said of a head and of the network that it goes onto.

    A head of an earlier version says no more than its bundle's identity, which other outputs and another version's
    export change as well.

    Args:
        fold: the head.
        network: what it goes onto.
        insist: whether another network is only said, not refused.

    Raises:
        OptionsError: the head was trained on another network.
    """
    found: str
    if fold.sample:
        distances = {
            name: _relative_l2(np.asarray(network.features[name]), np.asarray(expected))
            for name, expected in fold.sample.items()
        }
        worst = max(distances, key=lambda name: distances[name])
        if distances[worst] <= LIMIT:
            return (
                f"{_name(fold)} was trained on this network: its features differ by {_short(distances[worst])} at most"
            )
        found = (
            f"was trained on another network, or with another preparation: {worst} of the sample window differs by "
            f"{distances[worst]:.2g} (relative L2, allowed {LIMIT:g})"
        )
    elif isinstance(identity := fold.facts.get(BUNDLE), str):
        if identity == network.identity:
            return f"{_name(fold)} was trained on this network: its bundle had the same identity"
        found = (
            f"was trained on a bundle of the identity {identity[:12]}..., this one's is {network.identity[:12]}...: "
            "that is another network, other blocks, or another version's export"
        )
    else:
        return f"{_name(fold)} does not say which network it was trained on: whether it is this one is not checked"
    if not insist:
        raise OptionsError(f"{found}; --any-backbone exports it all the same", fold.path)
    return f"{_name(fold)} {found}"


def _relative_l2(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    distance = float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30))
    return distance if np.isfinite(distance) else float("inf")


def _short(distance: float) -> str:
    return f"{distance:.0e}" if distance else "0"


def _name(fold: Fold) -> str:
    return "the head" if fold.path is None else Path(fold.path).name
