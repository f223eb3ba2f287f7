"""Range models from a seed, and the plain one: scalars and lists, in float64."""

from __future__ import annotations

import math

import numpy as np

from bce.engine.post.range_model import Dense, RangeModel


def seeded_range_model(classes: int, seed: int = 0, sines: int = 4) -> RangeModel:
    """A small network of BirdNET's form whose probabilities are spread over 0..1."""
    rng = np.random.default_rng(seed)

    def dense(rows: int, columns: int) -> Dense:
        kernel = rng.normal(size=(rows, columns)) * math.sqrt(2 / columns)
        return Dense(kernel.astype(np.float16).astype(np.float32), rng.normal(size=rows).astype(np.float32))

    return RangeModel(
        offsets=np.array([90, 180, -1], np.float32),
        factors=np.array([1 / 180, 1 / 360, 1 / 48], np.float32),
        turn=np.float32(6.28),
        phases=np.linspace(0, 3, sines, dtype=np.float32),
        gain=np.float32(math.sqrt(2)),
        layers=(dense(8, 3 * sines), dense(16, 8), dense(classes, 16)),
    )


def plain_probabilities(model: RangeModel, latitude: float, longitude: float, week: int) -> list[float]:
    """The network as its module documents it."""
    hidden: list[float] = []
    for place, x in enumerate((latitude, longitude, week)):
        u = (x + float(model.offsets[place])) * float(model.factors[place])
        for phase in model.phases.tolist():
            gone = place == 2 and week == -1
            hidden.append(0.0 if gone else float(model.gain) * math.sin(u * float(model.turn) + phase))
    for number, layer in enumerate(model.layers, start=1):
        sums = [
            sum(w * h for w, h in zip(row, hidden, strict=True)) + bias
            for row, bias in zip(layer.kernel.tolist(), layer.bias.tolist(), strict=True)
        ]
        last = number == len(model.layers)
        hidden = [1 / (1 + math.exp(-x)) if last else max(x, 0.0) for x in sums]
    return hidden
