"""What a constructor is: (energy, constraint, context) -> Solution."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.construction.later import Later
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.tally import Tally
from portfolio_ebm.types import Spec, Status


@dataclass(frozen=True)
class ShadowPrice:
    """What loosening one bound of one rule is worth: the slope of the least energy in that bound.

    Where bounds are tied (two rules hold the same name at the same weight) the price belongs to them together; where
    more bounds bind than there are names to hold, it is one of several slopes.

    Attributes:
        rules: as the user wrote them; several where only together they give way.
        bound: "upper", "lower", or "equal".
        at: where the bound stands.
        value: energy saved per unit by which the bound is loosened; for "equal", raised, and it may be negative.
        worth: the same in expected return, value / coefficient of Return() (or Views, BoxReturn, ...); None without.
        names: the assets held at the bound, for a rule on single weights; `value` is for loosening all of theirs.
        step: by how much the sentence loosens the bound: a percent, or a basis point where bounds are risks.
        ratio: the energy is minus a ratio, which has no period.
    """

    rules: tuple[str, ...]
    bound: str
    at: float
    value: float
    worth: float | None
    names: tuple[str, ...] = ()
    step: float = 0.01
    ratio: bool = False

    @property
    def rule(self) -> str:
        """The rules joined by " and "."""
        return " and ".join(self.rules)

    @property
    def mandate(self) -> bool:
        """Whether the bound says what kind of portfolio it is, rather than how much of something is allowed: weights
        that must not fall below zero, or a sum that is fixed."""
        return self.bound == "equal" or (self.bound == "lower" and self.at == 0.0 and bool(self.names))

    def sentence(self, period: str = "per holding period") -> str:
        """ "One more percent of Energy (at most 0.3 now) would be worth 0.8 bps a month."; of rules on single weights
        "One more percent in each of KO and PG, where Box allows at most 0.15, would be worth 0.3 bps a month." """
        if self.ratio:
            what = "raise the ratio by" if self.value >= 0.0 else "lower the ratio by"
            amount = f"{self.step * abs(self.value):.3g}"
        elif self.worth is not None:
            what = "be worth" if self.worth >= 0.0 else "cost"
            amount = f"{1e4 * self.step * abs(self.worth):.3g} bps {period}"
        else:
            what = "lower the energy by" if self.value >= 0.0 else "raise it by"
            amount = f"{self.step * abs(self.value):.3g} {period}"
        return f"{self._loosened()} would {what} {amount}."

    def _loosened(self) -> str:
        """What is done to the bound."""
        who, s = " and ".join(map(_kind, self.rules)), ""
        if len(self.rules) == 1:
            label = re.search(r"label=(['\"])(.*?)(?<!\\)\1", self.rules[0])
            who, s = label.group(2) if label else who, "s"
        step = {0.01: "percent", 1e-4: "basis point"}[self.step]
        more = f"One {step} less" if self.bound == "lower" else f"One more {step}"
        if not self.names:
            now = {"upper": "at most ", "lower": "at least ", "equal": ""}[self.bound]
            return f"{more} of {who} ({now}{self.at:g} now)"
        if self.mandate:
            return f"Going short by one {step} in {_each(self.names)}, which {who} forbid{s},"
        limit = f"allow{s} at most" if self.bound == "upper" else f"ask{s} for at least"
        return f"{more} in {_each(self.names)}, where {who} {limit} {self.at:g},"


def _each(names: tuple[str, ...]) -> str:
    """ "each of A, B and C": the bound of every one of them is loosened, and the worth is that of all together."""
    if len(names) == 1:
        return names[0]
    shown = names if len(names) <= 6 else (*names[:5], f"{len(names) - 5} others")
    return f"each of {', '.join(shown[:-1])} and {shown[-1]}"


def _kind(rule: str) -> str:
    """A rule's repr without what is in brackets: "Box"."""
    return rule.partition("(")[0]


@dataclass(frozen=True)
class Marginal:
    """By name, the slope of the energy and what keeps the name where it is.

    Attributes:
        weights: (n,), where.
        gradient: (n,) dE/dw_i by autograd; at a kink one of the slopes, NaN where there is none.
        reduced: (n,) the gradient with the rows of the rules priced in.
        held_by: the bound that holds each name, "" where none does.
        exact: whether all rows and caps are priced in by the multipliers of a minimum, or the budget alone.
    """

    weights: Tensor
    gradient: Tensor
    reduced: Tensor
    held_by: tuple[str, ...]
    exact: bool


@dataclass(frozen=True)
class Solution:
    """A portfolio with what is known of it.

    Attributes:
        weights: (n,).
        status: ok, and a sentence: which engine, how it ended.
        energy: E(weights), re-evaluated on the torch face.
        bound: a lower bound on E over the whole feasible set, or None where none is known.
        residuals: by rule, how far it is broken at `weights`, in the rule's own units.
        breakdown: each term's share of the energy.
        ranges: each term's (least, largest) share over sampled feasible portfolios: a term whose range is
            small against the others decides nothing. Sampled when first read.
        ablation: energies of the stages ("rounding + polish", "chains, no swaps + polish", "before polish", "final"),
            worked out when first read where no stage has led to `weights`.
        walkers: (chains, n) the chains' final feasible portfolios, or None. A record of the search, not a sample.
        diagnostics: acceptance, chain agreement, patterns seen, seconds by stage, ...
        kkt: the KKT residual relative to the largest slope, where the weights are the minimum of a convex problem; None
            where they are not (a choice of names, lots, an energy that is not convex), and where the bound alone proves
            them.
        relaxed: by rule that had to give way, by how much its bounds were let out, in its own units.
        binding: the bounds that bind, priced when it is first called; None where no multipliers are known.
        marginal: the slope of the energy in each weight, with the rules priced in, and the bound that holds the name,
            worked out when it is first called; None for weights that no formula decided.
        size: what gaps are relative to, the energy's size or its largest slope's, a unit of weight moved; 0 where it is
            not known.
        tally: what was saved and what it cost beside the optimum so far, this decision's weights in it; None of a
            constructor that takes the optimum.
    """

    weights: Tensor
    status: Status
    energy: float
    bound: float | None
    residuals: Mapping[str, float]
    breakdown: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    ablation: Mapping[str, float] = field(default_factory=dict)
    walkers: Later[Tensor] | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    kkt: float | None = None
    binding: Later[tuple[ShadowPrice, ...]] | None = None
    relaxed: Mapping[str, float] = field(default_factory=dict)
    marginal: Later[Marginal] | None = None
    size: float = 0.0
    tally: Tally | None = None

    @property
    def shadow_prices(self) -> tuple[ShadowPrice, ...]:
        """What one more unit of each binding rule is worth; () where no multipliers are known."""
        return () if self.binding is None else self.binding()

    @property
    def ensemble(self) -> Tensor | None:
        """What the walkers hold."""
        return None if self.walkers is None else self.walkers()

    @property
    def gap(self) -> float | None:
        """energy - bound, never below zero beyond rounding: how far from optimal this portfolio can be at most."""
        return None if self.bound is None else self.energy - self.bound

    @property
    def proven(self) -> bool:
        """Whether the gap is zero to eight digits of the energy's scale: its terms', or `size` where that is larger."""
        return is_proven(self.energy, self.bound, self.breakdown, self.size)


def is_proven(energy: float, bound: float | None, breakdown: Mapping[str, float], size: float) -> bool:
    """energy - bound <= 1e-8 max(|terms|, size); never where no bound is known."""
    if bound is None:
        return False
    scale = max((abs(value) for value in breakdown.values()), default=abs(energy))
    return energy - bound <= 1e-8 * max(scale, size, 1e-12)


class Constructor(Spec, ABC):
    """Turns an energy and its rules into a portfolio."""

    def asks(self) -> frozenset[str]:
        """What it asks for beside what the formula and the rules do: "long run", the covariance of all the past."""
        return frozenset()

    @abstractmethod
    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        """The lowest-energy portfolio this constructor finds among those that obey every rule.

        Raises:
            InfeasibleError: no portfolio obeys the rules; names the rules in conflict.
            SpecError: the energy has a face this constructor cannot use; names the term.
        """
