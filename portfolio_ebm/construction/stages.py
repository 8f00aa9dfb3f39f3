"""What AnnealedLangevin does with a problem, by its structure.

pattern engine    a choice under a convex energy: scored swaps over exact inner solves, branch and bound (choosing.py)
gradient engine   the energy is not convex: probe, kick and descend; where there is a choice, chains and
                  walkers over its slices (exploring.py)
exact             region and energy are convex, or the energy is a ratio alone: one solve; chains look around when asked
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.combine import project_region, region_residual
from portfolio_ebm.constraints.mixed.grids.lots import best_lots
from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.ablation import BEFORE, FINAL, FRACTIONS, NO_NOISE, NO_SWAPS, ROUNDING
from portfolio_ebm.construction.choosing.choosing import Chosen, choose, mixed_of
from portfolio_ebm.construction.choosing.lots import LotProgram, LotWork, exact_lots, proven_lots
from portfolio_ebm.construction.choosing.swaps import Plan
from portfolio_ebm.construction.effort import Effort
from portfolio_ebm.construction.exact.formula import Formula, without_tickets
from portfolio_ebm.construction.exact.minimum import Minimum, size_of
from portfolio_ebm.construction.exact.ratio import lone_ratio, minimize_ratio
from portfolio_ebm.construction.feasibility.room import asked, room
from portfolio_ebm.construction.later import Later, Lookup, extended, known
from portfolio_ebm.construction.rugged.chains import Landscape
from portfolio_ebm.construction.rugged.exploring import explore_modes, polished
from portfolio_ebm.construction.rugged.rugged import Explored, explore
from portfolio_ebm.construction.rugged.slices import Slices
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, curvature
from portfolio_ebm.errors import InfeasibleError, SolverError
from portfolio_ebm.samplers.anneal import Annealed
from portfolio_ebm.types import as_numpy, counted

GRADIENT_SHARE = 20
EXACT = 1e-9
"""The most by which whole lots may break another rule."""
LOT_STARTS, SHAKES = 6, 12
"""Under an energy that is not convex: points brought to whole lots, and shakes of the best."""
COLUMNS = "branch and bound over columns of lots"
LOCAL = "the energy is not convex, so this is a local minimum and nothing bounds it from below"


@dataclass(frozen=True)
class Found:
    """What an engine hands back: the portfolio, a sentence, the records of Solution, `others` (k, n), the minima of
    the best slices solved, `size`, what gaps are relative to, and `exact`, the minimum that it is where energy and
    rules are convex."""

    weights: Tensor
    message: str
    ablation: Mapping[str, float]
    walkers: Later[Tensor]
    diagnostics: Mapping[str, float]
    others: Later[NDArray[np.float64]] | None = None
    size: float = 0.0
    exact: Minimum | None = None


def proven_ratio(energy: Energy, region: Region, ctx: Context) -> Minimum | None:
    """The minimum of a ratio that stands alone, over a convex region; None for another formula, and where the ratio is
    not proven: the risk of some portfolio is zero, or none gains.

    Raises:
        InfeasibleError: the region is empty.
    """
    ratio = lone_ratio(energy)
    if ratio is None:
        return None
    try:
        found = minimize_ratio(ratio, region, ctx)
    except SolverError:
        return None
    return found if found.status.ok else None


def convex_engine(found: Minimum, convex: bool, chains: Later[Annealed | None]) -> Found:
    """The exact solve that was found, of a convex energy or of a ratio; chains run beside it when somebody asks how
    near they come."""
    how = "energy and rules are convex, so the polish alone solves the problem and the chains add nothing"
    if not convex:
        how = "exact minimum of a ratio alone; the chains add nothing"
    return Found(
        found.weights,
        f"exact engine: {how}",
        Lookup(Later(partial(_beside, found.value, chains))),
        Later(partial(_ends, found.weights.detach().clone(), chains)),
        {"exact": float(found.status.ok)},
        size=found.size,
        exact=found,
    )


def _beside(value: float, chains: Later[Annealed | None]) -> dict[str, float]:
    """The stages of an exact solve and of the chains beside it, where these could run."""
    run = chains()
    before = {} if run is None else {BEFORE: float(run.best_energy.min())}
    return {ROUNDING: value, NO_SWAPS: value, **before, FINAL: value}


def _ends(weights: Tensor, chains: Later[Annealed | None]) -> Tensor:
    """Where the chains ended, (chains, n); the exact `weights` (n,) alone where they could not run."""
    run = chains()
    return weights.unsqueeze(0) if run is None else run.state.x


def gradient_engine(landscape: Landscape, slices: Slices, x0: Tensor, effort: Effort, rng: torch.Generator) -> Found:
    """Probe and kick; then a local polish of the best."""
    return arrived(explore(landscape, x0, evaluations(effort), rng), landscape.spread, slices, effort)


def evaluations(effort: Effort) -> int:
    """How often the gradient engine may evaluate the energy, per chain."""
    return GRADIENT_SHARE * effort.steps


def arrived(seen: Explored, spread: float, slices: Slices, effort: Effort) -> Found:
    """The best of what kicks and descents came to, polished; `spread` is that of the energy."""
    order = seen.energy.argsort(stable=True)[: effort.polish]
    only = np.zeros(0, dtype=np.int64)
    lows = [polished(slices, only, as_numpy(seen.weights[row]), spread) for row in order.tolist()]
    best = min((low for low in lows if low is not None), key=lambda low: low.value, default=None)
    weights, value = seen.weights[order[0]], float(seen.energy[order[0]])
    if best is not None and best.value < value:
        weights, value = torch.as_tensor(best.weights).to(weights), best.value
    agreeing = float((seen.energy <= float(seen.energy.min()) + 1e-6 * spread).double().mean())
    message = (
        "gradient engine: all descents agree on one minimum"
        if seen.agreed
        else f"gradient engine: {counted(seen.cycles, 'cycle')} of Langevin kicks"
    )
    return Found(
        weights,
        f"{message}; {LOCAL}",
        {"descents alone": float(seen.probed.min()), BEFORE: float(seen.energy.min()), FINAL: value},
        known(seen.weights),
        {"chain agreement": agreeing, "cycles": float(seen.cycles)},
    )


def modes_engine(
    landscape: Landscape, slices: Slices, region: Region, x0: Tensor, effort: Effort, rng: torch.Generator
) -> Found:
    """Chains, walkers and kicks over the slices of a choice; `landscape` and x0 are of its convex hull."""
    seen = explore_modes(landscape, slices, region, x0, effort, rng)
    best = seen.lows[0]
    walked = f", {seen.sweeps} sweeps of swaps" if effort.swaps else ", swaps off"
    message = f"gradient engine on slices of modes: annealed chains{walked}, {counted(seen.slices, 'slice')} looked at"
    return Found(
        torch.as_tensor(best.weights).to(x0),
        f"{message}; {LOCAL}",
        {name: value for name, value in seen.stages.items() if np.isfinite(value)},
        known(torch.as_tensor(np.array([low.weights for low in seen.lows])).to(x0)),
        {
            "acceptance": seen.acceptance,
            "patterns seen": float(seen.slices),
            "chain agreement": seen.agreement,
            "sweeps": float(seen.sweeps),
        },
    )


def choosing_engine(
    formula: Formula, region: Region, ticket: float, effort: Effort, rng: torch.Generator, near: Tensor | None = None
) -> tuple[Found, float] | None:
    """Scored swaps over exact inner solves, and branch and bound; None where no choice has a portfolio. `near` (k, n)
    are the ends of walks that were made before."""
    plan = Plan(effort.chains, effort.walkers, effort.sweeps, effort.swaps, effort.nodes)
    mixed = mixed_of(formula, region, ticket)
    seen = chosen_in(mixed, plan, rng, region, None if near is None else as_numpy(near))
    if seen is None:
        return None
    place = region.lower
    stages = {
        ROUNDING: seen.rounding, NO_SWAPS: seen.chains, NO_NOISE: seen.descent, FINAL: seen.value,
    }  # fmt: skip
    how = f"{seen.sweeps} annealed sweeps of swaps, " if seen.sweeps else ("" if effort.swaps else "swaps off, ")
    ended = "closed, so the optimum is proven" if seen.proof.proven else "left its gap open"
    found = Found(
        torch.as_tensor(seen.weights).to(place),
        f"pattern engine: {how}{counted(seen.seen, 'slice')} solved exactly, branch and bound {ended} "
        f"({counted(seen.proof.nodes, 'node')})",
        {name: value + formula.constant for name, value in stages.items() if np.isfinite(value)},
        known(torch.as_tensor(seen.starts).to(place)),
        {
            "patterns seen": float(seen.seen),
            "chain agreement": seen.agreement,
            "sweeps": float(seen.sweeps),
            "nodes": float(seen.proof.nodes),
            "proven": float(seen.proof.proven),
        },
        seen.others,
        size_of(formula, mixed.program, seen.value + formula.constant),
    )
    return found, seen.bound + formula.constant


def chosen_in(
    mixed: Mixed, plan: Plan, rng: torch.Generator, region: Region, near: NDArray[np.float64] | None = None
) -> Chosen | None:
    """`choose` from a portfolio under the curved caps, where there are such; None where none was found."""
    if not asked(region):
        return choose(mixed, plan, rng, partial(nearby, region=region), near=near)
    found = room(region)
    return None if found.weights is None else choose(mixed, plan, rng, lambda _: None, found.weights, near)


def nearby(w: NDArray[np.float64], region: Region) -> NDArray[np.float64] | None:
    """A portfolio of the region near w, (n,); None where it is empty."""
    try:
        found = project_region(torch.as_tensor(w).to(region.lower), region).weights
    except (InfeasibleError, SolverError):
        return None
    return np.asarray(found.detach().cpu().numpy(), dtype=np.float64)


def in_lots(
    found: Found, bound: float | None, energy: Energy, region: Region, ctx: Context, rng: torch.Generator, work: LotWork
) -> tuple[Found | None, float | None]:  # fmt: skip
    """The portfolio brought to whole lots, None where none that obey the rules were found, and the bound: that of
    fractions, `bound`, or of lots where that is above it.

    By branch and bound and exact moves where they know the energy and the rules, else by moves of single lots: under an
    energy that is not convex from the other low points too, and the best is shaken.
    """
    loose, value, near = region.ungridded(), energy.bind(ctx), found.weights.unsqueeze(0)
    program = LotProgram.of(energy, region, ctx)
    others = near if found.others is None else torch.cat([near, torch.as_tensor(found.others()).to(near)])
    w, how = None if program is None else exact_lots(program, others), "branch and bound and exact moves of lots"
    if w is None or float(region_residual(w, loose)) > EXACT:
        how, start, shakes = "moves of single lots", found.weights, 0
        if curvature(without_tickets(energy, ctx)[0]) == "none":
            every = torch.cat([near, found.walkers().to(near)])
            start, shakes = every[value(every).argsort(stable=True)[:LOT_STARTS]], SHAKES
        w = best_lots(value, partial(region_residual, region=loose), start, region, shakes, rng)
    proof = None if program is None else proven_lots(program, energy, region, ctx, w, found.weights, work)
    said = "which nothing proves best"
    search = {**found.diagnostics, "proven": 0.0}
    if proof is not None:
        bound = proof.bound if bound is None else max(bound, proof.bound)
        if proof.weights is not None and (w is None or proof.value < float(value(w))):
            w, how = torch.as_tensor(proof.weights).to(near), f"{how} and columns of lots" if w is not None else COLUMNS
        said = (
            f"proven best by columns of lots ({counted(proof.nodes, 'node')})"
            if proof.finished
            else f"which columns of lots bound and do not prove best ({counted(proof.nodes, 'node')})"
        )
        search |= {"lot nodes": float(proof.nodes), "proven": float(proof.finished)}
    elif bound is not None:
        said += ": the bound is that of fractions"
    if w is None:
        return None, bound
    message = f"{found.message}; then whole lots by {how}, {said}"
    # The stages of an exact solve are worked out when they are read, so its own value is taken from the solve.
    fractions = found.ablation[FINAL] if found.exact is None else found.exact.value
    ablation = extended(found.ablation, {FRACTIONS: fractions, FINAL: float(value(w))})
    return replace(found, weights=w, message=message, ablation=ablation, exact=None, diagnostics=search), bound
