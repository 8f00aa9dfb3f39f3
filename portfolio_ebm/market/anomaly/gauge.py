"""regime_gauge: how dangerous the next days are said to be, and which past crises that would have flagged.

    dispersion_t = var5 - es1 of the market's forecast for day t          known at the close of t - 1
    energy_t     = 1/2 (y_t - m)' S^{-1} (y_t - m),   y = log dispersions of all series, m and S of the days before t

Each is flagged where it is above the 1 - rate quantile of its own past. Crises are known in hindsight and only judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from portfolio_ebm.errors import DataError, SpecError

Array = NDArray[np.float64]

WARM_UP = 252
GAUGES = ("dispersion", "energy")
RIDGE = 1e-3
CALM = 63
"""Days before a crisis in which a flag is early and not false."""


@dataclass(frozen=True)
class RegimeGauge:
    """The gauge of every day scored.

    Attributes:
        table: by date: dispersion, energy, the share of its own past that each exceeds (NaN in the first 252 days),
            `flag` (of the dispersion) and `energy flag`.
        crises: one row a fall of the market of more than `depth`: peak, trough, fall, and of each gauge the first flag
            from 63 days before the peak to the trough (NaT where missed).
        false_alarms: spells of flags a year, by gauge, that touch no such span.
    """

    table: pd.DataFrame
    crises: pd.DataFrame
    false_alarms: dict[str, float]


def regime_gauge(frame: pd.DataFrame, market: str, *, rate: float = 0.1, depth: float = 0.15) -> RegimeGauge:
    """The gauge from the frame that `score` made.

    Args:
        frame: of `score`.
        market: the series that stands for the market.
        rate: share of its own past that a flag is above.
        depth: a fall of the market from its peak that is called a crisis.

    Raises:
        DataError: no frame of `score`, or fewer than 253 days; SpecError: rate or depth outside (0, 1).

    Example:
        >>> regime_gauge(score(FactorEBM(), panel, start="2000-01-03"), "Mkt-RF").crises
    """
    if not (0 < rate < 1 and 0 < depth < 1):
        raise SpecError(f"rate={rate:g}, depth={depth:g}: give shares inside (0, 1).")
    names = [str(c)[5:] for c in frame.columns if str(c).startswith("var5:")]
    if market not in names:
        raise DataError(f"regime_gauge: the frame has no series '{market}'; it has {', '.join(names[:8]) or 'none'}.")
    if len(frame) <= WARM_UP:
        raise DataError(f"regime_gauge: {len(frame)} days are scored and more than {WARM_UP} are needed.")
    spread = np.stack([(frame[f"var5:{n}"] - frame[f"es1:{n}"]).to_numpy(dtype=float) for n in names], axis=1)
    values = {"dispersion": spread[:, names.index(market)], "energy": _energy(np.log(np.maximum(spread, 1e-12)))}
    ranks = {name: _rank(x) for name, x in values.items()}
    table = pd.DataFrame(
        values
        | {f"{name} rank": x for name, x in ranks.items()}
        | {"flag": ranks["dispersion"] > 1 - rate, "energy flag": ranks["energy"] > 1 - rate},
        index=frame.index,
    )
    flags = {"dispersion": table["flag"].to_numpy(), "energy": table["energy flag"].to_numpy()}
    falls = _falls(frame[f"return:{market}"].fillna(0.0).to_numpy(dtype=float), depth)
    rows, false = _judged(frame.index, falls, flags)
    return RegimeGauge(table, rows, false)


def _energy(y: Array) -> Array:
    """1/2 Mahalanobis of each row from the mean and covariance of the rows before it; NaN in the warm-up."""
    out = np.full(len(y), np.nan)
    total, square = y[:WARM_UP].sum(axis=0), y[:WARM_UP].T @ y[:WARM_UP]
    for t in range(WARM_UP, len(y)):
        mean = total / t
        covariance = square / t - np.outer(mean, mean)
        away = y[t] - mean
        # Dispersions move together: a little of each one's own variance keeps the inverse from reading rounding.
        covariance += RIDGE * np.diag(np.maximum(np.diag(covariance), 1e-12))
        out[t] = 0.5 * away @ np.linalg.solve(covariance, away)
        total, square = total + y[t], square + np.outer(y[t], y[t])
    return out


def _rank(x: Array) -> Array:
    """Share of the values before each one that are below it; NaN until there are 252."""
    out = np.full(len(x), np.nan)
    past: list[float] = []
    for t, value in enumerate(x):
        if np.isfinite(value):
            if len(past) >= WARM_UP:
                out[t] = np.searchsorted(past, value) / len(past)
            past.insert(int(np.searchsorted(past, value)), float(value))
    return out


def _falls(r: Array, depth: float) -> list[tuple[int, int, float]]:
    """(peak, trough, fall) of every spell below a peak that went deeper than `depth`."""
    wealth = np.concatenate([[1.0], np.cumprod(1 + r)])
    peak = np.maximum.accumulate(wealth)
    under = np.flatnonzero(wealth < peak)
    found = []
    for spell in np.split(under, np.flatnonzero(np.diff(under) > 1) + 1):
        if not len(spell):
            continue
        low = spell[int(np.argmin(wealth[spell]))]
        fall = float(wealth[low] / peak[low] - 1)
        if fall < -depth:
            found.append((max(int(spell[0]) - 2, 0), int(low) - 1, fall))
    return found


def _judged(
    dates: pd.Index, falls: list[tuple[int, int, float]], flags: dict[str, NDArray[np.bool_]]
) -> tuple[pd.DataFrame, dict[str, float]]:
    rows, inside = [], np.zeros(len(dates), dtype=bool)
    for peak, trough, fall in falls:
        first = max(peak - CALM, 0)
        inside[first : trough + 1] = True
        row: dict[str, object] = {"peak": dates[peak], "trough": dates[trough], "fall": fall}
        for name, flag in flags.items():
            hit = np.flatnonzero(flag[first : trough + 1])
            row[name] = dates[first + int(hit[0])] if len(hit) else pd.NaT
        rows.append(row)
    years = (len(dates) - WARM_UP) / 252
    false = {}
    for name, flag in flags.items():
        on = np.flatnonzero(flag)
        # Flags less than a month apart are one alarm.
        spells = [s for s in np.split(on, np.flatnonzero(np.diff(on) > 21) + 1) if len(s)]
        false[name] = sum(not inside[s[0] : s[-1] + 1].any() for s in spells) / years
    return pd.DataFrame(rows, columns=["peak", "trough", "fall", *flags]), false
