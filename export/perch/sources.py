"""Weights out of a published Perch v2 file, whatever its form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from bce.engine.errors import ExportError
from bce.engine.files import sha256
from bce.engine.frontends.perch import SHAPE, WINDOW
from bce.export.perch.architecture import EMBEDDING, LABEL
from bce.export.perch.backbone import COSINE_EPSILON
from bce.export.perch.download import published_name
from bce.export.perch.module_reference import ModuleReference
from bce.export.perch.recognise import Recognised, recognise
from bce.export.perch.saved_model import read_saved_model
from bce.export.perch.weights import Weights
from bce.export.readers.base import Expectation, Key, Opened, Reader, Run
from bce.export.readers.onnx_reader import open_onnx
from bce.export.readers.taps import Tap, find_taps, run_taps
from bce.export.readers.tensorflow import file_digests
from bce.export.readers.tflite_reader import open_tflite
from bce.export.sources import UNKNOWN, Reference, Source, digest_of, redistribution

LICENCE = "Apache-2.0"
"""Of the published files."""
EXPECTED = Expectation(WINDOW, SHAPE, "log-mel", COSINE_EPSILON)

PerchSource = Source[Weights]


def read_source(path: str | Path) -> PerchSource:
    """Read a published Perch v2 file: an ONNX or TFLite file, or the folder of a SavedModel.

    Raises:
        ExportError: the file is missing, damaged, of another kind, or not the expected network; the message names
            the first thing that differs.
    """
    path = Path(path)
    if path.is_dir():
        return _saved_model(path)
    if not path.is_file():
        raise ExportError("does not exist: give a Perch v2 ONNX or TFLite file, or a SavedModel folder", path)
    return _from_graph(path, _reader(path))


def _reader(path: Path) -> Reader:
    with open(path, "rb") as file:
        is_tflite = file.read(8)[4:] == b"TFL3" or path.suffix == ".tflite"
    return open_tflite if is_tflite else open_onnx


def _from_graph(path: Path, reader: Reader) -> PerchSource:
    """A file of any form whose graph can be walked."""
    opened = reader(path, EXPECTED)
    try:
        network = recognise(opened.input, opened.ends)
        _check_classifier(opened, network)
        terms = {f"block_{index}": term for index, term in enumerate(network.blocks)}
        terms[EMBEDDING] = network.spatial if network.embedding is None else network.embedding
        if network.label is not None:
            terms[LABEL] = network.label
        taps = find_taps(opened, terms)
    except ExportError as error:
        raise ExportError(error.reason, path) from None
    files = {file.relative_to(path.parent).as_posix(): sha256(file) for file in (path, *opened.beside)}
    digest = digest_of(files)
    stated = next((opened.metadata[key] for key in ("license", "licence") if opened.metadata.get(key)), UNKNOWN)
    licence = stated if published_name(digest) is None else LICENCE
    return Source(
        path=path,
        sha256=digest,
        form=opened.form,
        licence=licence,
        notice=opened.metadata.get("notice", ""),
        weights=network.weights,
        # not the whole of what was opened: its terms hold the weights a second time
        runner=partial(_reference, opened.run, opened.spectrogram, taps),
        notes=(*opened.notes, *(_digest_lines(files) if opened.beside else ())),
        lossy=opened.lossy,
        may_redistribute=redistribution(licence),
    )


def _check_classifier(opened: Opened[Key], network: Recognised) -> None:
    """Refuse a file whose logits come from elsewhere than from prototypes."""
    if network.label is not None:
        return
    known = {opened.input, network.spatial, network.embedding, *network.blocks}
    for key, output in opened.outputs.items():
        # where a conversion has made new names, logits are told by their form
        other = output.rank == 2 and opened.terms.known(opened.tensors[key]) not in known
        if output.name == LABEL if opened.named else other:
            raise ExportError(
                f"classifier: expected '{output.name}' to come from prototypes, found another kind of classifier"
            )


def _reference(
    run: Callable[[Sequence[Key]], Run[Key]],
    spectrogram: Key,
    taps: dict[str, Tap[Key]],
    blocks: Sequence[int],
    outputs: Sequence[str],
) -> Reference:
    """The file itself with the wanted values as outputs, and nothing computed that they don't need."""
    wanted = [f"block_{index}" for index in blocks]
    wanted += [name for name in (EMBEDDING, LABEL) if name in outputs and name in taps]
    return run_taps(run, spectrogram, {name: taps[name] for name in wanted}, EXPECTED.spectrogram)


def _saved_model(path: Path) -> PerchSource:
    weights, note = read_saved_model(path)
    files = file_digests(path)
    return Source(
        path=path,
        sha256=digest_of(files),
        form="saved_model",
        licence=UNKNOWN,
        notice="",
        weights=weights,
        runner=partial(ModuleReference, path, weights),
        notes=(note, *_digest_lines(files)),
        may_redistribute=redistribution(UNKNOWN),
    )


def _digest_lines(files: Mapping[str, str]) -> Iterator[str]:
    return (f"source file {name}: SHA-256 {digest}" for name, digest in files.items())
