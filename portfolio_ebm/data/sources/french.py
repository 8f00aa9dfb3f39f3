"""Factors and portfolios of Kenneth R. French's data library, as simple decimal returns.

    <library>/<file>_CSV.zip -> tables of percent -> the one of returns asked for / 100 -> joined on common dates

Files are kept in the cache, one entry a table, and the server is asked again when they are older than `refresh` days,
with the ETag it gave: an unchanged file costs no download. Where it cannot be reached what is stored is used, and a
note says so. The library is revised each month for the whole of its history, so it is no record of what was known on
a date; the day of the fetch and the versions stand in `attrs`. Copyright Eugene F. Fama and Kenneth R. French: cite it.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.assemble import Extras
from portfolio_ebm.data.dates import stamp
from portfolio_ebm.data.sources.cache import Cache, Entry
from portfolio_ebm.data.sources.fetching import get
from portfolio_ebm.data.sources.french_csv import Block, Frequency, parse
from portfolio_ebm.errors import DataError, StoreError

LIBRARY = "https://mba.tuck.dartmouth.edu/pages/faculty/ken.french/ftp"
"""Folder of the files."""

Weights = Literal["value", "equal"]

_FACTORS = "F-F_Research_Data_Factors"
_REGIONS = {"developed": "Developed", "developed-ex-us": "Developed_ex_US", "europe": "Europe", "japan": "Japan",
            "asia-pacific": "Asia_Pacific_ex_Japan", "north-america": "North_America"}  # fmt: skip

SETS: Mapping[str, tuple[str, str]] = {
    "ff3": (_FACTORS, f"{_FACTORS}_daily"),
    "ff5": ("F-F_Research_Data_5_Factors_2x3", "F-F_Research_Data_5_Factors_2x3_daily"),
    "momentum": ("F-F_Momentum_Factor", "F-F_Momentum_Factor_daily"),
    "short-reversal": ("F-F_ST_Reversal_Factor", "F-F_ST_Reversal_Factor_daily"),
    "long-reversal": ("F-F_LT_Reversal_Factor", "F-F_LT_Reversal_Factor_daily"),
    **{
        f"industries-{count}": (f"{count}_Industry_Portfolios", f"{count}_Industry_Portfolios_daily")
        for count in (5, 10, 12, 17, 30, 38, 48, 49)
    },
    "size-value-6": ("6_Portfolios_2x3", "6_Portfolios_2x3_daily"),
    "size-value-25": ("25_Portfolios_5x5", "25_Portfolios_5x5_Daily"),
    "size-momentum-6": ("6_Portfolios_ME_Prior_12_2", "6_Portfolios_ME_Prior_12_2_Daily"),
    "momentum-10": ("10_Portfolios_Prior_12_2", "10_Portfolios_Prior_12_2_Daily"),
    **{
        f"{key}-{kind}": (f"{region}_{file}", f"{region}_{file}_Daily")
        for key, region in _REGIONS.items()
        for kind, file in (("ff3", "3_Factors"), ("ff5", "5_Factors"), ("momentum", "Mom_Factor"))
    },
}
"""Short names of the sets most asked for: the file that holds months and years, and the file that holds days."""

_WEIGHTED = re.compile(r"\b(value|equal)[ -]weight(?:ed)? returns\b", re.IGNORECASE)
_LARGEST = 200 * 2**20


@dataclass(frozen=True)
class _Wish:
    """One table of one file."""

    name: str
    file: str
    frequency: Frequency
    weights: Weights

    @property
    def keys(self) -> tuple[str, str]:
        """Under which it is stored: with weights, or plain where the file knows none."""
        return f"{self.file}.{self.frequency}.{self.weights}", f"{self.file}.{self.frequency}.plain"

    @property
    def url(self) -> str:
        return f"{LIBRARY}/{self.file}_CSV.zip"


def french(
    *names: str,
    frequency: Frequency = "daily",
    weights: Weights = "value",
    start: str | None = None,
    end: str | None = None,
    cache: Cache | None = None,
    offline: bool = False,
    refresh: float = 7.0,
) -> pd.DataFrame:
    """Returns of one set of the library or of several, joined.

    Args:
        names: keys of `SETS` ("ff5", "momentum", "industries-10", ...), or names of files as the library writes them,
            without "_CSV.zip"; such a name is taken as it stands, so give that of the daily file for days.
        frequency: "daily", "monthly", "annual"; "weekly" is there for "ff3" only.
        weights: of the stocks in portfolios; factors have one kind only, and it does not matter to them.
        start, end: first and last date, both included.
        cache: where files are kept; by default `Cache.default("french")`.
        offline: use what is stored, of any age, and never the network.
        refresh: days after which the server is asked for a newer file; 0 asks always.

    Returns:
        Simple decimal returns, dates down and columns as the library names them ("Mkt-RF", "SMB", "RF", "NoDur"), NaN
        where it has none. Only dates that every set has. A month is dated by its last calendar day, a year by
        31 December: what was earned is known then. Factors are differences of returns, portfolios are not in excess of
        "RF". A column that two sets share with the same numbers is there once. `attrs` has "source", "fetched" and
        "url" by set, and "notes".

    Raises:
        DataError: an unknown set (with near matches), a set without such a table, no date in common or in the span,
            columns of one name with different numbers, or no file: neither stored nor to be had.

    Example:
        >>> factors = french("ff5", "momentum", start="1987-10-19", end="1987-10-19")
        >>> float(factors["Mkt-RF"].iloc[0])
        -0.1744
    """
    store = Cache.default("french") if cache is None else cache
    wishes = [_wish(name, frequency, weights) for name in names]
    if not wishes:
        raise DataError(f"french: no set is named; there are {', '.join(SETS)}, and any file of the library.")
    notes: list[str] = []
    entries = [_entry(wish, store, offline, refresh, notes) for wish in wishes]
    frame = _joined(wishes, entries, notes)
    span = f"{frame.index[0]:%Y-%m-%d} to {frame.index[-1]:%Y-%m-%d}"
    first, last = (None if day is None else stamp(day, what) for day, what in ((start, "start"), (end, "end")))
    frame = frame.loc[first:last]
    if frame.empty:
        raise DataError(f"french: no date from {start} to {end}; {', '.join(names)} run from {span}.")
    frame.attrs = {
        "source": f"french {', '.join(names)} ({frequency})",
        "fetched": {
            wish.name: str(entry.facts.get("fetched", ""))[:10] for wish, entry in zip(wishes, entries, strict=True)
        },
        "url": {wish.name: wish.url for wish in wishes},
        "notes": notes,
    }
    return frame


def panel_extras(frame: pd.DataFrame) -> Extras:
    """What `Panel.from_prices` takes from a frame of `french`: its factors, with "RF" as the rate of cash.

    Raises:
        DataError: nothing but "RF" is in it.

    Example:
        >>> panel = Panel.from_prices(prices, **panel_extras(french("ff5", "momentum")))
        >>> panel.market
        'Mkt-RF'
    """
    factors = frame.drop(columns="RF", errors="ignore")
    if factors.columns.empty:
        raise DataError(
            "french: the frame has no factor beside RF; ask for 'ff3', 'ff5' or another set of factors too."
        )
    extras: Extras = {"factors": factors, "factors_are": "returns"}
    if "Mkt-RF" in factors.columns:
        extras["market"] = "Mkt-RF"
    if "RF" in frame.columns:
        extras["cash_rate"] = frame["RF"]
    return extras


def _wish(name: str, frequency: Frequency, weights: Weights) -> _Wish:
    if frequency not in get_args(Frequency):
        raise DataError(f"french: frequency '{frequency}' is unknown; it is {', '.join(get_args(Frequency))}.")
    if weights not in get_args(Weights):
        raise DataError(f"french: weights '{weights}' are unknown; they are {' or '.join(get_args(Weights))}.")
    if name.lower() in SETS:
        pair: tuple[str, str] | None = SETS[name.lower()]
    else:
        pair = next((item for item in SETS.values() if name == item[0]), None)
    if pair is None and "_" not in name:
        near = get_close_matches(name.lower(), SETS, n=4)
        raise DataError(
            f"french: no set '{name}'{_near(near)}; there are {', '.join(SETS)}, and any file of the library "
            f"(such as 'Portfolios_Formed_on_ME')."
        )
    if pair is None:
        file = name.removesuffix(".zip").removesuffix("_CSV")
        if not re.fullmatch(r"[\w-]+", file, re.ASCII):
            raise DataError(f"french: '{name}' is no name of a file of the library; write it as '6_Portfolios_2x3'.")
        return _Wish(name, file, frequency, weights)
    if frequency == "weekly":
        if pair[0] != _FACTORS:
            raise DataError(f"french: '{name}' has no weekly file; only 'ff3' has. Ask for daily returns.")
        return _Wish(name, f"{_FACTORS}_weekly", frequency, weights)
    return _Wish(name, pair[1] if frequency == "daily" else pair[0], frequency, weights)


def _entry(wish: _Wish, cache: Cache, offline: bool, refresh: float, notes: list[str]) -> Entry:
    """The table, from the cache where it is fresh, else from the server; what is stored where that fails."""
    stored = _stored(wish, cache, raises=offline)
    if offline:
        if stored is None:
            raise DataError(
                f"french: '{wish.name}' ({wish.frequency}, {wish.file}) is not stored in {cache.folder}; ask "
                "once without offline."
            )
        return stored
    if stored is not None and _age(stored) < refresh:
        return stored
    with cache.lock(wish.file):
        stored = _stored(wish, cache)  # another process may have fetched it while this one waited
        if stored is not None and _age(stored) < refresh:
            return stored
        try:
            tables, facts = _fetched(wish, stored)
        except DataError as error:
            if stored is None:
                raise
            notes.append(
                f"{wish.name}: the copy fetched on {str(stored.facts.get('fetched'))[:10]} is used, since {error}"
            )
            return stored
        if stored is not None and not tables:  # unchanged
            cache.write(stored.key, stored.dates, stored.columns, {**stored.facts, **facts})
        for key, block in tables.items():
            columns = dict(zip(block.columns, _decimal(block).T, strict=True))
            cache.write(f"{wish.file}.{key}", block.dates, columns, {**facts, "title": block.title})
    found = _stored(wish, cache, raises=True)
    if found is None or (tables and not any(key.removeprefix(f"{wish.file}.") in tables for key in wish.keys)):
        raise DataError(
            f"french: {wish.file} has no {wish.weights} {wish.frequency} returns; it has {', '.join(tables)}."
        )
    return found


def _stored(wish: _Wish, cache: Cache, raises: bool = False) -> Entry | None:
    try:
        return next((entry for key in wish.keys if (entry := cache.read(key)) is not None), None)
    except StoreError:
        if raises:
            raise
        return None  # damaged: fetching replaces it


def _age(entry: Entry) -> float:
    """Days since the server was last asked."""
    try:
        then = datetime.fromisoformat(str(entry.facts["fetched"]))
        return (datetime.now(UTC) - then).total_seconds() / 86400.0
    except (KeyError, ValueError, TypeError):
        return float("inf")


def _fetched(wish: _Wish, stored: Entry | None) -> tuple[dict[str, Block], dict[str, Any]]:
    """The tables of returns in the file on the server, none where it is the one that is stored; and the facts."""
    known = {} if stored is None else dict(stored.facts)
    answer = get(wish.url, etag=known.get("etag"), modified=known.get("modified"))
    facts: dict[str, Any] = {"url": wish.url, "fetched": datetime.now(UTC).isoformat(timespec="seconds")}
    if answer is None:
        if stored is None:
            raise DataError(f"{wish.url}: the server says that nothing has changed, and nothing is stored; try again.")
        return {}, facts
    if answer.status == 404:
        near = get_close_matches(wish.file, [file for pair in SETS.values() for file in pair], n=3)
        raise DataError(f"{wish.url}: the library has no such file{_near(near)}; names are in its list of data sets.")
    facts |= {"etag": answer.etag, "modified": answer.modified}
    return returns_of(parse(_unzipped(answer.body, wish.url), wish.file), wish.file), facts


def returns_of(blocks: Sequence[Block], source: str) -> dict[str, Block]:
    """The tables of returns as "daily.value", "monthly.equal", ...; "monthly.plain" where the file knows no weights.

    A file in which some title speaks of value or equal weighted returns holds returns under these titles only; the
    rest counts firms or averages sizes. In any other file every table is one of returns.

    Raises:
        DataError: two tables of one kind, or a return of a portfolio below -100% (a factor's, being a difference of
            two, may be).
    """
    kinds = [_WEIGHTED.search(block.title) for block in blocks]
    found: dict[str, Block] = {}
    for block, kind in zip(blocks, kinds, strict=True):
        if kind is None and any(kinds):
            continue
        key = f"{block.frequency}.{'plain' if kind is None else kind[1].lower()}"
        if key in found:
            raise DataError(
                f"{source}: two tables of {key} returns, '{found[key].title}' (line {found[key].line}) and "
                f"'{block.title}' (line {block.line}); take the one you mean from parse()."
            )
        low = np.argwhere(block.values < -100.0)
        if kind is not None and len(low):
            row, column = (int(item) for item in low[0])
            raise DataError(
                f"{source}: column '{block.columns[column]}', {str(block.dates[row])[:10]}: a return of "
                f"{block.values[row, column]:g} percent loses more than everything; the table at line {block.line} is "
                "none of returns."
            )
        found[key] = block
    return found


def _decimal(block: Block) -> NDArray[np.float64]:
    """Percent as the decimals of the same digits: -17.44 is the float nearest to -0.1744, which a division may miss."""
    out = np.full(block.values.shape, np.nan)
    known = np.isfinite(block.values)
    out[known] = [float(f"{value:.10f}e-2") for value in block.values[known]]
    return out


def _unzipped(body: bytes, url: str) -> bytes:
    if not body:
        raise DataError(f"{url}: the answer is empty; try again later.")
    if not body.startswith(b"PK"):
        what = (
            "an HTML page"
            if body[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<"))
            else "something"
        )
        raise DataError(
            f"{url}: {what} came in place of a zip file; try again later, or look at the address in a browser."
        )
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            inside = [item for item in archive.infolist() if item.filename.lower().endswith((".csv", ".txt"))]
            if len(inside) != 1 or inside[0].file_size > _LARGEST:
                raise DataError(f"{url}: the zip holds {archive.namelist()[:5]} where one CSV was expected.")
            return archive.read(inside[0])
    # zipfile says RuntimeError of an encrypted member and NotImplementedError of an unknown compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{url}: the zip is cut or damaged ({error}); fetch it again.") from error


def _joined(wishes: Sequence[_Wish], entries: Sequence[Entry], notes: list[str]) -> pd.DataFrame:
    """All columns on the dates that every set has."""
    dates = reduce(np.intersect1d, [entry.dates for entry in entries])
    if not len(dates):
        spans = [f"{wish.name} {_span(entry)}" for wish, entry in zip(wishes, entries, strict=True)]
        raise DataError(f"french: no date in common; {', '.join(spans)}.")
    columns: dict[str, NDArray[np.float64]] = {}
    owners: dict[str, str] = {}
    for wish, entry in zip(wishes, entries, strict=True):
        inside = (entry.dates >= dates[0]) & (entry.dates <= dates[-1])
        left_out = int(inside.sum()) - len(dates)
        if left_out:
            notes.append(f"{wish.name}: {left_out} date(s) that another set does not have were left out.")
        rows = np.isin(entry.dates, dates)
        for name, values in entry.columns.items():
            if name in columns and not np.array_equal(columns[name], values[rows], equal_nan=True):
                raise DataError(
                    f"french: '{name}' is in '{owners[name]}' and in '{wish.name}', with different numbers; ask for "
                    "them one at a time and rename one."
                )
            columns[name] = values[rows]
            owners.setdefault(name, wish.name)
    return pd.DataFrame(columns, index=pd.DatetimeIndex(dates, name="date"))


def _span(entry: Entry) -> str:
    return f"{str(entry.dates[0])[:10]} to {str(entry.dates[-1])[:10]}"


def _near(names: Sequence[str]) -> str:
    return f" (near: {', '.join(names)})" if names else ""
