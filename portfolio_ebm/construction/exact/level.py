"""The portfolio nearest to what is held on a level set of a formula, as one Program.

    min_w  u T(w),  T(w) = sum |w - held|     s.t.  E(w) <= limit,  every rule

E(w) is a quadratic of z and the hinges of its Program (lowering.py). A last entry s of z holds what the hinges cost, so
that the limit is a row that charges for hinges, and a curve:

    sum_s p_s (a_s'z - b_s)_+ - s <= 0,    phi(z) + s - limit <= 0

The multiplier y of the curve is the price at which energy is sold for trade: the end, with all its multipliers divided
by y, is the minimum of E + (u / y) T, and its bound there is one on T (least_trade.py).

Source: Everett, H. (1963), Generalized Lagrange multiplier method for solving problems of optimum allocation of
resources, Operations Research 11(3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from portfolio_ebm.construction.exact.duality import Box, Multipliers
from portfolio_ebm.construction.exact.engines import inside, scale_of
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.construction.exact.interior import interior_point
from portfolio_ebm.construction.exact.lowering import Lowered, lowered, program_of, read
from portfolio_ebm.construction.exact.pieces import Kink
from portfolio_ebm.construction.exact.program import Array, Curved, Program

USUAL = 10.0
"""In units of excess / (the optimum's trade), the price of trade that is usual near an optimum: with it y is of order
one, whatever the sizes of energies are."""

FREE = 1e-9
"""A price y below this says that the limit does not bind."""


@dataclass(frozen=True)
class OnLevel:
    """Weights (n,) on the level set, the price of trade `tau` at which they minimise E + tau T, and the multipliers of
    that minimum, in the energy's own units."""

    weights: Array
    tau: float
    duals: Multipliers


def nearest_on_level(formula: Formula, box: Box, limit: float, usual: float) -> OnLevel | None:
    """The portfolio with E <= `limit` nearest to what is held; `usual` is the order of the price of trade.

    None where the formula has terms with a Newton model of their own, drawdowns or terms that only cvxpy knows, where
    the limit does not bind, or where the interior point fails.
    """
    pieces = formula.pieces
    if formula.held is None or pieces is None or formula.models or pieces.falls:
        return None
    free, scale = box.upper - box.lower > 1e-14, scale_of(formula.plain, box)
    parts = lowered(formula, box, free, scale, np.where(free, inside(box), box.lower))
    if parts is None:
        return None
    unit = USUAL * usual * scale
    inner = program_of(parts)
    paid = float(inner.weights @ np.maximum(inner.hinges @ parts.start - inner.offsets, 0.0))
    with np.errstate(all="ignore"):
        ended = interior_point(_levelled(parts, inner, limit, unit), np.append(parts.start, paid + 0.1))
    price = float(ended.row_dual[-1])
    if not ended.converged or not price > FREE:
        return None
    # The row of the hinges is the first, the curve of the limit the last: what is between are the formula's own.
    q, row_dual = ended.q[: len(inner.offsets)] / price, ended.row_dual[1:-1] / price
    w, duals = read(parts, ended.z[:-1], q, row_dual, ended.equal_dual / price, ended.flow)
    return OnLevel(w, unit / (price * scale), duals)


def _levelled(parts: Lowered, inner: Program, limit: float, unit: float) -> Program:
    """The Program above, around the formula's own."""
    assert parts.formula.held is not None
    sizes, slopes = parts.sided(Kink.even(parts.formula.held, unit))
    traded, size, hinges = sizes > 0.0, parts.size, len(inner.offsets)
    fall, still, last = np.zeros(size + 1), np.zeros((size + 1, size + 1)), np.eye(size + 1)[-1]
    fall[: parts.k] = slopes
    charges = np.zeros((1 + inner.charged, hinges + int(traded.sum())))
    charges[0, :hinges], charges[1:, :hinges] = inner.weights, inner.charges

    def wide(rows: Array) -> Array:
        return np.pad(rows, ((0, 0), (0, 1)))

    gradient, hessian = inner.model(np.zeros(size))
    constant = parts.constant + parts.scale * (parts.formula.smooth_part(parts.fixed)[0] - limit)
    level = Curved(np.pad(hessian, (0, 1)), np.append(gradient, 1.0), constant)
    curved = [Curved(np.pad(one.matrix, (0, 1)), np.append(one.linear, 0.0), one.constant) for one in inner.curved]
    return Program(
        model=lambda z: (fall.copy(), still),
        hinges=np.vstack([wide(inner.hinges), np.eye(parts.k, size + 1)[traded]]),
        offsets=np.concatenate([inner.offsets, parts.formula.held[parts.free][traded]]),
        weights=np.concatenate([np.zeros(hinges), sizes[traded]]),
        rows=np.vstack([-last, wide(inner.rows)]), limits=np.append(0.0, inner.limits),
        equal=wide(inner.equal), targets=inner.targets,
        lower=np.append(inner.lower, -np.inf), upper=np.append(inner.upper, np.inf),
        charges=charges, curved=(*curved, level),
    )  # fmt: skip
