"""What no estimate should be made from: each finding names the series, the dates and the remedy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError

Array = NDArray[np.float64]

PERCENT = 0.2
"""A median absolute return above this is taken for percent written as decimals."""

ALIKE = 0.95
"""Two factors that correlate above this are one factor twice."""

FEWEST_COMMON = 60
"""Common days below which a correlation says nothing."""


def check_assets(window: Array, past: Past) -> None:
    """Refuse asset returns (T, n) that are infinite, or constant or all missing for a name that is traded.

    Raises:
        DataError: names the assets, the window's dates and what to do.
    """
    _check_numbers(window, past.assets, past, "asset")
    seen = ~np.isnan(window)
    count = seen.sum(axis=0)
    silent = past.tradeable & (count == 0)
    if silent.any():
        raise DataError(
            f"{_names(past.assets, silent)}: tradeable on {past.date}, but no return between "
            f"{_span(past, len(window))}; add prices, or drop the asset."
        )
    with np.errstate(invalid="ignore"):
        still = past.tradeable & (count >= 20) & (_range(window, seen) == 0)
    if still.any():
        raise DataError(
            f"{_names(past.assets, still)}: constant returns between {_span(past, len(window))}; "
            "a constant series has no density: drop the asset, or hold it as cash."
        )


def check_factors(window: Array, names: tuple[str, ...], past: Past, fewest: int) -> None:
    """Refuse factor returns (T, K) that are infinite, too short, constant, or linear combinations of others.

    Raises:
        DataError: names the factors, the dates and what to do.
    """
    _check_numbers(window, names, past, "factor")
    seen = ~np.isnan(window)
    count = seen.sum(axis=0)
    if (count < fewest).any():
        short = int(np.argmin(count))
        first = (
            str(past.dates[-len(window) :][np.argmax(seen[:, short])].astype("datetime64[D]"))
            if count[short]
            else "never"
        )
        raise DataError(
            f"Factor {names[short]} has {count[short]} observations between {_span(past, len(window))} "
            f"(first: {first}) and {fewest} are needed; start later, lower min_history, or leave the factor out."
        )
    still = _range(window, seen) == 0
    if still.any():
        raise DataError(f"Factor {_names(names, still)}: constant between {_span(past, len(window))}; leave it out.")
    rows = window[seen.all(axis=1)]
    if len(names) > 1 and len(rows) > len(names):
        _check_rank(rows, names, past, len(window))


def check_apart(x: Array, names: tuple[str, ...], past: Past, *, left: bool) -> None:
    """Refuse two factors (T, K) that correlate above 0.95 over the days on which both were observed.

    Args:
        x: factor returns; what the market left of them where `left` says so.

    Raises:
        DataError: names both factors, their correlation, the dates and what to do.
    """
    for k in range(1, len(names)):
        for j in range(k):
            both = ~np.isnan(x[:, j]) & ~np.isnan(x[:, k])
            if both.sum() < FEWEST_COMMON:
                continue
            found = float(np.corrcoef(x[both, j], x[both, k])[0, 1])
            if abs(found) <= ALIKE:
                continue
            what = "correlate, after the market is taken out," if left else "correlate"
            remedy = "leave one of them out, or take both as they are with orthogonalise='none'"
            if not left:
                remedy = f"take the market out of them with orthogonalise='market', {remedy}"
            raise DataError(
                f"Factors {names[j]} and {names[k]} {what} {found:.2f} between {_span(past, len(x))}, beyond "
                f"{ALIKE}: they are one factor twice; {remedy}."
            )


def _check_rank(rows: Array, names: tuple[str, ...], past: Past, periods: int) -> None:
    scaled = rows / rows.std(axis=0)
    # The least eigenvalue bounds from below what any regression leaves: above the limit there is none to find.
    if np.linalg.eigvalsh(scaled.T @ scaled / len(scaled))[0] > 1e-9:
        return
    # The last of a dependent set is named: it is the one that was added.
    for k in reversed(range(len(names))):
        others = np.delete(scaled, k, axis=1)
        weights, *_ = np.linalg.lstsq(others, scaled[:, k], rcond=None)
        left = scaled[:, k] - others @ weights
        if left.std() < 1e-6:
            rest = [name for name, w in zip(np.delete(names, k), weights, strict=True) if abs(w) > 1e-6]
            raise DataError(
                f"Factor {names[k]} is a linear combination of {', '.join(rest)} between {_span(past, periods)}; "
                "leave one of them out."
            )


def _check_numbers(window: Array, names: tuple[str, ...], past: Past, what: str) -> None:
    if np.isinf(window).any():
        t, i = np.argwhere(np.isinf(window))[0]
        day = str(past.dates[-len(window) :][t].astype("datetime64[D]"))
        raise DataError(
            f"{what.capitalize()} {names[i]} has an infinite return on {day}; a price of zero? Make it missing."
        )
    if window.size == 0:
        return
    # Over half of the last observed days above the limit is a median above it, and counting is cheap.
    recent = window[-63:]
    with np.errstate(invalid="ignore"):
        above = (np.abs(recent) > PERCENT).sum(axis=0)
    large = (above > 5) & (2 * above > (~np.isnan(recent)).sum(axis=0))
    if large.any():
        raise DataError(
            f"{what.capitalize()} {_names(names, large)}: the median absolute return is over {PERCENT:.0%} a period "
            f"up to {past.date}; percent taken for decimals? Divide by 100."
        )


def _range(window: Array, seen: NDArray[np.bool_]) -> Array:
    high = np.where(seen, window, -np.inf).max(axis=0, initial=-np.inf)
    low = np.where(seen, window, np.inf).min(axis=0, initial=np.inf)
    return np.asarray(np.where(seen.any(axis=0), high - low, np.inf), dtype=np.float64)


def _names(names: tuple[str, ...], which: NDArray[np.bool_]) -> str:
    return ", ".join([name for name, bad in zip(names, which, strict=True) if bad][:5])


def _span(past: Past, periods: int) -> str:
    first = past.dates[-periods] if periods else past.dates[-1]
    return f"{first.astype('datetime64[D]')} and {past.date}"
