"""Searches that spare soft rules whose nearest point is a search itself: a choice beside other walls, lots in a budget.

    k / 2 ||w - Q w||^2 >= k / 2 ||w - P w||^2,   Q w the nearest point on the modes that w rounds to

Chains go down the left side, few and short ones; the portfolio they end at is reported with the right one.
"""

from __future__ import annotations

from dataclasses import replace

from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.construction.effort import Effort
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Bound, Energy, add

CHAINS, STEPS = 8, 10
"""At most so many chains, of at most so many steps: every portfolio that is looked at is projected by a search of its
own, so that the 64 chains of 50 steps that are run elsewhere would take forty times as long."""


class _Quick(Relaxed):
    """A soft rule by its quick distance; it is never handed to the user."""

    def bind(self, ctx: Context) -> Bound:
        return self.envelope(ctx, prove=False)

    def __repr__(self) -> str:
        return super().__repr__().replace(type(self).__name__, Relaxed.__name__, 1)


def spared(energy: Energy, effort: Effort, ctx: Context) -> tuple[Energy, Effort, str]:
    """The formula and the effort to search with, and in words what was spared; as they are, and "", where no soft rule
    is that dear."""
    parts = energy.terms()
    quick = [
        part.replace(energy=_Quick(part.energy.rule, part.energy.priority, part.energy.stiffness))
        if isinstance(part.energy, Relaxed) and part.energy.searched(ctx)
        else part
        for part in parts
    ]
    if quick == list(parts):
        return energy, effort, ""
    less = replace(effort, chains=min(effort.chains, CHAINS), steps=min(effort.steps, STEPS))
    return add(quick), less, _said(effort, less)


def _said(asked: Effort, less: Effort) -> str:
    """What the status says of it."""
    said = (
        "the nearest point of a soft rule is a search of its own, so the minimum is of a quick distance, never too low"
    )
    cut = [
        f"{few} {what} instead of {many}"
        for what, many, few in (("chains", asked.chains, less.chains), ("steps", asked.steps, less.steps))
        if few < many
    ]
    return f"{said}, found by {' and '.join(cut)}" if cut else said
