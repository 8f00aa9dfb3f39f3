"""What a fetch did, ticker by ticker, in words and as a table."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import pandas as pd

SHOWN = 8
"""Names in a sentence; of more only the number is told."""


@dataclass(frozen=True)
class Row:
    """One ticker of a fetch.

    Attributes:
        status: "new", "updated", "unchanged", "offline", "refetched: why" or "failed: why".
        rows: stored rows, from `first` to `last` (YYYY-MM-DD); `added`: how many of them this fetch brought.
        note: what else there is to say.
    """

    ticker: str
    status: str
    rows: int = 0
    first: str | None = None
    last: str | None = None
    added: int = 0
    note: str = ""

    @property
    def reason(self) -> str:
        """What follows the word of the status: why it failed or was fetched again."""
        return self.status.partition(": ")[2]


@dataclass(frozen=True)
class Fetched:
    """The rows of a fetch, in the order of the tickers asked for."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> tuple[str, ...]:
        """Tickers whose stored series is what was asked for."""
        return tuple(row.ticker for row in self.rows if not row.status.startswith("failed"))

    @property
    def failed(self) -> tuple[str, ...]:
        """Tickers that were not fetched; an older series of them may be stored."""
        return tuple(row.ticker for row in self.rows if row.status.startswith("failed"))

    def frame(self) -> pd.DataFrame:
        """One line a ticker: status, rows, first, last, added, note."""
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("ticker")

    def report(self) -> tuple[str, ...]:
        """How many of each, then a sentence for each reason."""
        counts = Counter(row.status.partition(":")[0] for row in self.rows)
        said = [f"{len(self.rows)} tickers: {', '.join(f'{n} {word}' for word, n in counts.items())}."]
        again: dict[str, list[str]] = {}
        failed: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.status.startswith("refetched"):
                again.setdefault(row.reason, []).append(row.ticker)
            elif row.status.startswith("failed"):
                failed.setdefault(row.reason, []).append(row)
        said += [f"{named(names)} fetched whole again: {why}." for why, names in again.items()]
        said += [_failure(why, rows, some=bool(self.ok)) for why, rows in failed.items()]
        return (*said, *(f"{row.ticker}: {row.note}." for row in self.rows if row.note))

    def __str__(self) -> str:
        return "\n".join(self.report())


def named(names: list[str]) -> str:
    """A few names, or some of them and how many there are.

    Example:
        >>> named(["SPY", "TLT"])
        'SPY, TLT'
    """
    return ", ".join(names) if len(names) <= SHOWN else f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"


def _failure(why: str, rows: list[Row], some: bool) -> str:
    names = named([row.ticker for row in rows])
    said = f"{len(rows)} ticker(s) not fetched ({names}): {why}."
    if why == "Yahoo limits the rate":
        said = f"Yahoo limits the rate: {len(rows)} ticker(s) not fetched ({names}); "
        said += f"{'the others are stored; ' if some else ''}run again later."
    held = [row for row in rows if row.last is not None]
    if held:
        kept = named([f"{row.ticker} to {row.last}" for row in held])
        said += f" Stored from before: {kept}; offline=True serves that."
    return said
