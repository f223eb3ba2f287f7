"""What ONNX Runtime makes of a bundle's checked inputs: the numbers that whatever else runs a backbone is held to.

They are computed once and kept in the user's own cache, beside the kernels: a later start reads a small file where it
would load the graph a second time, which takes half a second and 100 MB.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from contextlib import suppress
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from bce.engine import cache
from bce.engine.files import sha256
from bce.engine.network.bundle import Bundle
from bce.engine.network.onnx_backbone import OnnxRuntimeBackbone
from bce.engine.network.onnx_runtime import ort
from bce.engine.results import Features

_FORMAT = "bce numbers 1"
_DIGEST = hashlib.sha256().digest_size


def reference(bundle: Bundle, inputs: NDArray[np.float32], *, anew: bool = False) -> Features:
    """ONNX Runtime's outputs of the bundle's float32 graph by name, in order, each float32 [inputs, width].

    Args:
        bundle: a checked bundle.
        inputs: of :func:`bce.engine.network.checking.check_inputs`.
        anew: compute them whatever is kept.

    Raises:
        BundleError: ONNX Runtime cannot run the graph, or it is not what the manifest says.
    """
    digest = bundle.manifest.files[bundle.manifest.variants["fp32"]]
    key = _key(bundle, digest, inputs)
    name = f"{key[:32]}{cache.NUMBERS}"
    if not anew and (content := cache.read(name)) is not None:
        with suppress(ValueError):  # damaged: computed anew
            return _unpack(content, key)
    computed = _compute(bundle, inputs)
    if sha256(bundle.backbone()) == digest:  # else it was replaced since the bundle was checked
        cache.write(name, _pack(computed, key))
    return computed


def _key(bundle: Bundle, digest: str, inputs: NDArray[np.float32]) -> str:
    """What the numbers depend on, and what was found right of the graph when they were computed."""
    manifest = bundle.manifest
    parts = (
        _FORMAT,
        ort.__version__,
        digest,
        asdict(manifest.input),
        [asdict(output) for output in manifest.outputs],
        hashlib.sha256(inputs.tobytes()).hexdigest(),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _pack(numbers: Features, key: str) -> bytes:
    """A hash, a line that names the outputs, their rows one after another."""
    line = json.dumps([[name, *rows.shape] for name, rows in numbers.items()]).encode()
    content = line + b"\n" + b"".join(rows.tobytes() for rows in numbers.values())
    return _digest(content, key) + content


def _unpack(packed: bytes, key: str) -> Features:
    """The same back.

    Raises:
        ValueError: it is not what was packed under this key.
    """
    content = packed[_DIGEST:]
    if packed[:_DIGEST] != _digest(content, key):
        raise ValueError("is damaged")
    line, _, rows = content.partition(b"\n")
    shapes = {name: (inputs, width) for name, inputs, width in json.loads(line)}
    ends = np.cumsum([inputs * width for inputs, width in shapes.values()])
    parts = np.split(np.frombuffer(rows, np.float32), ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _digest(content: bytes, key: str) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _compute(bundle: Bundle, inputs: NDArray[np.float32]) -> Features:
    """The numbers out of a session, whose memory is free again afterwards."""
    trusted = OnnxRuntimeBackbone(bundle, "fp32")
    rows = [trusted.run(inputs[place : place + 1]) for place in range(len(inputs))]  # one by one takes least memory
    computed = dict(zip(trusted.widths, map(np.concatenate, zip(*rows, strict=True)), strict=True))
    del trusted
    _give_back()
    return computed


def _give_back() -> None:
    """Let the system have the memory that was freed: glibc keeps 100 MB of what ONNX Runtime had."""
    with suppress(OSError, AttributeError, TypeError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)
