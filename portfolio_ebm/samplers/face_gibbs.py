"""Face-Gibbs: exact draws from exp(-E/T) on a FaceSet, by lines of q + 1 coordinates that q equations leave open.

    x + t d,   d = 0 but on a name i, a name j and q - 1 others,   A d = 0
    drawn among all pairs of modes of i and j: where both are ranges, by the integral of the law over what they leave of
    the line; where one is a point, by the law at the one t that brings it there

so that a name is born, dies, takes another's place, is traded or left as it is, goes short or long in one and the same
draw; nothing is tuned, and nothing but limits on heavy units is rejected. With a budget alone i and j exchange weight.
Who moves is drawn for each chain by itself, in one of three ways:

    within   q + 1 coordinates that have a range; both stay in one
    across   i any coordinate, j and the others from those with a range; one of i and j may end at a point
    rest     i and j any two; where all others are at a point, both may be: a portfolio that is left as it is

A draw conditional on who moves has to allow for how likely these are to be drawn again: a pair with two ranges is met
from either side, one with a single range from one, hence the factor 2 in `across`. Where j comes to rest, i takes its
place among those that the equations give, and the measure the factor 1 / |d_j|. Every move is reversible, and so is any
number of them.

Sources: Geman and Geman (1984), IEEE PAMI 6; Green, P. (1995), Reversible jump Markov chain Monte Carlo computation,
Biometrika 82; George and McCulloch (1997), Approaches for Bayesian variable selection, Statistica Sinica 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from portfolio_ebm.samplers.chords import fresh_on_chord, log_mass
from portfolio_ebm.samplers.face_set import Faces, FaceSet, FaceTarget
from portfolio_ebm.samplers.planned import Planned, by_chain

WITHIN, ACROSS, REST = 0, 1, 2

SLACK = 1e-12
"""A sum that a limit meets may be beyond it by its rounding."""

STEEP = 1e-4
"""Equations whose determinant is below this, in units of their largest entry, are not solved for these names."""


class Line(NamedTuple):
    """The lines of all chains: who moves (q + 1, chains), how d (q + 1, chains), which chains have one, and whether i
    may take j's place among those that the equations give (chains,); the ends that all but i's and j's modes leave."""

    who: Tensor
    d: Tensor
    valid: Tensor
    turns: Tensor
    low: Tensor
    high: Tensor


class Options(NamedTuple):
    """By pair of modes of i and j and by chain, (M, M, chains): the ends of t, and whether it is a point."""

    low: Tensor
    high: Tensor
    point: Tensor


@dataclass(frozen=True)
class FaceGibbs(Planned[int]):
    """The kernel for one energy and one set.

    Attributes:
        shares: how often each way of drawing who moves is taken.

    Example:
        >>> x = FaceGibbs(FaceTarget(Target(matrix, linear), price, slope, faces)).run(x, 1e-6, 1000, rng)
    """

    target: FaceTarget
    shares: tuple[float, float, float] = (0.45, 0.45, 0.1)

    @property
    def faces(self) -> FaceSet:
        return self.target.faces

    def plan(self, steps: int, rng: torch.Generator) -> list[int]:
        """The way of drawing who moves, by step."""
        shares = torch.tensor(self.shares, device=rng.device)
        if not self._resting:
            shares[REST] = 0.0
        found: list[int] = torch.multinomial(shares, steps, replacement=True, generator=rng).tolist()
        return found

    def sweep(self, x: Tensor, temperature: float | Tensor, plan: list[int], rng: torch.Generator) -> Tensor:
        """x (d, chains) after a move of each kind in `plan`, in order."""
        heat, state = by_chain(temperature, x), self.faces.faces(x)
        for kind in plan:
            state = self._moved(state, kind, heat, rng)
        return state.x

    def _moved(self, state: Faces, kind: int, heat: Tensor, rng: torch.Generator) -> Faces:
        line = self._line(state, kind, rng)
        options = self._options(state, line)
        slope, curvature = self._along(state, line)
        log = self._log_weights(state, line, options, kind, (slope, curvature, heat))
        many = self.faces.lower.shape[1]
        # The largest of log weight - log Exp(1) is a draw by weight.
        noise = torch.empty_like(log).exponential_(generator=rng).clamp_min(1e-300)
        best = (log - noise.log()).flatten(0, 1).max(0)
        valid = line.valid & (best.values > -torch.inf)
        now = [best.indices // many, best.indices % many]
        return self._taken(state, line, options, now, valid, (slope, curvature, heat), rng)

    def _line(self, state: Faces, kind: int, rng: torch.Generator) -> Line:
        x, mode = state.x, state.mode
        free = self.faces.ranged.gather(1, mode)
        noise = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        if kind == REST:
            who = noise.topk(2, dim=0).indices
            valid = free.sum(0) == free.gather(0, who).sum(0)
        elif kind == WITHIN:
            drawn = torch.where(free, noise, -1.0).topk(self._q + 1, dim=0)
            who, valid = drawn.indices, drawn.values[-1] >= 0.0
        else:
            first = torch.randint(self.faces.n, (1, x.shape[1]), generator=rng, device=x.device)
            others = torch.where(free, noise, -1.0).scatter(0, first, -1.0).topk(self._q, dim=0)
            who, valid = torch.cat([first, others.indices]), others.values[-1] >= 0.0
        d, solved, turns = self._direction(who)
        low, high = self._ends(state, who, d)
        return Line(who, d, valid & solved, turns, low, high)

    def _direction(self, who: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """d with A d = 0 and 1 for i; whether the equations give the others; whether i may stand in for j."""
        columns = self._scaled[:, who]
        if self._q == 1:
            base = columns[0, 1]
            solved = base.abs() > STEEP
            second = -columns[0, 0] / torch.where(solved, base, 1.0)
            return torch.stack([torch.ones_like(second), second]), solved, columns[0, 0].abs() > STEEP
        matrix = columns[:, 1:].permute(2, 0, 1)
        size = torch.linalg.det(matrix)
        solved = size.abs() > STEEP
        matrix = torch.where(
            solved[:, None, None], matrix, torch.eye(self._q, dtype=matrix.dtype, device=matrix.device)
        )
        rest = -torch.linalg.solve(matrix, columns[:, 0].T.unsqueeze(-1)).squeeze(-1).T
        return torch.cat([torch.ones_like(rest[:1]), rest]), solved, (size * rest[0]).abs() > STEEP

    def _ends(self, state: Faces, who: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of t that rows, balls and the ranges of all but i and j leave, (chains,) each."""
        faces, p = self.faces, self.faces.polyhedron
        high = torch.full_like(d[0], torch.inf)
        low = -high
        for k in range(2, self._q + 1):
            at, mode = state.x.gather(0, who[k : k + 1]).squeeze(0), state.mode.gather(0, who[k : k + 1]).squeeze(0)
            one, other = _crossed(faces.lower[who[k], mode] - at, faces.upper[who[k], mode] - at, d[k])
            low, high = low.maximum(one), high.minimum(other)
        if len(self._rows[0]):
            rows, below, above = self._rows
            at = rows @ state.x
            pace = (rows[:, who] * d).sum(1)
            still = pace.abs() <= 1e-14
            one, other = _crossed(below - at, above - at, torch.where(still, 0.0, pace))
            low, high = low.maximum(one.amax(0)), high.minimum(other.amin(0))
        for ball in p.balls:
            gap = state.x.gather(0, who) - ball.centre[who]
            up, down = ball.up[who], ball.down[who]
            rest = ball.limit - ball.value(state.x) + (up * gap).maximum(-down * gap).sum(0)
            # Each side of a kink is a line, and the ball is where all of them are low enough.
            for sides in range(1 << len(who)):
                side = torch.stack([up[k] if sides >> k & 1 else -down[k] for k in range(len(who))])
                pace = (side * d).sum(0)
                end = (rest - (side * gap).sum(0)).clamp_min(0.0) / torch.where(pace == 0.0, 1.0, pace)
                high = torch.where(pace > 0.0, high.minimum(end), high)
                low = torch.where(pace < 0.0, low.maximum(end), low)
        # A breach by rounding is a limit that is met.
        return low.clamp_max(0.0), high.clamp_min(0.0)

    def _options(self, state: Faces, line: Line) -> Options:
        faces = self.faces
        ends = []
        for k in (0, 1):
            at = state.x.gather(0, line.who[k : k + 1])
            ends.append((faces.lower[line.who[k]].T - at, faces.upper[line.who[k]].T - at))
        one, other = (part.unsqueeze(1) for part in ends[0])
        mine, theirs = _crossed(*ends[1], line.d[1])
        low, high = one.maximum(mine.unsqueeze(0)), other.minimum(theirs.unsqueeze(0))
        fixed = ~faces.ranged[line.who[:2]].transpose(1, 2)
        first, second = fixed[0].unsqueeze(1), fixed[1].unsqueeze(0)
        # At a point: it has to be in the other's range and between the other ends; for two points they have to meet.
        # By rounding as well: one name that has all of the budget is at its limit, and a portfolio of mass one.
        meets = (low - high <= SLACK) & (low >= line.low - SLACK) & (low <= line.high + SLACK)
        point = first | second
        low, high = (
            torch.where(point, low, low.maximum(line.low)),
            torch.where(point, torch.where(meets, low, -torch.inf), high.minimum(line.high)),
        )
        return Options(low, high, point)

    def _along(self, state: Faces, line: Line) -> tuple[Tensor, Tensor]:
        """Slope at t = 0 and curvature of the energy without i's and j's modes, (chains,) each."""
        matrix, linear = self.target.quadratic.matrix, self.target.quadratic.linear
        slope, curvature = torch.zeros_like(line.d[0]), torch.zeros_like(line.d[0])
        for k, (name, pace) in enumerate(zip(line.who, line.d, strict=True)):
            column = matrix.index_select(1, name)
            slope = slope + pace * ((column * state.x).sum(0) + linear[name])
            curvature = curvature + pace * (column.gather(0, line.who) * line.d).sum(0)
            if k > 1:
                slope = slope + pace * self.target.slope[name, state.mode.gather(0, name.unsqueeze(0)).squeeze(0)]
        return slope, curvature.clamp_min(self.target.quadratic.flat)

    def _log_weights(
        self, state: Faces, line: Line, options: Options, kind: int, energy: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """By pair of modes, the logarithm of what it weighs, (M, M, chains)."""
        slope, curvature, heat = energy
        faces, (i, j) = self.faces, line.who[:2]
        prices = []
        for name in (i, j):
            at = state.x.gather(0, name.unsqueeze(0))
            prices.append((self.target.price[name].T + self.target.slope[name].T * at, self.target.slope[name].T))
        price = prices[0][0].unsqueeze(1) + prices[1][0].unsqueeze(0)
        slope = slope + prices[0][1].unsqueeze(1) + line.d[1] * prices[1][1].unsqueeze(0)
        low, high, point = options
        at = torch.where(point & (high >= low), low, 0.0)
        here = torch.where(high >= low, -(slope + 0.5 * curvature * at) * at / heat, -torch.inf)
        # A range that lost its room by rounding is where the chain stands, and nothing else is as likely.
        mass = log_mass(slope, curvature.expand_as(slope), heat, low, high)
        found = torch.where(point, here, mass) - price / heat
        free = faces.ranged[line.who[:2]].transpose(1, 2)
        first, second = free[0].unsqueeze(1), free[1].unsqueeze(0)
        found = found - torch.where(second, 0.0, line.d[1].abs().clamp_min(1e-300).log())
        if kind == WITHIN:
            found = torch.where(first & second, found, -torch.inf)
        elif kind == ACROSS:
            found = torch.where(first & second & line.turns, found + math.log(2.0), found)
            found = torch.where((first | second) & (second | line.turns), found, -torch.inf)
        return found + self._log_prior(state, line)

    def _log_prior(self, state: Faces, line: Line) -> Tensor:
        """What the measure and the counts say of each pair of modes, (M, M, chains)."""
        faces, (i, j) = self.faces, line.who[:2]

        def after(now: Tensor, by_mode: Tensor) -> Tensor:
            change = [
                by_mode[name].T - by_mode[name, state.mode.gather(0, name.unsqueeze(0)).squeeze(0)] for name in (i, j)
            ]
            return now + change[0].unsqueeze(1) + change[1].unsqueeze(0)

        found = faces.reference.log_weight(after(state.size, faces.sized), after(state.rest, faces.points))
        both = faces.exists[i].T.unsqueeze(1) & faces.exists[j].T.unsqueeze(0)
        for count, tally, least, most in zip(
            faces.counts, state.tally, faces.count_lower, faces.count_upper, strict=True
        ):
            then = after(tally, count)
            both = both & (then >= least - 0.5) & (then <= most + 0.5)
        return torch.where(both, found, -torch.inf)

    def _taken(
        self, state: Faces, line: Line, options: Options, now: list[Tensor], valid: Tensor,
        energy: tuple[Tensor, Tensor, Tensor], rng: torch.Generator,
    ) -> Faces:  # fmt: skip
        """The chains after a draw of t in the modes `now` of i and j; where not `valid`, as they were."""
        slope, curvature, heat = energy
        faces, who = self.faces, line.who
        cell = torch.arange(len(heat), device=heat.device)
        low, high, point = (part[now[0], now[1], cell] for part in options)
        tilt = slope + self.target.slope[who[0], now[0]] + line.d[1] * self.target.slope[who[1], now[1]]
        moving = valid & ~point
        low, high = torch.where(valid, low, 0.0), torch.where(moving, high, torch.where(valid, low, 0.0))
        t = torch.where(moving, fresh_on_chord(tilt, curvature, heat, low, high, rng), low)
        weights = state.x.gather(0, who) + t * line.d
        for k in (0, 1):
            weights[k] = weights[k].maximum(faces.lower[who[k], now[k]]).minimum(faces.upper[who[k], now[k]])
        x = torch.where(valid, state.x.scatter(0, who, weights), state.x)
        mode = torch.where(valid, state.mode.scatter(0, who[:2], torch.stack(now)), state.mode)
        for limit in faces.heavy:
            valid = valid & limit.holds(x)
        if faces.heavy:
            x, mode = torch.where(valid, x, state.x), torch.where(valid, mode, state.mode)
        tally = [
            now + _change(count, state.mode, mode, who) for now, count in zip(state.tally, faces.counts, strict=True)
        ]
        size, rest = (_change(by_mode, state.mode, mode, who) for by_mode in (faces.sized, faces.points))
        return Faces(x, mode, torch.stack(tally) if tally else state.tally, state.size + size, state.rest + rest)

    @cached_property
    def _q(self) -> int:
        return len(self.faces.equations)

    @cached_property
    def _scaled(self) -> Tensor:
        """The equations, the largest entry of each 1."""
        rows = self.faces.equations
        return rows / rows.abs().amax(1, keepdim=True)

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows that are no equations, and their ends (r, 1)."""
        p = self.faces.polyhedron
        open_ = ~p.equal
        return p.rows[open_], p.row_lower[open_].unsqueeze(-1), p.row_upper[open_].unsqueeze(-1)

    @cached_property
    def _resting(self) -> bool:
        """Whether all coordinates may be at a point at once."""
        return self._q == 1 and bool((self.faces.exists & ~self.faces.ranged).any(1).all())


def _change(by_mode: Tensor, before: Tensor, after: Tensor, who: Tensor) -> Tensor:
    """By how much the sum over coordinates of what is given by mode (d, M) changes, (chains,), where i and j move."""
    found = torch.zeros_like(by_mode[:1, 0])
    for name in who[:2]:
        was, now = (mode.gather(0, name.unsqueeze(0)).squeeze(0) for mode in (before, after))
        found = found + by_mode[name, now] - by_mode[name, was]
    return found


def _crossed(below: Tensor, above: Tensor, pace: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of t with below <= pace t <= above; where nothing moves all t, or none where zero is not between."""
    still = pace == 0.0
    step = torch.where(still, 1.0, pace)
    one, other = below / step, above / step
    outside = (below > SLACK) | (above < -SLACK)
    low = torch.where(still, torch.where(outside, torch.inf, -torch.inf), one.minimum(other))
    return low, torch.where(still, torch.where(outside, -torch.inf, torch.inf), one.maximum(other))
