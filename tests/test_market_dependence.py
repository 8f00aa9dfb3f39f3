"""Dependence energies: laws that every one of them keeps, and densities against oracles."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from portfolio_ebm.errors import SpecError
from portfolio_ebm.market.base import MarketModel
from portfolio_ebm.market.dependence import (
    DCC,
    Dependence,
    DependenceEnergy,
    GaussianCopula,
    Independent,
    MovingCopula,
    StudentCopula,
    log_copula,
    scores,
)
from portfolio_ebm.market.dependence.copula import levels_of
from portfolio_ebm.market.dependence.mixture import log_copula_in_r
from portfolio_ebm.market.dependence.moving import moving_correlations
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.types import generator

Array = NDArray[np.float64]
R = torch.tensor([[1.0, 0.6, -0.2], [0.6, 1.0, 0.1], [-0.2, 0.1, 1.0]], dtype=torch.float64)

MOVING = (
    DCC(),
    DCC(freedom="normal"),
    DCC(freedom=6),
    MovingCopula(),
    MovingCopula(state=False),
    MovingCopula(half_lives=(20, 250), freedom=5),
)
COPULAS = (GaussianCopula(), StudentCopula(), StudentCopula(freedom=6), *MOVING)
ALL = (Independent(), *COPULAS)


def turning(days: int = 700, names: int = 3, seed: int = 0, freedom: float = 6.0) -> Array:
    """PITs of t scores whose correlations swing from +0.8 to -0.8 and back, with gaps."""
    rng = np.random.default_rng(seed)
    rho = 0.8 * np.sin(np.arange(days) / 60)[:, None]
    z = rng.standard_normal((days, names))
    signs = np.where(np.arange(names) % 2, rho, np.abs(rho))
    x = signs * z[:, :1] + np.sqrt(1 - signs**2) * z
    x[:, 0] = z[:, 0]
    u = stats.t(freedom).cdf(x / np.sqrt(rng.chisquare(freedom, (days, 1)) / freedom))
    u[:40, 1], u[300:320, 2], u[500] = np.nan, np.nan, np.nan
    return np.asarray(u)


U = turning()


@cache
def fitted(spec: DependenceEnergy) -> Dependence:
    """The fit on U, made once."""
    return spec.fit(U)


def names(spec: DependenceEnergy) -> str:
    return repr(spec)


# ---- the density ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [6.0, 2.7, math.inf])
def test_density_against_scipy_with_and_without_a_missing_name(freedom: float) -> None:
    """c = the joint density over the product of its marginals; a missing name leaves its row and column."""
    x = np.array([[0.3, -1.2, 2.0], [0.1, 0.2, -0.4], [-7.0, 5.0, 0.0]])
    single = stats.norm if math.isinf(freedom) else stats.t(freedom)
    for kept in ([0, 1, 2], [0, 2], [1]):
        r = R.numpy()[np.ix_(kept, kept)]
        law = stats.multivariate_normal(cov=r) if math.isinf(freedom) else stats.multivariate_t(shape=r, df=freedom)
        gap = np.full_like(x, np.nan)
        gap[:, kept] = x[:, kept]
        wanted = law.logpdf(x[:, kept]) - single.logpdf(x[:, kept]).sum(axis=1)
        assert log_copula(torch.from_numpy(gap), R, freedom).numpy() == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("freedom", [6.0, math.inf])
def test_density_integrates_to_one(freedom: float) -> None:
    """Over the unit square, by a grid in scores."""
    y = np.linspace(-9, 9, 601) if not math.isinf(freedom) else np.linspace(-2.6, 2.6, 601)
    law = stats.norm if math.isinf(freedom) else stats.t(freedom)
    density = law.pdf(np.sinh(y)) * np.cosh(y) * (y[1] - y[0])
    a, b = np.meshgrid(np.sinh(y), np.sinh(y), indexing="ij")
    value = log_copula(torch.from_numpy(np.stack([a, b], -1)), R[:2, :2], freedom).exp().numpy()
    assert density @ value @ density == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("freedom", [2.7, 6.0, 31.5, math.inf])
def test_draws_keep_the_marginals_and_make_the_correlation(freedom: float) -> None:
    """Uniform levels, Kendall's tau = 2/pi arcsin(rho), and the radius of the joint law: q/d is F(d, nu)."""
    d = Dependence(None, freedom, StudentCopula().fit(U).status)
    root = torch.linalg.cholesky(R)
    x = d.draw(root, (4000,), generator(5, "draw"))
    u = d.level(x).numpy()
    assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-3
    assert stats.kendalltau(u[:, 0], u[:, 1]).statistic == pytest.approx(2 / np.pi * np.arcsin(0.6), abs=0.03)
    q = torch.linalg.solve_triangular(root, x.mT, upper=False).square().sum(0).numpy()
    radius = stats.chi2(3).cdf(q) if math.isinf(freedom) else stats.f(3, freedom).cdf(q / 3)
    assert stats.kstest(radius, "uniform").pvalue > 1e-3
    assert scores(u, freedom) == pytest.approx(x.numpy(), abs=1e-6)


# ---- laws of every dependence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ALL, ids=names)
def test_every_matrix_is_a_positive_definite_correlation(spec: DependenceEnergy) -> None:
    """On every day, before the first one, after gaps, and where names were never seen."""
    d = fitted(spec)
    x = scores(U, d.freedom)
    x[:, 1] = np.nan
    r = d.path(x, np.arange(len(U) + 1)).numpy()
    assert r.shape == (len(U) + 1, 3, 3)
    assert np.array_equal(np.einsum("tkk->tk", r), np.ones((len(U) + 1, 3)))
    assert np.abs(r - r.transpose(0, 2, 1)).max() < 1e-14
    assert np.linalg.eigvalsh(r).min() > 1e-4


@pytest.mark.parametrize("spec", ALL, ids=names)
def test_many_days_are_each_day_alone_in_any_order(spec: DependenceEnergy) -> None:
    d = fitted(spec)
    x = scores(U, d.freedom)
    rows = np.array([650, 0, 1, 320, 320, 700, 41, 501])
    together = d.path(x, rows)
    for row, r in zip(rows, together, strict=True):
        assert (d.correlation(x[:row]) - r).abs().max() < 1e-12


@pytest.mark.parametrize("poison", [7.0, np.nan, -300.0])
@pytest.mark.parametrize("spec", ALL, ids=names)
def test_a_matrix_knows_nothing_of_its_day_or_after(spec: DependenceEnergy, poison: float) -> None:
    d = fitted(spec)
    x = scores(U, d.freedom)
    later = x.copy()
    later[400:] = poison
    rows = np.arange(701)
    before, after = d.path(x, rows), d.path(later, rows)
    assert torch.equal(before[:401], after[:401])
    if spec in MOVING:
        assert not torch.equal(before[401:], after[401:])


@pytest.mark.parametrize("spec", COPULAS, ids=names)
def test_a_fit_ends_well_and_its_tensors_bring_it_back(spec: DependenceEnergy) -> None:
    d = fitted(spec)
    assert d.status.ok and "nats" in d.status.message
    assert d.dynamics is not None
    again = Dependence(spec.dynamics(d.dynamics.tensors()), d.freedom, d.status)
    x = scores(U, d.freedom)
    assert torch.equal(again.path(x, np.arange(600, 620)), d.path(x, np.arange(600, 620)))
    wanted = getattr(spec, "freedom", math.inf)
    assert wanted is None or d.freedom == (math.inf if wanted == "normal" else wanted)


@pytest.mark.parametrize("spec", MOVING, ids=names)
def test_moving_correlations_are_followed_out_of_sample(spec: DependenceEnergy) -> None:
    """Correlations that change sign: every moving one beats every static one, and independence, on new days."""
    new = turning(days=1500, seed=3)[700:]

    def out_of_sample(d: Dependence) -> float:
        x = scores(new, d.freedom)
        rows = np.flatnonzero((~np.isnan(new)).all(axis=1))[100:]
        return float(d.log_density(torch.from_numpy(x[rows]), d.path(x, rows)).mean())

    mine = out_of_sample(fitted(spec))
    assert mine > 0.05
    assert mine > max(out_of_sample(fitted(other)) for other in (GaussianCopula(), StudentCopula())) + 0.05


@pytest.mark.parametrize("spec", ALL, ids=names)
def test_nothing_to_fit_is_independence_with_its_reason(spec: DependenceEnergy) -> None:
    assert spec.fit(U[:, :1]).independent
    few = U.copy()
    few[50:, 1:] = np.nan
    found = spec.fit(few)
    assert found.independent and (spec == Independent() or "fewer than 60" in found.status.message)
    x = torch.randn(5, 3, dtype=torch.float64)
    assert torch.equal(found.log_density(x, torch.eye(3, dtype=torch.float64)), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("spec", ALL, ids=names)
def test_specs_are_written_and_read(spec: DependenceEnergy) -> None:
    model = FactorEBM(dependence=spec, residual_dependence=spec)
    assert MarketModel.from_json(model.model_dump_json()) == model
    assert eval(repr(model)) == model


# ---- each one's own truth -------------------------------------------------------------------------------------------


def test_strings_stand_for_specs() -> None:
    assert FactorEBM(dependence="t").dependence == MovingCopula()
    assert FactorEBM(residual_dependence="none").residual_dependence == Independent()
    with pytest.raises(SpecError, match="'vine' is no dependence; write 't'"):
        FactorEBM(dependence="vine")
    with pytest.raises(SpecError, match="freedom"):
        StudentCopula(freedom=1.5)


def test_static_copulas_find_the_truth() -> None:
    d = Dependence(None, 6.0, StudentCopula().fit(U).status)
    u = d.level(d.draw(torch.linalg.cholesky(R), (6000,), generator(8, "fit"))).numpy()
    student, normal = StudentCopula().fit(u), GaussianCopula().fit(u)
    assert 5 < student.freedom < 7.5
    for found in (student, normal):
        assert (found.correlation(scores(u, found.freedom)) - R).abs().max() < 0.06
    x = torch.from_numpy(scores(u, 6.0))
    truth = float(log_copula(x, R, 6.0).mean())
    r = student.correlation(x.numpy())
    assert float(log_copula(torch.from_numpy(scores(u, student.freedom)), r, student.freedom).mean()) > truth - 5e-4


def test_moving_correlations_by_hand() -> None:
    """Half-life one: yesterday counts one, the day before a half; a tenth of a day of the identity in front."""
    x = np.array([[1.0, 2.0], [np.nan, 1.0], [1.0, -1.0]])
    c = moving_correlations(x, (1.0,), np.array([0, 3]))[:, 0]
    assert np.array_equal(c[0], np.eye(2))
    cross = 0.25 * 2 + 0 - 1
    assert c[1, 0, 1] == pytest.approx(cross / math.sqrt((0.25 + 1 + 0.1) * (0.25 * 4 + 0.5 + 1 + 0.1)))


def test_dcc_by_hand() -> None:
    """Three steps of the recursion, written out; the second day's first name is missing."""
    spec = DCC(freedom="normal")
    target = np.array([[1.0, 0.3], [0.3, 1.0]])
    a, b = 0.1, 0.8
    dynamics = spec.dynamics({"ab": torch.tensor([a, b, 1.0], dtype=torch.float64), "target": torch.from_numpy(target)})
    x = np.array([[1.5, -0.5], [np.nan, 2.0], [0.2, 0.4]])
    q = target.copy()
    wanted = [q]
    for row in x:
        y = np.sqrt(np.diag(q)) * np.nan_to_num(row)
        push = np.outer(y, y) + np.diag(np.where(np.isnan(row), np.diag(q), 0.0))
        q = (1 - a - b) * target + a * push + b * q
        wanted.append(q)
    for got, q in zip(dynamics.path(x, np.arange(4)), wanted, strict=True):
        assert got[0, 1] == pytest.approx(q[0, 1] / math.sqrt(q[0, 0] * q[1, 1]), abs=1e-14)


def test_dcc_finds_the_parameters_of_its_own_simulation() -> None:
    """Data from the recursion itself: a and b come back, and S is the average correlation."""
    rng = np.random.default_rng(4)
    a, b, target = 0.06, 0.9, R.numpy()
    q, rows = target.copy(), []
    for _ in range(4000):
        width = np.sqrt(np.diag(q))
        rows.append(np.linalg.cholesky(q / np.outer(width, width)) @ rng.standard_normal(3))
        y = width * rows[-1]
        q = (1 - a - b) * target + a * np.outer(y, y) + b * q
    found = DCC(freedom="normal").fit(stats.norm.cdf(np.array(rows)))
    got = found.dynamics.tensors()
    assert got["ab"][0] == pytest.approx(a, abs=0.02)
    assert got["ab"][1] == pytest.approx(b, abs=0.05)
    assert (got["target"] - R).abs().max() < 0.08


def test_correlations_ahead_return_to_the_target_under_dcc_and_are_held_by_means_of_the_past() -> None:
    today = R
    for spec in (MovingCopula(), StudentCopula(), Independent()):
        ahead = fitted(spec).ahead(today, 5)
        assert ahead.shape == (5, 3, 3) and all(torch.equal(r, today) for r in ahead)
    dcc = fitted(DCC())
    assert dcc.dynamics is not None
    tensors = dcc.dynamics.tensors()
    ahead = dcc.ahead(today, 400)
    assert torch.equal(ahead[0], today)
    decay = float(tensors["ab"][:2].sum())
    assert torch.allclose(ahead[3] - tensors["target"], decay**3 * (today - tensors["target"]))
    assert torch.linalg.eigvalsh(ahead).min() > 0


def test_gradient_in_r_is_the_one_through_the_cholesky_factor() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator(1, "x"))
    x[1, 2], x[2] = torch.nan, torch.nan
    for freedom in (4.5, math.inf):
        r = R.expand(4, 3, 3).clone().requires_grad_(True)
        (other,) = torch.autograd.grad(log_copula(x, r, freedom).sum(), r)
        (mine,) = torch.autograd.grad(log_copula_in_r(r, x, freedom).sum(), r)
        # The factor reads the lower half alone; the closed form is of a symmetric R.
        assert torch.allclose(mine + mine.mT, other + other.mT, atol=1e-12)
        assert torch.equal(log_copula_in_r(r, x, freedom), log_copula(x, r, freedom))


def test_fitted_shares_are_a_maximum() -> None:
    """No step in any direction does better on the days of the fit, and a state can only add to constant shares."""
    u = turning(days=1500, names=4, seed=5)
    rows = np.flatnonzero((~np.isnan(u)).sum(axis=1) >= 2)[250:]
    value = {}
    for state in (False, True):
        spec = MovingCopula(half_lives=(8, 100), state=state, freedom=8)
        d = spec.fit(u)
        assert d.dynamics is not None and d.status.ok
        x = scores(u, 8.0)
        weights = d.dynamics.tensors()["weights"]

        def likelihood(w: torch.Tensor, spec: MovingCopula = spec, x: Array = x, at: torch.Tensor = weights) -> float:
            r = torch.from_numpy(spec.dynamics({"weights": w}).path(x, rows))
            prior = (w[0] / 2).square().sum() + w[1:].square().sum()
            return float(log_copula(torch.from_numpy(x[rows]), r, 8.0).mean() - prior / (2 * len(rows)))

        value[state] = likelihood(weights)
        for place in np.ndindex(*weights.shape):
            for step in (-0.2, 0.2):
                moved = weights.clone()
                moved[place] += step
                assert likelihood(moved) < value[state] + 1e-7
    assert value[True] > value[False]


@pytest.mark.parametrize("seed", [11, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (12, 13))])
def test_a_state_pays_where_correlations_break(seed: int) -> None:
    """Long calm stretches with sudden turns between: shares that move do better on new days."""
    rng = np.random.default_rng(seed)
    days = 6000
    rho = np.where((np.arange(days) // 600) % 2, 0.6, -0.6)[:, None] * np.array([1, 1, -1])
    z = rng.standard_normal((days, 4))
    u = stats.norm.cdf(np.concatenate([z[:, :1], rho * z[:, :1] + np.sqrt(1 - rho**2) * z[:, 1:]], axis=1))
    got = []
    for state in (False, True):
        d = MovingCopula(half_lives=(8, 100), state=state).fit(u[:3000])
        x, rows = scores(u, d.freedom), np.arange(3000, days)
        got.append(float(d.log_density(torch.from_numpy(x[rows]), d.path(x, rows)).mean()))
    assert got[1] > got[0]


def test_hundreds_of_names_are_defined_and_positive_definite() -> None:
    """More names than days, a third of the cells missing, one name never seen."""
    rng = np.random.default_rng(2)
    u = stats.norm.cdf(rng.standard_normal((150, 1)) * 0.6 + 0.8 * rng.standard_normal((150, 300)))
    u[rng.random(u.shape) < 0.33] = np.nan
    u[:, 7] = np.nan
    for spec in (MovingCopula(half_lives=(60, 250), state=False, freedom=8), StudentCopula(freedom=8), DCC(freedom=8)):
        d = spec.fit(u)
        x = scores(u, d.freedom)
        r = d.path(x, np.array([0, 150]))
        assert torch.linalg.eigvalsh(r).min() > 1e-4, spec
        assert torch.isfinite(d.log_density(torch.from_numpy(x[-1:]), r[1:])).all()


def test_levels_undo_scores_far_in_the_tails() -> None:
    u = np.array([1e-12, 1e-5, 0.5, 1 - 1e-5])
    for freedom in (2.7, 9.3, math.inf):
        assert levels_of(torch.from_numpy(scores(u, freedom)), freedom).numpy() == pytest.approx(u, rel=1e-6)
