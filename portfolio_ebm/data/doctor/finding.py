"""What the doctor says: findings, each with its place, its sureness and its remedy, gathered in a report.

Sureness is the posterior probability of a fault against an honest cause, from a log likelihood ratio and prior odds
that the rule states; `portfolio_ebm.data.doctor.odds` holds both. Facts (a date that is there twice) have sureness 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

LINES = 12
"""Findings of one kind that `Report.text` prints; the frame holds all of them."""


@dataclass(frozen=True)
class Edit:
    """What a safe remedy does to cells of one column of the user's frame; rows and column are positions there.

    `value` of None blanks the cells; a number replaces them, or multiplies them where `scale` is set.
    """

    column: int
    rows: NDArray[np.int64]
    value: float | None
    scale: bool = False

    def apply(self, before: NDArray[np.float64]) -> NDArray[np.float64]:
        """The new values of the cells that held `before`."""
        if self.value is None:
            return np.full_like(before, np.nan)
        if not self.scale:
            return np.full_like(before, self.value)
        # A hundredth is divided out by 100, which is exact, and not multiplied by 0.01, which is not.
        return before * self.value if abs(self.value) >= 1.0 else before / (1.0 / self.value)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the data, or may be.

    Attributes:
        kind: the family: "stale", "spike", "split", "date", ...
        asset: the column, or "" where the whole file is meant.
        first, last: the dates it spans, as YYYY-MM-DD; "" where there is no date.
        what: a sentence with the numbers.
        sure: probability that this is a fault, 0 to 1, from the odds of `odds.py`. They were set on the even columns
            of the data of `benchmarks/data_faults.py --develop`; on the odd ones, with a fault in a tenth of the
            names, findings stated at 95 % and more were right in 98 % of cases, 80 to 95 % in about 3 of 4, 50 to
            80 % in about half, 20 to 50 % in 1 of 16 and below in 1 of 50: read what is under 50 % as a place to
            look at, not as an estimate.
        remedy: a sentence that says what to do.
        fixable: `fix` can do it without inventing a number.
    """

    kind: str
    asset: str
    first: str
    last: str
    what: str
    sure: float
    remedy: str
    fixable: bool = False
    edits: tuple[Edit, ...] = field(default=(), repr=False, compare=False)

    def line(self) -> str:
        """The finding in one readable line."""
        span = self.first if self.first == self.last else f"{self.first} to {self.last}"
        place = ", ".join(item for item in (self.asset, span) if item.strip())
        mark = " [fixable]" if self.fixable else ""
        return f"{self.sure:4.0%}  {place + ': ' if place else ''}{self.what} {self.remedy}{mark}"


@dataclass(frozen=True)
class Rows:
    """The rows of the user's frame as the doctor read them, for `fix`.

    Attributes:
        dates: the date of every row as it should be, NaT where it cannot be read.
        labels: the row labels as they were, to know the frame again.
        columns: the column labels as they were.
        column: position of the column that holds the dates; None where the index does.
        repeats: positions of rows that repeat another row cell by cell.
        names: of a long table the name that each row speaks of; None for a wide one.
    """

    dates: NDArray[np.datetime64]
    labels: pd.Index[Any]
    columns: pd.Index[Any]
    column: int | None
    repeats: NDArray[np.int64]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Report:
    """All findings about one set of data, surest first.

    Attributes:
        source: the file's name, or what the caller called it.
        what: "prices" or "returns", as they were taken.
        shape: dates and names examined.
        findings: sorted by sureness.
        ran: the checks that were made.
        unchecked: sentences on the checks that could not be made, and why.
    """

    source: str
    what: str
    shape: tuple[int, int]
    findings: tuple[Finding, ...]
    ran: tuple[str, ...]
    unchecked: tuple[str, ...]
    rows: Rows = field(repr=False, compare=False)

    def where(self, rule: Callable[[Finding], bool]) -> tuple[Finding, ...]:
        """The findings that `rule` accepts."""
        return tuple(item for item in self.findings if rule(item))

    def frame(self) -> pd.DataFrame:
        """One finding a row: kind, asset, first, last, sure, what, remedy, fixable."""
        names = ["kind", "asset", "first", "last", "sure", "what", "remedy", "fixable"]
        return pd.DataFrame([[getattr(item, name) for name in names] for item in self.findings], columns=names)

    def text(self) -> str:
        """The report for people: grouped by kind, surest kind first, one line a finding."""
        dates, names = self.shape
        lines = [f"{self.source}: {self.what} of {names} names, {dates:,} dates."]
        if not self.findings:
            lines.append("Nothing wrong was found.")
        groups: dict[str, list[Finding]] = {}
        for item in self.findings:
            groups.setdefault(item.kind, []).append(item)
        for kind, items in groups.items():
            lines += ["", f"{kind} ({len(items)})", *("  " + item.line() for item in items[:LINES])]
            if len(items) > LINES:
                lines.append(f"  and {len(items) - LINES} more, each at {items[LINES].sure:.0%} or less.")
        lines += ["", f"Checked: {', '.join(self.ran) or 'nothing'}."]
        lines += [f"Not checked: {sentence}" for sentence in self.unchecked]
        fixable = sum(item.fixable for item in self.findings)
        if fixable:
            lines.append(
                f"{fixable} of {len(self.findings)} findings have a safe remedy that can be applied to a copy."
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Surest first; ties by kind, asset and date, so that the order never depends on the rules' order."""
    return tuple(sorted(findings, key=lambda item: (-item.sure, item.kind, item.asset, item.first, item.last)))
