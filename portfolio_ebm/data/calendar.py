"""When a strategy decides, known from the dates seen so far and from nothing else.

A schedule marks row i from `dates[:i + 1]` alone. The end of a month is not known on its last trading day without
an exchange calendar; the first trading day of the next month is known when it is observed. So `Monthly` decides at
the first observed date of each month, and a file that goes on never changes a decision already made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.types import Spec

Dates = NDArray[np.datetime64]

_DAY = np.timedelta64(1, "D")


class Schedule(Spec, ABC):
    """Which dates are decision dates.

    A user's own schedule implements `decisions` and `usual`; `horizon` follows from them.
    """

    @abstractmethod
    def decisions(self, dates: Dates) -> NDArray[np.bool_]:
        """Bool (T,): True where the strategy decides; entry i depends on `dates[:i + 1]` only.

        Raises:
            DataError: `dates` is not a one-dimensional, strictly increasing datetime64 array.
        """

    @abstractmethod
    def usual(self, dates: Dates) -> int:
        """Periods between decisions as expected before two of them were seen."""

    def horizon(self, dates: Dates) -> int:
        """The holding period in periods of the panel: median distance of past decisions, at least 1.

        The span from the first decision is cut short by the start of the file, so it is left out; before two other
        decisions were seen, `usual` stands in.

        Example:
            >>> Monthly().horizon(np.arange("2020-01", "2020-12", dtype="datetime64[D]"))
            31
        """
        spans = np.diff(np.flatnonzero(self.decisions(dates))[1:])
        return max(1, int(np.median(spans) + 0.5)) if spans.size else max(1, self.usual(dates))


class Monthly(Schedule):
    """Decides at the first observed date of each month.

    Example:
        >>> Monthly().decisions(np.array(["2020-01-30", "2020-01-31", "2020-02-03"], "datetime64[D]"))
        array([ True, False,  True])
    """

    def decisions(self, dates: Dates) -> NDArray[np.bool_]:
        return _opens(dates, "ME")

    def usual(self, dates: Dates) -> int:
        return round(periods_per_year(dates) / 12)


class Weekly(Schedule):
    """Decides at the first observed date of each week; weeks begin on Monday."""

    def decisions(self, dates: Dates) -> NDArray[np.bool_]:
        return _opens(dates, "WE")

    def usual(self, dates: Dates) -> int:
        return round(periods_per_year(dates) / 52)


class Quarterly(Schedule):
    """Decides at the first observed date of each calendar quarter."""

    def decisions(self, dates: Dates) -> NDArray[np.bool_]:
        return _opens(dates, "QE")

    def usual(self, dates: Dates) -> int:
        return round(periods_per_year(dates) / 4)


class Yearly(Schedule):
    """Decides at the first observed date of each year."""

    def decisions(self, dates: Dates) -> NDArray[np.bool_]:
        return _opens(dates, "YE")

    def usual(self, dates: Dates) -> int:
        return round(periods_per_year(dates))


class EveryPeriod(Schedule):
    """Decides every `n` rows, counted from the first row of the panel.

    Example:
        >>> EveryPeriod(2).decisions(np.arange("2020-01-01", "2020-01-05", dtype="datetime64[D]"))
        array([ True, False,  True, False])
    """

    n: int = Field(default=1, ge=1)

    def decisions(self, dates: Dates) -> NDArray[np.bool_]:
        every: NDArray[np.bool_] = np.arange(len(_checked(dates))) % self.n == 0
        return every

    def usual(self, dates: Dates) -> int:
        return self.n


def anchor(dates: Dates, rule: str = "YE") -> int | None:
    """Row of the last date of the last completed year ("YE"), quarter ("QE"), month ("ME") or week ("WE").

    A year is completed once a date of a later one was observed, so the row is known causally: fits made at an anchor
    stay the same on every date until the next one. None while no period is completed.

    Raises:
        SpecError: an unknown rule.

    Example:
        >>> anchor(np.array(["2019-12-30", "2019-12-31", "2020-01-02"], "datetime64[D]"))
        1
    """
    starts = np.flatnonzero(_opens(dates, rule))
    return int(starts[-1]) - 1 if starts.size > 1 else None


def periods_per_year(dates: Dates) -> float:
    """252, 365, 52, 12, 4, 1 or what the median spacing says; 252 where there is nothing to measure.

    Business days give 252; when more than a tenth of the dates fall on a weekend, 365. Several rows a day count as so
    many periods on each of 252 days.
    """
    stamps = _checked(dates)
    if len(stamps) < 2:
        return 252.0
    days = stamps.astype("datetime64[D]")
    weekend = np.mean((days.astype(np.int64) + 3) % 7 >= 5)
    per_day = 365.0 if weekend > 0.1 else 252.0
    spacing = float(np.median(np.diff(stamps) / _DAY))
    if spacing < 1.0:
        return per_day * max(1.0, float(np.median(np.unique(days, return_counts=True)[1])))
    for least, most, count in (
        (1.0, 1.5, per_day),
        (6.0, 8.0, 52.0),
        (27.0, 32.0, 12.0),
        (88.0, 93.0, 4.0),
        (363.0, 368.0, 1.0),
    ):
        if least <= spacing <= most:
            return count
    return 365.25 / spacing


def _opens(dates: Dates, rule: str) -> NDArray[np.bool_]:
    keys = _keys(_checked(dates), rule)
    opens = np.ones(len(keys), dtype=np.bool_)
    opens[1:] = keys[1:] != keys[:-1]
    return opens


def _keys(dates: Dates, rule: str) -> NDArray[np.int64]:
    """A number for each date that is constant within the period of `rule` and grows from one to the next."""
    if rule == "YE":
        return dates.astype("datetime64[Y]").astype(np.int64)
    if rule == "QE":
        return dates.astype("datetime64[M]").astype(np.int64) // 3
    if rule == "ME":
        return dates.astype("datetime64[M]").astype(np.int64)
    if rule == "WE":
        return (dates.astype("datetime64[D]").astype(np.int64) + 3) // 7  # 1970-01-01 was a Thursday
    raise SpecError(f"No period '{rule}'; there is 'YE' (year), 'QE' (quarter), 'ME' (month), 'WE' (week).")


def _checked(dates: Any) -> Dates:
    stamps: Dates = np.asarray(dates)
    if stamps.ndim != 1 or stamps.dtype.kind != "M":
        raise DataError(
            f"dates: got {stamps.dtype} of shape {stamps.shape}; give a one-dimensional datetime64 array (panel.dates)."
        )
    wrong = np.flatnonzero(~(np.diff(stamps) > np.timedelta64(0)))
    if wrong.size:
        raise DataError(
            f"dates: {stamps[wrong[0] + 1]} does not come after {stamps[wrong[0]]}; sort the dates and remove repeats."
        )
    return stamps
