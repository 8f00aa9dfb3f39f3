"""What the doctor examines when it is given a path: a file, or a folder with what belongs together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from portfolio_ebm.data import saved
from portfolio_ebm.data.align import gap_returns
from portfolio_ebm.data.doctor.rough import read_rough
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.sources.files import read_panel
from portfolio_ebm.data.sources.folder import scan


@dataclass(frozen=True)
class Gathered:
    """A table of prices or returns as it is written, and what is beside it.

    Attributes:
        what: "prices" or "returns"; None where the numbers have to say it.
        beside: volume, dividends, as `examine` takes them.
        forecasts: by name.
    """

    frame: pd.DataFrame
    what: str | None = None
    beside: dict[str, pd.DataFrame] = field(default_factory=dict)
    forecasts: dict[str, pd.DataFrame] = field(default_factory=dict)


def gather(path: str | Path) -> Gathered:
    """The file as it is; of a folder its prices (or returns), volume, dividends and forecasts.

    Prices as traded jump at every split: a folder with splits, or a saved panel with actions in its returns, is
    examined by its total returns.

    Raises:
        DataError: as `read_rough`, and a folder without prices and returns.
        StoreError: a saved panel that is not whole.
    """
    folder = Path(path)
    if not folder.is_dir():
        return Gathered(read_rough(folder))
    if saved.is_saved(folder):
        return _of(Panel.load(folder), folder.name)
    there = scan(folder, [])
    if "splits" in there:
        return _of(read_panel(folder), folder.name)
    what = "prices" if "prices" in there else "returns"
    beside: dict[str, pd.DataFrame] = {}
    for name in ("volume", "dividends"):
        if name in there:
            beside[name] = read_rough(there[name], name)
    forecasts = {name: read_rough(item, f"forecast '{name}'") for name, item in there.get("forecasts", {}).items()}
    return Gathered(read_rough(there[what], what), what, beside, forecasts)


def _of(panel: Panel, source: str) -> Gathered:
    plain = panel.prices is not None and np.array_equal(gap_returns(panel.prices), panel.returns, equal_nan=True)

    def frame(values: Any) -> pd.DataFrame:
        made = pd.DataFrame(values, pd.DatetimeIndex(panel.dates), list(panel.assets)).rename_axis("date").reset_index()
        made.attrs["source"] = source
        return made

    beside = {} if panel.volume is None else {"volume": frame(panel.volume)}
    forecasts = {name: frame(item) for name, item in panel.forecasts.items()}
    if plain:
        return Gathered(frame(panel.prices), "prices", beside, forecasts)
    return Gathered(frame(panel.returns), "returns", beside, forecasts)
