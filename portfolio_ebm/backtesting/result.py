"""Result: what a backtest did, as records for people, and how it is saved."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from portfolio_ebm.backtesting.manifest import manifest, write_folder
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.strategy import Strategy
from portfolio_ebm.tally import Tally


@dataclass(frozen=True)
class Result:
    """A backtest's records; all frames are indexed by date.

    Attributes:
        name: the strategy's.
        weights: after each close, dates x assets.
        trades: value bought (+) and sold (-) as fractions of the value before the trade; one row per execution.
        gross, costs, net: returns per period; net = gross - costs.
        turnover: sum |w - w_held after drift| of each execution, zero elsewhere.
        cash: 1 - sum of weights after each close.
        cash_rate: what cash earned per period.
        decisions: one row per decision, failed ones included; the columns "stage: ..." are empty where one exact solve
            decided.
        events: names that left the panel while held.
        arguments: costs (the rate that was used), delay, seed, device, start and end of the run.
        manifest: strategy, fingerprints and versions; enough to run it again.
        periods_per_year: of the panel.
        tally: of `LeastTrade`, that of the last decision: whoever goes on live hands it to `rebalance`. None of others.
    """

    name: str
    weights: pd.DataFrame
    trades: pd.DataFrame
    gross: pd.Series[float]
    costs: pd.Series[float]
    net: pd.Series[float]
    turnover: pd.Series[float]
    cash: pd.Series[float]
    cash_rate: pd.Series[float]
    decisions: pd.DataFrame
    events: pd.DataFrame
    arguments: Mapping[str, Any]
    manifest: Mapping[str, Any]
    periods_per_year: float
    tally: Tally | None = None

    def summary(self) -> pd.Series[float]:
        """The usual figures, annualised where the name says so; net of costs."""
        from portfolio_ebm.backtesting.metrics import summarize

        return summarize(self)

    def wealth(self) -> pd.Series[float]:
        """Growth of one, net of costs."""
        grown: pd.Series[float] = (1.0 + self.net).cumprod().rename("wealth")
        return grown

    def since(self, date: Any) -> Result:
        """The same records from `date` on, for a comparison over shared dates."""
        when = pd.Timestamp(date)
        series = ("gross", "costs", "net", "turnover", "cash", "cash_rate", "weights", "trades", "decisions")
        changes: dict[str, Any] = {name: getattr(self, name).loc[when:] for name in series}
        return replace(self, **changes)

    def save(self, folder: str | Path, files: Mapping[str, bytes] | None = None) -> Path:
        """Write manifest.json, parquet files, tally.json where there is one, and `files` (by name) into `folder`.

        Nothing is left half-written.

        Returns:
            the folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        written = dict(files or {})
        for name, frame in self._frames().items():
            buffer = io.BytesIO()
            frame.to_parquet(buffer)
            written[f"{name}.parquet"] = buffer.getvalue()
        if self.tally is not None:
            made = self.manifest["strategy_fingerprint"]
            kept = {"strategy": self.name, "strategy_fingerprint": made, "tally": self.tally.plain()}
            written["tally.json"] = (json.dumps(kept, indent=2, allow_nan=False) + "\n").encode()
        written["manifest.json"] = (json.dumps(dict(self.manifest), indent=2, sort_keys=True) + "\n").encode()
        return write_folder(folder, written, last="manifest.json")

    def _frames(self) -> dict[str, pd.DataFrame]:
        series = {"gross": self.gross, "costs": self.costs, "net": self.net, "turnover": self.turnover}
        returns = pd.DataFrame({**series, "cash": self.cash})
        frames = {"weights": self.weights, "trades": self.trades, "returns": returns}
        return {**frames, "decisions": self.decisions, "events": self.events}

    def __str__(self) -> str:
        first, last = self.net.index[0], self.net.index[-1]
        failed = int((~self.decisions["ok"].astype(bool)).sum())
        lines = [f"{self.name}, {first:%Y-%m-%d} to {last:%Y-%m-%d}, net of {self.arguments['costs']:.2%} costs"]
        lines += [f"  {name:<28}{value:>12.4f}" for name, value in self.summary().items()]
        lines.append(f"  {len(self.decisions)} decisions, {failed} failed")
        return "\n".join(lines)


def assemble(
    strategy: Strategy, panel: Panel, days: list[dict[str, Any]], decisions: list[dict[str, Any]],
    events: list[dict[str, Any]], arguments: dict[str, Any], tally: Tally | None = None,
) -> Result:  # fmt: skip
    """The Result of the rows a walk recorded."""
    rows = [day["row"] for day in days]
    index = pd.DatetimeIndex(panel.dates[rows], name="date")
    assets = pd.Index(panel.assets, name="asset")

    def series(name: str) -> pd.Series[float]:
        return pd.Series([day[name] for day in days], index=index, name=name, dtype=float)

    traded = [(when, day["traded"]) for when, day in zip(index, days, strict=True) if day["traded"] is not None]
    return Result(
        name=strategy.name,
        weights=pd.DataFrame(np.array([day["weights"] for day in days]), index=index, columns=assets),
        trades=pd.DataFrame(
            np.array([item for _, item in traded]).reshape(len(traded), len(assets)),
            index=pd.DatetimeIndex([when for when, _ in traded], name="date"),
            columns=assets,
        ),
        gross=series("gross"),
        costs=series("costs"),
        net=series("net"),
        turnover=series("turnover"),
        cash=series("cash"),
        cash_rate=pd.Series(panel.cash_rate[rows], index=index, name="cash_rate"),
        decisions=pd.DataFrame(decisions).set_index("date"),
        events=pd.DataFrame(events, columns=["date", "asset", "weight", "event"]),
        arguments=arguments,
        manifest=manifest(strategy, panel, arguments),
        periods_per_year=panel.periods_per_year,
        tally=tally,
    )
