"""How a FactorEBM is composed: settings of single factors, calibration, what is trained when one of them changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from market_worlds import cut, world
from scipy import stats
from test_market_factor_ebm import files, rows
from test_market_plain import panel_of

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.market.base import MarketModel
from portfolio_ebm.market.composed import split
from portfolio_ebm.market.dependence import DCC, DependenceEnergy, MovingCopula
from portfolio_ebm.market.factor_ebm import FactorEBM
from portfolio_ebm.market.parts import Factor, Residual
from portfolio_ebm.market.states import WARM_UP
from portfolio_ebm.market.states import family as layout
from portfolio_ebm.market.training import _last
from portfolio_ebm.models.calibration import positive, theta_path
from portfolio_ebm.models.compose import Independent, Product
from portfolio_ebm.types import generator

SKEWED = FactorEBM(
    factors=("market", Factor("value", density="skew_student")),
    residual="student",
    lookback=300,
    min_history=200,
)

pytestmark = pytest.mark.usefixtures("module_store")


@pytest.fixture(scope="module", name="past")
def _past() -> Past:
    return world()


def test_a_factor_with_settings_pastes_back_and_round_trips() -> None:
    assert eval(repr(SKEWED)) == SKEWED
    assert MarketModel.from_json(SKEWED.model_dump_json()) == SKEWED
    assert SKEWED.fingerprint() != SKEWED.replace(factors=("market", "value")).fingerprint()


def test_a_factor_without_settings_is_its_name() -> None:
    named, built = FactorEBM(factors=("market", "value")), FactorEBM(factors=(Factor("market"), Factor("value")))
    assert named == built and named.fingerprint() == built.fingerprint() and repr(named) == repr(built)
    assert FactorEBM(residual=Residual("student")) == FactorEBM(residual="student")
    assert FactorEBM(residual=Residual("ewma")).residual == "ewma"
    with pytest.raises(SpecError, match="density"):
        Factor("HML", density="gaussian")


def test_each_part_has_the_family_it_was_given(past: Past) -> None:
    market = SKEWED.fit(past)
    kinds = [[type(each).__name__ for each in block.law.family.families] for block in market.blocks]
    assert kinds == [["Family", "SkewFamily"], ["StudentFamily"] * 4]
    # The same factor under the same settings is the same energy, whatever the others are.
    plain = SKEWED.replace(factors=("market", "size"), residual="ewma").fit(past)
    size = plain.blocks[0].law.family.size
    assert torch.equal(plain.blocks[0].law.flat[0], market.blocks[0].law.flat[0, :size])


def test_calibration_is_that_of_the_parts_own_past(past: Past) -> None:
    """Only the calibrated parts have it; it is made of PITs of days before, and the copula sees the calibrated ones."""
    raw = tuple(Factor(name, calibrated=False) for name in ("market", "value"))
    spec = SKEWED.replace(factors=(Factor("market"), raw[1]))
    window, plain = spec.window(past), spec.replace(factors=raw).window(past)
    factors, without = window.blocks[0], plain.blocks[0]
    assert factors.theta is not None and without.theta is None
    own = theta_path(torch.from_numpy(without.levels[:, :1]))
    assert torch.equal(factors.theta[0], own[:, 0]) and not factors.theta[1].any()
    t = 350
    law = window.at(t).blocks[0].law
    x = torch.from_numpy(past.factor_returns[t, :1])
    whole = law.cdf(x[:, None].expand(2, 1))[0]
    assert float(whole) == pytest.approx(factors.levels[t - window.calendar.start, 0], abs=2e-5)


def test_a_dependence_is_stored_under_the_calibration_it_was_fitted_to(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path))
    SKEWED.fit(past)
    assert SKEWED.fit(past).refitted == ("loadings",)
    monkeypatch.setattr("portfolio_ebm.market.factor_ebm.SETTINGS", "another memory")
    again = ("factor dependence", "residual dependence", "loadings")
    assert SKEWED.fit(past).refitted == again


def test_draws_of_calibrated_parts_follow_their_cdf(past: Past) -> None:
    """Coefficients far from zero: a sampler that forgot them would fail."""
    window = SKEWED.window(past)
    bent = window.blocks[0].theta
    assert bent is not None
    bent[:, -1] = positive(torch.tensor([0.25, -0.2, 0.1, 0.1, 0.0, -0.1], dtype=torch.float64))
    market = window.today()
    draws = market.sample(4000, generator(3, "bent"))
    x, _ = split(draws, market.beta, market.loadings, market.market)
    u = market.blocks[0].law.cdf(x[:, :, None])[..., 0].numpy()
    assert min(stats.kstest(column, "uniform").pvalue for column in u.T) > 1e-3
    bent[:, -1] = 0.0
    other = window.today().blocks[0].law.cdf(x[:, :, None])[..., 0].numpy()
    assert max(stats.kstest(column, "uniform").pvalue for column in other.T) < 1e-6


def test_days_of_factors_as_they_are_have_the_exact_numbers_of_their_laws(past: Past) -> None:
    """PIT and value at risk invert one another, the shortfall is the mean below it, by a fine grid."""
    factors = ("market", Factor("value", density="skew_student"))
    spec = SKEWED.replace(factors=factors, orthogonalise="none")
    panel = panel_of(past, assets=(), returns=np.zeros((len(past), 0)), tradeable=np.zeros((len(past), 0), dtype=bool))
    days = spec.fit_days(panel, [390, 400])
    assert days.exact
    eye = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    var, es = days.var_es(eye, 0.95)
    assert days.pit(var) == pytest.approx(0.05, abs=1e-8)
    for i, day in enumerate(days.days.markets):
        law = day.blocks[0].law
        grid = (
            law.location[:, 0]
            + law.scale[:, 0] * torch.sinh(torch.linspace(-12, 12, 40001, dtype=torch.float64))[:, None]
        )
        p = law.log_prob(grid[..., None])[..., 0].exp()
        assert torch.trapezoid(p, grid, dim=0) == pytest.approx(1.0, abs=1e-6)
        below = grid <= var[i]
        assert torch.trapezoid(p * below * grid, grid, dim=0) / 0.05 == pytest.approx(es[i], rel=2e-3)


def test_a_factors_own_lookback_forgets_what_lies_before(past: Past) -> None:
    """Days before the last 120 up to the anchor weigh nothing: their targets may be anything; the others' fits stay."""
    spec = SKEWED.replace(residual="ewma", factors=("market", "value"))
    short = spec.replace(factors=(Factor("market", lookback=120), "value"))
    one, two = (each.fit(past).blocks[0].law.flat for each in (spec, short))
    assert not torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    scored = torch.tensor([[False, True, True, False, True], [True] * 5])
    assert torch.equal(_last(scored, [2, None])[0], torch.tensor([False, False, True, False, True]))
    assert torch.equal(_last(scored, [2, None])[1], scored[1])


def test_what_is_read_from_the_store_is_listed_with_the_time_it_once_took(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding, swapping and removing: every other energy's bytes stay, and the result says what was saved."""
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path))
    spec = SKEWED.replace(factors=("market", "value"), residual="energy")
    first = spec.fit(past)
    assert not first.reused and first.time_saved == 0
    before = files(tmp_path)
    for names, trained, reused in (
        (("market", "value", "size"), {"size"}, {"market", "value"}),
        (("market", "size"), set(), {"market", "size"}),
        (("size", "market", "value"), set(), {"market", "value", "size"}),
        (("market", Factor("value", density="student")), {"value"}, {"market"}),
    ):
        market = spec.replace(factors=names).fit(past)
        assert {f"factor {name}" for name in reused} == {n for n in market.reused if n.startswith("factor ")}
        assert {f"factor {name}" for name in trained} == {
            n for n in market.refitted if n.startswith("factor ") and n != "factor dependence"
        }
        assert market.time_saved == sum(market.reused.values()) and min(market.reused.values()) > 0
        after = files(tmp_path)
        assert all(after[name] == blob for name, blob in before.items())
    # Other factors leave other residuals: those, the loadings and both copulas are made anew.
    wider = spec.replace(factors=("market", "value", "size"), residual="student").fit(past)
    assert {"loadings", "residual A0", "residual dependence"} <= set(wider.refitted)


def test_a_fit_that_did_not_converge_is_a_status(past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path))
    from portfolio_ebm.market import training

    few = training.maximum_likelihood
    monkeypatch.setattr(training, "maximum_likelihood", lambda *args, **kw: few(*args, **kw, iterations=2))
    market = SKEWED.fit(past)
    assert not market.status and "factor market: stopped after 2 steps" in str(market.status)
    again = SKEWED.fit(past)
    assert not again.status and not [name for name in again.refitted if name.startswith("factor m")]


@pytest.mark.parametrize("spec", [MovingCopula(), DCC()], ids=lambda s: type(s).__name__)
def test_a_dependence_that_did_not_converge_is_a_status(
    spec: DependenceEnergy, past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, and read back from the store."""
    monkeypatch.setenv("PORTFOLIO_EBM_HOME", str(tmp_path))
    from portfolio_ebm.market.dependence import dcc, mixture

    some, simplex = mixture.minimise, dcc.minimize
    monkeypatch.setattr(mixture, "minimise", lambda f, x, **kw: some(f, x, **(kw | {"iterations": 1})))
    few = {"options": {"maxfev": 3}}
    monkeypatch.setattr(dcc, "minimize", lambda f, x, **kw: simplex(f, x, **(kw | few)))
    model = SKEWED.replace(dependence=spec, residual="ewma")
    for market in (model.fit(past), model.fit(past)):
        assert not market.status and "factor dependence: " in str(market.status)
        assert "did not converge" in str(market.status)
        assert torch.isfinite(market.log_prob(rows(past)[-5:])).all()


def test_fewer_days_than_parameters_are_said(past: Past) -> None:
    """Below min_history a factor is refused by name; an energy of more parameters than days keeps near its prior."""
    short = cut(past, 150)
    with pytest.raises(DataError, match=r"Factor market has 150 observations .* 200 are needed; .* lower min_history"):
        SKEWED.fit(short)
    late = world(260, start="2015-06-01")
    market = SKEWED.replace(factors=("market", "value"), residual="ewma").fit(late)
    size, usable = layout("energy").size, int((late.dates < np.datetime64("2016-01-01")).sum()) - WARM_UP
    assert usable < size and market.status.ok
    assert f"factor market: {usable} usable rows, fewer than its {size} parameters: held near the prior" in str(
        market.status
    )


def test_a_day_of_every_option_is_known_before_it(past: Past) -> None:
    """The market of an earlier date is that of a panel that ends there."""
    t = 400
    r = rows(past)[t]
    whole, early = SKEWED.window(past), SKEWED.window(cut(past, t))
    assert whole.calendar.start == early.calendar.start
    one, two = whole.at(t - whole.calendar.start), early.today()
    assert float(one.log_prob(r)) == pytest.approx(float(two.log_prob(r)), abs=1e-10)


def test_fitted_factors_are_densities_that_add(past: Past) -> None:
    """Their sum is the market's independent part: both factors' energies, and no dependence."""
    market = SKEWED.fit(past)
    joint = market.factor("market") + market.factor("value")
    assert isinstance(joint, Independent) and joint.variables == ("market", "value")
    r = rows(past)[-1]
    x, _ = split(r, market.beta, market.loadings, market.market)
    parts = market.parts(r)
    assert float(joint.log_prob(x)) == pytest.approx(-float(parts["market"] + parts["value"]), abs=1e-9)
    u = stats.kstest(market.factor("value").cdf(joint.sample((2000,), generator(1, "add"))[:, 1]).numpy(), "uniform")
    assert u.pvalue > 1e-3
    twice = market.factor("value") + market.factor("value")
    assert isinstance(twice, Product) and "sharper" in str(twice.status)
    one = market.factor("value")
    assert float(one.quantile(one.cdf(x[1]))) == pytest.approx(float(x[1]), abs=1e-10)
    assert one.score(x[1]).shape == () and one.tail > 1
    with pytest.raises(SpecError, match="no factor 'Mom'; it has market, value"):
        market.factor("Mom")


def test_factors_that_are_one_twice_are_taken_apart_or_refused_by_name(past: Past) -> None:
    """Long-only funds are nearly the market; a twin of a style stays one when the market is taken out."""
    f = past.factor_returns.copy()
    f[:, 2] = f[:, 0] + 0.05 * (f[:, 2] - f[:, 0])
    funds = replace(past, factor_returns=f)
    spec = FactorEBM(factors=("market", "value", "size"), lookback=300, min_history=200, residual="ewma")
    assert spec.fit(funds).factors == spec.factors
    with pytest.raises(DataError, match=r"market and size correlate (0.99|1.00) between 2015.*orthogonalise='market'"):
        spec.replace(orthogonalise="refuse").fit(funds)
    assert spec.replace(orthogonalise="none").fit(funds).beta.abs().sum() == 0
    f = past.factor_returns.copy()
    f[:, 2] = 1.2 * f[:, 0] + 2 * (f[:, 1] - 0.9 * f[:, 0]) + 1e-4 * np.sin(np.arange(len(f)))
    with pytest.raises(DataError, match=r"value and size correlate, after the market is taken out, 1\.00"):
        spec.fit(replace(past, factor_returns=f))
    assert FactorEBM(orthogonalise=True) == FactorEBM() and FactorEBM(orthogonalise=False).orthogonalise == "none"
    apart = replace(past, factor_returns=past.factor_returns - past.factor_returns[:, :1] * np.array([0, 0.9, 1.1]))
    assert spec.replace(orthogonalise="refuse").fit(apart).market is None


def test_known_loadings_are_used_and_the_rest_is_fitted_to_what_they_leave(past: Past) -> None:
    spec = FactorEBM(
        factors=(Factor("market", loadings="beta"), "value"), lookback=300, min_history=200, residual="ewma"
    )
    beta = np.full(past.returns.shape, np.nan)
    beta[:, 0], beta[-30:, 1] = 1.5, 0.2
    market = spec.fit(replace(past, forecasts={"beta": beta}))
    plain = spec.replace(factors=("market", "value")).fit(past)
    assert market.loadings[:2, 0].tolist() == [1.5, 0.2]
    assert torch.allclose(market.loadings[2:], plain.loadings[2:])
    assert not torch.allclose(market.loadings[:2, 1], plain.loadings[:2, 1])
    with pytest.raises(DataError, match=r"factor market.*'beta'.*has none"):
        spec.fit(past)
    with pytest.raises(DataError, match="no grouping 'sector'; it has none"):
        spec.replace(factors=("market",), groups="sector").fit(past)


def test_a_short_history_has_its_groups_loadings(past: Past) -> None:
    r = past.returns.copy()
    r[:, 0] = np.nan
    market = FactorEBM(
        factors=("market", "value"), lookback=300, min_history=200, residual="ewma", groups="sector"
    ).fit(replace(past, returns=r, groups={"sector": ("a", "b", "a", "b")}, tradeable=np.array([False] + [True] * 3)))
    days = (1 - 0.5 ** ((len(past) - 20) / 126)) / (1 - 0.5 ** (1 / 126))
    alone = FactorEBM(factors=("market", "value"), lookback=300, min_history=200, residual="ewma")
    third = alone.fit(replace(past, returns=r, tradeable=np.array([False] + [True] * 3))).loadings[2].numpy()
    assert market.loadings[0].numpy() == pytest.approx((days * third + 20 * np.array([1, 0])) / (days + 20))
