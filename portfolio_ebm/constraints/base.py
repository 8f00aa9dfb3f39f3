"""What a rule on weights is: one class, several faces that must agree.

project(w)   the nearest portfolio that obeys the rule, batched, with status and residual
restrict     its structured face: what the rule adds to a Region
to_cvxpy     its convex form (a non-convex rule: its convex slice around `near`)
residual     how far the rule is broken, in the rule's own units
energy(k)    k/2 * ||w - project(w)||^2, the Moreau envelope of the rule
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.types import Spec, Status

if TYPE_CHECKING:
    from portfolio_ebm.constraints.combine import All
    from portfolio_ebm.constraints.envelope import Relaxed


class Projection(NamedTuple):
    """Nearest points with how the search for them ended.

    Attributes:
        weights: (..., n).
        residual: (...), the largest violation left of any rule, in weight units.
        status: ok when every point is within tolerance; the sentence names the method, and says when a
            point is feasible but not proven nearest.
    """

    weights: Tensor
    residual: Tensor
    status: Status


class Constraint(Spec, ABC):
    """A rule on weights. Subclasses are final, frozen and hold no data."""

    @property
    def convex(self) -> bool:
        """Whether the rule's set is convex."""
        return True

    def asks(self) -> frozenset[str]:
        """The estimates the rule asks for: any of "covariance", "scenarios"."""
        return frozenset()

    @abstractmethod
    def restrict(self, region: Region, ctx: Context) -> Region:
        """`region` with this rule added: its structured face, exact for every rule in this package.

        Raises:
            SpecError: the rule names a group or label that the context does not have.
        """

    @abstractmethod
    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """How far the rule is broken at w (..., n), in the rule's own units, (...); zero where it holds."""

    @abstractmethod
    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        """Convex cvxpy constraints on the variable w (n,), broken by `residual` in the rule's own units (by that times
        `per` / `Cap.unit` where the rule is one cap); `near` picks the slice of a non-convex rule,
        and without it a non-convex rule gives its convex relaxation."""

    @abstractmethod
    def explain(self) -> str:
        """The rule in a sentence."""

    def project(self, w: Tensor, ctx: Context) -> Projection:
        """The nearest portfolio that obeys the rule, for every row of w (..., n).

        Raises:
            InfeasibleError: no portfolio obeys it.
        """
        from portfolio_ebm.constraints.combine import project_any, regions_of

        return project_any(w, regions_of(self, ctx, frozen=False))

    def energy(self, stiffness: float) -> Relaxed:
        """stiffness/2 * ||w - project(w)||^2: the rule as an energy, to be added to a formula."""
        from portfolio_ebm.constraints.envelope import Relaxed

        return Relaxed(rule=self, stiffness=stiffness)

    def cases(self) -> tuple[Constraint, ...]:
        """The rules one of which has to hold; itself, but where it holds an `Either`."""
        return (self,)

    def rules(self) -> tuple[Constraint, ...]:
        """The flat list of rules this one stands for."""
        return (self,)

    def __and__(self, other: Constraint) -> All:
        from portfolio_ebm.constraints.combine import All

        return All(parts=(*self.rules(), *other.rules()))
