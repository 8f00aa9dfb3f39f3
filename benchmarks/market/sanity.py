"""A check that every baseline's fits are sound: year by year beside the normal law of all days before.

A degenerate fit, of a margin, a copula or a whole law, shows as a year far below what no model at all would score.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from benchmarks.market.margins import Event
from benchmarks.market.walk import Walk

Array = NDArray[np.float64]
WORSE = 1.0
"""Nats a day and series by which a year may lie below the normal law's; 2008 costs calm laws less than that."""


def strange(law: str, frame: pd.DataFrame, walk: Walk) -> list[Event]:
    """One event a year and score column that is not finite somewhere, or falls behind the normal law."""
    columns = [(name, [k]) for k, name in enumerate(walk.names) if f"log:{name}" in frame]
    if "log_score" in frame:
        columns.append(("all together", list(range(len(walk.names)))))
    found = []
    for year in walk.years:
        rows = slice(year.first - walk.first, year.stop - walk.first)
        for name, which in columns:
            score = frame["log_score" if name == "all together" else f"log:{name}"].to_numpy()[rows]
            if np.isnan(score).all():
                continue  # a law of draws, without a density
            if not np.isfinite(score).all():
                found.append(Event(law, name, year.name, f"{int((~np.isfinite(score)).sum())} scores not finite; kept"))
                continue
            behind = _normal(walk.percent[:, which], year.first, year.stop).mean() - score.mean()
            if behind > WORSE * len(which):
                found.append(Event(law, name, year.name, f"{behind:.1f} nats a day below a normal law; kept"))
    return found


def _normal(x: Array, first: int, stop: int) -> Array:
    """Log densities of rows [first, stop) under the normal law with the moments of the rows before."""
    past = x[:first]
    covariance = np.atleast_2d(np.cov(past.T))
    scores = multivariate_normal(past.mean(axis=0), covariance, allow_singular=True).logpdf(x[first:stop])
    return np.atleast_1d(scores) if math.isfinite(float(np.sum(scores))) else np.full(stop - first, -np.inf)
