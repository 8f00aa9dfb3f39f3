"""What cash earns in each period: a rate per period, or annual percent as central banks publish it.

    annual_percent:  r_t = (1 + p_s / 100)^((days from s to t) / 365) - 1

p_s is the last percentage known at the panel's date s before t: the rate is agreed before the period it is earned in.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.align import Dates, check_coverage, return_periods, standing
from portfolio_ebm.data.calendar import periods_per_year
from portfolio_ebm.data.clean import Table, check_overlap, single
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]
Kind = Literal["returns", "annual_percent"]


def cash_rates(given: object, kind: str | None, dates: Dates, notes: list[str]) -> Array:
    """Simple return of cash per period, (T,).

    Args:
        given: a number, or a series of rates by date, or None (cash earns nothing).
        kind: "returns" (by default), the decimal rate of one period, or "annual_percent" (5.25 for 5.25% a year).
        dates: the panel's dates.
        notes: what there is to tell is added to it.

    Raises:
        DataError: an unknown kind, rates of a size that is no rate, dates that do not fit the panel's.

    Example:
        >>> days = np.array(["2020-01-01", "2020-12-31"], "datetime64[ns]")
        >>> cash_rates(5.0, "annual_percent", days, []).round(4)
        array([0.  , 0.05])
    """
    if kind not in (None, "returns", "annual_percent"):
        raise DataError(f"cash_are '{kind}' is unknown; it is 'returns' or 'annual_percent'.")
    if given is None:
        return np.zeros(len(dates))
    if kind == "annual_percent":
        return _annual(given, dates, notes)
    source = "cash_rate"
    if isinstance(given, int | float | np.number) and not isinstance(given, bool):
        rate = np.full(len(dates), float(given))
    else:
        found = single(given, "cash_rate")
        check_coverage(found, dates)
        source = found.source
        rate = _known(return_periods(found, dates)[:, 0], source, notes)
    _check_size(rate, dates, source)
    return rate


def _annual(given: object, dates: Dates, notes: list[str]) -> Array:
    if isinstance(given, int | float | np.number) and not isinstance(given, bool):
        source, percent = "cash_rate", np.full(len(dates), float(given))
    else:
        found = single(given, "cash_rate")
        check_overlap(dates, found)
        source = found.source
        known = np.isfinite(found.values[:, 0])
        percent = standing(Table(source, found.dates[known], found.columns, found.values[known]), dates)[:, 0]
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~np.isnan(percent) & ~((percent > -20.0) & (percent < 100.0)))
    if wrong.size:
        raise DataError(f"{source}: {percent[wrong[0]]:g}% a year is no rate of cash; give annual percent (5.25).")
    notes.append(
        f"{source}: annual percent, earned from one date to the next at the last percentage known at the first of them."
    )
    if np.isnan(percent[0]):
        notes.append(f"{source}: before its first rate cash earns nothing.")
    out = np.zeros(len(dates))
    years = np.diff(dates) / np.timedelta64(365, "D")
    out[1:] = np.nan_to_num((1.0 + percent[:-1] / 100.0) ** years - 1.0)
    return out


def _known(rate: Array, source: str, notes: list[str]) -> Array:
    """Blanks take the last known rate; before the first one there is none."""
    known = np.maximum.accumulate(np.where(np.isfinite(rate), np.arange(len(rate)), -1))
    if (known < 0).any() or not np.isfinite(rate).all():
        notes.append(f"{source}: blanks take the last known rate; before the first one cash earns nothing.")
    return np.where(known >= 0, rate[np.maximum(known, 0)], 0.0)


def _check_size(rate: Array, dates: Dates, source: str) -> None:
    yearly = float(np.median(np.abs(rate))) * periods_per_year(dates)
    if not np.isfinite(yearly) or yearly > 0.5:
        raise DataError(
            f"{source}: a typical rate of {float(np.median(rate)):g} a period is {yearly:.0%} a year; "
            "give the decimal rate of one period (4% a year is about 0.00016 a day), or say cash_are='annual_percent'."
        )
