"""A walk-forward of exact solves runs no chains: none for its rows, none for its report, and both say so."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_report import Tags

import portfolio_ebm as pe
from portfolio_ebm.backtesting.result import Result
from portfolio_ebm.backtesting.walk_forward import describe
from portfolio_ebm.construction import annealed
from portfolio_ebm.construction.exact.minimum import Minimum, minimize
from portfolio_ebm.construction.later import Later, Lookup, at_hand, extended
from portfolio_ebm.construction.rugged import exploring
from portfolio_ebm.report import decisions
from portfolio_ebm.report.html import render
from portfolio_ebm.types import Status

SMALL = pe.AnnealedLangevin(chains=4, steps=5)
RULES = pe.Budget() & pe.LongOnly() & pe.Box(upper=0.6) & pe.Turnover(0.4)
CONVEX = pe.Strategy(
    name="exact", market=pe.SampleMoments(lookback=40), energy=pe.Variance(), constraint=RULES, constructor=SMALL
)


def panel_of(drift: float | np.ndarray = 0.0003, days: int = 190) -> pe.Panel:
    rng = np.random.default_rng(3)
    index = pd.bdate_range("2020-01-01", periods=days)
    moves = np.broadcast_to(np.asarray(drift)[..., None], (days, 5)) + 0.01 * rng.standard_normal((days, 5))
    return pe.Panel.from_prices(50 * pd.DataFrame(1 + moves, index=index, columns=list("ABCDE")).cumprod())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry for each batch of chains that is run."""
    found: list[Any] = []
    for room in (annealed, exploring):
        run = room.run_chains
        monkeypatch.setattr(room, "run_chains", lambda *given, run=run: found.append(given) or run(*given))
    return found


def stages_of(result: Result) -> pd.DataFrame:
    return result.decisions.filter(regex="^stage: ")


def test_a_walk_of_exact_solves_runs_no_chains(ran: list[Any]) -> None:
    panel = panel_of()
    found = pe.backtest(CONVEX, panel, seed=2)
    assert not ran and len(found.decisions) >= 6 and found.decisions["ok"].all()
    assert stages_of(found).empty and found.decisions["search: exact"].eq(1.0).all()
    peer = pe.backtest(CONVEX.replace(constructor=pe.Convex()), panel, seed=2)
    assert np.array_equal(found.weights.to_numpy(), peer.weights.to_numpy())
    # Ranges need no chains, and stay.
    wide = found.decisions["high: Variance()"] - found.decisions["low: Variance()"]
    assert (wide > 0.0).all() and decisions.term_table(found).loc["Variance()", "part"] == 1.0


def test_live_runs_them_on_request_and_then_they_are_of_the_record(ran: list[Any]) -> None:
    panel = panel_of()
    when = str(pe.backtest(CONVEX, panel).decisions.index[0].date())
    live = pe.rebalance(CONVEX, panel.past(when), None)
    before = describe(live)
    assert not ran and not [name for name in before if name.startswith("stage: ")]
    assert live.ablation["before polish"] >= live.energy - 1e-12 and len(ran) == 1
    told = {name: value for name, value in describe(live).items() if name.startswith("stage: ")}
    assert told == {f"stage: {name}": value for name, value in live.ablation.items()} and len(ran) == 1
    assert set(describe(live)) == {*before, *told}


def test_whole_lots_after_exact_solves_keep_the_stage_that_is_theirs(ran: list[Any]) -> None:
    lots = CONVEX.replace(constraint=pe.Budget(at_least=0.9) & pe.LongOnly() & pe.RoundLots(), capital=5000.0)
    found = pe.backtest(lots, panel_of())
    assert not ran and found.decisions["ok"].all() and decisions.exact(found) == (0, 0)
    stages = stages_of(found)
    assert set(stages) == {"stage: without whole lots", "stage: final"} and stages.notna().all(axis=None)
    assert np.allclose(stages["stage: final"], found.decisions["energy"], rtol=1e-12)
    assert (stages["stage: without whole lots"] <= found.decisions["energy"] + 1e-12).all()
    assert "no chains ran" not in Tags(render(lots, panel_of(), [found])).text


def test_the_report_of_exact_solves_says_that_no_chains_ran(ran: list[Any]) -> None:
    panel = panel_of()
    found = pe.backtest(CONVEX, panel)
    text = " ".join(Tags(render(CONVEX, panel, [found])).text.split())
    total = len(found.decisions)
    assert f"All {total} decisions were solved exactly, so no chains ran there" in text
    assert "Allocation.ablation of rebalance and optimize runs chains beside the solve" in text
    assert "Stage by stage" not in text and not ran


@pytest.mark.parametrize(("room", "said"), [
    (1e-5, "bound leaves room for at most 0.100 bps"), (None, "are proven optimal to eight digits: no feasible "
     "portfolio is better. For 1 more no bound is known."),
])  # fmt: skip
def test_a_minimum_that_is_not_proven_is_told_from_those_that_are(
    room: float | None, said: str, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count()

    def third_left_open(*given: Any) -> Minimum:
        found = minimize(*given)
        if next(calls) != 2:
            return found
        status = Status(False, "Minimum by an engine that gave up, not proven to 1e-8: no bound.")
        return replace(found, bound=None if room is None else found.value - room, kkt=None, status=status)

    monkeypatch.setattr(annealed, "minimize", third_left_open)
    panel = panel_of()
    found = pe.backtest(CONVEX, panel)
    total = len(found.decisions)
    assert found.decisions["ok"].all() and stages_of(found).empty and not ran
    assert decisions.exact(found) == (total, total - 1)
    text = " ".join(Tags(render(CONVEX, panel, [found])).text.split())
    told = f"All {total} decisions took one convex solve each, {total - 1} proven exact to eight digits and 1 not"
    assert told in text and "were solved exactly" not in text and said in text
    assert f"All {total} decisions are proven" not in text


def test_a_mixed_walk_tells_the_dates_of_each_kind() -> None:
    # The best ratio is one exact solve where some name gains, and a search where none does, as in the middle here.
    days = np.arange(190)
    panel = panel_of(np.where((days > 70) & (days < 130), -0.012, 0.012))
    ratio = CONVEX.replace(energy=pe.MaxRatio(), constraint=pe.Budget() & pe.LongOnly())
    found = pe.backtest(ratio, panel)
    total, (exact, proven) = len(found.decisions), decisions.exact(found)
    assert proven == exact and found.decisions["ok"].all() and 2 <= exact <= total - 2
    searched = stages_of(found).notna().any(axis=1)
    assert searched.sum() == total - exact and not searched[found.decisions["search: exact"].eq(1.0)].any()
    assert decisions.stage_table(found)["dates"].eq(total - exact).all()
    text = " ".join(Tags(render(ratio, panel, [found])).text.split())
    assert f"{exact} of {total} decisions were solved exactly, so no chains ran there" in text
    assert "Stage by stage" in text and "before polish" in text


def test_the_report_of_a_search_is_as_it_was() -> None:
    panel = panel_of()
    choice = CONVEX.replace(constraint=pe.Budget() & pe.LongOnly() & pe.Cardinality(2, min_weight=0.1))
    found = pe.backtest(choice, panel)
    assert decisions.exact(found) == (0, 0) and stages_of(found).notna().any(axis=1).all()
    text = Tags(render(choice, panel, [found])).text
    assert "no chains ran" not in text and "Stage by stage" in text and "rounding + polish" in text


def test_what_is_at_hand_is_known_without_a_look() -> None:
    looked: list[int] = []
    slow = Lookup(Later(lambda: looked.append(1) or {"before": 3.0, "final": 2.0}))
    longer = extended(slow, {"lots": 2.0, "final": 2.5})
    assert at_hand(slow) == {} and at_hand(longer) == {"lots": 2.0, "final": 2.5} and not looked
    assert dict(longer) == at_hand(longer) == {"before": 3.0, "final": 2.5, "lots": 2.0} and looked == [1]
    assert at_hand(slow) == {"before": 3.0, "final": 2.0} == dict(slow) and looked == [1]
    plain = {"final": 1.0}
    assert at_hand(plain) == plain == at_hand(extended(plain, {}))
