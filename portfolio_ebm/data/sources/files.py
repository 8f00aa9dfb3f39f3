"""Panels from the user's own files: CSV and parquet, wide or long, one by one or a folder of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import pandas as pd

from portfolio_ebm.data import assemble, long, saved
from portfolio_ebm.data.columns import ASSET, DATE, plain
from portfolio_ebm.data.membership import START
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.reading import ENDINGS, label_frame, read_cells, wide
from portfolio_ebm.data.sources.bundled import NOTES, bundled, data_folder
from portfolio_ebm.data.sources.folder import scan
from portfolio_ebm.errors import DataError

Source = str | Path | pd.DataFrame

FACTOR = ("factor", "series", "name", "asset", "ticker")


class Files(TypedDict, total=False):
    """What a panel may be read from besides prices, factors and groups; each a path, or a frame."""

    returns: Source | None
    volume: Source | None
    dividends: Source | None
    splits: Source | None
    membership: Source | None
    delistings: Source | Mapping[str, float] | pd.Series | None
    benchmark: Source | pd.Series | None
    benchmark_weights: Source | Mapping[str, Source] | None
    cash: Source | pd.Series | float | None
    cash_rate: Source | pd.Series | float | None
    forecasts: Mapping[str, Source] | None
    signals: Source | pd.Series | None
    market: str | None
    factors_are: Literal["prices", "returns"] | None
    benchmark_are: Literal["prices", "returns"] | None
    cash_are: Literal["returns", "annual_percent"] | None


def read_panel(
    prices: str | Path | None = None,
    factors: str | Path | None = None,
    groups: str | Path | None = None,
    **settings: Unpack[Files],
) -> Panel:
    """A panel from files; what is not given is bundled (no prices) or built (no factors for the user's own prices).

    Every file is CSV or parquet, and wide (dates in the first column, one name a column) or long (columns date, asset
    or ticker, and values). One long file may hold several things at once: close, volume, dividend, split, sector ...

    Args:
        prices: file of prices; or a folder with files of well-known names (prices.csv, volume.parquet, groups.csv,
            membership.csv, forecast-NAME.csv ...), or one that `Panel.save` wrote.
        factors: file of factor returns (decimal) or prices.
        groups: file of labels, assets in the first column, one grouping a column.
        settings: paths (or frames) of what else `Panel.from_prices` takes: returns, volume, dividends, splits,
            membership, delistings, benchmark (a path, or the name of a factor), benchmark_weights, cash, signals, and
            forecasts as {name: path}; and market, factors_are, benchmark_are, cash_are.

    Raises:
        DataError: a file that cannot be used as it is; the message names file, column, date and remedy.
        StoreError: a saved panel of which something is missing or was changed.

    Example:
        >>> read_panel(factors="data/factors.csv.gz", factors_are="prices").factors[0]
        'market'
    """
    own: dict[str, Any] = {"prices": prices, "factors": factors, "groups": groups, **settings}
    given = {name: item for name, item in own.items() if item is not None}
    if not given:
        return bundled()
    notes: list[str] = []
    if isinstance(prices, str | Path) and Path(prices).is_dir():
        folder = Path(given.pop("prices"))
        if saved.is_saved(folder):
            if given:
                raise DataError(
                    f"{folder}: a saved panel is whole, and {', '.join(sorted(given))} cannot be added to it; give "
                    "everything when the panel is made, and save that."
                )
            return Panel.load(folder)
        given = assemble.merge(scan(folder, notes), given, f"{folder}, what was given beside it")
    if "cash" in given:
        given = assemble.merge({"cash_rate": given.pop("cash")}, given, "cash")
    tail: tuple[str, ...] = ()
    if "prices" not in given and "returns" not in given:
        given, tail = _on_bundled_prices(given)
    panel = Panel(**assemble.from_pieces(_read_all(given, notes), notes))
    return replace(panel, notes=panel.notes + tail)


def _on_bundled_prices(given: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    folder = data_folder()
    out = {"groups": folder / "groups.csv"} | given | {"prices": folder / "stocks.csv.gz"}
    if "factors" in given:
        return out, NOTES[:1]
    return out | {"factors": folder / "factors.csv.gz", "factors_are": "prices"}, NOTES[:2]


def _read_all(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Every path as what `Panel.from_prices` takes; a long table of prices may bring more than prices."""
    out: dict[str, Any] = {}
    for name in sorted(given, key=lambda name: (name not in ("prices", "returns"), name)):
        item = given[name]
        read = READERS.get(name)
        if read is None or not _is_file(name, item):
            found = {name: _read_named(name, item) if name in ("forecasts", "benchmark_weights") else item}
        else:
            found = read(read_cells(item, name), name, notes)
        out = assemble.merge(out, found, f"{Path(item).name if isinstance(item, str | Path) else name}")
    return out


def _is_file(name: str, item: Any) -> bool:
    """A path; the benchmark may also be the name of a factor."""
    if isinstance(item, Path):
        return True
    return isinstance(item, str) and (name != "benchmark" or item.endswith(ENDINGS) or "/" in item)


def _read_named(name: str, given: Any) -> Any:
    """Paths by name as tables by name."""
    if not isinstance(given, Mapping):
        if isinstance(given, str | Path) and name == "forecasts":
            raise DataError("forecasts: got one path; give {'name': path}, so that a term can ask for one by name.")
        return given
    return {
        key: _table(read_cells(item, f"{name} '{key}'")) if isinstance(item, str | Path) else item
        for key, item in given.items()
    }


def _is_long(cells: pd.DataFrame) -> bool:
    return long.keys(cells, str(cells.attrs.get("source", "table"))) is not None


def _table(cells: pd.DataFrame) -> pd.DataFrame:
    return cells if _is_long(cells) else wide(cells)


def _main(cells: pd.DataFrame, name: str, notes: list[str]) -> dict[str, Any]:
    return long.pieces(cells, notes, name) if _is_long(cells) else {name: wide(cells)}


def _plain_table(cells: pd.DataFrame, name: str, notes: list[str]) -> dict[str, Any]:
    return {name: _table(cells)}


def _wide_only(cells: pd.DataFrame, name: str, notes: list[str]) -> dict[str, Any]:
    return {name: wide(cells)}


def _factors(cells: pd.DataFrame, name: str, notes: list[str]) -> dict[str, Any]:
    found = long.single(cells, "factors", ("return", "ret", "price", "close", *long.VALUES), FACTOR)
    return {name: wide(cells) if found is None else found}


def _groups(cells: pd.DataFrame, name: str, notes: list[str]) -> dict[str, Any]:
    if not _is_long(cells):
        return {name: label_frame(cells)}
    if cells.shape[1] < 3:
        raise DataError(
            f"{cells.attrs['source']}: a long table without a column of labels ({', '.join(long.LABELS[:4])} ...)."
        )
    return {name: cells}


def _membership(cells: pd.DataFrame, name: str, notes: list[str]) -> dict[str, Any]:
    named = {plain(column) for column in cells.columns}
    if named & set(ASSET) and named & {*START, *DATE}:
        return {name: cells}
    source = cells.attrs["source"]
    found = cells.set_index(cells.columns[0])
    found.attrs["source"] = source
    return {name: found}


def _as_is(cells: pd.DataFrame, name: str, notes: list[str]) -> dict[str, Any]:
    return {name: cells}


READERS: dict[str, Callable[[pd.DataFrame, str, list[str]], dict[str, Any]]] = {
    "prices": _main,
    "returns": _main,
    "volume": _plain_table,
    "dividends": _plain_table,
    "splits": _plain_table,
    "factors": _factors,
    "groups": _groups,
    "membership": _membership,
    "delistings": _as_is,
    "benchmark": _wide_only,
    "benchmark_weights": _plain_table,
    "cash_rate": _wide_only,
    "signals": _wide_only,
}
"""How the cells of each file become what `Panel.from_prices` takes by that name."""
