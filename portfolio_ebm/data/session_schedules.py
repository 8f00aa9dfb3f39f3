"""Schedules that read exchange calendars: the last session of a period, and waiting until every market trades.

A calendar is published ahead, so both are known at the close of the date itself: entry i depends on `dates[:i + 1]`
and the calendar, and a file that goes on never changes a decision already made. They need the extra "calendars".
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from portfolio_ebm.data.calendar import Schedule, periods_per_year
from portfolio_ebm.data.sessions import among, reach, sessions
from portfolio_ebm.errors import DataError

Dates = NDArray[np.datetime64]
Mask = NDArray[np.bool_]

_ENOUGH = 20
"""As many dates without a single one in common, and waiting would be for ever."""


def _names(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


Exchanges = Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]
"""One exchange or several, held as a tuple."""


class On(Schedule):
    """The decisions of `schedule`, moved to the next date on which all of the exchanges are open.

    A name without a price on the date of a decision is frozen at what is held, and so is one without a price on the
    date of the trade. `On` waits until neither happens: all exchanges are open on the date and on each of the next
    `delay` sessions of any of them. A decision still waiting when the next one comes is one with it. For daily panels;
    name every exchange that gives the panel rows.

    Attributes:
        schedule: when there is something to decide.
        exchange: one exchange or several ("XNYS", "XTKS"; "24/7" where names trade on every day).
        delay: periods between decision and trade, as in `backtest`; 0 looks at the date of the decision alone.

    `decisions` raises DataError as `sessions` does, and where 20 dates and more have no session in common.

    Example:
        >>> On(Monthly(), ("XNYS", "XTKS")).decisions(sessions("XNYS", "2024-01-02", "2024-01-05").dates)
        array([False, False,  True, False])
    """

    schedule: Schedule
    exchange: Exchanges
    delay: int = Field(default=1, ge=0)

    def decisions(self, dates: Dates) -> Mask:
        wanted = self.schedule.decisions(dates)
        if not len(wanted):
            return wanted
        opened = self._lasting(np.asarray(dates).astype("datetime64[D]"))
        if len(wanted) >= _ENOUGH and not opened.any():
            raise DataError(
                f"{' and '.join(self.exchange)} are open together on none of the {len(wanted)} dates from "
                f"{str(dates[0])[:10]} to {str(dates[-1])[:10]}; On is for daily panels dated by local days, of "
                "markets that share some."
            )
        rows = np.flatnonzero(opened)
        first = np.searchsorted(rows, np.flatnonzero(wanted))  # the open row each one waits for, past the end for none
        done = np.zeros(len(wanted), dtype=np.bool_)
        done[rows[first[first < len(rows)]]] = True
        return done

    def usual(self, dates: Dates) -> int:
        return self.schedule.usual(dates)

    def _lasting(self, days: Dates) -> Mask:
        """Bool (T,): all are open on the day and on the next `delay` sessions of any of them."""
        beyond = days[-1] + 14 + 7 * self.delay  # room for `delay` sessions
        each = [sessions(name, days[0], max(days[-1], min(beyond, reach(name)[1]))) for name in self.exchange]
        union = np.sort(np.concatenate([item.dates for item in each]).astype("datetime64[D]"))
        union = union[np.append(True, union[1:] > union[:-1])] if len(union) else union
        together = np.ones(len(union) + self.delay, dtype=np.bool_)
        for item in each:
            # What is not announced yet counts as open.
            together[: len(union)] &= among(union, item.dates.astype("datetime64[D]")) | (union > item.end)
        lasting = together[: len(union)].copy()
        for ahead in range(1, self.delay + 1):
            lasting &= together[ahead : ahead + len(union)]
        return among(days, union[lasting])


class SessionEnd(Schedule):
    """Base of the schedules that decide on the last session of each period on which all of the exchanges are open.

    Where the panel has no row on that session, the next row decides: late, and never early. The first row decides only
    if it is such a session itself. A month without a session in common has no decision.

    Attributes:
        exchange: one exchange or several.
        before: so many sessions before the last one; 1 trades on the last with the usual delay of one period.

    `decisions` raises DataError as `sessions` does; the calendar has to reach to the end of the last period.
    """

    exchange: Exchanges = ("XNYS",)
    before: int = Field(default=0, ge=0, le=10)

    def decisions(self, dates: Dates) -> Mask:
        periods_per_year(dates)  # checks the dates
        days = np.asarray(dates).astype("datetime64[D]")
        if not len(days):
            return np.zeros(0, dtype=np.bool_)
        ends = self._ends(days[0], days[-1])
        passed = np.searchsorted(ends, days, side="right")
        decides = among(days, ends)
        decides[1:] = passed[1:] > passed[:-1]
        return decides

    def usual(self, dates: Dates) -> int:
        return max(1, round(periods_per_year(dates) / self._per_year()))

    @abstractmethod
    def _period(self, days: Dates) -> NDArray[np.int64]:
        """A number for each day that grows from one period to the next."""

    @abstractmethod
    def _per_year(self) -> int: ...

    def _ends(self, first: np.datetime64, last: np.datetime64) -> Dates:
        """The session on which each period from that of `first` to that of `last` decides, datetime64[D]."""
        back, ahead = first - np.arange(366), last + np.arange(366)
        start = back[self._period(back) == self._period(back[:1])][-1]
        end = ahead[self._period(ahead) == self._period(ahead[:1])][-1]
        start = max(start, *(min(first, reach(name)[0]) for name in self.exchange))
        each = [sessions(name, start, end).dates.astype("datetime64[D]") for name in self.exchange]
        shared = each[0]
        for other in each[1:]:
            shared = np.intersect1d(shared, other)
        _, begins, counts = np.unique(self._period(shared), return_index=True, return_counts=True)
        ends: Dates = shared[begins + np.maximum(counts - 1 - self.before, 0)]
        return ends


class MonthEnd(SessionEnd):
    """Decides on the last session of each month.

    Example:
        >>> MonthEnd("XNYS").decisions(np.array(["2024-03-27", "2024-03-28", "2024-04-01"], "datetime64[D]"))
        array([False,  True, False])
    """

    def _period(self, days: Dates) -> NDArray[np.int64]:
        return days.astype("datetime64[M]").astype(np.int64)

    def _per_year(self) -> int:
        return 12


class WeekEnd(SessionEnd):
    """Decides on the last session of each week; weeks begin on Monday."""

    def _period(self, days: Dates) -> NDArray[np.int64]:
        return (days.astype(np.int64) + 3) // 7  # 1970-01-01 was a Thursday

    def _per_year(self) -> int:
        return 52


class QuarterEnd(SessionEnd):
    """Decides on the last session of each calendar quarter."""

    def _period(self, days: Dates) -> NDArray[np.int64]:
        return days.astype("datetime64[M]").astype(np.int64) // 3

    def _per_year(self) -> int:
        return 4


class YearEnd(SessionEnd):
    """Decides on the last session of each year."""

    def _period(self, days: Dates) -> NDArray[np.int64]:
        return days.astype("datetime64[Y]").astype(np.int64)

    def _per_year(self) -> int:
        return 1
