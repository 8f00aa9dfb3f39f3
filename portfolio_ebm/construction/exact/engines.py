"""The fast engines behind `minimize`: active set and interior point; each gives weights and multipliers.

The active set (daqp) takes strictly convex quadratics on polyhedra; the interior point takes smooth terms, the pieces
of pieces.py and every cap too; what is left goes to cvxpy (oracle.py). All work on an objective scaled to order one:
portfolio energies are near 1e-5, below what solvers' tolerances see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from portfolio_ebm.constraints import active_set as quadratic
from portfolio_ebm.construction.exact.columns import by_columns
from portfolio_ebm.construction.exact.duality import Box, Duals, Multipliers
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.construction.exact.interior import interior_point
from portfolio_ebm.construction.exact.lowering import lowered, program_of, read
from portfolio_ebm.types import counted

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What an engine gives: weights, and multipliers that prove them. Cvxpy, on terms only it knows, gives a bound, a
    KKT residual and multipliers of the rules of its own instead; cutting planes give `own` ones."""

    weights: Array
    duals: Multipliers | None
    engine: str
    bound: float | None = None
    kkt: float | None = None
    rules: Duals | None = None
    own: bool = False


class Ends(Protocol):
    """What has a box: the ends of each name's weights, (n,)."""

    @property
    def lower(self) -> Array: ...

    @property
    def upper(self) -> Array: ...


def scale_of(formula: Formula, box: Ends) -> float:
    """The factor that brings the objective's slopes to order one."""
    start = inside(box)
    _, gradient = formula.slope(start)
    sizes = [float(np.abs(gradient).max(initial=0.0)), formula.cost]
    sizes += [tail.coefficient * float(np.abs(tail.losses).mean()) for tail in formula.tails]
    if formula.other:
        sizes.append(float(np.abs(formula.gradient(start)).max(initial=0.0)))
        # In the kink of a deviation, which is at the benchmark, slopes cancel and say nothing of what a slope is.
        hinges = () if formula.pieces is None else formula.pieces.hinges
        sizes += [0.5 * h.price * float(np.abs(h.rows).sum(0).mean()) for h in hinges]
    largest = max(sizes)
    return 1.0 / largest if largest > 0.0 else 1.0


def inside(box: Ends, share: float = 0.2) -> Array:
    """A point inside the box, off its ends by a share of its width where it has one, near equal weight."""
    margin = share * np.minimum(box.upper - box.lower, 1.0)
    return np.minimum(np.maximum(1.0 / len(margin), box.lower + margin), box.upper - margin)


def active_set(formula: Formula, box: Box, start: Array | None = None) -> Found | None:
    """The exact minimum of a quadratic on a polyhedron by daqp; None where daqp does not end at one.

    Large problems are solved on the names that matter, first those of `start`, the weights of a problem close by.
    """
    if formula.curve is None or formula.tails or formula.smooth or formula.cost != 0.0 or box.turnover is not None:
        return None
    scale = scale_of(formula, box)
    found, engine = by_columns(formula, box, scale, start), "active set (daqp) by columns"
    if found is None and formula.matrix is not None:
        engine = "active set (daqp)"
        whole = quadratic.minimum(
            scale * formula.matrix, scale * formula.linear, (box.lower, box.upper), box.rows,
            (box.row_lower, box.row_upper),
        )  # fmt: skip
        found = None if isinstance(whole, quadratic.Failure) else (whole.x, whole.rows)
    return None if found is None else Found(found[0], Multipliers((), found[1] / scale, 0.0), engine)


def interior(formula: Formula, box: Box) -> Found | None:
    """The minimum of a formula of known terms, pieces and caps, by the interior point; None where it fails."""
    free = box.upper - box.lower > 1e-14
    # Drawdowns grow with the weights: equal weights, or near, are the better start for them.
    falling = formula.pieces is not None and bool(formula.pieces.falls)
    near = np.where(free, inside(box, 0.01 if falling else 0.2), box.lower)
    parts = lowered(formula, box, free, scale_of(formula.plain, box), near)
    if parts is None:
        return None
    with np.errstate(all="ignore"):
        ended = interior_point(program_of(parts), parts.start)
    if not ended.converged:
        return None
    w, duals = read(parts, ended.z, ended.q, ended.row_dual, ended.equal_dual, ended.flow)
    then = ", then exact on its active set" if ended.exact else ""
    return Found(w, duals, f"interior point, {counted(ended.steps, 'step')}{then}")


def no_minimum(status: str, formula: Formula) -> str:
    """The sentence for a solver status without a minimum, on rules that have portfolios."""
    what = f"{formula.energy!r}{formula.ctx.at}"
    if status.startswith("unbounded"):
        return f"{what} falls without end under these rules; bound the weights (Box, Leverage) or add a risk."
    if status.startswith("infeasible"):
        return (
            f"{what} is infinite on every portfolio that the rules allow; loosen the rules, or leave out the term that "
            "needs positive weights or exposures."
        )
    if status == "off":
        return f"{what}: Clarabel's weights break a rule by more than 1e-9; bound the weights (Box), check units."
    return (
        f"Clarabel ended with '{status}' on {what}; check that the energy is bounded below over the rules and its "
        "coefficients are finite."
    )
