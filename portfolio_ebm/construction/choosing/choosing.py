"""The pattern engine: which modes to choose where the energy is convex once they are chosen.

    relaxation -> rounding under noise -> exact inner solves -> annealed scored swaps -> descent -> branch and bound
               -> tabu walks, where a gap is left

Branch and bound looks first at a few nodes, since many rules close at once (5/10/40 and 25/50 in a few), and goes on
with the incumbent of the walkers until its nodes are spent: what it leaves is a bound, or a proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from portfolio_ebm.constraints.caps import Ball, Ellipsoid, Tail
from portfolio_ebm.constraints.mixed.branch_and_bound import Proof, Tree
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed, relax
from portfolio_ebm.constraints.mixed.of_region import choices_of, hull_of
from portfolio_ebm.constraints.mixed.programs.bent import BentProgram
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.rooted import RootedProgram
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Point
from portfolio_ebm.constraints.mixed.reading import assign, assign_all
from portfolio_ebm.constraints.mixed.rounding import rounded
from portfolio_ebm.constraints.mixed.screening import Screened, screened
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.constraints.mixed.strengthening import strengthened
from portfolio_ebm.constraints.mixed.walkers import fits
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing.beside import Start, walked_beside
from portfolio_ebm.construction.choosing.capping import CappedProgram
from portfolio_ebm.construction.choosing.inner import FormulaProgram, modelled
from portfolio_ebm.construction.choosing.proving import proven
from portfolio_ebm.construction.choosing.roots import root_of, with_root
from portfolio_ebm.construction.choosing.swaps import BENT, DEAR, ROOT, WALKERS, Plan, Walked, look_further, swapped
from portfolio_ebm.construction.choosing.trades import trade_starts
from portfolio_ebm.construction.exact.duality import Box
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.construction.later import Later
from portfolio_ebm.energies.impact import MarketImpact
from portfolio_ebm.types import as_numpy

FIRST_LOOK = 200
"""Nodes of branch and bound before the walkers set out."""
TAIL = 10
"""How many nodes of a quadratic take the time of one of a lone tail, which is solved from the node above."""
OTHERS, FEW = 8, 4
"""Slices whose portfolios are handed on, and roundings solved for them where the optimum was proven at once."""
TOLERANCE = 1e-9
ROUNDED = 0.1
"""How much of a rounding's energy counts for its size: it may be far above the optimum."""


@dataclass(frozen=True)
class Chosen:
    """What the search over modes found.

    Attributes:
        weights: (n,). value: without the formula's constant. bound: in the same units.
        proof: the tree. starts: (walkers, n), the rounded portfolios.
        rounding, chains, descent: values after each stage, +inf where it was not run.
        others: (k, n), the minima of the best slices, for whoever goes on from them.
        seen: slices solved. agreement: share of walkers that end on the best modes.
    """

    weights: Array
    value: float
    bound: float
    proof: Proof
    starts: Array
    others: Later[Array]
    rounding: float = np.inf
    chains: float = np.inf
    descent: float = np.inf
    seen: int = 0
    agreement: float = 1.0
    sweeps: int = 0


def quadratic(formula: Formula) -> bool:
    """Whether the formula is a quadratic with a linear cost of trading: what `Program` solves."""
    return formula.exact and not formula.tails and not formula.smooth


def impact_of(formula: Formula) -> Array | None:
    """The coefficients (n,) of |trade|^(3/2) where the formula is else a quadratic; None where it is not."""
    parts = [(part.coefficient, part.energy) for part in formula.other]
    if formula.held is None or not parts or formula.tails or formula.smooth:
        return None
    slopes = [c * as_numpy(term.slopes(formula.ctx)) for c, term in parts if isinstance(term, MarketImpact)]
    return np.sum(slopes, axis=0) if len(slopes) == len(parts) else None


def mixed_of(formula: Formula, region: Region, ticket: float = 0.0) -> Mixed:
    """The mixed program of a convex formula on a region whose names are a choice; `ticket` is the cost of each name
    traded."""
    mixed, box = of_quadratic(formula, region, ticket)
    capped = formula.curve is None and any(isinstance(cap, (Ellipsoid, Tail)) for cap in box.caps)
    if isinstance(mixed.program, BentProgram) or (quadratic(formula) and not capped):
        return mixed
    root = None if capped else root_of(formula)
    if root is not None:
        return with_root(mixed, root, formula, box)
    return modelled(mixed, formula, box, CappedProgram if box.caps else FormulaProgram)


def of_quadratic(formula: Formula, region: Region, ticket: float = 0.0) -> tuple[Mixed, Box]:
    """`mixed_of` with the quadratic, the linear part and the costs of the formula alone, caps taken by cuts; and the
    region's convex rules, their box as tight as the rows make it."""
    box = Box.of(hull_of(region))
    lower, upper = box.implied()
    matrix = np.zeros((formula.n, formula.n)) if formula.matrix is None else formula.matrix
    capped = box.turnover is not None
    same = formula.held is not None and capped and np.array_equal(formula.held, box.anchor)
    ticket = 0.0 if formula.held is None else ticket
    impact = impact_of(formula)
    costly = formula.cost > 0.0 or ticket > 0.0 or impact is not None
    held = formula.held if costly else (box.anchor if capped else None)
    caps, turnover = box.caps, np.inf if box.turnover is None else box.turnover
    if capped and costly and not same:
        # The kinks are the cost's; a cap that counts from elsewhere is taken by cuts.
        centre, one = torch.as_tensor(box.anchor), torch.ones(formula.n, dtype=torch.float64)
        caps, turnover = (*caps, Ball("Turnover", turnover, centre, one, one)), np.inf
    data = np.ascontiguousarray(matrix), formula.linear, lower, upper, box.rows, box.row_lower, box.row_upper
    program = (
        Program(*data, held, formula.cost, turnover)
        if impact is None
        else BentProgram(*data, held, formula.cost, turnover, power=impact)
    )
    choices = with_tickets(choices_of(region), region, held, ticket)
    return Mixed(program, choices.clipped(lower, upper), caps), replace(box, lower=lower, upper=upper)


def with_tickets(choices: Choices, region: Region, held: Array | None, ticket: float) -> Choices:
    """The choices where each name besides stays as it is held, or moves and costs a ticket."""
    if ticket == 0.0 or held is None:
        return choices
    names = np.flatnonzero(~region.frozen.cpu().numpy())
    found = Choices.of_names(names, [(0.0, 0.0), (-np.inf, np.inf)], [], "FixedCost")
    found.lower[:, 0], found.upper[:, 0], found.cost[:, 1] = held[names], held[names], ticket
    return choices.joined(found)


def choose(
    mixed: Mixed, plan: Plan, rng: torch.Generator, anyone: Callable[[Array], Array | None],
    known: Array | None = None, near: Array | None = None,
) -> Chosen | None:  # fmt: skip
    """The best modes that were found, and how good any could be; None where no modes have a portfolio.

    `anyone` gives a portfolio near given weights, (n,), or None where there is none: asked where the search found none.
    `known` is a portfolio (n,) that is there already, `near` (k, n) are where walks on the device of `rng` have ended;
    without them they are walked here where that is not the host's.
    """
    dear = _dearness(mixed.program)
    look, nodes = looks(mixed.program, plan)
    root = mixed.root()
    relaxed = None if root is None else relax(mixed, root)
    if root is None or relaxed is None:
        return None
    search = Search(mixed, root)
    # What the rounding is worth spares the first look many a step.
    starts = [rounded(mixed.choices, root, mixed.choices.weights(relaxed.weights))]
    gap = TOLERANCE * _size(mixed, relaxed, search.solve(starts[0], relaxed.weights))
    tree = Tree(mixed, gap, relaxed)
    there = _from(search, known)
    costly = _costly(mixed.program)
    first = tree.grow(min(1 if costly else look, nodes), *_better(there, _best(search)))
    if first.weights is None and first.finished:
        return None
    if not first.finished and costly:
        tree, relaxed, first = _priced(tree, relaxed, first, min(look, nodes))
    if not first.finished:
        numpy_rng = _stream(rng)
        starts = _starts(search, relaxed.weights, max(plan.starts // dear, 1), numpy_rng)
        if first.weights is not None:
            # Roundings may all end on empty slices, and walkers have to set out somewhere.
            starts.append(assign(mixed.choices, root, first.weights)[0])
    found = [(m, search.solve(m, relaxed.weights)) for m in starts]
    alive = sorted([(p.value, k) for k, (_, p) in enumerate(found) if p is not None])
    rounding = np.inf if found[0][1] is None else found[0][1].value
    weights = np.array([p.weights for _, p in found if p is not None]).reshape(-1, mixed.program.n)
    leaders = [starts[k] for _, k in alive[: max(plan.walkers // WALKERS[dear], 1)]] if plan.swaps else []
    walked, left = Walked([], np.inf, 0), None
    if not first.finished and nodes > look:
        search, leaders, left = _candidates(search, leaders, first.value, relaxed.weights, numpy_rng)
    if plan.swaps and not first.finished and not (left is not None and left.mixed is None):
        spread = max(float(np.std([v for v, _ in alive])) if len(alive) > 1 else gap, gap)
        ends = _beside(search, plan, Start(_open([*leaders, *starts], search), relaxed.weights, spread), near, rng)
        walked = _walked(search, leaders, ends, plan, dear, spread, numpy_rng)
    best = _better((first.weights, first.value), _best(search))
    proof = first
    if not first.finished and nodes > look:
        proof = proven(tree, first, nodes, best, left, look)
        if proof.value < best[1]:
            best = (proof.weights, proof.value)
    if not proof.finished:
        # What the tree leaves open may be open above.
        look_further(search, walked.ends, plan, dear, numpy_rng)
        best = _better(best, _best(search))
    if best[0] is None and not proof.finished:
        best = _from(search, anyone(relaxed.weights))
    if best[0] is None:
        return None
    values = np.array([search.memo.value(m) for m in walked.ends])
    agreement = float((values <= best[1] + gap).mean()) if len(values) else 1.0
    return Chosen(
        best[0], best[1], min(max(proof.bound, first.bound, relaxed.bound), best[1]), proof, weights,
        Later(partial(_others, search, relaxed.weights, FEW if first.finished else 0, rng.clone_state())),
        rounding=rounding, chains=alive[0][0] if alive else np.inf,
        descent=walked.descent, seen=len(search.memo.point), agreement=agreement, sweeps=walked.sweeps,
    )  # fmt: skip


def _walked(
    search: Search, leaders: list[Ints], ends: list[Ints], plan: Plan, dear: int, spread: float,
    rng: np.random.Generator,
) -> Walked:  # fmt: skip
    """Where walkers end that set out from `leaders`; where walks have ended already, descents from the best alone."""
    if not ends:
        return swapped(search, leaders, plan, dear, spread, rng)
    best = sorted([*leaders, *ends], key=search.memo.value)[: len(leaders)]
    return replace(swapped(search, best, replace(plan, sweeps=0), dear, spread, rng), sweeps=plan.sweeps)


def _beside(search: Search, plan: Plan, start: Start, near: Array | None, rng: torch.Generator) -> list[Ints]:
    """The modes on which walks on another device end, solved; none where there are none."""
    c, ends = search.mixed.choices, []
    if near is not None:
        ends = list(assign_all(c, c.exists, near)[0])
    elif rng.device.type != "cpu" and plan.sweeps and fits(search.mixed):
        ends = walked_beside([(search, start)], plan.sweeps, rng)[0]
    return [modes for modes in ends if search.solve(modes, start.near) is not None]


def _open(starts: list[Ints], search: Search) -> list[Ints]:
    """Those of `starts` whose modes are all open."""
    return [modes for modes in starts if search.allowed[np.arange(len(modes)), modes].all()]


def _priced(tree: Tree, relaxed: Point, first: Proof, look: int) -> tuple[Tree, Point, Proof]:
    """The tree, the minimum of its root and a first look, with a limit on numbers priced where there is one to price,
    and something is left to look at."""
    root = tree.mixed.root()
    stronger = tree.mixed if root is None else strengthened(tree.mixed, root, first.value)
    root = None if stronger is tree.mixed else stronger.root()
    point = None if root is None else relax(stronger, root, relaxed.weights)
    if point is None:
        return tree, relaxed, tree.grow(look, first.weights, first.value)
    tighter = Tree(stronger, tree.tolerance, point)
    seen = tighter.grow(look, first.weights, first.value)
    return tighter, point, replace(seen, nodes=first.nodes + seen.nodes)


def _candidates(
    search: Search, leaders: list[Ints], value: float, relaxed: Array, rng: np.random.Generator
) -> tuple[Search, list[Ints], Screened | None]:
    """The search among the names that a portfolio below `value` may hold, walkers to set out on it, the first of them
    descended, and what screening says of all."""
    leaders = [*(search.descend(modes) for modes in leaders[:1]), *leaders[1:]]
    left = screened(search.mixed, min(value, _best(search)[1]), relaxed)
    if left is None or len(left.names) == left.n:
        return search, leaders, left
    search = search.among(left.open)
    return search, [*leaders[:1], *roundings(search, relaxed, len(leaders) - 1, rng)], left


def _stream(rng: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng, device=rng.device)))


def _others(search: Search, relaxed: Array, more: int, rng: torch.Generator) -> Array:
    """The portfolios of the best slices solved, (k, n), the best first, and of `more` starts where there are any."""
    for modes in _starts(search, relaxed, more, _stream(rng))[:more] if more else []:
        search.solve(modes, relaxed)
    return np.array([p.weights for p in _solved(search)[:OTHERS]]).reshape(-1, search.mixed.program.n)


def _solved(search: Search) -> list[Point]:
    """The minima of the slices solved to the end, the best first."""
    return sorted((p for p in search.memo.point.values() if p and p.value < np.inf), key=lambda p: p.value)


def _dearness(program: Program) -> int:
    """How many times as long as a quadratic program's a node takes."""
    if isinstance(program, RootedProgram):
        return ROOT
    return DEAR if isinstance(program, FormulaProgram) else BENT if isinstance(program, BentProgram) else 1


def _costly(program: Program) -> bool:
    """Whether trades cost anything: it draws a relaxation to what is held, and a limit that is priced draws it back."""
    return program.held is not None and (isinstance(program, BentProgram) or bool(np.any(program.rate)))


def looks(program: Program, plan: Plan) -> tuple[int, int]:
    """Nodes before the walkers set out, and in all."""
    dear = _dearness(program)
    nodes = plan.nodes // dear
    if dear == ROOT:
        return FIRST_LOOK // ROOT, nodes
    if isinstance(program, FormulaProgram) and program.pool is not None:
        nodes = plan.nodes // TAIL
    # Where an inner solve is dear the tree comes first: it often closes before walkers have looked around once.
    return FIRST_LOOK if dear == 1 else plan.nodes // (2 * dear), nodes


def _starts(search: Search, relaxed: Array, count: int, rng: np.random.Generator) -> list[Ints]:
    """Modes to set out from: `count` roundings, or what to trade where a mode costs something."""
    if search.mixed.choices.priced:
        return trade_starts(search, relaxed, rng)
    return roundings(search, relaxed, count, rng)


def roundings(search: Search, relaxed: Array, count: int, rng: np.random.Generator) -> list[Ints]:
    """`count` modes near the relaxation: as it is, and its unit weights times exp(Gumbel noise)."""
    choices = search.mixed.choices
    x = choices.weights(relaxed)
    found = [rounded(choices, search.allowed, x)] if count else []
    for _ in range(count - 1):
        noise = np.exp(-np.log(-np.log(rng.uniform(1e-12, 1.0 - 1e-12, len(x)))))
        y = (np.abs(x) + 0.2 / max(len(x), 1)) * noise
        y = y * (np.abs(x).sum() / max(y.sum(), 1e-300)) * np.where(x < 0, -1, 1)
        found.append(rounded(choices, search.allowed, y))
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


def _better(one: tuple[Array | None, float], other: tuple[Array | None, float]) -> tuple[Array | None, float]:
    return min(one, other, key=lambda found: found[1])


def _best(search: Search) -> tuple[Array | None, float]:
    """The best of the slices solved."""
    top = next(iter(_solved(search)), None)
    return (None, np.inf) if top is None else (top.weights, top.value)


def _size(mixed: Mixed, relaxed: Point, rounding: Point | None) -> float:
    """What gaps are relative to: the parts of the energy, which may cancel in the sum. Where a relaxation has none of
    it, as of a tracking error, those of a rounding say how large it is."""
    sizes = [_parts(mixed, relaxed)] + ([] if rounding is None else [ROUNDED * _parts(mixed, rounding)])
    return max(*sizes, 1e-300)


def _parts(mixed: Mixed, point: Point) -> float:
    linear = float(mixed.program.straight @ point.weights)
    return abs(linear) + abs(point.value - linear)
