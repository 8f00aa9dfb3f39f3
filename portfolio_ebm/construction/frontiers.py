"""The efficient frontier between two convex energies: points of least b for their a, each with its proof.

Portfolios that minimise x a + y b, x, y > 0, are efficient, and their (a, b) make a convex curve from the least a to
the least b. Between two points of it the weights (x, y) normal to their chord give the point of the curve farthest from
the chord; where there is none below the chord, the curve is the chord itself, and mixtures of the two portfolios are on
it, since a and b are convex. The widest step is split first, so that points are spread evenly and no solve is spent
where the curve is straight.

Source: Cohon, J. L. (1978), Multiobjective Programming and Planning, chapter 7 (the method of non-inferior sets).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.exact.duality import Duals
from portfolio_ebm.construction.exact.formula import Formula, take_apart
from portfolio_ebm.construction.exact.minimum import Minimum, proven_at, solve
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import SpecError

Array = NDArray[np.float64]

STRAIGHT = 1e-9
"""A point this little below a chord, relative to the sizes of the curve, is on it."""

TILTS = (1e-4, 1e-5, 1e-6)
"""Shares of the other energy that pick the efficient end where a minimum is not unique: the first that keeps it one."""


@dataclass(frozen=True)
class Point:
    """One portfolio of the frontier.

    Attributes:
        weights: (n,). a, b: its two energies.
        proven: whether it is proven to be on the frontier: a minimum of x a + y b, or a mixture of two on a straight
            piece.
        message: how it was found.
        kkt: the KKT residual of the minimum of x a + y b that it is, relative to the largest slope; None where no
            multipliers are known, or where its bound alone proves it.
        energy, duals: that sum, in units of b (of a at the first point), and the rules' multipliers; None where they
            are not known.
    """

    weights: Array
    a: float
    b: float
    proven: bool
    message: str
    kkt: float | None = None
    energy: Energy | None = None
    duals: Duals | None = None


def sweep(energy_a: Energy, energy_b: Energy, region: Region, ctx: Context, n: int = 50) -> list[Point]:
    """`n` points of the frontier, from the least a to the least b; fewer where the two ends are one portfolio.

    Raises:
        SpecError: n < 2, or a term that is not convex.
        InfeasibleError, SolverError: as `minimize`.

    Example:
        >>> [point.b for point in sweep(Variance(), Return(), region, ctx, n=3)]
    """
    if n < 2:
        raise SpecError(f"n={n}: a frontier has two ends; ask for 2 points or more.")
    both = _Pair(take_apart(energy_a, ctx), take_apart(energy_b, ctx), energy_a, energy_b, ctx, region)
    first, last = both.end(0), both.end(1)
    points = [first, last]
    span = np.array([last.a - first.a, first.b - last.b])
    if (span <= 1e-12 * np.array([abs(first.a) + abs(last.a), abs(first.b) + abs(last.b)])).any():
        return [first]
    straight: dict[tuple[float, float, float, float], Chord | None] = {}
    while len(points) < n:
        steps = [np.hypot((q.a - p.a) / span[0], (p.b - q.b) / span[1]) for p, q in pairwise(points)]
        at = int(np.argmax(steps))
        p, q = points[at], points[at + 1]
        key = (p.a, p.b, q.a, q.b)
        found, chord = (None, straight[key]) if key in straight else both.below(p, q, span)
        if found is None:
            found = both.between(p, q, chord)
            straight |= dict.fromkeys([(p.a, p.b, found.a, found.b), (found.a, found.b, q.a, q.b)], chord)
        points.insert(at + 1, found)
    return points


class Chord(NamedTuple):
    """The weights normal to a chord, and the least x a + y b, which both its ends are where it is the curve."""

    x: float
    y: float
    least: Minimum


@dataclass(frozen=True)
class _Pair:
    """Two formulas in one context, and their weighted sums."""

    a: Formula
    b: Formula
    energy_a: Energy
    energy_b: Energy
    ctx: Context
    region: Region

    def end(self, which: int) -> Point:
        """The least a (0) or b (1); of several minima the one with the least of the other."""
        own, other = (self.a, self.b) if which == 0 else (self.b, self.a)
        alone = solve(own, self.region)
        at = alone.weights.cpu().numpy()
        sizes = [float(np.abs(f.slope(at)[1]).max(initial=0.0)) or abs(f.evaluate(at)) or 1.0 for f in (own, other)]
        least = alone.value + 1e-12 * max(abs(alone.value), 1e-12)
        best, share = alone, 0.0
        for tilt in TILTS:
            y = tilt * sizes[0] / sizes[1]
            tilted = self.minimum(*((1.0, y) if which == 0 else (y, 1.0)), start=at)
            if tilted.status.ok and own.evaluate(tilted.weights.cpu().numpy()) <= least:
                # It is the least of this energy alone as well; its proof, its residual and its sentence are its own.
                best, share = tilted, y
                break
        return self.point(best, *((1.0, share) if which == 0 else (share, 1.0)), unit=1.0)

    def minimum(self, x: float, y: float, start: Array) -> Minimum:
        """The minimum of x a + y b."""
        return solve(_mixed(self, x, y), self.region, start)

    def point(self, found: Minimum, x: float, y: float, unit: float) -> Point:
        """The point of a minimum of x a + y b."""
        w = found.weights.cpu().numpy()
        known = self.priced(found, x, y, unit)
        return Point(w, self.a.evaluate(w), self.b.evaluate(w), found.status.ok, str(found.status), *known)

    def priced(self, found: Minimum, x: float, y: float, unit: float) -> tuple[float | None, Energy, Duals | None]:
        """The KKT residual of a minimum of x a + y b; that sum and its multipliers, times `unit`."""
        duals = None if found.duals is None else found.duals.scaled(unit)
        return found.kkt, unit * x * self.energy_a + unit * y * self.energy_b, duals

    def below(self, p: Point, q: Point, span: Array) -> tuple[Point | None, Chord | None]:
        """The point of the curve farthest below the chord from p to q, None where the chord is the curve; and the
        chord's own minimum."""
        x, y = (p.b - q.b) / span[1], (q.a - p.a) / span[0]
        if min(x, y) <= 1e-12:
            return None, None
        least = self.minimum(x / span[0], y / span[1], start=0.5 * (p.weights + q.weights))
        found = self.point(least, x / span[0], y / span[1], unit=span[1] / y)
        chord = x * p.a / span[0] + y * p.b / span[1]
        depth = chord - (x * found.a / span[0] + y * found.b / span[1])
        inside = p.a < found.a < q.a and q.b < found.b < p.b
        return found if depth > STRAIGHT and inside else None, Chord(x / span[0], y / span[1], least)

    def between(self, p: Point, q: Point, chord: Chord | None) -> Point:
        """The middle of a straight piece, whose minima all have the chord's multipliers."""
        w = 0.5 * (p.weights + q.weights)
        known: tuple[float | None, Energy | None, Duals | None] = (None, None, None)
        if chord is not None:
            proof = proven_at(_mixed(self, chord.x, chord.y), self.region, w, chord.least.multipliers)
            known = known if proof is None else self.priced(proof, chord.x, chord.y, 1.0 / chord.y)
        said = "Half of each neighbour, on a straight piece."
        return Point(w, self.a.evaluate(w), self.b.evaluate(w), p.proven and q.proven, said, *known)


def _mixed(pair: _Pair, x: float, y: float) -> Formula:
    """x a + y b, put together from the parts of both instead of taken apart anew."""
    a, b = pair.a, pair.b
    curves = [f.curve.scaled(c) for c, f in ((x, a), (y, b)) if f.curve is not None]
    curve = None if not curves else curves[0] if len(curves) == 1 else curves[0].plus(curves[1])
    tails = tuple(replace(t, coefficient=c * t.coefficient) for c, f in ((x, a), (y, b)) for t in f.tails)
    smooth = tuple((c * d, model) for c, f in ((x, a), (y, b)) for d, model in f.smooth)
    energy = x * pair.energy_a + y * pair.energy_b
    others = tuple(part.replace(coefficient=c * part.coefficient) for c, f in ((x, a), (y, b)) for part in f.other)
    value_a, value_b = a.value, b.value

    def value(w: torch.Tensor) -> torch.Tensor:
        return x * value_a(w) + y * value_b(w)

    # Formed once for both, used by every point.
    known = [c * f.matrix for c, f in ((x, a), (y, b)) if not f.large and f.matrix is not None]
    formed = np.sum(known, axis=0) if curves and len(known) == len(curves) else None
    return Formula(
        energy=energy, ctx=pair.ctx, value=value, curve=curve, linear=x * a.linear + y * b.linear,
        constant=x * a.constant + y * b.constant, tails=tails, cost=x * a.cost + y * b.cost, held=a.held,
        smooth=smooth, other=others, formed=formed,
    )  # fmt: skip
