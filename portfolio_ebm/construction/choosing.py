"""The pattern engine: which modes to choose where the energy is convex once they are chosen.

    relaxation -> rounding under noise -> exact inner solves -> annealed scored swaps -> descent -> branch and bound

Branch and bound looks first at a few nodes, since many rules close at once (5/10/40 and 25/50 in a few), and again
with the incumbent of the walkers until its nodes are spent: what it leaves is a bound, or a proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from portfolio_ebm.constraints.caps import Ball
from portfolio_ebm.constraints.mixed.branch_and_bound import Proof, branch_and_bound
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed, assign, relax
from portfolio_ebm.constraints.mixed.of_region import choices_of, hull_of
from portfolio_ebm.constraints.mixed.program import Array, Ints, Point, Program
from portfolio_ebm.constraints.mixed.search import Search, rounded
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.duality import Box
from portfolio_ebm.construction.formula import Formula
from portfolio_ebm.construction.inner import FormulaProgram, modelled

FIRST_LOOK = 200
"""Nodes of branch and bound before the walkers set out."""
FEW = 4
"""Roundings that are still solved once the optimum is proven."""
DEAR = 25
"""A node of a formula that is not quadratic takes the time of so many of one that is."""
TOLERANCE = 1e-9
HOT, COLD = 0.3, 0.003
"""The walkers' first and last temperature, in spreads of the energies they start from."""


@dataclass(frozen=True)
class Chosen:
    """What the search over modes found.

    Attributes:
        weights: (n,). value: without the formula's constant. bound: in the same units.
        proof: the tree. starts: (walkers, n), the rounded portfolios.
        rounding, chains, descent: values after each stage, +inf where it was not run.
        seen: slices solved. agreement: share of walkers that end on the best modes.
    """

    weights: Array
    value: float
    bound: float
    proof: Proof
    starts: Array
    rounding: float = np.inf
    chains: float = np.inf
    descent: float = np.inf
    seen: int = 0
    agreement: float = 1.0
    sweeps: int = 0


@dataclass(frozen=True)
class Plan:
    """How much work to do: rounded starts, walkers, hot sweeps, whether to swap at all, nodes of branch and bound."""

    starts: int
    walkers: int
    sweeps: int
    swaps: bool
    nodes: int


def quadratic(formula: Formula) -> bool:
    """Whether the formula is a quadratic with a linear cost of trading: what `Program` solves."""
    return formula.exact and not formula.tails and not formula.smooth


def mixed_of(formula: Formula, region: Region, ticket: float = 0.0) -> Mixed:
    """The mixed program of a convex formula on a region whose names are a choice; `ticket` is the cost of each name
    traded."""
    box = Box.of(hull_of(region))
    lower, upper = box.implied()
    matrix = np.zeros((formula.n, formula.n)) if formula.matrix is None else formula.matrix
    capped = box.turnover is not None
    same = formula.held is not None and capped and np.array_equal(formula.held, box.anchor)
    ticket = 0.0 if formula.held is None else ticket
    held = formula.held if formula.cost > 0.0 or ticket > 0.0 else (box.anchor if capped else None)
    caps, turnover = box.caps, np.inf if box.turnover is None else box.turnover
    if capped and (formula.cost > 0.0 or ticket > 0.0) and not same:
        # The kinks are the cost's; a cap that counts from elsewhere is taken by cuts.
        centre, one = torch.as_tensor(box.anchor), torch.ones(formula.n, dtype=torch.float64)
        caps, turnover = (*caps, Ball("Turnover", turnover, centre, one, one)), np.inf
    program = Program(
        np.ascontiguousarray(matrix), formula.linear, lower, upper, box.rows, box.row_lower, box.row_upper,
        held, formula.cost, turnover,
    )  # fmt: skip
    choices = choices_of(region)
    if ticket > 0.0 and held is not None:
        free = np.flatnonzero(~region.frozen.cpu().numpy())
        choices = choices.joined(_tickets(free, held[free], ticket))
    mixed = Mixed(program, choices.clipped(lower, upper), caps)
    return mixed if quadratic(formula) else modelled(mixed, formula, replace(box, lower=lower, upper=upper))


def _tickets(names: Ints, held: Array, ticket: float) -> Choices:
    """Each name stays as it is held, or moves and costs a ticket."""
    found = Choices.of_names(names, [(0.0, 0.0), (-np.inf, np.inf)], [], "FixedCost")
    found.lower[:, 0], found.upper[:, 0], found.cost[:, 1] = held, held, ticket
    return found


def choose(mixed: Mixed, plan: Plan, rng: torch.Generator, anyone: Callable[[Array], Array | None]) -> Chosen | None:
    """The best modes that were found, and how good any could be; None where no modes have a portfolio.

    `anyone` gives a portfolio near given weights, (n,), or None where there is none: asked where the search found none.
    """
    dear = DEAR if isinstance(mixed.program, FormulaProgram) else 1
    # Where an inner solve is dear the tree comes first: it often closes before walkers have looked around once.
    look, nodes = (FIRST_LOOK, plan.nodes) if dear == 1 else (plan.nodes // (2 * dear), plan.nodes // dear)
    root = mixed.root()
    relaxed = None if root is None else relax(mixed, root)
    if root is None or relaxed is None:
        return None
    numpy_rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng, device=rng.device)))
    gap = TOLERANCE * _size(mixed, relaxed)
    first = branch_and_bound(mixed, most_nodes=min(look, nodes), tolerance=gap)
    search = Search(mixed, root)
    # Where the first look has proven the optimum, a few roundings say what they would have been worth.
    several = max(plan.starts // dear, 1)
    starts = _rounded(search, relaxed.weights, min(several, FEW) if first.finished else several, numpy_rng)
    if first.weights is None and first.finished:
        return None
    found = [(m, search.solve(m, relaxed.weights)) for m in starts]
    alive = sorted([(p.value, k) for k, (_, p) in enumerate(found) if p is not None])
    stages = {
        "rounding": np.inf if found[0][1] is None else found[0][1].value,
        "chains": alive[0][0] if alive else np.inf,
    }
    weights = np.array([p.weights for _, p in found if p is not None]).reshape(-1, mixed.program.n)
    ends: list[Ints] = []
    sweeps = 0
    if plan.swaps and not first.finished:
        spread = float(np.std([v for v, _ in alive])) if len(alive) > 1 else gap
        heats = np.geomspace(HOT, COLD, plan.sweeps) * max(spread, gap) if plan.sweeps else np.zeros(0)
        leaders = [starts[k] for _, k in alive[: plan.walkers if dear == 1 else max(plan.walkers // 4, 1)]]
        ends = [search.descend(m) for m in leaders]
        stages["descent"] = min((search.memo.value(m) for m in ends), default=np.inf)
        again = ends[: max(plan.walkers // 2, 1)] if dear == 1 else []
        ends += [search.descend(search.anneal(m, heats, numpy_rng)) for m in again]
        sweeps = plan.sweeps if again else 0
    best = _best(search, first)
    proof = first
    if not first.finished and nodes > look:
        proof = branch_and_bound(mixed, incumbent=best[0], value=best[1], most_nodes=nodes, tolerance=gap)
        if proof.value < best[1]:
            best = (proof.weights, proof.value)
    if best[0] is None and not proof.finished:
        best = _from(search, anyone(relaxed.weights))
    if best[0] is None:
        return None
    values = np.array([search.memo.value(m) for m in ends])
    agreement = float((values <= best[1] + gap).mean()) if len(values) else 1.0
    return Chosen(
        best[0], best[1], min(max(proof.bound, first.bound, relaxed.bound), best[1]), proof, weights, **stages,
        seen=len(search.memo.point), agreement=agreement, sweeps=sweeps,
    )  # fmt: skip


def _rounded(search: Search, relaxed: Array, count: int, rng: np.random.Generator) -> list[Ints]:
    """Modes near the relaxation: as it is, and its unit weights times exp(Gumbel noise)."""
    choices = search.mixed.choices
    x = choices.weights(relaxed)
    found = [rounded(choices, search.allowed, x)]
    for _ in range(count - 1):
        noise = np.exp(-np.log(-np.log(rng.uniform(1e-12, 1.0 - 1e-12, len(x)))))
        y = (np.abs(x) + 0.2 / max(len(x), 1)) * noise
        found.append(
            rounded(choices, search.allowed, y * (np.abs(x).sum() / max(y.sum(), 1e-300)) * np.where(x < 0, -1, 1))
        )
    return found


def _from(search: Search, w: Array | None) -> tuple[Array | None, float]:
    """The best on the modes that w has, or w itself where they leave no more than a point."""
    if w is None:
        return None, np.inf
    c, p = search.mixed.choices, search.mixed.program
    modes = assign(c, c.exists, w)[0]
    point = search.solve(modes, w)
    if point is not None:
        return point.weights, point.value
    return w, p.value(w) + float(c.cost[np.arange(c.units), modes].sum())


def _best(search: Search, first: Proof) -> tuple[Array | None, float]:
    solved = [p for p in search.memo.point.values() if p is not None]
    top = min(solved, key=lambda p: p.value, default=None)
    if top is None or first.value <= top.value:
        return first.weights, first.value
    return top.weights, top.value


def _size(mixed: Mixed, point: Point) -> float:
    """What gaps are relative to: the parts of the energy, which may cancel in the sum."""
    w, p = point.weights, mixed.program
    linear = abs(float(p.linear @ w))
    return max(linear + abs(point.value - float(p.linear @ w)), 1e-300)
