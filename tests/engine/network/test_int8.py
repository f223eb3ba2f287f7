"""The file that says which products of a network are int8: written, read, refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.programs import network

from bce.engine.compiled.layers import Rounded
from bce.engine.compiled.maps import Element
from bce.engine.compiled.products import products
from bce.engine.errors import BundleError
from bce.engine.network.int8 import Int8Form

LAYERS = network("patches")


def form() -> Int8Form:
    """Every second product is int8, with weights of its shape."""
    rng = np.random.default_rng(0)
    elements: dict[str, Element] = {}
    rounded = {}
    for number, (name, layer) in enumerate(products(LAYERS).items()):
        elements[name] = "i8" if number % 2 else ("i16" if number % 4 else "f32")
        if elements[name] == "i8":
            values = rng.integers(-127, 128, layer.weight.shape).astype(np.int8)
            scale = rng.uniform(0.01, 0.1, len(values)).astype(np.float32)
            rounded[name] = Rounded(values, scale), rng.standard_normal(len(values)).astype(np.float32)
    return Int8Form(elements, rounded)


def test_there_and_back(tmp_path: Path) -> None:
    made, path = form(), tmp_path / "int8.npz"
    made.save(path)
    first = path.read_bytes()
    made.save(path)
    assert path.read_bytes() == first
    found = Int8Form.load(path)
    assert found.elements == made.elements
    changed = products(found.applied(LAYERS))
    for name, layer in products(LAYERS).items():
        assert np.array_equal(changed[name].weight, layer.weight)
        if made.elements[name] == "i8":
            rounded, bias = made.rounded[name]
            assert np.array_equal(changed[name].rounded.values, rounded.values)
            assert np.array_equal(changed[name].rounded.scale, rounded.scale)
            assert np.array_equal(changed[name].bias, bias)
        else:
            assert changed[name].rounded is None
            assert np.array_equal(changed[name].bias, layer.bias)


def arrays() -> dict[str, Any]:
    made = form()
    found: dict[str, Any] = {
        "format": np.array(1),
        "names": np.array(list(made.elements)),
        "elements": np.array(list(made.elements.values())),
    }
    for name, (rounded, bias) in made.rounded.items():
        found |= {f"{name}.values": rounded.values, f"{name}.scale": rounded.scale, f"{name}.bias": bias}
    return found


ONE = next(iter(form().rounded))
WRONG: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda a: a.pop("names"), "is not an int8 form of a network: it has no array 'names'"),
    (lambda a: a.update(format=np.array(2)), "of another format than 1"),
    (lambda a: a.update(names=a["names"][1:]), "are not two lists of the same length"),
    (lambda a: a.update(names=np.arange(len(a["names"]))), "are not two lists"),
    (lambda a: a.update(elements=np.where(a["elements"] == "i16", "i4", a["elements"])), "is 'i4', expected f32"),
    (lambda a: a.pop(f"{ONE}.scale"), f"lacks the array '{ONE}.scale', or should not have it"),
    (lambda a: a.update(more=np.zeros(1)), "lacks the array 'more', or should not have it"),
    (lambda a: a.update({f"{ONE}.values": a[f"{ONE}.values"].astype(np.int16)}), "are not int8"),
    (lambda a: a.update({f"{ONE}.values": np.full_like(a[f"{ONE}.values"], -128)}), "within +-127"),
    (lambda a: a.update({f"{ONE}.scale": a[f"{ONE}.scale"] * np.float32(np.nan)}), "is not finite float32"),
    (lambda a: a.update({f"{ONE}.scale": -a[f"{ONE}.scale"]}), "is not above 0"),
    (lambda a: a.update({f"{ONE}.bias": a[f"{ONE}.bias"][1:]}), "is not finite float32"),
    (lambda a: a.update(names=np.array([f"{n}x" for n in a["names"]])), "lacks the array"),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_is_wrong_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any], says: str) -> None:
    given = arrays()
    change(given)
    np.savez(tmp_path / "int8.npz", **given)
    with pytest.raises(BundleError) as caught:
        Int8Form.load(tmp_path / "int8.npz")
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "int8.npz"))


def test_what_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "int8.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match="is not an int8 form of a network"):
        Int8Form.load(tmp_path / "int8.npz")


def test_another_network() -> None:
    with pytest.raises(BundleError, match="with other products: export the bundle again"):
        form().applied(network("deep"))
    made = form()
    rounded, bias = made.rounded[ONE]
    made.rounded[ONE] = Rounded(rounded.values[:, 1:], rounded.scale), bias
    with pytest.raises(BundleError, match=f"has {ONE} as .*, the network's is"):
        made.applied(LAYERS)
