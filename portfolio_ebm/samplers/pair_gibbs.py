"""Pair-Gibbs: weight moves between two coordinates at a time, by an exact draw on the chord.

    E(x) = 1/2 x'Mx + m'x + sum_i rate_i |x_i - centre_i|     on a polyhedron that fixes sum x
    x_i + t, x_j - t,   t ~ exp(-E(x + t (e_i - e_j)) / T) on the chord

The law of t without the kinks is a truncated normal. A kink enters as a slice: with e ~ Exp(1) the chord is cut to
|x_i + t - centre_i| <= |x_i - centre_i| + e T / rate_i, which leaves the joint law invariant.

Which pair moves is drawn from weights that are fixed beforehand, the same pair for all chains. The first end is taken
in proportion to `activity`; the second so too, or each coordinate in turn, so that small ones are not long forgotten,
or one that counts in a row with the first, since where a row binds little else moves far. Given the pairs the chains
are independent, and every move is reversible.

Pairs are taken in blocks: what a block needs of the gradient is one matrix product, and inside of it only the block's
own moves are followed.

Sources: Geman and Geman (1984), IEEE PAMI 6; Neal, R. (2003), Slice sampling, Annals of Statistics 31.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from portfolio_ebm.errors import SpecError
from portfolio_ebm.samplers.chords import draw_on_chord
from portfolio_ebm.samplers.heavy import Heavy
from portfolio_ebm.samplers.planned import Planned
from portfolio_ebm.samplers.polyhedron import Polyhedron, side

BLOCK = 32

TURNS, MATES = 0.4, 0.3
"""How often the second end of a pair is each coordinate in turn, and one that counts in a row with the first."""

Pairs = list[tuple[int, int]]
Names = Sequence[Tensor]
"""A tensor by its first dimension, so that none of it is looked up again for every move."""


@dataclass(frozen=True)
class Target:
    """The energy above: matrix M (n, n), linear m (n,), kinks by rate (n,) and centre (n,), or None."""

    matrix: Tensor
    linear: Tensor
    rate: Tensor | None = None
    centre: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """E at x (n, chains), (chains,)."""
        value = 0.5 * (x * (self.matrix @ x)).sum(0) + self.linear @ x
        if self.rate is not None and self.centre is not None:
            value = value + self.rate @ (x - self.centre.unsqueeze(-1)).abs()
        return value

    @cached_property
    def flat(self) -> float:
        """A curvature that no digit of the energy sees."""
        return max(1e-14 * float(self.matrix.diagonal().max()), 1e-300)


@dataclass(frozen=True)
class PairGibbs(Planned[tuple[int, int]]):
    """The kernel for one energy, one polyhedron and one choice of `activity` (n,); moves past a limit on heavy units
    are not taken.

    Raises:
        SpecError: the polyhedron does not fix the sum (see `with_slack`), or its equations are not met by moves
            between two coordinates (see `spans`).

    Example:
        >>> kernel = PairGibbs(Target(matrix, linear), polyhedron, activity=torch.ones(n))
        >>> x = kernel.run(x, temperature=1e-6, steps=1000, rng=rng)
    """

    target: Target
    polyhedron: Polyhedron
    activity: Tensor
    heavy: tuple[Heavy, ...] = ()
    block: int = field(default=BLOCK)

    def __post_init__(self) -> None:
        if not self.polyhedron.conserving():
            raise SpecError("Pair moves keep the sum of x, and this polyhedron leaves it free; use with_slack() first.")
        if not spans(self.polyhedron):
            raise SpecError(
                "The equations of this polyhedron are not met by moves between two coordinates, so that pair moves "
                "would not reach all of it; use HitAndRun."
            )

    def plan(self, steps: int, rng: torch.Generator) -> Pairs:
        """Which pairs move, drawn beforehand."""
        weights = self.activity.to(rng.device).clamp_min(0.0)
        classes = self._classes.to(rng.device)
        first = torch.multinomial(weights, steps, replacement=True, generator=rng)
        second = torch.multinomial(weights, steps, replacement=True, generator=rng)
        coin = torch.rand(steps, generator=rng, device=rng.device)
        inturn = (coin < TURNS).nonzero().squeeze(-1)
        rounds = torch.rand(-(-len(inturn) // len(weights)), len(weights), generator=rng, device=rng.device)
        second[inturn] = rounds.argsort(-1).flatten()[: len(inturn)]
        near = (coin > 1.0 - MATES).nonzero().squeeze(-1)
        mates = weights * self._mates.to(rng.device)[first[near]]
        some = mates.sum(-1) > 0.0
        if bool(some.any()):
            second[near[some]] = torch.multinomial(mates[some], 1, generator=rng).squeeze(-1)
        useful = (first != second) & (classes[first] == classes[second])
        return list(zip(first[useful].tolist(), second[useful].tolist(), strict=True))

    def sweep(self, x: Tensor, temperature: float, plan: Pairs, rng: torch.Generator) -> Tensor:
        """x (n, chains) after the moves of `plan`, in order."""
        x = x.clone()
        for start in range(0, len(plan), self.block):
            self._block(x, temperature, plan[start : start + self.block], rng)
        return x

    def _block(self, x: Tensor, temperature: float, pairs: Pairs, rng: torch.Generator) -> None:
        """The moves of one block, in place."""
        target, chains = self.target, x.shape[1]
        first, second = torch.tensor(pairs, device=x.device).unbind(-1)
        ahead = target.matrix[first] - target.matrix[second]
        mixed = ahead[:, first] - ahead[:, second]
        curvatures, coupled = mixed.diagonal().tolist(), mixed.unbind()
        slopes = (ahead @ x + (target.linear[first] - target.linear[second]).unsqueeze(-1)).unbind()
        uniforms = partial(torch.rand, generator=rng, dtype=x.dtype, device=x.device)
        noise = uniforms(len(pairs), chains).unbind()
        kinks = None
        if target.rate is not None:
            kinks = -temperature * torch.log1p(-uniforms(2, len(pairs), chains))
        at = (self.polyhedron.rows @ x).unbind()
        balls = [ball.value(x) for ball in self.polyhedron.balls]
        heavy = [_Running(limit, x) for limit in self.heavy]
        moved = torch.empty(len(pairs), chains, dtype=x.dtype, device=x.device)
        names = x.unbind()
        for k, (i, j) in enumerate(pairs):
            slope = torch.addmv(slopes[k], moved[:k].T, coupled[k][:k]) if k else slopes[k]
            low, high = self._chord(names, i, j, at, balls)
            if kinks is not None:
                low, high = self._sliced(names, i, j, low, high, kinks[:, k])
            t = draw_on_chord(slope, curvatures[k], temperature, low, high, noise[k], partial(uniforms, chains))
            for one in heavy:
                t = torch.where(one.after(i, j, t) <= one.limit.most, t, 0.0)
            for one in heavy:
                one.move(i, j, t)
            moved[k] = t
            self._move(names, i, j, t, at, balls)

    def _chord(self, x: Names, i: int, j: int, at: Names, balls: list[Tensor]) -> tuple[Tensor, Tensor]:
        p = self.polyhedron
        low = (self._lower[i] - x[i]).maximum(x[j] - self._upper[j])
        high = (self._upper[i] - x[i]).minimum(x[j] - self._lower[j])
        for r, pace, below, above in self._tilted(i, j):
            for end, limits in ((above, pace > 0.0), (below, pace < 0.0)):
                if end is not None:
                    room = (end - at[r]) / pace
                    low, high = (low, high.minimum(room)) if limits else (low.maximum(room), high)
        for b, (ball, value) in enumerate(zip(p.balls, balls, strict=True)):
            up, down, centre = self._balls[b]
            p_i, p_j = x[i] - centre[i], x[j] - centre[j]
            rest = ball.limit - value + side(p_i, up[i], down[i]) + side(p_j, up[j], down[j])
            # Each side of a kink is a line, and the ball is where all of them are low enough.
            for s_i in (up[i], -down[i]):
                for s_j in (up[j], -down[j]):
                    pace = s_i - s_j
                    if pace != 0.0:
                        end = (rest - s_i * p_i - s_j * p_j) / pace
                        low, high = (low, high.minimum(end)) if pace > 0 else (low.maximum(end), high)
        # A breach by rounding is a limit that is met.
        return low.clamp_max(0.0), high.clamp_min(0.0)

    def _sliced(self, x: Names, i: int, j: int, low: Tensor, high: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
        rate, centre = self._kinks
        for coordinate, level, sign in ((i, levels[0], 1.0), (j, levels[1], -1.0)):
            if rate[coordinate] > 0.0:
                gap = x[coordinate] - centre[coordinate]
                reach = gap.abs() + level / rate[coordinate]
                gap = sign * gap
                low, high = low.maximum(-reach - gap), high.minimum(reach - gap)
        return low.clamp_max(0.0), high.clamp_min(0.0)

    def _move(self, x: Names, i: int, j: int, t: Tensor, at: Names, balls: list[Tensor]) -> None:
        for b, value in enumerate(balls):
            up, down, centre = self._balls[b]
            for k, step in ((i, t), (j, -t)):
                gap = x[k] - centre[k]
                value += side(gap + step, up[k], down[k]) - side(gap, up[k], down[k])
        x[i].add_(t)
        x[j].sub_(t)
        for r, pace, _, _ in self._tilted(i, j):
            at[r].add_(t, alpha=pace)

    def _tilted(self, i: int, j: int) -> list[tuple[int, float, Tensor | None, Tensor | None]]:
        """The rows that a move from j to i changes: (row, pace, lower end, upper end), None where there is no end."""
        found = []
        for r in sorted({*self._rows_of[i], *self._rows_of[j]}):
            weights, low, high = self._rows[r]
            if weights[i] != weights[j]:
                found.append((r, weights[i] - weights[j], low, high))
        return found

    @cached_property
    def _rows(self) -> list[tuple[list[float], Tensor | None, Tensor | None]]:
        p = self.polyhedron
        ends = [[end if bool(end.isfinite()) else None for end in ends] for ends in (p.row_lower, p.row_upper)]
        return list(zip(p.rows.tolist(), *ends, strict=True))

    @cached_property
    def _rows_of(self) -> list[list[int]]:
        """The rows in which each coordinate counts, equations left out."""
        counts = (self.polyhedron.rows != 0.0) & ~self.polyhedron.equal.unsqueeze(-1)
        return [column.nonzero().squeeze(-1).tolist() for column in counts.T]

    @cached_property
    def _mates(self) -> Tensor:
        """Whether two different coordinates count in the same row, equations left out, (n, n)."""
        counts = ((self.polyhedron.rows != 0.0) & ~self.polyhedron.equal.unsqueeze(-1)).to(self.polyhedron.rows)
        return (counts.T @ counts > 0.0).fill_diagonal_(False)

    @cached_property
    def _balls(self) -> list[tuple[list[float], list[float], list[float]]]:
        return [(b.up.tolist(), b.down.tolist(), b.centre.tolist()) for b in self.polyhedron.balls]

    @cached_property
    def _kinks(self) -> tuple[list[float], list[float]]:
        rate, centre = self.target.rate, self.target.centre
        return ([] if rate is None else rate.tolist()), ([] if centre is None else centre.tolist())

    @cached_property
    def _lower(self) -> Names:
        return self.polyhedron.lower.unbind()

    @cached_property
    def _upper(self) -> Names:
        return self.polyhedron.upper.unbind()

    @cached_property
    def _classes(self) -> Tensor:
        return classes(self.polyhedron)


class _Running:
    """The units' weights under a limit on heavy ones, (U + 1, chains), and what the heavy ones weigh, kept up to
    date."""

    def __init__(self, limit: Heavy, x: Tensor) -> None:
        sums = limit.sums(x)
        self.limit, self.mass = limit, limit.weight(sums)
        self.sums = torch.cat([sums, torch.zeros_like(sums[:1])])
        self.unit, self.over = limit.unit.tolist(), [*limit.over.tolist(), math.inf]

    def after(self, i: int, j: int, t: Tensor) -> Tensor:
        """What the heavy units weigh once t moved from j to i, (chains,)."""
        u, v = self.unit[i], self.unit[j]
        if u == v:
            return self.mass
        found = self.mass
        for one, step in ((u, t), (v, -t)):
            was, now = self.sums[one], self.sums[one] + step
            found = found + now * (now > self.over[one]) - was * (was > self.over[one])
        return found

    def move(self, i: int, j: int, t: Tensor) -> None:
        """Take the move."""
        self.mass = self.after(i, j, t)
        self.sums[self.unit[i]] += t
        self.sums[self.unit[j]] -= t


def classes(p: Polyhedron) -> Tensor:
    """Which coordinates may exchange weight without breaking an equation: equal numbers, (n,)."""
    found: Tensor = torch.unique(p.rows[p.equal].T, dim=0, return_inverse=True)[1]
    return found


def spans(p: Polyhedron) -> bool:
    """Whether moves between two coordinates reach every direction that the equations leave open."""
    equations = p.rows[p.equal]
    free = p.n - int(torch.linalg.matrix_rank(equations)) if len(equations) else p.n
    return p.n - len(classes(p).unique()) == free
