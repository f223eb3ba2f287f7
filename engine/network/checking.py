"""One runtime held to another: no backbone is believed before its numbers were ONNX Runtime's."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.geometry import WindowSpec
from bce.engine.network.backbone import BackboneForm
from bce.engine.network.bundle import Bundle
from bce.engine.results import Features

CHECKED = ("sound", "near silence", "silence")
"""What :func:`check_inputs` makes, in order."""

LIMITS = {"fp32": (1e-4, 1e-3, 1e-3), "bf16": (0.1, 0.1, 0.1), "int8": (0.5, 0.5, 0.5)}
"""Most relative L2 of an output against ONNX Runtime's on each of :data:`CHECKED`.

In float32 right kernels differ by 5e-6 on sound. In silence there is little but what rounding leaves: there they, and
ONNX Runtime from a run in float64, are up to 3e-5 apart, with seeded weights up to 1e-4. How
near int8 is was judged at export, on recordings: here wrong code is found, which is further off.
"""

ROUNDS = 2
"""How often each input is checked: what the first pass leaves in a runtime's memory is part of the second.

For kernels once will do: each input finds in their one arena what the input before it left.
"""


class NotTheSameError(BundleError):
    """A runtime does not give ONNX Runtime's numbers."""


def check_inputs(bundle: Bundle) -> NDArray[np.float32]:
    """Inputs [3, *shape of one] to hold one runtime against another with, those of :data:`CHECKED`."""
    frontend = bundle.frontend()
    found = np.empty((len(CHECKED), *frontend.shape), np.float32)
    for samples, out in zip(_sounds(bundle.manifest.window), found, strict=True):
        frontend.open(samples).window(0, out)
    return found


def _sounds(window: WindowSpec) -> list[NDArray[np.float32]]:
    """Fading noise under two tones, noise that is hardly there, and nothing."""
    seconds = np.arange(window.samples) / window.sample_rate
    noise = np.random.default_rng(0).normal(0, 1, len(seconds))
    late = seconds > 0.4 * window.window_s
    tones = 0.1 * np.sin(2 * np.pi * 3000 * seconds) * late + 0.05 * np.sin(2 * np.pi * 700 * seconds)
    return [x.astype(np.float32) for x in (0.05 * noise * np.exp(-seconds) + tones, 1e-4 * noise, 0 * noise)]


def hold_to(
    expected: Features,
    run: Callable[[NDArray[np.float32]], list[NDArray[np.float32]]],
    inputs: NDArray[np.float32],
    form: BackboneForm,
    path: str | os.PathLike[str],
    rounds: int = ROUNDS,
) -> None:
    """Compare what a runtime makes of inputs with what ONNX Runtime made of them.

    Args:
        expected: ONNX Runtime's outputs by name, in order, each float32 [inputs, width].
        run: the other runtime: an input float32 [1, *shape of one] -> its outputs in order, float32 [1, width].
        inputs: of :func:`check_inputs`.
        form: the other runtime, in a precision of :data:`LIMITS`.
        path: the graph.
        rounds: how often.

    Raises:
        NotTheSameError: naming the output, the input and by how much it is off.
    """
    for _ in range(rounds):
        for place, (kind, limit) in enumerate(zip(CHECKED, LIMITS[form.precision], strict=True)):
            outputs = run(inputs[place : place + 1])
            for (name, want), got in zip(expected.items(), outputs, strict=True):
                if got.shape != (1, want.shape[1]):
                    raise NotTheSameError(
                        f"gives {name} as {list(got.shape)} in {form}, not [1, {want.shape[1]}]", path
                    )
                off = np.linalg.norm(got[0] - want[place]) / max(float(np.linalg.norm(want[place])), 1e-12)
                if not off <= limit:  # NaN is not within any limit
                    raise NotTheSameError(
                        f"gives {name} {off:.2g} off ONNX Runtime's on {kind} in {form} "
                        f"(relative L2, at most {limit:g} is accepted)",
                        path,
                    )
