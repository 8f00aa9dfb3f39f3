"""Our models as the same frames that the baselines give: `score` for all columns that it has, and two more kinds.

The density of one series alone is the joint one with all other series integrated out (`log_prob` at NaN), which needs
factors taken as they are; tails of portfolios come from 4,000 joint draws a day, one stream a date.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.market.simulate import tails_of_draws
from benchmarks.market.walk import portfolio_name
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.market.base import Market, MarketModel
from portfolio_ebm.market.score import score
from portfolio_ebm.types import generator

Array = NDArray[np.float64]
DRAWS = 4000
CHUNK = 63


def forecasts(model: MarketModel, panel: Panel, first: int, stop: int, portfolios: Array | None) -> pd.DataFrame:
    """The frame of `model` for rows [first, stop), trained at year ends."""
    frame = score(model, panel, start=first, end=stop - 1, refit="YE")
    parts = []
    for year in np.unique(frame.index.year):
        rows = [first + int(i) for i in np.flatnonzero(frame.index.year == year)]
        market = model.fit_days(panel, rows, refit="YE")
        columns = {}
        if market.exact:
            columns |= _single(market, panel, rows)
        if portfolios is not None:
            columns |= _portfolios(market, panel, rows, torch.from_numpy(portfolios))
        parts.append(pd.DataFrame(columns, index=pd.DatetimeIndex(panel.dates[rows])))
    return frame.join(pd.concat(parts))


def densities(model: MarketModel, panel: Panel, first: int, stop: int) -> pd.DataFrame:
    """The joint log scores of `model` alone, for rows [first, stop), trained at year ends."""
    dates = pd.DatetimeIndex(panel.dates[first:stop])
    parts = []
    for year in np.unique(dates.year):
        rows = [first + int(i) for i in np.flatnonzero(dates.year == year)]
        market = model.fit_days(panel, rows, refit="YE")
        columns = [panel.factors.index(name) for name in market.factors]
        both = np.concatenate([panel.factor_returns[rows][:, columns], panel.returns[rows]], axis=1)
        parts.append(market.log_prob(torch.from_numpy(both)).numpy())
    return pd.DataFrame({"log_score": np.concatenate(parts)}, index=dates)


def _single(market: Market, panel: Panel, rows: list[int]) -> dict[str, Array]:
    """Log densities of each series alone."""
    columns = [panel.factors.index(name) for name in market.factors]
    both = np.concatenate([panel.factor_returns[rows][:, columns], panel.returns[rows]], axis=1)
    size = both.shape[1]
    alone = np.where(np.eye(size, dtype=bool), both[:, None, :], np.nan)
    value = market.log_prob(torch.from_numpy(alone)).numpy()
    return {f"log:{name}": value[:, i] for i, name in enumerate(market.series)}


def _portfolios(market: Market, panel: Panel, rows: list[int], weights: torch.Tensor) -> dict[str, Array]:
    dates = [str(panel.dates[row].astype("datetime64[D]")) for row in rows]
    drawn = market.sample(DRAWS, [generator(0, f"{date}/portfolios") for date in dates]).numpy()
    chunks = [tails_of_draws(drawn[i : i + CHUNK], weights.numpy()) for i in range(0, len(rows), CHUNK)]
    whole = {what: np.concatenate([part[what] for part in chunks]) for what in chunks[0]}
    return {f"{what}:{portfolio_name(p)}": table[:, p] for what, table in whole.items() for p in range(table.shape[1])}
