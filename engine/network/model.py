"""The network behind two calls: inputs of windows to features, features to logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.network.bundle import CLASSES, HEAD, LOGITS, MANIFEST, Bundle
from bce.engine.network.manifest import Score
from bce.engine.network.runtimes import open_backbone
from bce.engine.network.sessions import open_session
from bce.engine.results import Features
from bce.engine.scales import to_logits


class Model:
    """A bundle's backbone and head, ready to run. Calls are thread-safe.

    Args:
        bundle: a checked bundle.
        precision: which backbone to run, one of the bundle's variants; "bf16" with OpenVINO.
        backend: what runs the backbone, one of :data:`bce.engine.network.runtimes.BACKENDS`.
        threads: how many threads will call; only OpenVINO needs to know.

    Raises:
        BundleError: a graph cannot be loaded, or is not what the manifest says.
        OptionsError: the backend is not installed or cannot run the precision here.
    """

    def __init__(self, bundle: Bundle, precision: str = "fp32", backend: str = "onnxruntime", threads: int = 1) -> None:
        self._backbone = open_backbone(bundle, precision, backend, threads)
        self.widths = self._backbone.widths
        self.outputs = tuple(self.widths)
        self.classes = len(bundle.classes)
        self._score = bundle.manifest.score
        self._head = None
        widths: dict[str, object] = dict(self.widths)
        if bundle.manifest.head.trained:
            path = bundle.path / HEAD
            self._head = open_session(path)
            self._head_inputs = [node.name for node in self._head.get_inputs()]
            missing = [name for name in self._head_inputs if name not in self.outputs]
            if missing:
                raise BundleError(f"wants {', '.join(missing)}, which the backbone does not give", path)
            outputs = {node.name: node.shape[-1] for node in self._head.get_outputs()}
            if LOGITS not in outputs:
                raise BundleError(f"puts out {', '.join(outputs)}, expected {LOGITS}", path)
            widths = {"head": outputs[LOGITS]}
        if self._score is not None:
            _check_classes(bundle, self._score, widths[self._score.output])

    def features(self, inputs: NDArray[np.float32]) -> Features:
        """Run the backbone.

        Args:
            inputs: float32 [windows, *shape of one], as the bundle's frontend makes them. One window a call is the
                fastest.
        """
        return dict(zip(self.outputs, self._backbone.run(inputs), strict=True))

    def logits(self, features: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Class logits [windows, classes] from the backbone's outputs; [windows, 0] for a bundle without scores."""
        if self._score is None:
            return np.empty((len(next(iter(features.values()))), 0), np.float32)
        if self._head is None:
            scores = features[self._score.output]
        else:
            scores = self._head.run([LOGITS], {name: features[name] for name in self._head_inputs})[0]
        if self._score.space == "logit":
            return scores
        return to_logits(scores).astype(np.float32)


def _check_classes(bundle: Bundle, score: Score, width: object) -> None:
    """Refuse scores that are not those of the bundle's classes."""
    classes = bundle.classes
    if width != len(classes):
        raise BundleError(
            f"has {len(classes)} classes, but '{score.output}' gives {width} scores", bundle.path / CLASSES
        )
    strange = [label for label in score.unknown if label not in bundle.taxonomy.index]
    if strange:
        raise BundleError(f"field 'score.unknown' names '{strange[0]}', which is no class", bundle.path / MANIFEST)
