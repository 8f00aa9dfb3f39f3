"""Remake data/ from the installed packages skfolio and arch: `python scripts/make_data.py [--out DIR] [--check]`.

Deterministic: the same packages give the same bytes (gzip without a time stamp). Every table is checked before it is
written, and the block of data/README.md that lists the files is written too. `--check` writes nothing and fails where
data/ differs from what would be written. Needs: pip install skfolio arch (the extra `data`).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- files: written by scripts/make_data.py -->", "<!-- files: end -->"
MONTHS_NEEDED = 60
DAYS_A_MONTH = 21.0

SECTORS = {
    "AAPL": "Information Technology", "AMD": "Information Technology", "BAC": "Financials",
    "BBY": "Consumer Discretionary", "CVX": "Energy", "GE": "Industrials", "HD": "Consumer Discretionary",
    "JNJ": "Health Care", "JPM": "Financials", "KO": "Consumer Staples", "LLY": "Health Care", "MRK": "Health Care",
    "MSFT": "Information Technology", "PEP": "Consumer Staples", "PFE": "Health Care", "PG": "Consumer Staples",
    "RRC": "Energy", "UNH": "Health Care", "WMT": "Consumer Staples", "XOM": "Energy",
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One file of data/: its text, and what the README says of it."""

    name: str
    text: str
    source: str
    checks: str

    @property
    def packed(self) -> bytes:
        raw = self.text.encode()
        return gzip.compress(raw, compresslevel=9, mtime=0) if self.name.endswith(".gz") else raw


def package_table(package: str, *parts: str) -> pd.DataFrame:
    """A gzipped CSV inside an installed package, cells as text."""
    raw = resources.files(package).joinpath(*parts).read_bytes()
    return pd.read_csv(io.BytesIO(gzip.decompress(raw)), dtype=str, keep_default_na=False)


def numbers(table: pd.DataFrame, rows: int, columns: list[str]) -> pd.DataFrame:
    """Dates as index and floats, after the shape and the cells were checked."""
    frame = table.set_index(table.columns[0]).astype(float)
    frame.index = pd.DatetimeIndex(pd.to_datetime(frame.index, format="%Y-%m-%d"), name="Date")
    require(frame.shape == (rows, len(columns)), f"shape {frame.shape}, expected {(rows, len(columns))}")
    require(list(frame.columns) == columns, f"columns {list(frame.columns)}, expected {columns}")
    require(frame.index.is_monotonic_increasing and frame.index.is_unique, "dates unsorted or repeated")
    require(
        bool(np.isfinite(frame.to_numpy()).all() and (frame.to_numpy() > 0).all()), "a price is missing or not above 0"
    )
    return frame


def require(fact: bool, otherwise: str) -> None:
    """Stop where a fact about the sources no longer holds: the packages changed, look before you write."""
    if not fact:
        raise SystemExit(
            f"make_data: {otherwise}; the installed skfolio or arch has other data than data/README.md tells of."
        )


def close(got: float, expected: float, tolerance: float, what: str) -> None:
    require(abs(got - expected) <= tolerance, f"{what} is {got:.4f}, expected {expected} +- {tolerance}")


def dividend_gap(index: pd.Series, french: pd.DataFrame) -> pd.Series:
    """The monthly dividend gap known during each month, decimal; NaN before 60 months of it.

    gap_m = (Mkt-RF + RF)_m - price return of the index in month m; known in month m: the mean of gap up to month m-2,
    for the library comes out some weeks after a month's end. After the library's last month the mean stands.
    """
    close_of_month = index.groupby(index.index.to_period("M")).last()
    price_return = close_of_month.pct_change().iloc[1:]
    total_return = (french["Mkt-RF"] + french["RF"]) / 100.0
    gap = (total_return - price_return).dropna()
    require(
        str(gap.index[0]) == "1990-02" and str(gap.index[-1]) == "2018-11" and len(gap) == 346,
        "the months of the gap changed",
    )
    mean = gap.expanding(MONTHS_NEEDED).mean()
    return mean.reindex(close_of_month.index).ffill().shift(2)


def market_level(index: pd.Series, french: pd.DataFrame) -> pd.Series:
    """The total-return stand-in, 100 on the last date before its first return."""
    known = dividend_gap(index, french)
    daily = index.pct_change() + known.reindex(index.index.to_period("M")).to_numpy() / DAYS_A_MONTH
    level = 100.0 * (1.0 + daily.dropna()).cumprod()
    base = index.index[index.index.get_loc(level.index[0]) - 1]
    return pd.concat([pd.Series([100.0], index=[base]), level]).rename("market")


def make_stocks() -> Made:
    table = package_table("skfolio.datasets", "data", "sp500_dataset.csv.gz")
    prices = numbers(table, 8313, sorted(SECTORS))
    move = prices.pct_change().abs().max()
    require(float(move.max()) < 0.7, f"{move.idxmax()} moves {move.max():.0%} in a day")
    checks = "no blank, all above 0, dates increasing, no day beyond 70%"
    return Made("stocks.csv.gz", table.to_csv(index=False, lineterminator="\n"), "skfolio sp500_dataset", checks)


def make_index() -> Made:
    table = package_table("skfolio.datasets", "data", "sp500_index.csv.gz")
    index = numbers(table, 8313, ["SP500"])["SP500"]
    years = index.groupby(index.index.year).last().pct_change()
    close(float(years[2019]), 0.2888, 0.0005, "S&P 500 price return of 2019")
    close(float(years[2008]), -0.3849, 0.0005, "S&P 500 price return of 2008")
    checks = "2019 +28.88%, 2008 -38.49%: the price index (with dividends: +31.49%, -37.00%)"
    return Made("index.csv.gz", table.to_csv(index=False, lineterminator="\n"), "skfolio sp500_index", checks)


def make_factors() -> Made:
    names = ["MTUM", "QUAL", "SIZE", "USMV", "VLUE"]
    table = package_table("skfolio.datasets", "data", "factors_dataset.csv.gz")
    etfs = numbers(table, 2264, names)
    index = numbers(package_table("skfolio.datasets", "data", "sp500_index.csv.gz"), 8313, ["SP500"])["SP500"]
    require(etfs.index.isin(index.index).all(), "an ETF date is no date of the index")
    french = package_table("arch.data", "frenchdata", "frenchdata.csv.gz")
    french = french.set_index(pd.PeriodIndex([f"{m[:4]}-{m[4:]}" for m in french["Date"]], freq="M")).drop(
        columns="Date"
    )
    close(float(french.loc["1987-10", "Mkt-RF"]), -23.24, 0.15, "French Mkt-RF of October 1987")
    level = market_level(index, french.astype(float))
    excess = (level.pct_change() - index.pct_change()).dropna()
    close(float(excess.loc["2014":"2018"].mean()) * 252, 0.0239, 0.001, "yearly dividend gap of 2014 to 2018")
    close(float(excess.loc["2019":].mean()) * 252, 0.0237, 0.0005, "yearly dividend gap from 2019 on")
    tidy = table.set_index("Date")
    rows = pd.DataFrame(
        {"market": [f"{item:.6f}" for item in level]}, index=level.index.strftime("%Y-%m-%d").rename("Date")
    )
    joined = rows.join(tidy).fillna("")
    require(len(joined) == len(level) and (joined["MTUM"] != "").sum() == len(etfs), "ETF rows lost on the way")
    checks = "ETFs: no blank from 2014-01-02 on, all above 0; market: gap 2.4% a year in 2014-2022"
    return Made(
        "factors.csv.gz", joined.to_csv(lineterminator="\n"), "skfolio factors_dataset; market: see below", checks
    )


def make_vix() -> Made:
    table = package_table("arch.data", "vix", "vix.csv.gz")
    table = table[table["vix"] != "."]  # holidays
    dates = pd.to_datetime(table["Date"], format="%m/%d/%Y").dt.strftime("%Y-%m-%d")
    require(len(table) == 1259 and dates.is_monotonic_increasing and dates.is_unique, "VIX rows changed")
    level = pd.Series(table["vix"].astype(float).to_numpy(), index=dates)
    close(float(level["2018-02-05"]), 37.32, 0.005, "VIX of 2018-02-05")
    close(float(level["2015-08-24"]), 40.74, 0.005, "VIX of 2015-08-24")
    text = pd.DataFrame({"Date": dates.to_numpy(), "vix": table["vix"].to_numpy()}).to_csv(
        index=False, lineterminator="\n"
    )
    return Made("vix.csv.gz", text, "arch vix", "46 holidays ('.') left out; 2018-02-05 37.32, 2015-08-24 40.74")


def make_groups() -> Made:
    text = "asset,sector\n" + "".join(f"{name},{sector}\n" for name, sector in sorted(SECTORS.items()))
    return Made("groups.csv", text, "written by hand", "all 20 names of stocks.csv.gz")


MAKERS: tuple[Callable[[], Made], ...] = (make_stocks, make_factors, make_index, make_vix, make_groups)


def listing(files: list[Made]) -> str:
    """The README's table: what is in each file and the SHA-256 of its text (unpacked: gzip differs by version)."""
    lines = [
        f"Made from skfolio {metadata.version('skfolio')} and arch {metadata.version('arch')}.",
        "",
        "| file | from | first | last | rows x columns | checks | SHA-256 of the unpacked text |",
        "|---|---|---|---|---|---|---|",
    ]
    for made in files:
        rows = list(csv.reader(made.text.splitlines()))
        dated = made.name != "groups.csv"
        first, last = (rows[1][0], rows[-1][0]) if dated else ("-", "-")
        digest = hashlib.sha256(made.text.encode()).hexdigest()
        shape = f"{len(rows) - 1} x {len(rows[0]) - 1}"
        lines.append(f"| {made.name} | {made.source} | {first} | {last} | {shape} | {made.checks} | `{digest}` |")
    return "\n".join([BEGIN, *lines, END])


def unpacked(path: Path) -> str | None:
    """The text of a file of data/, or None where there is none."""
    if not path.exists():
        return None
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()


def readme(path: Path, files: list[Made]) -> str:
    """data/README.md with its listing renewed."""
    text = path.read_text() if path.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    return before + listing(files) + rest.partition(END)[2]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Remake data/ from the installed packages skfolio and arch.")
    parser.add_argument("--out", type=Path, default=ROOT / "data", help="folder to write to (default: data/)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the folder differs")
    options = parser.parse_args(arguments)
    files = [make() for make in MAKERS]
    told = readme(ROOT / "data" / "README.md", files)
    stale = [made.name for made in files if unpacked(options.out / made.name) != made.text]
    if unpacked(options.out / "README.md") != told:
        stale.append("README.md")
    if options.check:
        print(f"differs: {', '.join(stale)}" if stale else f"{options.out}: as made from the installed packages")
        return 1 if stale else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for made in files:
        if made.name in stale:  # an equal file keeps its bytes, whatever zlib packed them
            (options.out / made.name).write_bytes(made.packed)
    (options.out / "README.md").write_text(told)
    print(f"{options.out}: wrote {', '.join(stale) or 'nothing, all up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
