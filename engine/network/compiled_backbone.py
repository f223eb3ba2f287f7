"""A bundle's backbone as kernels that are compiled for this CPU, believed only after a check."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.layers import Layers
from bce.engine.compiled.network import CompiledNetwork
from bce.engine.compiled.plan import Precision
from bce.engine.errors import OptionsError, one_line
from bce.engine.network.backbone import BackboneForm
from bce.engine.network.bundle import bundle_around
from bce.engine.network.checking import NotTheSameError, hold_to
from bce.engine.network.int8 import Int8Form
from bce.engine.network.rows import check_rows
from bce.engine.results import Features


class CompiledBackbone:
    """A backbone graph as compiled kernels. Calls are thread-safe.

    Args:
        path: the float32 graph, inputs [batch, height, width] -> outputs [batch, width].
        layers: the same, as :func:`bce.engine.network.mbconv.read_layers` reads it.
        precision: "fp32", "bf16" or "int8".
        objects: a folder that the user names, see :func:`check_objects`, with kernels that were compiled ahead.
        int8: what "int8" is of this network.

    Raises:
        CompiledError: the kernels cannot be had on this CPU or in this precision.
        BundleError: the int8 form is that of another network.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layers: Layers,
        precision: str,
        objects: Path | None = None,
        int8: Int8Form | None = None,
    ) -> None:
        folders = () if objects is None else (objects,)
        chosen = None if int8 is None else int8.elements
        layers = layers if int8 is None else int8.applied(layers)
        self._network = CompiledNetwork(layers, cast(Precision, precision), folders, chosen=chosen)
        self.path = path
        self.widths = self._network.widths
        self.form = BackboneForm("compiled", precision, self._network.form)

    def run(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """See :class:`bce.engine.network.backbone.Backbone`."""
        found = self._outputs(inputs)
        check_rows(found, self.widths, len(inputs), (inputs,), self.path)
        return found

    def check(self, inputs: NDArray[np.float32], expected: Features) -> None:
        """Hold it to ONNX Runtime's outputs: see :func:`bce.engine.network.checking.hold_to`."""
        widths = {name: rows.shape[1] for name, rows in expected.items()}
        if list(self.widths.items()) != list(widths.items()):
            raise NotTheSameError(f"gives {_shown(self.widths)} when it is compiled, not {_shown(widths)}", self.path)
        hold_to(expected, self._outputs, inputs, self.form, self.path, rounds=1)

    def _outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        rows = [self._network.run(window) for window in inputs]
        return [np.stack(output) for output in zip(*rows, strict=True)]


def check_objects(folder: Path) -> None:
    """Refuse a folder of compiled objects that is no folder, or lies in a bundle: a bundle is data.

    Raises:
        OptionsError: naming it.
    """
    if not folder.is_dir():
        raise OptionsError("is no folder: --objects and $BCE_OBJECTS name one that holds compiled objects", folder)
    bundle = bundle_around(folder)
    if bundle is not None:
        raise OptionsError(
            f"lies in the bundle {bundle}, and native code is never loaded out of a bundle: put it elsewhere", folder
        )


def _shown(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{one_line(name)} [{width}]" for name, width in widths.items())
