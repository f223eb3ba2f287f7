"""What every reader of a form of files gives: a network as terms, and a way to run the file for some of its values.

A reader knows a form and no network but this: files take waveforms, make one spectrogram (time, bands) of them, and
the network begins with a two-dimensional convolution of it. It is told what a family expects of its files, finds the
network's input there, and says everything behind it in :mod:`bce.export.readers.terms`; recognising the network is the
family's. To add a form, write a function like :func:`bce.export.readers.onnx_reader.open_onnx`, and let the family's
sources choose it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bce.engine.geometry import WindowSpec
from bce.export.readers.steps import Input, Term
from bce.export.readers.terms import Tensor, Terms

Key = TypeVar("Key", bound=Hashable)
"""What a file calls its values: a name or an index."""
Array = NDArray[np.float32]
Run = Callable[[Array], Iterator[Mapping[Key, Array]]]
"""Takes samples [n, samples of a window], any n; gives the values of some windows at a time, in order."""


@dataclass(frozen=True)
class Expectation:
    """What a family knows of its files before one is opened.

    Attributes:
        window: of the waveforms that a file takes, [batch, samples].
        spectrogram: (frames, bands) of the network's input, which the file computes from a window.
        name: what the family calls the spectrogram, for messages.
        length_offset: what the family adds to a vector's length before it divides by it.
    """

    window: WindowSpec
    spectrogram: tuple[int, int]
    name: str
    length_offset: float

    @property
    def input(self) -> str:
        """The expected input in words."""
        return waveforms_of(self.window)

    def axes(self, batch: int, shape: Sequence[int]) -> tuple[tuple[tuple[str, int], ...], ...]:
        """What the axes of a spectrogram [batch, ...] hold; unit axes may stand anywhere."""
        labels = iter("tm")
        return ((("n", batch),), *(((next(labels), size),) if size > 1 else () for size in shape[1:]))

    def fits(self, batch: int, shape: Sequence[int]) -> bool:
        """Whether a value of this shape may be the spectrogram."""
        return (*shape[:1], *(n for n in shape[1:] if n != 1)) == (batch, *self.spectrogram)

    def missed(self, batch: int, shapes: Sequence[Sequence[int]]) -> str:
        """The refusal where none of the values before the network may be the spectrogram."""
        frames, bands = self.spectrogram
        found = ", ".join(str(list(shape)) for shape in shapes)
        return f"{self.name}: expected [{batch}, {frames}, {bands}] (time, mel), found {found}"


def waveforms_of(window: WindowSpec) -> str:
    """What a file takes, in words."""
    return f"[batch, {window.samples}] ({window.window_s:g} s at {window.sample_rate / 1000:g} kHz)"


@dataclass(frozen=True)
class Output:
    """An output of a file: the name that the file gives it, and how many axes it has, None where that is not stated."""

    name: str
    rank: int | None


@dataclass(frozen=True)
class Opened(Generic[Key]):
    """A file that has been opened: its network as terms, and how to run it.

    Attributes:
        path: the file.
        form: "onnx", "tflite", ...
        input: the term of the network's input.
        spectrogram: the value that is the network's input.
        terms: where the terms were made.
        tensors: every value that is computed from the network's input.
        outputs: the file's outputs among them, in order.
        batch: how many windows the file takes at once; None for any number.
        run: gets the file ready to run for some of its values, with nothing computed that they don't need; raises
            :class:`bce.export.sources.CannotRun` where that is not possible here.
        named: whether outputs keep the names they were exported with.
        metadata: the file's own key-value pairs.
        notes: what a proof should say of the file, a line each.
        lossy: whether its weights were rounded to fewer than 32 bits.
        beside: other files that hold weights of it.
    """

    path: Path
    form: str
    input: Input
    spectrogram: Key
    terms: Terms
    tensors: Mapping[Key, Tensor]
    outputs: Mapping[Key, Output]
    batch: int | None
    run: Callable[[Sequence[Key]], Run[Key]] = field(repr=False)
    named: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lossy: bool = False
    beside: tuple[Path, ...] = ()

    @property
    def ends(self) -> list[Term]:
        """The terms of the outputs."""
        return [self.terms.resolve(self.tensors[key]) for key in self.outputs]


class Reader(Protocol):
    """Opens files of one form."""

    def __call__(self, path: Path, expected: Expectation, /) -> Opened[Any]:
        """Open a file.

        Raises:
            ExportError: it is not a whole file of the form, or not what the family expects; the reason says in what.
        """
        ...


def in_batches(call: Callable[[Array], Mapping[Key, Array]], batch: int, fixed: bool) -> Run[Key]:
    """Run any number of windows through what takes ``batch`` at once.

    Args:
        call: windows -> values by key, each [windows, ...].
        batch: windows in a call.
        fixed: whether every call must have as many; the last is then filled up with silence.
    """

    def run(waveforms: Array) -> Iterator[Mapping[Key, Array]]:
        for start in range(0, len(waveforms), batch):
            windows = np.asarray(waveforms[start : start + batch], np.float32)
            count = len(windows)
            if fixed and count < batch:
                windows = np.concatenate([windows, np.zeros((batch - count, *windows.shape[1:]), np.float32)])
            yield {key: array[:count] for key, array in call(windows).items()}

    return run
