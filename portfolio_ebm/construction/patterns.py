"""The pattern engine: which names to hold, when at most K may be and each at a least weight.

For a pattern p let V(p) be the least energy on its slice of the region. Walkers move over patterns by swaps, adds
and drops. All moves of a walker are scored by the quadratic program of the neighbour on the model of the energy at
the walker's own point; the best few are evaluated by the inner solver, and one of them is taken by Metropolis at T:

    proposed with probability ~ exp(-V / T) among the best few,   accepted with min(1, exp(-(V' - V) / T)).

T = 0 is steepest swap descent. Patterns are remembered, so that no slice is solved twice.

Source: the scored exchange follows the local search of Bertsimas, King and Mazumder (2016), Best subset selection
via a modern optimization lens, Annals of Statistics 44(2), with second-order scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.slices import Array, Mask, Slices, solve_slices
from portfolio_ebm.energy import Bound
from portfolio_ebm.samplers.schedules import Cooling
from portfolio_ebm.types import as_numpy

ROUNDS = 4
MOST_PROGRAMS = 256


@dataclass(frozen=True)
class Choice:
    """What may be chosen: `open` names can be held at all, `forced` names must be, `at_most` is K."""

    open: Mask
    forced: Mask
    at_most: int
    dropping: bool

    @classmethod
    def of(cls, region: Region) -> Choice:
        free = ~region.frozen.cpu().numpy()
        lower, upper = region.lower.cpu().numpy(), region.upper.cpu().numpy()
        can = free & (upper >= region.min_weight) & ((upper > 0.0) | (lower < 0.0))
        must = free & ((lower > 0.0) | (upper < 0.0))
        most = int(can.sum()) if region.at_most is None else min(region.at_most, int(can.sum()))
        return cls(can, must, most, region.min_weight > 0.0)

    def of_weights(self, weights: Tensor) -> Mask:
        """The patterns of portfolios (m, n): the names held, forced ones included."""
        held: Mask = weights.detach().cpu().numpy() != 0.0
        return (held & self.open) | self.forced

    def neighbours(self, pattern: Mask) -> tuple[Mask, Array]:
        """All swaps, adds and drops of a pattern: bool (m, n); with the name that leaves and the one that
        enters, -1 for none, (m, 2)."""
        inside = np.flatnonzero(pattern & ~self.forced)
        outside = np.flatnonzero(self.open & ~pattern)
        moves: list[tuple[int, int]] = [(int(j), int(i)) for j in inside for i in outside]
        if pattern.sum() < self.at_most:
            moves += [(-1, int(i)) for i in outside]
        if self.dropping and pattern.sum() > 1:
            moves += [(int(j), -1) for j in inside]
        found = np.repeat(pattern[None], len(moves), axis=0)
        for row, (leaves, enters) in enumerate(moves):
            if leaves >= 0:
                found[row, leaves] = False
            if enters >= 0:
                found[row, enters] = True
        return found, np.array(moves, dtype=float).reshape(-1, 2)


@dataclass
class Memo:
    """The slices solved so far: by pattern, the value, the weights and the gradient there."""

    value: dict[bytes, float] = field(default_factory=dict)
    weights: dict[bytes, Tensor] = field(default_factory=dict)
    gradient: dict[bytes, Tensor] = field(default_factory=dict)

    def best(self, count: int) -> list[bytes]:
        """The `count` patterns of lowest value, best first; ties in the order they were found."""
        alive = [key for key, value in self.value.items() if np.isfinite(value)]
        return sorted(alive, key=lambda key: self.value[key])[:count]


@dataclass(frozen=True)
class Search:
    """The search over patterns of one energy on one region.

    Attributes:
        energy: E.
        slices: the region's slices.
        choice: the patterns there are.
        hessian: the model's curvature, (n, n).
        candidates: how many moves per walker and sweep are evaluated.
    """

    energy: Bound
    slices: Slices
    choice: Choice
    hessian: Array
    candidates: int
    memo: Memo = field(default_factory=Memo)

    def evaluate(self, patterns: Mask, start: Tensor, slope: Tensor) -> None:
        """Solve the slices of `patterns` (m, n) that are not known yet, from points and gradients (m, n)."""
        new: dict[bytes, int] = {}
        for row, pattern in enumerate(patterns):
            if pattern.tobytes() not in self.memo.value:
                new.setdefault(pattern.tobytes(), row)
        if not new:
            return
        rows = list(new.values())
        found = solve_slices(self.slices, self.energy, patterns[rows], start[rows], slope[rows], self.hessian, ROUNDS)
        for place, key in enumerate(new):
            self.memo.value[key] = float(found.energy[place])
            self.memo.weights[key] = found.weights[place]
            self.memo.gradient[key] = found.gradient[place]

    def shortlist(self, key: bytes) -> Mask:
        """The best few moves from a known pattern by the model of the energy at its solution, bool (m, n)."""
        pattern = unpack(key)
        neighbours, moves = self.choice.neighbours(pattern)
        possible = self.slices.possible(neighbours)
        neighbours, moves = neighbours[possible], moves[possible]
        x, g = (as_numpy(part[key]) for part in (self.memo.weights, self.memo.gradient))
        if len(neighbours) > MOST_PROGRAMS:
            kept = np.argsort(transfer_scores(moves, x, g, self.hessian, pattern), kind="stable")[:MOST_PROGRAMS]
            neighbours = neighbours[kept]
        scores = np.full(len(neighbours), np.inf)
        linear = g - self.hessian @ x
        for row, one in enumerate(neighbours):
            w = self.slices.minimum(one, self.hessian, linear)
            if w is not None:
                scores[row] = 0.5 * w @ self.hessian @ w + linear @ w
        order = np.argsort(scores, kind="stable")[: self.candidates]
        found: Mask = neighbours[order[np.isfinite(scores[order])]]
        return found


@dataclass(frozen=True)
class Walked:
    """Where the walkers ended: pattern keys, the share of proposals accepted, the sweeps done."""

    keys: tuple[bytes, ...]
    acceptance: float
    sweeps: int


def walk(
    search: Search, keys: Sequence[bytes], cooling: Cooling, n_sweeps: int, rng: torch.Generator, *, until_still: bool
) -> Walked:
    """Move walkers over patterns for `n_sweeps`; with `until_still`, stop when none moved.

    Args:
        keys: known patterns of finite value, one per walker.
        cooling: the temperature of every sweep.
    """
    now = list(keys)
    shortlists: dict[bytes, list[bytes]] = {}
    asked = taken = done = 0
    for sweep in range(n_sweeps):
        _look_around(search, [key for key in dict.fromkeys(now) if key not in shortlists], shortlists)
        moved = False
        for place, key in enumerate(now):
            options = shortlists[key]
            draw = torch.rand(len(options) + 1, dtype=torch.float64, generator=rng, device=rng.device).cpu().numpy()
            if not options:
                continue
            chosen, accepted = _metropolis(search.memo, key, options, cooling.at(sweep, n_sweeps), 1.0 - draw)
            asked, taken = asked + 1, taken + accepted
            if accepted:
                now[place], moved = chosen, True
        done += 1
        if until_still and not moved:
            break
    return Walked(tuple(now), taken / max(asked, 1), done)


def _look_around(search: Search, keys: list[bytes], shortlists: dict[bytes, list[bytes]]) -> None:
    """Fill the shortlists of patterns; all their candidates are evaluated in one batch."""
    found = {key: search.shortlist(key) for key in keys}
    wanted = [(key, one) for key, some in found.items() for one in some]
    if wanted:
        start = torch.stack([search.memo.weights[key] for key, _ in wanted])
        slope = torch.stack([search.memo.gradient[key] for key, _ in wanted])
        search.evaluate(np.array([one for _, one in wanted]), start, slope)
    for key, some in found.items():
        shortlists[key] = [k for k in (one.tobytes() for one in some) if np.isfinite(search.memo.value[k])]


def _metropolis(memo: Memo, key: bytes, options: list[bytes], heat: float, uniform: Array) -> tuple[bytes, bool]:
    """One of `options` by the Gumbel trick, and whether it is accepted; `uniform` on (0, 1], one more than options."""
    values = np.array([memo.value[k] for k in options])
    gumbel = -np.log(np.maximum(-np.log(uniform[:-1]), 1e-300))
    chosen = int(np.argmin(values - heat * gumbel))
    uphill = values[chosen] - memo.value[key]
    accepted = uphill < 0.0 if heat == 0.0 else heat * np.log(uniform[-1]) <= -uphill
    return options[chosen], bool(accepted)


def transfer_scores(moves: Array, x: Array, g: Array, hessian: Array, pattern: Mask) -> Array:
    """The model's change when the weight of the leaving name goes to the entering one, (m,).

    d = w_j (e_i - e_j):  g'd + d'Hd / 2. An add takes the mean weight from all names held, a drop gives its own back
    to them, in equal parts.
    """
    count = max(int(pattern.sum()), 1)
    even = pattern / count
    mean = float(np.abs(x[pattern]).mean()) if pattern.any() else 1.0
    scores = np.empty(len(moves))
    for row, (leaves, enters) in enumerate(moves.astype(int)):
        size = mean if leaves < 0 else x[leaves]
        d = (np.eye(1, len(x), enters)[0] if enters >= 0 else even) - (
            np.eye(1, len(x), leaves)[0] if leaves >= 0 else even
        )
        scores[row] = size * (g @ d) + 0.5 * size * size * (d @ hessian @ d)
    return scores


def unpack(key: bytes) -> Mask:
    """The pattern, bool (n,), that a key stands for."""
    return np.frombuffer(key, dtype=bool).copy()
