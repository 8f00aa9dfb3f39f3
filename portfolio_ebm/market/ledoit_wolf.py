"""LedoitWolf and OAS: the sample covariance shrunk towards a multiple of the identity, S* = (1 - a) S + a (tr S / n) I.

The two differ in a: Ledoit and Wolf estimate the a of least expected squared error for any law, the oracle
approximating shrinkage of Chen et al. for a normal one. Both are scikit-learn's.
"""

from __future__ import annotations

from typing import Literal

import torch

from portfolio_ebm.data.past import Past
from portfolio_ebm.market.elliptical import EllipticalMarket
from portfolio_ebm.market.window import MomentModel, Window
from portfolio_ebm.types import Status


class LedoitWolf(MomentModel):
    """The Ledoit-Wolf covariance of the last `lookback` periods; as a density, the normal law with these moments.

    Gaps are treated, and scenarios made, as SampleMoments does. Regular also with more series than periods.
    Attributes: see MomentModel.

    Source: O. Ledoit and M. Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices,
    Journal of Multivariate Analysis 88.

    Example:
        >>> LedoitWolf(lookback=252).fit(panel.past("2020-01-31")).covariance.dense()
    """

    def fit(self, past: Past) -> EllipticalMarket:
        """The window's shrunk moments.

        Raises:
            DataError: as SampleMoments.fit.
        """
        return _shrunk(self.days(past), "ledoit-wolf")


class OAS(MomentModel):
    """The oracle approximating shrinkage of the last `lookback` periods; otherwise as LedoitWolf.

    Source: Y. Chen, A. Wiesel, Y. Eldar and A. Hero (2010), Shrinkage algorithms for MMSE covariance estimation,
    IEEE Transactions on Signal Processing 58.

    Example:
        >>> OAS(lookback=120).fit(panel.past("2020-01-31")).covariance.dense()
    """

    def fit(self, past: Past) -> EllipticalMarket:
        """The window's shrunk moments.

        Raises:
            DataError: as SampleMoments.fit.
        """
        return _shrunk(self.days(past), "oas")


def _shrunk(window: Window, how: Literal["ledoit-wolf", "oas"]) -> EllipticalMarket:
    """The normal market of a window with its covariance shrunk."""
    # Here, not on top: scikit-learn takes half a second to load, and most runs never ask for it.
    from sklearn.covariance import ledoit_wolf, oas

    covariance, intensity = {"ledoit-wolf": ledoit_wolf, "oas": oas}[how](window.centred, assume_centered=True)
    return EllipticalMarket(
        assets=window.assets,
        factors=window.factors,
        status=Status(True, f"shrinkage {intensity:.3f}, {window.said}"),
        refitted=("moments",),
        centre=torch.from_numpy(window.mean),
        spread=torch.from_numpy(window.noisy(covariance)),
        windows=(window,),
    )
