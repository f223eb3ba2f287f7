"""Weights of BirdNET v2.4's structure from a seed, which follow their input; and a frontend by its formulas."""

from __future__ import annotations

import numpy as np

from bce.engine.frontends.birdnet import Branch
from bce.export.birdnet.architecture import BLOCKS
from bce.export.birdnet.weights import BlockWeights, Layer, Weights, expected_shapes

EXPONENTS = (0.23, 0.19)
SCALES, SHIFTS = (0.2, 3.2), (-0.65, -0.35)
_BRANCHES = ((2048, 278, 0.0, 3000.0), (1024, 280, 500.0, 15000.0))


def mel_bank(length: int, low_hz: float, high_hz: float, bands: int = 96, rate: int = 48_000) -> np.ndarray:
    """Triangles on the mel scale 1127 ln(1 + f / 700), not normalised, [bands, length / 2 + 1] (TensorFlow's)."""

    def mel(hz: np.ndarray | float) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(hz) / 700)

    bins = mel(np.linspace(0, rate / 2, length // 2 + 1)[1:])
    edges = np.linspace(mel(low_hz), mel(high_hz), bands + 2)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.pad(np.maximum(0, np.minimum(rising, falling)), ((0, 0), (1, 0))).astype(np.float32)


def branches() -> tuple[Branch, ...]:
    """Near to the published ones, out of formulas."""
    found = []
    for (length, step, low, high), exponent, scale, shift in zip(_BRANCHES, EXPONENTS, SCALES, SHIFTS, strict=True):
        hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
        found.append(Branch(length, step, hann, mel_bank(length, low, high), exponent, scale, shift))
    return tuple(found)


def seeded_weights(classes: int, seed: int = 0) -> Weights:
    """A whole network: random kernels of such a size that maps neither die nor grow."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    for name, shape in expected_shapes(classes).items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        size = np.sqrt(1.6 / fan_in) if name.endswith("kernel") else 0.1
        arrays[name] = (size * rng.standard_normal(shape)).astype(np.float32)
    arrays["behind the blocks, scale"] = rng.uniform(0.5, 1.0, arrays["behind the blocks, scale"].shape).astype(
        np.float32
    )

    def layer(name: str) -> Layer:
        return Layer(arrays[f"{name} kernel"], arrays[f"{name} bias"])

    blocks = []
    for block in BLOCKS:
        part = f"block {block.index}"
        gate = (
            (None, None) if block.squeezed is None else (layer(f"{part}, gate reduce"), layer(f"{part}, gate expand"))
        )
        blocks.append(
            BlockWeights(layer(f"{part}, expand"), layer(f"{part}, depthwise"), *gate, layer(f"{part}, project"))
        )
    return Weights(
        branches(),
        layer("stem, conv"),
        layer("pool, conv"),
        tuple(blocks),
        arrays["behind the blocks, scale"],
        arrays["behind the blocks, shift"],
        layer("head, conv"),
        layer("classifier, dense"),
    )
