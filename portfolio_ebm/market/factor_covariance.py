"""FactorCovariance: assets as loadings on factors plus independent residuals, S = B F B' + D.

    r = m + B (f - m_f) + eps,   B = argmin sum_t w_t (r_t - m - B (f_t - m_f))^2,   w_t = 2^(-(T - t) / half_life),
    F = EW covariance of the factors,   D = diag of the EW residual variances.

The joint law of factors and assets has the covariance [[F, F B'], [B F, B F B' + D]].

Source: W. Sharpe (1963), A simplified model for portfolio analysis, Management Science 9; B. Rosenberg (1974).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.elliptical import EllipticalMarket
from portfolio_ebm.market.window import FEWEST, Mean, PlainModel, Window
from portfolio_ebm.types import Status

Array = NDArray[np.float64]


class FactorCovariance(PlainModel):
    """A factor model of the covariance; as a density, the normal or Student-t law of factors and assets together.

    Loadings come from the days on which the asset was observed. A name with fewer than 20 such days (or two more
    than there are factors) has the mean loadings and the median residual variance of the others. Scenarios are days
    drawn from the law and compounded.

    Attributes:
        factors: names of the factors; () means all the panel has.
        half_life: periods after which a day counts half; None weighs the window's days alike.
        freedom: None for the normal law, nu > 2 for the Student-t law.
        lookback: periods in the window.
        mean: "sample" (plain mean of the window), "shrunk" or "zero"; deviations are taken from it.
        scenarios: scenarios of an outlook.

    Example:
        >>> FactorCovariance(factors=("market", "MTUM"), half_life=126).fit(panel.past("2020-01-31")).covariance.core
    """

    factors: tuple[str, ...] = ()
    half_life: float | None = Field(default=126.0, gt=0)
    freedom: float | None = Field(default=None, gt=2)
    lookback: int = Field(default=1260, ge=FEWEST)
    mean: Mean = "sample"
    scenarios: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _enough_days(self) -> FactorCovariance:
        if len(self.factors) + 2 > self.lookback:
            raise ValueError(f"lookback {self.lookback} is too short for {len(self.factors)} factors")
        return self

    @property
    def history(self) -> int:
        return min(self.lookback, max(FEWEST, len(self.factors) + 2, int(np.ceil(2 * (self.half_life or FEWEST)))))

    def modelled(self, past: Past) -> tuple[str, ...]:
        return self.factors or past.factors

    def fit(self, past: Past) -> EllipticalMarket:
        """The law of the next day.

        Raises:
            DataError: the panel has no factors, or no asset has days enough for its loadings; else as
                SampleMoments.fit.
        """
        names = self.modelled(past)
        if not names:
            raise DataError(
                f"{past.date}: FactorCovariance: the panel has no factors; pass factors= (CLI: --factors FILE), "
                "or use SampleMoments."
            )
        window = Window.of(past, names, self.lookback, self.mean, "FactorCovariance")
        k, periods = len(names), len(window.values)
        age = np.arange(periods)[::-1]
        weight = np.ones(periods) if self.half_life is None else 0.5 ** (age / self.half_life)
        weight /= weight.sum()
        away = window.values - window.mean
        f, core = away[:, :k], window.noisy((away * weight[:, None]).T @ away, weight)[:k, :k]
        b, d = _loadings(f, away[:, k:], window.seen[:, k:], weight, past.date)
        return EllipticalMarket(
            assets=window.assets,
            factors=window.factors,
            status=Status(True, f"{k} factors, {window.said}"),
            refitted=("moments", "loadings"),
            centre=torch.from_numpy(window.mean),
            spread=torch.from_numpy(_joint(b, core, d)),
            freedom=None if self.freedom is None else torch.tensor(self.freedom, dtype=torch.float64),
            structure=Structured(torch.from_numpy(b), torch.from_numpy(core), torch.from_numpy(d)),
            count=self.scenarios,
        )


def _joint(b: Array, core: Array, d: Array) -> Array:
    """The covariance of factors and assets, (K + n, K + n)."""
    k = len(core)
    whole = np.concatenate([np.eye(k), b])
    out: Array = whole @ core @ whole.T
    out[np.arange(k, len(out)), np.arange(k, len(out))] += d
    return out


def _loadings(f: Array, r: Array, seen: NDArray[np.bool_], weight: Array, date: str) -> tuple[Array, Array]:
    """B (n, K) and residual variances (n,) of deviations r (T, n) on f (T, K), each over its own observed days."""
    k, n = f.shape[1], r.shape[1]
    enough = seen.sum(axis=0) >= max(FEWEST, k + 2)
    if n and not enough.any():
        raise DataError(
            f"{date}: FactorCovariance: no asset has the {max(FEWEST, k + 2)} observations that loadings need; "
            "look back further, or start later."
        )
    b, d = np.zeros((n, k)), np.zeros(n)
    alike: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(enough):
        alike.setdefault(seen[:, i].tobytes(), []).append(int(i))
    for who in alike.values():
        on = weight * seen[:, who[0]]
        on = on / on.sum()
        b[who] = np.linalg.solve((f * on[:, None]).T @ f, (f * on[:, None]).T @ r[:, who]).T
        d[who] = on @ (r[:, who] - f @ b[who].T) ** 2
    b[~enough], d[~enough] = b[enough].mean(axis=0) if enough.any() else 0.0, np.median(d[enough]) if n else 0.0
    return b, d
