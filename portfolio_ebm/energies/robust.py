"""Robust terms: the worst mean, or the worst covariance, within what the data leave open.

    BoxReturn:        max over |m_i - mhat_i| <= z s_i of -m'w  = -mhat'w + z sum_i s_i |w_i|
    EllipsoidReturn:  max over (m - mhat)' Q^-1 (m - mhat) <= k^2    = -mhat'w + k sqrt(w'Q w)
    RobustVariance:   max over |D|_F <= r of w'(S + D) w = w'S w + r |w|^2,
                      max over |D_ij| <= d s_i s_j       = w'S w + d (sum_i s_i |w_i|)^2

s_i^2 = Q_ii and Q = S h / T: the covariance of the mean of T periods of the panel, in units of a holding period of h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import cvxpy as cp
import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import around, root
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import lift, require_last


class BoxReturn(ConvexEnergy):
    """E(w) = -m'w + z sum_i s_i |w_i|: the return if every mean is off by z of its standard errors, against w.

    Units: fraction of wealth per holding period.

    Attributes:
        observations: T, periods of the panel that the mean was estimated from.
        errors: z, standard errors; 1.96 covers each mean at 95 % by itself.

    Example:
        >>> BoxReturn(observations=252, errors=1.0) + 2.5 * Variance()

    Source: Tutuncu, R. H. and Koenig, M. (2004), Robust asset allocation, Annals of Operations Research 132.
    """

    observations: float = Field(gt=0.0)
    errors: float = Field(default=1.0, ge=0.0)

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"mean", "covariance"})

    def widths(self, ctx: Context) -> Tensor:
        """z s_i, (..., n)."""
        return self.errors * deviations(doubt_of(ctx, self.observations))

    def bind(self, ctx: Context) -> Bound:
        mean, widths, n = ctx.mean, self.widths(ctx), ctx.n_assets

        def energy(w: Tensor) -> Tensor:
            require_last(w, n, "BoxReturn")
            return (lift(widths, w) * w.abs() - lift(mean, w) * w).sum(-1)

        return energy

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return self.widths(ctx).detach().cpu().numpy() @ cp.abs(w) - ctx.mean.detach().cpu().numpy() @ w


class EllipsoidReturn(SmoothEnergy):
    """E(w) = -m'w + k sqrt(w'Q w): the return at the worst mean of the ellipsoid of size k around m.

    Units: fraction of wealth per holding period.

    Attributes:
        observations: T, periods of the panel that the mean was estimated from.
        size: k; k^2 is a chi-square quantile with n degrees of freedom for a joint region, 1 for one standard error
            of the portfolio's own mean.

    Example:
        >>> EllipsoidReturn(observations=252, size=1.0) + 2.5 * Variance()

    Source: Goldfarb, D. and Iyengar, G. (2003), Robust portfolio selection problems, Mathematics of Operations
    Research 28(1).
    """

    observations: float = Field(gt=0.0)
    size: float = Field(default=1.0, ge=0.0)

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"mean", "covariance"})

    def bind(self, ctx: Context) -> Bound:
        mean, doubt = ctx.mean, doubt_of(ctx, self.observations)

        def energy(w: Tensor) -> Tensor:
            require_last(w, doubt.n, "EllipsoidReturn")
            return self.size * root(doubt.quad(w)) - (lift(mean, w) * w).sum(-1)

        return energy

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """With s = sqrt(w'Q w): gradient -m + k Q w / s, Hessian k (Q - g g') / s, g = Q w / s."""
        mean, doubt = ctx.mean, doubt_of(ctx, self.observations)
        dense, value = doubt.dense(), self.bind(ctx)

        def model(w: Tensor) -> Quadratic:
            size = doubt.quad(w).clamp_min(0.0).sqrt().clamp_min(torch.finfo(w.dtype).tiny ** 0.5)
            slope = doubt.matvec(w) / size
            hessian = (self.size / size) * (dense - torch.outer(slope, slope))
            return around(w, value(w), self.size * slope - mean, hessian)

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        away = cp.norm2(doubt_of(ctx, self.observations).root().detach().cpu().numpy() @ w)
        return self.size * away - ctx.mean.detach().cpu().numpy() @ w


class RobustVariance(ConvexEnergy):
    """E(w) = w'S w + r |w|^2 + d (sum_i s_i |w_i|)^2: the variance under the worst error of the covariance.

    r = `frobenius` times the mean variance bounds the Frobenius norm of the error; d = `correlation` bounds each entry,
    as an error of that size in every correlation would. Each alone is the exact worst case over symmetric errors; both
    together that over their sum.

    Units: squared fraction of wealth per holding period.

    Attributes:
        frobenius: in mean variances.
        correlation: in correlations.

    Example:
        >>> RobustVariance(frobenius=0.1)

    Source: El Ghaoui, L. and Lebret, H. (1997), Robust solutions to least-squares problems with uncertain data, SIAM
    Journal on Matrix Analysis 18(4); Tutuncu, R. H. and Koenig, M. (2004), as BoxReturn.
    """

    frobenius: float = Field(default=0.0, ge=0.0)
    correlation: float = Field(default=0.0, ge=0.0)

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"covariance"})

    def ridged(self, ctx: Context) -> Structured:
        """S + r I."""
        s = ctx.covariance
        ridge = self.frobenius * deviations(s).square().mean(-1, keepdim=True)
        return Structured(s.loadings, s.core, s.diagonal + ridge)

    def bind(self, ctx: Context) -> Bound:
        s, width = self.ridged(ctx), deviations(ctx.covariance)

        def energy(w: Tensor) -> Tensor:
            value = s.quad(require_last(w, s.n, "RobustVariance"))
            return value + self.correlation * (lift(width, w) * w.abs()).sum(-1).square()

        return energy

    def quadratic(self, ctx: Context) -> Quadratic | None:
        if self.correlation != 0.0:
            return None
        zero = torch.zeros_like(ctx.covariance.diagonal)
        return Quadratic(self.ridged(ctx).scaled(2.0), zero, zero[..., 0])

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        value = cp.sum_squares(self.ridged(ctx).root().detach().cpu().numpy() @ w)
        width = deviations(ctx.covariance).detach().cpu().numpy()
        return value + self.correlation * cp.square(width @ cp.abs(w))


def doubt_of(ctx: Context, observations: float) -> Structured:
    """Q = S h / T, the covariance of the estimated mean per holding period."""
    return ctx.covariance.scaled(ctx.horizon / observations)


def deviations(s: Structured) -> Tensor:
    """sqrt of the diagonal of F C F' + D, (..., n)."""
    return ((s.loadings @ s.core * s.loadings).sum(-1) + s.diagonal).clamp_min(0.0).sqrt()
