"""The embedded bundle with int8: for the kernels, for ONNX Runtime, or for both; each weight to the nearest number."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np

from bce.engine.compiled.layers import Rounded
from bce.engine.compiled.maps import Element
from bce.engine.compiled.products import products
from bce.engine.network.bundle import Bundle
from bce.engine.network.default import bundle_path
from bce.engine.network.int8 import INT8, Int8Form
from bce.engine.network.mbconv import read_layers

GRAPH = "backbone.int8.onnx"


def nearest(bundle: Bundle) -> Int8Form:
    """Its products, the first in float32, the last in 16 bits, all others of bytes."""
    known = products(read_layers(bundle.backbone()))
    elements: dict[str, Element] = dict.fromkeys(known, "i8")
    first, *_, last = known
    elements |= {first: "f32", last: "i16"}
    rounded = {}
    for name, element in elements.items():
        if element == "i8":
            weight, bias = known[name].weight, known[name].bias
            scale = np.maximum(np.abs(weight).max(axis=1) / 127, 1e-12).astype(np.float32)
            rounded[name] = Rounded(np.rint(weight / scale[:, None]).astype(np.int8), scale), bias
    return Int8Form(elements, rounded)


def with_int8(folder: Path, *, kernels: bool, graph: bool) -> Bundle:
    """A bundle in a new folder; its graph for int8 is the float32 one under another name."""
    shutil.copytree(bundle_path(), folder)
    manifest = folder / "bundle.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    if kernels:
        nearest(Bundle.load(folder)).save(folder / INT8)
    if graph:
        shutil.copy(folder / content["variants"]["fp32"], folder / GRAPH)
        content["variants"]["int8"] = GRAPH
    for name, there in ((INT8, kernels), (GRAPH, graph)):
        if there:
            content["files"][name] = sha256((folder / name).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content), encoding="utf-8")
    return Bundle.load(folder)
