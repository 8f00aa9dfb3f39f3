"""Every rule that is a choice of modes with all its slices, each written from the rule's own text, in a small world."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.discrete import Cardinality, MinPosition
from portfolio_ebm.constraints.diversified import RIC2550, UCITS, Diversified75510
from portfolio_ebm.constraints.weights import Box, Budget
from portfolio_ebm.context import Context
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

Array = NDArray[np.float64]
N = 6
HOUSES = ("a", "a", "b", "c", "c", "d")
LANDS = ("US", "EU", "US", "EU", "US", "EU")
HELD = np.array([0.05, 0.05, 0.1, 0.1, 0.2, 0.0])
BASE = Budget(1.0, 0.3) & Box(upper=0.45)
F64 = torch.float64


@dataclass(frozen=True)
class Slice:
    """lower <= w <= upper, low <= rows w <= high, and what it costs."""

    lower: Array
    upper: Array
    rows: Array
    low: Array
    high: Array
    cost: float = 0.0

    def __and__(self, other: Slice) -> Slice:
        return Slice(
            np.maximum(self.lower, other.lower), np.minimum(self.upper, other.upper),
            np.vstack([self.rows, other.rows]), np.r_[self.low, other.low], np.r_[self.high, other.high],
            self.cost + other.cost,
        )  # fmt: skip


def box(lower: Array, upper: Array, cost: float = 0.0) -> Slice:
    return Slice(lower, upper, np.zeros((0, N)), np.zeros(0), np.zeros(0), cost)


def row(values: Array, low: float, high: float) -> Slice:
    wide = np.full(N, np.inf)
    return Slice(-wide, wide, values[None], np.array([low]), np.array([high]))


def context(seed: int) -> Context:
    rng = torch.Generator().manual_seed(seed)
    loadings = 1.0 + 0.5 * torch.randn(N, 2, generator=rng, dtype=F64)
    core = torch.diag(torch.tensor([0.05**2, 0.03**2], dtype=F64))
    diagonal = 0.05**2 * (0.5 + torch.rand(N, generator=rng, dtype=F64))
    mean = 0.01 * torch.randn(N, generator=rng, dtype=F64) + 0.012
    noise = torch.randn(200, N, generator=rng, dtype=F64) * diagonal.sqrt()
    draws = mean + torch.randn(200, 2, generator=rng, dtype=F64) @ core.sqrt() @ loadings.T + noise
    return Context(
        assets=tuple(f"A{i}" for i in range(N)),
        market=Outlook(mean, Structured(loadings, core, diagonal), draws, None, 21.0),
        held=torch.tensor(HELD), tradeable=torch.ones(N, dtype=torch.bool), groups={"house": HOUSES, "land": LANDS},
        forecasts={"value": torch.tensor([3e5, 2e5, 4e5, 1e5, 9e5, 2e5], dtype=F64)}, capital=1e6,
        prices=torch.linspace(9e3, 5e4, N, dtype=F64), volume=torch.full((N,), 50.0, dtype=F64),
    )  # fmt: skip


def subsets(items: list[int]) -> Iterator[tuple[int, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(items, k) for k in range(len(items) + 1))


def held_names(inside: tuple[int, ...], least: float) -> Slice:
    lower, upper = np.zeros(N), np.zeros(N)
    for i in inside:
        lower[i], upper[i] = (least, np.inf) if least > 0.0 else (-np.inf, np.inf)
    return box(lower, upper)


def numbers(rule: Cardinality) -> list[Slice]:
    """One slice for every set of names that the numbers allow."""
    labels = LANDS if rule.groups == "land" else (0,) * N
    least, most = rule.exactly or rule.at_least or 0, rule.exactly or rule.at_most or N
    good = [
        inside for inside in subsets(list(range(N)))
        if all(least <= sum(labels[i] == label for i in inside) <= most for label in set(labels))
    ]  # fmt: skip
    return [held_names(inside, rule.min_weight) for inside in good]


def houses(small: Array, big: float, together: float) -> list[Slice]:
    """One slice for every set of issuers that may be beyond `small`."""
    names = sorted(set(HOUSES))
    found = []
    for large in subsets(list(range(len(names)))):
        one = row(np.array([HOUSES[i] in [names[k] for k in large] for i in range(N)], dtype=float), -np.inf, together)
        for k, name in enumerate(names):
            x = np.array([house == name for house in HOUSES], dtype=float)
            one = one & row(x, 0.0, big if k in large else float(small[k]))
        found.append(one)
    return found


def traded(ticket: float) -> list[Slice]:
    found = []
    for moved in subsets(list(range(N))):
        lower, upper = HELD.copy(), HELD.copy()
        for i in moved:
            lower[i], upper[i] = -np.inf, np.inf
        found.append(box(lower, upper, ticket * len(moved)))
    return found


RULES: dict[str, tuple[Constraint, list[Slice]]] = {
    name: (rule, numbers(rule)) for name, rule in {
        "at most": Cardinality(at_most=3, min_weight=0.05), "exactly": Cardinality(exactly=4, min_weight=0.05),
        "at least": Cardinality(at_least=5, min_weight=0.04), "any size": Cardinality(at_most=2),
        "by land": Cardinality(at_most=1, groups="land"),
        "by land, exactly": Cardinality(exactly=2, min_weight=0.06, groups="land"),
    }.items()
} | {
    "minimum": (MinPosition(0.12), [held_names(inside, 0.12) for inside in subsets(list(range(N)))]),
    "5/10/40": (UCITS("house"), houses(np.full(4, 0.05), 0.10, 0.40)),
    "25/50": (RIC2550("house"), houses(np.full(4, 0.05), 0.25, 0.50)),
    "75-5-10": (
        Diversified75510("house", market_value="value"),
        houses(np.minimum(0.05, 0.1 * np.array([5e5, 4e5, 10e5, 2e5]) / 1e6), 0.25, 0.25),
    ),
}  # fmt: skip


def convex() -> Slice:
    return row(np.ones(N), 0.3, 1.0) & box(np.zeros(N), np.full(N, 0.45))
