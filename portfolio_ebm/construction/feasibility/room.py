"""Whether a choice of names leaves room under curved caps, by the pattern engine itself.

    min g_k(w)   over the choice, and over the caps before k:   room where that is at most limit_k, for k = 1, 2, ...

The least tail, or volatility, over a choice is a problem that the tree solves quickly, where a mixed-integer program
with a row for each scenario takes minutes, and an interior point has no interior to start from. Nodes that are above
the limit are closed at once, and the first portfolio below it ends the search: it is one to set out from.

Source: Nocedal, J. and Wright, S. J. (2006), Numerical Optimization, section 15.1, for the two phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from portfolio_ebm.constraints.caps import Cap, Ellipsoid, Tail
from portfolio_ebm.constraints.mixed.branch_and_bound import Proof, Tree
from portfolio_ebm.constraints.mixed.node import MET, relax
from portfolio_ebm.constraints.mixed.programs.slice import Array
from portfolio_ebm.constraints.mixed.search import Search
from portfolio_ebm.constraints.mixed.strengthening import strengthened
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing.choosing import choose, looks, mixed_of, roundings
from portfolio_ebm.construction.choosing.swaps import Plan
from portfolio_ebm.construction.exact.formula import Formula, take_apart
from portfolio_ebm.context import Context
from portfolio_ebm.energies.risk import CVaR
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook

LOOK = 20
"""Nodes before walkers set out."""
PLAN = Plan(starts=6, walkers=6, sweeps=2, swaps=True, nodes=1500)
OBEYED = 1e-9
"""By how much a cap may be broken."""


@dataclass(frozen=True)
class Room:
    """What was found.

    Attributes:
        weights: a portfolio of the choice under all caps, (n,), or None.
        empty: whether it is proven that there is none.
        cap: the one that leaves no room, or under which none was found; None where the others leave none.
        least: the least value of `cap` that was seen under the other rules. low: none is below.
    """

    weights: Array | None
    empty: bool = False
    cap: Cap | None = None
    least: float = np.inf
    low: float = -np.inf


def asked(region: Region) -> bool:
    """Whether this file answers for the region: a choice beside a tail or an ellipsoid, without whole lots."""
    return region.discrete and region.grid is None and bool(_curved(region))


def room(region: Region) -> Room:
    """A portfolio of a region that `asked` is true of, or that there is none, or how near a cap was come to.

    Example:
        >>> room(region_of(Budget() & LongOnly() & Cardinality(5) & CVaRCap(0.02), ctx)).empty
        True
    """
    caps, found = _curved(region), Room(None)
    plain = replace(region, caps=tuple(cap for cap in region.caps if cap not in caps))
    for k, cap in enumerate(caps):
        found = _below(replace(plain, caps=(*plain.caps, *caps[:k])), cap, found.weights)
        if found.weights is None or _obeys(found.weights, caps):
            return found
    # Each cap was met in its turn, and one of them not to the tolerance by the last portfolio.
    missed = (cap for cap in caps if found.weights is not None and not _obeys(found.weights, [cap]))
    return Room(None, cap=next(missed, found.cap))


def least_value(region: Region, cap: Cap) -> Room:
    """The least value of a tail or an ellipsoid over a choice, as far as the tree's nodes tell."""
    formula = _formula(cap)
    seen = choose(mixed_of(formula, region), PLAN, torch.Generator().manual_seed(0), lambda _: None)
    if seen is None:
        return Room(None, empty=True)
    ends = (_risk(cap, value + formula.constant) for value in (seen.value, seen.bound))
    return Room(seen.weights, False, cap, *ends)


def _curved(region: Region) -> list[Cap]:
    """Ellipsoids and tails of scenarios. A sum of the largest weights stays: it implies rows (implied.py)."""
    caps = region.folded().caps
    return [cap for cap in caps if isinstance(cap, Ellipsoid) or (isinstance(cap, Tail) and len(cap.losses) > region.n)]


def _obeys(w: Array, caps: Sequence[Cap]) -> bool:
    return all(cap.taken_at(w)[0] <= cap.limit + OBEYED for cap in caps)


def _below(region: Region, cap: Cap, near: Array | None) -> Room:
    """A portfolio of the region that obeys the cap, or how near it was come to; `near` (n,) is one of the region."""
    formula = _formula(cap)
    mixed, most = mixed_of(formula, region), _energy(cap, cap.limit + MET) - formula.constant
    root = mixed.root()
    relaxed = None if root is None else relax(mixed, root, near)
    if root is None or relaxed is None:
        return Room(None, empty=True)
    if near is not None and mixed.program.value(near) <= most:
        return Room(near, False, cap)
    search = Search(mixed, root)
    found = _looked(search, relaxed.weights, 1, most)
    nodes, proof = (looks(mixed.program, PLAN)[1], None)
    for count, tighter in ((LOOK, False), (nodes, True)):
        if found is not None:
            break
        base = strengthened(mixed, root, most) if tighter else mixed
        proof = _closed(Tree(base, 0.0, None if tighter else relaxed, most), count)
        if proof.weights is not None or proof.finished:
            found = proof.weights
            break
        found = found if tighter else _looked(search, relaxed.weights, PLAN.starts, most)
    seen = min((p.value for p in search.memo.point.values() if p is not None), default=np.inf)
    low = relaxed.bound if proof is None else max(proof.bound, relaxed.bound)
    empty = found is None and proof is not None and proof.finished
    return Room(found, empty, cap, _risk(cap, seen + formula.constant), _risk(cap, low + formula.constant))


def _closed(tree: Tree, nodes: int) -> Proof:
    """The tree under its ceiling, until a portfolio is there.

    Raises:
        KeyboardInterrupt: it was ended by hand.
    """
    proof = tree.grow(nodes, stop=lambda: tree.weights is not None)
    if proof.interrupted:
        raise KeyboardInterrupt
    return replace(proof, weights=tree.weights)


def _looked(search: Search, relaxed: Array, count: int, most: float) -> Array | None:
    """The first portfolio of at most `most` on the slices that walkers from `count` roundings end on; one walker does
    not walk."""
    for modes in roundings(search, relaxed, count, np.random.default_rng(0)):
        point = search.solve(modes, relaxed)
        if count > 1 and not (point is not None and point.value <= most):
            point = search.solve(search.descend(modes), relaxed)
        if point is not None and point.value <= most:
            return point.weights
    return None


def _energy(cap: Cap, value: float) -> float:
    """What `_formula` is where the cap has a value: an ellipsoid's square."""
    return value**2 * np.sign(value) if isinstance(cap, Ellipsoid) else value


def _risk(cap: Cap, energy: float) -> float:
    return float(np.sqrt(max(energy, 0.0))) if isinstance(cap, Ellipsoid) else energy


def _formula(cap: Cap) -> Formula:
    """A tail as the CVaR of its scenarios; the square of an ellipsoid as a variance and a linear part."""
    if isinstance(cap, Tail):
        return take_apart(CVaR(level=1.0 - cap.count / len(cap.losses)), _world(-cap.losses))
    assert isinstance(cap, Ellipsoid)
    matrix, pull = cap.matrix, cap.matrix.matvec(cap.centre)
    formula = take_apart(CVaR(level=0.0), _world(torch.zeros(1, matrix.n, dtype=pull.dtype)))
    return replace(
        formula, value=lambda w: matrix.quad(w - cap.centre), curve=matrix.scaled(2.0), tails=(),
        linear=-2.0 * pull.numpy(), constant=float(cap.centre @ pull),
    )  # fmt: skip


def _world(scenarios: torch.Tensor) -> Context:
    n = scenarios.shape[-1]
    none = torch.zeros(n, dtype=torch.float64)
    flat = Structured(torch.zeros(n, 0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64), none)
    market = Outlook(none, flat, scenarios, None, 1.0)
    return Context(tuple(map(str, range(n))), market, None, torch.ones(n, dtype=torch.bool))
