"""What AnnealedLangevin does with a problem, by its structure.

pattern engine    the names are a choice: chains -> patterns -> scored swaps -> exact polish of the best
gradient engine   the region is convex and the energy is not: probe, anneal, kick and descend
exact             region and energy are convex: one solve; the chains only look around
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
from portfolio_ebm.constraints.mixed.lots import best_lots
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.ablation import BEFORE, FINAL, FRACTIONS, NO_NOISE, NO_SWAPS, ROUNDING, Polisher
from portfolio_ebm.construction.chains import FEASIBLE, Landscape, run_chains
from portfolio_ebm.construction.choosing import Plan, choose, mixed_of
from portfolio_ebm.construction.formula import Formula
from portfolio_ebm.construction.patterns import Choice, Search, Walked, walk
from portfolio_ebm.construction.rugged import explore
from portfolio_ebm.construction.slices import Slices
from portfolio_ebm.energy import Bound
from portfolio_ebm.errors import InfeasibleError
from portfolio_ebm.samplers.anneal import Annealed
from portfolio_ebm.samplers.kernel import evaluate
from portfolio_ebm.samplers.schedules import Constant, Geometric

SWAP_HOT, SWAP_COLD = 0.1, 0.001
MOST_DESCENTS = 60
GRADIENT_SHARE = 10


@dataclass(frozen=True)
class Effort:
    """How much work to do; the fields of AnnealedLangevin of the same names."""

    steps: int
    swaps: bool
    sweeps: int
    walkers: int
    candidates: int
    polish: int
    nodes: int


@dataclass(frozen=True)
class Found:
    """What an engine hands back: the portfolio, a sentence, and the records of Solution."""

    weights: Tensor
    message: str
    ablation: Mapping[str, float]
    ensemble: Tensor
    diagnostics: Mapping[str, float]


def convex_engine(landscape: Landscape, polisher: Polisher, x0: Tensor, effort: Effort, rng: torch.Generator) -> Found:
    """One exact solve; the chains run beside it and say how near they came."""
    run = run_chains(landscape, x0, effort.steps, rng)
    polisher.polish(b"", x0[0])
    best = polisher.best()
    before = float(run.best_energy.min())
    return Found(
        best.weights,
        "exact engine: energy and rules are convex, so the polish alone solves the problem and the chains add nothing",
        {ROUNDING: best.energy, NO_SWAPS: best.energy, BEFORE: before, FINAL: best.energy},
        run.state.x,
        {"acceptance": float(run.acceptance.mean()), "exact": float(best.exact)},
    )


def gradient_engine(
    landscape: Landscape, polisher: Polisher, x0: Tensor, effort: Effort, rng: torch.Generator
) -> Found:
    """Probe, anneal, kick; then a local polish of the best."""
    seen = explore(landscape, x0, GRADIENT_SHARE * effort.steps, rng)
    order = seen.energy.argsort(stable=True)[: effort.polish]
    for place, row in enumerate(order.tolist()):
        polisher.polish(bytes([place]), seen.weights[row])
    best = polisher.best()
    agreeing = float((seen.energy <= float(seen.energy.min()) + 1e-6 * landscape.spread).double().mean())
    message = (
        "gradient engine: all descents agree on one minimum"
        if seen.agreed
        else f"gradient engine: annealing and {seen.cycles} cycles of Langevin kicks"
    )
    return Found(
        best.weights,
        message + "; the energy is not convex, so this is a local minimum and nothing bounds it from below",
        {"descents alone": float(seen.probed.min()), BEFORE: float(seen.energy.min()), FINAL: best.energy},
        seen.weights,
        {"chain agreement": agreeing, "cycles": float(seen.cycles)},
    )


def choosing_engine(
    formula: Formula, region: Region, ticket: float, chains: int, effort: Effort, rng: torch.Generator
) -> tuple[Found, float] | None:
    """Scored swaps over exact inner solves, and branch and bound; None where no choice has a portfolio."""
    plan = Plan(chains, effort.walkers, effort.sweeps, effort.swaps, effort.nodes)
    seen = choose(mixed_of(formula, region, ticket), plan, rng, partial(_nearby, region=region))
    if seen is None:
        return None
    place = region.lower
    stages = {
        ROUNDING: seen.rounding, NO_SWAPS: seen.chains, NO_NOISE: seen.descent, FINAL: seen.value,
    }  # fmt: skip
    how = f"{seen.sweeps} annealed sweeps of swaps, " if seen.sweeps else ("" if effort.swaps else "swaps off, ")
    ended = "closed, so the optimum is proven" if seen.proof.finished else "its nodes spent"
    found = Found(
        torch.as_tensor(seen.weights).to(place),
        f"pattern engine: {how}{seen.seen} slices solved exactly, branch and bound {ended} ({seen.proof.nodes} nodes)",
        {name: value + formula.constant for name, value in stages.items() if np.isfinite(value)},
        torch.as_tensor(seen.starts).to(place),
        {
            "patterns seen": float(seen.seen),
            "chain agreement": seen.agreement,
            "sweeps": float(seen.sweeps),
            "nodes": float(seen.proof.nodes),
            "proven": float(seen.proof.finished),
        },
    )
    return found, seen.bound + formula.constant


def _nearby(w: NDArray[np.float64], region: Region) -> NDArray[np.float64] | None:
    """A portfolio of the region near w, (n,); None where it is empty."""
    try:
        found = project_region(torch.as_tensor(w).to(region.lower), region).weights
    except InfeasibleError:
        return None
    return np.asarray(found.detach().cpu().numpy(), dtype=np.float64)


def in_lots(found: Found, value: Bound, region: Region) -> Found | None:
    """The portfolio brought to whole lots by moves of single lots; None where no whole lots obey the rules."""
    loose = region.ungridded()
    w = best_lots(value, partial(region_residual, region=loose), found.weights, region)
    if w is None:
        return None
    message = f"{found.message}; then whole lots by moves of single lots, which nothing proves best"
    ablation = {**found.ablation, FRACTIONS: found.ablation[FINAL], FINAL: float(value(w))}
    return replace(found, weights=w, message=message, ablation=ablation)


def pattern_engine(
    landscape: Landscape, polisher: Polisher, x0: Tensor, effort: Effort, rng: torch.Generator
) -> Found | None:
    """Chains over weights, then walkers over patterns, then exact polishes; None where no pattern has a portfolio."""
    run = run_chains(landscape, x0, effort.steps, rng)
    choice = Choice.of(landscape.region)
    hessian = landscape.hessian.cpu().double().numpy()
    search = Search(landscape.energy, Slices.of(landscape.region), choice, hessian, effort.candidates)
    chains = _solve_ends(search, run, choice)
    keys = list(dict.fromkeys(chains))
    rounding = polisher.polish(choice.of_weights(x0[:1])[0].tobytes(), x0[0])
    leaders = sorted(keys, key=lambda key: search.memo.value[key])[: effort.polish]
    alone = polisher.polish_all(leaders, [search.memo.weights[key] for key in leaders])
    reached = run.best_energy[region_residual(run.best, landscape.region) <= FEASIBLE]
    before = float(reached.min()) if reached.numel() else np.inf
    walked = Walked(tuple(chains), 0.0, 0)
    if effort.swaps and keys:
        walked = _swap(search, keys, landscape, effort, rng)
        best = search.memo.best(effort.polish)
        before = min(before, search.memo.value[best[0]])
        polisher.polish_all(best, [search.memo.weights[key] for key in best])
    if not polisher.done:
        return None
    final = polisher.best()
    stages = {
        ROUNDING: np.inf if rounding is None else rounding.energy,
        NO_SWAPS: np.inf if alone is None else alone.energy,
        BEFORE: before,
        FINAL: final.energy,
    }
    top = search.memo.best(1)
    return Found(
        final.weights,
        _sentence(effort, walked, len(search.memo.value), polisher),
        {name: value for name, value in stages.items() if np.isfinite(value)},
        run.state.x,
        {
            "acceptance": walked.acceptance,
            "patterns seen": float(len(search.memo.value)),
            "patterns of the chains": float(len(keys)),
            "chain agreement": float(np.mean([key == top[0] for key in walked.keys])) if walked.keys and top else 0.0,
            "sweeps": float(walked.sweeps),
            "patterns polished": float(len(polisher.done)),
        },
    )


def _solve_ends(search: Search, run: Annealed, choice: Choice) -> list[bytes]:
    """The patterns where the chains ended and where they were lowest, solved; two keys per chain at most, none for
    an empty slice.

    The pattern of all names at their minimum, where it is allowed, is tried as well: no chain stays in that corner.
    """
    best = evaluate(run.best, search.energy)
    patterns = np.concatenate([choice.of_weights(run.state.x), choice.of_weights(best.x)])
    points, slopes = torch.cat([run.state.x, best.x]), torch.cat([run.state.gradient, best.gradient])
    if int(choice.open.sum()) <= choice.at_most:
        patterns = np.concatenate([patterns, choice.open[None]])
        points, slopes = torch.cat([points, best.x[:1]]), torch.cat([slopes, best.gradient[:1]])
    search.evaluate(patterns, points, slopes)
    return [key for key in (one.tobytes() for one in patterns) if np.isfinite(search.memo.value[key])]


def _swap(search: Search, keys: list[bytes], landscape: Landscape, effort: Effort, rng: torch.Generator) -> Walked:
    """Hot sweeps of the best walkers, then descent of every walker and of the best pattern until none moves."""
    walkers = sorted(keys, key=lambda key: search.memo.value[key])[: effort.walkers]
    cooling = Geometric(SWAP_HOT * landscape.heat, SWAP_COLD * landscape.heat)
    hot = walk(search, walkers, cooling, effort.sweeps, rng, until_still=False)
    starts = [*search.memo.best(1), *hot.keys]
    cold = walk(search, starts, Constant(0.0), MOST_DESCENTS, rng, until_still=True)
    return Walked(cold.keys[1:], hot.acceptance, hot.sweeps + cold.sweeps)


def _sentence(effort: Effort, walked: Walked, seen: int, polisher: Polisher) -> str:
    how = f"{walked.sweeps} sweeps of swaps" if effort.swaps else "swaps off"
    text = f"pattern engine: annealed chains, {how}, {seen} patterns solved, {len(polisher.done)} polished"
    if polisher.convex:
        return text + " exactly"
    return text + "; the energy is not convex, so each is a local minimum and nothing bounds it from below"
