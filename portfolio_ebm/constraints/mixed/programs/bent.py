"""`Program` with a convex cost of each trade that is not linear: market impact.

    min 1/2 w'Qw + c'w + rate |z|_1 + sum_i e_i(z_i),    z = w - held,    e_i(z) = a_i |z|^(3/2)

By a sequence of quadratic programs: e is replaced by its quadratic model at the last trades, first by the one that lies
above it (|z|^(3/2) is concave in z^2), then by Newton's, with a search along the line where a step went too far. From z
on the way to y > 0 Newton's step ends at 2 (z y)^(1/2) - z, on the other side where z > 4 y, and that from above at
(z y)^(1/2). So a trade that has begun, changed sides or fallen to less than a quarter has the model from above.

The bound of a `Point` is the true one of a convex energy: with g the slope that a program ended on, and g + s the
energy's own there, E(x) >= E(w) - sum |s_i| (the furthest that x_i can be from w_i) for every x of the slice.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, sections 3.1.3 and 9.5; Hunter, D. and Lange, K.
(2004), A tutorial on MM algorithms, The American Statistician 58, for models from above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from portfolio_ebm.constraints.mixed.programs.enveloped import EnvelopedProgram, without
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask, Point, weights_of

STEPS = 40
ABOVE = 2
"""Steps by the model from above before Newton's."""
CLOSED = 1e-11
"""The gap that ends the steps, relative to the size of the energy's parts."""
QUARTER = 0.25
STILL = 1e-12
"""A trade below this is none: the root of it has no slope."""
HALVINGS = 8


@dataclass(frozen=True, kw_only=True)
class BentProgram(Program):
    """A program whose trades cost e_i(z_i) beside the rate.

    Attributes:
        power: a, (n,).
        envelope: of the names whose trades also cost something fixed, or that may be out: their e begins at its knees
            (envelopes.py). plain: the program without it; both or none.
    """

    power: Array
    envelope: Envelope | None = None
    plain: Program | None = None

    def bend(self, w: Array) -> tuple[Array, Array, Array]:
        """e_i, its slope in w_i and its curvature, (n,) each."""
        assert self.held is not None
        size, slope, curve = _bent(self.power, w - self.held)
        if self.envelope is None:
            return size, slope, curve
        begun = ~self.envelope.on_line(w)
        return self.envelope.bent(w), np.where(begun, slope - self.envelope.pull(w), 0.0), np.where(begun, curve, 0.0)

    def value(self, w: Array) -> float:
        lines = 0.0 if self.envelope is None else float(self.envelope.square(w).sum())
        return super().value(w) + lines + float(self.bend(w)[0].sum())

    def separable(self, names: Ints, z: Array) -> Array:
        return _bent(self.power[names], z)[0]

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array,
        start: Array | Point | None = None, enough: float = np.inf,
    ) -> Point | None:  # fmt: skip
        assert self.held is not None
        slice_ = lower, upper, rows, row_lower, row_upper
        at, here, best = weights_of(start), np.inf, None
        far = np.zeros(self.n, dtype=bool)
        for step in range(STEPS):
            model, slope, curve = self._model(at, lower, upper, far | (step < ABOVE))
            found = model.walked(*slice_, at) if isinstance(model, EnvelopedProgram) else model.minimum(*slice_, at)
            if found is None:
                return best if best is not None else self._plainly(*slice_, start)
            point = self._point(found, slope + curve * found.weights, lower, upper)
            w, value = point.weights, point.value
            best = point if best is None or point.value - point.bound < best.value - best.bound else best
            slight = CLOSED * self._size(w, value)
            if value - point.bound <= slight or point.bound >= enough:
                return point
            far = self._far_from(w if at is None else at, w)
            if at is not None and value > here + slight:
                nearer = self._along(at, here, w)
                if nearer is None and not far.any():
                    return best
                w = w if nearer is None else nearer
            at, here = w, self.value(w)
        return best

    def _plainly(self, *slice_: Any) -> Point | None:
        if self.envelope is None or self.plain is None:
            return None
        return without(self, self.envelope, self.plain, *slice_)

    def _model(self, at: Array | None, lower: Array, upper: Array, above: Mask) -> tuple[Program, Array, Array]:
        """The program with e's model at `at`, from above or Newton's, whose slope is slope + curve * w."""
        assert self.held is not None
        w = self.held if at is None else np.clip(at, lower, upper)
        t = np.abs(w - self.held)
        moved = t[t > STILL]
        usual = float(np.median(moved)) if len(moved) else 1.0 / self.n
        lines = np.zeros(self.n, dtype=bool) if self.envelope is None else self.envelope.on_line(w)
        _, slope, curve = self.bend(w)
        # A name that stands at `held` and would move meets an endless curvature there: the one near by.
        near = (t <= STILL) & (upper > lower) & ~lines
        curve = np.where(near, 1.5 * self.power / np.sqrt(1e-3 * usual), curve)
        # a t^(3/2) <= a r^(3/2) + 3/4 a (t^2 - r^2) / r^(1/2), from wherever r stands.
        majorant = np.where(lines, 0.0, 1.5 * self.power / np.sqrt(np.where(t > STILL, t, usual)))
        curve = np.where(above, majorant, curve)
        slope = slope - curve * w
        data = (
            self.matrix + np.diag(curve), self.linear + slope, self.lower, self.upper, self.rows, self.row_lower,
            self.row_upper, self.held, self.rate, self.turnover,
        )  # fmt: skip
        plain = Program(*data)
        model = plain if self.envelope is None else EnvelopedProgram(*data, envelope=self.envelope, plain=plain)
        return model, slope, curve

    def _far_from(self, at: Array, w: Array) -> Mask:
        """The names whose trade at w has begun, has changed sides or is less than a quarter of that at `at`."""
        assert self.held is not None
        z, before = w - self.held, at - self.held
        found: Mask = (z * before <= QUARTER * before**2) & (np.abs(z) > STILL)
        return found

    def _along(self, at: Array, here: float, w: Array) -> Array | None:
        """The first of halving steps from `at` towards w that is lower; None where none is."""
        steps = (at + 0.5**k * (w - at) for k in range(1, HALVINGS + 1))
        return next((between for between in steps if self.value(between) < here), None)

    def _point(self, found: Point, modelled: Array, lower: Array, upper: Array) -> Point:
        """Where the model's program ended; `modelled` is the model's slope of e there."""
        w, value = found.weights, self.value(found.weights)
        error = self.bend(w)[1] - modelled
        free = (upper > lower) & (error != 0.0)
        gap = float((np.abs(error) * np.maximum(upper - w, w - lower))[free].sum())
        bound = value - gap - (found.value - found.bound)
        return Point(w, value, found.prices + error, bound, toll=found.toll)

    def _size(self, w: Array, value: float) -> float:
        return max(float(np.abs(self.linear * w).sum()), abs(value), 1e-300)


def _bent(power: Array, z: Array) -> tuple[Array, Array, Array]:
    """e, its slope and its curvature at trades z (k,); nothing where a name stands still."""
    moved = np.abs(z) > STILL
    t = np.where(moved, np.abs(z), 1.0)
    root = np.sqrt(t)
    found = power * (t * root), 1.5 * power * root * np.sign(z), 0.75 * power / root
    size, slope, curve = (np.where(moved, x, 0.0) for x in found)
    return size, slope, curve
