"""Extra faces of convex energies that fast solvers use: the Newton model, and the returns of portfolios."""

from __future__ import annotations

import math
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


def tail_count(size: int, level: float) -> float:
    """size (1 - level): how many of `size` values the tail counts; the last may count by a fraction."""
    count = size * (1.0 - level)
    # 1 - 0.95 is not a twentieth in binary: a count within rounding of a whole number is that number.
    return float(round(count)) if abs(count - round(count)) < 1e-9 * size and round(count) > 0 else count


def tail_mean(values: Tensor, count: float) -> Tensor:
    """The mean of the `count` largest of values (..., S), the last by its fraction: (...)."""
    whole = math.floor(count)
    size = min(whole + 1, values.shape[-1])
    share = torch.ones(size, dtype=values.dtype, device=values.device)
    if size > whole:
        share[-1] = count - whole
    return (values.topk(size, dim=-1, sorted=True).values * (share / count)).sum(-1)
