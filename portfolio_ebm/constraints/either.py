"""Either: one rule or another."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.errors import SpecError


class Either(Constraint):
    """The portfolio obeys `one` or `other`, or both.

    Whoever looks for the nearest or the best portfolio looks in every case and keeps the best: k of these joined by `&`
    make 2^k cases.

    Example:
        >>> Budget() & LongOnly() & Either(UCITS(), Cardinality(at_least=30, min_weight=0.01))
    """

    one: Constraint
    other: Constraint

    @property
    def convex(self) -> bool:
        return False

    def asks(self) -> frozenset[str]:
        return self.one.asks() | self.other.asks()

    def cases(self) -> tuple[Constraint, ...]:
        return (*self.one.cases(), *self.other.cases())

    def restrict(self, region: Region, ctx: Context) -> Region:
        raise SpecError(f"{self!r} is a choice between two sets of rules; take the cases() of the rules one by one.")

    def residual(self, w: Tensor, ctx: Context) -> Tensor:
        """That of the rule which is broken least, (...)."""
        return self.one.residual(w, ctx).minimum(self.other.residual(w, ctx))

    def to_cvxpy(self, w: Any, ctx: Context, near: Tensor | None = None) -> list[Any]:
        """The slice of the rule that `near` breaks least; without `near` no rule at all, the relaxation of both."""
        if near is None:
            return []
        first = bool((self.one.residual(near, ctx) <= self.other.residual(near, ctx)).all())
        return (self.one if first else self.other).to_cvxpy(w, ctx, near)

    def explain(self) -> str:
        return f"Either: {self.one.explain()} Or: {self.other.explain()}"
