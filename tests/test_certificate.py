"""What leaves a constructor was measured again; broken rules, NaN and false bounds do not get out."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from cases_convex import market

from portfolio_ebm.constraints.combine import region_of, region_residual
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.diversified import RIC2550, UCITS
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction import certificate
from portfolio_ebm.construction.certificate import certify, feasible_sample
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Scaled, Sum
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import Status, bps, generator

N = 8
FINE = Status(True, "fine")
ENERGY = Return() + 2.5 * Variance() + 0.5 * CVaR(centred=True) + TradingCost(5 * bps)
EQUAL = torch.full((N,), 1 / N, dtype=torch.float64)
RULES = Budget() & LongOnly() & Box(upper=0.4)


def rng():
    return generator(0, "certificate")


def test_everything_is_measured():
    ctx = market(N)
    found = certify(EQUAL, ENERGY, RULES, ctx, bound=-1.0, status=FINE, rng=rng(), diagnostics={"steps": 3.0})
    assert found.energy == float(ENERGY.bind(ctx)(EQUAL))
    assert set(found.residuals) == {"Budget()", "LongOnly()", "Box(upper=0.4)"}
    assert set(found.breakdown) == {"Return()", "Variance()", "CVaR(centred=True)", "TradingCost(rate=0.0005)"}
    assert sum(found.breakdown.values()) == pytest.approx(found.energy, abs=1e-15)
    assert found.gap == pytest.approx(found.energy + 1.0)
    assert found.diagnostics == {"steps": 3.0}
    for name, (low, high) in found.ranges.items():
        assert low <= found.breakdown[name] <= high and low < high


def test_a_term_that_is_written_twice_counts_twice():
    twice = Sum(parts=(Scaled(1.0, Variance()), Scaled(3.0, Variance())))
    found = certify(EQUAL, twice, RULES, market(N), bound=None, status=FINE, rng=rng())
    assert found.energy == pytest.approx(4.0 * float(Variance().bind(market(N))(EQUAL)), rel=1e-14)
    assert found.breakdown == {"Variance()": found.energy}


def test_estimates_are_kept_until_all_that_waits_for_them_was_read():
    """A decision that keeps its scenarios keeps megabytes; after the last look nothing is kept."""
    ctx = market(N)
    kept = weakref.ref(ctx)
    found = certify(EQUAL, ENERGY, RULES, ctx, bound=None, status=FINE, rng=rng())
    del ctx
    gc.collect()
    assert kept() is not None
    assert set(found.ranges) == set(found.breakdown)
    gc.collect()
    assert kept() is not None, "what holds each name is not read yet"
    found.marginal()
    gc.collect()
    assert kept() is None


def test_ranges_reach_the_corners():
    ctx = market(N)
    found = certify(EQUAL, Return(), RULES, ctx, bound=None, status=FINE, rng=rng())
    order = ctx.mean.sort().values
    ends = [0.4 * float(m[0] + m[1]) + 0.2 * float(m[2]) for m in (order, order.flip(0))]
    low, high = found.ranges["Return()"]
    span = ends[1] - ends[0]
    assert -ends[1] - 1e-12 <= low <= -ends[1] + 0.35 * span
    assert -ends[0] - 0.35 * span <= high <= -ends[0] + 1e-12


def test_ranges_are_those_of_the_call_whenever_they_are_read():
    ctx, weights, draws = market(N), EQUAL.clone(), rng()
    now = certify(EQUAL, ENERGY, RULES, ctx, bound=None, status=FINE, rng=rng())
    later = certify(weights, ENERGY, RULES, ctx, bound=None, status=FINE, rng=draws)
    stored = pickle.dumps(now)
    weights.zero_()
    torch.rand(5, generator=draws)
    assert dict(later.ranges) == dict(now.ranges) == pickle.loads(stored).ranges
    assert repr(later.ranges) == repr(dict(now.ranges)) and len(later.ranges) == 4


def test_ranges_are_drawn_once_and_only_when_read(monkeypatch):
    drawn = []
    monkeypatch.setattr(certificate, "feasible_sample", lambda *given, **more: drawn.append(1) or EQUAL[None])
    found = certify(EQUAL, ENERGY, RULES, market(N), bound=None, status=FINE, rng=rng())
    assert not drawn
    assert found.ranges["Return()"] == found.ranges["Return()"] and drawn == [1]


def test_a_look_that_failed_changes_nothing_of_the_next_one(monkeypatch):
    def fails(*given):
        torch.rand(3, generator=given[-1])
        raise KeyboardInterrupt

    now = certify(EQUAL, ENERGY, RULES, market(N), bound=None, status=FINE, rng=rng())
    later = certify(EQUAL, ENERGY, RULES, market(N), bound=None, status=FINE, rng=rng())
    with monkeypatch.context() as patch:
        patch.setattr(certificate, "feasible_sample", fails)
        with pytest.raises(KeyboardInterrupt):
            dict(later.ranges)
    assert dict(later.ranges) == dict(now.ranges)


def test_a_term_that_fails_on_the_sample_leaves_the_portfolio_itself(monkeypatch):
    whole = certificate.breakdown

    def fails(energy, w, ctx):
        if w.ndim == 2 and len(w) > 1:
            raise SolverError("The nearest portfolio was not reached.")
        return whole(energy, w, ctx)

    monkeypatch.setattr(certificate, "breakdown", fails)
    found = certify(EQUAL, ENERGY, RULES, market(N), bound=None, status=FINE, rng=rng())
    assert {name: (share, share) for name, share in found.breakdown.items()} == found.ranges


def test_readers_at_the_same_time_find_the_same_ranges(monkeypatch):
    """Both are inside of the sample before either is done."""
    meet, drawn = threading.Barrier(2, timeout=30.0), certificate.feasible_sample

    def slow(*given):
        meet.wait()
        return drawn(*given)

    truth = dict(certify(EQUAL, ENERGY, RULES, market(N), bound=None, status=FINE, rng=rng()).ranges)
    found = certify(EQUAL, ENERGY, RULES, market(N), bound=None, status=FINE, rng=rng())
    monkeypatch.setattr(certificate, "feasible_sample", slow)
    with ThreadPoolExecutor(2) as pool:
        seen = list(pool.map(lambda _: dict(found.ranges), range(2)))
    assert seen == [truth, truth]


def test_the_same_seed_gives_the_same_ranges():
    ctx = market(N)
    first = certify(EQUAL, ENERGY, RULES, ctx, bound=None, status=FINE, rng=rng())
    again = certify(EQUAL, ENERGY, RULES, ctx, bound=None, status=FINE, rng=rng())
    assert first.ranges == again.ranges


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        RULES & Turnover(0.9),
        Budget() & LongOnly() & Cardinality(4, 0.05),
        Budget() & LongOnly() & Cardinality(exactly=4, min_weight=0.05),
        Budget() & LongOnly() & RIC2550(issuers=None),
        Budget() & LongOnly() & UCITS(issuers=None) & Cardinality(20, 0.01),
        Budget(),
    ],
    ids=repr,
)
def test_the_sample_is_feasible(rules):
    n = 30 if "issuers" in repr(rules) else N
    ctx = market(n)
    sample = feasible_sample(torch.full((n,), 1 / n, dtype=torch.float64), rules, ctx, rng())
    assert sample.shape == (64, n) and len({tuple(row) for row in sample.tolist()}) > 20
    assert float(region_residual(sample, region_of(rules, ctx)).max()) <= 1e-9


def test_a_broken_rule_does_not_get_out():
    ctx = market(N)
    broken = EQUAL.clone()
    broken[0] += 1e-6
    with pytest.raises(SolverError, match=r"2020-01-31 breaks Budget\(\) by 1e-06"):
        certify(broken, ENERGY, RULES, ctx, bound=None, status=FINE, rng=rng())
    with pytest.raises(SolverError, match="Cardinality"):
        certify(EQUAL, ENERGY, RULES & Cardinality(3), ctx, bound=None, status=FINE, rng=rng())
    with pytest.raises(SolverError, match="breaks"):
        certify(EQUAL * torch.nan, ENERGY, RULES, ctx, bound=None, status=FINE, rng=rng())


def test_nan_energies_and_false_bounds_do_not_get_out():
    ctx = market(N)
    sick = replace(ctx, market=replace(ctx.market, mean=ctx.mean * torch.nan))
    with pytest.raises(SolverError, match=r"Return\(\) is nan"):
        certify(EQUAL, ENERGY, RULES, sick, bound=None, status=FINE, rng=rng())
    value = float(ENERGY.bind(ctx)(EQUAL))
    with pytest.raises(SolverError, match="below its proven bound"):
        certify(EQUAL, ENERGY, RULES, ctx, bound=value + 1e-4, status=FINE, rng=rng())
    rounded = certify(EQUAL, ENERGY, RULES, ctx, bound=value + 1e-15, status=FINE, rng=rng())
    assert rounded.gap == 0.0


def test_an_energy_without_terms():
    found = certify(EQUAL, Sum(), RULES, market(N), bound=None, status=FINE, rng=rng())
    assert found.energy == 0.0 and found.ranges == {} and found.breakdown == {} and found.gap is None
