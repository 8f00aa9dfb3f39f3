"""How long the tree of the pattern engine grows: laws on bounds that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from portfolio_ebm.constraints.mixed.branch_and_bound import Proof
from portfolio_ebm.construction.choosing.proving import grown


class Bounds:
    """A tree whose bound after n nodes is told, under an incumbent of 1."""

    def __init__(self, bound: Callable[[int], float], first: int) -> None:
        self.bound = bound
        self.first = self.grow(first)

    def grow(self, nodes: int, weights: object = None, value: float = 1.0) -> Proof:
        bound = min(self.bound(nodes), 1.0)
        return Proof(None, 1.0, bound, nodes, finished=bound == 1.0)


@pytest.mark.parametrize(
    ("rise", "ends"),
    [(0.01, 200), (0.1, 200), (0.18, 3200), (0.3, 1600), (0.5, 400)],
)
def test_a_tree_goes_on_while_its_bound_may_reach_the_incumbent(rise: float, ends: int) -> None:
    """Bounds of `rise` a doubling: from 100 nodes to 3,200 there are five, so 0.2 closes it, and 0.18 nearly."""
    tree = Bounds(lambda n: rise * float(np.log2(n / 100)), 100)
    assert grown(tree, tree.first, 3200, None, 1.0).nodes == ends  # type: ignore[arg-type]


def test_a_rise_that_flags_ends_it_later() -> None:
    tree = Bounds(lambda n: 0.25 * min(float(np.log2(n / 100)), 2.0), 100)
    assert grown(tree, tree.first, 3200, None, 1.0).nodes == 800  # type: ignore[arg-type]


def test_without_a_bound_or_an_incumbent_it_goes_on() -> None:
    tree = Bounds(lambda n: -np.inf, 0)
    assert grown(tree, tree.first, 50, None, 1.0).nodes == 50  # type: ignore[arg-type]
