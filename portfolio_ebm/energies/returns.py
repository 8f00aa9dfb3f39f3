"""Return(): the expected return of the portfolio, as an energy; from the market, from a forecast, or shrunk."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.types import lift, require_last


class Return(ConvexEnergy):
    """E(w) = -m'w, with m the expected simple returns (n,): lower is better, so the sign is turned.

    m is the market's mean, or the user's point-in-time forecast by name, which speaks of `over` periods of the panel
    and is taken to the holding period of h: m = forecast * h / over. With `shrink` = c every m_i is drawn that part of
    the way to the mean of all tradeable names: (1 - c) m_i + c mbar.

    Units: fraction of wealth per holding period.

    Attributes:
        forecast: the name of a forecast; None for the market's mean.
        over: the periods of the panel that the forecast speaks of; None for the holding period itself.
        shrink: c, in [0, 1].

    Raises:
        SpecError: no such forecast; near matches are listed. DataError: a tradeable name has none at the date.

    Example:
        >>> Return(forecast="alpha", over=21) + 0.5 * 5 * Variance()
        Return(forecast='alpha', over=21.0) + 2.5 * Variance()

    Source: Markowitz, H. (1952), Portfolio Selection, Journal of Finance 7(1); shrinkage: Jorion, P. (1986),
    Bayes-Stein estimation for portfolio analysis, Journal of Financial and Quantitative Analysis 21(3).
    """

    forecast: str | None = None
    over: float | None = Field(default=1.0, gt=0.0)
    shrink: float = Field(default=0.0, ge=0.0, le=1.0)

    curvature: ClassVar[Curvature] = "affine"
    needs: ClassVar[frozenset[str]] = frozenset({"mean"})

    def asks(self) -> frozenset[str]:
        return self.needs if self.forecast is None else frozenset()

    def check(self, ctx: Context) -> None:
        self.mean(ctx)

    def mean(self, ctx: Context) -> Tensor:
        """m, (..., n)."""
        if self.forecast is None:
            m = ctx.mean
        else:
            m = ctx.forecast(self.forecast)
            m = m if self.over is None else m * (ctx.horizon / self.over)
        if self.shrink == 0.0:
            return m
        free = ctx.tradeable.to(m)
        centre = torch.where(ctx.tradeable, m, torch.zeros_like(m)).sum(-1, keepdim=True)
        centre = centre / free.sum(-1, keepdim=True).clamp_min(1.0)
        return (1.0 - self.shrink) * m + self.shrink * centre

    def bind(self, ctx: Context) -> Bound:
        return linear(self.mean(ctx), "Return")

    def quadratic(self, ctx: Context) -> Quadratic:
        return affine(self.mean(ctx))

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return -(self.mean(ctx).detach().cpu().numpy() @ w)


def linear(mean: Tensor, who: str) -> Bound:
    """w -> -m'w."""

    def energy(w: Tensor) -> Tensor:
        require_last(w, mean.shape[-1], who)
        return -(lift(mean, w) * w).sum(-1)

    return energy


def affine(mean: Tensor) -> Quadratic:
    """-m'w as a quadratic without a matrix."""
    return Quadratic(None, -mean, torch.zeros(mean.shape[:-1], dtype=mean.dtype, device=mean.device))
