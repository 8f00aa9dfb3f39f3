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
from portfolio_ebm.samplers.face_lines import ACROSS, REST, SLACK, WITHIN, Line, Lines, State, crossed
from portfolio_ebm.samplers.face_set import FaceSet, FaceTarget
from portfolio_ebm.samplers.face_table import LOWER, PRICE, SLOPE, UPPER, FaceTable, listed, looked
from portfolio_ebm.samplers.planned import Planned, by_chain


class Options(NamedTuple):
    """By mode of i and of j and by chain, (m, m, chains): the ends of t, equal where one is a point, none where they
    cross; the slope of the energy in t and its price at t = 0."""

    low: Tensor
    high: Tensor
    slope: Tensor
    price: Tensor


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
        heat, state = by_chain(temperature, x), self._state(x)
        for kind in plan:
            line = self._lines.drawn(state, kind, rng)
            options = self._options(line, kind)
            pair, valid = self._drawn(state, line, options, kind, heat, rng)
            self._take(state, line, options, kind, (pair, valid), heat, rng)
        return state.x

    def _state(self, x: Tensor) -> State:
        slot = self._table.place.gather(1, self.faces.modes(x))
        names = torch.arange(len(x), device=x.device).unsqueeze(-1).expand_as(slot)
        return State(x.clone(), slot, looked(self._table.sums, slot, names).sum(1))

    def _options(self, line: Line, kind: int) -> Options:
        at, pace, first = line.at[:2], line.d[:2], self._first(kind)
        modes = listed(self._table.values[:, first:], line.who[:2])
        ends = crossed(modes[LOWER] - at, modes[UPPER] - at, pace, moving=self._lines.even is not None)
        low, high = ends[0][:, None, 0].maximum(ends[0][None, :, 1]), ends[1][:, None, 0].minimum(ends[1][None, :, 1])
        slope, price = _summed(modes[SLOPE] * pace) + line.slope, _summed(modes[PRICE] + modes[SLOPE] * at)
        p = self._table.points - first
        if p:
            # At a point: it has to be in the other's range and between the other ends; for two points they have to
            # meet. By rounding as well: one name that has all of the budget is at its limit, and a portfolio of mass
            # one.
            meets = (low - high <= SLACK) & (low >= line.low - SLACK) & (low <= line.high + SLACK)
            bounded = torch.where(meets, low, -torch.inf)
            bounded[p:, p:] = high[p:, p:].minimum(line.high)
            high = bounded
        else:
            high = high.minimum(line.high)
        low[p:, p:] = low[p:, p:].maximum(line.low)
        return Options(low, high, slope, price)

    def _drawn(
        self, state: State, line: Line, options: Options, kind: int, heat: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """A pair of modes by what each weighs, (chains,), and which chains have any."""
        if len(options.low) == 1:
            return torch.zeros_like(line.who[0]), line.valid & (options.low < options.high)[0, 0]
        log = self._log_weights(line, options, kind, heat)
        self._log_prior(log, state, line, kind)
        log = log.flatten(0, 1)
        peak = log.amax(0)
        # Where no pair has any weight these are nan, and the chain stays.
        mass = (log - peak).exp_().cumsum(0)
        drawn = torch.rand(peak.shape, generator=rng, dtype=peak.dtype, device=peak.device) * mass[-1]
        return (mass <= drawn).sum(0).clamp_max(len(log) - 1), line.valid & (peak > -torch.inf)

    def _log_weights(self, line: Line, options: Options, kind: int, heat: Tensor) -> Tensor:
        """By pair of modes, the logarithm of what it weighs before measure and counts, (m, m, chains)."""
        low, high, slope, price = options
        p = self._table.points - self._first(kind)
        # A range that lost its room by rounding is where the chain stands, and nothing else is as likely.
        log = mass = log_mass(slope[p:, p:], line.curvature, heat, low[p:, p:], high[p:, p:])
        if p:
            at = torch.where(high >= low, low, 0.0)
            log = torch.where(high >= low, (slope + 0.5 * line.curvature * at) * at / -heat, -torch.inf)
            log[p:, p:] = mass
            log[:, :p].sub_(line.d[1].abs().clamp_min(1e-300).log())
        log -= price / heat
        if kind == ACROSS:
            log[p:, p:].add_(line.turns, alpha=math.log(2.0))
            log[:p, :p] = -torch.inf
            log[p:, :p].masked_fill_(~line.turns, -torch.inf)
        return log

    def _log_prior(self, log: Tensor, state: State, line: Line, kind: int) -> None:
        """Add what the measure and the counts say of each pair of modes to `log` (m, m, chains), in place."""
        counted, first = len(self.faces.counts), self._first(kind)
        if kind == WITHIN and not counted:
            return  # the same for all pairs
        sums, (i, j) = self._table.sums, (line.who[:2], line.slot[:2])
        rest = state.sums - looked(sums, j, i).sum(1)
        modes = listed(sums[:, first:], i)
        if kind != WITHIN and not self.faces.reference.flat:
            # Ranges count for the same whichever they are: the first stands for all.
            kinds = self._table.points + 1
            size, mass = (_summed(modes[k, :kinds]) + rest[k] for k in (0, 1))
            found = self.faces.reference.log_weight(size.long(), mass)
            stands = torch.arange(len(log), device=log.device).clamp_max(kinds - 1)
            log += found if len(found) == len(log) else found.index_select(0, stands).index_select(1, stands)
        for k, (least, most) in enumerate(self._limits, start=2):
            then = _summed(modes[k]) + rest[k]
            log.masked_fill_((then < least) | (then > most), -torch.inf)

    def _take(
        self, state: State, line: Line, options: Options, kind: int, drawn: tuple[Tensor, Tensor], heat: Tensor,
        rng: torch.Generator,
    ) -> None:  # fmt: skip
        """The chains after a draw of t in the `drawn` pair of modes of i and j; where it is not valid, as they were."""
        (pair, valid), who, many, first = drawn, line.who, len(options.low), self._first(kind)
        low, high = (part.flatten(0, 1).gather(0, pair.unsqueeze(0)).squeeze(0) for part in options[:2])
        modes = first + torch.stack([pair // many, pair % many])
        slot = torch.where(valid, modes, line.slot[:2])
        new = looked(self._table.values, slot, who[:2])
        moving = valid & (modes >= self._table.points).all(0)
        low = torch.where(valid, low, 0.0)
        high = torch.where(moving, high, low)
        slope = line.slope + (new[SLOPE] * line.d[:2]).sum(0)
        t = torch.where(moving, fresh_on_chord(slope, line.curvature, heat, low, high, rng), low)
        weights = line.at + t * line.d
        weights[:2] = weights[:2].maximum(new[LOWER]).minimum(new[UPPER])
        weights = torch.where(valid, weights, line.at)
        if self.faces.heavy:
            after = state.x.scatter(0, who, weights)
            kept = torch.stack([limit.holds(after) for limit in self.faces.heavy]).all(0)
            weights, slot = torch.where(kept, weights, line.at), torch.where(kept, slot, line.slot[:2])
        state.x.scatter_(0, who, weights)
        if many > 1:
            change = looked(self._table.sums, slot, who[:2]) - looked(self._table.sums, line.slot[:2], who[:2])
            state.slot.scatter_(0, who[:2], slot)
            state.sums.add_(change.sum(1))

    def _first(self, kind: int) -> int:
        """The first slot that is looked at: of those who stay in a range only ranges are."""
        return self._table.points if kind == WITHIN else 0

    @cached_property
    def _table(self) -> FaceTable:
        return FaceTable.of(self.target)

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self.target, self._table)

    @cached_property
    def _limits(self) -> list[tuple[float, float]]:
        """The limits on numbers, between whole ones."""
        faces = self.faces
        return [
            (least - 0.5, most + 0.5)
            for least, most in zip(faces.count_lower.tolist(), faces.count_upper.tolist(), strict=True)
        ]

    @cached_property
    def _resting(self) -> bool:
        """Whether all coordinates may be at a point at once."""
        return self._lines.q == 1 and bool((self.faces.exists & ~self.faces.ranged).any(1).all())


def _summed(by_mode: Tensor) -> Tensor:
    """For each pair of modes the sum of what i's and j's have, (m, m, chains), of (m, 2, chains)."""
    return by_mode[:, None, 0] + by_mode[None, :, 1]
