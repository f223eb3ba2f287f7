"""Weights out of a published BirdNET v2.4 TFLite file, and the file itself under LiteRT."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, ExportError
from bce.engine.files import sha256
from bce.engine.frontends.birdnet import SHAPE, WINDOW
from bce.export.birdnet.architecture import EMBEDDING, LOGITS
from bce.export.birdnet.frontend import read_frontend
from bce.export.birdnet.recognise import recognise
from bce.export.birdnet.weights import Weights
from bce.export.readers.steps import Input
from bce.export.readers.terms import Tensor
from bce.export.readers.tflite_graph import TfliteGraph, damage_told
from bce.export.readers.tflite_reader import check_waveforms, losses, running
from bce.export.readers.tflite_terms import translate
from bce.export.sources import SPECTROGRAM, Reference, Source

LICENCE = "CC-BY-NC-SA-4.0"
NOTICE = (
    "BirdNET v2.4 by the K. Lisa Yang Center for Conservation Bioacoustics (Cornell Lab of Ornithology) and Chemnitz "
    "University of Technology, CC BY-NC-SA 4.0: not for commercial use; name BirdNET with what you publish"
)

BirdnetSource = Source[Weights]


def read_source(path: str | Path) -> BirdnetSource:
    """Read a BirdNET v2.4 TFLite file, with weights in float32, float16 or int8, and any number of classes.

    Raises:
        ExportError: the file is missing, damaged, of another kind, or not the expected network; the message names the
            first thing that differs.
    """
    path = Path(path)
    graph = TfliteGraph(path)
    try:
        with damage_told(path):
            batch = check_waveforms(graph, WINDOW)
            frontend = read_frontend(graph)
            entry = Input(())
            _, bands, frames = SHAPE
            # terms call the axes of a map time and mel, in this order; here mel comes first
            axes = ((("n", batch),), (("t", bands),), (("m", frames),), (("c", SHAPE[0]),))
            terms, tensors = translate(graph, frontend.output, Tensor(entry, axes), 0.0)
            outputs = [terms.resolve(tensors[index]) for index in graph.outputs if index in tensors]
            found = recognise(entry, outputs, frontend.branches)
    except (ExportError, BundleError) as error:
        raise ExportError(f"is not BirdNET v2.4: {error.reason}", path) from None
    values = {SPECTROGRAM: frontend.output}
    places = {terms.known(tensor): index for index, tensor in reversed(tensors.items())}
    values |= {EMBEDDING: places[found.embedding], LOGITS: places[found.logits]}
    return Source(
        path=path,
        sha256=sha256(path),
        form="tflite",
        licence=LICENCE,
        notice=NOTICE,
        weights=found.weights,
        runner=partial(_reference, path, batch, values),
        notes=tuple(losses(graph)),
        lossy=bool(graph.rounded),
        may_redistribute=False,
    )


def _reference(
    path: Path, batch: int, values: dict[str, int], blocks: Sequence[int], outputs: Sequence[str]
) -> Reference:
    """The file under LiteRT with its spectrogram, embedding and logits as outputs."""
    run = running(TfliteGraph(path), path, list(values.values()), batch)

    def call(waveforms: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        parts = list(run(waveforms))
        found = {name: np.concatenate([part[index] for part in parts]) for name, index in values.items()}
        found[SPECTROGRAM] = np.ascontiguousarray(found[SPECTROGRAM].transpose(0, 3, 1, 2))
        return found

    return call
