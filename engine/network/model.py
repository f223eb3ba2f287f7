"""The network behind two calls: inputs of windows to features, features to logits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bce.engine.errors import BundleError, one_line, shown
from bce.engine.network.bundle import CLASSES, HEAD, LOGITS, MANIFEST, Bundle
from bce.engine.network.manifest import Score
from bce.engine.network.runtimes import open_backbone
from bce.engine.network.sessions import check_nodes, open_session, run_session
from bce.engine.results import Features
from bce.engine.scales import to_logits


class Model:
    """A bundle's backbone and head, ready to run. Calls are thread-safe.

    Args:
        bundle: a checked bundle.
        precision, backend, threads, objects: as in :func:`bce.engine.network.runtimes.open_backbone`.

    Attributes:
        form: what runs the backbone.
        widths: width of each output of the backbone by name, in order.
        outputs: the names alone.
        classes: how many logits there are.

    Raises:
        BundleError: a graph cannot be loaded, or is not what the manifest says.
        OptionsError: the backend is not installed, or cannot run the precision or the graph here.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "fp32",
        backend: str = "auto",
        threads: int = 1,
        objects: Path | None = None,
    ) -> None:
        self._backbone = open_backbone(bundle, precision, backend, threads, objects)
        self.form = self._backbone.form
        self.widths = self._backbone.widths
        self.outputs = tuple(self.widths)
        self.classes = len(bundle.classes)
        self._score = bundle.manifest.score
        self._head = None
        widths = self.widths
        if bundle.manifest.head.trained:
            self._head = _Head(bundle.path / HEAD, self.widths)
            widths = {"head": self._head.classes}
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
            scores = self._head.run(features)
        if self._score.space == "logit":
            return scores
        return to_logits(scores).astype(np.float32)


class _Head:
    """A trained head's graph: outputs of the backbone by name to logits.

    Args:
        path: the graph.
        widths: width of each output of the backbone.
    """

    def __init__(self, path: Path, widths: Mapping[str, int]) -> None:
        self._path = path
        self._session = open_session(path)
        inputs = self._session.get_inputs()
        self._inputs = [node.name for node in inputs]
        missing = [name for name in self._inputs if name not in widths]
        if missing:
            raise BundleError(f"wants {one_line(', '.join(missing))}, which the backbone does not give", path)
        if not inputs:
            raise BundleError("takes nothing, expected outputs of the backbone", path)
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        if LOGITS not in outputs:
            raise BundleError(f"puts out {one_line(', '.join(outputs))}, expected {LOGITS}", path)
        check_nodes(self._session, path, one_window=False)
        for node in inputs:
            if len(node.shape) != 2 or (isinstance(node.shape[1], int) and node.shape[1] != widths[node.name]):
                raise BundleError(
                    f"wants {node.name} {node.shape[1:]}, the backbone gives {widths[node.name]} numbers", path
                )
        shape = outputs[LOGITS]
        if len(shape) != 2 or not isinstance(shape[1], int):
            raise BundleError(f"puts out {LOGITS} {shape[1:]}, expected a known number for each window", path)
        self.classes = shape[1]

    def run(self, features: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Logits [windows, classes] of features by name, each [windows, width]."""
        feed = {name: features[name] for name in self._inputs}
        return run_session(self._session, self._path, feed, {LOGITS: self.classes})[0]


def _check_classes(bundle: Bundle, score: Score, width: int) -> None:
    """Refuse scores that are not those of the bundle's classes."""
    classes = bundle.classes
    if width != len(classes):
        raise BundleError(
            f"has {len(classes)} classes, but '{score.output}' gives {width} scores", bundle.path / CLASSES
        )
    strange = [label for label in score.unknown if label not in bundle.taxonomy.index]
    if strange:
        raise BundleError(f"field 'score.unknown' names {shown(strange[0])}, which is no class", bundle.path / MANIFEST)
