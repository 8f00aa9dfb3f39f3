"""Laws of every market model, and the plain models against closed forms and other libraries."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from market_worlds import cut, world
from scipy import integrate, stats
from sklearn import covariance as peer

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.market.base import Market, MarketModel
from portfolio_ebm.market.elliptical import EllipticalMarket
from portfolio_ebm.market.ewma import EWMA
from portfolio_ebm.market.factor_covariance import FactorCovariance
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.market.historical import FilteredHistorical, Historical
from portfolio_ebm.market.ledoit_wolf import OAS, LedoitWolf
from portfolio_ebm.market.moments import SampleMoments
from portfolio_ebm.market.parts import Factor, Residual
from portfolio_ebm.market.stacked import StackedMarket
from portfolio_ebm.types import generator

BOTH = ("market", "value")
MODELS: dict[str, MarketModel] = {
    "moments": SampleMoments(lookback=120, factors=BOTH),
    "moments-shrunk-mean": SampleMoments(lookback=120, factors=BOTH, mean="shrunk"),
    "ledoit-wolf": LedoitWolf(lookback=120, factors=BOTH),
    "oas": OAS(lookback=120, factors=BOTH),
    "ewma": EWMA(half_life=40, factors=BOTH, mean="zero"),
    "ewma-t": EWMA(half_life=40, factors=BOTH, freedom=5.0, shrinkage=0.05),
    "ewma-fit": EWMA(half_life=40, factors=BOTH, freedom="fit", lookback=250),
    "factors": FactorCovariance(factors=BOTH),
    "factors-t": FactorCovariance(factors=BOTH, half_life=None, freedom=6.0, lookback=200),
    "historical": Historical(lookback=150, factors=BOTH),
    "filtered": FilteredHistorical(lookback=150, half_life=15, factors=BOTH),
    "energies": FactorEBM(factors=BOTH, lookback=300, min_history=200),
    "energies, every option": FactorEBM(
        factors=("market", Factor("value", density="skew_student", calibrated=False, lookback=150)),
        residual=Residual("student", calibrated=False),
        lookback=300,
        min_history=200,
    ),
}
PLAIN = [name for name in MODELS if not name.startswith("energies")]
DENSE = [name for name in MODELS if name not in ("historical", "filtered")]


def panel_of(past: Past, **changes: object) -> Panel:
    """A panel of the days of a past, all names tradeable where they have a return."""
    return replace(
        Panel(
            dates=past.dates,
            assets=past.assets,
            returns=past.returns,
            tradeable=~np.isnan(past.returns),
            cash_rate=np.zeros(len(past)),
            factors=past.factors,
            factor_returns=past.factor_returns,
            market=past.market,
        ),
        **changes,
    )


def alone(past: Past, *names: str) -> Past:
    """The same days of chosen factors and no asset."""
    columns = [past.factors.index(name) for name in names]
    nothing = np.zeros((len(past), 0))
    return replace(
        past,
        assets=(),
        returns=nothing,
        tradeable=np.zeros(0, dtype=bool),
        leaving=np.zeros(0, dtype=bool),
        factors=names,
        factor_returns=past.factor_returns[:, columns],
    )


@cache
def fitted(name: str) -> Market:
    return MODELS[name].fit(world())


def row(market: Market, past: Past, t: int = -1) -> torch.Tensor:
    columns = [past.factors.index(f) for f in market.factors]
    return torch.from_numpy(np.concatenate([past.factor_returns[t, columns], past.returns[t]]))


@pytest.mark.parametrize("name", DENSE)
def test_a_density_of_one_series_integrates_to_one(name: str) -> None:
    past = alone(world(), "market")
    market = MODELS[name].replace(factors=("market",)).fit(past)
    assert market.series == ("market",) and market.mean.shape == (0,)
    # x = tan keeps a power tail inside a finite interval.
    angle = torch.linspace(-np.pi / 2, np.pi / 2, 40002, dtype=torch.float64)[1:-1]
    x, jacobian = 0.01 * angle.tan(), 0.01 / angle.cos().square()
    mass = (market.log_prob(x[:, None]).exp() * jacobian).sum() * (angle[1] - angle[0])
    assert float(mass) == pytest.approx(1.0, abs=2e-4)


@pytest.mark.parametrize("name", list(MODELS))
def test_draws_have_uniform_pits(name: str) -> None:
    market = fitted(name)
    drawn = market.sample(1500, generator(1, name))
    assert drawn.shape == (1500, 6)
    u = market.pit(drawn).numpy()
    worst = min(stats.kstest(u[:, i], "uniform").pvalue for i in range(6))
    # An empirical law puts its draws on at most 150 ranks; they are uniform on those.
    assert worst > 1e-3 / 6 or (not market.has_density and stats.kstest(u.ravel(), "uniform").statistic < 0.02)


@pytest.mark.parametrize("name", list(MODELS))
def test_draws_have_the_stated_moments(name: str) -> None:
    market = fitted(name)
    n = 40000
    drawn = market.sample(n, generator(2, name))[:, 2:]
    spread = drawn.std(0)
    assert bool(((drawn.mean(0) - market.mean).abs() < 5 * spread * (n**-0.5 + 4000**-0.5)).all())
    stated, seen = market.covariance.dense(), torch.cov(drawn.T)
    scale = spread[:, None] * spread[None, :]
    # Fourth moments set the error of a variance: kurtosis up to 9 here.
    assert float(((stated - seen) / scale).abs().max()) < (0.06 if market.exact else 0.2)


@pytest.mark.parametrize("name", DENSE)
def test_a_missing_asset_is_integrated_out(name: str) -> None:
    past = world()
    market = fitted(name)
    r = row(market, past)
    angle = torch.linspace(-np.pi / 2, np.pi / 2, 6002, dtype=torch.float64)[1:-1]
    wide = r.repeat(len(angle), 1)
    wide[:, 4] = 0.02 * angle.tan()
    mass = (market.log_prob(wide).exp() * 0.02 / angle.cos().square()).sum() * (angle[1] - angle[0])
    r[4] = torch.nan
    assert float(market.log_prob(r)) == pytest.approx(float(mass.log()), abs=2e-3)
    assert torch.isnan(market.pit(r)).tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize("name", list(MODELS))
def test_a_batch_is_the_loop(name: str) -> None:
    past = world()
    panel, model = panel_of(past), MODELS[name]
    rows = [300, 301, 390]
    batch, loop = model.fit_days(panel, rows), [model.fit(panel.past(t - 1)) for t in rows]
    assert batch.batch == (3,) and batch.series == loop[0].series
    r = torch.stack([row(loop[0], past, t) for t in rows])
    r[1, 3] = r[2, 5] = torch.nan
    weights = torch.tensor([[0.5, 0.2, 0.2, 0.1], [1.0, 0.0, 0.0, -1.0]], dtype=torch.float64)
    if batch.has_density:
        assert torch.allclose(
            batch.log_prob(r), torch.stack([m.log_prob(x) for m, x in zip(loop, r, strict=True)]), atol=1e-8
        )
    rngs = [[generator(0, f"{name}/{t}") for t in rows] for _ in range(2)]
    one = batch.sample(50, rngs[0])
    assert torch.allclose(one, torch.stack([m.sample(50, g) for m, g in zip(loop, rngs[1], strict=True)]), atol=1e-8)
    pit = torch.stack([m.pit(x) for m, x in zip(loop, r, strict=True)])
    assert torch.allclose(batch.pit(r), pit, atol=1e-8, equal_nan=True)
    for got, want in zip(
        batch.var_es(weights[None], 0.9), zip(*[m.var_es(weights, 0.9) for m in loop], strict=True), strict=False
    ):
        assert torch.allclose(got, torch.stack(want), atol=1e-8)
    b = torch.linspace(-0.5, 1.0, 6, dtype=torch.float64)
    energies = torch.stack([m.free_energy(b, 5.0) for m in loop])
    assert torch.allclose(batch.free_energy(b[None].expand(3, -1), 5.0), energies, atol=1e-8)
    assert torch.allclose(batch.mean, torch.stack([m.mean for m in loop]), atol=1e-8)
    whole = torch.stack([m.covariance.dense() for m in loop])
    assert torch.allclose(batch.covariance.dense(), whole, atol=1e-8)


@pytest.mark.parametrize("name", list(MODELS))
def test_what_comes_later_changes_nothing(name: str) -> None:
    past, t = world(), 350
    panel, model = panel_of(past), MODELS[name]
    returns, factors = past.returns.copy(), past.factor_returns.copy()
    returns[t + 1 :] *= -3
    returns[t + 20 :, 1] = np.nan
    factors[t + 1 :] *= -3
    poisoned = replace(panel, returns=returns, factor_returns=factors)
    one, two = model.fit(panel.past(t)), model.fit(poisoned.past(t))
    draws = [m.sample(20, generator(0, "x")) for m in (one, two)]
    assert torch.equal(*draws)
    looks = [m.outlook(5, generator(0, "y")) for m in (one, two)]
    assert torch.equal(looks[0].mean, looks[1].mean)
    assert torch.equal(looks[0].covariance.dense(), looks[1].covariance.dense())


@pytest.mark.parametrize("name", list(MODELS))
def test_specs_round_trip(name: str) -> None:
    assert MarketModel.from_json(MODELS[name].model_dump_json()) == MODELS[name]


@pytest.mark.parametrize("name", list(MODELS))
def test_outlook_and_scenarios_have_their_shapes(name: str) -> None:
    market = fitted(name)
    found = market.outlook(10, generator(0, "o"))
    assert found.mean.shape == (4,) and found.covariance.dense().shape == (4, 4) and found.horizon == 10
    assert found.scenarios is not None and found.scenarios.shape[1] == 4
    drawn = market.scenarios(10, 3000, generator(0, "s"))
    assert drawn.shape == (3000, 4)
    ratio = drawn.var(0) / found.covariance.dense().diagonal()
    assert bool(((ratio > 0.5) & (ratio < 2.0)).all())


@pytest.mark.parametrize("name", PLAIN)
def test_gaps_and_young_names_are_no_obstacle(name: str) -> None:
    past = world()
    r = past.returns.copy()
    r[::9, 1], r[:-8, 2], r[:, 3] = np.nan, np.nan, np.nan
    tradeable = np.array([True, True, True, False])
    market = MODELS[name].fit(replace(past, returns=r, tradeable=tradeable))
    assert "A2" in market.status.message and "A1" not in market.status.message
    whole, found = fitted(name).covariance.dense().diagonal(), market.covariance.dense()
    ratio = found.diagonal() / whole
    assert bool(((ratio > 0.3) & (ratio < 3.0)).all())
    assert float(torch.linalg.eigvalsh(found)[0]) > 0 and bool(torch.isfinite(market.mean).all())
    with pytest.raises(DataError, match="A3"):
        MODELS[name].fit(replace(past, returns=r))


@pytest.mark.parametrize("name", PLAIN)
def test_wrong_factors_are_named(name: str) -> None:
    with pytest.raises(DataError, match=r"no factor carry; it has market, value, size"):
        MODELS[name].replace(factors=("market", "carry")).fit(world())
    with pytest.raises(DataError, match="Factor value has 3 observations"):
        gone = world().factor_returns.copy()
        gone[:-3, 1] = np.nan
        MODELS[name].fit(replace(world(), factor_returns=gone))


@pytest.mark.parametrize(("model", "truth"), [(LedoitWolf(60), peer.LedoitWolf()), (OAS(60), peer.OAS())])
def test_shrinkage_is_that_of_scikit_learn(model: MarketModel, truth: peer.EmpiricalCovariance) -> None:
    past = world(120, assets=12)
    window = past.returns[-60:]
    market = model.fit(past)
    assert np.allclose(market.covariance.dense().numpy(), truth.fit(window).covariance_, atol=1e-15)
    assert np.allclose(market.mean.numpy(), window.mean(axis=0), atol=1e-15)


def test_the_three_means() -> None:
    past = world(300)
    sample, shrunk, zero = (SampleMoments(100, mean=m).fit(past).mean.numpy() for m in ("sample", "shrunk", "zero"))
    # A Sharpe ratio a year of deviation 1/2 is worth 252 / 0.25 = 1008 days.
    assert np.allclose(shrunk, sample * 100 / 1108, atol=1e-18) and np.all(zero == 0)


def test_normal_density_is_that_of_scipy() -> None:
    past = world()
    market = fitted("moments")
    both = np.concatenate([past.factor_returns[:, :2], past.returns], axis=1)[-120:]
    law = stats.multivariate_normal(both.mean(axis=0), np.cov(both, rowvar=False))
    assert np.allclose(market.log_prob(torch.from_numpy(both)).numpy(), law.logpdf(both), atol=1e-8)
    assert torch.equal(market.energy(torch.from_numpy(both)), -market.log_prob(torch.from_numpy(both)))
    part = both.copy()
    part[:, [0, 3]] = np.nan
    keep = [1, 2, 4, 5]
    left = stats.multivariate_normal(both.mean(axis=0)[keep], np.cov(both, rowvar=False)[np.ix_(keep, keep)])
    assert np.allclose(market.log_prob(torch.from_numpy(part)).numpy(), left.logpdf(both[:, keep]), atol=1e-8)


def test_ewma_is_the_recursion_and_its_law_that_of_scipy() -> None:
    past = world(600)
    model = EWMA(half_life=11, freedom=5.0, mean="zero")
    lam = 0.5 ** (1 / 11)
    s = np.zeros((4, 4))
    for r in past.returns:
        s = lam * s + (1 - lam) * np.outer(r, r)
    s /= 1 - lam**600
    market = model.fit(past)
    assert np.allclose(market.covariance.dense().numpy(), s, rtol=1e-10)
    law = stats.multivariate_t(np.zeros(4), s * 3 / 5, df=5)
    days = past.returns[-40:]
    assert np.allclose(market.log_prob(torch.from_numpy(days.copy())).numpy(), law.logpdf(days), atol=1e-9)
    shrunk = model.replace(shrinkage=0.25).fit(past).covariance.dense().numpy()
    assert np.allclose(shrunk, 0.75 * s + 0.25 * np.diag(np.diag(s)), rtol=1e-10)


def test_degrees_of_freedom_are_those_of_greatest_likelihood() -> None:
    """Against pandas' EW moments and scipy's t law, one series, up to the last row of 2016."""
    rng = np.random.default_rng(3)
    past = alone(world(620), "market")
    past = replace(past, factor_returns=0.01 * rng.standard_t(4, (620, 1)))
    last = int(np.searchsorted(past.dates, np.datetime64("2017-01-01"))) - 1
    x = past.factor_returns[: last + 1, 0]
    rows = np.unique(np.linspace(60, len(x) - 1, 400).round().astype(int))
    sd = np.sqrt(pd.Series(x**2).ewm(halflife=30).mean().shift(1).to_numpy()[rows])

    def loss(nu: float) -> float:
        return -float(stats.t.logpdf(x[rows], nu, scale=sd * np.sqrt((nu - 2) / nu)).sum())

    market = EWMA(half_life=30, freedom="fit", factors=("market",), mean="zero").fit(past)
    nu = float(market.freedom)
    assert f"fitted to {past.dates[last].astype('datetime64[D]')}" in market.status.message
    assert 2.5 < nu < 8
    assert max(loss(nu) - loss(nu * 1.01), loss(nu) - loss(nu / 1.01)) < 0
    assert float(EWMA(freedom="fit").fit(world(80)).freedom) == 8.0


def test_factor_covariance_is_weighted_least_squares() -> None:
    past = world(500)
    market = FactorCovariance(factors=("market", "size"), half_life=60).fit(past)
    f, r = past.factor_returns[:, [0, 2]], past.returns
    weight = 0.5 ** (np.arange(500)[::-1] / 60)
    weight /= weight.sum()
    f, r = f - f.mean(axis=0), r - r.mean(axis=0)
    root = np.sqrt(weight)[:, None]
    b = np.linalg.lstsq(f * root, r * root, rcond=None)[0].T
    core = (f * weight[:, None]).T @ f
    d = weight @ (r - f @ b.T) ** 2
    assert isinstance(market, EllipticalMarket) and market.structure is not None
    assert np.allclose(market.structure.loadings.numpy(), b, atol=1e-12)
    assert np.allclose(market.covariance.dense().numpy(), b @ core @ b.T + np.diag(d), rtol=1e-10)
    # Residuals are orthogonal to the factors: the assets' own variances, and covariances with factors, are exact.
    both = np.concatenate([f, r], axis=1)
    exact = (both * weight[:, None]).T @ both
    spread = market.spread.numpy()
    assert np.allclose(np.diag(spread), np.diag(exact), rtol=1e-10)
    assert np.allclose(spread[:2], exact[:2], rtol=1e-9)
    assert np.allclose(market.spread[2:, 2:].numpy(), market.covariance.dense().numpy(), rtol=1e-12)


def test_historical_is_the_window_itself() -> None:
    past = world(300)
    market = Historical(lookback=100).fit(past)
    days = past.returns[-100:]
    w = np.array([0.4, 0.3, 0.2, 0.1])
    x = np.sort(days @ w)
    var, es = market.var_es(torch.from_numpy(w), 0.95)
    assert float(var) == pytest.approx(x[4], abs=1e-15) and float(es) == pytest.approx(x[:5].mean(), abs=1e-15)
    # A tail of 4.5 days: the fifth counts half.
    var, es = market.var_es(torch.from_numpy(w), 0.955)
    assert float(es) == pytest.approx((x[:4].sum() + 0.5 * x[4]) / 4.5, abs=1e-15) and float(var) == x[4]
    u = market.pit(torch.from_numpy(np.array([-1.0, 1.0, days[7, 2], np.nan])))
    rank = (days[:, 2] < days[7, 2]).sum() + 1
    assert u[:3].tolist() == pytest.approx([0.5 / 101, 100.5 / 101, rank / 101]) and bool(torch.isnan(u[3]))
    found = market.outlook(1, generator(0, "h"))
    assert np.allclose(found.scenarios.numpy(), days, atol=1e-16)
    drawn = {tuple(day) for day in market.sample(400, generator(0, "b")).numpy()}
    assert drawn <= {tuple(day) for day in days} and len(drawn) > 90
    with pytest.raises(SpecError, match="no density"):
        market.log_prob(torch.zeros(4, dtype=torch.float64))


def test_filtered_days_are_standardised_by_what_was_known() -> None:
    past = world(400)
    model = FilteredHistorical(lookback=100, half_life=10, mean="zero")
    market = model.fit(past)
    r = past.returns[-180:]
    v = pd.DataFrame(r**2).ewm(halflife=10).mean().to_numpy()
    z = (r[1:] / np.sqrt(v[:-1]))[-100:]
    z = z - z.mean(axis=0)
    assert np.allclose(market.days.numpy(), z * np.sqrt(v[-1]), atol=1e-12)
    # Thrice the last returns: volatility rises, and the law widens with it.
    shaken = past.returns.copy()
    shaken[-5:] *= 3
    wide = model.fit(replace(past, returns=shaken)).var_es(torch.eye(4, dtype=torch.float64), 0.99)[0]
    assert bool((wide < market.var_es(torch.eye(4, dtype=torch.float64), 0.99)[0]).all())


def test_filtered_volatility_follows_its_own_path() -> None:
    """One atom +-a: after one step every path's variance is lam v + (1 - lam) a^2, and so on, by hand."""
    market = FilteredHistorical(lookback=100, half_life=10).fit(world())
    v, lam = 1e-4, 0.5
    days = torch.tensor([[0.02], [-0.02]], dtype=torch.float64)
    one = replace(
        market,
        assets=("A",),
        factors=(),
        days=days,
        centre=torch.zeros(1, dtype=torch.float64),
        variance=torch.tensor([v], dtype=torch.float64),
        decay=lam,
    )
    # z = +-2: e1 = +-0.02, v2 = (1e-4 + 4e-4) / 2, e2 = +-2 sqrt(v2).
    second = 2 * np.sqrt(2.5e-4)
    ends = {round((1 + a) * (1 + b) - 1, 12) for a in (0.02, -0.02) for b in (second, -second)}
    drawn = one.scenarios(2, 200, generator(0, "f")).numpy()[:, 0]
    assert {round(float(x), 12) for x in drawn} == ends


@pytest.mark.parametrize("nu", [None, 5.0])
def test_tails_of_elliptical_portfolios_are_closed(nu: float | None) -> None:
    market = EWMA(half_life=40, freedom=nu).fit(world())
    w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    mean, sd = float(w @ market.mean), float(market.covariance.quad(w).sqrt())
    law = stats.norm(mean, sd) if nu is None else stats.t(nu, mean, sd * np.sqrt((nu - 2) / nu))
    var, es = market.var_es(w, 0.99)
    assert float(var) == pytest.approx(law.ppf(0.01), rel=1e-10)
    below = integrate.quad(lambda x: x * law.pdf(x), -np.inf, law.ppf(0.01), epsabs=1e-14)[0]
    assert float(es) == pytest.approx(below / 0.01, rel=1e-6)
    u = market.pit(market.mean + 0.01)
    each = market.covariance.dense().diagonal().sqrt().numpy()
    scale = 1.0 if nu is None else np.sqrt((nu - 2) / nu)
    truth = [(stats.norm if nu is None else stats.t(nu)).cdf(0.01 / (s * scale)) for s in each]
    assert u.tolist() == pytest.approx(truth, abs=1e-12)


def test_free_energies_are_closed_where_the_law_allows() -> None:
    w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    past = world()
    normal, student = (EWMA(half_life=40, freedom=nu).fit(past) for nu in (None, 5.0))
    square = float(normal.covariance.quad(w))
    assert float(normal.free_energy(w, 8.0)) == pytest.approx(4 * square, rel=1e-12)
    sd, scale = np.sqrt(square), np.sqrt(3 / 5)
    mass = stats.t(5, 0, scale).cdf(10) - stats.t(5, 0, scale).cdf(-10)
    moment = integrate.quad(lambda z: np.exp(-8 * sd * z) * stats.t.pdf(z, 5, 0, scale), -10, 10, epsabs=1e-13)[0]
    assert float(student.free_energy(w, 8.0)) == pytest.approx(np.log(moment / mass) / 8, rel=1e-7)
    days = past.returns[-150:] @ w.numpy()
    empirical = Historical(lookback=150).fit(past).free_energy(w, 8.0)
    assert float(empirical) == pytest.approx(np.log(np.exp(-8 * (days - days.mean())).mean()) / 8, rel=1e-10)
    with pytest.raises(SpecError, match="risk_aversion"):
        normal.free_energy(w, 0.0)


def test_energies_add_their_parts_free_energies() -> None:
    """Each part alone and small: g / 2 times its variance; together: the sum."""
    market = fitted("energies")
    table = market.marginals
    assert table is not None and len(table.names) == 6
    variance = (table.log_mass.exp() * table.values.square()).sum(-1)
    single = market.free_energy(torch.eye(6, dtype=torch.float64), 1e-3)
    assert single.tolist() == pytest.approx((variance * 5e-4).tolist(), rel=1e-4)
    b = torch.tensor([0.9, 0.1, 0.3, 0.3, 0.2, 0.2], dtype=torch.float64)
    parts = market.free_energy(torch.diag(b), 5.0)
    assert float(market.free_energy(b, 5.0)) == pytest.approx(float(parts.sum()), rel=1e-12)


@pytest.mark.parametrize("stale", [False, True])
def test_energies_state_the_moments_of_their_law(stale: bool) -> None:
    """Against 200,000 draws: the mean is the law's own drift, the covariance that of an outlook of one period."""
    past = world()
    if stale:
        still = past.returns.copy()
        still[np.arange(len(past)) % 5 < 2, 1] = 0.0
        past = replace(past, returns=still)
    model = FactorEBM(factors=BOTH, residual=Residual("student", stale=stale), lookback=300, min_history=200)
    market = model.fit(past)
    drawn = market.sample(200_000, generator(8, "moments"))[:, 2:]
    error = drawn.std(0) * 200_000**-0.5
    assert bool(((drawn.mean(0) - market.mean).abs() < 5 * error).all())
    assert float((market.mean - market.outlook(1, generator(0, "m")).mean).abs().max()) > 5 * float(error.max())
    width = drawn.std(0)
    gap = (torch.cov(drawn.T) - market.covariance.dense()) / (width[:, None] * width[None, :])
    assert float(gap.abs().max()) < 0.04 and market.covariance.loadings.shape[-1] > 2
    assert torch.equal(market.covariance.dense(), market.outlook(1, generator(0, "m")).covariance.dense())


def test_sampled_forms_agree_with_the_closed_ones() -> None:
    """The base class's own answers for a law whose closed ones are known, within their stated errors."""
    market = fitted("ewma-t")
    w = torch.tensor([0.25] * 4, dtype=torch.float64)
    closed, sampled = market.var_es(w, 0.95), Market.var_es(market, w, 0.95, draws=100_000, rng=generator(0, "v"))
    sd = float(market.covariance.quad(w).sqrt())
    assert float((closed[0] - sampled[0]).abs()) < 5 * sd * 0.01
    assert float((closed[1] - sampled[1]).abs()) < 5 * sd * 0.03
    r = market.sample(30, generator(0, "r"))
    assert float((market.pit(r) - Market.pit(market, r)).abs().max()) < 5 * 0.5 / 4000**0.5
    assert torch.equal(Market.pit(market, r), Market.pit(market, r))


def test_positions_are_over_assets_or_over_all_series() -> None:
    market = fitted("factors")
    w = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    whole = torch.cat([torch.zeros(2, dtype=torch.float64), w])
    assert torch.equal(torch.stack(market.var_es(w)), torch.stack(market.var_es(whole)))
    hedged = market.var_es(torch.cat([torch.tensor([-1.0, 0.0], dtype=torch.float64), w]), 0.95)
    assert float(hedged[1]) > float(market.var_es(w, 0.95)[1])
    with pytest.raises(ShapeError, match="expected"):
        market.var_es(torch.ones(5, dtype=torch.float64))
    with pytest.raises(SpecError, match="level"):
        market.var_es(w, 1.0)
    with pytest.raises(ShapeError, match="6"):
        market.log_prob(torch.zeros(4, dtype=torch.float64))
    for ask in (market.log_prob, market.var_es, fitted("energies").log_prob):
        with pytest.raises(ShapeError, match="got a ndarray, expected a torch tensor"):
            ask(np.zeros(6))
    with pytest.raises(ShapeError, match="exposures to the market's parts"):
        fitted("energies").free_energy(w, 5.0)


def test_a_singular_law_says_so() -> None:
    past = world(200, assets=60)
    for model, remedy in ((SampleMoments(lookback=60), "FactorCovariance"), (EWMA(lookback=60), "shrinkage")):
        with pytest.raises(DataError, match=rf"60 periods for 60 series \(A0 to A59\).*singular.*{remedy}"):
            model.fit(past)
    assert EWMA(lookback=60, mean="zero").fit(past).status.ok
    assert (
        EWMA(half_life=10).lacking(cut(past, 60))
        == f"61 periods are needed for 60 series and there are 60 up to {cut(past, 60).date}"
    )
    assert EWMA(half_life=10).lacking(cut(past, 61)) is None
    assert SampleMoments(lookback=61).fit(past).status.ok and EWMA(lookback=60, shrinkage=0.1).fit(past).status.ok
    constant = replace(past, returns=np.repeat(past.returns[:, :1], 60, axis=1))
    market = SampleMoments(lookback=100).fit(constant)
    with pytest.raises(DataError, match=r"singular.*LedoitWolf"):
        market.log_prob(torch.zeros(60, dtype=torch.float64))
    assert bool(torch.isfinite(LedoitWolf(lookback=40).fit(past).log_prob(torch.zeros(60, dtype=torch.float64))))
    assert market.sample(10, generator(0, "s")).shape == (10, 60)


def test_batches_of_different_windows_are_kept_apart() -> None:
    panel = panel_of(world())
    model = Historical(lookback=200)
    early = model.fit_days(panel, [120, 150])
    assert isinstance(early, StackedMarket) and early.batch == (2,)
    w = torch.full((1, 4), 0.25, dtype=torch.float64)
    alone_ = [model.fit(panel.past(t - 1)).var_es(w[0])[1] for t in (120, 150)]
    assert torch.allclose(early.var_es(w)[1], torch.stack(alone_), atol=1e-12)
    with pytest.raises(DataError, match="no past"):
        model.fit_days(panel, [0])
    with pytest.raises(ShapeError, match="random streams"):
        early.sample(3, [generator(0, "one")])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EWMA(freedom=2.0), "2 degrees"),
        (lambda: FactorCovariance(lookback=20, factors=tuple(f"f{i}" for i in range(19))), "too short"),
        (lambda: LedoitWolf(lookback=1), "lookback"),
        (lambda: SampleMoments(mean="median"), "mean"),
    ],
)
def test_impossible_specs_are_refused(make: object, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()
