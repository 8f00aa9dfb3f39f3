"""The bundled panel.

The bundled data are small extracts of public data sets, described file by file in data/README.md: 20 large US stocks
that survived to 2022, five factor ETFs, a total-return stand-in for the market, the S&P 500 without dividends, the VIX.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.reading import read_labels, read_wide
from portfolio_ebm.errors import DataError

HOME = "PORTFOLIO_EBM_DATA"
"""Environment variable that names another folder with the bundled files."""

FILES = ("stocks.csv.gz", "factors.csv.gz", "index.csv.gz", "vix.csv.gz", "groups.csv")

NOTES = (
    "The 20 stocks were chosen in hindsight, large names with prices from 1990 to 2022: they flatter any strategy.",
    "Factor 'market' is the S&P 500 price return plus a dividend gap estimated from earlier months only: 3.5% a year "
    "in 1995, about 2.4% from 2014 on, some 0.4 points more than was paid; see data/README.md.",
    "The benchmark 'SP500 price only' has no dividends; it lags the true index by about 2% a year.",
)


def data_folder() -> Path:
    """The folder of the bundled files: $PORTFOLIO_EBM_DATA, or data/ in the repository.

    Raises:
        DataError: it is not there; the message says what to do.
    """
    named = os.environ.get(HOME)
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "data"
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: the bundled data are not there ({', '.join(missing)}). Work from a clone of the repository "
            f"(pip install -e .), set {HOME} to its data folder, or give your own with --prices."
        )
    return folder


def bundled() -> Panel:
    """The bundled panel: 20 US stocks 1990-2022 with factors, sectors, benchmark and VIX.

    Factors are raw total returns (market from March 1995, MTUM QUAL SIZE USMV VLUE from January 2014); a strategy that
    wants them beside the market takes the market's share out itself. `describe()` says what to beware of.

    Raises:
        DataError: the files are not there or not what they should be.

    Example:
        >>> bundled()
        <Panel 8313 dates 1990-01-02 to 2022-12-28, 20 assets, factors market, MTUM, QUAL, SIZE, USMV, VLUE>
    """
    folder = data_folder()
    index = read_wide(folder / "index.csv.gz", "index")
    panel = Panel.from_prices(
        read_wide(folder / "stocks.csv.gz"),
        factors=read_wide(folder / "factors.csv.gz", "factors"),
        factors_are="prices",
        market="market",
        groups=read_labels(folder / "groups.csv"),
        benchmark=index.rename(columns={"SP500": "SP500 price only"}),
        benchmark_are="prices",
        signals=read_wide(folder / "vix.csv.gz", "signals"),
    )
    return replace(panel, notes=panel.notes + NOTES)
