"""A Perch v2 SavedModel under TensorFlow, where it can run the module: its numbers are a reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bce.engine.errors import ParityError
from bce.engine.frontends.perch import WINDOW
from bce.export.perch.architecture import EMBEDDING, FRAMES, LABEL, MELS
from bce.export.perch.backbone import build, pooled
from bce.export.perch.leaves import Shape
from bce.export.perch.weights import Weights
from bce.export.readers.tensorflow import SIGNATURE, telling_line, tensorflow
from bce.export.sources import SPECTROGRAM, CannotRun

REBUILT_RELATIVE_L2 = 1e-3
"""What the embedding of the rebuilt network may differ from the module's, on the module's own log-mel. Rounding gives
about 1e-5 and up to 2e-4 on silence; another activation, padding or order of the variables gives more than 1e-2."""

Array = NDArray[np.float32]


class ModuleReference:
    """The module's ``serving_default``, one window at a time: each batch size is compiled anew.

    The module does not show its blocks. Their features come from the network rebuilt in torch, run on the module's
    own log-mel, and are given out only where the embedding of that network is the module's: every block leads to it.

    Args:
        folder: of the SavedModel.
        weights: that were read from it.
        blocks, outputs: as in :meth:`bce.export.sources.Source.reference`.

    Attributes:
        notes: lines for the proof.

    Raises:
        CannotRun: TensorFlow cannot run the module on this machine.
    """

    def __init__(self, folder: Path, weights: Weights, blocks: Sequence[int], outputs: Sequence[str]) -> None:
        tf = tensorflow()
        try:
            # kept: the signature alone does not hold the variables
            self._module = tf.saved_model.load(str(folder))
            self._signature = self._module.signatures[SIGNATURE]
            (self._waveform,) = self._signature.structured_input_signature[1]
            self._names = _output_names(self._signature, weights)
            self._signature(**{self._waveform: tf.zeros([1, WINDOW.samples])})
        except KeyError:
            raise CannotRun(f"has no signature '{SIGNATURE}'", folder) from None
        except (tf.errors.OpError, ValueError, TypeError, OSError) as error:
            reason = telling_line(error)
            raise CannotRun(f"TensorFlow {tf.__version__} cannot run it here ({reason})", folder) from None
        if SPECTROGRAM not in self._names or (blocks and EMBEDDING not in self._names):
            raise CannotRun("does not put out the log-mel and the embedding, nothing can be compared", folder)
        self._folder = folder
        self._network = build(weights)
        self._blocks = tuple(blocks)
        wanted = (name for name in (EMBEDDING, LABEL) if name in outputs and name in self._names)
        self._kept = (SPECTROGRAM, *wanted)
        rebuilt = (
            "the module does not show its blocks: their numbers are those of the network rebuilt in torch, whose "
            f"embedding was the module's to relative L2 {REBUILT_RELATIVE_L2:g} on every window"
        )
        self.notes: tuple[str, ...] = (rebuilt,) if blocks else ()

    def __call__(self, waveforms: Array, /) -> dict[str, Array]:
        """See :class:`bce.export.sources.Reference`."""
        tf = tensorflow()
        rows = []
        for window in np.asarray(waveforms, np.float32):
            found = self._signature(**{self._waveform: tf.constant(window[None])})
            rows.append({name: found[key].numpy() for name, key in self._names.items()})
        arrays = {name: np.concatenate([row[name] for row in rows]) for name in self._names}
        arrays[SPECTROGRAM] = arrays[SPECTROGRAM].reshape(-1, FRAMES, MELS)
        features = self._rebuilt(arrays[SPECTROGRAM], arrays[EMBEDDING]) if self._blocks else {}
        return {name: arrays[name] for name in self._kept} | features

    def _rebuilt(self, spectrogram: Array, embedding: Array) -> dict[str, Array]:
        with torch.no_grad():
            maps = self._network.block_maps(torch.from_numpy(spectrogram))
            found = pooled(self._network.head(maps[-1])).numpy()
            features = {f"block_{index}": pooled(maps[index]).numpy() for index in self._blocks}
        difference = float(np.linalg.norm(found - embedding) / np.linalg.norm(embedding))
        if not difference <= REBUILT_RELATIVE_L2:
            raise ParityError(
                "the network rebuilt from its variables does not give its embedding: relative L2 "
                f"{difference:.1e}, allowed {REBUILT_RELATIVE_L2:g}; its layers are computed otherwise (another "
                "activation or padding), or its variables have another order",
                self._folder,
            )
        return features


def _output_names(signature: Any, weights: Weights) -> dict[str, str]:
    """The signature's outputs by what they are: by name, or by shape where the names differ."""
    shapes = {name: tuple(spec.shape.as_list()[1:]) for name, spec in signature.structured_outputs.items()}
    wanted: dict[str, Shape] = {SPECTROGRAM: (FRAMES, MELS), EMBEDDING: (weights.architecture.head_channels,)}
    if weights.prototypes is not None:
        wanted[LABEL] = (weights.prototypes.classes,)
    names = {}
    for what, shape in wanted.items():
        fitting = [name for name, found in shapes.items() if found == shape]
        if fitting:
            names[what] = what if what in fitting else fitting[0]
    return names
