"""Forecasts that know what they should not: rank correlations with the returns around their date.

    IC(k) = mean over dates t of the rank correlation, across names, of F(t) with r(t + k),   k = -2 .. 2

r(t) ends at t, so IC(0) is with the day that has just ended and IC(1) with the next one. A slow signal, as momentum,
has much the same IC at 0, -1 and -2; one that reverses the day has IC(0) < 0. Only a positive peak at 0 says that the
same day's return went in, and only IC(1) of a size that nobody has says that the next one did. Standard errors are
Newey-West with 5 lags.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.data.doctor.finding import Finding
from portfolio_ebm.data.doctor.odds import sureness
from portfolio_ebm.data.doctor.view import FEWEST, View

Array = NDArray[np.float64]

LAGS = (-2, -1, 0, 1, 2)

PLAUSIBLE = 0.06
"""A mean daily IC with the next return beyond this is better than anything known to work for long."""

PEAK = 0.02
"""An IC(0) above its neighbours by less than this is of no matter."""


def rank_ics(forecast: Array, returns: Array, lag: int) -> Array:
    """Rank correlation across names of F(t) with r(t + lag), (T,), NaN with fewer than five names."""
    moved = np.full(returns.shape, np.nan)
    if lag == 0:
        moved = returns
    elif lag > 0:
        moved[:-lag] = returns[lag:]
    else:
        moved[-lag:] = returns[:lag]
    both = np.isfinite(forecast) & np.isfinite(moved)
    a, b = _ranks(np.where(both, forecast, np.nan)), _ranks(np.where(both, moved, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.where(both.sum(axis=1) >= FEWEST, found, np.nan)


def _ranks(x: Array) -> Array:
    """Centred ranks of the numbers in each row, ties in the middle, 0 where unknown."""
    count = np.isfinite(x).sum(axis=1, keepdims=True)
    order = np.argsort(x, axis=1, kind="stable")
    ranked = np.take_along_axis(x, order, axis=1)
    place = np.broadcast_to(np.arange(x.shape[1]), x.shape)
    fresh = np.ones(x.shape, dtype=bool)
    fresh[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    low = np.maximum.accumulate(np.where(fresh, place, 0), axis=1)
    ends = np.ones(x.shape, dtype=bool)
    ends[:, :-1] = fresh[:, 1:]
    high = np.minimum.accumulate(np.where(ends, place, x.shape[1])[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(x.shape)
    np.put_along_axis(ranks, order, (low + high) / 2.0, axis=1)
    return np.where(np.isfinite(x), ranks - (count - 1) / 2.0, 0.0)


def mean_and_error(x: Array, lags: int = 5) -> tuple[float, float]:
    """Mean of the numbers and its Newey-West standard error; the error is infinite with fewer than 20."""
    known = x[np.isfinite(x)]
    if len(known) < 20:
        return 0.0, np.inf
    e = known - known.mean()
    variance = (e * e).mean() + 2.0 * sum((1 - k / (lags + 1)) * (e[k:] * e[:-k]).mean() for k in range(1, lags + 1))
    return float(known.mean()), float(np.sqrt(max(variance, (e * e).mean() * 0.2, 1e-12) / len(known)))


def look_ahead(view: View) -> Iterator[Finding]:
    """Forecasts that hold the return of the same day or of the next."""
    assert view.forecasts is not None
    daily = {lag: rank_ics(view.forecasts, view.returns, lag) for lag in LAGS}
    told = {lag: mean_and_error(daily[lag]) for lag in LAGS}
    rows = np.flatnonzero(np.isfinite(daily[0]))
    if not rows.size:
        return
    days = view.day(int(rows[0])), view.day(int(rows[-1]))
    shown = ", ".join(f"{lag:+d}: {told[lag][0]:+.3f}" for lag in LAGS)
    for lag in (1, 2):
        value, error = told[lag]
        sure = float(sureness(2.0 * (value - PLAUSIBLE) / error)) if np.isfinite(error) else 0.0
        if sure > 0.2 and value > 3.0 * error:
            when = "next" if lag == 1 else "next but one"
            what = (
                f"forecasts rank the return of the {when} row by {value:.3f} on average (t {value / error:.0f}; "
                f"by row {shown}): beyond what is known to work, so the future is in them."
            )
            yield Finding("look-ahead", "", *days, what, sure, "Lag what they are made of; check the dates' meaning.")
    beside = np.fmax(daily[-1], daily[-2]) * 0.0 + (np.nan_to_num(daily[-1]) + np.nan_to_num(daily[-2])) / 2.0
    peak, error = mean_and_error(daily[0] - beside)
    sure = float(sureness(1.5 * (peak - PEAK) / error, 0.95)) if np.isfinite(error) else 0.0
    if sure > 0.2 and told[0][0] > 3.0 * told[0][1] and peak > 3.0 * error:
        what = (
            f"forecasts know the return of their own date: rank correlation {told[0][0]:.3f} (t "
            f"{told[0][0] / told[0][1]:.0f}; by row {shown})."
        )
        remedy = "Fine only if computed after that close and traded later; else date them a row later."
        yield Finding("look-ahead", "", *days, what, sure, remedy)
