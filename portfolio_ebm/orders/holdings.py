"""Holdings as people keep them: a CSV file with a ticker and a number of shares on each line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from portfolio_ebm.errors import DataError


def read_holdings(path: str | Path) -> pd.Series[float]:
    """Shares by ticker from a CSV file with the columns ticker, shares; other columns are left alone.

    Raises:
        DataError: no such file, other columns, a ticker twice, or shares that are no number; names the line.

    Example:
        >>> Path("holdings.csv").write_text("ticker,shares\\nAAPL,12\\nKO,40\\n")
        >>> read_holdings("holdings.csv")["KO"]
        40.0
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such holdings file; write a CSV with the columns ticker,shares.")
    try:
        frame = pd.read_csv(path, dtype=str, skipinitialspace=True, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise DataError(f"{path}: not a CSV file; its columns are ticker,shares.") from None
    frame.columns = pd.Index([str(name).strip().lower() for name in frame.columns])
    for name in ("ticker", "shares"):
        if name not in frame.columns:
            raise DataError(f"{path}: no column '{name}' among {', '.join(frame.columns)}; it takes ticker,shares.")
    tickers = frame["ticker"].fillna("").str.strip()
    shares = pd.to_numeric(frame["shares"], errors="coerce").to_numpy(dtype=float)
    for row, (ticker, number) in enumerate(zip(tickers, shares, strict=True), start=2):
        if not ticker:
            raise DataError(f"{path}, line {row}: no ticker; every line is ticker,shares.")
        if not np.isfinite(number):
            raise DataError(f"{path}, line {row}: the shares of {ticker} are not a number; write 12 or 12.5.")
    if tickers.duplicated().any():
        raise DataError(f"{path}: {tickers[tickers.duplicated()].iloc[0]} is there twice; add its shares up.")
    return pd.Series(shares, index=pd.Index(tickers), dtype=float)
