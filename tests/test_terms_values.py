"""Values of terms against closed forms, numbers by hand and another library's measures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases_convex import portfolios
from cases_terms import VIEWS, N, points, world
from scipy.optimize import minimize_scalar

from portfolio_ebm.context import Context
from portfolio_ebm.energies.budgeting import RiskBudget
from portfolio_ebm.energies.cash import Cash
from portfolio_ebm.energies.deviation import MeanAbsoluteDeviation, Semideviation, Semivariance, Volatility
from portfolio_ebm.energies.drawdown import CDaR, MaxDrawdown
from portfolio_ebm.energies.entropic import EntropicRisk, EVaR
from portfolio_ebm.energies.free_energy import FactorRisk
from portfolio_ebm.energies.impact import BorrowCost, MarketImpact
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energies.robust import BoxReturn, EllipsoidReturn, RobustVariance, deviations
from portfolio_ebm.energies.tracking import TrackingError
from portfolio_ebm.energies.views import View, Views
from portfolio_ebm.energy import breakdown
from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Marginals, Outlook


def tensor(x: object) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def scenario_world(rows: list[list[float]], **more: object) -> Context:
    r = tensor(rows)
    n = r.shape[-1]
    look = Outlook(r.mean(0), Structured.from_dense(torch.eye(n, dtype=torch.float64)), r, None, 1.0)
    return Context(tuple("ABCDEFGH"[:n]), look, None, torch.ones(n, dtype=torch.bool), **more)


FOUR = [[0.02, 9.0], [-0.08, 9.0], [0.01, 9.0], [-0.03, 9.0]]  # mean of A: -0.02
ONE = tensor([1.0, 0.0])


@pytest.mark.parametrize(
    ("energy", "by_hand"),
    [
        (MeanAbsoluteDeviation(), (0.04 + 0.06 + 0.03 + 0.01) / 4),
        (MeanAbsoluteDeviation(centred=False), (0.02 + 0.08 + 0.01 + 0.03) / 4),
        (Semivariance(), (0.06**2 + 0.01**2) / 4),
        (Semivariance(centred=False), (0.08**2 + 0.03**2) / 4),
        (Semivariance(centred=False, target=0.02), (0.1**2 + 0.01**2 + 0.05**2) / 4),
        (Semideviation(), math.sqrt((0.06**2 + 0.01**2) / 4)),
        (
            EntropicRisk(2.0, centred=False),
            0.5 * math.log(sum(math.exp(-2 * x) for x in (0.02, -0.08, 0.01, -0.03)) / 4),
        ),
        (Volatility(), 1.0),
        (Cash(0.001), 0.0),
    ],
    ids=repr,
)
def test_four_scenarios_by_hand(energy, by_hand):
    assert float(energy.bind(scenario_world(FOUR))(ONE)) == pytest.approx(by_hand, abs=1e-15)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9, 0.95, 0.99])
def test_evar_is_the_least_of_its_one_dimensional_function(level):
    ctx = world(size=300)
    for w in portfolios(4, N, seed=5):
        loss = -(ctx.scenarios @ w).numpy()

        def chernoff(u: float, loss: np.ndarray = loss) -> float:
            t = math.exp(u)
            return t * (float(torch.logsumexp(tensor(loss / t), 0)) - math.log(len(loss) * (1 - level)))

        least = minimize_scalar(chernoff, bounds=(-10.0, 3.0), method="bounded", options={"xatol": 1e-10}).fun
        value = float(EVaR(level).bind(ctx)(w))
        assert value == pytest.approx(least, abs=1e-10)
        assert float(CVaR(level).bind(ctx)(w)) <= value <= loss.max() + 1e-15


def test_evar_ends_at_the_largest_loss_where_one_scenario_is_the_tail():
    ctx = scenario_world(FOUR)
    for level in (0.75, 0.8, 0.999):
        assert float(EVaR(level).bind(ctx)(ONE)) == pytest.approx(0.08, abs=1e-12)
    assert 0.055 < float(EVaR(0.7).bind(ctx)(ONE)) < 0.08
    flat = scenario_world([[0.01], [0.01]])
    assert float(EVaR(0.3).bind(flat)(tensor([1.0]))) == pytest.approx(-0.01, abs=1e-16)


def test_evar_of_a_normal_law_is_its_closed_form():
    # EVaR_a of N(m, s^2) losses is m + s sqrt(-2 log(1 - a)).
    z = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    ctx = scenario_world((-0.01 - 0.02 * z).unsqueeze(-1).tolist())
    found = float(EVaR(0.9).bind(ctx)(tensor([1.0])))
    assert found == pytest.approx(0.01 + 0.02 * math.sqrt(-2 * math.log(0.1)), rel=1e-3)


def test_entropic_risk_tends_to_half_the_variance_and_its_scenarios_to_all():
    ctx = world(size=500)
    w = portfolios(3, N)
    spread = (ctx.scenarios @ w.mT).var(0, correction=0)
    for g, error in ((1e-2, 5e-3), (1e-4, 5e-5)):
        torch.testing.assert_close(EntropicRisk(g).bind(ctx)(w), 0.5 * g * spread, rtol=error, atol=0)
    assert float(EntropicRisk(1e-6).effective(w, ctx).min()) > 499.99
    assert float(EntropicRisk(1e6).effective(w, ctx).max()) < 1.0 + 1e-9


def test_dependence_is_what_the_parts_do_not_explain():
    # Scenarios on the product grid of two independent parts: the joint value is the sum, and nothing remains.
    values = tensor([[-0.05, 0.01, 0.04], [-0.02, -0.01, 0.03]])
    grid = torch.cartesian_prod(values[0], values[1])
    even = torch.full((2, 3), -math.log(3.0), dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    ctx = scenario_world(grid.tolist())
    ctx = replace(ctx, market=replace(ctx.market, marginals=Marginals(("a", "b"), eye, values, even, 8.0)))
    w = tensor([0.6, 0.4])
    term = FactorRisk(7.0, dependence=True)
    shares = breakdown(term, w, ctx, parts=True)
    assert [name.split(": ")[1] for name in shares] == ["a", "b", "dependence"]
    assert float(shares[f"{term!r}: dependence"]) == pytest.approx(0.0, abs=1e-15)
    # The same parts moving together: the risk is higher, and the remainder says by how much.
    joint = scenario_world(values.mT.tolist())
    joint = replace(joint, market=replace(joint.market, marginals=ctx.market.marginals))
    more = breakdown(term, w, joint, parts=True)
    assert float(more[f"{term!r}: dependence"]) > 1e-4
    assert float(more[f"{term!r}: a"]) == float(shares[f"{term!r}: a"])
    said = term.diagnose(w, joint)
    assert 1.0 <= said["effective scenarios"] <= 3.0 and 0.0 <= said["mass near the bound"] <= 1.0


def test_drawdowns_of_a_path_by_hand():
    # c = .1, .04, .09, -.01: falls of 0, .06, .01, .11 from the peaks .1, .1, .1, .1; the start counts as a peak.
    up, down = [0.1, -0.06, 0.05, -0.1], [-0.02, 0.01, 0.03, 0.0]
    ctx = scenario_world(FOUR)
    ctx = replace(ctx, market=replace(ctx.market, paths=tensor([[[x, 0.0] for x in up], [[x, 0.0] for x in down]])))
    value = lambda energy: float(energy.bind(ctx)(ONE))  # noqa: E731
    assert value(MaxDrawdown()) == pytest.approx((0.11 + 0.02) / 2, abs=1e-16)
    assert value(MaxDrawdown(level=0.5)) == pytest.approx(0.11, abs=1e-16)
    assert value(CDaR(level=0.0)) == pytest.approx((0.06 + 0.01 + 0.11 + 0.02 + 0.01) / 8, abs=1e-16)
    assert value(CDaR(level=0.75)) == pytest.approx((0.11 + 0.06) / 2, abs=1e-16)
    assert value(CDaR(level=0.999)) == pytest.approx(0.11, abs=1e-16)


def test_values_are_those_of_another_library():
    measures = pytest.importorskip("skfolio.measures")
    ctx = world(size=250)
    history = ctx.scenarios.unsqueeze(0)
    ctx = replace(ctx, market=replace(ctx.market, paths=history))
    for w in portfolios(5, N):
        x = (ctx.scenarios @ w).numpy()
        falls = measures.get_drawdowns(x)
        pairs = [
            (MeanAbsoluteDeviation(), measures.mean_absolute_deviation(x)),
            (Semivariance(), measures.semi_variance(x, biased=True)),
            (Semideviation(centred=False), measures.semi_deviation(x, min_acceptable_return=0.0, biased=True)),
            (CVaR(0.93), measures.cvar(x, beta=0.93)),
            (EVaR(0.93), measures.evar(x, beta=0.93)),
            (MaxDrawdown(), measures.max_drawdown(falls)),
            (CDaR(0.93), measures.cdar(falls, beta=0.93)),
            (CDaR(0.0), measures.average_drawdown(falls)),
        ]
        for energy, theirs in pairs:
            assert float(energy.bind(ctx)(w)) == pytest.approx(float(theirs), abs=1e-10), energy


def test_forecasts_are_taken_to_the_holding_period_and_shrunk_to_the_mean_of_tradeable_names():
    ctx = world()
    alpha = ctx.forecasts["alpha"]
    torch.testing.assert_close(Return(forecast="alpha").mean(ctx), 21.0 * alpha)
    torch.testing.assert_close(Return(forecast="alpha", over=252.0).mean(ctx), alpha / 12.0)
    torch.testing.assert_close(Return(forecast="alpha", over=None).mean(ctx), alpha)
    away = replace(ctx, tradeable=torch.tensor([False] + [True] * (N - 1)))
    torch.testing.assert_close(Return(shrink=0.25).mean(away), 0.75 * ctx.mean + 0.25 * ctx.mean[1:].mean())


def test_views_by_hand():
    # One asset, prior N(pi, tau s2) and view N(q, d2): the posterior mean weighs the two by their precisions.
    ctx = scenario_world([[0.0, 0.0]])
    s = tensor([[0.04, 0.01], [0.01, 0.09]])
    pi = tensor([0.02, 0.03])
    ctx = replace(ctx, market=replace(ctx.market, mean=pi, covariance=Structured.from_dense(s)))
    found = Views((View("A", 0.05, deviation=0.02),), tau=0.5).posterior(ctx)
    a, b = 1 / (0.5 * 0.04), 1 / 0.02**2
    assert float(found[0]) == pytest.approx((a * 0.02 + b * 0.05) / (a + b), abs=1e-15)
    # The other asset follows by its beta to the first, 0.01 / 0.04.
    assert float(found[1] - pi[1]) == pytest.approx(0.25 * float(found[0] - pi[0]), abs=1e-15)


def test_one_view_moves_its_portfolio_by_its_confidence():
    ctx = world()
    legs = {"A2": 1.0, "A5": -0.5}
    p = torch.zeros(N, dtype=torch.float64)
    p[2], p[5] = 1.0, -0.5
    before = float(p @ ctx.mean)
    for c in (1e-9, 0.3, 0.8, 1.0):
        after = float(p @ Views((View(legs, 0.07, confidence=c),)).posterior(ctx))
        assert after == pytest.approx(before + c * (0.07 - before), abs=1e-12)


def test_the_posterior_is_the_least_of_two_gaussian_energies():
    ctx = world()
    term = Views(VIEWS, tau=0.3, benchmark="index", risk_aversion=3.0)
    s = ctx.covariance.dense()
    pi = 3.0 * s @ ctx.benchmarks["index"]
    torch.testing.assert_close(term.prior(ctx), pi)
    p = torch.zeros(2, N, dtype=torch.float64)
    p[0, 1], p[1, 2], p[1, 5] = 1.0, 1.0, -1.0
    q = tensor([0.03, 0.01])
    omega = tensor([0.3 * float(s[1, 1]) * (1 / 0.7 - 1), 0.02**2])

    def energy(m: torch.Tensor) -> torch.Tensor:
        prior = 0.5 * (m - pi) @ torch.linalg.solve(0.3 * s, m - pi)
        return prior + 0.5 * ((p @ m - q).square() / omega).sum()

    m = term.posterior(ctx).requires_grad_()
    slope = torch.autograd.grad(energy(m), m)[0]
    at_prior = pi.clone().requires_grad_()
    assert float(slope.abs().max()) < 1e-10 * float(torch.autograd.grad(energy(at_prior), at_prior)[0].abs().max())


def test_views_are_those_of_another_library():
    models = pytest.importorskip("pypfopt.black_litterman")
    ctx = world()
    s, pi = ctx.covariance.dense().numpy(), ctx.mean.numpy()
    p = np.zeros((2, N))
    p[0, 1], p[1, 2], p[1, 5] = 1.0, 1.0, -1.0
    q = np.array([0.03, 0.01])
    kinds = [
        ({"omega": "idzorek", "view_confidences": [0.7, 0.4]}, ({"confidence": 0.7}, {"confidence": 0.4})),
        ({"omega": np.diag([0.01**2, 0.02**2])}, ({"deviation": 0.01}, {"deviation": 0.02})),
    ]
    for theirs, (one, two) in kinds:
        model = models.BlackLittermanModel(s, pi=pi.reshape(-1, 1), P=p, Q=q, tau=0.05, **theirs)
        term = Views((View("A1", 0.03, **one), View({"A2": 1.0, "A5": -1.0}, 0.01, **two)), tau=0.05)
        np.testing.assert_allclose(term.posterior(ctx).numpy(), np.asarray(model.bl_returns()).ravel(), atol=1e-9)


def test_impact_and_borrow_by_hand():
    ctx = scenario_world(
        FOUR, volume=tensor([4e6, 1e6]), capital=1e6, span=4.0, forecasts={"fee": tensor([1e-4, 3e-4])}
    )
    s = Structured.from_dense(torch.diag(tensor([0.04, 0.16])))
    ctx = replace(ctx, held=tensor([0.5, 0.5]), market=replace(ctx.market, covariance=s))
    w = tensor([0.66, 0.25])
    # A period's volatilities are .2 / 2 and .4 / 2; the trades .16 and .25 of 1e6 against volumes of 4e6 and 1e6.
    by_hand = 0.1 * 0.16**1.5 * math.sqrt(1 / 4) + 0.2 * 0.25**1.5 * 1.0
    assert float(MarketImpact().bind(ctx)(w)) == pytest.approx(by_hand, abs=1e-15)
    assert float(MarketImpact(2.0).bind(replace(ctx, capital=4e6))(w)) == pytest.approx(4.0 * by_hand, abs=1e-15)
    assert float(MarketImpact().bind(replace(ctx, held=None))(w)) == 0.0
    short = tensor([-0.3, -0.1])
    assert float(BorrowCost(rate=1e-4).bind(ctx)(short)) == pytest.approx(4e-4 * 0.4, abs=1e-18)
    assert float(BorrowCost(rates="fee").bind(ctx)(short)) == pytest.approx(4 * (0.3e-4 + 0.3e-4), abs=1e-18)
    with pytest.raises(DataError, match=r"negative.*B"):
        BorrowCost(rates="fee").bind(replace(ctx, forecasts={"fee": tensor([0.0, -1.0])}))
    with pytest.raises(SpecError, match="either rate= or rates="):
        BorrowCost()


def test_robust_terms_are_the_worst_case_and_it_is_attained():
    ctx = world()
    s, m = ctx.covariance.dense(), ctx.mean
    width = (s.diagonal() * 21.0 / 252.0).sqrt()
    torch.testing.assert_close(deviations(ctx.covariance), s.diagonal().sqrt())
    draw = torch.Generator().manual_seed(0)
    for w in portfolios(3, N):
        box, ball = BoxReturn(252, errors=1.5).bind(ctx)(w), EllipsoidReturn(252, size=2.0).bind(ctx)(w)
        q = s * (21.0 / 252.0)
        worst_ball = m - 2.0 * (q @ w) / (w @ q @ w).sqrt()
        torch.testing.assert_close(box, -(m - 1.5 * width * w.sign()) @ w)
        torch.testing.assert_close(ball, -worst_ball @ w)
        for _ in range(200):
            u = torch.randn(N, generator=draw, dtype=torch.float64)
            assert float(-(m + 1.5 * width * u.clamp(-1, 1)) @ w) <= float(box) + 1e-15
            assert float(-(m + 2.0 * torch.linalg.cholesky(q) @ (u / u.norm())) @ w) <= float(ball) + 1e-15
        sd = s.diagonal().sqrt()
        r = 0.2 * float(s.diagonal().mean())
        d = r * torch.outer(w, w) / (w @ w)
        assert float(d.norm()) == pytest.approx(r, rel=1e-12)
        torch.testing.assert_close(RobustVariance(frobenius=0.2).bind(ctx)(w), w @ (s + d) @ w)
        e = 0.1 * torch.outer(sd * w.sign(), sd * w.sign())
        torch.testing.assert_close(RobustVariance(correlation=0.1).bind(ctx)(w), w @ (s + e) @ w)


def test_tracking_error_is_the_measure_of_the_active_portfolio():
    ctx = world()
    b = ctx.benchmarks["index"]
    w = portfolios(4, N)
    torch.testing.assert_close(TrackingError("index", Variance()).bind(ctx)(w), Variance().bind(ctx)(w - b))
    for measure in (Volatility(), MeanAbsoluteDeviation(), Semideviation(centred=False)):
        assert float(TrackingError("index", measure).bind(ctx)(b)) == 0.0
    with pytest.raises(SpecError, match=r"No benchmark 'idnex'; there is 'index'"):
        TrackingError("idnex").check(ctx)


def test_specs_that_make_no_sense_are_refused():
    for wrong in (
        lambda: Semivariance(centred=True, target=0.01),
        lambda: EVaR(level=1.0),
        lambda: View("A", 0.01),
        lambda: View("A", 0.01, confidence=0.5, deviation=0.1),
        lambda: View({"A": 0.0}, 0.01, confidence=0.5),
        lambda: Views(()),
        lambda: RiskBudget({"A": -1.0}),
        lambda: RiskBudget((("A", 1.0), ("A", 2.0))),
        lambda: EntropicRisk(0.0),
    ):
        with pytest.raises(SpecError):
            wrong()
    with pytest.raises(SpecError, match=r"no asset 'A9'; there is A"):
        Views((View("A9", 0.01, confidence=0.5),)).check(world())
    with pytest.raises(SpecError, match=r"no asset 'A9'"):
        RiskBudget({"A9": 1.0}).check(world())
    with pytest.raises(SpecError, match=r"no budget for A2"):
        RiskBudget({"A0": 1.0, "A1": 1.0}).check(world())
    assert points(RiskBudget(), 2).min() > 0
