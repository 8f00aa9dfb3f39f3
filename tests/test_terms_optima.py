"""Optima of terms against linear programs of their own, closed forms and another library's portfolios."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_terms import N, world
from scipy.optimize import linprog

from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.leverage import Leverage
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.exact.minimum import minimize
from portfolio_ebm.construction.exact.ratio import lone_ratio, minimize_ratio
from portfolio_ebm.context import Context
from portfolio_ebm.energies.budgeting import FactorRiskBudget, RiskBudget, budgeted
from portfolio_ebm.energies.cash import Cash
from portfolio_ebm.energies.deviation import MeanAbsoluteDeviation, Semideviation, Semivariance, Volatility
from portfolio_ebm.energies.diversification import Herfindahl, NegativeEntropy
from portfolio_ebm.energies.drawdown import CDaR, MaxDrawdown
from portfolio_ebm.energies.entropic import EVaR
from portfolio_ebm.energies.ratio import MaximumDiversification, MaxRatio
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.errors import DataError, SolverError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import generator

CAP = 0.3
LONG = Budget() & LongOnly() & Box(upper=CAP)


def least(energy, ctx: Context, rules=LONG):
    found = Convex().build(energy, rules, ctx, generator(0, "x"))
    assert found.status.ok
    return found


def program(cost, rows, ends, n: int, extra: int, *, scaled: np.ndarray | None = None) -> float:
    """min cost'z over z = (w, extra free variables), rows z <= ends, budget one and the cap; w >= 0."""
    total = np.concatenate([np.ones(n), np.zeros(extra)])[None]
    bounds = [(0, CAP)] * n + [(None, None)] * extra
    found = linprog(cost, A_ub=rows, b_ub=ends, A_eq=total, b_eq=[1.0], bounds=bounds, method="highs")
    assert found.status == 0
    return float(found.fun)


def test_least_absolute_deviation_is_its_linear_program():
    ctx = world(size=60)
    r = ctx.scenarios.numpy()
    r, size = r - r.mean(0), len(ctx.scenarios)
    eye = np.eye(size)
    rows = np.vstack([np.hstack([r, -eye]), np.hstack([-r, -eye])])
    exact = program(np.r_[np.zeros(N), np.full(size, 1 / size)], rows, np.zeros(2 * size), N, size)
    assert least(MeanAbsoluteDeviation(), ctx).energy == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize(("energy", "tail"), [(MaxDrawdown(level=0.99), None), (CDaR(0.9), 0.1), (CDaR(0.0), 1.0)])
def test_least_drawdown_is_its_linear_program(energy, tail):
    # One path of h steps: peaks p_t >= c_t, p_t >= p_(t-1), p_0 = 0, falls p_t - c_t.
    h = 40
    ctx = world()
    paths = torch.tensor(np.random.default_rng(3).normal(2e-4, 0.01, (1, h, N)))
    ctx = replace(ctx, market=replace(ctx.market, paths=paths))
    c = paths[0].cumsum(0).numpy()
    eye, back = np.eye(h), np.eye(h, k=-1)
    none = np.zeros((h, 1 + h))
    rows = [np.hstack([c, -eye, none]), np.hstack([np.zeros((h, N)), back - eye, none])]
    rows.append(np.hstack([np.zeros((h, N)), -eye, none]))
    # z = (w, p, t, u): u_t >= p_t - c_t - t, u >= 0.
    rows.append(np.hstack([-c, eye, -np.ones((h, 1)), -eye]))
    rows.append(np.hstack([np.zeros((h, N + h + 1)), -eye]))
    weight = 0.0 if tail is None else 1 / (h * tail)
    cost = np.r_[np.zeros(N + h), 1.0, np.full(h, weight)]
    if tail is None:  # the worst fall: no slack above t
        rows.append(np.hstack([np.zeros((h, N + h + 1)), eye]))
    exact = program(cost, np.vstack(rows), np.zeros(len(rows) * h), N, 2 * h + 1)
    assert least(energy, ctx).energy == pytest.approx(exact, rel=1e-7)


def test_least_evar_is_below_every_mixture_and_stationary():
    # The optimality condition on the simplex: every name that is held has the same slope, and the others no lower one.
    ctx = world(size=200)
    for energy in (EVaR(0.9), Semivariance(), Semideviation(), Return() + 0.2 * EVaR(0.95, centred=True)):
        found = least(energy, ctx, Budget() & LongOnly())
        w = found.weights.clone().requires_grad_()
        slope = torch.autograd.grad(energy.bind(ctx)(w), w)[0]
        held = found.weights > 1e-7
        spread = float(slope.abs().max())
        assert float(slope[held].max() - slope[held].min()) < 1e-6 * spread
        assert float(slope.min()) > float(slope[held].min()) - 1e-6 * spread


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_optima_are_those_of_another_library():
    skfolio = pytest.importorskip("skfolio")
    from skfolio.optimization import MeanRisk, ObjectiveFunction

    ctx = world(size=150)
    look = ctx.market
    covariance = torch.cov(ctx.scenarios.mT)
    ctx = replace(
        ctx, market=replace(look, paths=ctx.scenarios.unsqueeze(0), covariance=Structured.from_dense(covariance))
    )
    pairs = [
        (Variance(), "VARIANCE"),
        (Volatility(), "STANDARD_DEVIATION"),
        (MeanAbsoluteDeviation(), "MEAN_ABSOLUTE_DEVIATION"),
        (Semivariance(), "SEMI_VARIANCE"),
        (Semideviation(), "SEMI_DEVIATION"),
        (Semivariance(centred=False, target=0.001), "SEMI_VARIANCE"),
        (Semideviation(centred=False), "SEMI_DEVIATION"),
        (CVaR(0.9), "CVAR"),
        (EVaR(0.9), "EVAR"),
        (CDaR(0.9), "CDAR"),
        (MaxDrawdown(), "MAX_DRAWDOWN"),
    ]
    levels = {"cvar_beta": 0.9, "evar_beta": 0.9, "cdar_beta": 0.9}
    tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12, "max_iter": 200}
    for energy, measure in pairs:
        below = None if getattr(energy, "centred", True) else getattr(energy, "target", 0.0)
        model = MeanRisk(
            objective_function=ObjectiveFunction.MINIMIZE_RISK, min_acceptable_return=below,
            risk_measure=getattr(skfolio.RiskMeasure, measure), max_weights=CAP, solver_params=tight, **levels,
        )  # fmt: skip
        theirs = torch.tensor(model.fit(ctx.scenarios.numpy()).weights_, dtype=torch.float64)
        ours = least(energy, ctx)
        assert float(energy.bind(ctx)(theirs / theirs.sum())) == pytest.approx(ours.energy, rel=1e-8), measure
        torch.testing.assert_close(theirs, ours.weights, rtol=0, atol=1e-6, msg=measure)


@pytest.mark.parametrize("seed", range(4))
def test_risk_comes_from_where_the_budgets_say(seed):
    ctx = world(seed, factors=3)
    shares = torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(N)))
    given = RiskBudget({f"A{i}": float(x) for i, x in enumerate(shares)}, total=0.8)
    for energy, budgets, total in ((RiskBudget(), torch.full((N,), 1 / N).double(), 1.0), (given, shares, 0.8)):
        for rules in (Budget(total) & LongOnly(), Budget(total), LongOnly()):
            found = least(energy, ctx, rules)
            torch.testing.assert_close(energy.contributions(found.weights, ctx), budgets, rtol=0, atol=1e-6)
            assert float(found.weights.sum()) == pytest.approx(total, abs=1e-6)


def test_risk_budgets_leave_out_what_cannot_be_traded():
    ctx = world()
    ctx = replace(ctx, held=None, tradeable=torch.tensor([True, False] + [True] * (N - 2)))
    found = least(RiskBudget(), ctx, Budget() & LongOnly())
    shares = RiskBudget().contributions(found.weights, ctx)
    assert float(found.weights[1]) == 0.0
    torch.testing.assert_close(shares[shares != 0], torch.full((N - 1,), 1 / (N - 1)).double(), rtol=0, atol=1e-6)


def test_risk_budgets_of_uncorrelated_names_are_inverse_volatility():
    sd = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    found = budgeted(torch.diag(sd.square()), torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(found / found.sum(), (1 / sd) / (1 / sd).sum())
    with pytest.raises(SolverError, match="no risk"):
        budgeted(torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64), torch.full((2,), 0.5).double())


def test_factor_risk_comes_from_where_the_budgets_say():
    ctx = world(factors=2)
    energy = FactorRiskBudget({"beta": 0.7, "size": 0.3})
    found = least(energy, ctx, Budget())
    shares = energy.contributions(found.weights, ctx)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.3]).double(), rtol=0, atol=1e-6)
    assert float(found.weights.sum()) == pytest.approx(1.0, abs=1e-12)
    # Euler's sum: without a binding rule all the risk is the factors'.
    assert float(shares.sum()) == pytest.approx(1.0, abs=1e-6)
    short = replace(ctx, exposures={name: -x for name, x in ctx.exposures.items()})
    with pytest.raises(DataError, match="net short"):
        energy.bind(short)
    with pytest.raises(SpecError, match="No factor 'siz'; there is 'size'"):
        FactorRiskBudget({"siz": 1.0}).check(ctx)


def test_concentration_by_hand():
    ctx = world()
    even = torch.full((N,), 1 / N, dtype=torch.float64)
    for energy in (NegativeEntropy(), Herfindahl()):
        torch.testing.assert_close(least(energy, ctx, Budget() & LongOnly()).weights, even, rtol=0, atol=1e-9)
    # min -m'w + c sum w log w on the simplex is softmax(m / c).
    found = least(Return() + 0.01 * NegativeEntropy(), ctx, Budget() & LongOnly())
    torch.testing.assert_close(found.weights, torch.softmax(ctx.mean / 0.01, 0), rtol=0, atol=1e-9)


def test_tracking_a_benchmark_that_obeys_the_rules_ends_at_it():
    ctx = world()
    for measure in (Volatility(), Variance(), MeanAbsoluteDeviation(), CVaR(0.9, centred=True)):
        found = minimize(TrackingError("index", measure), region_of(Budget() & LongOnly(), ctx), ctx)
        torch.testing.assert_close(found.weights, ctx.benchmarks["index"], rtol=0, atol=1e-6)


def test_the_largest_sharpe_ratio_is_its_closed_form():
    ctx = world()
    ctx = replace(ctx, market=replace(ctx.market, mean=ctx.mean.abs() + 0.002))
    s, m = ctx.covariance.dense(), ctx.mean
    for rate in (0.0, 5e-5):
        excess = m - 21.0 * rate
        raw = torch.linalg.solve(s, excess)
        assert float(raw.sum()) > 0
        found = least(MaxRatio(Return() + Cash(rate, excess=True), Volatility()), ctx, Budget())
        torch.testing.assert_close(found.weights, raw / raw.sum(), rtol=0, atol=1e-7)
        assert found.energy == pytest.approx(-float((excess @ raw).sqrt()), rel=1e-12)
        boxed = least(MaxRatio(Return() + Cash(rate, excess=True), Volatility()), ctx, Budget() & Box(-3.0, 3.0))
        assert boxed.energy == pytest.approx(found.energy, rel=1e-12) and 0.0 <= boxed.gap <= 1e-9


@pytest.mark.parametrize("risk", [CVaR(0.9, centred=True), MeanAbsoluteDeviation()], ids=repr)
def test_the_best_ratio_is_the_linear_program_in_homogeneous_form(risk):
    # Charnes and Cooper: y = k w, k >= 0; min R(y) over m'y = 1, sum y = k, 0 <= y <= cap k.
    ctx = world(size=80)
    r, m, size = ctx.scenarios.numpy(), ctx.mean.numpy(), 80
    r = r - r.mean(0)
    eye, one = np.eye(size), np.ones((size, 1))
    # z = (y, k, t, u)
    cap = np.hstack([np.eye(N), -CAP * np.ones((N, 1)), np.zeros((N, 1 + size))])
    zero, pad = np.zeros((size, 1)), np.zeros(N + 1)
    if isinstance(risk, CVaR):
        rows, cost = [np.hstack([-r, zero, -one, -eye])], np.r_[pad, 1.0, np.full(size, 1 / (0.1 * size))]
    else:
        rows = [np.hstack([sign * r, zero, zero, -eye]) for sign in (1.0, -1.0)]
        cost = np.r_[pad, 0.0, np.full(size, 1 / size)]
    a_ub = np.vstack([cap, *rows])
    a_eq = np.vstack([np.r_[m, np.zeros(2 + size)], np.r_[np.ones(N), -1.0, np.zeros(1 + size)]])
    bounds = [(0, None)] * (N + 1) + [(None, None)] + [(0, None)] * size
    exact = linprog(
        cost, A_ub=a_ub, b_ub=np.zeros(len(a_ub)), A_eq=a_eq, b_eq=[1.0, 0.0], bounds=bounds, method="highs"
    )
    found = least(MaxRatio(Return(), risk), ctx)
    assert found.energy == pytest.approx(-1.0 / exact.fun, rel=1e-7)
    assert found.gap <= 1e-6 * abs(found.energy)
    assert least(0.5 * MaxRatio(Return(), risk), ctx).energy == pytest.approx(0.5 * found.energy, rel=1e-9)


def test_a_ratio_beats_random_portfolios_and_its_bound_holds():
    ctx = world(size=120)
    rules = LONG & Turnover(at_most=0.8)
    ratio = MaxRatio(Return(), EVaR(0.9, centred=True))
    found = minimize_ratio(lone_ratio(ratio), region_of(rules, ctx), ctx)
    tried = rules.project(torch.tensor(np.random.default_rng(0).dirichlet(np.full(N, 0.5), 300)), ctx).weights
    values = ratio.bind(ctx)(tried)
    assert float(values.min()) >= found.value - 1e-12 and float(values.min()) >= found.bound


def test_the_most_diversified_portfolio_is_its_closed_form():
    ctx = world()
    s = ctx.covariance.dense()
    raw = torch.linalg.solve(s, s.diagonal().sqrt())
    found = least(MaximumDiversification(), ctx, Budget())
    torch.testing.assert_close(found.weights, raw / raw.sum(), rtol=0, atol=1e-7)
    # Its correlation with every name is the same.
    pull = s @ found.weights / s.diagonal().sqrt()
    torch.testing.assert_close(pull, pull.mean().expand(N), rtol=1e-6, atol=0)


def test_ratios_that_say_nothing_are_refused():
    ctx = world()
    low = replace(ctx, market=replace(ctx.market, mean=-ctx.mean.abs() - 0.01))
    with pytest.raises(SolverError, match="no portfolio gains"):
        least(MaxRatio(), low)
    with pytest.raises(SolverError, match="not above zero"):
        least(MaxRatio(Return(), CVaR(0.0)), ctx)
    with pytest.raises(SpecError, match="not convex"):
        least(MaxRatio() + Variance(), ctx)
    with pytest.raises(SpecError, match="not convex"):
        MaxRatio(MaxRatio(), Volatility())


@pytest.mark.parametrize(
    "measure", [MeanAbsoluteDeviation(), MeanAbsoluteDeviation(centred=False), CVaR(), Semideviation()]
)
@pytest.mark.parametrize("rules", [LONG, Budget() & Box(-0.1, CAP) & Leverage(1.6), LONG & Turnover(0.3)], ids=repr)
def test_a_benchmark_that_obeys_is_the_portfolio_nearest_to_it(measure, rules):
    """Even weights, where every solver sets out: all kinks meet there, and their slopes cancel. Clarabel's bounds are
    true to 5e-9."""
    ctx = world()
    even = torch.full((N,), 1.0 / N, dtype=torch.float64)
    ctx = replace(ctx, held=even, benchmarks={**ctx.benchmarks, "even": even})
    found = least(TrackingError("even", measure), ctx, rules)
    assert found.energy == pytest.approx(0.0, abs=1e-9)
    assert found.weights.numpy() == pytest.approx(even.numpy(), abs=1e-7)
    assert found.bound is not None and -1e-8 <= found.bound <= found.energy
