"""SampleMoments: the plain market model, means and covariances of a rolling window.

Per holding period of h periods: mean h m, covariance h S, scenarios m h + sqrt(h) (r_t - rbar): every day of the
window is one scenario, scaled so that with m = rbar its sample mean and covariance are exactly the two above.
"""

from __future__ import annotations

import torch

from portfolio_ebm.data.past import Past
from portfolio_ebm.market.elliptical import EllipticalMarket
from portfolio_ebm.market.window import MomentModel, require_days
from portfolio_ebm.types import Status


class SampleMoments(MomentModel):
    """Means and covariances of the last `lookback` periods; as a density, the normal law with these moments.

    A missing cell is filled with the name's mean plus its beta times the equal-weighted market of the names
    observed that day, and the residual variance that such a fill leaves out is put back on the diagonal (and,
    resampled from all names', into the scenarios). A name with fewer than 20 observations gets the market: beta
    one, the median residual variance and the market's mean.

    Attributes: see MomentModel. Shrunk covariances are models of their own, LedoitWolf and OAS.

    Example:
        >>> SampleMoments(lookback=252).fit(panel.past("2020-01-31")).outlook(21, rng).covariance.dense()
    """

    def fit(self, past: Past) -> EllipticalMarket:
        """The window's moments.

        Raises:
            DataError: no more periods than series, an unknown or too short factor, or a tradeable series that is
                constant, all missing or infinite.
        """
        window = self.days(past)
        require_days(window, "SampleMoments", past.date, centred=True, instead="LedoitWolf, OAS or FactorCovariance")
        centred = window.centred
        covariance = window.noisy(centred.T @ centred / (len(centred) - 1))
        return EllipticalMarket(
            assets=window.assets,
            factors=window.factors,
            status=Status(True, window.said),
            refitted=("moments",),
            centre=torch.from_numpy(window.mean),
            spread=torch.from_numpy(covariance),
            windows=(window,),
        )
