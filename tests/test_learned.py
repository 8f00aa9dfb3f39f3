"""Learned: the laws of its energy, what training may know, and that it learns what is there to be learnt."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.data.calendar import EveryPeriod, Monthly, Weekly
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.learned import Learned, Recipe
from portfolio_ebm.errors import FitError, LookAheadError, SpecError, StoreError
from portfolio_ebm.learning import Training, examples, learn, train
from portfolio_ebm.market.moments import SampleMoments
from portfolio_ebm.market.store import Store
from portfolio_ebm.models.deep_sets import deep_set, initial
from portfolio_ebm.strategy import Strategy, rebalance
from portfolio_ebm.training.ranking import Lists, fit_ranking, loss_of, rank_correlation
from portfolio_ebm.types import bps, generator

F64 = torch.float64
N, DAYS = 8, 1000
RECIPE = Recipe(forecasts=("signal",), steps=120, pool=32)
QUICK = RECIPE.replace(steps=20, pool=8)
STRATEGY = Strategy(
    name="learned", market=SampleMoments(lookback=60), energy=TradingCost(5 * bps),
    constraint=Budget() & LongOnly() & Box(upper=0.5), constructor=AnnealedLangevin(chains=8, steps=20),
    rebalance=Weekly(),
)  # fmt: skip


def planted(strength: float = 0.004, days: int = DAYS) -> Panel:
    """A forecast whose square says the next week's return of a name: known to no linear rule, and to no other name."""
    rng = np.random.default_rng(5)
    dates = pd.bdate_range("2015-01-01", periods=days)
    names = [f"A{i}" for i in range(N)]
    weekly = np.repeat(rng.standard_normal((days // 5 + 1, N)), 5, axis=0)[:days]
    drift = np.zeros((days, N))
    drift[2:] = strength * (weekly[:-2] ** 2 - 1.0)
    noise = 0.01 * rng.standard_normal((days, N)) + 0.005 * rng.standard_normal((days, 1))
    frame = pd.DataFrame(0.0003 + drift + noise, dates, names)
    return Panel.from_returns(frame, forecasts={"signal": pd.DataFrame(weekly, dates, names)})


@pytest.fixture(scope="module")
def world() -> Panel:
    return planted()


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("PORTFOLIO_EBM_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def trained(world: Panel) -> Training:
    return train(STRATEGY, world, until="2017-12-29", recipe=RECIPE)


# The network ----------------------------------------------------------------------------------------------------------


def random_net(seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    start = initial(3, 2, 5, rng)
    return {name: torch.randn(value.shape, generator=rng, dtype=F64) for name, value in start.items()}


def test_a_deep_set_is_the_formula_and_knows_no_order() -> None:
    rng, theta = torch.Generator().manual_seed(1), random_net()
    z, s = torch.randn((4, 6, 3), generator=rng, dtype=F64), torch.randn((4, 7, 2), generator=rng, dtype=F64)
    w = torch.rand((4, 7, 6), generator=rng, dtype=F64)
    present = torch.rand((4, 6), generator=rng) < 0.7
    found = deep_set(theta, z, present, w, s)
    assert found.shape == (4, 7)
    for d, c in ((0, 0), (3, 6)):
        code = [torch.tanh(theta["W1"] @ z[d, i] + theta["b1"]) for i in range(6)]
        inside = [code[i] for i in range(6) if present[d, i]]
        first = sum(w[d, c, i] * code[i] for i in range(6))
        second = sum(w[d, c, i] ** 2 * code[i] for i in range(6))
        x = torch.cat([first, second, sum(inside) / len(inside), s[d, c]])
        by_hand = theta["u"] @ x + theta["v"] @ torch.tanh(theta["W2"] @ x + theta["b2"])
        assert float(found[d, c]) == pytest.approx(float(by_hand), rel=1e-12)
        assert float(deep_set(theta, z[d], present[d], w[d, c], s[d, c])) == pytest.approx(float(by_hand), rel=1e-12)
    order = torch.randperm(6, generator=rng)
    again = deep_set(theta, z[:, order], present[:, order], w[..., order], s)
    assert torch.allclose(found, again, rtol=1e-12, atol=0.0)


def test_ranking_finds_a_planted_utility_and_imitation_its_best() -> None:
    rng = torch.Generator().manual_seed(2)
    z = torch.randn((60, 12, 3), generator=rng, dtype=F64)
    truth = (z[..., 0] - 0.5 * z[..., 1]) + 0.1 * torch.randn((60, 12), generator=rng, dtype=F64)
    for objective in ("ranking", "imitation"):
        lists = Lists(truth, lambda theta, rows: -(z[rows] @ theta["a"]))
        found = fit_ranking(lists, {"a": torch.zeros(3, dtype=F64)}, objective=objective, held=20, rate=0.05)
        assert found.after < found.before and found.held_after < found.held_before
        a = found.parameters["a"]
        assert float(a[1] / a[0]) == pytest.approx(-0.5, abs=0.1) and abs(float(a[2])) < 0.1 * float(a[0])
    assert found.step > 0
    # By hand: two items apart by log 3 at T = 2, the better one lower, then higher.
    pair, wide = torch.tensor([[0.0, 2.0 * math.log(3.0)]], dtype=F64), torch.tensor([[5.0, 1.0]], dtype=F64)
    assert float(loss_of(pair, wide, 2.0, "ranking")) == pytest.approx(math.log(4.0 / 3.0), rel=1e-12)
    assert float(loss_of(-pair, wide, 2.0, "ranking")) == pytest.approx(math.log(4.0), rel=1e-12)
    assert float(loss_of(-pair, wide, 2.0, "imitation")) == pytest.approx(math.log(4.0), rel=1e-12)
    assert torch.equal(rank_correlation(-truth, truth), torch.ones(60, dtype=F64))


def test_noise_that_is_fair_is_not_liked() -> None:
    """Half of the items have ten times the noise and a little less utility: ranking sees that, imitation does not."""
    rng = torch.Generator().manual_seed(4)
    loud = (torch.arange(16) % 2).double().expand(400, 16)
    noise = torch.randn((400, 16), generator=rng, dtype=F64)
    utility = -0.3 * loud + noise * (0.2 + 1.8 * loud)
    found = {}
    for objective in ("ranking", "imitation"):
        lists = Lists(utility, lambda theta, rows: theta["a"] * loud[rows])
        found[objective] = float(
            fit_ranking(lists, {"a": torch.zeros(1, dtype=F64)}, objective=objective, rate=0.05).parameters["a"]
        )
    assert found["ranking"] > 0.1 and found["imitation"] < -1.0, found


# What training may know -----------------------------------------------------------------------------------------------


def test_what_comes_after_the_end_changes_no_byte(world: Panel, tmp_path: Path) -> None:
    """A past is all that training gets, and every later number is poisoned."""
    row = world.row("2016-12-30")
    frame, signal = world.returns_frame(), pd.DataFrame(
        world.forecasts["signal"], pd.DatetimeIndex(world.dates), list(world.assets)
    ).copy()  # fmt: skip
    frame.iloc[row + 1 :] = 0.02
    signal.iloc[row + 1 :] = -1e6
    poisoned = Panel.from_returns(frame, forecasts={"signal": signal})
    shorter = Panel.from_returns(frame.iloc[: row + 1], forecasts={"signal": signal.iloc[: row + 1]})
    found = [
        learn(STRATEGY, panel.past("2016-12-30"), QUICK, store=Store(tmp_path / str(k)))
        for k, panel in enumerate((world, poisoned, shorter))
    ]
    assert len({one.ref for one in found}) == 1 and all(one.anew for one in found)
    entries = [Store(tmp_path / str(k)).get(found[0].ref) for k in range(3)]
    bits = [{name: x.numpy().tobytes() for name, x in one.tensors.items()} for one in entries if one is not None]
    assert bits[0] == bits[1] == bits[2]
    files = [(Store(tmp_path / str(k)).path(found[0].ref) or Path()).with_suffix(".json") for k in range(3)]
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()
    other = learn(STRATEGY, world.past("2016-12-29"), QUICK, store=Store(tmp_path / "0"))
    assert other.ref != found[0].ref


def test_examples_end_in_time_and_see_their_own_past_only(world: Panel) -> None:
    past = world.past("2016-03-30")
    found = list(examples(STRATEGY, past, RECIPE))
    decisions = np.flatnonzero(STRATEGY.rebalance.decisions(past.dates))
    last = str(past.dates[decisions[decisions + 1 <= len(past) - 1][-2]].astype("datetime64[D]"))
    assert found[-1].date == last
    # Cut right after an example's holding period, the example is the same; cut one row before, it is not there.
    row = int(np.searchsorted(past.dates, np.datetime64(found[9].date)))
    end = int(decisions[np.searchsorted(decisions, row) + 1]) + 1
    cut = list(examples(STRATEGY, past.until(end), RECIPE))
    assert len(cut) == 10 and torch.equal(cut[9].utility, found[9].utility) and torch.equal(cut[9].z, found[9].z)
    assert len(list(examples(STRATEGY, past.until(end - 1), RECIPE))) == 9


def test_periods_of_one_day_have_no_variance(world: Panel) -> None:
    daily = STRATEGY.replace(rebalance=EveryPeriod(1))
    found = list(islice(examples(daily, world.past("2015-06-30"), RECIPE), 3))
    row = world.row(found[1].date)
    gains = found[1].pool @ torch.tensor(world.returns[row + 2])
    assert torch.allclose(found[1].utility, gains - found[1].cost, atol=1e-12)
    assert float(found[1].cost.max()) > 0.0


def test_utility_is_what_a_ledger_would_say(world: Panel) -> None:
    one = list(examples(STRATEGY, world.past("2015-12-30"), RECIPE))[4]
    start = world.row(one.date) + 1
    rows = np.flatnonzero(STRATEGY.rebalance.decisions(world.dates))
    end = int(rows[np.searchsorted(rows, start - 1) + 1]) + 1
    w, wealth, daily = one.pool[3].numpy().copy(), 1.0, []
    for t in range(start + 1, end + 1):
        gain = float(w @ world.returns[t])
        w = w * (1.0 + world.returns[t]) / (1.0 + gain)
        wealth *= 1.0 + gain
        daily.append(gain)
    utility = wealth - 1.0 - 2.5 * np.var(daily) * len(daily) - float(one.cost[3])
    assert float(one.utility[3]) == pytest.approx(utility, rel=1e-10)
    assert 0.0 < float(one.cost[3]) <= 2 * 5 * bps


def test_a_past_cut_again_is_the_past_of_that_day() -> None:
    from panel_worlds import assert_identical
    from panel_worlds import world as everything

    prices, extras = everything()
    extras = {name: item for name, item in extras.items() if name not in ("membership", "groups")}
    panel = Panel.from_prices(prices, **extras)
    for row in (120, 200, 300):
        assert_identical(replace(panel.past(319).until(row), groups={}, spellings={}),
                         replace(panel.past(row), groups={}, spellings={}))  # fmt: skip


def test_a_decision_before_the_end_of_training_is_look_ahead(world: Panel, trained: Training) -> None:
    strategy = STRATEGY.replace(energy=trained.energy)
    with pytest.raises(LookAheadError, match="trained on data up to 2017-12-29"):
        rebalance(strategy, world.past("2017-12-28"), None)
    from portfolio_ebm.backtesting.walk_forward import backtest

    with pytest.raises(LookAheadError):
        backtest(strategy, world, start="2017-06-01")
    assert rebalance(strategy, world.past("2017-12-29"), None).status.ok


# What it learns -------------------------------------------------------------------------------------------------------


def test_it_ranks_portfolios_out_of_sample(world: Panel, trained: Training) -> None:
    assert trained.facts["after"] < trained.facts["before"]
    assert trained.facts["held_after"] < trained.facts["held_before"]
    late = [one for one in examples(STRATEGY, world.past(-1), RECIPE, seed=1) if one.date > "2018-01-05"]
    found = []
    for one in late:
        ctx = context(world, one.date)
        energy = trained.energy.bind(ctx)(one.pool) + one.cost
        found.append(float(rank_correlation(energy.unsqueeze(0), one.utility.unsqueeze(0))))
    error = float(np.std(found)) / len(found) ** 0.5
    assert len(found) > 40 and np.mean(found) > 0.15 and np.mean(found) > 5.0 * error, (np.mean(found), error)


def context(world: Panel, date: str):
    from portfolio_ebm.learning import _context

    return _context(STRATEGY, world.past(date), None, 0)


def test_it_is_learnt_anew_each_year_on_the_way(world: Panel) -> None:
    from portfolio_ebm.backtesting.walk_forward import backtest

    recipe = RECIPE.replace(steps=30, pool=16)
    strategy = STRATEGY.replace(
        energy=Learned(recipe=recipe.replace(fewest=8)) + TradingCost(5 * bps), rebalance=Monthly(),
        market=SampleMoments(lookback=40), constructor=AnnealedLangevin(chains=4, steps=10),
    )  # fmt: skip
    result = backtest(strategy, world, start="2016-11-01", end="2017-03-31")
    assert result.decisions["ok"].all()
    refitted = ["learned energy" in word for word in result.decisions["refitted"]]
    assert refitted == [True, False, True, False, False]
    assert result.decisions["bound"].isna().all()
    assert result.decisions["status"].str.contains("nothing bounds it").all()
    early = backtest(strategy, world, start="2015-10-01", end="2015-11-30")
    assert not early.decisions["ok"].any()
    assert early.decisions["status"].str.contains("no period of refit='YE' is completed").all()


# The energy -----------------------------------------------------------------------------------------------------------


def test_laws_of_the_energy(world: Panel, trained: Training) -> None:
    dates = ("2018-02-01", "2018-06-01", "2018-11-01")
    one = [context(world, date) for date in dates]
    w = torch.softmax(torch.randn((3, 5, N), generator=torch.Generator().manual_seed(0), dtype=F64), -1)
    alone = torch.stack([trained.energy.bind(ctx)(w[k]) for k, ctx in enumerate(one)])
    s = [ctx.covariance for ctx in one]
    stack = torch.stack
    many = replace(
        one[0], tradeable=stack([c.tradeable for c in one]), date="",
        market=replace(
            one[0].market, mean=stack([c.mean for c in one]), covariance=type(s[0])(
                stack([x.loadings for x in s]), stack([x.core for x in s]), stack([x.diagonal for x in s])
            ),
        ),
        forecasts={"signal": stack([c.forecasts["signal"] for c in one])},
    )  # fmt: skip
    assert torch.allclose(trained.energy.bind(many)(w), alone, rtol=1e-10, atol=1e-14)
    x = w[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(trained.energy.bind(one[0]), (x,), eps=1e-6, atol=1e-7)
    # Names in another order, and one that nobody can trade beside them.
    order = torch.randperm(N, generator=generator(0, "order"))
    turned = permuted(one[0], order)
    assert torch.allclose(trained.energy.bind(turned)(w[0][:, order]), alone[0], rtol=1e-10)


def permuted(ctx, order):
    c, picked = ctx.covariance, order.tolist()
    turned = type(c)(c.loadings[order], c.core, c.diagonal[order])
    return replace(
        ctx, assets=tuple(ctx.assets[i] for i in picked), tradeable=ctx.tradeable[order],
        market=replace(ctx.market, mean=ctx.mean[order], covariance=turned, scenarios=None),
        forecasts={name: item[order] for name, item in ctx.forecasts.items()},
    )  # fmt: skip


def test_a_name_that_is_not_there_changes_nothing(world: Panel, trained: Training) -> None:
    ctx = context(world, "2018-02-01")
    w = torch.softmax(torch.randn((5, N), generator=torch.Generator().manual_seed(0), dtype=F64), -1)
    c = ctx.covariance
    wider = type(c)(
        torch.cat([c.loadings, torch.ones_like(c.loadings[:1])]), c.core, torch.cat([c.diagonal, c.diagonal[:1]])
    )
    more = replace(
        ctx, assets=(*ctx.assets, "NEW"), tradeable=torch.cat([ctx.tradeable, torch.tensor([False])]),
        market=replace(ctx.market, mean=torch.cat([ctx.mean, ctx.mean[:1]]), covariance=wider, scenarios=None),
        forecasts={"signal": torch.cat([ctx.forecasts["signal"], torch.tensor([torch.nan], dtype=F64)])},
    )  # fmt: skip
    before = trained.energy.bind(ctx)(w)
    after = trained.energy.bind(more)(torch.cat([w, torch.zeros(5, 1, dtype=F64)], -1))
    assert torch.allclose(before, after, rtol=1e-10)


def test_the_gradient_engine_takes_it_and_convex_refuses_it(world: Panel, trained: Training) -> None:
    strategy = STRATEGY.replace(energy=trained.energy + TradingCost(5 * bps))
    found = rebalance(strategy, world.past("2018-03-01"), None)
    assert found.bound is None and "Gradient engine" in str(found.status) and "nothing bounds it" in str(found.status)
    few = strategy.replace(constraint=STRATEGY.constraint & Cardinality(at_most=4, min_weight=0.05))
    found = rebalance(few, world.past("2018-03-01"), None)
    assert found.bound is None and int((found.weights > 0).sum()) <= 4
    assert max(found.residuals.values()) <= 1e-9
    with pytest.raises(SpecError, match=r"Learned.*not convex"):
        rebalance(strategy.replace(constructor=Convex()), world.past("2018-03-01"), None)


# The store ------------------------------------------------------------------------------------------------------------


def test_the_same_again_is_read_and_the_sidecar_says_what_it_is(world: Panel, trained: Training, home: Path) -> None:
    again = train(STRATEGY, world, until="2017-12-29", recipe=RECIPE)
    assert not again.anew and again.ref == trained.ref and again.facts["unit"] == trained.facts["unit"]
    file = Store.default().path(trained.ref)
    assert file is not None
    facts = json.loads(file.with_suffix(".json").read_text())
    assert facts["ref"] == trained.ref and facts["until"] == "2017-12-29"
    assert f"Learned('{trained.ref}')" in str(trained) and "no bound" in str(trained)
    refs = {learn(STRATEGY, world.past("2016-01-29"), QUICK, seed=seed).ref for seed in (0, 1)}
    assert len(refs) == 2


def test_what_is_missing_or_tampered_with_is_a_sentence(world: Panel, trained: Training, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Nothing trained is stored as 'feedbeef'"):
        rebalance(STRATEGY.replace(energy=Learned("feedbeef")), world.past("2018-03-01"), None)
    from portfolio_ebm.energies.learned import stored

    file = Store.default().path(trained.ref)
    assert file is not None
    blob = bytearray(file.read_bytes())
    blob[-3] ^= 1
    other = Store(tmp_path)
    place = other.path(trained.ref)
    assert place is not None
    place.parent.mkdir()
    place.write_bytes(bytes(blob))
    with pytest.raises(StoreError, match="not the bytes that were written"):
        stored(trained.ref, other)
    renamed = other.path("0123456789abcdef")
    assert renamed is not None
    renamed.parent.mkdir()
    renamed.write_bytes(file.read_bytes())
    with pytest.raises(StoreError, match="something else"):
        stored("0123456789abcdef", other)


def test_specs_and_refusals(world: Panel, trained: Training) -> None:
    with pytest.raises(SpecError, match="give the ref"):
        Learned()
    recipe = Learned(recipe=RECIPE)
    assert Learned.from_json(recipe.model_dump_json()) == recipe
    assert repr(recipe) == f"Learned(recipe={RECIPE!r})"
    with pytest.raises(SpecError, match="nothing learnt yet"):
        recipe.bind(context(world, "2018-03-01"))
    with pytest.raises(FitError, match="needs 24 holding periods"):
        train(STRATEGY, world, until="2015-06-01", recipe=RECIPE)
    with pytest.raises(SpecError, match="no market"):
        train(STRATEGY.replace(market=None), world, recipe=RECIPE)
    with pytest.raises(SpecError, match="trained for holding periods of 5"):
        rebalance(STRATEGY.replace(energy=trained.energy, rebalance=Monthly()), world.past("2018-03-01"), None)


def test_from_the_command_line(tmp_path: Path) -> None:
    """What is typed, what is printed, and that the ref then works in a backtest."""
    rng = np.random.default_rng(3)
    days = pd.bdate_range("2019-01-01", periods=600, name="date")
    frame = 40 * pd.DataFrame(np.exp(0.01 * rng.standard_normal((600, 4))), index=days, columns=list("ABCD")).cumprod()
    frame.to_csv(tmp_path / "prices.csv")
    text = (
        "from portfolio_ebm import *\n"
        "STRATEGY = Strategy(name='mine', market=SampleMoments(lookback=40), rebalance=Weekly(),\n"
        "    energy={energy} + TradingCost(5 * bps), constructor=AnnealedLangevin(chains=4, steps=10))\n"
    )
    (tmp_path / "mine.py").write_text(text.format(energy="Learned(recipe=Recipe(steps=20, pool=16))"))
    given = ["train", str(tmp_path / "mine.py"), "--prices", str(tmp_path / "prices.csv"), "--until", "2020-12-31"]
    said = typed(*given, "--objective", "imitation", "--json")
    facts = json.loads(said.stdout)
    assert facts["until"] == "2020-12-31" and json.loads(facts["recipe"])["objective"] == "imitation"
    assert json.loads(facts["recipe"])["steps"] == 20
    again = typed(*given, "--objective", "imitation")
    assert "Read from the store" in again.stdout and f"Learned('{facts['ref']}')" in again.stdout
    assert "'objective'" in str(typed(*given, "--objective", "guess").exception)
    (tmp_path / "then.py").write_text(text.format(energy=f"Learned('{facts['ref']}')"))
    run = ["rebalance", str(tmp_path / "then.py"), "--prices", str(tmp_path / "prices.csv"), "--out"]
    assert "Gradient engine" in typed(*run, str(tmp_path / "a"), "--asof", "2021-02-01").stdout
    early = typed(*run, str(tmp_path / "b"), "--asof", "2020-12-01")
    assert isinstance(early.exception, LookAheadError)


def typed(*words: str):
    from typer.testing import CliRunner

    from portfolio_ebm.cli import app

    return CliRunner().invoke(app, list(words))
