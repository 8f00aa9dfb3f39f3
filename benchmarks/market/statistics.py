"""What tables need beside the rules of `portfolio_ebm.market.scoring_rules`: intervals of means, the noise floor of a
calibration test, ranking, and bootstrap intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kstwo

from portfolio_ebm.market.scoring_rules import Z95, newey_west

Array = NDArray[np.float64]


def hac(x: Array, lags: int | None = None) -> tuple[float, float]:
    """The mean of x (n,) and the half width of its 95 % Newey-West interval; L = floor(n^(1/3)) lags by default.

    That is 17 lags at 5,000 days, more than the usual rule has: differences of log scores are persistent. Days that
    are NaN are left out.
    """
    x = x[~np.isnan(x)]
    if len(x) < 2 or not np.isfinite(x).all():
        return (float(x.mean()) if len(x) else math.nan), math.nan
    return float(x.mean()), Z95 * newey_west(x, math.floor(len(x) ** (1 / 3) + 1e-9) if lags is None else lags)


def ks_floor(n: int) -> float:
    """The median KS distance of n truly uniform draws: what a perfect forecast shows."""
    return float(kstwo.ppf(0.5, n))


def average_precision(score: Array, event: NDArray[np.bool_]) -> float:
    """Average precision of a ranking: sum over thresholds of (recall step) x precision; ties enter together.

    A ranking that knows nothing has the share of events.
    """
    positives = int(event.sum())
    if positives == 0:
        return math.nan
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    caught = np.cumsum(event[order])[last]
    steps = np.diff(np.concatenate([[0], caught])) / positives
    return float((steps * caught / (last + 1)).sum())


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], float], n: int, *, block: int = 21, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of `statistic(rows)` under a circular block bootstrap of n rows.

    Blocks of `block` rows keep what short-lived dependence there is.

    Source: D. Politis and J. Romano (1992), A circular block-resampling procedure for stationary data.
    """
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        starts = rng.integers(0, n, size=-(-n // block))
        found[draw] = statistic(((starts[:, None] + np.arange(block)) % n).ravel()[:n])
    known = found[np.isfinite(found)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
