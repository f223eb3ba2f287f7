"""Bundles of schema 1, which were Perch's only: their manifests as schema 2 has them."""

from __future__ import annotations

import os
from typing import Any

from bce.engine.errors import BundleError, one_line
from bce.engine.frontends import perch

_FIELDS = {
    *("schema", "name", "source", "blocks", "outputs", "head", "preparation", "variants", "files", "parity"),
    *("versions", "notice", "sample_rate", "window_s"),
}
_KINDS = {"embedding": "embedding", "label": "logits"}


def upgraded(content: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """A manifest of schema 1 with the fields of schema 2.

    Raises:
        BundleError: naming a field that schema 1 does not have, or lacks.
    """
    for name in content:
        if name not in _FIELDS:
            raise BundleError(f"has the unknown field '{one_line(name)}': schema 1 does not have it", path)
    try:
        for name in ("head", "blocks"):
            if not isinstance(content[name], dict):  # a list of pairs would make one too, with keys of any kind
                raise TypeError(name)
        head, blocks = dict(content["head"]), dict(content["blocks"])
        outputs = [
            {"name": name, "kind": _KINDS.get(name, "block"), "width": blocks.get(name)} for name in content["outputs"]
        ]
        preparation = content["preparation"]
        if head.get("kind") == "perch":
            head["kind"] = "own"
        score = {"none": None, "own": {"output": "label"}}.get(head.get("kind", ""), {"output": "head"})
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"is not a manifest of schema 1: {one_line(repr(error))} is missing or wrong", path) from None
    kept = ("name", "source", "variants", "files", "parity", "versions", "notice")
    return {
        "schema": 2,
        "family": "perch",
        "window": {
            "sample_rate": content.get("sample_rate", perch.WINDOW.sample_rate),
            "window_s": content.get("window_s", perch.WINDOW.window_s),
        },
        "input": {"name": perch.INPUT, "shape": list(perch.SHAPE)},
        "frontend": {"kind": perch.KIND, "preparation": preparation},
        "outputs": outputs,
        "score": score,
        "head": head,
        **{name: content[name] for name in kept if name in content},
    }
