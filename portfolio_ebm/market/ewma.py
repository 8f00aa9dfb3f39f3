"""EWMA: exponentially weighted covariance, as a normal or a Student-t law.

    S_t = sum_k lam^k (r_{t-k} - m)(r_{t-k} - m)' / sum_k lam^k,   lam = 2^(-1/half_life);
    with shrinkage s:  (1 - s) S_t + s diag S_t.

With freedom nu the law is Student-t with this covariance. nu = "fit" is the maximum-likelihood nu of the one-step-ahead
laws up to the anchor (the last row of the last completed year), and stays until the next one.

Source: J.P. Morgan/Reuters (1996), RiskMetrics technical document (half-life 11 is its 0.94, 23 its 0.97).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.optimize import minimize_scalar
from scipy.signal import lfilter
from torch import Tensor

from portfolio_ebm.data.calendar import anchor
from portfolio_ebm.data.past import Past
from portfolio_ebm.market.base import Market, scored_rows
from portfolio_ebm.market.elliptical import EllipticalMarket, elliptical_log_density
from portfolio_ebm.market.window import FEWEST, Mean, PlainModel, Window, factor_columns, require_days
from portfolio_ebm.types import Status

if TYPE_CHECKING:
    from portfolio_ebm.data.panel import Panel

Array = NDArray[np.float64]
RULES = ("YE", "QE", "ME")
WARM_UP = 60
"""Rows behind the first one-step-ahead law that the degrees of freedom are fitted on, and rows needed there."""

MOST_ROWS = 400
MOST_NAMES = 25
UNFITTED = 8.0
LEAST_FREEDOM, MOST_FREEDOM = 2.1, 200.0


class EWMA(PlainModel):
    """Exponentially weighted moments of the last `lookback` periods.

    Gaps are filled as SampleMoments does, the variance that fills leave out weighted like the days. Scenarios are
    days drawn from the law and compounded.

    Attributes:
        half_life: periods after which a day counts half.
        freedom: None for the normal law, nu > 2 for the Student-t law, "fit" for nu by maximum likelihood at the
            anchor (8 where fewer than 120 rows lie before every anchor; the status says so).
        lookback: periods in the window.
        shrinkage: share of its own diagonal that the covariance is shrunk by; needed with many series.
        factors: panel factors modelled beside the assets.
        mean: "sample" (plain mean of the window), "shrunk" or "zero"; deviations are taken from it.
        refit: when "fit" looks anew: at the end of the year "YE", quarter "QE" or month "ME".
        scenarios: scenarios of an outlook.

    Example:
        >>> EWMA(half_life=23, freedom="fit").fit(panel.past("2020-01-31")).var_es(weights, 0.99)
    """

    half_life: float = Field(default=23.0, gt=0)
    freedom: float | Literal["fit"] | None = None
    lookback: int = Field(default=1260, ge=2)
    shrinkage: float = Field(default=0.0, ge=0, lt=1)
    factors: tuple[str, ...] = ()
    mean: Mean = "sample"
    refit: Literal["YE", "QE", "ME"] = "YE"
    scenarios: int = Field(default=1000, ge=1)

    @model_validator(mode="after")
    def _finite_variance(self) -> EWMA:
        if isinstance(self.freedom, float) and self.freedom <= 2:
            raise ValueError(f"freedom {self.freedom:g}: a Student-t law has a covariance above 2 degrees of freedom")
        return self

    @property
    def history(self) -> int:
        return min(self.lookback, max(FEWEST, int(np.ceil(2 * self.half_life))))

    def lacking(self, past: Past) -> str | None:
        """Periods that are still missing: without a shrinkage, more of them than series."""
        series = len(self.factors) + len(past.assets)
        if self.shrinkage == 0 and len(past) <= series < self.lookback:
            return f"{series + 1} periods are needed for {series} series and there are {len(past)} up to {past.date}"
        return super().lacking(past)

    def fit(self, past: Past) -> EllipticalMarket:
        """The law of the next day.

        Raises:
            DataError: as SampleMoments.fit.
        """
        return self._market(past, *self._freedom(past))

    def fit_days(self, panel: Panel, rows: Sequence[int], *, refit: str | None = None) -> Market:
        """As for every model; the degrees of freedom are fitted once an anchor."""
        model = self.refitting(refit)
        assert isinstance(model, EWMA)
        found: dict[tuple[int | None, ...], tuple[float | None, str]] = {}
        markets = []
        for row in scored_rows(panel, rows):
            past = panel.past(row - 1)
            key = tuple(anchor(past.dates, rule) for rule in RULES)
            if key not in found:
                found[key] = model._freedom(past)
            markets.append(model._market(past, *found[key]))
        return EllipticalMarket.stack(markets)

    def _market(self, past: Past, nu: float | None, said: str) -> EllipticalMarket:
        window = Window.of(past, self.factors, self.lookback, self.mean, "EWMA")
        if self.shrinkage == 0:
            require_days(
                window, "EWMA", past.date, centred=self.mean != "zero", instead="a shrinkage, LedoitWolf or OAS"
            )
        away = window.values - window.mean
        weight = _weights(len(away), self.half_life)
        covariance = window.noisy((away * weight[:, None]).T @ away, weight)
        return EllipticalMarket(
            assets=window.assets,
            factors=window.factors,
            status=Status(True, ", ".join(text for text in (said, window.said) if text)),
            refitted=("moments",),
            centre=torch.from_numpy(window.mean),
            spread=torch.from_numpy(_shrink(covariance, self.shrinkage)),
            freedom=None if nu is None else torch.tensor(nu, dtype=torch.float64),
            count=self.scenarios,
        )

    def _freedom(self, past: Past) -> tuple[float | None, str]:
        """nu and a sentence about it, from the rows up to the first anchor that has enough of them."""
        if self.freedom is None or isinstance(self.freedom, float):
            return self.freedom, ""
        for rule in RULES[RULES.index(self.refit) :]:
            row = anchor(past.dates, rule)
            if row is not None and row + 1 >= 2 * WARM_UP:
                then = replace(
                    past,
                    dates=past.dates[: row + 1],
                    returns=past.returns[: row + 1],
                    factor_returns=past.factor_returns[: row + 1],
                    tradeable=np.zeros(len(past.assets), dtype=bool),
                )
                nu = self._fitted(then)
                return nu, f"nu {nu:.1f} fitted to {then.date}"
        return UNFITTED, f"nu {UNFITTED:g}, too few rows to fit it"

    def _fitted(self, past: Past) -> float:
        """The nu of greatest likelihood on up to 400 rows, evenly spaced, and 25 series.

        A part of a Student-t vector is Student-t with the same nu, so that a part may speak for all.
        """
        known = (~np.isnan(_columns(past, self.factors)[-self.lookback :])).sum(axis=0)
        factors = tuple(name for name, count in zip(self.factors, known, strict=True) if count >= WARM_UP)
        if not factors and not past.assets:
            return UNFITTED
        window = Window.of(past, factors, self.lookback, self.mean, "EWMA")
        raw = np.concatenate([_columns(past, factors)[-self.lookback :], past.returns[-self.lookback :]], axis=1)
        names = np.flatnonzero(window.seen.sum(axis=0) >= WARM_UP)
        if not names.size:
            return UNFITTED
        names = names[np.unique(np.linspace(0, len(names) - 1, MOST_NAMES).round().astype(int))]
        rows = np.unique(np.linspace(WARM_UP, len(raw) - 1, MOST_ROWS).round().astype(int))
        away = (window.values - window.mean)[:, names]
        spread = _path(away, self.half_life, rows, window, names)
        spread = _shrink(spread, max(self.shrinkage, 0.01))
        market = EllipticalMarket(
            assets=tuple(str(i) for i in names),
            factors=(),
            status=Status(True, ""),
            refitted=(),
            centre=torch.from_numpy(np.broadcast_to(window.mean[names], (len(rows), len(names))).copy()),
            spread=torch.from_numpy(spread),
        )
        return _best(*market.quadratic(torch.from_numpy(raw[rows][:, names])))


def _best(square: Tensor, log_det: Tensor, d: Tensor) -> float:
    """argmax over nu of the sum of Student-t log densities."""

    def loss(u: float) -> float:
        nu = torch.tensor(2 + np.exp(u), dtype=torch.float64)
        return -float(elliptical_log_density(square, log_det, d, nu).sum())

    ends = (float(np.log(LEAST_FREEDOM - 2)), float(np.log(MOST_FREEDOM - 2)))
    return float(2 + np.exp(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6}).x))


def _path(away: Array, half_life: float, rows: Array, window: Window, names: Array) -> Array:
    """S before each of `rows`, (R, k, k), for deviations (T, k)."""
    lam = 0.5 ** (1.0 / half_life)
    total = lfilter([1.0], [1.0, -lam], away[:, :, None] * away[:, None, :], axis=0)[rows - 1]
    weight = lfilter([1.0], [1.0, -lam], np.ones(len(away)))[rows - 1]
    out = np.asarray(total / weight[:, None, None], dtype=np.float64)
    if window.noise is not None:
        own = lfilter([1.0], [1.0, -lam], window.noise.deviation[:, names] ** 2, axis=0)[rows - 1]
        np.einsum("rkk->rk", out)[...] += own / weight[:, None]
    return out


def _weights(periods: int, half_life: float) -> Array:
    weight = 0.5 ** (np.arange(periods)[::-1] / half_life)
    return np.asarray(weight / weight.sum(), dtype=np.float64)


def _shrink(covariance: Array, share: float) -> Array:
    """(1 - s) S + s diag S, (..., S, S)."""
    eye = np.eye(covariance.shape[-1])
    return np.asarray(covariance * (1 - share * (1 - eye)), dtype=np.float64)


def _columns(past: Past, factors: tuple[str, ...]) -> Array:
    return past.factor_returns[:, factor_columns(past, factors, "EWMA")]
