"""anomaly_report: cells and days that a market finds unlikely, each with the rule that says so.

    cell    p = min(1, k min over k rules of p_rule)        marginal, conditional, stale
    day     p = min(1, 2 min(energy, c min over c cells p))

A probability adjusted for the number of rules and cells (Bonferroni): the smallest decides, for a sum of many ordinary
energies hides one cell that is impossible. The market of a day saw nothing after the close before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from portfolio_ebm.data.panel import Panel, When
from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.market.anomaly import tails_ebm as _registered  # noqa: F401  # its import gives `tails` FactorEBM
from portfolio_ebm.market.anomaly.stale import stale
from portfolio_ebm.market.anomaly.tails import Tails, tails
from portfolio_ebm.market.base import Market, MarketModel
from portfolio_ebm.market.score import realised, scored
from portfolio_ebm.types import generator

Array = NDArray[np.float64]

RULES = ("marginal", "conditional", "stale")
CHUNK = 126
SHOWN = 20


@dataclass(frozen=True)
class AnomalyReport:
    """What is unlikely.

    Attributes:
        returns: dates x series.
        rules: tail probabilities by rule, each dates x series; NaN where a rule says nothing.
        energy: P(E(R) >= E(r)) of each date; NaN for laws without a density.
        level: cells with p below it are anomalies; day_level: days.
        notes: what a rule could not do, one sentence each.
    """

    returns: pd.DataFrame
    rules: Mapping[str, pd.DataFrame]
    energy: pd.Series
    level: float
    day_level: float
    notes: tuple[str, ...] = ()

    @property
    def p(self) -> pd.DataFrame:
        """Each cell's probability, dates x series; NaN where no return is."""
        stack = self._stack()
        count = np.isfinite(stack).sum(axis=0)
        smallest = np.where(count > 0, np.where(np.isfinite(stack), stack, np.inf).min(axis=0), np.nan)
        return pd.DataFrame(
            np.minimum(1.0, count * smallest), index=self.returns.index, columns=self.returns.columns
        ).where(self.returns.notna())

    @property
    def cells(self) -> pd.DataFrame:
        """The anomalous cells, least likely first: date, series, return, p, rule, and each rule's probability."""
        p = self.p.to_numpy()
        stack = self._stack()
        rows, columns = np.nonzero(np.nan_to_num(p, nan=1.0) < self.level)
        order = np.lexsort((columns, rows, p[rows, columns]))
        rows, columns = rows[order], columns[order]
        which = np.where(np.isfinite(stack), stack, np.inf).argmin(axis=0)[rows, columns]
        found = {
            "date": self.returns.index.to_numpy()[rows],
            "series": [str(self.returns.columns[int(c)]) for c in columns],
            "return": self.returns.to_numpy()[rows, columns],
            "p": p[rows, columns],
            "rule": [RULES[i] for i in which],
        }
        return pd.DataFrame(found | {rule: stack[i, rows, columns] for i, rule in enumerate(RULES)})

    @property
    def days(self) -> pd.DataFrame:
        """Every date: p, the rule behind it ("energy", or the series of the least likely cell), energy, cell, anomaly.

        `energy` and `cell` are the two probabilities that p is made of.
        """
        p = self.p.to_numpy()
        count = np.isfinite(p).sum(axis=1)
        smallest = np.where(np.isfinite(p), p, np.inf).min(axis=1, initial=np.inf)
        cell = np.where(count > 0, np.minimum(1.0, count * smallest), np.nan)
        energy = self.energy.to_numpy()
        both = np.stack([energy, cell])
        least = np.where(np.isfinite(both), both, np.inf).min(axis=0)
        total = np.where(np.isfinite(least), np.minimum(1.0, np.isfinite(both).sum(axis=0) * least), np.nan)
        worst = np.where(np.isfinite(p), p, np.inf).argmin(axis=1) if p.shape[1] else np.zeros(len(p), dtype=int)
        by_cell = np.nan_to_num(cell, nan=np.inf) <= np.nan_to_num(energy, nan=np.inf)
        names = [str(c) for c in self.returns.columns]
        rule = [names[w] if c else "energy" for w, c in zip(worst, by_cell, strict=True)]
        table = {"p": total, "rule": rule, "energy": energy, "cell": cell, "anomaly": total < self.day_level}
        return pd.DataFrame(table, index=self.returns.index)

    def __str__(self) -> str:
        cells, days = self.cells, self.days
        marked = days[days["anomaly"]].sort_values("p")
        first, last = (f"{self.returns.index[i]:%Y-%m-%d}" for i in (0, -1))
        known = int(self.returns.notna().to_numpy().sum())
        lines = [
            f"{first} to {last}: {len(cells)} of {known} cells below {self.level:g}, "
            f"{len(marked)} of {len(days)} days below {self.day_level:g}."
        ]
        lines += [
            f"  {date:%Y-%m-%d}  {series:<12} {value:+9.2%}  p {p:.1e}  {rule}"
            for date, series, value, p, rule in cells[["date", "series", "return", "p", "rule"]].head(SHOWN).to_numpy()
        ]
        if len(cells) > SHOWN:
            lines.append(f"  and {len(cells) - SHOWN} more cells")
        lines += [
            f"  {date:%Y-%m-%d}  {'the day':<22}  p {p:.1e}  {rule}"
            for date, p, rule in marked[["p", "rule"]].head(SHOWN).reset_index().to_numpy()
        ]
        return "\n".join([*lines, *self.notes])

    def _stack(self) -> Array:
        return np.stack([self.rules[rule].to_numpy(dtype=float) for rule in RULES])


def anomaly_report(
    market: Market | MarketModel,
    returns: Panel | pd.DataFrame | pd.Series,
    *,
    start: When | None = None,
    end: When | None = None,
    refit: str | None = None,
    level: float = 1e-4,
    day_level: float = 1e-2,
    seed: int = 0,
) -> AnomalyReport:
    """Cells and days that are unlikely under a market.

    Args:
        market: a model, walked forward over a panel, every day judged by what was known the close before; or a fitted
            market of one date, which judges the next day.
        returns: the panel of a model. For a fitted market one row of decimal returns by name, or a frame whose last row
            is judged and whose earlier rows tell the stale rule what went before; a series it lacks is missing.
        start, end: the days judged by a model; by default all that have history enough.
        refit: as in `score`.
        level: cells of a smaller p are anomalies; with 500 cells a day 1e-4 is a false alarm in 20 days.
        day_level: the same of days.
        seed: of the draws behind what has no closed form.

    Raises:
        DataError: no day can be judged, or data that the model refuses; SpecError: a level outside (0, 1), or a panel
        given to a fitted market.

    Example:
        >>> report = anomaly_report(FactorEBM(), panel, start="2020-01-01")
        >>> print(report)                              # what, when, and by which rule
        >>> report.cells, report.days                  # the same as tables
    """
    for name, value in (("level", level), ("day_level", day_level)):
        if not 0.0 < value < 1.0:
            raise SpecError(f"{name}={value:g}: give a probability inside (0, 1).")
    if isinstance(market, MarketModel):
        if not isinstance(returns, Panel):
            raise SpecError("anomaly_report: a model is walked over a panel; Panel.from_returns(frame) makes one.")
        return _walked(market, returns, start, end, refit, (level, day_level), seed)
    if isinstance(returns, Panel) or start is not None or end is not None:
        raise SpecError(
            "anomaly_report: a fitted market judges one day, a row of returns; to walk over a panel give its model."
        )
    return _judged(market, returns, (level, day_level), seed)


def _walked(
    model: MarketModel, panel: Panel, start: When | None, end: When | None, refit: str | None,
    levels: tuple[float, float], seed: int,
) -> AnomalyReport:  # fmt: skip
    rows = scored(model, panel, start, end)
    parts: list[Tails] = []
    returns: list[Array] = []
    series: tuple[str, ...] = ()
    for at in range(0, len(rows), CHUNK):
        chunk = rows[at : at + CHUNK]
        market = model.fit_days(panel, chunk, refit=refit)
        r = realised(panel, market, chunk)
        dates = [str(panel.dates[row].astype("datetime64[D]")) for row in chunk]
        parts.append(tails(market, r, [generator(seed, f"{date}/anomaly") for date in dates]))
        returns.append(r.numpy())
        series = market.series
    found = Tails(*(torch.cat(each) for each in zip(*parts, strict=True)))
    past = np.concatenate([_all(panel, series)[: rows[0]], *returns])
    still = stale(past)[-len(rows) :]
    return _report(found, np.concatenate(returns), still, panel.dates[rows], series, levels)


def _all(panel: Panel, series: Sequence[str]) -> Array:
    """All returns of the series, (T, S): factors, then assets."""
    columns = [panel.factors.index(name) for name in series[: len(series) - len(panel.assets)]]
    return np.concatenate([panel.factor_returns[:, columns], panel.returns], axis=1)


def _judged(market: Market, returns: pd.DataFrame | pd.Series, levels: tuple[float, float], seed: int) -> AnomalyReport:
    if market.batch:
        raise SpecError(f"anomaly_report: this market has {market.batch[0]} dates; give that of one, or the model.")
    frame = returns.to_frame().T if isinstance(returns, pd.Series) else returns
    unknown = [str(name) for name in frame.columns if name not in market.series]
    if unknown or not len(frame):
        what = f"has no series {', '.join(unknown[:5])}" if unknown else "is given no row of returns"
        raise DataError(f"anomaly_report: the market {what}; it has {', '.join(market.series[:8])}.")
    values = frame.reindex(columns=list(market.series)).to_numpy(dtype=float)
    if np.isinf(values).any():
        name = market.series[int(np.argwhere(np.isinf(values))[0][1])]
        raise DataError(f"anomaly_report: {name} has an infinite return; a price of zero? Make it missing.")
    last = torch.from_numpy(values[-1:].copy())
    found = tails(market, last, [generator(seed, f"{frame.index[-1]}/anomaly")])
    return _report(found, values[-1:], stale(values)[-1:], frame.index[-1:], market.series, levels)


def _report(
    found: Tails, returns: Array, still: Array, dates: NDArray[np.datetime64] | pd.Index, series: Sequence[str],
    levels: tuple[float, float],
) -> AnomalyReport:  # fmt: skip
    index = pd.DatetimeIndex(dates, name="date")
    tables = dict(zip(RULES, (found.marginal.numpy(), found.conditional.numpy(), still), strict=True))
    notes = []
    if not np.isfinite(tables["conditional"]).any():
        notes.append("No conditional rule: this law has no closed form of one series given the others.")
    if not torch.isfinite(found.energy).any():
        notes.append("No energy rule: this law has no density.")
    return AnomalyReport(
        returns=pd.DataFrame(returns, index=index, columns=list(series)),
        rules={rule: pd.DataFrame(x, index=index, columns=list(series)) for rule, x in tables.items()},
        energy=pd.Series(found.energy.numpy(), index=index, name="energy"),
        level=levels[0],
        day_level=levels[1],
        notes=tuple(notes),
    )
