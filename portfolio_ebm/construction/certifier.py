"""BranchAndBound: the best portfolio of a convex formula under any rule, with the proof or how far it has come.

    incumbent E(w) from the chains (choosing.py)     bound b = least relaxation of the open nodes, b <= E* <= E(w)

The tree stops when E(w) - b is within `gap`, when its clock runs out, or by hand; b is valid whenever it stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.mixed.branch_and_bound import Proof, branch_and_bound
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.strengthening import strengthened
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.ablation import BEFORE, FINAL
from portfolio_ebm.construction.base import Constructor, Solution
from portfolio_ebm.construction.cases import Bounded, best_case
from portfolio_ebm.construction.choosing.choosing import FIRST_LOOK, Chosen, mixed_of
from portfolio_ebm.construction.choosing.lots import LotWork
from portfolio_ebm.construction.choosing.swaps import Plan
from portfolio_ebm.construction.exact.formula import refuse_non_convex, take_apart, without_tickets
from portfolio_ebm.construction.exact.minimum import minimize, size_of
from portfolio_ebm.construction.exact.ratio import lone_ratio, minimize_ratio
from portfolio_ebm.construction.later import known
from portfolio_ebm.construction.ratio_choices import Enough, ratio_of_choice
from portfolio_ebm.construction.squares import square_of_choice
from portfolio_ebm.construction.stages import Found, chosen_in
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, Scaled, Sum, breakdown
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import counted

WALKERS, SWEEPS = 8, 6


@dataclass
class Clock:
    """When to stop; `cut` stops at once."""

    end: float

    def cut(self) -> None:
        self.end = -np.inf

    def share(self, cases: int) -> Callable[[], bool]:
        """The clock of the next of so many cases: an equal part of what is left."""
        now = time.monotonic()
        end = now + max(self.end - now, 0.0) / cases
        return lambda: time.monotonic() >= min(end, self.end)


@dataclass(frozen=True)
class Task:
    """The formula without its tickets, what a ticket costs, where, the clock, and what needs no proof."""

    rest: Energy
    ticket: float
    ctx: Context
    clock: Clock
    enough: Enough


class BranchAndBound(Constructor):
    """Branch and bound under a clock, from an incumbent of the chains: for proofs that AnnealedLangevin leaves open.

    Takes convex formulas, `FixedCost` included, and a ratio that stands alone (MaxRatio), under any rule. The
    Solution's `bound` is a true lower bound however the tree ended, and the status says how. KeyboardInterrupt ends the
    search once there is an incumbent and hands both back; before that, and after it, it is raised as ever. In a
    walk-forward it ends the tree of the date at hand.

    Stopped by its clock, the same seed does not give the same bits; AnnealedLangevin counts its nodes instead.

    Attributes:
        time_limit: wall-clock seconds of one call; read between nodes, so that the chains, which run once in any case,
            and the node at hand may exceed it. Cases of `Either` share it. For a ratio the chains run once a step, and
            the tree has the time for steps on which they find no better one.
        gap: an optimum within this is proven, as a fraction of the sizes of the formula's terms.
        chains: roundings of the relaxation that the incumbent is looked for from.

    Example:
        >>> Strategy("exact", market=LedoitWolf(lookback=500), energy=Variance(), constraint=Budget() & LongOnly()
        ...          & Cardinality(at_most=20, min_weight=0.01), constructor=BranchAndBound(time_limit=60, gap=1e-4))

    Source: Land, A. H. and Doig, A. G. (1960), An automatic method of solving discrete programming problems,
    Econometrica 28.
    """

    time_limit: float = Field(default=60.0, gt=0.0)
    gap: float = Field(default=1e-9, ge=0.0)
    chains: int = Field(default=64, ge=1)

    def build(self, energy: Energy, constraint: Constraint, ctx: Context, rng: torch.Generator) -> Solution:
        """See Constructor.

        Raises:
            SpecError: a term is not convex; names it.
            InfeasibleError: no portfolio obeys the rules; names the rules in conflict.
            SolverError: no minimum was reached, or a ratio's portfolios do not gain or have no risk.
        """
        rest, ticket = without_tickets(energy, ctx)
        ratio = lone_ratio(rest) if ticket == 0.0 else None
        refuse_non_convex(Sum() if ratio else rest, "BranchAndBound()")
        clock = Clock(time.monotonic() + self.time_limit)

        def solve(region: Region, left: int) -> Bounded:
            stop = clock.share(left)

            def tree(energy: Energy, enough: Enough = lambda _: False) -> Bounded:
                return self._tree(Task(energy, ticket, ctx, clock, enough), region, rng, stop)

            if not region.discrete and ticket == 0.0:
                return _one_solve(rest, ratio, region, ctx)
            if ratio is None:
                return (square_of_choice(rest, tree) if ticket == 0.0 else None) or tree(rest)
            found = ratio_of_choice(rest, region, ctx, tree)
            if found is None:
                raise SolverError(
                    f"{rest!r}{ctx.at}: a ratio is proven under a choice of names where weights are bounded, every "
                    "portfolio has some risk and one of those allowed gains; bound the weights (Box), or use "
                    "AnnealedLangevin, which searches without proof."
                )
            return found

        work = LotWork(10**9, self.gap, lambda: time.monotonic() >= clock.end)
        return best_case(energy, constraint, ctx, rng, solve, work)

    def _tree(self, task: Task, region: Region, rng: torch.Generator, stop: Callable[[], bool]) -> Bounded:
        formula = take_apart(task.rest, task.ctx)
        mixed = mixed_of(formula, region, task.ticket)
        plan = Plan(self.chains, WALKERS, SWEEPS, swaps=True, nodes=FIRST_LOOK)
        seen = chosen_in(mixed, plan, rng, region)
        if seen is None:
            return None, np.inf
        proof, bound = seen.proof, seen.bound
        weights, value = seen.weights, seen.value
        size = sum(abs(float(s)) for s in breakdown(task.rest, _tensor(weights, region), task.ctx).values())
        enough = task.enough(_tensor(weights, region))
        if not proof.finished and value - bound > self.gap * size and not enough:
            proof = _grown(mixed, seen, self.gap * size, stop)
            if proof.weights is not None and proof.value < value:
                weights, value = proof.weights, proof.value
            bound = min(max(proof.bound, bound), value)
            if proof.interrupted:
                task.clock.cut()
        relative = (value - bound) / max(size, 1e-300)
        proven = proof.proven or relative <= self.gap
        found = Found(
            _tensor(weights, region), _sentence(proof, relative, self, proven, enough),
            {BEFORE: seen.value + formula.constant, FINAL: value + formula.constant},
            known(_tensor(seen.starts, region)),
            {
                "nodes": float(proof.nodes), "proven": float(proven), "patterns seen": float(seen.seen),
                "chain agreement": seen.agreement,
            },
            seen.others,
            size_of(formula, mixed.program, value + formula.constant),
        )  # fmt: skip
        return found, bound + formula.constant


def _grown(mixed: Mixed, seen: Chosen, tolerance: float, stop: Callable[[], bool]) -> Proof:
    """The tree from the incumbent of the chains, on relaxations that the incumbent makes stronger; interrupted before
    it was planted, what the chains knew."""
    try:
        root = mixed.root()
        mixed = mixed if root is None else strengthened(mixed, root, seen.value)
        proof = branch_and_bound(
            mixed, incumbent=seen.weights, value=seen.value, tolerance=tolerance, most_nodes=10**9, stop=stop
        )
    except KeyboardInterrupt:
        return replace(seen.proof, weights=seen.weights, value=seen.value, interrupted=True, proven=False)
    return replace(proof, nodes=proof.nodes + seen.proof.nodes)


def _one_solve(rest: Energy, ratio: Scaled | None, region: Region, ctx: Context) -> Bounded:
    """Nothing to branch on: the convex minimum, or that of a ratio alone."""
    found = minimize(rest, region, ctx) if ratio is None else minimize_ratio(ratio, region, ctx)
    message = "nothing to branch on: energy and rules are convex"
    only = known(found.weights.unsqueeze(0))
    return Found(found.weights, message, {FINAL: found.value}, only, {}, size=found.size, exact=found), found.bound


def _sentence(proof: Proof, relative: float, asked: BranchAndBound, proven: bool, enough: bool) -> str:
    if proven:
        return f"branch and bound closed, so the optimum is proven to {asked.gap:.1e} ({counted(proof.nodes, 'node')})"
    ended = "was not asked for a proof" if enough else f"was stopped by its clock of {asked.time_limit:g} s"
    ended = "was interrupted" if proof.interrupted else ended
    ended = "closed but for what its relaxations leave open" if proof.finished else ended
    return (
        f"branch and bound {ended} after {counted(proof.nodes, 'node')}; the portfolio is at most {relative:.2e} of "
        "the terms' sizes above the optimum"
    )


def _tensor(w: object, region: Region) -> Tensor:
    return torch.as_tensor(w).to(region.lower)
