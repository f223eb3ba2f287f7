"""``int8.npz``: which products of a bundle's network the kernels run in which precision, and their integer weights.

The float32 graph stays the one source of layers and shapes; this file only says what takes the place of its weights.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bce.engine.arrays import read_arrays
from bce.engine.compiled.layers import Array, Layers, Rounded
from bce.engine.compiled.maps import WHOLE, Element, levels
from bce.engine.compiled.products import products, with_rounded
from bce.engine.errors import BundleError, TableError, one_line, shown
from bce.engine.files import write_bytes

INT8 = "int8.npz"
"""The file in a bundle."""
_FORMAT = 1
_WHAT = "an int8 form of a network"
_PARTS = ("values", "scale", "bias")
_ELEMENTS: tuple[Element, ...] = ("f32", *WHOLE)
_LARGEST = levels("i8", 1).weight


@dataclass(frozen=True, eq=False)
class Int8Form:
    """What an int8 form changes.

    Attributes:
        elements: of each product by its name (:mod:`bce.engine.compiled.products`).
        rounded: weights and bias of those that are "i8".
    """

    elements: dict[str, Element]
    rounded: dict[str, tuple[Rounded, Array]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as ``.npz``: the same bytes for the same form."""
        arrays: dict[str, NDArray[Any]] = {
            "format": np.array(_FORMAT),
            "names": np.array(list(self.elements)),
            "elements": np.array(list(self.elements.values())),
        }
        for name, (rounded, bias) in self.rounded.items():
            arrays |= {f"{name}.values": rounded.values, f"{name}.scale": rounded.scale, f"{name}.bias": bias}
        stream = io.BytesIO()
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        write_bytes(path, stream.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            BundleError: the file cannot be read, is damaged, or says something else.
        """
        file = Path(path)
        try:
            arrays = read_arrays(file, _WHAT)
        except TableError as error:
            raise BundleError(error.reason, file) from None
        try:
            return cls._of(arrays)
        except BundleError as error:
            raise BundleError(error.reason, file) from None

    @classmethod
    def _of(cls, arrays: dict[str, NDArray[Any]]) -> Self:
        for name in ("format", "names", "elements"):
            if name not in arrays:
                raise BundleError(f"is not {_WHAT}: it has no array '{name}'")
        if arrays["format"].tolist() != _FORMAT:
            raise BundleError(f"is {_WHAT} of another format than {_FORMAT}: it was written by another version")
        names, elements = arrays["names"], arrays["elements"]
        if names.ndim != 1 or names.dtype.kind != "U" or elements.shape != names.shape:
            raise BundleError("'names' and 'elements' are not two lists of the same length")
        chosen: dict[str, Element] = dict(zip(names.tolist(), elements.tolist(), strict=True))
        for name, element in chosen.items():
            if element not in _ELEMENTS:
                raise BundleError(f"{shown(name)} is {shown(element)}, expected {', '.join(_ELEMENTS)}")
        whole = [name for name, element in chosen.items() if element == "i8"]
        expected = {"format", "names", "elements", *(f"{name}.{part}" for name in whole for part in _PARTS)}
        if odd := set(arrays) ^ expected:
            raise BundleError(f"lacks the array {shown(min(odd))}, or should not have it")
        return cls(chosen, {name: _weights(name, *(arrays[f"{name}.{part}"] for part in _PARTS)) for name in whole})

    def applied(self, layers: Layers) -> Layers:
        """The network with these integer weights.

        Raises:
            BundleError: it has other products, or of other shapes.
        """
        known = products(layers)
        if list(self.elements) != list(known):
            raise BundleError(f"is {_WHAT} with other products: export the bundle again")
        for name, (rounded, _) in self.rounded.items():
            if rounded.values.shape != known[name].weight.shape:
                raise BundleError(
                    f"has {one_line(name)} as {list(rounded.values.shape)}, the network's is "
                    f"{list(known[name].weight.shape)}: export the bundle again"
                )
        return with_rounded(layers, self.rounded)


def _weights(
    name: str, values: NDArray[Any], scale: NDArray[Any], bias: NDArray[Any]
) -> tuple[Rounded, NDArray[np.float32]]:
    """A product's weights, checked."""
    if values.dtype != np.int8 or values.ndim != 2 or (values < -_LARGEST).any():
        raise BundleError(f"'{one_line(name)}.values' are not int8 [out, in] within +-{_LARGEST}")
    for part, array in (("scale", scale), ("bias", bias)):
        if array.dtype != np.float32 or array.shape != (len(values),) or not np.isfinite(array).all():
            raise BundleError(f"'{one_line(name)}.{part}' is not finite float32 [{len(values)}]")
    if not (scale > 0).all():
        raise BundleError(f"'{one_line(name)}.scale' is not above 0")
    return Rounded(values, scale), bias
