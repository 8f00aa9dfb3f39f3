"""Linear energies and tickets where rules leave next to no room, or what is held is on a cap but for rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases_modes import context

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError


def built(energy: Energy, rules: Constraint, ctx: Context) -> Solution:
    return AnnealedLangevin(chains=8).build(energy, rules, ctx, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("energy", [Return(), Return() + TradingCost(0.001)], ids=repr)
def test_a_budget_that_turnover_hardly_reaches_is_met(energy: Energy) -> None:
    """Half of the budget is held, so the other half has to be bought."""
    rules = Budget() & LongOnly() & Cardinality(at_most=6)
    found = built(energy, rules & Turnover(0.5 + 1e-8), context(0))
    assert max(found.residuals.values()) <= 1e-9
    with pytest.raises(InfeasibleError):
        built(energy, rules & Turnover(0.5 - 5e-8), context(0))


def test_tickets_under_a_linear_energy_obey_the_budget() -> None:
    """What is held in single precision is a little off every round number."""
    held = torch.tensor([0.3, 0.3, 0.1, 0.1, 0.2, 0.0], dtype=torch.float32)
    rules = Budget() & Box(upper=0.3) & Cardinality(at_most=5)
    found = built(Return() + FixedCost(rate=1e-4), rules, replace(context(0), held=held))
    assert max(found.residuals.values()) <= 1e-9
    assert found.bound is not None
    assert found.energy - found.bound <= 1e-9


@pytest.mark.parametrize("off", [1e-16, 1e-12, 2e-11])
def test_a_name_held_above_its_cap_by_rounding_pays_no_ticket(off: float) -> None:
    """All five names stand at their cap. The energy counts no trade of less than rounding; nor may the bound."""
    held = torch.tensor([0.2 + off] * 5 + [0.0], dtype=torch.float64)
    rules = Budget() & Box(upper=0.2) & Cardinality(at_most=5)
    found = built(Return() + FixedCost(rate=1.0), rules, replace(context(0), held=held))
    assert found.weights == pytest.approx(held.numpy(), abs=1e-9)
    assert found.bound == pytest.approx(found.energy, abs=1e-9)
    assert found.energy < 0.5
