"""NegativeEntropy and Herfindahl: how concentrated the weights themselves are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import cvxpy as cp
import torch
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import around
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energy import Bound, ConvexEnergy, Curvature, Quadratic
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import require_last


class NegativeEntropy(SmoothEnergy):
    """E(w) = sum_i w_i log w_i, infinite where a weight is negative; least at equal weights.

    exp(-E) is the effective number of names.

    Units: none (nats).

    Example:
        >>> 2.5 * Variance() + 0.001 * NegativeEntropy()

    Source: Bera, A. K. and Park, S. Y. (2008), Optimal portfolio diversification using the maximum entropy principle,
    Econometric Reviews 27.
    """

    curvature: ClassVar[Curvature] = "convex"

    def bind(self, ctx: Context) -> Bound:
        n = ctx.n_assets

        def energy(w: Tensor) -> Tensor:
            require_last(w, n, "NegativeEntropy")
            positive = torch.where(w > 0.0, w, torch.ones_like(w))
            value = torch.where(w > 0.0, w * positive.log(), torch.zeros_like(w)).sum(-1)
            return torch.where((w < 0.0).any(-1), torch.full_like(value, torch.inf), value)

        return energy

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient 1 + log w, Hessian diag(1/w), w > 0."""
        value = self.bind(ctx)
        return lambda w: around(w, value(w), 1.0 + w.log(), torch.diag(1.0 / w))

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return -cp.sum(cp.entr(w))


class Herfindahl(ConvexEnergy):
    """E(w) = sum_i w_i^2, the Herfindahl-Hirschman index; 1/E is the effective number of names.

    Units: none.

    Example:
        >>> Return() + 2.5 * Variance() + 0.01 * Herfindahl()

    Source: Hirschman, A. O. (1964), The paternity of an index, American Economic Review 54; as a penalty: DeMiguel, V.,
    Garlappi, L., Nogales, F. and Uppal, R. (2009), A generalized approach to portfolio optimization, Management
    Science 55(5).
    """

    curvature: ClassVar[Curvature] = "convex"

    def bind(self, ctx: Context) -> Bound:
        n = ctx.n_assets
        return lambda w: require_last(w, n, "Herfindahl").square().sum(-1)

    def quadratic(self, ctx: Context) -> Quadratic:
        zero = torch.zeros(ctx.tradeable.shape, dtype=torch.float64, device=ctx.tradeable.device)
        none = zero.new_zeros(*zero.shape, 0)
        return Quadratic(Structured(none, zero.new_zeros(*zero.shape[:-1], 0, 0), zero + 2.0), zero, zero.sum(-1))

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        return cp.sum_squares(w)
