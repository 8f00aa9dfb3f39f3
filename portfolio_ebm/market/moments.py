"""SampleMoments: the plain market model, means and covariances of a rolling window.

Per holding period of h periods: mean h m, covariance h S, scenarios m h + sqrt(h) (r_t - m): every day of the
window is one scenario, scaled so that its sample mean and covariance are exactly the two above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Market, MarketModel, Outlook
from portfolio_ebm.market.checks import check_assets
from portfolio_ebm.types import Status

Array = NDArray[np.float64]
FEWEST = 20


class SampleMoments(MarketModel):
    """Means and covariances of the last `lookback` periods.

    A missing cell is filled with the name's mean plus its beta times the equal-weighted market of the names
    observed that day, and the residual variance that such a fill leaves out is put back on the diagonal (and,
    resampled from all names', into the scenarios). A name with fewer than 20 observations gets the market: beta
    one, the median residual variance and the market's mean.

    Attributes:
        lookback: periods in the window.
        shrinkage: "none", or "ledoit-wolf" towards a multiple of the identity.

    Source: O. Ledoit and M. Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices.

    Example:
        >>> SampleMoments(lookback=252).fit(panel.past("2020-01-31")).outlook(21, rng).covariance.dense()
    """

    lookback: int = Field(default=252, ge=2)
    shrinkage: Literal["none", "ledoit-wolf"] = "none"

    @property
    def history(self) -> int:
        return self.lookback

    def fit(self, past: Past) -> SampleMarket:
        """The window's moments.

        Raises:
            DataError: fewer than two periods, or a tradeable series that is constant, all missing or infinite.
        """
        window = past.returns[-self.lookback :]
        if len(window) < 2:
            raise DataError(f"{past.date}: SampleMoments needs at least 2 periods of returns and has {len(window)}.")
        missing = np.isnan(window)
        check_assets(window, past)
        filled, noise = _fill(window, missing) if missing.any() else (window, None)
        mean = filled.mean(axis=0)
        centred = filled - mean
        covariance, intensity = _covariance(centred, self.shrinkage)
        if noise is not None:
            covariance[np.diag_indices_from(covariance)] += noise.variance
        said = f"{len(window)} periods" + (f", shrinkage {intensity:.3f}" if self.shrinkage != "none" else "")
        short = [name for name, bad in zip(past.assets, missing.sum(axis=0) > len(window) - FEWEST, strict=True) if bad]
        if short:
            said += f"; too short, put on the market: {', '.join(short[:8])}"
        return SampleMarket(past.assets, mean, covariance, centred, noise, Status(True, said), ("moments",))


@dataclass(frozen=True)
class _Noise:
    """Residuals of filled cells: `deviation` (T, n), zero where a cell was observed, times draws from `pool` (m,)."""

    deviation: Array
    pool: Array

    @property
    def variance(self) -> Array:
        """The variance that the fills leave out, (n,)."""
        total: Array = (self.deviation**2).mean(axis=0)
        return total


@dataclass(frozen=True)
class SampleMarket(Market):
    """Moments per period.

    Attributes:
        mean: (n,).
        covariance: (n, n).
        centred: the window less its mean, filled cells included, (T, n).
        noise: what filled cells lack, or None where none was filled.
    """

    assets: tuple[str, ...]
    mean: Array
    covariance: Array
    centred: Array
    noise: _Noise | None
    status: Status
    refitted: tuple[str, ...]

    def outlook(self, horizon: int, rng: torch.Generator) -> Outlook:
        """Moments times the horizon; the window's own days as scenarios, scaled by its square root."""
        mean = torch.from_numpy(self.mean) * horizon
        days = torch.from_numpy(self.centred)
        if self.noise is not None:
            pool = torch.from_numpy(self.noise.pool)
            pick = torch.randint(len(pool), days.shape, generator=rng)
            days = days + torch.from_numpy(self.noise.deviation) * pool[pick]
        return Outlook(
            mean=mean,
            covariance=Structured.from_dense(torch.from_numpy(self.covariance) * horizon),
            scenarios=mean + horizon**0.5 * days,
            marginals=None,
            horizon=float(horizon),
        )


def _covariance(centred: Array, shrinkage: str) -> tuple[Array, float]:
    """The sample covariance (n, n), shrunk towards its mean variance times the identity where asked."""
    periods, n = centred.shape
    if shrinkage == "none":
        return centred.T @ centred / (periods - 1), 0.0
    sample = centred.T @ centred / periods
    level = np.trace(sample) / n
    spread = ((sample - level * np.eye(n)) ** 2).sum()
    fourth = ((centred**2).sum(axis=1) ** 2).sum()
    noise = (fourth / periods - (sample**2).sum()) / periods
    intensity = float(np.clip(noise / spread, 0.0, 1.0)) if spread > 0 else 1.0
    return (1 - intensity) * sample + intensity * level * np.eye(n), intensity


def _fill(window: Array, missing: NDArray[np.bool_]) -> tuple[Array, _Noise]:
    """The window with its gaps filled by mean + beta times the market, and the residuals that the fills lack."""
    seen = ~missing
    counts = seen.sum(axis=0)
    known = np.where(seen, window, 0.0)
    busy = seen.any(axis=1)
    if not busy.any():
        raise DataError("Every return in the window is missing; check the prices, or start later.")
    market = np.where(busy, known.sum(axis=1) / np.maximum(seen.sum(axis=1), 1), 0.0)
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
    return np.where(usable, window, mean + beta * market[:, None]), _Noise(np.where(usable, 0.0, deviation), pool)
