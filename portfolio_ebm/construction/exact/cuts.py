"""Cutting planes: the proof of a minimum whose terms only cvxpy knows, from values and slopes alone.

Where a solver has come near the minimum and no further, each such term is replaced by the largest of its tangents,

    E_k(w) >= max over the points x seen of  E_k(x) + E_k'(x)'(w - x),

the model is minimised exactly (its dual is a bound on the energy itself), and the terms give their tangents there. The
first tangents are taken around the solver's point, so that few rounds are left.

Source: Kelley, J. E. (1960), The cutting-plane method for solving convex programs, J. SIAM 8.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.construction.exact.duality import Box, prove
from portfolio_ebm.construction.exact.engines import Found, interior
from portfolio_ebm.construction.exact.formula import Formula, modelled, take_apart
from portfolio_ebm.construction.exact.pieces import Tail, pieces_of
from portfolio_ebm.energy import Bound, Scaled, add

Array = NDArray[np.float64]

ROUNDS = 80
AROUND = 1e-4
"""How far from the solver's point the first tangents are taken, name by name."""
TIGHT = 1e-9
"""Gap relative to the energy's size at which the rounds end."""
MOST_NAMES = 100


def by_cuts(formula: Formula, box: Box, near: Found, size: float) -> Found | None:
    """The minimum by cutting planes from the weights of `near`, with a bound of our own; None where nothing is gained.

    `size` is what gaps are relative to.
    """
    # Drawdowns are cut too: the interior point has them, but was not let out of here with a proof.
    parts = [(part, pieces_of((part,), formula.ctx)) for part in formula.other]
    known = [part for part, pieces in parts if pieces is not None and not pieces.falls]
    star = _star(near.weights)
    unknown = [part for part in formula.other if part not in known] + _with_a_vertex(formula, star[1:])
    if not unknown or formula.n > MOST_NAMES:
        return None
    rest = take_apart(add([part for part in formula.energy.terms() if part not in unknown]), formula.ctx)
    base = rest.pieces
    if base is None:
        return None
    terms = [_bound(part, formula) for part in unknown]
    slopes, levels = _tangents(terms, star)
    best, value = near.weights, formula.evaluate(near.weights)
    bound, kkt, rules = -np.inf if near.bound is None else near.bound, np.inf, near.rules
    for _ in range(ROUNDS):
        tails = tuple(Tail(1.0, a, 1.0, -b) for a, b in zip(slopes, levels, strict=True))
        model = rest.made_of(replace(base, tails=base.tails + tails))
        found = interior(model, box)
        if found is None or found.duals is None:
            break
        w = found.weights
        proof, reached = prove(model, box, w, found.duals), formula.evaluate(w)
        if proof.bound is not None and proof.bound > bound:
            bound, rules = proof.bound, proof.duals
        more = _tangents(terms, np.stack([w, 0.5 * (w + best)]))
        # How far the terms are above their tangents at w: what the model's own residual does not see.
        missed = sum(
            float((a[:1] @ w + b[:1]).sum() - tail.loss(w).max()) for a, b, tail in zip(*more, tails, strict=True)
        )
        residual = max(proof.kkt, missed / size)
        if reached < value or residual < kkt:
            best, value, kkt, rules = w, reached, residual, proof.duals
        if value - bound <= TIGHT * size or kkt <= TIGHT:
            break
        slopes = [np.concatenate(pair) for pair in zip(slopes, more[0], strict=True)]
        levels = [np.concatenate(pair) for pair in zip(levels, more[1], strict=True)]
    if not np.isfinite(kkt):
        return None
    proven = bound if np.isfinite(bound) else None
    return Found(best, None, f"cutting planes from {near.engine}", proven, kkt, rules, own=True)


def _bound(part: Scaled, formula: Formula) -> tuple[float, Bound]:
    return part.coefficient, part.energy.bind(formula.ctx)


def _with_a_vertex(formula: Formula, around: Array) -> list[Scaled]:
    """The smooth terms whose slope turns between opposite points of `around`: (2n, n), steps ahead, then back."""
    found = []
    for part in formula.energy.terms():
        if not modelled(part.energy):
            continue
        slopes = _tangents([_bound(part, formula)], around)[0][0]
        if len(slopes) < len(around):
            continue
        ahead, back = np.split(slopes, 2)
        turned = np.abs(ahead - back).max(initial=0.0) > 0.5 * np.abs(slopes).max(initial=0.0)
        found += [part] if turned else []
    return found


def _star(w: Array) -> Array:
    """w and its neighbours in every name: (2n + 1, n)."""
    step = AROUND * np.eye(len(w))
    return np.concatenate([w[None], w + step, w - step])


def _tangents(terms: list[tuple[float, Bound]], points: Array) -> tuple[list[Array], list[Array]]:
    """By term, the slopes (k, n) and levels (k,) of its tangents at `points` (k, n); none where it is infinite."""
    slopes, levels = [], []
    for coefficient, value in terms:
        x = torch.tensor(points, dtype=torch.float64, requires_grad=True)
        values = coefficient * value(x)
        (slope,) = torch.autograd.grad(values.sum(), x)
        a = slope.numpy()
        b = values.detach().numpy() - (a * points).sum(1)
        usable = np.isfinite(a).all(1) & np.isfinite(b)
        slopes.append(a[usable])
        levels.append(b[usable])
    return slopes, levels
