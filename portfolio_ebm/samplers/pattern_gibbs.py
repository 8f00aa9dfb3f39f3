"""Pattern-Gibbs: exact draws from exp(-E/T) over patterns and weights, where E is quadratic with kinks.

    E(x) = 1/2 x'Mx + m'x + sum_i rate_i |x_i - centre_i|     on a PatternSet, with respect to its measure

A chain is a list of slots, each empty or a name with its weight. Which slots move is drawn beforehand, the same for all
chains; each move is a draw from the conditional law of what it changes, so nothing is tuned and nothing rejected:

    pair     two names exchange weight: a truncated normal on the chord
    rename   one slot's weight goes to another name: a draw among all names, the one it has included
    redraw   one slot's name and how much of a partner's weight it has: the names weigh by the integral of the law over
             their chords, beside them the empty slot, where the partner has it all; the birth and death of a name

A pattern of m names stands in slots!/(slots - m)! arrangements, which the weights of birth and death allow for. Limits
on heavy units, and kinks in `redraw`, come in by a Metropolis step over these draws.

Sources: Geman and Geman (1984), IEEE PAMI 6; Green, P. (1995), Reversible jump Markov chain Monte Carlo computation,
Biometrika 82; George and McCulloch (1997), Approaches for Bayesian variable selection, Statistica Sinica 7, for names
drawn with the weights integrated out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from portfolio_ebm.samplers.chords import fresh_on_chord, log_mass
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.pattern_set import HELD, PatternSet
from portfolio_ebm.samplers.planned import Planned, by_chain
from portfolio_ebm.samplers.polyhedron import side

PAIR, RENAME, REDRAW = 0, 1, 2

SLACK = 1e-12
"""A sum that a limit meets may be beyond it by its rounding."""

Plan = list[tuple[int, int, int]]
"""What moves: (kind, slot, its partner)."""


class Slots(NamedTuple):
    """Chains: names (slots, chains), n where a slot is empty; weights (slots, chains)."""

    names: Tensor
    weights: Tensor


@dataclass(frozen=True)
class PatternGibbs(Planned[tuple[int, int, int]]):
    """The kernel for one energy and one set.

    Attributes:
        shares: how often each kind of move is taken.

    Example:
        >>> x = PatternGibbs(Target(matrix, linear), patterns).run(x, temperature=1e-6, steps=1000, rng=rng)
    """

    target: Target
    patterns: PatternSet
    shares: tuple[float, float, float] = field(default=(0.65, 0.25, 0.1))

    def plan(self, steps: int, rng: torch.Generator) -> Plan:
        """Which slots move, drawn beforehand."""
        slots, place = self.patterns.slots, rng.device
        kinds = torch.multinomial(torch.tensor(self.shares, device=place), steps, replacement=True, generator=rng)
        first = torch.randint(slots, (steps,), generator=rng, device=place)
        other = torch.randint(max(slots - 1, 1), (steps,), generator=rng, device=place)
        other = (first + 1 + other) % slots
        moves = zip(kinds.tolist(), first.tolist(), other.tolist(), strict=True)
        return [(kind, k, m) if slots > 1 else (RENAME, 0, 0) for kind, k, m in moves]

    def sweep(self, x: Tensor, temperature: float | Tensor, plan: Plan, rng: torch.Generator) -> Tensor:
        """x (n, chains) after the moves of `plan`, in order."""
        heat, state = by_chain(temperature, x), self.slotted(x, rng)
        for kind, k, m in plan:
            if kind == PAIR:
                moved = self._pair(state, k, m, heat, rng)
            elif kind == RENAME:
                moved = self._rename(state, k, heat, rng)
            else:
                moved = self._redraw(state, k, m, heat, rng)
            state = self._allowed(state, moved)
        return self.dense(state)

    def slotted(self, x: Tensor, rng: torch.Generator) -> Slots:
        """The chains of x (n, chains), in slots drawn at random for each chain.

        In a fixed order (the first name first) a plan would treat names by their place, and be exact only on average
        over plans: an error that all chains share, so that no comparison of them shows it.
        """
        held = (x > 0.5 * HELD).to(torch.int8)
        order = held.sort(dim=0, descending=True, stable=True).indices[: self.patterns.slots]
        place = torch.rand(order.shape, generator=rng, dtype=x.dtype, device=x.device).argsort(0)
        order = order.gather(0, place)
        full = held.gather(0, order) > 0
        return Slots(torch.where(full, order, self.patterns.n), torch.where(full, x.gather(0, order), 0.0))

    def dense(self, state: Slots) -> Tensor:
        """x (n, chains)."""
        found = state.weights.new_zeros(self.patterns.n + 1, state.weights.shape[1])
        return found.scatter_add_(0, state.names, state.weights)[:-1]

    def _pair(self, state: Slots, k: int, m: int, heat: Tensor, rng: torch.Generator) -> Slots:
        names, weights = state
        a, b, v, w = names[k], names[m], weights[k], weights[m]
        flat, width = self._matrix.flatten(), self.patterns.n + 1
        pull = flat[a * width + names] - flat[b * width + names]
        slope = (pull * weights).sum(0) + self._linear[a] - self._linear[b]
        low, high = self._chord(state, a, b, v, w)
        low, high = self._sliced(a, v, 1.0, low, high, heat, rng)
        low, high = self._sliced(b, w, -1.0, low, high, heat, rng)
        full = (a < width - 1) & (b < width - 1)
        low, high = torch.where(full, low, 0.0).clamp_max(0.0), torch.where(full, high, 0.0).clamp_min(0.0)
        t = fresh_on_chord(slope, self._curvature(a, b), heat, low, high, rng)
        t = torch.where(full, t, 0.0)
        found = weights.clone()
        found[k], found[m] = v + t, w - t
        return Slots(names, found)

    def _chord(self, state: Slots, a: Tensor, b: Tensor, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of t for v + t on a and w - t on b."""
        low = (self._lower[a] - v).maximum(w - self._upper[b])
        high = (self._upper[a] - v).minimum(w - self._lower[b])
        p = self.patterns
        x = self.dense(state) if len(p.rows) or p.balls else state.weights
        if len(p.rows):
            at, pace = p.rows @ x, self._rows[:, a] - self._rows[:, b]
            ends = _between(at, pace, p.row_lower.unsqueeze(-1), p.row_upper.unsqueeze(-1))
            low, high = low.maximum(ends[0].amax(0)), high.minimum(ends[1].amin(0))
        for ball, (up, down, centre) in zip(p.balls, self._balls, strict=True):
            value = ball.value(x)
            ends = _inside_ball(ball.limit - value, (up[a], down[a], v - centre[a]), (up[b], down[b], w - centre[b]))
            low, high = low.maximum(ends[0]), high.minimum(ends[1])
        return low, high

    def _sliced(
        self, a: Tensor, v: Tensor, sign: float, low: Tensor, high: Tensor, heat: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        if self._kinks is None:
            return low, high
        rate, centre = self._kinks[0][a], self._kinks[1][a]
        level = -torch.log1p(-torch.rand(v.shape, generator=rng, dtype=v.dtype, device=v.device)) * heat
        gap = v - centre
        reach = torch.where(rate > 0.0, gap.abs() + level / rate.clamp_min(1e-300), torch.inf)
        return low.maximum(-reach - sign * gap), high.minimum(reach - sign * gap)

    def _rename(self, state: Slots, k: int, heat: Tensor, rng: torch.Generator) -> Slots:
        names, a, v = state.names, state.names[k], state.weights[k]
        x, p, n = self.dense(state), self.patterns, self.patterns.n
        slope = self._matrix[:n, :n] @ x + self._linear[:n].unsqueeze(-1)
        column = self._matrix[:n].index_select(1, a)
        energy = v * (slope - v * column) + (0.5 * v * v) * self._diagonal[:n].unsqueeze(-1)
        if self._kinks is not None:
            rate, centre = (part[:n].unsqueeze(-1) for part in self._kinks)
            energy = energy + rate * ((v - centre).abs() - centre.abs())
        free = self._free(names, k) & (p.lower.unsqueeze(-1) <= v + SLACK) & (v <= p.upper.unsqueeze(-1) + SLACK)
        if len(p.rows) or len(p.counts):
            kind, columns, counted = p.kinds
            at = p.rows @ x - v * self._rows[:, a]
            fits = _within(at.unsqueeze(1) + columns.unsqueeze(-1) * v, p.row_lower, p.row_upper)
            fits = fits & self._counts_fit(names, k, counted)
            free = free & fits[kind]
        for ball, (up, down, centre) in zip(p.balls, self._balls, strict=True):
            rest = ball.value(x) - side(v - centre[a], up[a], down[a]) + side(-centre[a], up[a], down[a])
            every = tuple(part[:n].unsqueeze(-1) for part in (up, down, centre))
            new = side(v - every[2], every[0], every[1]) - side(-every[2], every[0], every[1])
            free = free & (rest + new <= ball.limit + SLACK)
        full = a < n
        chosen = _pick(torch.where(free, -energy / heat, -torch.inf), torch.where(full, a, 0), rng)
        found = names.clone()
        found[k] = torch.where(full, chosen, n)
        return Slots(found, state.weights)

    def _free(self, names: Tensor, k: int) -> Tensor:
        """The names that no slot but k holds, bool (n, chains)."""
        others = names.clone()
        others[k] = self.patterns.n
        taken = torch.zeros(self.patterns.n + 1, names.shape[1], dtype=torch.bool, device=names.device)
        return ~taken.scatter_(0, others, value=True)[:-1]

    def _counts_fit(self, names: Tensor, k: int, counted: Tensor) -> Tensor:
        """Whether the counts allow slot k a name of each kind, bool (kinds, chains); `counted`: B by kind."""
        p = self.patterns
        without = self._counts[:, names].sum(1) - self._counts[:, names[k]]
        return _within(without.unsqueeze(1) + counted.unsqueeze(-1), p.count_lower, p.count_upper)

    def _redraw(self, state: Slots, k: int, m: int, heat: Tensor, rng: torch.Generator) -> Slots:
        names, weights = state
        a, b, n = names[k], names[m], self.patterns.n
        total = weights[k] + weights[m]
        gone = Slots(names.clone(), weights.clone())
        gone.names[k], gone.weights[k], gone.weights[m] = n, 0.0, total
        x = self.dense(gone)
        slope = self._matrix[:n, :n] @ x + self._linear[:n].unsqueeze(-1)
        slope = slope - slope.gather(0, b.clamp_max(n - 1).unsqueeze(0))
        column = self._matrix[:n].index_select(1, b)
        curve = self._diagonal[:n].unsqueeze(-1) + self._diagonal[b] - 2.0 * column
        curve = curve.clamp_min(self.target.flat)
        low, high = self._ends(x, b, total)
        size = (gone.names < n).sum(0)
        weight = log_mass(slope, curve, heat, low, high) + self._birth[size]
        weight = torch.where(self._free(names, k), weight, -torch.inf)
        if len(self.patterns.counts):
            kind, _, counted = self.patterns.kinds
            weight = torch.where(self._counts_fit(names, k, counted)[kind], weight, -torch.inf)
        empty = torch.where(self._complete(gone, x, b, total, size), 0.0, -torch.inf)
        possible = b < n
        choice = _pick(torch.cat([weight, empty.unsqueeze(0)]), a, rng)
        at = choice.clamp_max(n - 1).unsqueeze(0)
        ends = tuple(part.gather(0, at).squeeze(0) for part in (slope, curve, low, high))
        filled = possible & (choice < n)
        bottom, top = torch.where(filled, ends[2], 0.0), torch.where(filled, ends[3], 0.0)
        t = torch.where(filled, fresh_on_chord(ends[0], ends[1], heat, bottom, top, rng), 0.0)
        found = Slots(names.clone(), weights.clone())
        found.names[k] = torch.where(possible, choice, a)
        found.weights[k] = torch.where(possible, t, weights[k])
        found.weights[m] = torch.where(possible, total - t, weights[m])
        return found if self._kinks is None else self._corrected(state, found, heat, rng)

    def _ends(self, x: Tensor, b: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """By name, the ends of the weight it may take of the partner b, which has `total`, (n, chains)."""
        p, n = self.patterns, self.patterns.n
        low = p.lower.unsqueeze(-1).maximum(total - self._upper[b])
        high = p.upper.unsqueeze(-1).minimum(total - self._lower[b])
        if len(p.rows):
            kind, columns, _ = p.kinds
            at, pace = (p.rows @ x).unsqueeze(1), columns.unsqueeze(-1) - self._rows[:, b].unsqueeze(1)
            ends = _between(at, pace, p.row_lower[:, None, None], p.row_upper[:, None, None])
            low, high = low.maximum(ends[0].amax(0)[kind]), high.minimum(ends[1].amin(0)[kind])
        for ball, (up, down, centre) in zip(p.balls, self._balls, strict=True):
            every = tuple(part[:n].unsqueeze(-1) for part in (up, down, centre))
            rest = ball.limit - ball.value(x)
            ends = _inside_ball(rest, (every[0], every[1], -every[2]), (up[b], down[b], total - centre[b]))
            low, high = low.maximum(ends[0]), high.minimum(ends[1])
        return low, high

    def _complete(self, gone: Slots, x: Tensor, b: Tensor, total: Tensor, size: Tensor) -> Tensor:
        """Whether the portfolio with the slot empty is in the set, (chains,)."""
        p = self.patterns
        fits = (size >= max(p.least, 1)) & (total >= self._lower[b] - SLACK) & (total <= self._upper[b] + SLACK)
        fits = fits & _within((p.rows @ x).unsqueeze(1), p.row_lower, p.row_upper)[0]
        fits = fits & _within(self._counts[:, gone.names].sum(1).unsqueeze(1), p.count_lower, p.count_upper)[0]
        for ball in p.balls:
            fits = fits & (ball.value(x) <= ball.limit + SLACK)
        return fits

    def _corrected(self, old: Slots, new: Slots, heat: Tensor, rng: torch.Generator) -> Slots:
        """A Metropolis step for the kinks, which the draws of `redraw` did not know."""
        assert self._kinks is not None
        rate, centre = (part[:-1].unsqueeze(-1) for part in self._kinks)
        was, now = ((rate * (self.dense(state) - centre).abs()).sum(0) for state in (old, new))
        taken = torch.rand(was.shape, generator=rng, dtype=was.dtype, device=was.device) < torch.exp((was - now) / heat)
        return Slots(torch.where(taken, new.names, old.names), torch.where(taken, new.weights, old.weights))

    def _allowed(self, old: Slots, new: Slots) -> Slots:
        """`new` where the limits on heavy units hold, else `old`."""
        if not self.patterns.heavy:
            return new
        x = self.dense(new)
        taken = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        for limit in self.patterns.heavy:
            taken = taken & limit.holds(x)
        return Slots(torch.where(taken, new.names, old.names), torch.where(taken, new.weights, old.weights))

    def _curvature(self, a: Tensor, b: Tensor) -> Tensor:
        mixed = self._matrix.flatten()[a * (self.patterns.n + 1) + b]
        found: Tensor = (self._diagonal[a] + self._diagonal[b] - 2.0 * mixed).clamp_min(self.target.flat)
        return found

    # Arrays with one more name, of no weight, which the empty slots hold.

    @cached_property
    def _matrix(self) -> Tensor:
        return pad(self.target.matrix, (0, 1, 0, 1))

    @cached_property
    def _diagonal(self) -> Tensor:
        return self._matrix.diagonal().clone()

    @cached_property
    def _linear(self) -> Tensor:
        return pad(self.target.linear, (0, 1))

    @cached_property
    def _lower(self) -> Tensor:
        return pad(self.patterns.lower, (0, 1))

    @cached_property
    def _upper(self) -> Tensor:
        return pad(self.patterns.upper, (0, 1))

    @cached_property
    def _rows(self) -> Tensor:
        return pad(self.patterns.rows, (0, 1))

    @cached_property
    def _counts(self) -> Tensor:
        return pad(self.patterns.counts, (0, 1))

    @cached_property
    def _balls(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return [(pad(b.up, (0, 1)), pad(b.down, (0, 1)), pad(b.centre, (0, 1))) for b in self.patterns.balls]

    @cached_property
    def _kinks(self) -> tuple[Tensor, Tensor] | None:
        rate, centre = self.target.rate, self.target.centre
        return None if rate is None or centre is None else (pad(rate, (0, 1)), pad(centre, (0, 1)))

    @cached_property
    def _birth(self) -> Tensor:
        """By the number m of other names, the log weight of a filled slot over an empty one, (slots + 1,)."""
        p = self.patterns
        left = torch.arange(p.slots, 0, -1, dtype=p.log_size.dtype, device=p.log_size.device)
        found = p.log_size.diff() - left.log()
        # A pattern without room has no mass; no chain is without names.
        found = torch.where(p.log_size[1:].isfinite() & p.log_size[:-1].isfinite(), found, -torch.inf)
        return pad(found, (0, 1), value=-torch.inf).to(p.lower)


def _pick(log_weights: Tensor, stay: Tensor, rng: torch.Generator) -> Tensor:
    """One row for each column of (m, chains), drawn by weight; `stay` where every weight is zero, by rounding."""
    noise = torch.rand(log_weights.shape, generator=rng, dtype=log_weights.dtype, device=log_weights.device)
    best = (log_weights - torch.log(-torch.log(noise.clamp_min(1e-300)))).max(0)
    return torch.where(best.values > -torch.inf, best.indices, stay)


def _within(at: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether all of at (r, c, chains) is between the ends (r,), bool (c, chains)."""
    found: Tensor = ((at >= low[:, None, None] - SLACK) & (at <= high[:, None, None] + SLACK)).all(0)
    return found


def _between(at: Tensor, pace: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of t with below <= at + pace t <= above; empty (low > high) where a row that does not move is broken."""
    step = torch.where(pace == 0.0, 1.0, pace)
    one, other = (below - at) / step, (above - at) / step
    broken = (at < below - SLACK) | (at > above + SLACK)
    low = torch.where(pace == 0.0, torch.where(broken, torch.inf, -torch.inf), one.minimum(other))
    return low, torch.where(pace == 0.0, torch.inf, one.maximum(other))


Gap = tuple[Tensor, Tensor, Tensor]


def _inside_ball(rest: Tensor, first: Gap, second: Gap) -> tuple[Tensor, Tensor]:
    """The ends of t for which one coordinate's t more and another's t less stay in a ball, of which `rest` is left at
    t = 0; each coordinate is (up, down, distance from the centre). Each side of a kink is a line."""
    rest = rest + side(first[2], first[0], first[1]) + side(second[2], second[0], second[1])
    low, high = torch.full_like(rest, -torch.inf), torch.full_like(rest, torch.inf)
    for s in (first[0], -first[1]):
        for r in (second[0], -second[1]):
            pace, left = s - r, rest - s * first[2] - r * second[2]
            end = left / torch.where(pace == 0.0, 1.0, pace)
            high = torch.where(pace > 0.0, high.minimum(end), high)
            low = torch.where(pace < 0.0, low.maximum(end), low)
            low = torch.where((pace == 0.0) & (left < -SLACK), torch.inf, low)
    return low, high
