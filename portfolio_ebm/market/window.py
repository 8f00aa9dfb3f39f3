"""Window: the last days of the series a plain model looks at, its gaps filled, and the mean it believes in.

A missing cell is filled with the series' mean plus its beta times the equal-weighted market of the names observed that
day; the residual variance that such a fill leaves out is kept as noise, to be put back on the diagonal or drawn.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError
from portfolio_ebm.market.base import MarketModel
from portfolio_ebm.market.checks import check_assets, check_factors

Array = NDArray[np.float64]
Mean: TypeAlias = Literal["sample", "shrunk", "zero"]
"""Expected returns of a plain model: the window's means, these shrunk, or none.

"shrunk" keeps n / (n + n_0) of a mean of n observations, n_0 = 4 periods-a-year: the posterior mean under a
zero-centred normal prior on the Sharpe ratio a year, with deviation 1/2.
"""

FEWEST = 20
"""Observations below which a name's own numbers are not evidence."""

PRIOR_SHARPE = 0.5


class PlainModel(MarketModel, ABC):
    """A market model of a window of days: its fields have a `lookback` and the `factors` modelled beside the assets."""

    if TYPE_CHECKING:
        lookback: int
        factors: tuple[str, ...]

    def modelled(self, past: Past) -> tuple[str, ...]:
        """The factors in the joint law, by name."""
        return self.factors

    def lacking(self, past: Past) -> str | None:
        """Periods, or observations of a factor, that are still missing.

        Raises:
            DataError: the panel lacks a factor.
        """
        short = super().lacking(past)
        names = self.modelled(past)
        if short is not None or not names:
            return short
        columns = factor_columns(past, names, type(self).__name__)
        seen = (~np.isnan(past.factor_returns[-self.lookback :, columns])).sum(axis=0)
        need, least = min(FEWEST, self.lookback), int(np.argmin(seen))
        if seen[least] >= need:
            return None
        have = f"factor {names[least]} has {seen[least]} observations in the {self.lookback} periods up to {past.date}"
        return f"{have} and {need} are needed"


class MomentModel(PlainModel, ABC):
    """A plain model of the moments of the last `lookback` periods.

    Attributes:
        lookback: periods in the window.
        factors: panel factors modelled beside the assets, so that the joint law is over both.
        mean: expected returns: the window's means ("sample"), these shrunk as FactorEBM does ("shrunk"), or "zero".
    """

    lookback: int = Field(default=252, ge=2)
    factors: tuple[str, ...] = ()
    mean: Mean = "sample"

    @property
    def history(self) -> int:
        return self.lookback

    def days(self, past: Past) -> Window:
        """The window of `past`; raises as `Window.of`."""
        return Window.of(past, self.factors, self.lookback, self.mean, type(self).__name__)


def require_days(window: Window, what: str, date: str, *, centred: bool, instead: str) -> None:
    """Refuse a sample covariance of fewer days than it has series.

    Raises:
        DataError: it would be singular: some portfolio would seem to have no risk. Says what to use `instead`.
    """
    days, series = window.values.shape
    if days - centred >= series:
        return
    names = (*window.factors, *window.assets)
    raise DataError(
        f"{date}: {what} has {days} periods for {series} series ({names[0]} to {names[-1]}): the sample covariance is "
        f"singular, and some portfolio would seem to have no risk. Look back over more than {series} periods, or use "
        f"{instead}."
    )


@dataclass(frozen=True)
class Noise:
    """Residuals of filled cells: `deviation` (T, S), zero where a cell was observed, times draws from `pool` (m,)."""

    deviation: Array
    pool: Array

    @property
    def variance(self) -> Array:
        """The variance that the fills leave out, (S,)."""
        total: Array = (self.deviation**2).mean(axis=0)
        return total

    def weighted(self, weight: Array) -> Array:
        """The same with weights (T,) on the days, adding to one: (S,)."""
        total: Array = weight @ self.deviation**2
        return total

    def draw(self, rng: torch.Generator) -> torch.Tensor:
        """One residual for every filled cell, (T, S)."""
        pool = torch.from_numpy(self.pool)
        pick = torch.randint(len(pool), self.deviation.shape, generator=rng)
        return torch.from_numpy(self.deviation) * pool[pick]


@dataclass(frozen=True)
class Window:
    """The last T days of K factors, then n assets.

    Attributes:
        factors, assets: names.
        values: (T, K + n), gaps filled.
        seen: bool (T, K + n), observed and long enough to be believed.
        noise: what the fills lack, or None where nothing was filled.
        mean: the chosen expected returns a period, (K + n,).
        short: names put on the market because they are too short.
    """

    factors: tuple[str, ...]
    assets: tuple[str, ...]
    values: Array
    seen: NDArray[np.bool_]
    noise: Noise | None
    mean: Array
    short: tuple[str, ...]

    @classmethod
    def of(cls, past: Past, factors: tuple[str, ...], lookback: int, mean: Mean, who: str) -> Window:
        """The last `lookback` rows of `past`, checked.

        Raises:
            DataError: fewer than two periods, an unknown factor, a factor with fewer than 20 observations, or a
                tradeable series that is constant, all missing or infinite.
        """
        columns = factor_columns(past, factors, who)
        raw = past.factor_returns[-lookback:, columns]
        returns = past.returns[-lookback:]
        if len(returns) < 2:
            raise DataError(f"{past.date}: {who} needs at least 2 periods of returns and has {len(returns)}.")
        if not columns and not past.assets:
            raise DataError(f"{past.date}: {who}: the panel has no assets; name the factors to model, factors=(...).")
        if columns:
            check_factors(raw, factors, past, min(FEWEST, len(raw)))
        check_assets(returns, past)
        window = np.concatenate([raw, returns], axis=1) if columns else returns
        k = len(factors)
        missing = np.isnan(window)
        filled, noise = fill(window, missing, k) if missing.any() else (window, None)
        names = (*factors, *past.assets)
        counts = (~missing).sum(axis=0)
        enough = counts >= min(FEWEST, len(window) // 2 + 1)
        short = tuple(name for name, ok in zip(names, enough, strict=True) if not ok)
        seen = ~missing & enough
        chosen = choose_mean(filled.mean(axis=0), counts, past.periods_per_year, mean)
        return cls(tuple(factors), past.assets, filled, seen, noise, chosen, short)

    @property
    def centred(self) -> Array:
        """The days less their own mean, (T, K + n)."""
        centred: Array = self.values - self.values.mean(axis=0)
        return centred

    @property
    def said(self) -> str:
        """The sentence of a status."""
        said = f"{len(self.values)} periods"
        return said + (f"; too short, put on the market: {', '.join(self.short[:8])}" if self.short else "")

    def noisy(self, covariance: Array, weight: Array | None = None) -> Array:
        """The covariance with the variance that fills leave out on its diagonal."""
        if self.noise is not None:
            own = self.noise.variance if weight is None else self.noise.weighted(weight)
            covariance[np.diag_indices_from(covariance)] += own
        return covariance


def factor_columns(past: Past, factors: tuple[str, ...], who: str) -> list[int]:
    """Columns of the named factors.

    Raises:
        DataError: the panel lacks one, or one is named twice.
    """
    unknown = [name for name in factors if name not in past.factors]
    if unknown:
        has = ", ".join(past.factors) or "none"
        raise DataError(f"{past.date}: {who}: the panel has no factor {', '.join(unknown)}; it has {has}.")
    if len(set(factors)) < len(factors):
        raise DataError(f"{past.date}: {who}: the same factor is named twice in {', '.join(factors)}.")
    return [past.factors.index(name) for name in factors]


def choose_mean(sample: Array, counts: Array, periods_per_year: float, mean: Mean) -> Array:
    """Sample means (S,) of `counts` observations, as the choice says."""
    if mean == "zero":
        return np.zeros_like(sample)
    if mean == "shrunk":
        return np.asarray(sample * counts / (counts + periods_per_year / PRIOR_SHARPE**2), dtype=np.float64)
    return sample


def fill(window: Array, missing: NDArray[np.bool_], factors: int = 0) -> tuple[Array, Noise]:
    """The window (T, K + n) with gaps filled by mean + beta times the market, and the residuals that the fills lack.

    The market is the equal-weighted mean of the assets; of the factors where there are no assets.
    """
    seen = ~missing
    counts = seen.sum(axis=0)
    known = np.where(seen, window, 0.0)
    base = slice(factors if window.shape[1] > factors else 0, None)
    busy = seen[:, base].any(axis=1)
    if not busy.any():
        raise DataError("Every return in the window is missing; check the prices, or start later.")
    market = np.where(busy, known[:, base].sum(axis=1) / np.maximum(seen[:, base].sum(axis=1), 1), 0.0)
    market_mean = market[busy].mean()
    market = np.where(busy, market - market_mean, 0.0)
    enough = counts >= min(FEWEST, len(window) // 2 + 1)
    mean = np.where(enough, known.sum(axis=0) / np.maximum(counts, 1), market_mean)
    centred = np.where(seen, window - mean, 0.0)
    power = (market[:, None] ** 2 * seen).sum(axis=0)
    beta = np.where(
        enough & (power > 0), (market[:, None] * centred).sum(axis=0) / np.where(power > 0, power, 1.0), 1.0
    )
    # A name too short to trust keeps the market part on every day; its own few residuals are not evidence.
    usable = seen & enough
    residual = np.where(usable, centred - beta * market[:, None], 0.0)
    variance = (residual**2).sum(axis=0) / np.maximum(counts - 1, 1)
    typical = float(np.median(variance[enough])) if enough.any() else float((market**2).mean())
    deviation = np.sqrt(np.where(enough, variance, typical))
    pool = (residual / np.where(deviation > 0, deviation, 1.0))[usable]
    pool = pool / np.sqrt((pool**2).mean()) if pool.any() else np.array([-1.0, 1.0])
    return np.where(usable, window, mean + beta * market[:, None]), Noise(np.where(usable, 0.0, deviation), pool)
