"""Where in a file's graph some terms of its network are, and how to make vectors of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from bce.export.readers.base import Array, Key, Opened, Run
from bce.export.readers.steps import Term
from bce.export.sources import SPECTROGRAM


@dataclass(frozen=True)
class Tap(Generic[Key]):
    """A value of the graph to look at: what the file calls it, and the axes over which a mean makes it a vector."""

    value: Key
    mean_over: tuple[int, ...] = ()

    def features(self, array: NDArray[np.floating]) -> NDArray[np.float32]:
        """[n, channels], means in float64."""
        pooled = array.mean(axis=self.mean_over, dtype=np.float64) if self.mean_over else array
        return pooled.reshape(len(array), -1).astype(np.float32)


def find_taps(opened: Opened[Key], terms: Mapping[str, Term]) -> dict[str, Tap[Key]]:
    """The first value of the file's graph that is each of some terms, by the terms' names."""
    values: dict[Term, Key] = {}
    for name, tensor in opened.tensors.items():
        term = opened.terms.known(tensor)
        if term is not None:
            values.setdefault(term, name)

    def tap(term: Term) -> Tap[Key]:
        name = values[term]
        layout = opened.tensors[name].layout
        return Tap(name, tuple(i for i, axis in enumerate(layout) if any(label in ("t", "m") for label, _ in axis)))

    return {name: tap(term) for name, term in terms.items()}


def run_taps(
    run: Callable[[Sequence[Key]], Run[Key]], spectrogram: Key, taps: Mapping[str, Tap[Key]], shape: tuple[int, int]
) -> Callable[[Array], dict[str, Array]]:
    """A file, ready to run: samples [n, samples] -> "spectrogram" [n, frames, bands] and the taps' vectors by name.

    Args:
        run: that of the file, see :class:`bce.export.readers.base.Opened`; what else was opened may be let go.
        spectrogram: the value that is the network's input.
        taps: what else to give.
        shape: (frames, bands) of the spectrogram.

    Raises:
        CannotRun: the file cannot run here.
    """
    running = run(list(dict.fromkeys([spectrogram, *(tap.value for tap in taps.values())])))

    def call(waveforms: Array) -> dict[str, Array]:
        found: dict[str, list[Array]] = {name: [] for name in (SPECTROGRAM, *taps)}
        for values in running(waveforms):
            picture = values[spectrogram]
            found[SPECTROGRAM].append(picture.reshape(len(picture), *shape))
            for name, tap in taps.items():
                found[name].append(tap.features(values[tap.value]))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    return call
