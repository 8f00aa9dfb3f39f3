"""The data of the evidence: any CSV of daily factor returns, by default the French factors of ../shared, and 20 stocks.

Only complete rows are used. A percent file is refused with a sentence; a risk-free column is left out of the factors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.clean import check_returns, table
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.reading import read_cells, read_wide
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FRENCH = "french/ff5_mom_daily_1963_2019.csv.gz"
STOCKS = "stocks/us_stocks_ret_2000_2020.parquet"
VIX = "regimes/vix_daily_1990_2019.csv.gz"
RISK_FREE = ("rf", "risk-free", "risk_free", "riskfree")
MARKETS = ("mkt-rf", "mkt_rf", "mktrf", "mkt", "market")
FEWEST = 1000
"""Days of history before the first test day: the longest window of a baseline."""


class Absent(Exception):
    """A file of ../shared that is not there."""


@dataclass(frozen=True)
class Data:
    """Decimal returns of complete days.

    Attributes:
        source: the file's name.
        factors: dates x factors; the market first.
        stocks: dates x assets on the same dates, or None.
        cash: the risk-free return a day, or None.
        vix: known at each close, or None.
        notes: what was decided on the way.
    """

    source: str
    factors: pd.DataFrame
    stocks: pd.DataFrame | None = None
    cash: pd.Series | None = None
    vix: pd.Series | None = None
    notes: tuple[str, ...] = ()

    @property
    def market(self) -> str:
        return str(self.factors.columns[0])

    @property
    def everything(self) -> pd.DataFrame:
        """Factors, then stocks."""
        return self.factors if self.stocks is None else pd.concat([self.factors, self.stocks], axis=1)

    def panel(self) -> Panel:
        """The same as a Panel, for models of the package."""
        days = len(self.factors)
        cash = np.zeros(days) if self.cash is None else self.cash.to_numpy(dtype=float)
        assets = np.empty((days, 0)) if self.stocks is None else self.stocks.to_numpy(dtype=float)
        return Panel(
            dates=self.factors.index.to_numpy().astype("datetime64[ns]"),
            assets=() if self.stocks is None else tuple(map(str, self.stocks.columns)),
            returns=assets,
            tradeable=np.ones(assets.shape, dtype=bool),
            cash_rate=cash,
            factors=tuple(map(str, self.factors.columns)),
            factor_returns=self.factors.to_numpy(dtype=float),
            market=self.market,
        )

    def until(self, end: str | None) -> Data:
        """The same data as if they had ended on `end`."""
        cut = None if end is None else pd.Timestamp(end)
        series = {name: getattr(self, name) for name in ("factors", "stocks", "cash", "vix")}
        return replace(self, **{name: None if x is None else x.loc[:cut] for name, x in series.items()})

    def row(self, start: str) -> int:
        """The first row on or after `start`.

        Raises:
            DataError: too little history before it, or no day after it.
        """
        dates = self.factors.index
        found = int(dates.searchsorted(pd.Timestamp(start)))
        if found < FEWEST:
            first = dates[FEWEST].date() if len(dates) > FEWEST else None
            hint = f"test from {first} on" if first else "bring a longer file"
            raise DataError(
                f"{self.source}: {found} complete days lie before {start} and the baselines need {FEWEST}; {hint}."
            )
        if found >= len(dates) - 63:
            raise DataError(f"{self.source}: ends {dates[-1].date()}, fewer than 63 days after {start}; test earlier.")
        return found


def read_factors(path: str | Path) -> Data:
    """A file of daily factor returns: dates in the first column, then one column a factor, decimal.

    Raises:
        DataError: not readable, percent in place of decimals, or fewer than two factors.

    Example:
        >>> read_factors("my_factors.csv").factors.tail()
    """
    name = Path(path).name
    found = table(read_wide(path, "factors"), name)
    check_returns(found)
    frame = pd.DataFrame(found.values, index=pd.DatetimeIndex(found.dates, name="date"), columns=list(found.columns))
    notes = []
    free = [c for c in frame.columns if c.lower() in RISK_FREE]
    cash = frame[free[0]] if free else None
    frame = frame.drop(columns=free)
    if free:
        notes.append(f"column {free[0]} is the risk-free return and no factor")
    whole = frame.notna().all(axis=1)
    if not whole.all():
        notes.append(f"{int((~whole).sum())} of {len(frame)} days are left out: a factor is missing there")
    frame = frame[whole]
    if frame.shape[1] < 2 or not len(frame):
        raise DataError(f"{name}: {frame.shape[1]} factors on {len(frame)} complete days; two factors are the least.")
    market = next((c for c in frame.columns if c.lower() in MARKETS), frame.columns[0])
    frame = frame[[market, *(c for c in frame.columns if c != market)]]
    kept = None if cash is None else cash.reindex(frame.index).fillna(0.0)
    return Data(name, frame, cash=kept, vix=_vix(frame.index), notes=tuple(notes))


def french() -> Data:
    """The six daily factors of ../shared.

    Raises:
        Absent: ../shared is not there.
    """
    return read_factors(_shared(FRENCH))


def with_stocks(data: Data, count: int = 20) -> Data:
    """The same factors beside `count` stocks: of the names without a blank on the shared days, evenly through the
    alphabet, which looks at no return.

    Raises:
        Absent: ../shared is not there; DataError: no `count` names with full history.
    """
    cells = read_cells(_shared(STOCKS), "stocks")
    frame = cells.set_index(cells.columns[0]) if not isinstance(cells.index, pd.DatetimeIndex) else cells
    frame.index = pd.DatetimeIndex(frame.index, name="date")
    dates = data.factors.index.intersection(frame.index)
    whole = sorted(c for c in frame.columns if frame.loc[dates, c].notna().all())
    if len(whole) < count or len(dates) < 2 * FEWEST:
        raise DataError(
            f"{STOCKS}: {len(whole)} names without a blank on {len(dates)} shared days; {count} are needed."
        )
    names = [whole[i * len(whole) // count] for i in range(count)]
    note = f"{count} of {len(whole)} stocks without a blank from {dates[0].date()}: {', '.join(names)}"
    return Data(
        source=f"{data.source} and {Path(STOCKS).name}",
        factors=data.factors.loc[dates],
        stocks=frame.loc[dates, names].astype(float),
        cash=None if data.cash is None else data.cash.loc[dates],
        vix=None if data.vix is None else data.vix.loc[dates],
        notes=(note,),
    )


def _vix(dates: pd.DatetimeIndex) -> pd.Series | None:
    """The VIX at each close, or None where ../shared is absent or holds little of these dates."""
    path = SHARED / VIX
    if not path.exists():
        return None
    series = pd.read_csv(path, index_col=0, parse_dates=True).iloc[:, 0].astype(float)
    found = series.reindex(dates, method="ffill", limit=5)
    return found if found.notna().any() else None


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        raise Absent(
            f"{path} is not there: the default data are the daily French factors in ../shared/data beside the "
            "repository. Give your own with --factors FILE.csv --test-from DATE (daily decimal returns)."
        )
    return path
