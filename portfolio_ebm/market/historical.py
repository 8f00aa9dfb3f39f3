"""Historical and FilteredHistorical: the days of the window as the law of the next one.

    Historical:          r = m + (r_t - rbar),      t uniform over the window
    FilteredHistorical:  r = m + sigma_{T+1} z_t,   z_t = (r_t - m) / sigma_t,   sigma_t^2 = EW mean of (r_s - m)^2, s<t

Whole days are drawn, so the series keep their dependence. Over a holding period days are drawn with replacement and
compounded; in the filtered law each drawn return moves the variance of the next step.

Source: G. Barone-Adesi, K. Giannopoulos and L. Vosper (1999), VaR without correlations for portfolios of derivative
securities, Journal of Futures Markets 19.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from portfolio_ebm.data.past import Past
from portfolio_ebm.market.empirical import EmpiricalMarket
from portfolio_ebm.market.variances import ew_mean
from portfolio_ebm.market.window import FEWEST, Mean, PlainModel, Window, fill
from portfolio_ebm.types import Status, generator

Array = NDArray[np.float64]


class Historical(PlainModel):
    """Historical simulation: the last `lookback` days, each as likely as any other.

    A missing cell is filled as SampleMoments does and gets a residual drawn once, from the date's own stream. The
    law has no density: `log_prob` raises and `score` leaves the log score empty.

    Attributes:
        lookback: periods in the window.
        factors: panel factors modelled beside the assets.
        mean: "sample" (days as they were), "shrunk" or "zero" (days moved to that mean).
        scenarios: bootstrapped paths of an outlook of more than one period.

    Example:
        >>> Historical(lookback=500).fit(panel.past("2020-01-31")).var_es(weights, 0.99)
    """

    lookback: int = Field(default=252, ge=2)
    factors: tuple[str, ...] = ()
    mean: Mean = "sample"
    scenarios: int = Field(default=1000, ge=1)

    @property
    def history(self) -> int:
        return self.lookback

    def fit(self, past: Past) -> EmpiricalMarket:
        """The window's days.

        Raises:
            DataError: as SampleMoments.fit.
        """
        window = Window.of(past, self.factors, self.lookback, self.mean, "Historical")
        days = torch.from_numpy(window.values.copy())
        if window.noise is not None:
            days = days + window.noise.draw(generator(0, f"{past.date}/filled"))
        if self.mean != "sample":
            days = days - days.mean(0) + torch.from_numpy(window.mean)
        return EmpiricalMarket(
            assets=window.assets,
            factors=window.factors,
            status=Status(True, window.said),
            refitted=("days",),
            days=days,
            count=self.scenarios,
        )


class FilteredHistorical(PlainModel):
    """Filtered historical simulation: the window's days in units of that day's forecast volatility, at today's.

    Volatilities are exponentially weighted, from the days before each day alone. Missing cells are filled in the
    standardised returns, as Historical does.

    Attributes:
        lookback: standardised days.
        half_life: of the variances, in periods.
        factors: panel factors modelled beside the assets.
        mean: "sample" (plain mean of the window), "shrunk" or "zero".
        scenarios: simulated paths of an outlook of more than one period.

    Example:
        >>> FilteredHistorical(lookback=1000, half_life=23).fit(panel.past("2020-01-31")).var_es(weights, 0.99)
    """

    lookback: int = Field(default=1000, ge=2)
    half_life: float = Field(default=23.0, gt=0)
    factors: tuple[str, ...] = ()
    mean: Mean = "sample"
    scenarios: int = Field(default=1000, ge=1)

    @property
    def history(self) -> int:
        return self.lookback + FEWEST

    def fit(self, past: Past) -> EmpiricalMarket:
        """The window's standardised days at the volatility of the next day.

        Raises:
            DataError: as SampleMoments.fit.
        """
        # The variance before the first day of the window has eight half-lives of days behind it, where they exist.
        before = max(FEWEST, int(np.ceil(8 * self.half_life)))
        window = Window.of(past, self.factors, self.lookback + before, self.mean, "FilteredHistorical")
        raw = np.where(window.seen, window.values, np.nan)
        sigma = _deviations(raw - window.mean, self.half_life)
        start = max(len(raw) - self.lookback, min(FEWEST, len(raw) - 2))
        z = ((raw - window.mean) / sigma[:-1])[start:]
        z = np.where(np.isfinite(z), z, np.nan)
        days = torch.from_numpy(z)
        if np.isnan(z).any():
            filled, noise = fill(z, np.isnan(z), len(self.factors))
            days = torch.from_numpy(filled) + noise.draw(generator(0, f"{past.date}/filled"))
        # Standardised days keep the mean that was chosen, and no mean of their own.
        days = days - days.mean(0)
        centre, last = torch.from_numpy(window.mean), torch.from_numpy(sigma[-1])
        return EmpiricalMarket(
            assets=window.assets,
            factors=window.factors,
            status=Status(True, replace(window, values=window.values[start:]).said),
            refitted=("days", "volatilities"),
            days=centre + last * days,
            count=self.scenarios,
            centre=centre,
            variance=last.square(),
            decay=0.5 ** (1 / self.half_life),
        )


def _deviations(away: Array, half_life: float) -> Array:
    """EW deviations before each row of away (T, S) and after the last, (T + 1, S), NaN before the first observation.

    After the last row none is missing: a series that was never observed has the median of the others.
    """
    sigma = np.sqrt(ew_mean(away**2, half_life))
    last = sigma[-1]
    known = np.isfinite(last) & (last > 0)
    sigma[-1] = np.where(known, last, np.median(last[known]) if known.any() else np.nan)
    return np.where(sigma > 0, sigma, np.nan)
