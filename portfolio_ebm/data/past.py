"""Past: the panel cut at a date t, read-only. A model receives a Past; the future is not in the room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.align import last_prices
from portfolio_ebm.data.calendar import periods_per_year
from portfolio_ebm.data.frozen import frozen

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Past:
    """What was known at the close of `dates[-1]`.

    Attributes:
        dates: datetime64[ns], (T,), strictly increasing; the last one is t.
        assets: names of the n assets.
        returns: simple returns over the period ending at each date, (T, n); NaN where not observed.
        factors: names of the K factor series; empty when none were given.
        factor_returns: (T, K), NaN where not observed.
        market: which factor is the market, by name, or None where none is named.
        tradeable: bool (n,): names with a price at t that are members at t (all are, where no membership was given).
        prices: last known prices at t, (n,), or None when the panel was made from returns.
        price_history: prices as given, (T, n), NaN where there was none; None when the panel was made from returns.
            Prices as traded jump at splits, which `returns` do not.
        spellings: by grouping with dates, every label of the panel, also those that nobody has yet: hindsight, read for
            one thing, to tell a label that is yet to come from one that is misspelt.
        groups: labels per grouping as they stood at t, one label an asset.
        volume: (T, n) or None.
        cash_rate: (T,) simple return of cash over the period, zeros when none was given.
        benchmark: (T,) benchmark returns or None.
        forecasts: by name, (T, n) point-in-time forecasts.
        periods_per_year: 252, 52, 12, ... inferred from these dates alone.
        signals: by name, (T,) series known at each close that are no returns ("vix"), NaN where not observed.
        leaving: bool (n,): names with a price at t that are no members at t: what is held of them is to be sold.
        benchmark_weights: by name, (T, n) weights that stood at each date, NaN before the first were known.
    """

    dates: NDArray[np.datetime64]
    assets: tuple[str, ...]
    returns: Array
    factors: tuple[str, ...]
    factor_returns: Array
    market: str | None
    tradeable: Mask
    prices: Array | None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    volume: Array | None = None
    cash_rate: Array | None = None
    benchmark: Array | None = None
    forecasts: Mapping[str, Array] = field(default_factory=dict)
    periods_per_year: float = 252.0
    signals: Mapping[str, Array] = field(default_factory=dict)
    leaving: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))
    benchmark_weights: Mapping[str, Array] = field(default_factory=dict)
    price_history: Array | None = None
    spellings: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.leaving.size:
            nobody = np.zeros(len(self.assets), dtype=bool)
            nobody.flags.writeable = False
            object.__setattr__(self, "leaving", nobody)

    @property
    def date(self) -> str:
        """t as YYYY-MM-DD, for messages."""
        return str(self.dates[-1].astype("datetime64[D]"))

    def __len__(self) -> int:
        return len(self.dates)

    def until(self, row: int) -> Past:
        """What was known at the close of an earlier row; groups and membership are not remembered and stay as they
        are; a name with a price at that row is tradeable.

        Example:
            >>> past.until(len(past) - 22)
        """
        end = row + 1
        seen = self.returns if self.price_history is None else self.price_history

        def cut(item: Array | None) -> Array | None:
            return None if item is None else item[:end]

        return replace(
            self, dates=self.dates[:end], returns=self.returns[:end], factor_returns=self.factor_returns[:end],
            tradeable=frozen(np.isfinite(seen[row])), leaving=frozen(np.zeros(len(self.assets), dtype=bool)),
            prices=None if self.price_history is None else frozen(last_prices(self.price_history[:end])),
            volume=cut(self.volume), cash_rate=cut(self.cash_rate), benchmark=cut(self.benchmark),
            price_history=cut(self.price_history), periods_per_year=periods_per_year(self.dates[:end]),
            forecasts={name: item[:end] for name, item in self.forecasts.items()},
            signals={name: item[:end] for name, item in self.signals.items()},
            benchmark_weights={name: item[:end] for name, item in self.benchmark_weights.items()},
        )  # fmt: skip
