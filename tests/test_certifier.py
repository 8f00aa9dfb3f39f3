"""BranchAndBound: equal to enumeration where it closes, and a true bound however it ends."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_mixed_rules import BASE, ENERGY, RULES, context, convex, least, traded

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.mixed import branch_and_bound
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction import certifier
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.construction.certifier import BranchAndBound
from portfolio_ebm.context import Context
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

OPENED = "portfolio_ebm.constraints.mixed.branch_and_bound.relax"
HARD = Budget() & LongOnly() & Cardinality(at_most=8, min_weight=0.01)


@pytest.fixture(autouse=True)
def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still, so that no verdict depends on how fast the machine is; `ticks` makes it go."""
    monkeypatch.setattr(certifier, "time", SimpleNamespace(monotonic=lambda: 0.0))


def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks when it is looked at: so many seconds are so many nodes opened."""
    monkeypatch.setattr(certifier, "time", SimpleNamespace(monotonic=itertools.count().__next__))


def built(constructor: BranchAndBound, energy: Energy, rules: Constraint, ctx: Context) -> Solution:
    return constructor.build(energy, rules, ctx, torch.Generator().manual_seed(0))


def hard(n: int = 60) -> Context:
    """Least variance of many factors with little noise, where relaxations are far from any choice of names."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(n, n // 2)) * 0.5
    core = torch.eye(n // 2, dtype=torch.float64) * 0.015**2
    noise = torch.tensor(rng.uniform(0.004, 0.012, n) ** 2)
    outlook = Outlook(
        torch.zeros(n, dtype=torch.float64), Structured(torch.tensor(loadings), core, noise), None, None, 21.0
    )
    return Context(tuple(f"A{i}" for i in range(n)), outlook, None, torch.ones(n, dtype=torch.bool))


@pytest.mark.parametrize("name", RULES)
def test_it_agrees_with_enumeration(name: str) -> None:
    ctx, (rule, slices) = context(4), RULES[name]
    truth = least(ctx, [convex() & one for one in slices])
    if truth == np.inf:
        with pytest.raises(InfeasibleError):
            built(BranchAndBound(chains=8), ENERGY, BASE & rule, ctx)
        return
    found = built(BranchAndBound(chains=8), ENERGY, BASE & rule, ctx)
    assert found.energy == pytest.approx(truth, abs=1e-9)
    assert found.gap is not None and 0.0 <= found.gap <= 1e-9
    assert "closed" in found.status.message and found.diagnostics["proven"] == 1.0


def test_tickets_cases_and_what_has_no_choice() -> None:
    ctx = context(1)
    (one, first), (two, second) = RULES["5/10/40"], RULES["at most"]
    truth = least(ctx, [convex() & part for part in (*first, *second)])
    assert built(BranchAndBound(chains=8), ENERGY, BASE & Either(one, two), ctx).energy == pytest.approx(
        truth, abs=1e-9
    )
    truth = least(ctx, [convex() & part for part in traded(1e-3)])
    found = built(BranchAndBound(chains=8), ENERGY + FixedCost(rate=1e-3), BASE, ctx)
    assert found.energy == pytest.approx(truth, abs=1e-9) and found.gap == pytest.approx(0.0, abs=1e-9)
    plain = built(BranchAndBound(), ENERGY, BASE, ctx)
    assert "Nothing to branch on" in plain.status.message and plain.gap == pytest.approx(0.0, abs=1e-9)


def test_whole_lots_are_proven_by_their_columns() -> None:
    ctx = context(0)
    rules = Budget(1.0, 0.8) & LongOnly() & Box(upper=0.45) & RoundLots(lot=5.0)
    found = built(BranchAndBound(chains=8), ENERGY, rules, ctx)
    assert found.bound == pytest.approx(found.energy, abs=1e-12)
    said = found.status.message
    assert "; then whole lots" in said and "proven best by columns of lots" in said and ".;" not in said


def test_a_clock_leaves_a_true_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks(monkeypatch)
    ctx = hard()
    short, longer = (built(BranchAndBound(time_limit=limit), Variance(), HARD, ctx) for limit in (10.0, 200.0))
    assert "stopped by its clock of 10 s" in short.status.message
    assert short.bound is not None and longer.bound is not None
    assert short.diagnostics["nodes"] < longer.diagnostics["nodes"] < 700.0
    assert 0.0 < short.bound < longer.bound <= min(short.energy, longer.energy)


def test_a_tree_may_end_at_a_gap() -> None:
    ctx, first = hard(30), BranchAndBound(time_limit=600.0, gap=0.2)
    loose, tight, exact = (built(first.replace(gap=gap), Variance(), HARD, ctx) for gap in (0.2, 0.1, 1e-9))
    assert "proven to 2.0e-01" in loose.status.message
    assert loose.bound is not None and tight.bound is not None
    assert 0.0 < loose.energy - loose.bound <= 0.2 * loose.energy
    assert tight.energy - tight.bound <= 0.1 * tight.energy
    assert max(loose.bound, tight.bound) <= exact.energy + 1e-12
    assert loose.diagnostics["nodes"] <= tight.diagnostics["nodes"] < exact.diagnostics["nodes"]


def test_the_bound_is_below_what_longer_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks(monkeypatch)
    ctx = context(2)
    ten = built(BranchAndBound(chains=1, time_limit=1e-6), CVaR(0.9), BASE & RULES["exactly"][0], ctx)
    best = AnnealedLangevin().build(CVaR(0.9), BASE & RULES["exactly"][0], ctx, torch.Generator().manual_seed(1))
    assert ten.bound is not None and best.gap is not None and best.gap <= 1e-8
    assert ten.bound <= best.energy + 1e-12 and ten.energy >= best.energy - 1e-9


@pytest.fixture
def listening() -> Iterator[None]:
    """SIGINT raises, also where a shell in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("node", [1, pytest.param(2, marks=pytest.mark.slow), 40])
def test_an_interrupt_hands_back_what_is_known(node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real SIGINT in the middle of a node of the first tree; the other case of Either then gets no time of its own:
    its tree opens no node after the root, though the clock stands."""
    tree, solved, opened = certifier.branch_and_bound, branch_and_bound.relax, []

    def counted(*args: Any, **options: Any) -> Any:
        opened.append(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OPENED, interrupted)
            return tree(*args, **options)

    def interrupted(*args: Any) -> Any:
        opened[-1] += 1
        assert sum(opened) < 100, "an interrupt ends the search"
        if opened == [node]:
            signal.raise_signal(signal.SIGINT)
        return solved(*args)

    monkeypatch.setattr(certifier, "branch_and_bound", counted)
    found = built(BranchAndBound(), Variance(), Either(HARD, HARD & Box(upper=0.3)), hard())
    assert opened == [node, 1]
    assert "interrupted" in found.status.message or "clock" in found.status.message
    assert found.bound is not None and 0.0 < found.bound < found.energy
    assert max(found.residuals.values()) <= 1e-9


@pytest.mark.usefixtures("listening")
def test_an_interrupt_while_relaxations_are_strengthened_hands_back_what_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the chains and the tree: the incumbent is known, and so is the bound of the first look."""
    monkeypatch.setattr(certifier, "strengthened", lambda *args: signal.raise_signal(signal.SIGINT))
    found = built(BranchAndBound(time_limit=600.0), Variance(), HARD, hard())
    assert "interrupted" in found.status.message
    assert found.bound is not None and 0.0 < found.bound < found.energy
    assert max(found.residuals.values()) <= 1e-9


@pytest.mark.usefixtures("listening")
def test_an_interrupt_before_there_is_an_incumbent_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def chains(*args: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(certifier, "chosen_in", chains)
    with pytest.raises(KeyboardInterrupt):
        built(BranchAndBound(), Variance(), HARD, hard(20))


def test_what_is_not_convex_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"-1 \* Variance.*not convex"):
        built(BranchAndBound(), -1.0 * Variance(), BASE, context(0))
    with pytest.raises(SpecError, match="time_limit"):
        BranchAndBound(time_limit=0.0)


def test_it_stands_in_a_spec() -> None:
    asked = BranchAndBound(time_limit=5.0, gap=1e-4)
    assert repr(asked) == "BranchAndBound(time_limit=5.0, gap=0.0001)"
    assert BranchAndBound.from_json(asked.model_dump_json()) == asked
