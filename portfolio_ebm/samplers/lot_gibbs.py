"""Lot-Gibbs: exact draws from exp(-E/T) over whole lots, each portfolio that obeys the rules counting once.

    x_i = k_i s_i with whole k;   x + tau d,   d = p_i s_i at i and -p_j s_j at j,   tau whole
    tau drawn by weight from a window of W neighbours that holds where the chain is, in a place drawn at random

Every point of a window is as likely to have it drawn, so that the draw leaves the law as it is, and what costs and
modes say of i and j (tickets, a least weight, numbers of names) is asked at the points themselves. Who moves, and by
how many lots, is drawn beforehand, the same for all chains: one name, or two with lots worth about the same.

Sources: Geman and Geman (1984), IEEE PAMI 6; Neal, R. (2003), Slice sampling, Annals of Statistics 31, for intervals
placed at random around the chain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from portfolio_ebm.samplers.face_set import FaceTarget
from portfolio_ebm.samplers.planned import Planned, by_chain
from portfolio_ebm.samplers.polyhedron import side

WINDOW = 8

DOUBLINGS = 6
"""A move is of 1, 2, 4, ... lots, at most 2 to this power less one."""

NEAR = 5e-10
"""Weights nearer than this are one."""

Plan = list[tuple[int, int, int, int]]
"""What moves: a name and its lots up, another and its lots down."""


class _Table(NamedTuple):
    """The modes of one name: their ends, what they cost in front and by weight, and what each count has of them."""

    lower: list[float]
    upper: list[float]
    price: list[float]
    slope: list[float]
    counts: list[list[float]]


@dataclass(frozen=True)
class LotGibbs(Planned[tuple[int, int, int, int]]):
    """The kernel for one energy, one set (no equation among its rows) and one grid of `step` (d,), all above zero.

    Example:
        >>> x = LotGibbs(FaceTarget(Target(matrix, linear), price, slope, faces), step).run(x, 1e-6, 1000, rng)
    """

    target: FaceTarget
    step: Tensor
    window: int = field(default=WINDOW)

    def plan(self, steps: int, rng: torch.Generator) -> Plan:
        """Who moves by how many lots, drawn beforehand."""
        n, place = len(self.step), rng.device
        first = torch.randint(n, (steps,), generator=rng, device=place)
        second = (first + 1 + torch.randint(max(n - 1, 1), (steps,), generator=rng, device=place)) % n
        power = torch.randint(DOUBLINGS, (steps,), generator=rng, device=place)
        coin = torch.rand(2, steps, generator=rng, device=place)
        size = self.step.to(place)
        worth = size[first].maximum(size[second]) * 2.0**power
        up = (worth / size[first]).round().clamp_min(1.0)
        down = (worth / size[second]).round().clamp_min(1.0)
        # Alone as often as not; and in pairs of lots that do not match now and then one more or less.
        up = torch.where(coin[0] < 0.4, 2.0**power, up)
        down = torch.where(coin[0] < 0.4, 0.0, down + torch.where(coin[1] < 0.3, (coin[1] < 0.15) * 2.0 - 1.0, 0.0))
        return [(int(i), int(p), int(j), int(q)) for i, p, j, q in zip(
            first.tolist(), up.tolist(), second.tolist(), down.tolist(), strict=True
        )]  # fmt: skip

    def sweep(self, x: Tensor, temperature: float | Tensor, plan: Plan, rng: torch.Generator) -> Tensor:
        """x (d, chains) after the moves of `plan`, in order."""
        heat, tally = by_chain(temperature, x), self._tally(x)
        for i, up, j, down in plan:
            x, tally = self._moved(x, tally, (i, up, j, down), heat, rng)
        return self.on_grid(x)

    def on_grid(self, x: Tensor) -> Tensor:
        """The nearest whole lots, exactly at the points where names rest."""
        faces, step = self.target.faces, self.step.unsqueeze(-1)
        x = (x / step).round() * step
        for own in torch.where(faces.exists & ~faces.ranged, faces.lower, torch.inf).T:
            x = torch.where((x - own.unsqueeze(-1)).abs() <= NEAR, own.unsqueeze(-1), x)
        return x

    def holds(self, x: Tensor) -> Tensor:
        """Whether x (d, chains) is in the set, (chains,)."""
        found, _, counts = zip(*(self._modes(i, x[i]) for i in range(len(x))), strict=True)
        fits: Tensor = torch.stack(found).all(0) & self._counted(torch.stack(counts).sum(0))
        return fits & self.target.faces.within(x, NEAR)

    def _moved(
        self, x: Tensor, tally: Tensor, move: tuple[int, int, int, int], heat: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        i, up, j, down = move
        faces, target = self.target.faces, self.target.quadratic
        p, names, chains = faces.polyhedron, [i] if down == 0 else [i, j], x.shape[1]
        d = torch.zeros_like(self.step)
        d[i] = up * self.step[i]
        d[names[1:]] = -down * self.step[j]
        place = torch.randint(self.window, (chains,), generator=rng, device=x.device)
        tau = (torch.arange(self.window, device=x.device).unsqueeze(-1) - place).to(x.dtype)
        pull = target.matrix @ d
        log = -(tau * (pull @ x + target.linear @ d) + 0.5 * float(pull @ d) * tau * tau) / heat
        counted, inside = tally, torch.ones_like(tau, dtype=torch.bool)
        for name in names:
            fits, cost, count = self._modes(name, x[name] + tau * d[name])
            inside = inside & fits
            log = log - cost / heat
            counted = counted - self._modes(name, x[name])[2].unsqueeze(1) + count
        inside = inside & self._counted(counted)
        at, pace = p.rows @ x, (p.rows @ d).unsqueeze(-1)
        for row, speed, low, high in zip(at, pace, p.row_lower, p.row_upper, strict=True):
            then = row + speed * tau
            inside = inside & (then >= low - NEAR) & (then <= high + NEAR)
        for ball in p.balls:
            value = ball.value(x).expand_as(tau)
            for name in names:
                gap = x[name] - ball.centre[name]
                one, other = ball.up[name], ball.down[name]
                value = value + side(gap + tau * d[name], one, other) - side(gap, one, other)
            inside = inside & (value <= ball.limit + NEAR)
        noise = torch.empty_like(log).exponential_(generator=rng).clamp_min(1e-300)
        best = (torch.where(inside, log, -torch.inf) - noise.log()).max(0)
        at_ = torch.where(best.values > -torch.inf, best.indices, place).unsqueeze(0)
        found = x.clone()
        for name in names:
            found[name] = ((x[name] + tau.gather(0, at_)[0] * d[name]) / self.step[name]).round() * self.step[name]
        counted = counted.gather(1, at_.expand(len(counted), 1, -1)).squeeze(1)
        taken = torch.ones_like(heat, dtype=torch.bool)
        for limit in faces.heavy:
            taken = taken & limit.holds(found)
        if not faces.heavy:
            return found, counted.unsqueeze(1)
        return torch.where(taken, found, x), torch.where(taken, counted, tally.squeeze(1)).unsqueeze(1)

    def _modes(self, name: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of weights x (..., chains) of a name: whether they are in a mode, what it costs, and what it counts for
        (L, ..., chains)."""
        lower, upper, price, slope, counts = self._tables[name]
        fits, cost = torch.zeros_like(x, dtype=torch.bool), torch.zeros_like(x)
        count = x.new_zeros(len(counts), *x.shape)
        for m, (low, high) in enumerate(zip(lower, upper, strict=True)):
            here = (x >= low - NEAR) & (x <= high + NEAR)
            fits = fits | here
            cost = torch.where(here, price[m] + slope[m] * x, cost)
            for k, own in enumerate(counts):
                if own[m] != 0.0:
                    count[k] = torch.where(here, own[m], count[k])
        return fits, cost, count

    def _tally(self, x: Tensor) -> Tensor:
        """What the counts have, (L, 1, chains)."""
        return torch.stack([self._modes(i, x[i])[2] for i in range(len(x))]).sum(0).unsqueeze(1)

    def _counted(self, tally: Tensor) -> Tensor:
        """Whether the counts allow tallies (L, ..., chains)."""
        faces, fits = self.target.faces, torch.ones_like(tally[0] if len(tally) else tally.sum(0), dtype=torch.bool)
        for own, least, most in zip(tally, faces.count_lower.tolist(), faces.count_upper.tolist(), strict=True):
            fits = fits & (own >= least - 0.5) & (own <= most + 0.5)
        return fits

    @cached_property
    def _tables(self) -> list[_Table]:
        """By name, its modes."""
        faces, found = self.target.faces, []
        for i in range(faces.n):
            modes = faces.exists[i].nonzero().squeeze(-1)
            lower, upper, price, slope = (
                part[i][modes].tolist() for part in (faces.lower, faces.upper, self.target.price, self.target.slope)
            )
            found.append(_Table(lower, upper, price, slope, faces.counts[:, i][:, modes].tolist()))
        return found
