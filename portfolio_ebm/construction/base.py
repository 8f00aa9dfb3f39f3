"""What a constructor is: (energy, constraint, context) -> Solution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.types import Spec, Status


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
            small against the others decides nothing.
        ablation: energies of the stages ("rounding + polish", "chains, no swaps + polish", "before polish", "final").
        ensemble: (chains, n) the chains' final feasible portfolios, or None. A record of the search, not a sample.
        diagnostics: acceptance, chain agreement, patterns seen, seconds by stage, ...
    """

    weights: Tensor
    status: Status
    energy: float
    bound: float | None
    residuals: Mapping[str, float]
    breakdown: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    ablation: Mapping[str, float] = field(default_factory=dict)
    ensemble: Tensor | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float | None:
        """energy - bound, never below zero beyond rounding: how far from optimal this portfolio can be at most."""
        return None if self.bound is None else self.energy - self.bound


class Constructor(Spec, ABC):
    """Turns an energy and its rules into a portfolio."""

    @abstractmethod
    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        """The lowest-energy portfolio this constructor finds among those that obey every rule.

        Raises:
            InfeasibleError: no portfolio obeys the rules; names the rules in conflict.
            SpecError: the energy has a face this constructor cannot use; names the term.
        """
