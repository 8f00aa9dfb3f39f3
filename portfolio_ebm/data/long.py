"""Long tables (one row a date and name) to wide ones (dates down, names across).

    date,ticker,close,volume,sector      ->      prices, volume: dates x names; groups: sector by name

The columns say what they hold by name: close is a price, ret a return, div a dividend. A pair of date and name is
there once, or it is an error with both rows. Rows may come in any order: dates and names are sorted, so that two
orders of the same rows are the same panel. Pairs that are not there are blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.columns import ASSET, DATE, asset_names, column, flat, plain
from portfolio_ebm.data.dates import day, is_none, stamps
from portfolio_ebm.data.reading import numbers
from portfolio_ebm.errors import DataError

ADJUSTED = ("adj_close", "adjclose", "adjusted_close", "adj_price")
ROLES: dict[str, tuple[str, ...]] = {
    "prices": ("price", "prices", "close", "prc", *ADJUSTED),
    "returns": ("return", "returns", "ret", "total_return"),
    "volume": ("volume", "vol", "shares_traded"),
    "dividends": ("dividend", "dividends", "div", "cash_dividend"),
    "splits": ("split", "splits", "split_ratio", "stock_splits"),
}
"""What a panel takes from a long table, and the names of columns that hold it."""

LABELS = ("sector", "industry", "subindustry", "issuer", "country", "region", "currency", "exchange", "group")
"""Names of columns that hold labels."""

VALUES = ("value", "forecast", "alpha", "score")
"""Names of the one column of values of a table that is none of these."""

MOST_CELLS = 400_000_000


@dataclass(frozen=True)
class Long:
    """A long table with its keys read: row i speaks of `dates[when[i]]` and `assets[who[i]]`."""

    source: str
    dates: NDArray[np.datetime64]
    assets: tuple[str, ...]
    when: NDArray[np.intp]
    who: NDArray[np.intp]
    values: pd.DataFrame

    def wide(self, name: str) -> pd.DataFrame:
        """A column of numbers as dates x names."""
        found = np.full((len(self.dates), len(self.assets)), np.nan)
        found[self.when, self.who] = numbers(self.values[name], self.source)
        some = np.flatnonzero(~np.isnan(found).all(axis=0))
        frame = pd.DataFrame(
            found[:, some], pd.DatetimeIndex(self.dates, name="date"), [self.assets[k] for k in some.tolist()]
        )
        frame.attrs["source"] = self.source
        return frame


def keys(cells: pd.DataFrame, source: str, names: Sequence[str] = ASSET) -> tuple[str, str] | None:
    """The date column and the column of names of a long table; None for a table that is not long.

    Raises:
        DataError: two columns that could be either.
    """
    if not {plain(name) for name in cells.columns} & set(names):
        return None
    date = column(cells, DATE, source, "date")
    asset = column(cells, names, source, "name of the asset")
    return None if date is None or asset is None else (date, asset)


def melt(cells: pd.DataFrame, pair: tuple[str, str], source: str) -> Long:
    """The long table in `cells`.

    Raises:
        DataError: a blank or unreadable key, or a pair of keys that is there twice.
    """
    date, asset = pair
    when_codes, when_cells = _distinct(cells[date], source)
    who_codes, who_cells = _distinct(cells[asset], source)
    first = [int(row) for row in np.unique(when_codes, return_index=True)[1]]
    read = _dates(when_cells, source, date, first)
    dates, when = np.unique(read, return_inverse=True)
    blank = np.flatnonzero([_blank(item) for item in who_cells])
    if blank.size:
        row = int(np.flatnonzero(who_codes == blank[0])[0]) + 1
        raise DataError(f"{source}: column '{asset}', row {row} has no name; write one, or remove the row.")
    assets, who = np.unique(np.array(asset_names(pd.Series(who_cells, name=asset), source)), return_inverse=True)
    found = Long(
        source=source,
        dates=dates,
        assets=tuple(str(name) for name in assets),
        when=when.reshape(-1)[when_codes],
        who=who.reshape(-1)[who_codes],
        values=cells.drop(columns=[date, asset]),
    )
    _refuse_repeats(found)
    return found


def pieces(cells: pd.DataFrame, notes: list[str], what: str = "prices") -> dict[str, Any]:
    """What a long table holds, by the name that `Panel.from_prices` takes it: prices, returns, volume, groups ...

    Args:
        cells: with columns date, asset (or ticker, symbol, permno ...) and at least one column of values.
        notes: what was left out is added to it.
        what: what a single column of an unknown name is taken for.

    Raises:
        DataError: no such columns, two that could be the same, or a pair of date and name that is there twice.
    """
    cells = flat(cells)
    source = str(cells.attrs.get("source", "long table"))
    pair = keys(cells, source)
    if pair is None:
        there = ", ".join(str(name) for name in list(cells.columns)[:6])
        raise DataError(
            f"{source}: a long table has a column date and a column asset (or ticker, symbol, permno), and this one "
            f"has {there}; rename them."
        )
    taken = _roles(cells, pair, source, what, notes)
    found = melt(cells, pair, source)
    out: dict[str, Any] = {role: found.wide(name) for role, name in taken.items()}
    blank = [role for role, frame in out.items() if not frame.shape[1]]
    for role in blank:
        del out[role]
        notes.append(f"{source}: column '{taken[role]}' is blank from end to end and was left out.")
    named = [name for name in cells.columns if plain(name) in LABELS]
    if named:
        out["groups"] = changes(found, named).rename(columns={name: plain(name) for name in named})
        out["groups"].attrs["source"] = source
    return _of_the_priced(out, found, notes)


def changes(found: Long, names: Sequence[str]) -> pd.DataFrame:
    """The rows (date, asset, labels) on which a label is another than before, blank where it is not; blank cells of
    the table say nothing.
    """
    parts = []
    for name in names:
        said = found.values[name].map(lambda item: None if is_none(item) else str(item).strip())
        codes, words = pd.factorize(said)
        rows = np.flatnonzero(codes >= 0)
        rows = rows[np.lexsort((found.when[rows], found.who[rows]))]
        new = (np.diff(found.who[rows], prepend=-1) != 0) | (np.diff(codes[rows], prepend=-1) != 0)
        rows = rows[new]
        part = {"date": found.dates[found.when[rows]], "asset": [found.assets[k] for k in found.who[rows]]}
        parts.append(pd.DataFrame(part | {name: [str(words[k]) for k in codes[rows]]}))
    return reduce(lambda one, other: one.merge(other, how="outer", on=["date", "asset"]), parts)


def _of_the_priced(out: dict[str, Any], found: Long, notes: list[str]) -> dict[str, Any]:
    """Without the names that have no price (or return) on any date."""
    base = out.get("prices", out.get("returns"))
    if base is None:
        return out
    gone = [name for name in found.assets if name not in set(base.columns)]
    if gone:
        named = ", ".join(gone[:3])
        notes.append(f"{found.source}: {len(gone)} name(s) without a single price or return were left out ({named}).")
    for role, frame in out.items():
        if role == "groups":
            out[role] = frame[~frame["asset"].isin(gone)]
        elif frame is not base:
            out[role] = frame.drop(columns=[name for name in gone if name in frame.columns])
    return out


def single(cells: pd.DataFrame, what: str, names: Sequence[str], assets: Sequence[str] = ASSET) -> pd.DataFrame | None:
    """The one column of values of a long table as dates x names; None where the table is not long.

    Args:
        what: what it holds, for messages.
        names: names the column of values may have; a single other one is taken whatever its name.
        assets: names the column of names may have.

    Raises:
        DataError: as `pieces`.
    """
    named = {plain(name) for name in (*cells.columns, *cells.index.names)}
    if not (named & set(assets) and (named & set(DATE) or isinstance(cells.index, pd.DatetimeIndex))):
        return None
    cells = flat(cells)
    source = str(cells.attrs.get("source", what))
    pair = keys(cells, source, assets)
    if pair is None:
        return None
    rest = [str(name) for name in cells.columns if name not in pair]
    fits = [name for name in rest if plain(name) in names] or rest
    if len(fits) != 1:
        raise DataError(
            f"{source}: a long table with the columns {', '.join(rest) or '(none)'} beside '{pair[0]}' and "
            f"'{pair[1]}'; call the one with the {what} '{names[0]}'."
        )
    return melt(cells, pair, source).wide(fits[0])


def _roles(cells: pd.DataFrame, pair: tuple[str, str], source: str, what: str, notes: list[str]) -> dict[str, str]:
    """Which column holds what; what is left over is told."""
    rest = [str(name) for name in cells.columns if name not in pair and plain(name) not in LABELS]
    acted = [name for name in rest if plain(name) in ROLES["dividends"] + ROLES["splits"]]
    raw = [name for name in rest if plain(name) in ROLES["prices"] and plain(name) not in ADJUSTED]
    adjusted = [name for name in rest if plain(name) in ADJUSTED]
    if len(raw) == len(adjusted) == 1:
        if acted:
            raise DataError(
                f"{source}: '{adjusted[0]}' and '{acted[0]}' both make total returns of '{raw[0]}', and together they "
                "count twice; remove one of the two columns."
            )
        notes.append(f"{source}: '{adjusted[0]}' is taken as the price, and '{raw[0]}' left out.")
        rest.remove(raw[0])
    body = cells[rest]
    taken = {role: found for role, names in ROLES.items() if (found := column(body, names, source, role)) is not None}
    left = [name for name in rest if name not in taken.values()]
    if not taken and len(left) == 1 and len(rest) == 1:
        notes.append(f"{source}: column '{left[0]}' is taken as the {what}.")
        return {what: left[0]}
    if not taken and not any(plain(name) in LABELS for name in cells.columns):
        raise DataError(
            f"{source}: of the columns {', '.join(left) or '(none)'} none is known; name the one with the "
            f"{what} {' or '.join(ROLES.get(what, ('value',))[:3])}."
        )
    if left:
        notes.append(f"{source}: column(s) {', '.join(left)} were left out.")
    return taken


def _dates(index: pd.Index[Any], source: str, name: str, first: list[int]) -> NDArray[np.datetime64]:
    """The distinct dates of a column; messages name the row where one is first."""
    local = stamps(index, source, f"column '{name}'", [row + 1 for row in first])
    midnight = local.normalize()
    exact: NDArray[np.datetime64] = (midnight if midnight.is_unique else local).to_numpy().astype("datetime64[ns]")
    return exact


def _distinct(cells: pd.Series[Any], source: str) -> tuple[NDArray[np.intp], pd.Index[Any]]:
    try:
        codes, found = pd.factorize(cells, use_na_sentinel=False)
    except TypeError:
        raise DataError(f"{source}: column '{cells.name}' holds lists or tables; one value a cell is needed.") from None
    return codes, pd.Index(found)


def _blank(item: object) -> bool:
    return not item.strip() if isinstance(item, str) else is_none(item)


def _refuse_repeats(found: Long) -> None:
    size = len(found.dates) * len(found.assets)
    if size > MOST_CELLS:
        raise DataError(
            f"{found.source}: {len(found.dates):,} dates of {len(found.assets):,} names are more than a panel holds; "
            "is the date column right?"
        )
    pair = found.when * len(found.assets) + found.who
    if len(pair) == len(np.unique(pair)):
        return
    order = np.argsort(pair, kind="stable")
    again = order[1:][np.diff(pair[order]) == 0]
    row = int(again.min())
    before = int(np.flatnonzero(pair == pair[row])[0])
    name, when = found.assets[found.who[row]], day(found.dates[found.when[row]])
    raise DataError(
        f"{found.source}: {name} on {when} is there twice, in rows {before + 1} and {row + 1}; keep one of them."
    )
