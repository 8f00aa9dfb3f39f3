"""Extra faces of convex energies that fast solvers use: the Newton model, and the returns of portfolios."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.energy import ConvexEnergy, Quadratic


class SmoothEnergy(ConvexEnergy, ABC):
    """A twice differentiable convex energy that gives its own second-order model.

    Interior points and swap scores use the model; a smooth energy without one still works through cvxpy.
    """

    @abstractmethod
    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """At w (n,): the quadratic q with q(w) = E(w), grad q(w) = grad E(w) and the Hessian of E at w."""


def portfolio_returns(scenarios: Tensor, w: Tensor) -> Tensor:
    """R w: scenarios (*batch, S, n) and portfolios (*batch, *chains, n) give (*batch, *chains, S)."""
    if scenarios.ndim == 2:
        return w @ scenarios.mT
    batch = torch.broadcast_shapes(scenarios.shape[:-2], w.shape[: scenarios.ndim - 2])
    chains = w.shape[len(batch) : -1]
    flat = w.reshape(*batch, -1, w.shape[-1])
    return (flat @ scenarios.mT).reshape(*batch, *chains, scenarios.shape[-2])
