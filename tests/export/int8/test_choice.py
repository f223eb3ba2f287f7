"""Choices of elements against all that there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bce.export.int8.choice import NoChoiceError, choose

ELEMENTS = ("int8", "bf16", "f32")
Case = tuple[dict[str, np.ndarray], dict[str, np.ndarray], float, float]


def case(seed: int, products: int) -> Case:
    """Errors over some orders of magnitude, int8 mostly faster and less exact than bf16."""
    rng = np.random.default_rng(seed)
    windows = int(rng.integers(1, 7))
    size = np.exp(rng.normal(-8, 1.5, (products, 1)))
    errors = {
        "int8": size * np.exp(rng.normal(0, 0.7, (products, windows))),
        "bf16": 0.1 * size * np.exp(rng.normal(0, 0.7, (products, windows))),
    }
    exact = rng.uniform(0.5, 2, products)
    costs = {
        "int8": exact * rng.uniform(0.3, 1.1, products),
        "bf16": exact * rng.uniform(0.5, 1.1, products),
        "f32": exact,
    }
    typical = float(np.sqrt(np.median(errors["int8"].sum(axis=0)))) * rng.uniform(0.05, 1.2)
    return errors, costs, typical, typical * rng.uniform(1, 3)


def kept(errors: dict[str, np.ndarray], elements: tuple[str, ...] | list[str], typical: float, worst: float) -> bool:
    rows = [errors[element][place] for place, element in enumerate(elements) if element != "f32"]
    total = np.sqrt(np.sum(rows, axis=0)) if rows else np.zeros(1)
    return bool(np.median(total) <= typical * (1 + 1e-6) and total.max() <= worst * (1 + 1e-6))


def cost(costs: dict[str, np.ndarray], elements: tuple[str, ...] | list[str]) -> float:
    return float(sum(costs[element][place] for place, element in enumerate(elements)))


def least(errors: dict[str, np.ndarray], costs: dict[str, np.ndarray], typical: float, worst: float) -> float:
    """Of all choices."""
    every = product(ELEMENTS, repeat=len(costs["f32"]))
    return min(cost(costs, elements) for elements in every if kept(errors, elements, typical, worst))


@given(st.integers(0, 2**32), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_choices_keep_the_quality_and_cost_little_more_than_the_best(seed: int, products: int) -> None:
    errors, costs, typical, worst = case(seed, products)
    found = choose(errors, costs, typical, worst)
    assert kept(errors, found, typical, worst)
    assert cost(costs, found) <= 1.15 * least(errors, costs, typical, worst)
    for place, element in enumerate(found):
        more_exact = {"int8": ("bf16", "f32"), "bf16": ("f32",), "f32": ()}[element]
        for other in more_exact:
            if other == "f32" or errors[other][place].sum() < errors[element][place].sum():
                assert costs[element][place] < costs[other][place]


def test_most_choices_are_within_a_few_percent_of_the_best() -> None:
    ratios = []
    for seed in range(40):
        errors, costs, typical, worst = case(seed, 6)
        ratios.append(cost(costs, choose(errors, costs, typical, worst)) / least(errors, costs, typical, worst))
    assert np.mean(np.array(ratios) <= 1.001) > 0.6
    assert np.mean(np.array(ratios) <= 1.03) > 0.9


def test_what_costs_no_error_is_fastest_everywhere() -> None:
    errors, costs, _, _ = case(0, 6)
    found = choose(errors, costs, np.inf, np.inf)
    fastest = [min(ELEMENTS, key=lambda element: costs[element][place]) for place in range(6)]
    assert cost(costs, found) == pytest.approx(cost(costs, fastest))


def test_no_error_at_all_is_all_exact() -> None:
    errors, costs, _, _ = case(1, 6)
    assert choose(errors, costs, 0, 0) == ["f32"] * 6
    assert choose({}, {"f32": np.ones(3)}, 0.1, 0.1) == ["f32"] * 3


def test_products_without_a_form_do_not_get_it() -> None:
    errors, costs, _, _ = case(2, 6)
    errors["int8"][2] = np.inf
    errors["bf16"][3, 0] = np.nan
    costs["int8"][:], costs["bf16"][:] = 0.1, 0.2
    assert choose(errors, costs, np.inf, np.inf) == ["int8", "int8", "bf16", "int8", "int8", "int8"]


def test_the_one_that_breaks_it_is_left_out() -> None:
    """One product with nearly all of the error, as a network has them."""
    errors = {"int8": np.full((20, 8), 1e-5)}
    errors["int8"][7] = [1e-4] * 7 + [0.5]
    costs = {"int8": np.full(20, 0.5), "f32": np.ones(20)}
    found = choose(errors, costs, 0.05, 0.2)
    assert [place for place, element in enumerate(found) if element == "f32"] == [7]


def test_large_ones_are_quick() -> None:
    errors, costs, typical, worst = case(3, 60)
    found = choose(errors, costs, typical / 2, worst / 2)
    assert kept(errors, found, typical / 2, worst / 2)
    assert len(set(found)) == 3


@pytest.mark.parametrize("limits", [(-0.1, 1), (0.1, -1), (float("nan"), 1)])
def test_limits_below_zero(limits: tuple[float, float]) -> None:
    errors, costs, _, _ = case(4, 2)
    with pytest.raises(NoChoiceError, match="no choice"):
        choose(errors, costs, *limits)
