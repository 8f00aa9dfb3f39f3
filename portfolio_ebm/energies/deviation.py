"""Deviations of the portfolio's return: Volatility, MeanAbsoluteDeviation, Semivariance, Semideviation.

All are zero only for a return that never leaves its mean (or never falls below a target), and all but Semivariance
double when the portfolio doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import cvxpy as cp
import torch
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.faces import SmoothEnergy, portfolio_returns
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import require_last


class Volatility(SmoothEnergy):
    """E(w) = sqrt(w' S w): the standard deviation of the portfolio's return.

    Units: fraction of wealth per holding period; positively homogeneous. Smooth but at w = 0.

    Example:
        >>> MaxRatio(Return(), Volatility())  # the Sharpe ratio per holding period, negative

    Source: Markowitz, H. (1952), Portfolio Selection, Journal of Finance 7(1).
    """

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"covariance"})

    def bind(self, ctx: Context) -> Bound:
        covariance = ctx.covariance
        return lambda w: root(covariance.quad(require_last(w, covariance.n, "Volatility")))

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient S w / s, Hessian (S - g g') / s."""
        covariance = ctx.covariance

        def model(w: Tensor) -> Quadratic:
            value = covariance.quad(w).clamp_min(0.0).sqrt()
            size = value.clamp_min(torch.finfo(w.dtype).tiny ** 0.5)
            gradient = covariance.matvec(w) / size
            hessian = (covariance.dense() - torch.outer(gradient, gradient)) / size
            return around(w, value, gradient, hessian)

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return cp.norm2(ctx.covariance.root().detach().cpu().numpy() @ w)


class MeanAbsoluteDeviation(ConvexEnergy):
    """E(w) = 1/S sum_s |r_s - c|, r = R w over the S scenarios, c their mean (`centred=True`) or zero.

    Units: fraction of wealth per holding period; positively homogeneous.

    Attributes:
        centred: whether the deviation is from the portfolio's scenario mean; False takes it from zero.

    Example:
        >>> MeanAbsoluteDeviation()

    Source: Konno, H. and Yamazaki, H. (1991), Mean-absolute deviation portfolio optimization model, Management
    Science 37(5).
    """

    centred: bool = True

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"scenarios"})

    def bind(self, ctx: Context) -> Bound:
        rows = away(ctx, self.centred)
        n = rows.shape[-1]
        return lambda w: portfolio_returns(rows, require_last(w, n, "MeanAbsoluteDeviation")).abs().mean(-1)

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        rows = away(ctx, self.centred).detach().cpu().numpy()
        return cp.norm1(rows @ w) / len(rows)


class Semivariance(SmoothEnergy):
    """E(w) = 1/S sum_s max(c - r_s, 0)^2, r = R w, c the scenario mean of r (`centred=True`) or `target`.

    Units: squared fraction of wealth per holding period; the divisor is S, not S - 1.

    Attributes:
        centred: whether shortfalls are from the portfolio's scenario mean; then `target` must stay 0.
        target: the return below which there is a shortfall, per holding period, where `centred` is False.

    Example:
        >>> Semivariance(centred=False, target=0.0)

    Source: Markowitz, H. (1959), Portfolio Selection: Efficient Diversification of Investments, chapter 9.
    """

    centred: bool = True
    target: float = 0.0

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"scenarios"})

    def model_post_init(self, context: Any) -> None:
        if self.centred and self.target != 0.0:
            raise ValueError("a centred semivariance has no target; set centred=False")

    def bind(self, ctx: Context) -> Bound:
        rows = away(ctx, self.centred)
        n = rows.shape[-1]

        def energy(w: Tensor) -> Tensor:
            x = portfolio_returns(rows, require_last(w, n, type(self).__name__))
            return (self.target - x).clamp_min(0.0).square().mean(-1)

        return energy

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient -2/S R'd, d the shortfalls; Hessian 2/S R_-' R_- over the scenarios that fall short."""
        rows = away(ctx, self.centred)

        def model(w: Tensor) -> Quadratic:
            short = (self.target - rows @ w).clamp_min(0.0)
            low = rows[short > 0.0]
            gradient = -2.0 / len(rows) * (rows.mT @ short)
            return around(w, short.square().mean(), gradient, 2.0 / len(rows) * (low.mT @ low))

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        rows = away(ctx, self.centred).detach().cpu().numpy()
        return cp.sum_squares(cp.pos(self.target - rows @ w)) / len(rows)


class Semideviation(SmoothEnergy):
    """E(w) = sqrt(1/S sum_s max(c - r_s, 0)^2), r = R w, c the scenario mean of r (`centred=True`) or zero.

    Units: fraction of wealth per holding period; positively homogeneous: the risk of the Sortino ratio.

    Attributes:
        centred: whether shortfalls are from the portfolio's scenario mean; False takes them from zero.

    Example:
        >>> MaxRatio(Return(), Semideviation(centred=False))

    Source: as Semivariance; Sortino, F. A. and Price, L. N. (1994), Performance measurement in a downside risk
    framework, Journal of Investing 3(3).
    """

    centred: bool = True

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"scenarios"})

    def bind(self, ctx: Context) -> Bound:
        inner = Semivariance(centred=self.centred).bind(ctx)
        return lambda w: root(inner(w))

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Of s = sqrt(v): gradient v'/(2 s), Hessian v''/(2 s) - g g'/s."""
        inner = Semivariance(centred=self.centred).taylor(ctx)

        def model(w: Tensor) -> Quadratic:
            face = inner(w)
            assert face.matrix is not None
            hessian = face.matrix.dense()
            value = face(w).clamp_min(0.0).sqrt()
            size = value.clamp_min(torch.finfo(w.dtype).tiny ** 0.5)
            gradient = (hessian @ w + face.linear) / (2.0 * size)
            return around(w, value, gradient, hessian / (2.0 * size) - torch.outer(gradient, gradient) / size)

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        rows = away(ctx, self.centred).detach().cpu().numpy()
        return cp.norm2(cp.pos(-(rows @ w))) / len(rows) ** 0.5


def away(ctx: Context, centred: bool) -> Tensor:
    """Scenarios (..., S, n), their mean removed where `centred`."""
    scenarios = ctx.scenarios
    return scenarios - scenarios.mean(-2, keepdim=True) if centred else scenarios


def root(x: Tensor) -> Tensor:
    """sqrt(x), with the gradient 0 where x is 0."""
    positive = x > 0.0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))


def around(w: Tensor, value: Tensor, gradient: Tensor, hessian: Tensor) -> Quadratic:
    """The quadratic with this value, gradient and Hessian (n, n) at w (n,)."""
    eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    curve = hessian @ w
    linear = gradient - curve
    return Quadratic(Structured(eye, hessian, torch.zeros_like(w)), linear, value - linear @ w - 0.5 * (curve @ w))
