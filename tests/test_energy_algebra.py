"""Laws of the energy algebra, on coefficients that floats carry exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import portfolio_ebm as pe
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, Sum, breakdown, curvature
from portfolio_ebm.errors import SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

ATOMS = (
    pe.Return(),
    pe.Variance(),
    pe.CVaR(level=0.9),
    pe.CVaR(level=0.9, centred=True),
    pe.TradingCost(5 * pe.bps),
)
NAMES = {name: getattr(pe, name) for name in pe.__all__}

dyadic = st.integers(-16, 16).map(lambda k: k / 4)
formulas = st.lists(st.tuples(dyadic, st.sampled_from(ATOMS)), min_size=0, max_size=6).map(
    lambda parts: sum((c * atom for c, atom in parts), Sum())
)


def context(n: int = 4, scenarios: int = 40) -> Context:
    rng = torch.Generator().manual_seed(3)
    draws = 0.05 * torch.randn(scenarios, n, generator=rng, dtype=torch.float64)
    outlook = Outlook(draws.mean(0), Structured.from_dense(torch.cov(draws.T)), draws, None, 1.0)
    held = torch.full((n,), 1.0 / n, dtype=torch.float64)
    return Context(tuple("ABCDEFGH"[:n]), outlook, held, torch.ones(n, dtype=torch.bool))


@given(formulas, formulas, formulas)
@settings(max_examples=60, deadline=None)
def test_addition_is_associative_and_commutative(a: Energy, b: Energy, c: Energy) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert hash(a + b) == hash(b + a)
    assert (a + b).fingerprint() == (b + a).fingerprint()


@given(formulas, formulas, dyadic, dyadic)
@settings(max_examples=60, deadline=None)
def test_scaling_is_distributive(a: Energy, b: Energy, s: float, t: float) -> None:
    assert s * (a + b) == s * a + s * b
    assert (s + t) * a == s * a + t * a
    assert s * (t * a) == (s * t) * a
    assert 1.0 * a == a
    assert a - a == Sum()


@given(formulas)
@settings(max_examples=60, deadline=None)
def test_repr_pastes_back_and_json_round_trips(a: Energy) -> None:
    assert eval(repr(a), {**NAMES, "Sum": Sum}) == a
    again = Energy.from_json(a.model_dump_json())
    assert again == a
    assert hash(again) == hash(a)
    assert again.fingerprint() == a.fingerprint()


def test_sums_stay_flat_and_like_terms_merge() -> None:
    energy = pe.Return() + (pe.Variance() + (pe.Return() + 2 * pe.Variance()))
    assert repr(energy) == "2.0 * Return() + 3.0 * Variance()"
    assert [part.coefficient for part in energy.terms()] == [2.0, 3.0]
    assert sum([pe.Return(), pe.Variance()]) == pe.Return() + pe.Variance()
    assert 1.0 * pe.Return() == pe.Return()
    assert repr(pe.Return() - 0.5 * pe.Variance()) == "Return() - 0.5 * Variance()"


@given(formulas)
@settings(max_examples=30, deadline=None)
def test_value_is_the_sum_of_its_breakdown_and_order_changes_no_bit(a: Energy) -> None:
    ctx = context()
    w = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    value = a.bind(ctx)(w)
    assert value.shape == (2,)
    parts = breakdown(a, w, ctx)
    torch.testing.assert_close(sum(parts.values(), torch.zeros(2, dtype=torch.float64)), value, rtol=0, atol=1e-15)
    if isinstance(a, Sum):
        for order in itertools.islice(itertools.permutations(a.parts), 6):
            assert torch.equal(Sum(parts=tuple(order)).bind(ctx)(w), value)


def test_curvature_of_a_formula() -> None:
    assert curvature(pe.Return() - 3 * pe.Return()) == "affine"
    assert curvature(pe.Variance() - pe.Return()) == "convex"
    assert curvature(pe.Return() - 0.5 * pe.Variance()) == "none"


def test_a_spec_says_what_is_wrong() -> None:
    with pytest.raises(SpecError, match="'level'"):
        pe.CVaR(level=1.5)
    with pytest.raises(SpecError, match="'depth'"):
        pe.Variance(depth=3)
    with pytest.raises(SpecError, match="given twice"):
        pe.CVaR(0.9, level=0.95)
    with pytest.raises(SpecError, match="takes at most"):
        pe.Variance(1)
    with pytest.raises(SpecError, match="not a known Energy"):
        Energy.from_json('{"kind": "Budget", "total": 1.0}')


def test_strategies_are_specs() -> None:
    strategy = pe.Strategy(name="s", energy=pe.Return() + 2 * pe.Variance(), market=pe.SampleMoments(lookback=60))
    again = pe.Strategy.from_json(strategy.model_dump_json())
    assert again == strategy
    assert again.fingerprint() == strategy.fingerprint()
    assert eval(repr(strategy), dict(NAMES)) == strategy
    assert strategy.replace(name="t") != strategy
    with pytest.raises(SpecError):
        strategy.replace(name=3)
