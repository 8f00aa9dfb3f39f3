"""`Program` with a convex cost of each trade that is not linear: market impact, or the envelope of a ticket.

    min 1/2 w'Qw + c'w + rate |z|_1 + sum_i e_i(|z_i|),    z = w - held,
    e(t) = 0 for t <= f,   a t^(3/2) + d t^2 / 2 - k t + const beyond,   k = 3/2 a f^(1/2) + d f,  smooth at f

By a sequence of quadratic programs: e is replaced by its quadratic model at the last trades, first by the one that lies
above it (|z|^(3/2) is concave in z^2), then by Newton's, with a search along the line where a step went too far. The
bound of a `Point` is the true one of a convex energy: with g the slope that the last program ended on, and g + s the
energy's own there, E(x) >= E(w) - sum |s_i| (the furthest that x_i can be from w_i) for every x of the slice.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, sections 3.1.3 and 9.5; Hunter, D. and Lange, K.
(2004), A tutorial on MM algorithms, The American Statistician 58, for models from above.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from portfolio_ebm.constraints.mixed.program import Array, Ints, Point, Program

STEPS = 40
ABOVE = 2
"""Steps by the model from above before Newton's."""
CLOSED = 1e-11
"""The gap that ends the steps, relative to the size of the energy's parts."""
STILL = 1e-12
"""A trade below this is none: the root of it has no slope."""
HALVINGS = 8


@dataclass(frozen=True)
class BentProgram(Program):
    """A program whose trades cost e_i(|z_i|) beside the rate.

    Attributes:
        power: a, (n,). square: d, (n,).
        flat: f for sales and for purchases, (2, n), infinite where e is zero throughout.
    """

    power: Array = field(default_factory=lambda: np.zeros(0))
    square: Array = field(default_factory=lambda: np.zeros(0))
    flat: Array = field(default_factory=lambda: np.zeros((2, 0)))

    def bend(self, w: Array) -> tuple[Array, Array, Array]:
        """e_i, its slope in w_i and its curvature, (n,) each."""
        assert self.held is not None
        return self._bent(slice(None), w - self.held)

    def _bent(self, at: Ints | slice, z: Array) -> tuple[Array, Array, Array]:
        power, square = self.power[at], self.square[at]
        t, flat = np.abs(z), np.where(z > 0.0, self.flat[1, at], self.flat[0, at])
        beyond = (t > flat) & (t > STILL)
        t, flat = np.where(beyond, t, 1.0), np.where(beyond, flat, 0.0)
        root, corner = np.sqrt(t), np.sqrt(flat)
        k = 1.5 * power * corner + square * flat
        size = power * (t * root - flat * corner) + 0.5 * square * (t**2 - flat**2) - k * (t - flat)
        slope = 1.5 * power * root + square * t - k
        curve = 0.75 * power / root + square
        size, slope, curve = (np.where(beyond, x, 0.0) for x in (size, slope * np.sign(z), curve))
        return size, slope, curve

    def value(self, w: Array) -> float:
        return super().value(w) + float(self.bend(w)[0].sum())

    def separable(self, names: Ints, z: Array) -> Array:
        return self._bent(names, z)[0]

    def minimum(
        self, lower: Array, upper: Array, rows: Array, row_lower: Array, row_upper: Array, start: Array | None = None
    ) -> Point | None:
        assert self.held is not None
        slice_ = lower, upper, rows, row_lower, row_upper
        at, here, best = start, np.inf, None
        for step in range(STEPS):
            model, slope, curve = self._model(at, lower, upper, above=step < ABOVE)
            found = model.minimum(*slice_, at)
            if found is None:
                return best
            w, value = found.weights, self.value(found.weights)
            if best is not None and at is not None and value > here:
                w, value = self._along(at, here, w)
                if value >= here:
                    return best
            point = self._point(found, w, value, slope + curve * w, lower, upper)
            best = point if best is None or point.value - point.bound < best.value - best.bound else best
            if value - point.bound <= CLOSED * self._size(w, value):
                return point
            at, here = w, value
        return best

    def _model(self, at: Array | None, lower: Array, upper: Array, *, above: bool) -> tuple[Program, Array, Array]:
        """The program with e's model at `at`, whose slope is slope + curve * w."""
        assert self.held is not None
        w = self.held if at is None else np.clip(at, lower, upper)
        t = np.abs(w - self.held)
        moved = t[t > STILL]
        usual = float(np.median(moved)) if len(moved) else 1.0 / self.n
        if above or at is None:
            # a t^(3/2) <= a r^(3/2) + 3/4 a (t^2 - r^2) / r^(1/2), from wherever r stands.
            t = np.where(t > STILL, t, usual)
            flat = np.minimum(*self.flat)
            curve = np.where(flat < t, 1.5 * self.power / np.sqrt(t) + self.square, 0.0)
            slope = -curve * self.held
            k = 1.5 * self.power * np.sqrt(np.where(flat < t, flat, 0.0)) + self.square * np.where(flat < t, flat, 0.0)
            slope = slope - k * np.sign(w - self.held)
        else:
            _, bent, curve = self.bend(w)
            # A name that stands at `held` and would move meets an endless curvature there: the one near by.
            near = (t <= STILL) & (np.minimum(*self.flat) <= 0.0) & (upper > lower)
            curve = np.where(near, 1.5 * self.power / np.sqrt(1e-3 * usual) + self.square, curve)
            slope = bent - curve * w
        model = Program(
            self.matrix + np.diag(curve), self.linear + slope, self.lower, self.upper, self.rows, self.row_lower,
            self.row_upper, self.held, self.rate, self.turnover,
        )  # fmt: skip
        return model, slope, curve

    def _along(self, at: Array, here: float, w: Array) -> tuple[Array, float]:
        """The first of halving steps from `at` towards w that is lower."""
        share = 0.5
        for _ in range(HALVINGS):
            between = at + share * (w - at)
            value = self.value(between)
            if value < here:
                return between, value
            share *= 0.5
        return at, here

    def _point(self, found: Point, w: Array, value: float, modelled: Array, lower: Array, upper: Array) -> Point:
        """`modelled` is the model's slope of e where its program ended."""
        bent = self.bend(w)[1]
        off = found.weights
        error = bent - modelled if np.array_equal(w, off) else np.full(self.n, np.inf)
        free = (upper > lower) & (error != 0.0)
        with np.errstate(invalid="ignore"):
            reach = np.maximum(upper - w, w - lower)
            gap = float((np.abs(error) * reach)[free].sum())
        prices = found.prices + np.where(np.isfinite(error), error, 0.0)
        return Point(w, value, prices, value - gap - (found.value - found.bound), toll=found.toll)

    def _size(self, w: Array, value: float) -> float:
        linear = float(np.abs(self.linear * w).sum())
        return max(linear, abs(value), 1e-300)
