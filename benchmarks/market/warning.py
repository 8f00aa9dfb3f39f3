"""Early warning of stress: how well a number known at a close ranks the 21 days that follow.

    volatility event   the realised volatility sqrt(mean r^2) of the market over rows s .. s + 20 is in its top decile
    loss event         the market's compound return over the same rows is in its bottom decile

Deciles are those of the test days, so the rate of events is a tenth and the same for every scorer. The dispersion of a
forecast is var5 - es1 of the market, the distance between two of its tail points: free of the mean, and made of what
every law here has. Every scorer for row s is known at the close of s - 1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.market.data import Data
from benchmarks.market.statistics import average_precision, bootstrap
from benchmarks.market.walk import Year

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
AHEAD, DECILE = 21, 0.1


def events(market: Array) -> dict[str, Mask]:
    """Both events at rows s = 0 .. n - 21 of the market's returns (n,)."""
    window = np.lib.stride_tricks.sliding_window_view(market, AHEAD)
    volatility = np.sqrt((window**2).mean(axis=1))
    compound = np.log1p(window).sum(axis=1)
    return {
        "volatility": volatility >= np.quantile(volatility, 1 - DECILE),
        "loss": compound <= np.quantile(compound, DECILE),
    }


def dispersion(frame: pd.DataFrame, market: str) -> Array:
    """var5 - es1 of the market's forecast, (n,)."""
    return (frame[f"var5:{market}"] - frame[f"es1:{market}"]).to_numpy()


def turbulence(x: Array, years: list[Year]) -> Array:
    """Squared Mahalanobis distance of each test row from the mean and covariance of all rows before its year.

    Source: M. Kritzman and Y. Li (2010), Skulls, financial turbulence, and risk management, Financial Analysts J. 66.
    """
    out = []
    for year in years:
        past = x[: year.first]
        away = x[year.first - 1 : year.stop - 1] - past.mean(axis=0)
        out.append((away * np.linalg.solve(np.cov(past.T), away.T).T).sum(axis=1))
    return np.concatenate(out)


def isolation(x: Array, years: list[Year]) -> Array | None:
    """Isolation-forest anomaly of the row before each test row, the forest grown on all rows before its year; None
    without scikit-learn."""
    try:
        from sklearn.ensemble import IsolationForest
    except ImportError:
        return None
    out = []
    for year in years:
        forest = IsolationForest(n_estimators=100, random_state=0).fit(x[: year.first])
        out.append(-forest.score_samples(x[year.first - 1 : year.stop - 1]))
    return np.concatenate(out)


def scorers(frames: Mapping[str, pd.DataFrame], data: Data, x: Array, years: list[Year]) -> dict[str, Array]:
    """Everything that ranks, by name, one number a test row, known the close before."""
    first, stop = years[0].first, years[-1].stop
    found = {f"{name}: dispersion": dispersion(f, data.market) for name, f in frames.items()}
    if data.vix is not None:
        found["VIX"] = data.vix.to_numpy()[first - 1 : stop - 1]
    one = turbulence(x, years)
    found["turbulence, the day"] = one
    found["turbulence, 21-day mean"] = _mean21(one)
    forest = isolation(x, years)
    if forest is not None:
        found["isolation forest, the day"] = forest
        found["isolation forest, 21-day mean"] = _mean21(forest)
    return found


def _mean21(x: Array) -> Array:
    total = np.cumsum(np.concatenate([[0.0], x]))
    n = np.arange(1, len(x) + 1)
    low = np.maximum(n - AHEAD, 0)
    out: Array = (total[n] - total[low]) / (n - low)
    return out


def precision_table(market: Array, scores: Mapping[str, Array], reference: str) -> pd.DataFrame:
    """Average precision of each scorer for both events, and reference less it with a block-bootstrap interval.

    All are judged on the rows where every one of them is known.
    """
    n = len(market) - AHEAD + 1
    known = np.all([np.isfinite(s[:n]) for s in scores.values()], axis=0)
    rows = []
    found = {what: event[known] for what, event in events(market).items()}
    kept = {name: s[:n][known] for name, s in scores.items()}
    for name, s in kept.items():
        row: dict[str, object] = {"scorer": name, "days": int(known.sum())}
        for what, event in found.items():
            row[what] = average_precision(s, event)
            row[f"{what} gap"] = average_precision(kept[reference], event) - average_precision(s, event)
            row[f"{what} low"], row[f"{what} high"] = _interval(kept[reference], s, event)
        rows.append(row)
    return pd.DataFrame(rows).set_index("scorer")


def _interval(a: Array, b: Array, event: Mask) -> tuple[float, float]:
    if a is b:
        return 0.0, 0.0

    def gap(rows: NDArray[np.intp]) -> float:
        return average_precision(a[rows], event[rows]) - average_precision(b[rows], event[rows])

    return bootstrap(gap, len(event), block=126, draws=400)
