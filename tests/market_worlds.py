"""Small made-up markets with known laws, for the tests of the market room."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from portfolio_ebm.data.past import Past


def world(periods: int = 420, assets: int = 4, seed: int = 0, start: str = "2015-01-01", **changes: Any) -> Past:
    """Business days of a market with one common and two style factors, t-distributed, volatility moving."""
    rng = np.random.default_rng(seed)
    dates = np.arange(np.datetime64(start), np.datetime64(start) + 2 * periods + 20)
    days = dates[np.is_busday(dates)][:periods].astype("datetime64[ns]")
    wave = np.exp(0.4 * np.sin(np.arange(periods) / 40))[:, None]
    style = 0.004 * wave * rng.standard_t(6, (periods, 2))
    market = 0.0004 + 0.009 * wave * rng.standard_t(6, (periods, 1))
    factors = np.concatenate([market, 0.9 * market + style[:, :1], 1.1 * market + style[:, 1:]], axis=1)
    beta = np.linspace(0.7, 1.3, assets)
    own = 0.01 * rng.standard_t(5, (periods, assets)) + 0.005 * rng.standard_normal((periods, 1))
    past = Past(
        dates=days,
        assets=tuple(f"A{i}" for i in range(assets)),
        returns=np.clip(market * beta + style[:, :1] * np.linspace(-0.5, 0.5, assets) + own, -0.5, 0.5),
        factors=("market", "value", "size"),
        factor_returns=factors,
        market="market",
        tradeable=np.ones(assets, dtype=bool),
        prices=None,
    )
    return replace(past, **changes)


def cut(past: Past, periods: int) -> Past:
    """The same past, ended after `periods` rows."""
    return replace(
        past,
        dates=past.dates[:periods],
        returns=past.returns[:periods],
        factor_returns=past.factor_returns[:periods],
    )
