"""What terms may ask for by name reaches them, point in time, and what is not there is named with near matches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cases_convex import market

from portfolio_ebm.constraints.exposures import Group
from portfolio_ebm.constraints.weights import Budget, LongOnly
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.energies.checks import check
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.ensembles import ensemble
from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.historical import FilteredHistorical, Historical
from portfolio_ebm.market.moments import SampleMoments
from portfolio_ebm.optimization import optimize
from portfolio_ebm.strategy import VOLUME_DAYS, surroundings, traded_value
from portfolio_ebm.types import generator

N = 4
NAMES = tuple("ABCD")


def panel(seed: int = 0, rows: int = 80) -> Panel:
    rng = np.random.default_rng(seed)
    days = pd.bdate_range("2020-01-01", periods=rows)
    prices = pd.DataFrame(100 * np.exp(np.cumsum(rng.normal(0, 0.01, (rows, N)), 0)), days, NAMES)
    alpha = pd.DataFrame(rng.normal(0, 0.01, (rows, N)), days, NAMES)
    volume = pd.DataFrame(rng.uniform(1e5, 1e6, (rows, N)), days, NAMES)
    weights = pd.DataFrame([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], [days[0], days[50]], NAMES)
    return Panel.from_prices(prices, forecasts={"alpha": alpha}, volume=volume, benchmark_weights={"index": weights})


def around(world: Panel, row: int):
    return surroundings(world.past(row), None, None, 5.0, 1e6, torch.device("cpu"))


def test_the_context_holds_what_was_known_at_the_date():
    world = panel()
    for row, index in ((49, [0.4, 0.3, 0.2, 0.1]), (50, [0.1, 0.2, 0.3, 0.4])):
        ctx = around(world, row)
        assert ctx.benchmark("index").tolist() == index
        assert np.array_equal(ctx.forecast("alpha").numpy(), world.forecasts["alpha"][row])
        value, capital = ctx.traded("x")
        shares = world.volume[row - VOLUME_DAYS + 1 : row + 1].mean(0)
        np.testing.assert_allclose(value.numpy(), shares * world.prices[row], rtol=1e-14)
        assert capital == 1e6 and ctx.horizon == 5.0


def test_nothing_after_the_date_is_seen():
    world, other = panel(), panel(seed=1)
    mixed = {
        name: np.where(np.arange(80)[:, None] <= 60, getattr(world, name), getattr(other, name))
        for name in ("returns", "prices", "volume")
    }
    alpha = np.where(np.arange(80)[:, None] <= 60, world.forecasts["alpha"], 9.0)
    poisoned = replace(world, **mixed, forecasts={"alpha": alpha})
    for row in (30, 60):
        a, b = around(world, row), around(poisoned, row)
        assert torch.equal(a.forecast("alpha"), b.forecast("alpha")) and torch.equal(a.volume, b.volume)
        assert np.array_equal(traded_value(world.past(row)), traded_value(poisoned.past(row)))


def test_unknown_names_list_near_matches():
    ctx = around(panel(), 60)
    with pytest.raises(SpecError, match=r"No benchmark 'indx'; there is 'index'"):
        ctx.benchmark("indx")
    with pytest.raises(SpecError, match=r"No forecast 'alhpa'; there is 'alpha'"):
        ctx.forecast("alhpa")
    with pytest.raises(SpecError, match=r"No factor 'value'; there is none at all"):
        ctx.exposure("value")
    with pytest.raises(SpecError, match=r"No factor 'factor1'; there is 'factor 1'"):
        market(N).exposure("factor1")
    assert ctx.benchmark("B").tolist() == [0.0, 1.0, 0.0, 0.0]


def test_missing_numbers_are_named_where_they_matter():
    ctx = around(panel(), 60)
    hole = ctx.forecast("alpha").clone()
    hole[2] = torch.nan
    with pytest.raises(DataError, match=r"Forecast 'alpha' has no number at 2020-\d\d-\d\d for C"):
        replace(ctx, forecasts={"alpha": hole}).forecast("alpha")
    away = replace(ctx, forecasts={"alpha": hole}, tradeable=torch.tensor([True, True, False, True]))
    assert float(away.forecast("alpha")[2]) == 0.0
    with pytest.raises(DataError, match="not known"):
        replace(ctx, benchmarks={"index": hole}).benchmark("index")
    with pytest.raises(SpecError, match="capital"):
        replace(ctx, capital=None).traded("Impact")
    with pytest.raises(SpecError, match="volume"):
        replace(ctx, volume=None).traded("Impact")
    with pytest.raises(DataError, match=r"not above zero.*B"):
        replace(ctx, volume=torch.tensor([1.0, -1.0, 1.0, 1.0])).traded("Impact")


def test_bad_estimates_are_refused_before_any_solve():
    ctx = market(N)
    look = ctx.market
    bad = look.mean.clone()
    bad[1] = torch.nan
    with pytest.raises(DataError, match=r"mean is not finite at 2020-01-31 for A1"):
        check(Return(), replace(ctx, market=replace(look, mean=bad)))
    check(Variance(), replace(ctx, market=replace(look, mean=bad)))
    check(Return(), replace(ctx, market=replace(look, mean=bad), tradeable=torch.tensor([True, False, True, True])))
    with pytest.raises(ShapeError, match="scenarios"):
        check(CVaR(), replace(ctx, market=replace(look, scenarios=look.scenarios[:, :3])))
    with pytest.raises(DataError, match=r"scenarios are not finite.*A0"):
        check(CVaR(), replace(ctx, market=replace(look, scenarios=look.scenarios * torch.tensor([torch.inf, 1, 1, 1]))))
    s = look.covariance
    for least, fine in ((-1e-3, False), (-1e-12, True)):
        core = torch.diag(torch.tensor([1.0, least], dtype=torch.float64))
        odd = replace(ctx, market=replace(look, covariance=Structured(s.loadings, core, torch.zeros_like(s.diagonal))))
        if fine:
            check(Variance(), odd)
        else:
            with pytest.raises(DataError, match="not positive semi-definite at 2020-01-31"):
                check(Variance(), odd)


def test_optimize_takes_names_and_refuses_what_it_cannot_use():
    cov = pd.DataFrame(np.eye(N), NAMES, NAMES)
    rules = Budget() & LongOnly()
    with pytest.raises(DataError, match=r"volume is negative .* C"):
        optimize(Variance(), rules, covariance=cov, volume=[1.0, 1.0, -1.0, 1.0])
    with pytest.raises(DataError, match=r"benchmarks\['index'\] names AA"):
        optimize(Variance(), rules, covariance=cov, benchmarks={"index": {"AA": 1.0}})
    with pytest.raises(ShapeError, match=r"exposures\['beta'\]"):
        optimize(Variance(), rules, covariance=cov, exposures={"beta": [1.0]})


def test_an_input_of_no_known_name_is_refused_with_the_near_one():
    rules, cov = Budget() & LongOnly(), np.eye(N)
    with pytest.raises(SpecError, match="no input price=; did you mean prices="):
        optimize(Variance(), rules, covariance=cov, price=np.ones(N))  # type: ignore[call-arg]
    with pytest.raises(SpecError, match="no input constructor="):
        ensemble(Variance(), rules, covariance=cov, constructor=None)


def test_labels_are_one_for_each_name_from_a_mapping_or_a_frame():
    cov, rules = pd.DataFrame(np.eye(N), NAMES, NAMES), Budget() & LongOnly() & Group("sector", upper=0.5)
    labels = pd.Series(["x", "y", "x", "y"], list(NAMES))
    want = optimize(Variance(), rules, covariance=cov, groups={"sector": labels.to_dict()}).weights
    found = optimize(Variance(), rules, covariance=cov, groups=labels.to_frame("sector")[::-1]).weights
    assert found.equals(want)
    for none in (None, np.nan):
        with pytest.raises(DataError, match="no label for B"):
            optimize(Variance(), rules, covariance=cov, groups={"sector": {**labels, "B": none}})
    with pytest.raises(DataError, match="names A more than once"):
        optimize(Variance(), rules, covariance=cov, groups={"sector": pd.concat([labels, labels[:1]])})


def test_what_is_no_spec_is_refused_at_the_door():
    cov, rules = np.eye(N), Budget() & LongOnly()
    with pytest.raises(SpecError, match="Variance is a class; write Variance"):
        optimize(Variance, rules, covariance=cov)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="The rules: got None, expected the like of Budget"):
        optimize(Variance(), None, covariance=cov)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="Convex is a class"):
        optimize(Variance(), rules, covariance=cov, constructor=Convex)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [SampleMoments(60), Historical(60), FilteredHistorical(40)], ids=repr)
def test_paths_compound_to_the_law_of_the_period(model):
    fitted = model.fit(panel().past(79))
    paths = fitted.paths(5, 4000, generator(0, "x"))
    assert paths.shape == (4000, 5, N)
    assert torch.equal(paths, fitted.paths(5, 4000, generator(0, "x")))
    whole, drawn = (1 + paths).prod(-2) - 1, fitted.scenarios(5, 4000, generator(1, "y"))
    error = (whole.var(0) + drawn.var(0)).sqrt() / 4000**0.5
    assert bool(((whole.mean(0) - drawn.mean(0)).abs() < 5 * error).all())
    torch.testing.assert_close(whole.std(0), drawn.std(0), rtol=0.08, atol=0)
