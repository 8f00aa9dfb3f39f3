"""backtest | rebalance | check STRATEGY.py: what can be done with a strategy file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from portfolio_ebm.errors import DataError, InfeasibleError, PortfolioEBMError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from portfolio_ebm.allocation import Allocation
    from portfolio_ebm.data.panel import Panel
    from portfolio_ebm.data.past import Past
    from portfolio_ebm.orders.sizing import Orders
    from portfolio_ebm.strategy import Strategy
    from portfolio_ebm.tally import Tally

File = Annotated[Path, typer.Argument(metavar="STRATEGY.py", help="Python file that defines STRATEGY; it is run.")]
Prices = Annotated[Path | None, typer.Option(help="Prices, CSV or parquet: a date column, then one per asset.")]
Factors = Annotated[Path | None, typer.Option(help="Factor prices or returns; built from the prices if not given.")]
Groups = Annotated[Path | None, typer.Option(help="Labels: an asset column, then one column per grouping.")]
Start = Annotated[str | None, typer.Option(help="First date, YYYY-MM-DD.")]
End = Annotated[str | None, typer.Option(help="Last date, YYYY-MM-DD.")]
Out = Annotated[Path | None, typer.Option(help="Folder for what is written; runs/<strategy name>/ if not given.")]
After = Annotated[Path | None, typer.Option(help="For LeastTrade: the last rebalance.json, or tally.json of a run.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same weights, bit for bit.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]


class _Inputs(NamedTuple):
    strategy: Strategy
    panel: Panel


def backtest(
    strategy: File, prices: Prices = None, factors: Factors = None, groups: Groups = None, start: Start = None,
    end: End = None, out: Out = None, seed: Seed = 0, device: Device = "cpu",
) -> None:  # fmt: skip
    """Walk the strategy forward beside 1/N and convex mean-variance, print the table and write a report."""
    given = _inputs(strategy, prices, factors, groups)
    folder = _folder(out, given.strategy.name)
    from rich.console import Console

    from portfolio_ebm.report.html import render
    from portfolio_ebm.report.tables import print_results
    from portfolio_ebm.types import device_of

    device_of(device)
    results, skipped = _walk(given, start, end, seed, device)
    page = render(given.strategy, given.panel, results)
    results[0].save(folder, {"report.html": page.encode()})
    console = Console(highlight=False)
    print_results(results, console)
    for line in skipped:
        console.print(line, markup=False)
    console.print(f"Report: {folder / 'report.html'}", markup=False, soft_wrap=True)
    decisions = results[0].decisions
    if not decisions["ok"].any():
        raise PortfolioEBMError(f"all {len(decisions)} decisions failed, the first with {decisions['status'].iloc[0]}")


def rebalance(
    strategy: File, prices: Prices = None, factors: Factors = None, groups: Groups = None,
    holdings: Annotated[Path | None, typer.Option(help="CSV with the columns ticker,shares.")] = None,
    cash: Annotated[float, typer.Option(help="Money not invested, in the currency of the prices.")] = 0.0,
    asof: Annotated[str | None, typer.Option(help="Date, YYYY-MM-DD; the last one of the prices if not given.")] = None,
    after: After = None,
    out: Out = None, seed: Seed = 0, device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:  # fmt: skip
    """Target weights for one date and the trades that lead there; files are written, nothing is sent."""
    given = _inputs(strategy, prices, factors, groups)
    from portfolio_ebm import strategy as doors

    past = given.panel.past(-1 if asof is None else asof)
    folder = (out or _folder(None, given.strategy.name) / f"rebalance-{past.date}").resolve()
    _writable(folder)
    held, position = _position(holdings, cash, past)
    tally = None if after is None else _tally(after, given.strategy)
    allocation = doors.rebalance(given.strategy, past, held, tally=tally, seed=seed, device=device)
    orders = None if position is None else _orders(given.strategy, allocation, position, past)
    due = doors.cure_due(given.strategy, past, held)
    record = _record(given.strategy, allocation, orders, seed, due)
    _write_orders(folder, record, allocation, orders)
    if as_json:
        import json

        print(json.dumps(record, indent=2, allow_nan=False))
        return
    _show(allocation, orders, due)
    print(f"Written to {folder}; nothing was sent.")


def check(
    strategy: File, prices: Prices = None, factors: Factors = None, groups: Groups = None, start: Start = None,
    end: End = None, out: Out = None, seed: Seed = 0, device: Device = "cpu",
) -> None:  # fmt: skip
    """Validate the strategy and say what a backtest would do, without estimating anything."""
    given = _inputs(strategy, prices, factors, groups)
    from portfolio_ebm.types import device_of

    device_of(device)
    for line in _plan(given, start, end):
        print(line)
    print(f"Output: {_folder(out, given.strategy.name)}, seed {seed}, on {device}.")


def _inputs(strategy: Path, prices: Path | None, factors: Path | None, groups: Path | None) -> _Inputs:
    from portfolio_ebm.data.sources.files import read_panel
    from portfolio_ebm.strategy import load

    found = load(strategy)
    return _Inputs(found, read_panel(prices, factors, groups))


def _folder(out: Path | None, name: str) -> Path:
    """--out, or a folder under runs/ with the strategy's name made safe for every file system."""
    folder = out if out is not None else Path("runs") / (re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "strategy")
    _writable(folder)
    return folder


def _writable(folder: Path) -> None:
    """Said before the work is done and not after it."""
    import os

    if folder.exists() and not folder.is_dir():
        raise StoreError(f"--out {folder} is a file; give a folder.")
    parent = next((item for item in (folder, *folder.absolute().parents) if item.exists()), Path())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise StoreError(f"--out {folder}: {parent} cannot be written to; choose another folder.")


def _walk(given: _Inputs, start: str | None, end: str | None, seed: int, device: str) -> tuple[list[Any], list[str]]:
    """The strategy's result and its baselines', with a progress bar on stderr; and why a baseline is not there."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from portfolio_ebm.backtesting.baselines import baselines
    from portfolio_ebm.backtesting.walk_forward import backtest as walk

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[day]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:

        def bar(name: str) -> Callable[[int, int, str], None]:
            task = bars.add_task(name[:16].replace("[", "("), total=None, day="")
            return lambda done, total, day: bars.update(task, completed=done, total=total, day=day)

        main_run = walk(given.strategy, given.panel, start=start, end=end, seed=seed, device=device,
                        progress=bar(given.strategy.name))  # fmt: skip
        results, skipped = [main_run], []
        first = f"{main_run.decisions.index[0]:%Y-%m-%d}"
        costs, delay = main_run.arguments["costs"], main_run.arguments["delay"]
        for other in baselines(given.strategy):
            try:
                results.append(walk(other, given.panel, start=first, end=end, costs=costs, delay=delay, seed=seed,
                                    progress=bar(other.name)))  # fmt: skip
            except DataError as error:
                skipped.append(f"No baseline {other.name}: {error}")
    return results, skipped


def _position(path: Path | None, cash: float, past: Past) -> tuple[pd.Series[float] | None, Any]:
    """Held weights and holdings at the last known prices; (None, None) when nothing was given to trade with."""
    import pandas as pd

    from portfolio_ebm.orders.holdings import read_holdings
    from portfolio_ebm.orders.sizing import Holdings
    from portfolio_ebm.strategy import held_weights
    from portfolio_ebm.types import device_of

    if path is None and cash == 0.0:
        return None, None
    if past.prices is None:
        raise DataError("The panel has returns and no prices, so trades cannot be sized; give --prices.")
    shares = pd.Series(dtype=float) if path is None else read_holdings(path)
    held_weights(shares, past.assets, device_of("cpu"))  # names the panel does not know are told before any sum
    found = Holdings(shares, pd.Series(past.prices, index=pd.Index(past.assets)), cash)
    weights = found.weights()
    return (weights if bool((weights != 0.0).any()) else None), found


def _tally(path: Path, strategy: Strategy) -> Tally:
    """What the decision recorded in `path` handed on."""
    import json

    from portfolio_ebm.tally import Tally

    try:
        record = json.loads(path.read_text())
        name, made, plain = record["strategy"], record.get("strategy_fingerprint"), record.get("tally")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"--after {path}: this is no rebalance.json of an earlier decision, nor tally.json of a run "
            f"({type(error).__name__}: {error})."
        ) from error
    if name != strategy.name:
        raise DataError(f"--after {path}: that decision was made by '{name}', not by '{strategy.name}'.")
    if plain is None:
        raise DataError(f"--after {path}: that decision kept no tally; it is LeastTrade that keeps one.")
    if made not in (None, strategy.fingerprint()):
        raise DataError(
            f"--after {path}: that decision is of '{name}' with other settings (fingerprint {str(made)[:12]}, now "
            f"{strategy.fingerprint()[:12]}), and its tally is of those; put them back, or backtest the new ones and "
            "give the tally.json of that run. To go on from this tally all the same, take its strategy_fingerprint out "
            "of the file."
        )
    try:
        return Tally.of(plain)
    except DataError as error:
        raise DataError(f"--after {path}: {error}") from error


def _orders(strategy: Strategy, allocation: Allocation, position: Any, past: Past) -> Orders:
    from portfolio_ebm.backtesting.walk_forward import cost_rate
    from portfolio_ebm.orders.sizing import size_orders

    priced = past.tradeable | past.leaving
    frozen = frozenset(name for name, trades in zip(past.assets, priced, strict=True) if not trades)
    return size_orders(allocation.weights, position, cost_rate=cost_rate(strategy, "strategy"), frozen=frozen)


def _record(
    strategy: Strategy, allocation: Allocation, orders: Orders | None, seed: int, due: Mapping[str, float]
) -> dict[str, Any]:
    """The decision as plain JSON: weights, status, bound, rules, breaches, terms and trades.

    `breaches` are all rules that the holdings had drifted past; `cure_due` those that the strategy cures at once.
    """
    held = {str(name): float(value) for name, value in allocation.weights.items() if abs(value) > 1e-12}
    record: dict[str, Any] = {
        "strategy": strategy.name, "strategy_fingerprint": strategy.fingerprint(), "seed": seed,
        "date": allocation.date, "ok": allocation.status.ok, "status": str(allocation.status),
        "weights": held, "cash_weight": 1.0 - sum(held.values()), "energy": allocation.energy,
        "bound": allocation.bound, "gap": allocation.gap, "residuals": dict(allocation.residuals),
        "breaches": dict(allocation.breaches), "cure_due": dict(due),
        "breakdown": dict(allocation.breakdown),
        "ranges": {name: list(pair) for name, pair in allocation.ranges.items()},
        "refitted": list(allocation.refitted),
        **({} if allocation.tally is None else {"tally": allocation.tally.plain()}),
    }  # fmt: skip
    record = {name: _finite(value) for name, value in record.items()}
    if orders is not None:
        record |= {
            "value": orders.value, "cash_before": orders.cash_before, "cash_after": orders.cash_after,
            "costs": orders.costs,
            "trades": [
                {"ticker": str(ticker), "shares": float(row["trade"]), "price": float(row["price"]),
                 "value": float(row["value"])}
                for ticker, row in orders.trades.iterrows()
            ],
        }  # fmt: skip
    return record


def _finite(value: Any) -> Any:
    """JSON has no infinities: a bound of minus infinity, for one, is null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_orders(folder: Path, record: dict[str, Any], allocation: Allocation, orders: Orders | None) -> None:
    import json

    from portfolio_ebm.backtesting.manifest import write_folder
    from portfolio_ebm.orders.brokers import alpaca_lines, ibkr_basket

    files = {"weights.csv": allocation.weights.rename_axis("ticker").to_csv(lineterminator="\n")}
    if orders is not None:
        files["trades.csv"] = orders.table.to_csv(lineterminator="\n")
        files["ibkr_basket.csv"] = ibkr_basket(orders)
        files["alpaca_orders.jsonl"] = alpaca_lines(orders)
    files["rebalance.json"] = json.dumps(record, indent=2, allow_nan=False) + "\n"
    write_folder(folder, {name: text.encode() for name, text in files.items()}, last="rebalance.json")


def _show(allocation: Allocation, orders: Orders | None, due: Mapping[str, float]) -> None:
    from rich.console import Console

    from portfolio_ebm.report.trades import orders_table, weights_table

    console = Console(highlight=False)
    console.print(weights_table(allocation))
    console.print(str(allocation.status), markup=False)
    gap = allocation.gap
    bound = "no bound is known" if gap is None else f"at most {max(gap, 0.0):.2e} above the optimum"
    console.print(f"Energy {allocation.energy:.6g} per holding period; {bound}.", markup=False)
    for rule, by in allocation.breaches.items():
        when = " The strategy cures this at once: trade today." if rule in due else ""
        console.print(f"What was held had drifted past {rule} by {by:.3g}.{when}", markup=False)
    if orders is None:
        console.print("Give --holdings or --cash to see the trades.", markup=False)
    else:
        console.print(orders_table(orders))


def _plan(given: _Inputs, start: str | None, end: str | None) -> list[str]:
    """What a backtest would do, in lines."""
    from portfolio_ebm.backtesting.walk_forward import cost_rate, decision_rows
    from portfolio_ebm.strategy import required

    strategy, panel = given
    rows = decision_rows(strategy, panel, start, end)
    first, last = (panel.past(row) for row in (rows[0], rows[-1]))
    _compile(strategy, last)
    needed = ", ".join(sorted(required(strategy))) or "nothing"
    market = "none" if strategy.market is None else repr(strategy.market)
    return [
        f"{strategy.name}: valid.",
        f"Minimises   {strategy.energy!r}",
        f"which needs {needed} per holding period, from the market {market}.",
        "Rules:",
        *(f"  {rule.explain()}" for rule in strategy.constraint.rules()),
        f"Found by {strategy.constructor!r}, rebalanced {strategy.rebalance!r}.",
        f"{len(rows)} decisions from {first.date} to {last.date}, after {strategy.history} periods of history.",
        f"Holding period: {strategy.rebalance.horizon(last.dates)} periods. "
        f"Costs: {cost_rate(strategy, 'strategy') * 1e4:g} basis points of traded value.",
        "Data:",
        *(f"  {line}" for line in panel.describe().splitlines()),
    ]


def _compile(strategy: Strategy, past: Past) -> None:
    """Bring the rules together on the last decision date: unknown groups, unknown factors and rules in conflict."""
    import torch

    from portfolio_ebm.constraints.combine import project_any, regions_of
    from portfolio_ebm.construction.feasibility.infeasible import explain_infeasible
    from portfolio_ebm.strategy import surroundings

    unknown = [name for name in getattr(strategy.market, "factors", ()) if name not in past.factors]
    if unknown:
        there = ", ".join(past.factors) or "none"
        raise DataError(f"The market asks for {', '.join(unknown)}; the panel's factors are {there}. Give --factors.")
    if strategy.constraint.asks():
        return  # rules on risk are known once the market is fitted
    horizon = strategy.rebalance.horizon(past.dates)
    ctx = surroundings(past, None, None, horizon, strategy.capital, torch.device("cpu"))
    middle = torch.full((ctx.n_assets,), 1.0 / ctx.n_assets, dtype=torch.float64)
    try:
        project_any(middle, regions_of(strategy.constraint, ctx))
    except InfeasibleError:
        raise explain_infeasible(strategy.constraint, ctx) from None
