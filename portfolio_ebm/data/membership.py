"""Who belonged to the universe when: spells or a table of true and false, to a mask (T, n) known at each date.

A spell is one stay of one name: from its start to its end, both days included; a blank end is a member still. Row t of
the mask asks for start <= t <= end and for nothing else: an end that comes after t is not known at t and cannot show.
A wide table stands from each of its rows until the next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.align import Dates
from portfolio_ebm.data.clean import table
from portfolio_ebm.data.columns import ASSET, asset_names, column, flat, need, plain
from portfolio_ebm.data.dates import column_days, day
from portfolio_ebm.data.long import keys, melt
from portfolio_ebm.errors import DataError

Mask = NDArray[np.bool_]

START = ("start", "start_date", "from", "entry", "added")
END = ("end", "end_date", "to", "thru", "through", "exit", "removed")
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def members(given: object, dates: Dates, assets: tuple[str, ...], notes: list[str]) -> Mask:
    """Bool (T, n): who is a member on each date.

    Args:
        given: spells (columns asset, ticker or symbol; start or start_date; end or end_date), or a wide frame of true
            and false (or 1 and 0), or a long one with the columns date, asset and member.
        dates: the panel's dates; a spell holds for all of its days, at any hour.
        assets: the panel's names; others are left out and told, for they are what survivorship hides.
        notes: what there is to tell is added to it.

    Raises:
        DataError: no such columns, a spell without a start or that ends before it starts, two spells of one name that
            overlap, a cell that is neither true nor false, or no member that the panel knows.

    Example:
        >>> spells = pd.DataFrame({"asset": ["A"], "start": ["2020-01-02"], "end": [""]})
        >>> members(spells, np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]"), ("A",), [])[:, 0]
        array([False,  True])
    """
    if not isinstance(given, pd.DataFrame):
        raise DataError(
            f"membership: got {type(given).__name__}; give a frame of spells (asset, start, end), or one of true and "
            "false with dates down and names across."
        )
    frame = flat(given) if _is_listed(given) else given
    source = str(given.attrs.get("source", "membership"))
    if {plain(name) for name in frame.columns} & set(START):
        mask, names = _spells(frame, source, dates, assets)
    else:
        mask, names = _standing(frame, source, dates, assets, notes)
    _tell(names, assets, mask, source, notes)
    return mask


def _is_listed(frame: pd.DataFrame) -> bool:
    names = {plain(name) for name in frame.columns} | {plain(name) for name in frame.index.names if name is not None}
    return bool(names & set(ASSET)) and bool(names & {*START, "date", "day", "datetime"})


def _spells(frame: pd.DataFrame, source: str, dates: Dates, assets: tuple[str, ...]) -> tuple[Mask, list[str]]:
    if not len(frame):
        raise DataError(f"{source}: there is no spell; write one row a stay (asset, start, end).")
    who = asset_names(frame[need(frame, ASSET, source, "name of the asset")], source)
    start_name = need(frame, START, source, "first day of each spell")
    starts = column_days(frame[start_name], source, start_name)
    end_name = column(frame, END, source, "last day of each spell")
    if end_name is None:
        raise DataError(f"{source}: no column with the last day of each spell; call it 'end', blank where it goes on.")
    ends = column_days(frame[end_name], source, end_name, blank=True)
    open_end = np.isnat(ends)
    wrong = np.flatnonzero(~open_end & (ends < starts))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(
            f"{source}: row {row + 1}: the spell of {who[row]} ends {day(ends[row])}, before its start "
            f"{day(starts[row])}; correct one of them."
        )
    far = np.where(open_end, np.datetime64("2262-01-01", "D"), ends)
    _refuse_overlaps(who, starts, far, open_end, source)
    days = dates.astype("datetime64[D]")
    mask = np.zeros((len(dates), len(assets)), dtype=bool)
    place = {name: k for k, name in enumerate(assets)}
    first = np.searchsorted(days, starts, side="left")
    after = np.searchsorted(days, far, side="right")
    for name, begin, end in zip(who, first, after, strict=True):
        if name in place:
            mask[begin:end, place[name]] = True
    return mask, list(dict.fromkeys(who))


def _refuse_overlaps(who: list[str], starts: Any, ends: Any, open_end: Mask, source: str) -> None:
    """Two spells of a name may share a day (one ends as the next begins), and no more."""
    last: dict[str, int] = {}
    for row in np.lexsort((ends, starts)):
        name = who[row]
        before = last.get(name)
        if before is not None and starts[row] < ends[before]:
            until = "has no end" if open_end[before] else f"ends {day(ends[before])}"
            raise DataError(
                f"{source}: {name}: the spell of row {before + 1} {until} and the one of row {row + 1} starts "
                f"{day(starts[row])}; overlapping spells, correct or remove one."
            )
        last[name] = int(row)


def _standing(
    frame: pd.DataFrame, source: str, dates: Dates, assets: tuple[str, ...], notes: list[str]
) -> tuple[Mask, list[str]]:
    """A wide table of true and false; a long one lists the members of each of its dates, or says true and false."""
    pair = keys(frame, source)
    if pair is None:
        found = table(_as_numbers(frame, source), source, allow_blank=True)
        when, names, values = found.dates, found.columns, found.values
        if not np.isfinite(values).all():
            blank, spot = (int(item[0]) for item in np.nonzero(~np.isfinite(values)))
            raise DataError(f"{found.where(blank, spot)}: a blank is neither true nor false; write one of them.")
    else:
        long = melt(frame, pair, source)
        rest = list(long.values.columns)
        if len(rest) > 1:
            raise DataError(
                f"{source}: columns {', '.join(map(str, rest))} beside date and asset; keep one with true or false, or "
                "none."
            )
        values = np.zeros((len(long.dates), len(long.assets)))
        cells = np.ones(len(long.when)) if not rest else _truths(long.values[rest[0]], source)
        values[long.when, long.who] = cells
        when, names = long.dates, long.assets
    row = np.searchsorted(when.astype("datetime64[ns]"), dates, side="right") - 1
    if row[0] < 0:
        notes.append(f"{source}: starts {day(when[0])}; before it nobody is a member.")
    mask = np.zeros((len(dates), len(assets)), dtype=bool)
    place = {name: k for k, name in enumerate(names)}
    for k, name in enumerate(assets):
        if name in place:
            mask[:, k] = (row >= 0) & (values[np.maximum(row, 0), place[name]] == 1.0)
    return mask, [name for k, name in enumerate(names) if (values[:, k] == 1.0).any()]


def _as_numbers(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    out = frame.copy()
    for position in range(out.shape[1]):
        out.isetitem(position, _truths(frame.iloc[:, position], source))
    out.attrs["source"] = source
    return out


def _truths(cells: pd.Series[Any], source: str) -> NDArray[np.float64]:
    """1 for true and 0 for false; NaN where blank."""
    if cells.dtype == bool:
        return cells.to_numpy(dtype=np.float64)
    out = np.full(len(cells), np.nan)
    for row, item in enumerate(cells.to_numpy(dtype=object)):
        if isinstance(item, bool | np.bool_):
            out[row] = float(item)
            continue
        text = str(item).strip().lower()
        if text in ("", "nan", "none", "<na>"):
            continue
        value = _WORDS.get(text, {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0}.get(text))
        if value is None:
            raise DataError(
                f"{source}: column '{cells.name}', row {row + 1}: '{str(item)[:24]}' is neither true nor false; for "
                "spells call the columns asset, start and end."
            )
        out[row] = value
    return out


def _tell(names: list[str], assets: tuple[str, ...], mask: Mask, source: str, notes: list[str]) -> None:
    there = set(assets)
    missing = [name for name in names if name not in there]
    if len(missing) == len(names):
        raise DataError(
            f"{source}: none of its {len(names)} members has prices here ({', '.join(names[:3])}); the panel has "
            f"{', '.join(assets[:3])}. Use the same names in both."
        )
    if missing:
        notes.append(
            f"{source}: {len(missing)} of {len(names)} members have no prices here ({', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}): results are those of the others, which survived in the data."
        )
    never = [name for k, name in enumerate(assets) if not mask[:, k].any()]
    if never:
        notes.append(f"{source}: {len(never)} name(s) of the panel are never a member ({', '.join(never[:5])}).")
