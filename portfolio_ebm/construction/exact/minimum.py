"""The exact minimum of a convex formula over convex rules, with the proof that it is one.

`minimize` picks the engine by structure (see engines.py), re-evaluates the weights on the torch face, and proves
them by a dual bound and a KKT residual that do not trust the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

from portfolio_ebm.constraints.cone import ask_clarabel
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.cuts import by_cuts
from portfolio_ebm.construction.exact.duality import Box, Duals, Multipliers, prove
from portfolio_ebm.construction.exact.engines import Ends, Found, active_set, interior, no_minimum, scale_of
from portfolio_ebm.construction.exact.formula import Formula, take_apart
from portfolio_ebm.construction.exact.free_minimum import free_minimum
from portfolio_ebm.construction.exact.linear_program import linear_program, linear_rows
from portfolio_ebm.construction.exact.oracle import rules, through_cvxpy
from portfolio_ebm.construction.exact.sides import by_sides
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import InfeasibleError, SolverError, SpecError
from portfolio_ebm.types import Status

Array = NDArray[np.float64]

KKT = 1e-8
"""A minimum is proven where its gap, relative to its size, is at most this, or the KKT residual of its weights,
relative to the largest slope. What Clarabel says of its own program is told and proves nothing."""


FEASIBLE = 1e-9
"""Weights further off a rule than this are no answer."""


@dataclass(frozen=True)
class Minimum:
    """The least energy over a convex region, with its proof.

    Attributes:
        weights: (n,), on the region to rounding.
        value: E(weights), re-evaluated on the torch face.
        bound: a true lower bound on E over the region, or None where none could be had.
        kkt: the KKT residual of the weights relative to the largest slope; by Clarabel through cvxpy, on terms only it
            knows, that of its cone program by its own account. None where no multipliers are known, or where the bound
            alone proves the minimum.
        status: ok where the gap, or a KKT residual that is not Clarabel's own account, proves the minimum to 1e-8; the
            sentence names the engine, and whose the residual is.
        duals: the rules' multipliers, or None where none are known.
        size: what gaps are relative to; 0 where it is not known.
        multipliers: those of the engine, which prove other weights of the same energy as well; None where it has none.
    """

    weights: Tensor
    value: float
    bound: float | None
    kkt: float | None
    status: Status
    duals: Duals | None = None
    size: float = 0.0
    multipliers: Multipliers | None = None


def minimize(energy: Energy, region: Region, ctx: Context) -> Minimum:
    """The minimum of a convex energy over a convex region.

    Raises:
        SpecError: a term is not convex, or the region is discrete.
        InfeasibleError: the region is empty.
        SolverError: no engine reached a usable minimum; e.g. the energy is unbounded below.

    Example:
        >>> minimize(Variance(), region_of(Budget() & LongOnly(), ctx), ctx).kkt < 1e-8
        True
    """
    return solve(take_apart(energy, ctx), region)


def solve(formula: Formula, region: Region, start: Array | None = None) -> Minimum:
    """`minimize` for a formula taken apart already: for many regions in one context.

    `start` are the weights of a problem close by, from which large quadratics begin.
    """
    if region.discrete:
        raise SpecError(
            "The region holds a choice of names, so it is not convex; use AnnealedLangevin(), which bounds it too."
        )
    box = Box.of(region)
    if formula.nonnegative:
        region, box = _on_domain(formula, region, box)
    if (box.lower > box.upper).any():
        if (box.lower > box.upper + 1e-12).any():
            said = "The region is empty: a lower bound on a weight is above its upper bound."
            raise InfeasibleError(said, region.names)
        box = replace(box, upper=np.maximum(box.lower, box.upper))
    if box.impossible:
        require_feasible(box, region.names)
    if np.array_equal(box.lower, box.upper):
        return _only_point(formula, box, region)
    best: Minimum | None = None
    polyhedral = formula.exact and not box.caps
    fast = (linear_program, free_minimum, lambda f, b: active_set(f, b, start), by_sides) if polyhedral else ()
    for engine in (*fast, interior):
        found = engine(formula, box)
        if found is not None:
            minimum = _proven(formula, box, region, found)
            if not _usable(minimum, box):
                continue
            if minimum.status.ok:
                return minimum
            best = minimum if best is None or minimum.value < best.value else best
    require_feasible(box, region.names)
    gap = np.inf if best is None or best.bound is None else best.value - best.bound
    falls = formula.pieces is not None and bool(formula.pieces.falls)
    if best is not None and not falls and gap <= 1e-6 * size_of(formula, box, best.value):
        return best
    oracle = through_cvxpy(formula, box)
    last = _proven(formula, box, region, oracle)
    if np.isfinite(last.value) and not last.status.ok:
        closer = by_cuts(formula, box, oracle, size_of(formula, box, last.value))
        last = last if closer is None else _proven(formula, box, region, closer)
    left = np.inf if last.bound is None else last.value - last.bound
    if best is not None and not last.status.ok and gap < left:
        return best
    if not np.isfinite(last.value):
        raise SolverError(no_minimum("infeasible", formula))
    if not _usable(last, box):
        walled = bool(np.isfinite(box.lower).all() and np.isfinite(box.upper).all())
        runaway = not walled and float(last.weights.abs().max()) > 1.0 / FEASIBLE
        raise SolverError(no_minimum("unbounded" if runaway else "off", formula))
    return last


def proven_at(formula: Formula, region: Region, w: Array, duals: Multipliers | None) -> Minimum | None:
    """The proof of weights as a minimum by multipliers that somebody else found; None where there are none, or where
    the weights break a rule."""
    if duals is None:
        return None
    box = Box.of(region)
    if formula.nonnegative:
        region, box = _on_domain(formula, region, box)
    found = _proven(formula, box, region, Found(w, duals, "the multipliers of another"))
    return found if _usable(found, box) else None


def _usable(found: Minimum, box: Box) -> bool:
    """Finite, and on the rules; an energy that falls without end can end an engine at weights of any size."""
    return bool(np.isfinite(found.value)) and _off(found.weights.cpu().numpy(), box) <= FEASIBLE


def require_feasible(box: Box, names: tuple[str, ...]) -> None:
    """Raise InfeasibleError where no weights obey the box, the rows, the turnover cap and the other caps, and
    SolverError where Clarabel cannot tell whether any do."""
    n = len(box.lower)
    if box.caps:
        w = cp.Variable(n)
        problem = cp.Problem(cp.Minimize(0.0), list(rules(w, box).values()))
        said = ", ".join([*names, *(cap.name for cap in box.caps)])
        ask_clarabel(problem, f"Clarabel could not tell whether any weights obey all of: the box of each name, {said}")
        if problem.status in ("infeasible", "infeasible_inaccurate"):
            raise InfeasibleError(f"No weights obey all of: the box of each name, {said}.", names)
        return
    a_ub, b_ub, a_eq, b_eq = linear_rows(box)
    capped = box.turnover is not None
    bounds = np.column_stack([box.lower, box.upper])
    if capped:
        bounds = np.concatenate([bounds, np.column_stack([np.zeros(n), np.full(n, np.inf)])])
    found = linprog(np.zeros(len(bounds)), A_ub=a_ub, b_ub=b_ub, A_eq=a_eq, b_eq=b_eq, bounds=bounds, method="highs")
    if found.status == 2:
        raise InfeasibleError(f"No weights obey all of: the box of each name, {', '.join(names) or 'no rows'}"
                              + (f", turnover of at most {box.turnover:g}" if capped else "") + ".", names)  # fmt: skip


def _on_domain(formula: Formula, region: Region, box: Box) -> tuple[Region, Box]:
    """The part of the region without negative weights, where the formula is finite, and its box: folded as the region
    itself, since multipliers are handed back to the rules by their places there."""
    inner = replace(box, lower=np.maximum(box.lower, 0.0))
    try:
        if (inner.lower > inner.upper).any():
            raise InfeasibleError("A weight would have to be negative.", region.names)
        require_feasible(inner, region.names)
    except InfeasibleError as error:
        require_feasible(box, region.names)
        raise SolverError(no_minimum("infeasible", formula)) from error
    return region.with_box(0.0, torch.inf), inner


def _proven(formula: Formula, box: Box, region: Region, found: Found) -> Minimum:
    """Clean the weights, evaluate them, and prove what can be proven."""
    weights = cleaned(found.weights, box, region)
    value = formula.evaluate(weights)
    bound, kkt, multipliers = found.bound, found.kkt, found.rules
    least = 1.0 / scale_of(formula.plain, box)
    size = max(abs(value), least)
    if found.duals is not None:
        proof = prove(formula, box, weights, found.duals)
        # Where a term's own parts cancel at the minimum, its slope there says nothing of what a slope is.
        bound, kkt, multipliers = proof.bound, proof.kkt * proof.slope / max(proof.slope, least), proof.duals
    gap = np.inf if bound is None else (value - bound) / size
    # A conic solver's own residual is to its tolerance: it is told, and the gap decides.
    ours = found.duals is not None or found.own
    ok = gap <= KKT or (ours and kkt is not None and kkt <= KKT)
    alone = ""
    if gap <= KKT and kkt is not None and kkt > KKT:
        # Weights a hair off their corner: the bound alone proves them, and there is no residual to show.
        kkt, alone = None, ", proven by its bound"
    said = f"gap {max(value - bound, 0.0):.1e}{alone}" if bound is not None else "no bound"
    said += f", KKT residual {kkt:.1e}" + ("" if ours else " by Clarabel's own account") if kkt is not None else ""
    sentence = (
        f"Exact minimum by {found.engine}: {said}." if ok else f"Minimum by {found.engine}, not proven to 1e-8: {said}."
    )
    bound = None if bound is None else min(bound, value)
    return Minimum(
        torch.as_tensor(weights).to(region.lower), value, bound, kkt, Status(ok, sentence), multipliers, size,
        found.duals,
    )  # fmt: skip


def _only_point(formula: Formula, box: Box, region: Region) -> Minimum:
    require_feasible(box, region.names)
    if _off(box.lower, box) > 1e-10:
        raise InfeasibleError("The bounds leave one portfolio only, and it breaks another rule.", region.names)
    value = formula.evaluate(box.lower)
    weights = torch.as_tensor(box.lower).to(region.lower)
    return Minimum(weights, value, value, 0.0, Status(True, "The rules leave one portfolio only."), size=abs(value))


def cleaned(w: Array, box: Box, region: Region) -> Array:
    """The weights put onto the region exactly: clipped, and projected where a row or the turnover is off."""
    inner = np.clip(w, box.lower, box.upper)
    if _off(inner, box) <= 1e-14:
        return inner
    from portfolio_ebm.constraints.combine import project_region

    snapped = project_region(torch.as_tensor(inner).to(region.lower), region).weights.cpu().numpy()
    return snapped if _off(snapped, box) < _off(inner, box) else inner


def _off(w: Array, box: Box) -> float:
    """The largest violation of a row, of the turnover cap or of another cap."""
    at = box.rows @ w
    off = max(float((at - box.row_upper).max(initial=0.0)), float((box.row_lower - at).max(initial=0.0)))
    if box.caps:
        point = torch.as_tensor(w, dtype=torch.float64)
        off = max([off, *(float(cap.excess(point)) for cap in box.caps)])
    return off if box.turnover is None else max(off, float(np.abs(w - box.anchor).sum()) - box.turnover)


def size_of(formula: Formula, box: Ends, value: float) -> float:
    """The size that gaps are relative to: the energy's, or the largest slope's, a unit of weight moved."""
    return max(abs(value), 1.0 / scale_of(formula.plain, box))
