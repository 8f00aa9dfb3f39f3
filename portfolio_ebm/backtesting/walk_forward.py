"""Walk forward: decide with the past alone, trade later, drift, pay, record.

At the close of every date t the ledger earns the period's returns, then executes what was decided `delay` periods
ago, then, on a decision date, asks `rebalance` with the past cut at t. A decision of t can therefore use the close of
t, and trades at the close of t + delay. `rebalance` is the live path: live and backtest are the same call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.allocation import Allocation
from portfolio_ebm.backtesting.ledger import Book, Trade, drift, leave, trade
from portfolio_ebm.backtesting.result import Result, assemble
from portfolio_ebm.construction.later import at_hand
from portfolio_ebm.data.dates import stamp
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.errors import DataError, FitError, InfeasibleError, SolverError, SpecError
from portfolio_ebm.strategy import Strategy, cure_due, rebalance
from portfolio_ebm.tally import Tally

STRATEGY_COSTS: Literal["strategy"] = "strategy"
"""The default of `costs`: the rate of the strategy's own TradingCost terms."""

Progress = Callable[[int, int, str], None]
"""progress(done, total, date): called after every decision."""


@dataclass
class _Run:
    """The state of one walk: what is held, what is waiting to be traded, the last tally, the rows recorded so far."""

    book: Book
    waiting: list[tuple[int, np.ndarray[Any, np.dtype[np.float64]], int]] = field(default_factory=list)
    days: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    tally: Tally | None = None


def backtest(
    strategy: Strategy,
    panel: Panel,
    *,
    start: str | None = None,
    end: str | None = None,
    costs: float | Literal["strategy"] | None = STRATEGY_COSTS,
    delay: int = 1,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """The strategy walked forward over the panel.

    Args:
        strategy: what to hold and why.
        panel: the data.
        start, end: first and last date, both included; the first decision is the first scheduled date from `start` on
            with enough history behind it.
        costs: fraction of traded value paid per trade; by default the rate of the strategy's own `TradingCost`; None
            for no costs.
        delay: periods between a decision and its trade; 0 trades at the decision's own close, as some papers do.
        seed: with each date, the one source of randomness.
        progress: called after every decision.

    Returns:
        Result with .weights .trades .net .gross .costs .decisions and .summary().

    Raises:
        DataError: no decision date with enough history.
        SpecError: costs or delay are negative, or the strategy asks for something its market does not give.

    With Strategy(breaches="at once") a day on which drift has broken a rule decides as well, with the reason "breach".

    A date on which no portfolio could be found is a row of `decisions` with `ok` False and the reason; holdings stay.
    Where one exact solve decided, no chains run beside it and the row has no stages: `rebalance(...).ablation` runs
    them.

    Example:
        >>> print(backtest(Strategy(name="1/N", constructor=EqualWeight()), panel, costs=10 * bps))
    """
    rate = cost_rate(strategy, costs)
    if delay < 0:
        raise SpecError(f"delay={delay}: a trade cannot come before its decision; use 0 or more periods.")
    rows = decision_rows(strategy, panel, start, end)
    last = len(panel) - 1 if end is None else panel.row(end)
    arguments = {"costs": rate, "delay": delay, "seed": seed, "device": device, "start": start, "end": end}
    run = _Run(Book(np.zeros(panel.n_assets)))
    planned = set(rows)
    for t in range(rows[0], last + 1):
        gross = _earn(run, panel, t) if t > rows[0] else 0.0
        done = _execute(run, panel, t, rate)
        reason = "schedule" if t in planned else "breach" if _must_cure(run, strategy, panel, t) else ""
        if reason:
            _decide(run, strategy, panel, t, reason, delay, seed, device)
            if delay == 0:
                done = _execute(run, panel, t, rate)
            if progress is not None:
                progress(len(run.decisions), max(len(rows), len(run.decisions)), _day(panel, t))
        _record(run, t, gross, done)
    return assemble(strategy, panel, run.days, run.decisions, run.events, arguments, run.tally)


def decision_rows(strategy: Strategy, panel: Panel, start: str | None = None, end: str | None = None) -> list[int]:
    """The rows of the panel on which the strategy decides.

    Raises:
        DataError: there is none with enough history; the message says when the first would be.
    """
    scheduled = strategy.rebalance.decisions(panel.dates)
    enough = _enough(strategy, panel, scheduled)
    if not (scheduled & enough).any():
        raise DataError(
            f"'{strategy.name}' needs {strategy.history} periods before its first decision and the panel has "
            f"{len(panel)} ({panel.start} to {panel.end}), fewer where its factors start later; bring more history or "
            "shorten the lookback."
        )
    inside = np.ones(len(panel), dtype=bool)
    if start is not None:
        inside &= panel.dates >= stamp(start, "start")
    if end is not None:
        inside &= panel.dates <= stamp(end, "end")
    rows = [int(t) for t in np.flatnonzero(scheduled & enough & inside)]
    if not rows:
        first = _day(panel, int(np.flatnonzero(scheduled & enough)[0]))
        raise DataError(
            f"'{strategy.name}' has no decision from {start or panel.start} to {end or panel.end}; "
            f"the first one with enough history is {first}, and the panel ends {panel.end}."
        )
    return rows


def _enough(strategy: Strategy, panel: Panel, scheduled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool (T,): rows from the first scheduled one on which the market model lacks no history."""
    enough: NDArray[np.bool_] = np.arange(len(panel)) + 1 >= strategy.history
    if strategy.market is not None:
        for t in np.flatnonzero(scheduled & enough):
            if strategy.market.lacking(panel.past(t)) is None:
                break
            enough[t] = False
    return enough


def cost_rate(strategy: Strategy, costs: float | Literal["strategy"] | None) -> float:
    """The fraction of traded value that a trade costs.

    Raises:
        SpecError: a negative rate, or one of 100 % and more.
    """
    if costs == STRATEGY_COSTS:
        return sum(part.energy.rate for part in strategy.energy.terms() if isinstance(part.energy, TradingCost))
    rate = 0.0 if costs is None else float(costs)
    if not 0.0 <= rate < 1.0:
        raise SpecError(f"costs={rate}: give a fraction of traded value in [0, 1), such as 5 * bps.")
    return rate


def _earn(run: _Run, panel: Panel, t: int) -> float:
    """Drift over the period that ends at t; names that left are turned into cash."""
    run.book, gross = drift(run.book, panel.returns[t], float(panel.cash_rate[t]), _day(panel, t))
    gone = (panel.exit_rows <= t) & (run.book.weights != 0.0)
    if gone.any():
        for i in np.flatnonzero(gone):
            name = panel.assets[i]
            final = panel.delistings.get(name)
            how = "its last price" if final is None else f"its delisting return of {final:.1%}"
            run.events.append({
                "date": panel.dates[t], "asset": name, "weight": run.book.weights[i],
                "event": f"left the panel; turned into cash at {how}",
            })  # fmt: skip
        run.book = leave(run.book, gone)
    return gross


def _execute(run: _Run, panel: Panel, t: int, rate: float) -> Trade | None:
    """Trade what was decided for t; names without a price at t stay as they are."""
    due = [order for order in run.waiting if order[0] == t]
    run.waiting = [order for order in run.waiting if order[0] != t]
    if not due:
        return None
    _, target, row = due[-1]
    done = trade(run.book, target, rate, ~panel.tradeable[t])
    missed = float(np.abs(done.book.weights - target).sum())
    run.book = done.book
    run.decisions[row].update(executed=panel.dates[t], turnover=done.turnover, unfilled=missed)
    return done


def _must_cure(run: _Run, strategy: Strategy, panel: Panel, t: int) -> bool:
    """Whether drift broke a rule that the strategy cures at once, and no trade is on its way already."""
    if strategy.breaches == "next trade" or run.waiting or not run.book.weights.any():
        return False
    try:
        return bool(cure_due(strategy, panel.past(t), run.book.weights))
    except DataError:
        # A rule that cannot be looked at is told by the decision, which fails over the same data.
        return True


def _decide(
    run: _Run, strategy: Strategy, panel: Panel, t: int, reason: str, delay: int, seed: int, device: str
) -> None:
    row: dict[str, Any] = {
        "date": panel.dates[t], "reason": reason, "executed": np.datetime64("NaT"), "turnover": 0.0, "unfilled": 0.0,
    }  # fmt: skip
    held = run.book.weights if run.book.weights.any() else None
    try:
        allocation = rebalance(strategy, panel.past(t), held, tally=run.tally, seed=seed, device=device)
    except (InfeasibleError, SolverError, DataError, FitError) as error:
        run.decisions.append(row | {"ok": False, "status": f"{type(error).__name__}: {error}", "proven": False})
        return
    run.decisions.append(row | describe(allocation))
    run.tally = allocation.tally
    run.waiting.append((t + delay, allocation.weights.to_numpy(dtype=float), len(run.decisions) - 1))


def describe(allocation: Allocation) -> dict[str, Any]:
    """A decision as a flat row: status, energy, bound, gap, KKT residual, terms, ranges, stages, what was refitted.

    Stages are those that led to the weights: chains that would run beside an exact solve are not run for the record.
    """
    row: dict[str, Any] = {
        "ok": allocation.status.ok,
        "status": str(allocation.status),
        "energy": allocation.energy,
        "bound": np.nan if allocation.bound is None else allocation.bound,
        "gap": np.nan if allocation.gap is None else allocation.gap,
        "proven": allocation.proven,
        "kkt": np.nan if allocation.kkt is None else allocation.kkt,
        "names": int((np.abs(allocation.weights.to_numpy()) > 1e-9).sum()),
        "horizon": allocation.horizon,
        "refitted": ", ".join(allocation.refitted),
        "worst_residual": max(allocation.residuals.values(), default=0.0),
        "relaxed": ", ".join(f"{rule} by {by:.4g}" for rule, by in allocation.relaxed.items()),
        "breached": ", ".join(f"{rule} by {by:.4g}" for rule, by in allocation.breaches.items()),
    }
    row |= {f"term: {name}": value for name, value in allocation.breakdown.items()}
    row |= {f"low: {name}": low for name, (low, _) in allocation.ranges.items()}
    row |= {f"high: {name}": high for name, (_, high) in allocation.ranges.items()}
    row |= {f"stage: {name}": value for name, value in at_hand(allocation.ablation).items()}
    # Wall-clock times stay out of the records: the same seed must give the same bytes.
    search = {name: value for name, value in allocation.diagnostics.items() if "second" not in name}
    return row | {f"search: {name}": value for name, value in search.items()}


def _record(run: _Run, t: int, gross: float, done: Trade | None) -> None:
    fraction = 0.0 if done is None else done.fraction
    costs = (1.0 + gross) * fraction
    run.days.append({
        "row": t, "gross": gross, "costs": costs, "net": gross - costs, "cash": run.book.cash,
        "turnover": 0.0 if done is None else done.turnover, "weights": run.book.weights,
        "traded": None if done is None else done.traded,
    })  # fmt: skip


def _day(panel: Panel, t: int) -> str:
    return str(panel.dates[t].astype("datetime64[D]"))
