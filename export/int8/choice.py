"""Which product gets which element: the least time in which a stated quality is kept.

Errors of single products add up as squares: rounding errors of different products point in directions that have nothing
to do with each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bce.engine.compiled.maps import Element
from bce.engine.errors import BceError

EXACT: Element = "f32"

Floats = NDArray[np.floating]
ByElement = Mapping[Element, Floats]
Array = NDArray[np.float64]
Places = NDArray[np.int64]


class NoChoiceError(BceError):
    """No choice of elements keeps the quality: not even all of them exact."""


def choose(
    errors: Mapping[Element, Floats], costs: Mapping[Element, Floats], typical: float, worst: float
) -> list[Element]:
    """The element of each product: of those that keep the quality, about the fastest.

    Args:
        errors: squared relative errors of the outputs with one product alone in an element, [products, windows] by
            element; not finite for a product that cannot have it. "f32" has none.
        costs: of each product in an element, in ms, [products] by element; with "f32".
        typical: the most that the median over the windows may be of the root of the summed errors.
        worst: the most that their maximum may be.

    Raises:
        NoChoiceError: a limit is below 0.
    """
    if not (typical >= 0 and worst >= 0):
        raise NoChoiceError(f"no choice of elements has errors of at most {typical:g} and {worst:g}")
    problem = _Problem.of(errors, costs, typical**2, worst**2)
    fast = problem.relaxed(problem.tightened(problem.cheapest()))
    exact = problem.relaxed(np.full(len(fast), len(errors)))
    best = problem.exchanged(min(fast, exact, key=problem.cost))
    return [(*errors, EXACT)[place] for place in best]


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is known of all products in all elements, of which the exact one stands last. A choice is int64 [products].

    Attributes:
        errors: [products, elements, windows].
        costs: [products, elements]; infinite where a product does not get an element.
        typical, worst: the most that a choice's summed errors may be, in the median and at all.
    """

    errors: Array
    costs: Array
    typical: float
    worst: float

    @classmethod
    def of(
        cls, errors: Mapping[Element, Floats], costs: Mapping[Element, Floats], typical: float, worst: float
    ) -> _Problem:
        exact = np.asarray(costs[EXACT], np.float64)
        windows = max((values.shape[1] for values in errors.values()), default=1)
        every = np.stack([*errors.values(), np.zeros((len(exact), windows))], axis=1).astype(np.float64)
        prices = np.stack([*(costs[element] for element in errors), exact], axis=1).astype(np.float64)
        possible = np.isfinite(every).all(axis=2)
        every[~possible], prices[~possible] = 0, np.inf
        # an element is never worth having where one that is more exact is no dearer
        total = np.where(possible, every.sum(axis=2), np.inf)
        total[:, -1] = -1
        for place in range(len(errors)):
            better = (total < total[:, place, None]) & (prices <= prices[:, place, None])
            prices[better.any(axis=1), place] = np.inf
        return cls(every, prices, typical, worst)

    def cheapest(self) -> Places:
        """What costs least, whatever its errors."""
        return self.costs.argmin(axis=1)

    def cost(self, choice: Places) -> float:
        return float(np.take_along_axis(self.costs, choice[:, None], axis=1).sum())

    def tightened(self, choice: Places) -> Places:
        """Moved to more exact elements, each time where that saves most violation for its time, until all is kept."""
        choice = choice.copy()
        while (before := self._violation(self._sums(choice)[None])[0]) > 0:
            products, elements, sums, dearer = self._moves(choice)
            gain = before - self._violation(sums)
            useful = (gain > 0) & np.isfinite(dearer)
            if not useful.any():
                return np.full(len(choice), self.costs.shape[1] - 1)
            rate = np.where(useful, gain / np.maximum(dearer, 1e-12), -np.inf)
            best = int(rate.argmax())
            choice[products[best]] = elements[best]
        return choice

    def relaxed(self, choice: Places) -> Places:
        """Moved to cheaper elements while quality allows it, each time where most time is saved for the error."""
        choice = choice.copy()
        while True:
            products, elements, sums, dearer = self._moves(choice)
            possible = (dearer < 0) & (self._violation(sums) <= 0)
            if not possible.any():
                return choice
            now = self._pressure(self._sums(choice)[None])
            rate = np.where(possible, -dearer / np.maximum(self._pressure(sums) - now, 1e-9), -np.inf)
            best = int(rate.argmax())
            choice[products[best]] = elements[best]

    def exchanged(self, choice: Places) -> Places:
        """One product made more exact, which leaves room for others; again while it saves time."""
        best, improved = choice, True
        while improved:
            improved = False
            products, elements, sums, dearer = self._moves(best)
            gain = self._violation(sums) <= 0
            for place in np.flatnonzero(gain & (dearer > 0) & np.isfinite(dearer)):
                other = best.copy()
                other[products[place]] = elements[place]
                other = self.relaxed(other)
                if self.cost(other) < self.cost(best) - 1e-12:
                    best, improved = other, True
                    break
        return best

    def _sums(self, choice: Places) -> Array:
        """Summed errors of a choice, [windows]."""
        found: Array = self.errors[np.arange(len(choice)), choice].sum(axis=0)
        return found

    def _moves(self, choice: Places) -> tuple[Places, Places, Array, Array]:
        """All that differs from a choice in one product: which, its element, the summed errors, the time more."""
        every = np.arange(len(choice))
        now = self.errors[every, choice]
        sums = now.sum(axis=0) - now[:, None] + self.errors
        dearer = self.costs - self.costs[every, choice][:, None]
        dearer[every, choice] = np.inf
        products, elements = np.indices(self.costs.shape)
        return products.ravel(), elements.ravel(), sums.reshape(dearer.size, -1), dearer.ravel()

    def _violation(self, sums: Array) -> Array:
        """By how much the limits are missed [choices], in every window that has to change; 0 where they are kept."""
        slack = 1 + 1e-9
        over = np.maximum(sums - slack * self.worst, 0).sum(axis=1) / max(self.worst, 1e-30)
        half = np.sort(sums, axis=1)[:, : sums.shape[1] // 2 + 1]
        missed = np.median(sums, axis=1) > slack * self.typical
        above = np.maximum(half - self.typical, 0).sum(axis=1) / max(self.typical, 1e-30)
        return np.where(missed, np.maximum(above, 1e-12), 0) + over

    def _pressure(self, sums: Array) -> Array:
        """How near summed errors come to the limits, [choices]: as a share of them, the nearer one counting most."""
        worst = sums / max(self.worst, 1e-30)
        typical = np.median(sums, axis=1) / max(self.typical, 1e-30)
        largest = worst.max(axis=1)
        found: Array = np.maximum(typical, largest) + typical + largest + worst.mean(axis=1)
        return found
