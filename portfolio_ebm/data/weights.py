"""Benchmark weights: by benchmark, what it held of each name, standing from each row until the next one.

The weights are as given and do not drift with prices in between; give a row a day where that matters. Before the
first row they are unknown (NaN). What a benchmark holds of names without prices here is left out and told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.data.align import Dates, standing
from portfolio_ebm.data.clean import Table, check_overlap, table
from portfolio_ebm.data.dates import day
from portfolio_ebm.data.long import single
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]

NAMES = ("weight", "weights", "w")
SLACK = 1e-6
"""How far above 1 the weights of a row may add up by rounding."""


def benchmark_weights(given: object, dates: Dates, assets: tuple[str, ...], notes: list[str]) -> dict[str, Array]:
    """By benchmark, weights (T, n) as they stood at each date; NaN before the first row, 0 for names not in it.

    Args:
        given: `{"name": frame}`, or one frame for the benchmark called "benchmark"; wide (dates down, names across), or
            long with the columns date, asset and weight.
        dates: the panel's dates.
        assets: the panel's names.
        notes: what there is to tell is added to it.

    Raises:
        DataError: a negative weight, a row that is blank or adds up to more than 1, no name or no date in common.
    """
    if given is None:
        return {}
    if isinstance(given, pd.DataFrame):
        given = {"benchmark": given}
    if not isinstance(given, Mapping):
        raise DataError(
            f"benchmark_weights: got {type(given).__name__}; give {{'name': frame}} with dates down and names across."
        )
    return {str(name): _one(str(name), item, dates, assets, notes) for name, item in given.items()}


def _one(name: str, item: Any, dates: Dates, assets: tuple[str, ...], notes: list[str]) -> Array:
    what = f"benchmark weights '{name}'"
    long = single(item, "weights", NAMES) if isinstance(item, pd.DataFrame) else None
    found = table(item if long is None else long, what, allow_blank=True)
    check_overlap(dates, found)
    _check(found)
    here = [column for column in found.columns if column in set(assets)]
    if not here:
        raise DataError(
            f"{found.source}: none of its names ({', '.join(found.columns[:3])}) has prices here; the panel has "
            f"{', '.join(assets[:3])}. Use the same names in both."
        )
    weights = np.nan_to_num(found.values)
    values = np.zeros((len(found.dates), len(assets)))
    for column in here:
        values[:, assets.index(column)] = weights[:, found.columns.index(column)]
    gone = [column for column in found.columns if column not in set(here)]
    share = float(np.median(weights.sum(axis=1) - values.sum(axis=1)))
    if gone:
        notes.append(
            f"{found.source}: {len(gone)} of {len(found.columns)} names have no prices here ({', '.join(gone[:5])}"
            f"{', ...' if len(gone) > 5 else ''}); {share:.1%} of the benchmark is missing on a typical date."
        )
    if found.dates[0] > dates[0]:
        notes.append(f"{found.source}: starts {day(found.dates[0])}; before it the weights are unknown.")
    return standing(Table(found.source, found.dates, assets, values), dates)


def _check(found: Table) -> None:
    with np.errstate(invalid="ignore"):
        low = found.values < 0.0
    if low.any():
        row, column = (int(item[0]) for item in np.nonzero(low))
        raise DataError(
            f"{found.where(row, column)}: the weight is negative ({found.values[row, column]:g}); give the weights the "
            "benchmark holds, not the distance from them."
        )
    total = np.nansum(found.values, axis=1)
    blank = np.flatnonzero(total == 0.0)
    if blank.size:
        raise DataError(
            f"{found.source}: {found.day(blank[0])} has no weight; remove the row, the one before it stands."
        )
    over = np.flatnonzero(total > 1.0 + SLACK)
    if over.size:
        hint = "divide percent by 100" if 50.0 < np.median(total) < 150.0 else "weights are fractions of the whole"
        raise DataError(f"{found.source}: the weights of {found.day(over[0])} add up to {total[over[0]]:.6g}; {hint}.")
