"""Variance() and CVaR(level): two measures of risk over one holding period."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import cvxpy as cp
import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.faces import portfolio_returns, tail_count, tail_mean
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import require_last


class Variance(ConvexEnergy):
    """E(w) = w' S w, with S = F C F' + D the covariance of simple returns (n, n), never formed.

    Units: squared fraction of wealth per holding period. The usual utility with risk aversion g is
    `Return() + 0.5 * g * Variance()`.

    Source: Markowitz, H. (1952), Portfolio Selection, Journal of Finance 7(1).
    """

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"covariance"})

    def bind(self, ctx: Context) -> Bound:
        covariance = ctx.covariance

        def energy(w: Tensor) -> Tensor:
            return covariance.quad(require_last(w, covariance.n, "Variance"))

        return energy

    def quadratic(self, ctx: Context) -> Quadratic:
        s = ctx.covariance
        zero = torch.zeros_like(s.diagonal)
        return Quadratic(s.scaled(2.0), zero, zero[..., 0])

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return cp.sum_squares(ctx.covariance.root().detach().cpu().numpy() @ w)


class CVaR(ConvexEnergy):
    """Expected shortfall of the loss l = -R w over the S scenarios of the context.

    CVaR_a(w) = min_t  t + 1/(S (1 - a)) sum_s (l_s - t)_+ : the mean of the worst 1 - a of all scenarios.
    Where S (1 - a) is not whole, the last scenario of the tail counts by its fraction. `centred=True` takes
    the portfolio's scenario mean out of its returns first, so that the mean belongs to `Return` alone.

    Units: fraction of wealth per holding period; positive for a loss.

    Attributes:
        level: a, in [0, 1); 0.95 is the mean of the worst twentieth.
        centred: whether the mean over scenarios is removed.

    Example:
        >>> CVaR(level=0.95, centred=True)

    Source: Rockafellar, R. T. and Uryasev, S. (2000), Optimization of conditional value-at-risk, Journal of
    Risk 2; for atoms: the same authors (2002), Journal of Banking & Finance 26.
    """

    level: float = Field(default=0.95, ge=0.0, lt=1.0)
    centred: bool = False

    curvature: ClassVar[Curvature] = "convex"
    needs: ClassVar[frozenset[str]] = frozenset({"scenarios"})

    def losses(self, ctx: Context) -> Tensor:
        """L (..., S, n): the loss of portfolio w in scenario s is (L w)_s."""
        scenarios = ctx.scenarios
        return (scenarios.mean(-2, keepdim=True) if self.centred else 0.0) - scenarios

    def tail(self, n_scenarios: int) -> float:
        """S (1 - a): how many scenarios the tail counts; the last may count by a fraction."""
        return tail_count(n_scenarios, self.level)

    def bind(self, ctx: Context) -> Bound:
        scenarios = ctx.scenarios
        n_scenarios, n = scenarios.shape[-2:]
        count = self.tail(n_scenarios)
        mean = scenarios.mean(-2, keepdim=True) if self.centred else None

        def value(w: Tensor) -> Tensor:
            gains = portfolio_returns(scenarios, require_last(w, n, "CVaR"))
            return tail_mean((0.0 if mean is None else portfolio_returns(mean, w)) - gains, count)

        return value

    def curved(self, w: Tensor, ctx: Context, share: float = 0.05) -> Structured:
        """A smoothed Hessian at w (n,): the kernel tail Hessian, for scores of moves, not for exact values.

        The exact Hessian of the limit law is f(v)/(1 - a) Cov[l-gradients | l = v], v the value at risk. Here
        f(v) and the conditional covariance come from the `share` of all scenarios that lie nearest to v.

        Source: Gourieroux, C., Laurent, J. P. and Scaillet, O. (2000), Sensitivity analysis of values at risk,
        Journal of Empirical Finance 7.
        """
        losses = self.losses(ctx)
        n_scenarios, n = losses.shape[-2:]
        values = losses @ w
        order = values.sort(descending=True).indices
        at = min(math.floor(self.tail(n_scenarios)), n_scenarios - 1)
        half = max(math.ceil(share * n_scenarios / 2), n // 2 + 1)
        near = order[max(at - half, 0) : at + half]
        rows = losses[near] - losses[near].mean(0)
        width = (values[near].max() - values[near].min()).clamp_min(torch.finfo(w.dtype).tiny)
        weight = 1.0 / (width * n_scenarios * (1.0 - self.level))
        eye = torch.eye(n, dtype=w.dtype, device=w.device)
        return Structured(eye, weight * (rows.mT @ rows), torch.zeros_like(w))

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        losses = self.losses(ctx).detach().cpu().numpy()
        count = self.tail(losses.shape[0])
        return cp.sum_largest(losses @ w, count) / count if count >= 1.0 else cp.max(losses @ w)
