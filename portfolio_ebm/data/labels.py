"""Labels of assets by grouping (sector, issuer): one for all dates, or as they stood at each.

    date,asset,sector,issuer      ->      groups: the labels at the last date; relabels: what each was before its day

A dated table says from when on a label stands: until the next one of the same asset. Before the first one the label is
not known, and it is called so. What a panel holds are the last labels and the way back from them, so that one label a
name is the case without a way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.clean import check_known
from portfolio_ebm.data.columns import ASSET, column, flat
from portfolio_ebm.data.dates import day
from portfolio_ebm.data.long import Long, changes, keys, melt
from portfolio_ebm.errors import DataError

Dates = NDArray[np.datetime64]
Mask = NDArray[np.bool_]
Labels = dict[str, tuple[str, ...]]
Relabels = dict[str, tuple[tuple[str, str, str], ...]]

UNKNOWN = "unknown"
"""The label of an asset before its first one is dated."""


def labels(
    groups: object, assets: tuple[str, ...], dates: Dates, tradeable: Mask, notes: list[str]
) -> tuple[Labels, Relabels]:
    """The labels at the last date, and by grouping (day, asset, label before that day), in the order of the days.

    Args:
        groups: a frame with assets down and groupings across (or with a column "asset", "ticker" or "symbol" that names
            them), a Series (one grouping), `{"sector": {"AAPL": "Energy", ...}}`, or `{"sector": ("Energy", ...)}` in
            the panel's order: the same on every date. With a column "date" too, a row stands from its day on.
        dates: (T,); `tradeable`: (T, n), to tell of names that trade before their first label.

    Raises:
        DataError: an unknown asset (with near matches), an asset without a label, one that is there twice.
    """
    if groups is None:
        return {}, {}
    if isinstance(groups, pd.DataFrame):
        cells = flat(groups)
        source = str(groups.attrs.get("source", "groups"))
        pair = keys(cells, source)
        if pair is not None:
            return _dated(melt(cells, pair, source), assets, dates, tradeable, notes)
    return _standing(groups, assets), {}


def labels_at(groups: Mapping[str, tuple[str, ...]], relabels: Mapping[str, Any], assets: Any, date: Any) -> Labels:
    """The labels as they stood at the close of `date`."""
    out = dict(groups)
    for grouping, steps in relabels.items():
        found, place = list(groups[grouping]), {name: k for k, name in enumerate(assets)}
        for since, asset, before in reversed(steps):
            if np.datetime64(since) <= date:
                break
            found[place[asset]] = before
        out[grouping] = tuple(found)
    return out


def within(relabels: Mapping[str, Any], first: Any, last: Any) -> Relabels:
    """The changes after the date `first` and up to `last`: those that a panel of these dates can see."""
    return {
        grouping: tuple(item for item in steps if first < np.datetime64(item[0]) <= last)
        for grouping, steps in relabels.items()
    }


def spellings(last: tuple[str, ...], steps: Any) -> frozenset[str]:
    """Every label of a grouping, at any date."""
    return frozenset(last) | {before for _, _, before in steps}


def moves(steps: Any, assets: Any, dates: Dates, tradeable: Mask) -> Dates:
    """The days of the changes that befall names with a price before them."""
    place = {name: k for k, name in enumerate(assets)}
    ever: Mask = np.asarray(tradeable.any(axis=0))
    first = dates[tradeable.argmax(axis=0)]
    days = [
        np.datetime64(since, "ns")
        for since, asset, _ in steps
        if ever[place[asset]] and first[place[asset]] < np.datetime64(since)
    ]
    return np.unique(np.array(days, dtype="datetime64[ns]"))


def _dated(
    found: Long, assets: tuple[str, ...], dates: Dates, tradeable: Mask, notes: list[str]
) -> tuple[Labels, Relabels]:
    check_known(found.assets, assets, found.source)
    place = {name: k for k, name in enumerate(assets)}
    groups: Labels = {}
    relabels: Relabels = {}
    for grouping in map(str, found.values.columns):
        steps = changes(found, [grouping])
        _refuse_lacking(set(steps["asset"]), assets, grouping, found.source)
        now, back = [UNKNOWN] * len(assets), []
        for when, asset, label in steps.sort_values("date", kind="stable").itertuples(index=False):
            if np.datetime64(when) <= dates[-1]:
                back.append((day(np.datetime64(when, "ns")), asset, now[place[asset]]))
                now[place[asset]] = label
        groups[grouping] = tuple(now)
        relabels |= within({grouping: back}, dates[0], dates[-1])
        early = [
            (asset, since)
            for since, asset, before in relabels[grouping]
            if before == UNKNOWN and len(moves([(since, asset, before)], assets, dates, tradeable))
        ]
        if early:
            notes.append(
                f"{found.source}: {len(early)} name(s) have a price before their first {grouping} ({early[0][0]} until "
                f"{early[0][1]}): it is '{UNKNOWN}' there."
            )
    return groups, {grouping: steps for grouping, steps in relabels.items() if steps}


def _standing(groups: object, assets: tuple[str, ...]) -> Labels:
    frame, source = _label_frame(groups, assets)
    if len(set(map(str, frame.columns))) < len(frame.columns):
        raise DataError(f"{source}: two columns have one name; keep one of them.")
    names = [str(name).strip() for name in frame.index]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"{source}: asset '{twice}' is there {names.count(twice)} times; keep one row, or add a column 'date' that "
            "says from when on each stands."
        )
    check_known(names, assets, source)
    out = {}
    for grouping in frame.columns:
        given = {name: item for name, item in zip(names, frame[grouping], strict=True) if not _blank(item)}
        _refuse_lacking(given, assets, str(grouping), source)
        out[str(grouping)] = tuple(str(given[asset]).strip() for asset in assets)
    return out


def _refuse_lacking(given: Any, assets: tuple[str, ...], grouping: str, source: str) -> None:
    for asset in assets:
        if asset not in given:
            raise DataError(
                f"{source}: column '{grouping}' has no label for '{asset}'; write one ('none' if it has none)."
            )


def _label_frame(groups: object, assets: tuple[str, ...]) -> tuple[pd.DataFrame, str]:
    if isinstance(groups, pd.Series):
        return groups.to_frame(str(groups.name or "group")), "groups"
    if isinstance(groups, Mapping):
        columns = {str(name): _label_column(str(name), given, assets) for name, given in groups.items()}
        return pd.DataFrame(columns), "groups"
    if not isinstance(groups, pd.DataFrame):
        raise DataError(f"groups: got {type(groups).__name__}; give a DataFrame with assets down and groupings across.")
    source = str(groups.attrs.get("source", "groups"))
    key = column(groups, ASSET, source, "name of the asset")
    return (groups.set_index(key) if key is not None else groups), source


def _label_column(name: str, given: Any, assets: tuple[str, ...]) -> pd.Series:
    if isinstance(given, pd.Series):
        return given
    if isinstance(given, Mapping):
        return pd.Series(dict(given), dtype="object")
    if isinstance(given, str) or len(given) != len(assets):
        raise DataError(f"groups: '{name}' needs one label for each of the {len(assets)} assets, in the panel's order.")
    return pd.Series(list(given), index=list(assets), dtype="object")


def _blank(label: object) -> bool:
    return label is None or label is pd.NA or label != label or not str(label).strip()
