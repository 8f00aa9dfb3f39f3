"""Local minima of an energy that is not convex, slice by slice.

A slice is the region with the mode of every unit given (mixed/choices.py); it is convex. On it the energy is brought
down by a sequence of small quadratic programs on a model of its own for each slice,

    q(w) = E(x) + g'(w - x) + mu/2 (w - x)' B (w - x),

with g the slope at the best point x so far, B a curvature that learns from every slope seen (damped BFGS) and mu
raised where a step failed. The cost of trading stays outside the model, since its kinks are the program's own. All
slices' energies are evaluated in one batch, and so are nearest points where rules are plain (mixed/on_slices.py); the
programs are solved one by one on the host (daqp).

Source: Powell, M. J. D. (1978), A fast algorithm for nonlinearly constrained optimization calculations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.combine import project_region
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice
from portfolio_ebm.constraints.mixed.on_slices import Flat, nearest_one
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask
from portfolio_ebm.constraints.mixed.reading import assign_all
from portfolio_ebm.constraints.mixed.rounding import rounded_all
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing.choosing import of_quadratic
from portfolio_ebm.construction.exact.curvature import curvature_matrix
from portfolio_ebm.construction.exact.formula import take_apart
from portfolio_ebm.construction.rugged.chains import Landscape
from portfolio_ebm.construction.rugged.gliding import glide
from portfolio_ebm.context import Context
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energy import Bound, Energy, add
from portfolio_ebm.samplers.kernel import Kernel, State, Temperature, evaluate
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.types import as_numpy

STIFFEST = 1e8
"""A model stiffened so often says that nothing near is lower."""
STILL, SLIGHT = 1e-12, 1e-6
"""A gain below this share of the energy's spread is none: where a point is wanted exactly, and where nearly."""
ROUNDS, GLIDES = 8, 60
"""Models, or steps of the gradient, that bring a point down."""


@dataclass(frozen=True)
class Slices:
    """An energy on the slices of a region.

    Attributes:
        energy: E without its costs of trading, (..., n) -> (...).
        mixed: the rules and choices, with the costs of trading and of tickets and no other energy.
        allowed: the modes that are open at all, (U, M).
        like: where the energy lives.
        empty: the modes that were found to have no portfolio, by their bytes.
    """

    energy: Bound
    mixed: Mixed
    allowed: Mask
    like: Tensor
    empty: set[bytes] = field(default_factory=set)

    @classmethod
    def of(cls, energy: Energy, region: Region, ctx: Context, ticket: float) -> Slices | None:
        """None where the choices leave no slice."""
        dear = [part for part in energy.terms() if isinstance(part.energy, TradingCost) and part.coefficient > 0.0]
        rest = add(part for part in energy.terms() if part not in dear)
        mixed, _ = of_quadratic(take_apart(add(dear), ctx), region, ticket)
        root = mixed.root()
        return None if root is None else cls(rest.bind(ctx), mixed, root, region.lower)

    @property
    def choices(self) -> Choices:
        return self.mixed.choices

    @property
    def n(self) -> int:
        return self.mixed.program.n

    def evaluate(self, w: Array, modes: Sequence[Ints] | Ints) -> tuple[Array, Array]:
        """E with all its costs (m,) and the slope of E without them (m, n), at w (m, n)."""
        seen, p = evaluate(torch.as_tensor(w).to(self.like), self.energy).sound(), self.mixed.program
        value = as_numpy(seen.energy) + self.choices.cost[np.arange(self.choices.units), np.array(modes)].sum(-1)
        if p.held is not None:
            value = value + (p.rate * np.abs(w - p.held)).sum(-1)
        return value, as_numpy(seen.gradient)

    def curvature(self, w: Array, stride: float) -> Array:
        """The curvature (n, n) of E without its costs around w (n,), over steps of `stride`."""
        at, lower = (torch.as_tensor(x).to(self.like) for x in (w, self.mixed.program.lower))
        return as_numpy(curvature_matrix(self.energy, at, lower, stride))

    def modelled(self, curve: Array, linear: Array) -> Mixed:
        """The mixed program of 1/2 w'Bw + c'w and the costs."""
        return replace(self.mixed, program=replace(self.mixed.program, matrix=curve, linear=linear))

    @cached_property
    def flat(self) -> Flat | None:
        """The rules where nearest points of many slices are found at once; None where each needs a program."""
        return Flat.of(self.mixed)

    def nearest(self, y: Array, modes: Ints) -> Array | None:
        """The nearest point to y (n,) of one slice; None where it is empty."""
        found, there = self.nearest_all(y[None], modes[None])
        return np.asarray(found[0]) if there[0] else None

    def nearest_all(self, y: Array, modes: Ints) -> tuple[Array, Mask]:
        """The nearest points to y (m, n) of slices (m, U), and which of these have one, (m,); y itself where not."""
        if self.flat is not None:
            found, there = self.flat.nearest(y, modes)
            return np.where(there[:, None], found, y), there
        near = [self._by_program(row, one) for row, one in zip(y, modes, strict=True)]
        return (
            np.array([row if w is None else w for row, w in zip(y, near, strict=True)]),
            np.array([w is not None for w in near], dtype=bool),
        )

    def _by_program(self, y: Array, modes: Ints) -> Array | None:
        if modes.tobytes() in self.empty:
            return None
        found = nearest_one(self.mixed, y, modes)
        if found is None:
            self.empty.add(modes.tobytes())
        return found

    def modes_of(self, w: Array) -> Ints:
        """The modes (m, U) that w (m, n) are in."""
        return assign_all(self.choices, self.allowed, w)[0]

    def modes_near(self, y: Array, step: float | None = None) -> Ints:
        """The modes (m, U) that y (m, n) round to; with a `step` their costs count."""
        return rounded_all(self.choices, self.allowed, self.choices.weights_of(y), step)

    def scattered(self, y: Array, rng: np.random.Generator) -> Ints:
        """The modes (m, U) that y (m, n) round to where a random share of all modes is left out."""
        shape = len(y), *self.allowed.shape
        kept = self.allowed & (rng.uniform(size=shape) < rng.uniform(size=(len(y), 1, 1)))
        kept = np.where(kept.any(axis=2, keepdims=True), kept, self.allowed)
        return rounded_all(self.choices, kept, self.choices.weights_of(y))


@dataclass(frozen=True)
class OnModes(Kernel):
    """Langevin steps on a region with choices: every proposal is projected on the slice of the modes it rounds to.

    What a mode costs counts against the distance, by the kernel's step. A slice without a portfolio is refused, and
    the chain is projected on its own: a chain that starts on the region stays on it.
    """

    kernel: ULA
    slices: Slices

    def propose(self, state: State, temperature: Temperature, noise: Tensor) -> Tensor:
        y = as_numpy(self.kernel.propose(state, temperature, noise))
        x = as_numpy(state.x)
        # The budget takes out what all names have in common; rounding must not see it.
        y = y + (x.sum(-1) - y.sum(-1))[:, None] / x.shape[-1]
        found, there = self.slices.nearest_all(y, self.slices.modes_near(y, float(self.kernel.step_size)))
        left = np.flatnonzero(~there)
        if len(left):
            near, there = self.slices.nearest_all(y[left], self.slices.modes_of(x[left]))
            found[left] = np.where(there[:, None], near, x[left])
        return torch.as_tensor(found).to(state.x)


@dataclass(frozen=True)
class OnSlices(Landscape):
    """A landscape on the slices of a choice: what is projected ends on the slice that it rounds to."""

    slices: Slices
    rules: Region

    def project(self, w: Tensor) -> Tensor:
        y = as_numpy(w)
        found, there = self.slices.nearest_all(y, self.slices.modes_near(y, self.step))
        left = np.flatnonzero(~there)
        if len(left):
            found[left] = as_numpy(project_region(w[left], self.rules, prove=False).weights)
        return torch.as_tensor(found).to(w)


@dataclass(frozen=True)
class Low:
    """A low point of one slice: modes (U,), weights (n,), the energy with all its costs, its slope without them."""

    modes: Ints
    weights: Array
    value: float
    slope: Array


def brought_down(
    slices: Slices, modes: Sequence[Ints], starts: Sequence[Array], curve: Array, step: float, spread: float
) -> list[Low | None]:
    """Down from `starts`: all slices at once where rules are plain and trading costs nothing, else as `settle` does."""
    if slices.flat is None or slices.mixed.program.kinked or not len(modes):
        return settle(slices, modes, starts, curve, spread, ROUNDS)
    chosen = np.array(modes)
    x, there = slices.nearest_all(np.array(starts), chosen)
    at = np.flatnonzero(there)
    found: list[Low | None] = [None] * len(modes)
    if len(at):
        below = glide(
            slices.evaluate, lambda y, m: slices.nearest_all(y, m)[0], x[at], chosen[at], step, SLIGHT * spread, GLIDES
        )
        for place, w, value, slope in zip(at.tolist(), *below, strict=True):
            found[place] = Low(chosen[place], w, float(value), slope) if np.isfinite(value) else None
    return found


def settle(
    slices: Slices, modes: Sequence[Ints], starts: Sequence[Array], curve: Array, spread: float, rounds: int
) -> list[Low | None]:
    """Down from `starts` (m of (n,)), which need not lie on their slices (m of (U,)); None for an empty slice.

    Args:
        curve: B to begin with, (n, n). spread: what a gain is compared with. rounds: models a slice.
    """
    found: list[Low | None] = [None] * len(modes)
    if not len(modes):
        return found
    near, alike = slices.nearest_all(np.array(starts), np.array(modes))
    at = np.flatnonzero(alike).tolist()
    if not len(at):
        return found
    chosen, x = [modes[k] for k in at], near[at]
    value, slope = slices.evaluate(x, chosen)
    bend, mu, alive = np.repeat(curve[None], len(at), axis=0), np.ones(len(at)), np.ones(len(at), dtype=bool)
    for _ in range(rounds):
        rows = np.flatnonzero(alive)
        steps = [_step(slices, chosen[i], mu[i] * bend[i], slope[i], x[i]) for i in rows]
        rows = np.array([i for i, w in zip(rows, steps, strict=True) if w is not None], dtype=np.int64)
        alive[:] = False
        if not len(rows):
            break
        there = np.array([w for w in steps if w is not None])
        energy, tilt = slices.evaluate(there, [chosen[i] for i in rows])
        for k, i in enumerate(rows):
            if np.isfinite(energy[k]):
                bend[i] = learned(bend[i], there[k] - x[i], tilt[k] - slope[i])
        gain = value[rows] - energy
        down = gain > 0.0
        mu[rows] = np.where(down, np.maximum(mu[rows] / 2.0, 1.0), mu[rows] * 4.0)
        alive[rows] = np.where(down, gain > STILL * spread, mu[rows] < STIFFEST)
        taken = rows[down]
        x[taken], value[taken], slope[taken] = there[down], energy[down], tilt[down]
    for k, place in enumerate(at):
        found[place] = Low(chosen[k], x[k], float(value[k]), slope[k]) if np.isfinite(value[k]) else None
    return found


def _step(slices: Slices, modes: Ints, curve: Array, slope: Array, x: Array) -> Array | None:
    """The minimum of the model on the slice; None where it does not leave x (n,)."""
    found = on_slice(slices.modelled(curve, slope - curve @ x), modes, x)
    if found is None or np.array_equal(found.weights, x):
        return None
    return found.weights


def learned(curve: Array, move: Array, turn: Array) -> Array:
    """Damped BFGS: B (n, n) after the slope turned by `turn` (n,) over `move` (n,); positive definite as before."""
    bent = curve @ move
    size = float(move @ bent)
    if size <= 1e-300:
        return curve
    seen = float(move @ turn)
    share = 1.0 if seen >= 0.2 * size else 0.8 * size / (size - seen)
    pull = share * turn + (1.0 - share) * bent
    return np.asarray(curve - np.outer(bent, bent) / size + np.outer(pull, pull) / float(move @ pull))
