"""A rule as an energy: E(w) = stiffness / 2 * ||w - P w||^2 with P the rule's projection (Moreau envelope).

For a convex rule E is convex and differentiable with gradient stiffness * (w - P w); for a non-convex one
this holds wherever the nearest point is unique. The projection itself is never differentiated.
Source: Moreau (1965), Proximite et dualite dans un espace hilbertien, Bull. Soc. Math. France 93.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.energy import Bound, Energy


class _HalfSquare(torch.autograd.Function):
    """(w, P w) -> 1/2 ||w - P w||^2 with gradient w - P w in w and none in P w."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, nearest: Tensor) -> Tensor:
        away = w - nearest
        ctx.save_for_backward(away)
        return 0.5 * away.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        (away,) = ctx.saved_tensors
        return grad[0].unsqueeze(-1) * away, None


class Envelope(Energy):
    """stiffness / 2 * ||w - P w||^2: a soft rule, zero where it holds.

    Example:
        >>> Return() + Box(upper=0.1).energy(stiffness=50.0)
    """

    rule: Constraint
    stiffness: float = Field(gt=0.0)

    def bind(self, ctx: Any) -> Bound:
        region = region_of(self.rule, ctx, frozen=False)

        def energy(w: Tensor) -> Tensor:
            nearest = project_region(w.detach(), region).weights
            value: Tensor = _HalfSquare.apply(w, nearest)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            return self.stiffness * value

        return energy
