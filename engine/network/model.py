"""The network behind two calls: log-mel windows to features, features to logits.

ONNX Runtime runs it, or OpenVINO the backbone where that was asked for.

There is one session per graph with one thread inside it, and any number of Python threads may call it: ONNX Runtime
releases the GIL, and a window's activations stay in the caller's cache (measured faster than one call that is
spread over threads).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bce.engine.errors import BundleError
from bce.engine.network.bundle import HEAD, Bundle

BACKENDS = ("onnxruntime", "openvino")

Features = dict[str, NDArray[np.float32]]
"""Outputs of the backbone by name: "block_21" [windows, 232], ..., "embedding", "label"."""


class Model:
    """A bundle's backbone and head, ready to run. Calls are thread-safe.

    Args:
        bundle: a checked bundle.
        precision: which backbone to run, one of the bundle's variants; "bf16" with OpenVINO.
        backend: what runs the backbone, one of :data:`BACKENDS`; OpenVINO is checked against ONNX Runtime first.
        threads: how many threads will call; only OpenVINO needs to know.

    Raises:
        BundleError: the precision is not there, ONNX Runtime cannot load a graph, or a graph's outputs are not
            those that the manifest names, or OpenVINO's numbers are not ONNX Runtime's.
        OptionsError: OpenVINO is not installed or cannot run the precision here.
    """

    def __init__(self, bundle: Bundle, precision: str = "fp32", backend: str = "onnxruntime", threads: int = 1) -> None:
        manifest = bundle.manifest
        path = bundle.backbone("fp32" if backend == "openvino" else precision)
        session = _session(path)
        found = [output.name for output in session.get_outputs()]
        if found != list(manifest.outputs):
            raise BundleError(
                f"puts out {', '.join(found)}, but the manifest names {', '.join(manifest.outputs)}",
                path,
            )
        self.outputs = manifest.outputs
        self.widths = {output.name: int(output.shape[1]) for output in session.get_outputs()}
        self._run: Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]
        if backend == "openvino":
            from bce.engine.network.openvino_backbone import OpenVinoBackbone, check_windows

            other = OpenVinoBackbone(path, precision, threads)
            windows = check_windows()
            other.check(windows, self.outputs, session.run(None, {"log_mel": windows}))
            self._run = other.run
        else:
            self._run = lambda log_mel: session.run(None, {"log_mel": log_mel})
        self.head_kind = manifest.head.kind
        self.classes = len(bundle.classes)
        self._head = None
        if self.head_kind not in ("none", "perch"):
            self._head = _session(bundle.path / HEAD)
            self._head_inputs = [node.name for node in self._head.get_inputs()]
            missing = [name for name in self._head_inputs if name not in self.outputs]
            if missing:
                raise BundleError(f"wants {', '.join(missing)}, which the backbone does not give", bundle.path / HEAD)

    def features(self, log_mel: NDArray[np.float32]) -> Features:
        """Run the backbone.

        Args:
            log_mel: float32 [windows, 500, 128]. One window a call is the fastest.
        """
        return dict(zip(self.outputs, self._run(log_mel), strict=True))

    def logits(self, features: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Class logits [windows, classes] from the backbone's outputs; [windows, 0] for a bundle without a head."""
        if self._head is not None:
            return self._head.run(["logits"], {name: features[name] for name in self._head_inputs})[0]
        if self.head_kind == "perch":
            return features["label"]
        return np.empty((len(next(iter(features.values()))), 0), np.float32)


def _session(path: str | os.PathLike[str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # values far below float32's normal range cost up to a hundred times a normal one, and mean nothing here
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    try:
        return ort.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise BundleError(f"cannot be loaded by ONNX Runtime: {str(error).splitlines()[0]}", path) from error
