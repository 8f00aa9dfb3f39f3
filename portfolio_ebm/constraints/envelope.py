"""A rule as an energy: E(w) = stiffness / 2 * ||w - P w||^2 with P the rule's projection (Moreau envelope).

For a convex rule E is convex and differentiable with gradient stiffness * (w - P w); for a non-convex one
this holds wherever the nearest point is unique. Sampling never differentiates
the projection; exact engines use its Jacobian (tangent.py) for the second order.
Source: Moreau (1965), Proximite et dualite dans un espace hilbertien, Bull. Soc. Math. France 93.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import torch
from cvxpy.transforms.indicator import indicator
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import project_any, project_region, regions_of, searched
from portfolio_ebm.constraints.tangent import projection_jacobian
from portfolio_ebm.context import Context
from portfolio_ebm.energies.deviation import around
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energy import Bound, Curvature, Quadratic
from portfolio_ebm.errors import SpecError
from portfolio_ebm.types import as_numpy


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


class Relaxed(SmoothEnergy):
    """k / 2 * ||w - P w||^2, k = stiffness * 100 ** priority: a soft rule, zero where it holds.

    A rule of higher priority gives way a hundred times less to the same pull. Convex where the rule is. Names that
    cannot be traded may move in P where the rule leaves them room.

    Units: the formula's, per squared weight: with k, a rule that is bent by a weight of d costs k d^2 / 2.

    Attributes:
        rule: any rule, also several joined by `&`.
        priority: 0, 1, 2, ...; each step is a hundred times stiffer.
        stiffness: k at priority 0.

    Example:
        >>> Return() + Variance() + Relaxed(Group("sector", upper=0.3)) + Relaxed(Turnover(0.2), priority=1)
    """

    rule: Constraint
    priority: int = Field(default=0, ge=0, le=6)
    stiffness: float = Field(default=1.0, gt=0.0)

    @property
    def curvature(self) -> Curvature:  # type: ignore[override]  # that of the rule, not of the class
        return "convex" if self.rule.convex else "none"

    @property
    def k(self) -> float:
        """The stiffness at this priority."""
        return self.stiffness * 100.0**self.priority

    def asks(self) -> frozenset[str]:
        return self.rule.asks()

    def check(self, ctx: Context) -> None:
        regions_of(self.rule, ctx, frozen=False)

    def searched(self, ctx: Context) -> bool:
        """Whether P takes a search of its own for every portfolio."""
        return any(searched(region) for region in regions_of(self.rule, ctx, frozen=False))

    def bind(self, ctx: Context) -> Bound:
        return self.envelope(ctx)

    def envelope(self, ctx: Context, *, prove: bool = True) -> Bound:
        """E; without `prove` by the nearest point on the modes that w rounds to, so that it is never too low: quicker
        where the rule is a choice beside other walls."""
        regions = regions_of(self.rule, ctx, frozen=False)

        def energy(w: Tensor) -> Tensor:
            nearest = project_any(w.detach(), regions, prove=prove).weights
            value: Tensor = _HalfSquare.apply(w, nearest)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            return self.k * value

        return energy

    def taylor(self, ctx: Context) -> Callable[[Tensor], Quadratic]:
        """Gradient k (w - P w), Hessian k (I - dP/dw): the rule is convex, and the tangent never above E."""
        (region,) = regions_of(self.rule, ctx, frozen=False)
        region, kept = region.folded(), dict[bytes, Quadratic]()

        def model(w: Tensor) -> Quadratic:
            key = w.detach().cpu().numpy().tobytes()
            if key not in kept:
                kept.clear()
                nearest = project_region(w, region).weights
                away, slope = w - nearest, projection_jacobian(region, as_numpy(w), as_numpy(nearest))
                bent = torch.eye(len(w), dtype=w.dtype, device=w.device) - torch.as_tensor(slope).to(w)
                kept[key] = around(w, 0.5 * self.k * away.square().sum(), self.k * away, self.k * bent)
            return kept[key]

        return model

    def to_cvxpy(self, w: Any, ctx: Context) -> Any:
        """k / 2 ||w - v||^2 with v in the rule: to be minimised, over v as well.

        Raises:
            SpecError: the rule is not convex.
        """
        if not self.rule.convex:
            raise SpecError(f"{self!r} is not convex: its rule is a choice of names; use AnnealedLangevin().")
        nearest = cp.Variable(ctx.n_assets)
        # The rule rides in the expression; cvxpy's partial minimisation fails beside a quadratic term.
        return 0.5 * self.k * cp.sum_squares(w - nearest) + indicator(self.rule.to_cvxpy(nearest, ctx))
