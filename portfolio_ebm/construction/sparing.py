"""Searches that spare soft rules whose nearest point is a search itself: a choice beside other walls, lots in a budget.

    k / 2 ||w - Q w||^2 >= k / 2 ||w - P w||^2,   Q w the nearest point on the modes that w rounds to

Chains go down the left side, few and short ones; the portfolio they end at is reported with the right one.
"""

from __future__ import annotations

from dataclasses import replace

from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.construction.effort import Effort
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, add

CHAINS, STEPS = 8, 10
"""As in Effort."""
SPARED = "the nearest point of a soft rule is a search of its own, so chains were few and short"


def spared(energy: Energy, effort: Effort, ctx: Context) -> tuple[Energy, Effort]:
    """The formula and the effort to search with; both as they are where no soft rule is that dear."""
    parts = energy.terms()
    quick = [
        part.replace(energy=part.energy.replace(exact=False))
        if isinstance(part.energy, Relaxed) and part.energy.searched(ctx)
        else part
        for part in parts
    ]
    if quick == list(parts):
        return energy, effort
    return add(quick), replace(effort, chains=min(effort.chains, CHAINS), steps=min(effort.steps, STEPS))
