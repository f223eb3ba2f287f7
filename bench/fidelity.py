"""``bce-bench fidelity``: every form of the backbone against ONNX Runtime, over all windows of given recordings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bce.bench.backbones import REFERENCE, Distance, backbones
from bce.bench.machine import Watch
from bce.bench.machine import describe as describe_machine
from bce.bench.materials import Work, bundle, describe, model_file, recordings
from bce.engine.audio.reader import AudioReader
from bce.engine.audio.recordings import audio_files
from bce.engine.errors import AudioError, OptionsError


@dataclass(frozen=True)
class FidelityOptions:
    """What to compare.

    Attributes:
        given_bundle: a bundle with a head; None makes one.
        perch: what it is made from; None for a stand-in.
        audio: recordings and folders; empty for synthetic soundscapes.
        precisions: of the bundle that is made.
        most: windows, 0 for all there are.
    """

    given_bundle: Path | None = None
    perch: Path | None = None
    audio: tuple[Path, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    most: int = 0

    def __post_init__(self) -> None:
        if self.most < 0:
            raise OptionsError(f"windows is {self.most}: it must be 0 or more")


def fidelity(options: FidelityOptions, work: Work) -> dict[str, Any]:
    """Compare, window by window without shifts; what cannot be read to its end is counted up to there."""
    made = bundle(work, options.given_bundle, lambda: model_file(work, options.perch), options.precisions)
    found = [path for given in options.audio or [recordings(work, None, 6)] for path in audio_files(given)]
    machine, watch = describe_machine(), Watch()
    absent: dict[str, str] = {}
    forms = {form.name: form.run for form in backbones(made, 1, absent)}
    trusted = forms.pop(REFERENCE)
    distances = {name: Distance(made.manifest.output_names) for name in forms}
    frontend, manifest = made.frontend(), made.manifest
    windows, unreadable = 0, []
    x = np.empty((1, *frontend.shape), np.float32)
    for number, path in enumerate(found):
        if options.most and windows >= options.most:
            break
        work.say(f"{number + 1} of {len(found)}: {path.name}")
        try:
            with AudioReader(path, manifest.window.sample_rate, manifest.grid, 0.0) as reader:
                for block in reader:
                    opened = frontend.open(block.samples, block.start_sample)
                    for chunk in range(block.chunks):
                        opened.window((block.first_chunk + chunk) * block.chunk_samples, x[0])
                        expected = trusted(x)
                        for name, run in forms.items():
                            distances[name].add(expected, run(x))
                        windows += 1
        except AudioError as error:
            unreadable.append(f"{path}: {error.reason}")
    if not windows:
        raise OptionsError(f"no recording has a window: {'; '.join(unreadable[:1]) or 'they are too short'}")
    return {
        "kind": "fidelity",
        "machine": machine,
        "weights": describe(made),
        "recordings": len(found),
        "unreadable": unreadable,
        "windows": windows,
        "audio": [str(path) for path in options.audio],
        "forms": [{"name": name, "distance": distance.to_json()} for name, distance in distances.items()],
        "absent": absent,
        "load": watch.stop(),
    }
