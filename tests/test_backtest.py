"""The walk forward: no look-ahead, live is backtest, delays, names that leave, dates that fail, the same bytes."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import portfolio_ebm as pe
from portfolio_ebm.backtesting.baselines import baselines
from portfolio_ebm.backtesting.ledger import Book, drift, trade
from portfolio_ebm.backtesting.walk_forward import decision_rows
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import DataError, InfeasibleError, SpecError
from portfolio_ebm.types import Status, bps


class Tilted(Constructor):
    """Weights that depend on every estimate, on what is held and on the random draw: nothing can hide in them."""

    fails_on: str = ""

    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        if ctx.date == self.fails_on:
            raise InfeasibleError(f"{ctx.date}: made to fail.")
        draw = torch.rand(ctx.n_assets, generator=rng, dtype=torch.float64)
        raw = torch.exp(20 * ctx.mean / ctx.covariance.dense().diagonal().sqrt()) + 0.2 * draw
        raw = raw + (0.0 if ctx.held is None else 0.5 * ctx.held)
        raw = torch.where(ctx.tradeable, raw, torch.zeros_like(raw))
        w = 0.9 * raw / raw.sum()
        return Solution(w, Status(True, "tilted"), float(w @ w), None, {}, {}, {})


def prices(days: int = 260, n: int = 5, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    index = pd.bdate_range("2019-01-01", periods=days)
    moves = np.exp(0.012 * rng.standard_normal((days, n)) + 0.0003)
    return 50 * pd.DataFrame(moves, index=index, columns=list("ABCDEFGH"[:n])).cumprod()


def ragged() -> pd.DataFrame:
    """One name begins late, one has a gap, one ends early."""
    frame = prices()
    frame.iloc[:70, 1] = np.nan
    frame.iloc[120:128, 2] = np.nan
    frame.iloc[200:, 3] = np.nan
    return frame


def tilted(**fields: str) -> pe.Strategy:
    return pe.Strategy(
        name="tilted", market=pe.SampleMoments(lookback=30), energy=pe.Return() + pe.TradingCost(10 * bps),
        constructor=Tilted(**fields), rebalance=pe.Weekly(),
    )  # fmt: skip


MIN_VARIANCE = pe.Strategy(
    name="mv", market=pe.SampleMoments(lookback=60), energy=pe.Variance() + pe.TradingCost(5 * bps),
    constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.6), constructor=pe.Convex(),
)  # fmt: skip
EXACT = MIN_VARIANCE.replace(name="exact", constructor=pe.AnnealedLangevin())
EQUAL = pe.Strategy(name="1/N", constructor=pe.EqualWeight())


def poisoned(frame: pd.DataFrame, t: int) -> pd.DataFrame:
    """Every valid value after row t times ten, and shuffled among the valid cells; what is missing stays missing."""
    out = frame.to_numpy(copy=True)
    after = out[t + 1 :]
    valid = np.isfinite(after)
    after[valid] = 10 * np.random.default_rng(9).permutation(after[valid])
    return pd.DataFrame(out, index=frame.index, columns=frame.columns)


def month_ends(frame: pd.DataFrame) -> list[int]:
    months = frame.index.to_period("M")
    return [int(i) for i in np.flatnonzero(months[1:] != months[:-1])]


@pytest.mark.parametrize("strategy", [tilted(), MIN_VARIANCE, EXACT, EQUAL], ids=lambda item: item.name)
@pytest.mark.parametrize("make", [prices, ragged])
@pytest.mark.parametrize("months", [slice(5, None, 8), pytest.param(slice(9, None, 8), marks=pytest.mark.slow)])
def test_no_look_ahead(strategy: pe.Strategy, make: object, months: slice) -> None:
    frame = make()
    honest = pe.backtest(strategy, pe.Panel.from_prices(frame), costs=10 * bps)
    rows = [100, 127, *month_ends(frame)[months]]
    for t in rows:
        cut = frame.index[t]
        found = pe.backtest(strategy, pe.Panel.from_prices(poisoned(frame, t)), costs=10 * bps)
        for name in ("weights", "gross", "costs", "net", "turnover", "cash", "trades"):
            before, after = getattr(honest, name).loc[:cut], getattr(found, name).loc[:cut]
            assert np.array_equal(before.to_numpy(), after.to_numpy(), equal_nan=True), f"{name} at {cut}"
        same = [name for name in honest.decisions if name not in ("executed", "turnover", "unfilled")]
        pd.testing.assert_frame_equal(
            honest.decisions.loc[:cut, same], found.decisions.loc[:cut, same], check_exact=True, check_dtype=False
        )
    assert not np.array_equal(honest.weights.to_numpy(), found.weights.to_numpy()), "the poison changed nothing at all"


def test_the_poison_is_caught_when_there_is_a_look_ahead() -> None:
    # One day of look-ahead, built by shifting prices: the law above must be able to fail.
    frame = prices()
    ahead = frame.shift(-1).ffill()
    t = month_ends(frame)[5]
    bad = poisoned(frame, t).shift(-1).ffill()
    honest, found = (pe.backtest(tilted(), pe.Panel.from_prices(item), costs=0.0) for item in (ahead, bad))
    assert not np.array_equal(honest.weights.loc[: frame.index[t]], found.weights.loc[: frame.index[t]])


@pytest.mark.parametrize("strategy", [tilted(), MIN_VARIANCE, EXACT], ids=lambda item: item.name)
def test_live_is_backtest_bit_for_bit(strategy: pe.Strategy) -> None:
    frame = ragged()
    panel = pe.Panel.from_prices(frame)
    result = pe.backtest(strategy, panel, delay=0, seed=4)
    late = [when for when in result.decisions.index if panel.row(when) >= 80]  # every name has had a price by then
    for when in (result.decisions.index[0], late[0], late[3], late[-1]):
        # What is held before the trade: the book of the day before, drifted over the day.
        t = panel.row(when)
        held = None
        if when != result.weights.index[0]:
            yesterday = result.weights.shift(1).loc[when].to_numpy()
            book, _ = drift(Book(yesterday), panel.returns[t], 0.0)
            held = np.where(panel.last_rows < t, 0.0, book.weights)
        alone = panel.cut(end=when) if t < 80 else pe.Panel.from_prices(frame.loc[:when])
        live = pe.rebalance(strategy, alone.past(-1), held, seed=4)
        done = trade(Book(np.zeros(5) if held is None else held), live.weights.to_numpy(), result.arguments["costs"])
        assert np.array_equal(done.book.weights, result.weights.loc[when].to_numpy())
        assert live.energy == result.decisions.loc[when, "energy"]


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_decision_trades_delay_periods_later(delay: int) -> None:
    panel = pe.Panel.from_prices(prices(60))
    result = pe.backtest(EQUAL, panel, delay=delay)
    dates = list(result.net.index)
    for when, row in result.decisions.iterrows():
        assert dates.index(row["executed"]) == dates.index(when) + delay
    assert list(result.trades.index) == list(result.decisions["executed"])
    first = result.decisions["executed"].iloc[0]
    assert result.weights.loc[first].to_numpy() == pytest.approx(0.2)
    assert (result.weights.loc[:first].iloc[:-1] == 0.0).all(axis=None)
    assert (result.gross.loc[:first] == 0.0).all(), "nothing can be earned up to the first trade"


def test_the_books_close() -> None:
    result = pe.backtest(tilted(), pe.Panel.from_prices(ragged()), costs=25 * bps)
    assert np.array_equal(result.net, result.gross - result.costs)
    assert result.weights.sum(axis=1).to_numpy() + result.cash.to_numpy() == pytest.approx(1.0, abs=1e-12)
    # Costs again from the trades: they are fractions of the value before the trade, hence of 1 + gross.
    paid = 25 * bps * result.trades.abs().sum(axis=1) * (1 + result.gross.loc[result.trades.index])
    assert result.costs.loc[result.trades.index].to_numpy() == pytest.approx(paid.to_numpy(), abs=1e-15)


def test_wealth_is_that_of_an_account_kept_in_shares() -> None:
    frame = prices(120)
    result = pe.backtest(MIN_VARIANCE, pe.Panel.from_prices(frame), costs=20 * bps)
    # An independent account: shares and money, no weights. Each trade buys w * (value after costs) of each name.
    shares, cash = np.zeros(5), 1000.0
    for when in result.net.index:
        price = frame.loc[when].to_numpy()
        value = cash + shares @ price
        if when in result.trades.index:
            moved = result.trades.loc[when].to_numpy() * value
            shares, cash = shares + moved / price, cash - moved.sum() - 20 * bps * np.abs(moved).sum()
        assert cash + shares @ price == pytest.approx(1000 * result.wealth().loc[when], rel=1e-12)


def test_a_name_that_leaves_is_paid_out_at_its_last_price_or_final_return() -> None:
    frame = prices(40, 2)
    frame.iloc[30:, 1] = np.nan
    panel = pe.Panel.from_prices(frame)
    result = pe.backtest(EQUAL, panel, costs=None)
    assert result.events["asset"].tolist() == ["B"]
    gone = frame.index[30]
    assert (result.weights.loc[gone:, "B"] == 0.0).all()
    assert result.cash.loc[gone] == pytest.approx(result.events["weight"].iloc[0])
    held = result.weights.loc[frame.index[29], "B"]
    lost = pe.backtest(EQUAL, pe.Panel.from_prices(frame, delistings={"B": -0.4}), costs=None)
    assert lost.net.loc[gone] - result.net.loc[gone] == pytest.approx(-0.4 * held)
    assert "-40" in lost.events["event"].iloc[0]


def test_a_delisting_return_that_comes_late_is_paid() -> None:
    """Half in B, whose last price is on row 29 and whose holders get 60 % of it on row 34: the half loses 0.4."""
    frame = pd.DataFrame({"A": 1.0, "B": 1.0}, index=pd.bdate_range("2020-01-01", periods=60))
    frame.loc[frame.index[30] :, "B"] = np.nan
    late = pd.DataFrame({"asset": ["B"], "date": [frame.index[34]], "return": [-0.4]})
    once = pe.Strategy(name="1/N", constructor=pe.EqualWeight(), rebalance=pe.Yearly())
    result = pe.backtest(once, pe.Panel.from_prices(frame, delistings=late), costs=None)
    wealth = (1 + result.net).cumprod()
    assert (wealth.iloc[:33] == 1.0).all()
    assert wealth.loc[frame.index[34]] == pytest.approx(0.8, abs=1e-12)
    assert wealth.iloc[-1] == pytest.approx(0.8, abs=1e-12)


def test_a_name_without_a_price_is_not_traded() -> None:
    frame = prices(60)
    opens = pd.Timestamp("2019-03-01")
    executed = frame.index[frame.index.get_loc(opens) + 1]
    frame.loc[executed, "C"] = np.nan
    result = pe.backtest(EQUAL, pe.Panel.from_prices(frame), costs=5 * bps)
    assert result.trades.loc[executed, "C"] == 0.0
    assert result.decisions.loc[opens, "unfilled"] > 0.0
    assert result.cash.min() >= -1e-12, "nothing is bought on credit"


def test_names_that_are_not_there_yet_are_not_held() -> None:
    result = pe.backtest(EQUAL, pe.Panel.from_prices(ragged()))
    first = ragged()["B"].first_valid_index()
    assert (result.weights.loc[: first - pd.Timedelta(days=1), "B"] == 0.0).all()
    assert result.weights["B"].iloc[-1] > 0.0


def test_a_date_that_fails_is_a_row_and_holdings_stay() -> None:
    panel = pe.Panel.from_prices(prices())
    honest = pe.backtest(tilted(), panel)
    bad = honest.decisions.index[5]
    result = pe.backtest(tilted(fails_on=f"{bad:%Y-%m-%d}"), panel)
    assert len(result.decisions) == len(honest.decisions)
    row = result.decisions.loc[bad]
    assert not row["ok"]
    assert row["status"].startswith("InfeasibleError") and "made to fail" in row["status"]
    assert pd.isna(row["executed"])
    assert result.decisions["proven"].dtype == bool and not row["proven"]
    assert result.decisions["ok"].sum() == len(honest.decisions) - 1
    assert "1 failed" in str(result)
    day = result.net.index[result.net.index.get_loc(bad) + 1]
    assert result.turnover.loc[day] == 0.0 and honest.turnover.loc[day] > 0.0


def test_a_rule_that_cannot_be_met_on_one_date_leaves_that_date_out_and_no_other() -> None:
    """Three rough weeks in the middle put every portfolio above the volatility cap on one decision."""
    frame = prices(200)
    moves = frame.pct_change().fillna(0.0).to_numpy(copy=True)
    moves[95:110] += 0.08 * np.where(np.arange(15) % 2 == 0, 1.0, -1.0)[:, None]
    frame = 50 * pd.DataFrame(1 + moves, frame.index, frame.columns).cumprod()
    cap = pe.VolatilityCap(0.10)
    strategy = pe.Strategy(
        name="capped", market=pe.SampleMoments(lookback=20), energy=pe.Variance() + pe.TradingCost(5 * bps),
        constraint=pe.Budget() & pe.LongOnly() & cap, constructor=pe.Convex(),
    )  # fmt: skip
    result = pe.backtest(strategy, pe.Panel.from_prices(frame))
    ok = result.decisions["ok"].tolist()
    bad = ok.index(False)
    assert ok.count(False) == 1 and 2 <= bad <= len(ok) - 3, ok
    row = result.decisions.iloc[bad]
    assert row["status"].startswith("InfeasibleError") and repr(cap) in row["status"] and "Budget()" in row["status"]
    assert pd.isna(row["executed"]) and pd.isna(row["kkt"])
    assert (result.decisions["kkt"].drop(result.decisions.index[bad]) <= 1e-8).all()
    before, after = (result.decisions["executed"].iloc[bad + step] for step in (-1, 1))
    assert result.trades.loc[before].abs().sum() > 0.0 and result.trades.loc[after].abs().sum() > 0.0
    # Between the two nothing is traded: shares stand still, so weights over prices keep their proportions.
    quiet = result.weights.loc[before:after].iloc[:-1]
    assert quiet.index[0] == before and len(quiet) > 30
    assert not len(result.trades.index.intersection(quiet.index[1:]))
    assert (result.turnover.loc[quiet.index[1:]] == 0.0).all()
    shares = quiet / frame.loc[quiet.index]
    shares = shares.div(shares.sum(axis=1), axis=0)
    np.testing.assert_allclose(shares, np.broadcast_to(shares.iloc[0], shares.shape), rtol=0.0, atol=1e-12)
    assert (quiet.iloc[-1] - quiet.iloc[0]).abs().max() > 1e-3, "they drift"


def test_a_mistake_in_the_strategy_is_not_swallowed() -> None:
    with pytest.raises(SpecError, match="market model"):
        pe.backtest(pe.Strategy(name="x", energy=pe.Variance()), pe.Panel.from_prices(prices(60)))


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    panel = pe.Panel.from_prices(ragged())
    folders = [pe.backtest(tilted(), panel, seed=seed).save(tmp_path / name) for name, seed in (("a", 3), ("b", 3))]
    files = sorted(path.name for path in folders[0].iterdir())
    assert files == sorted(path.name for path in folders[1].iterdir())
    assert "manifest.json" in files and "weights.parquet" in files
    for name in files:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    other = pe.backtest(tilted(), panel, seed=4)
    assert not other.weights.equals(pd.read_parquet(folders[0] / "weights.parquet"))


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    result = pe.backtest(MIN_VARIANCE, pe.Panel.from_prices(prices()))
    folder = result.save(tmp_path / "runs" / "x")
    weights = pd.read_parquet(folder / "weights.parquet")
    assert np.array_equal(weights.to_numpy(), result.weights.to_numpy())
    net = pd.read_parquet(folder / "returns.parquet")["net"]
    assert np.array_equal(net.to_numpy(), result.net.to_numpy())
    again = pe.Strategy.model_validate(result.manifest["strategy"])
    assert again == MIN_VARIANCE
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_costs_default_to_the_strategys_own_rate_and_none_is_free() -> None:
    panel = pe.Panel.from_prices(prices())
    assert pe.backtest(MIN_VARIANCE, panel).arguments["costs"] == 5 * bps
    assert pe.backtest(MIN_VARIANCE, panel, costs=None).costs.abs().max() == 0.0


def test_start_and_end_are_honoured() -> None:
    panel = pe.Panel.from_prices(prices())
    result = pe.backtest(EQUAL, panel, start="2019-03-15", end="2019-08-20")
    assert result.decisions.index[0] == pd.Timestamp("2019-04-01")
    assert result.net.index[-1] == pd.Timestamp("2019-08-20")
    full = pe.backtest(EQUAL, panel, end="2019-08-20")
    assert full.net.index[-1] == pd.Timestamp("2019-08-20")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"start": "2030-01-01"}, DataError, "the first one with enough history is"),
        ({"start": "yesterday-ish"}, DataError, "not a date"),
        ({"delay": -1}, SpecError, "delay=-1"),
        ({"costs": -0.1}, SpecError, r"costs=-0\.1"),
        ({"costs": 1.5}, SpecError, "fraction of traded value"),
    ],
)
def test_bad_arguments_are_told(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pe.backtest(EQUAL, pe.Panel.from_prices(prices(60)), **changes)


def test_too_little_history_is_told() -> None:
    with pytest.raises(DataError, match="needs 60 periods before its first decision and the panel has 40"):
        decision_rows(MIN_VARIANCE, pe.Panel.from_prices(prices(40)))


def test_the_first_decision_waits_for_the_factors_that_are_asked_for() -> None:
    frame = prices(400)
    factors = pd.DataFrame({"market": frame.pct_change().mean(axis=1), "late": frame["A"].pct_change()})
    factors.iloc[:150, 1] = np.nan
    panel = pe.Panel.from_prices(frame, factors=factors, factors_are="returns", market="market")

    def first(*names: str) -> int:
        market = pe.FactorEBM(factors=names, lookback=200, min_history=100)
        return decision_rows(pe.Strategy(name="x", market=market, rebalance=pe.EveryPeriod()), panel)[0]

    assert first("market") == 100  # 100 returns, the first of them on row 1
    assert first("market", "late") == first() == 249  # 100 returns from row 150 on


def test_the_baselines_are_walkable_and_keep_only_convex_rules() -> None:
    rules = MIN_VARIANCE.constraint & pe.Cardinality(at_most=2, min_weight=0.1)
    strategy = MIN_VARIANCE.replace(constraint=rules)
    found = baselines(strategy, lookback=60)
    assert [item.name for item in found] == ["1/N", "mean-variance"]
    assert [type(rule).__name__ for rule in found[1].constraint.rules()] == ["Budget", "LongOnly", "Box"]
    panel = pe.Panel.from_prices(prices())
    assert all(pe.backtest(item, panel).decisions["ok"].all() for item in found)


def test_a_walk_forward_keeps_no_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of decisions, each with its scenarios, would fill the memory."""
    made, build = [], pe.Convex.build

    def seen(self: pe.Convex, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        made.append(weakref.ref(ctx))
        return build(self, energy, constraint, ctx, rng)

    monkeypatch.setattr(pe.Convex, "build", seen)
    strategy = tilted().replace(energy=pe.Variance(), constraint=pe.Budget() & pe.LongOnly(), constructor=pe.Convex())
    result = pe.backtest(strategy, pe.Panel.from_prices(prices(120)))
    gc.collect()
    assert len(made) > 10 and len(result.decisions) == len(made)
    assert not any(ref() for ref in made)
