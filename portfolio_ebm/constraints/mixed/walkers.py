"""Annealed walks over modes, all chains of all problems at once on any device, the host waiting for none.

At every step each chain draws candidates by Gumbel noise on scores at its slice's solution, the change of one name's
mode and exchanges of two names' modes,

    change      g m + 1/2 q m^2 + cost                            m the move that the new mode asks for, or that pays
    exchange    m (g_i - g_j) + 1/2 m^2 (Q_ii + Q_jj - 2 Q_ij)    m = w_j - w_i, and what the modes cost more

solves them all by so many steps (programs/alternating.py), and takes one by Metropolis at T. A walk ends in descent.
Values are nearly those of the slices, so that whoever asked solves the ends exactly.

Source: Kirkpatrick, Gelatt and Vecchi (1983) for annealing; Maddison, Tarlow and Minka (2014), A* sampling, for draws
by Gumbel noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.mixed.node import Mixed
from portfolio_ebm.constraints.mixed.programs.alternating import Family, Slices
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import Array, Ints, Mask

CHANGES, LEAVING, PARTNERS = 3, 3, 2
"""Candidates of a step: changes of one mode, and partners for each of the names that are exchanged."""
CANDIDATES = CHANGES + LEAVING * PARTNERS
STEPS = 25
"""Steps on a slice, from where its neighbour ended."""


@dataclass(frozen=True)
class Walks:
    """The best modes that each chain met, (P, C, U), and about their energies, (P, C)."""

    modes: Tensor
    values: Tensor


@dataclass(frozen=True)
class Tables:
    """The modes of every name in problems of one shape.

    Attributes:
        family: the programs.
        lower, upper, cost: (P, n, M), of a name that has no choice its box, as mode 0. open: (P, n, M).
        counted: (P, L, n, M), which modes a limit counts. least, most: (P, L).
        name: (U,), the names of the units.
    """

    family: Family
    lower: Tensor
    upper: Tensor
    cost: Tensor
    open: Tensor
    counted: Tensor
    least: Tensor
    most: Tensor
    name: Tensor

    @classmethod
    def of(cls, problems: Sequence[tuple[Mixed, Mask]], device: torch.device) -> Tables:
        """Of programs that `fits`, all of one `shape`, with their open modes (U, M)."""
        made = [_tables(mixed, allowed) for mixed, allowed in problems]
        tables = {key: torch.as_tensor(np.array([one[key] for one in made])).to(device) for key in made[0]}
        family = Family.of([mixed.program for mixed, _ in problems], device)
        return cls(family, name=torch.as_tensor(problems[0][0].choices.only).to(device), **tables)

    def annealed(self, modes: Ints, near: Array, heats: Array, rng: torch.Generator) -> Walks:
        """Walks from `modes` (P, C, U), near portfolios (P, n), at temperatures (P, T).

        Args:
            rng: on the device of the tables.
        """
        device = self.lower.device
        full = torch.zeros(*modes.shape[:2], self.lower.shape[1], dtype=torch.int64, device=device)
        full[..., self.name] = torch.as_tensor(modes).to(device)
        w = torch.as_tensor(near).to(device).unsqueeze(1).expand(full.shape)
        at = self._solved(full, self.family.started(w))
        value = self._value(full, at)
        best, lowest = full, value
        for heat in torch.as_tensor(heats).to(device).T:
            full, at, value = self._stepped(full, at, value, heat[:, None], rng)
            better = value < lowest
            best, lowest = torch.where(better.unsqueeze(-1), full, best), torch.where(better, value, lowest)
        return Walks(best[..., self.name], lowest)

    def _stepped(
        self, modes: Tensor, at: Slices, value: Tensor, heat: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Slices, Tensor]:
        """One step of Metropolis of modes (P, C, n) at heat (P, 1)."""
        found = self._candidates(modes, at, heat, rng)
        problems, chains, count, n = found.shape
        flat = found.reshape(problems, chains * count, n)
        every = torch.arange(chains * count, device=flat.device)
        solved = self._solved(flat, at.at((every // count).expand(problems, -1)))
        values = self._value(flat, solved).reshape(problems, chains, count)
        drawn = (values - heat.unsqueeze(-1) * _gumbel(values, rng)).argmin(-1, keepdim=True)
        there = values.gather(-1, drawn).squeeze(-1)
        chance = torch.rand(there.shape, generator=rng, dtype=there.dtype, device=there.device)
        taken = (there <= value) | (chance < (-(there - value) / heat.clamp_min(1e-300)).exp())
        place = (drawn.squeeze(-1) + count * torch.arange(chains, device=flat.device)).expand(problems, -1)
        new, before = solved.at(place), taken.unsqueeze(-1)
        moved = Slices(*(torch.where(before, getattr(new, key), getattr(at, key)) for key in ("w", "z", "s", "y", "x")))
        theirs = found.gather(2, drawn.unsqueeze(-1).expand(problems, chains, 1, n)).squeeze(2)
        return torch.where(before, theirs, modes), moved, torch.where(taken, there, value)

    def _boxes(self, modes: Tensor) -> tuple[Tensor, Tensor]:
        return self._own(self.lower, modes), self._own(self.upper, modes)

    def _own(self, table: Tensor, modes: Tensor) -> Tensor:
        """The entries of a table (P, n, M) at modes (P, B, n)."""
        problems, n, kinds = table.shape
        return table.unsqueeze(1).expand(problems, modes.shape[1], n, kinds).gather(-1, modes.unsqueeze(-1)).squeeze(-1)

    def _solved(self, modes: Tensor, start: Slices) -> Slices:
        lower, upper = self._boxes(modes)
        now = start
        for _ in range(STEPS):
            now = self.family.step(now, lower, upper)
        return now

    def _value(self, modes: Tensor, at: Slices) -> Tensor:
        """About the energy of slices, what the modes cost in it; infinite where a limit or a mode forbids them."""
        there = self._own(self.open, modes).all(-1)
        counts = self._counts(modes)
        there = there & ((counts >= self.least.unsqueeze(1)) & (counts <= self.most.unsqueeze(1))).all(-1)
        value = self.family.value(at) + self._own(self.cost, modes).sum(-1)
        return torch.where(there, value, torch.inf)

    def _counts(self, modes: Tensor) -> Tensor:
        """What each limit counts, (P, B, L)."""
        held = [self._own(self.counted[:, k], modes).sum(-1) for k in range(self.counted.shape[1])]
        return torch.stack(held, -1) if held else modes.new_zeros(*modes.shape[:2], 0)

    def _candidates(self, modes: Tensor, at: Slices, heat: Tensor, rng: torch.Generator) -> Tensor:
        """Modes (P, C, K, n) to go to."""
        slope = self._pull(at)
        single = self._changes(modes, at.z, slope)
        problems, chains, n, kinds = single.shape
        flat = single.reshape(problems, chains, n * kinds)
        noisy = flat - heat.unsqueeze(-1) * _gumbel(flat, rng)
        top = noisy.topk(min(CHANGES, n * kinds), largest=False).indices
        found = [_changed(modes, (top[..., k] // kinds), (top[..., k] % kinds)) for k in range(top.shape[-1])]
        alone = single.amin(-1)
        leaving = (alone - heat.unsqueeze(-1) * _gumbel(alone, rng)).topk(min(LEAVING, n), largest=False).indices
        for k in range(leaving.shape[-1]):
            j = leaving[..., k]
            pairs = self._exchanges(modes, at.z, slope, j)
            partner = (pairs - heat.unsqueeze(-1) * _gumbel(pairs, rng)).topk(min(PARTNERS, n), largest=False).indices
            mine = modes.gather(-1, j.unsqueeze(-1)).squeeze(-1)
            for i in partner.unbind(-1):
                theirs = modes.gather(-1, i.unsqueeze(-1)).squeeze(-1)
                found.append(_changed(_changed(modes, i, mine), j, theirs))
        return torch.stack(found, 2)

    def _pull(self, at: Slices) -> Tensor:
        """What moving a name changes the energy by, (P, C, n): where it is held, zero where that does not pay."""
        slope, family = self.family.prices(at), self.family
        if not family.kinked:
            return slope * family.unit[:, None, None]
        side, toll = (at.z - family.held.unsqueeze(1)).sign(), family.rate.unsqueeze(1)
        still = slope.sign() * (slope.abs() - toll).clamp_min(0.0)
        return torch.where(side == 0.0, still, slope + toll * side) * family.unit[:, None, None]

    def _changes(self, modes: Tensor, w: Tensor, slope: Tensor) -> Tensor:
        """Scores (P, C, n, M) of one name in another mode, infinite in its own."""
        curve = self._curve().unsqueeze(1)
        low, high = self.lower.unsqueeze(1), self.upper.unsqueeze(1)
        wish = (w - slope / curve).unsqueeze(-1).maximum(low).minimum(high) - w.unsqueeze(-1)
        extra = self.cost.unsqueeze(1) - self._own(self.cost, modes).unsqueeze(-1)
        score = slope.unsqueeze(-1) * wish + 0.5 * curve.unsqueeze(-1) * wish**2 + extra
        other = torch.arange(self.lower.shape[-1], device=w.device) != modes.unsqueeze(-1)
        return torch.where(self.open.unsqueeze(1) & other, score, torch.inf)

    def _curve(self) -> Tensor:
        diagonal = self.family.matrix.diagonal(dim1=-2, dim2=-1) * self.family.unit[:, None]
        return diagonal.clamp_min(1e-12 * self.family.unit[:, None])

    def _exchanges(self, modes: Tensor, w: Tensor, slope: Tensor, j: Tensor) -> Tensor:
        """Scores (P, C, n) of an exchange of modes with name j (P, C), infinite where the modes do not allow it."""
        problems, chains, n = modes.shape
        one = j.unsqueeze(-1)
        mine, move = modes.gather(-1, one), w.gather(-1, one) - w
        curve = self._curve()
        beside = self.family.matrix.gather(1, one.expand(problems, chains, n)) * self.family.unit[:, None, None]
        both = curve.unsqueeze(1) + curve.gather(-1, j).unsqueeze(-1) - 2.0 * beside
        score = move * (slope - slope.gather(-1, one)) + 0.5 * move**2 * both
        theirs = self._own(self.open, mine.expand_as(modes))
        kinds = self.open.shape[-1]
        own = self.open.gather(1, one.expand(problems, chains, kinds)).gather(-1, modes)
        return torch.where((modes != mine) & theirs & own, score, torch.inf)


def _gumbel(like: Tensor, rng: torch.Generator) -> Tensor:
    """Gumbel noise, of the shape of `like`."""
    draw = torch.rand(like.shape, generator=rng, dtype=like.dtype, device=like.device)
    return -(-draw.clamp(1e-300, 1.0 - 1e-16).log()).log()


def _changed(modes: Tensor, name: Tensor, mode: Tensor) -> Tensor:
    """Modes (P, C, n) with those of names (P, C) changed."""
    return modes.scatter(-1, name.unsqueeze(-1), mode.unsqueeze(-1))


def fits(mixed: Mixed) -> bool:
    """Whether the walks know a problem: a quadratic with a rate and rows, units of one name, limits on numbers."""
    c = mixed.choices
    plain = type(mixed.program) is Program and not mixed.caps and mixed.program.bounded
    return plain and bool((c.size == 1).all()) and not any(limit.mass for limit in c.limits)


def shape(mixed: Mixed) -> tuple[int | bytes, ...]:
    """Problems of one shape can be walked together."""
    c = mixed.choices
    return mixed.program.n, len(mixed.program.rows), *c.lower.shape, len(c.limits), c.only.tobytes()


def _tables(mixed: Mixed, allowed: Mask) -> dict[str, NDArray[Any]]:
    """The tables of one problem, by name."""
    c, p = mixed.choices, mixed.program
    only, kinds = c.only, c.lower.shape[1]
    lower, upper = (np.repeat(end[:, None], kinds, axis=1) for end in (p.lower, p.upper))
    lower[only] = np.where(allowed, np.maximum(c.lower, lower[only]), lower[only])
    upper[only] = np.where(allowed, np.minimum(c.upper, upper[only]), lower[only])
    there, cost = np.zeros((p.n, kinds), dtype=bool), np.zeros((p.n, kinds))
    there[:, 0], there[only], cost[only] = True, allowed, np.where(allowed, c.cost, 0.0)
    counted = np.zeros((len(c.limits), p.n, kinds), dtype=np.int64)
    for place, limit in enumerate(c.limits):
        counted[place][np.ix_(only[limit.units], np.array(limit.modes, dtype=np.int64))] = 1
    return {
        "lower": lower, "upper": np.maximum(lower, upper), "cost": cost, "open": there, "counted": counted,
        "least": np.array([limit.least for limit in c.limits], dtype=np.float64),
        "most": np.array([limit.most for limit in c.limits], dtype=np.float64),
    }  # fmt: skip
