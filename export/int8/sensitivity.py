"""What a lower precision of single products, and of several, does to a network's outputs on each window.

The error of a window is that of the output that bears it worst. Features (means and maps) are compared by their length:
squared L2 of the difference over that of the features. Logits have an offset that says nothing, and in a window that
holds nothing all are alike: theirs is the squared L2 of the difference over the mean, over the windows, of that of the
logits about their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bce.engine.compiled.maps import Element
from bce.export.int8.forward import Array, Forward, Product, batches, joined, side_by_side

Errors = NDArray[np.float64]

_LEAST = 1e-12
"""Of an output's mean squared length over the windows: what a window's own is taken to be at least."""


def sensitivities(
    forward: Forward, inputs: Array, forms: Mapping[Element, Mapping[str, Product]]
) -> dict[Element, Errors]:
    """Squared relative errors of the outputs when one product alone has another form.

    Args:
        forward: the network.
        inputs: float32 [n, *input_shape].
        forms: of each element, the products that can have it, by name.

    Returns:
        For each element float64 [products, windows], in the order of :attr:`Forward.names`; infinity for products that
        it has no form of.
    """
    lengths = _Lengths.of(forward, inputs)
    found = {element: np.full((len(forward.names), len(inputs)), np.inf) for element in forms}

    def try_each(given: tuple[slice, Array]) -> None:
        part, batch = given
        states = forward.states(batch)
        exact = forward.outputs(states[0], 0)
        for place, name in enumerate(forward.names):
            start = forward.block_of(name)
            for element, products in forms.items():
                if name in products:
                    outputs = forward.outputs(states[start], start, {name: products[name]})
                    found[element][place, part] = lengths.errors(outputs, exact, part)

    side_by_side(try_each, _parts(inputs))
    return found


def actual(forward: Forward, inputs: Array, replaced: Mapping[str, Product]) -> Errors:
    """Squared relative errors of the outputs when all these products have another form, float64 [windows].

    Args:
        forward: the network.
        inputs: float32 [n, *input_shape].
        replaced: the products' forms by name.
    """
    lengths, found = _Lengths.of(forward, inputs), np.zeros(len(inputs))

    def compare(given: tuple[slice, Array]) -> None:
        part, batch = given
        state = forward.stem(batch)
        found[part] = lengths.errors(forward.outputs(state, 0, replaced), forward.outputs(state, 0), part)

    side_by_side(compare, _parts(inputs))
    return found


class _Lengths:
    """What squared errors are divided by: of each output, [windows].

    Args:
        forward: the network.
        outputs: of all windows, by name.
    """

    def __init__(self, forward: Forward, outputs: Mapping[str, Tensor]) -> None:
        self._of: dict[str, Errors] = {}
        for tap in forward.taps:
            values = outputs[tap.name].double()
            if tap.kind in ("label", "dense"):
                squares = (values - values.mean(dim=0)).square().sum(dim=1)
                squares = squares.mean().expand(len(values))
            else:
                squares = values.square().sum(dim=1)
            self._of[tap.name] = squares.clamp(min=max(_LEAST * float(squares.mean()), 1e-30)).numpy()

    @classmethod
    def of(cls, forward: Forward, inputs: Array) -> _Lengths:
        every = side_by_side(lambda batch: forward.outputs(forward.stem(batch), 0), batches(inputs))
        with torch.inference_mode():
            return cls(forward, joined(every))

    def errors(self, found: Mapping[str, Tensor], exact: Mapping[str, Tensor], part: slice) -> Errors:
        """Of the windows of a part, [windows]: the largest over the outputs found."""
        each = [
            (values - exact[name]).double().square().sum(dim=1).numpy() / self._of[name][part]
            for name, values in found.items()
        ]
        largest: Errors = np.max(each, axis=0)
        return largest


def _parts(inputs: Array) -> Iterator[tuple[slice, Array]]:
    first = 0
    for batch in batches(inputs):
        yield slice(first, first + len(batch)), batch
        first += len(batch)
