"""The landscapes of many problems as one: their walks are one batch, chains (P, m, n).

    E(w)_p = E_p(w_p),   P(w)_p = the nearest portfolios to w_p in the region of problem p

Problems of one formula whose estimates can be stacked are evaluated by one call, if the formula obeys the law of
batches: at the starts its values and slopes have to be those of every problem by itself. Others are evaluated one after
the other. Problems with one region are projected by one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from portfolio_ebm.construction.rugged.chains import Landscape
from portfolio_ebm.construction.rugged.rugged import Explored, agreed, cycled, cycles, probed
from portfolio_ebm.context import Context, stacked
from portfolio_ebm.energy import Bound, Energy
from portfolio_ebm.samplers.kernel import State, evaluate

SAME = 1e-9
"""Values may differ by this share of the spread, slopes by this share of the largest, and the batch be trusted."""


@dataclass(frozen=True)
class Site:
    """One problem where walks set out.

    Attributes:
        energy: the formula, bound in `landscape` to `ctx`.
        x0: (m, n), where chains start.
    """

    energy: Energy
    ctx: Context
    landscape: Landscape
    x0: Tensor


@dataclass(frozen=True)
class Landscapes:
    """A Terrain of P problems.

    Attributes:
        sites: the problems, those of one formula next to each other.
        trusted: the formulas that obey the law of batches here.
    """

    sites: tuple[Site, ...]
    trusted: frozenset[Energy]

    @classmethod
    def of(cls, sites: Sequence[Site]) -> Landscapes:
        """The problems in the order given, in which those of one formula are next to each other."""
        trusted = frozenset(energy for energy, some in _runs(sites) if len(some) > 1 and _lawful(energy, some))
        return cls(tuple(sites), trusted)

    def at(self, rows: Sequence[int]) -> Landscapes:
        """Some of the problems."""
        return Landscapes(tuple(self.sites[row] for row in rows), self.trusted)

    @cached_property
    def spread(self) -> Tensor:
        return self._each("spread")

    @cached_property
    def heat(self) -> Tensor:
        return self._each("heat")

    @cached_property
    def step(self) -> Tensor:
        return self._each("step")

    def _each(self, name: str) -> Tensor:
        """A number of every landscape, (P, 1)."""
        return self.sites[0].x0.new_tensor([[getattr(site.landscape, name)] for site in self.sites])

    @cached_property
    def energy(self) -> Bound:
        """(P, m, n) -> (P, m)."""
        runs: list[tuple[int, Bound]] = []
        for energy, some in _runs(self.sites):
            if len(some) > 1 and energy in self.trusted:
                runs.append((len(some), energy.bind(stacked([site.ctx for site in some]))))
            else:
                runs += [(1, _alone(site.landscape.energy)) for site in some]
        if len(runs) == 1:
            return runs[0][1]
        sizes = [size for size, _ in runs]
        # One split has one gradient, that of the whole; slices would each have one as large.
        return lambda w: torch.cat([bound(part) for (_, bound), part in zip(runs, w.split(sizes), strict=True)])

    def project(self, w: Tensor) -> Tensor:
        """The nearest portfolios to w (P, m, n), each in the region of its problem."""
        if len(self._regions) == 1:
            return self._regions[0][1].project(w)
        found = torch.empty_like(w)
        for rows, landscape in self._regions:
            found[rows] = landscape.project(w[rows])
        return found

    @cached_property
    def _regions(self) -> list[tuple[Tensor, Landscape]]:
        """By region, which problems have it, and one that projects for all of them."""
        alike: dict[Any, list[int]] = {}
        for row, site in enumerate(self.sites):
            alike.setdefault(_contents((site.landscape.region, site.landscape.probes)), []).append(row)
        device = self.sites[0].x0.device
        return [(torch.tensor(rows, device=device), self.sites[rows[0]].landscape) for rows in alike.values()]


def explore_all(sites: Sequence[Site], n_steps: int, rng: torch.Generator) -> list[Explored]:
    """What `explore` finds of each problem by itself, up to rounding, in one batch; chains of all are of one shape.

    `rng` is as it would be for any of them alone: all share its noise. It is not used where all agree.

    Raises:
        SolverError: an energy or its slope was not a number on the way, of whichever problem.
    """
    order = sorted(range(len(sites)), key=_by_formula(sites))
    many = Landscapes.of([sites[place] for place in order])
    probe = probed(many, torch.stack([site.x0 for site in many.sites]), n_steps)
    done = agreed(many, probe).tolist()
    found = [Explored(x, value, value, True, 0) for x, value in zip(probe.x, probe.energy, strict=True)]
    left = [row for row, one in enumerate(done) if not one]
    if left:
        now = cycled(many.at(left), _rows(probe, left), cycles(n_steps), rng)
        for row, x, value in zip(left, now.x, now.energy, strict=True):
            found[row] = Explored(x, value, probe.energy[row], False, cycles(n_steps))
    back = sorted(range(len(order)), key=order.__getitem__)
    return [found[row] for row in back]


def _rows(state: State, rows: list[int]) -> State:
    """The state of some problems."""
    at = torch.tensor(rows, device=state.x.device)
    unsound = None if state.unsound is None else state.unsound[at]
    return State(state.x[at], state.energy[at], state.gradient[at], unsound)


def _by_formula(sites: Sequence[Site]) -> Callable[[int], int]:
    """A key that brings the problems of one formula together, in the order in which formulas come up."""
    first: dict[Energy, int] = {}
    for site in sites:
        first.setdefault(site.energy, len(first))
    return lambda place: first[sites[place].energy]


def _runs(sites: Sequence[Site]) -> Iterator[tuple[Energy, list[Site]]]:
    """The formulas with their problems."""
    return ((energy, list(some)) for energy, some in groupby(sites, key=lambda site: site.energy))


def _alone(bound: Bound) -> Bound:
    """A problem's own energy as that of a batch of one."""
    return lambda w: bound(w.squeeze(0)).unsqueeze(0)


def _lawful(energy: Energy, sites: Sequence[Site]) -> bool:
    """Whether the formula of stacked estimates is that of each problem, at its starts."""
    x = torch.stack([site.x0 for site in sites])
    try:
        whole = evaluate(x, energy.bind(stacked([site.ctx for site in sites])))
    except Exception:  # a user's formula may fail in any way on a batch that it was not written for
        return False
    alone = [evaluate(site.x0, site.landscape.energy) for site in sites]
    value, slope = torch.stack([one.energy for one in alone]), torch.stack([one.gradient for one in alone])
    spread = x.new_tensor([[site.landscape.spread] for site in sites])
    near = ((whole.energy - value).abs() <= SAME * spread) | (whole.energy == value)
    steep = slope.abs().amax((-2, -1), keepdim=True)
    return bool(near.all() & ((whole.gradient - slope).abs() <= SAME * steep).all())


def _contents(item: Any) -> Any:
    """What there is in estimates or rules, as something that can be looked up."""
    if isinstance(item, Tensor):
        return item.dtype, tuple(item.shape), item.detach().cpu().numpy().tobytes()
    if is_dataclass(item):
        return type(item), tuple(_contents(getattr(item, one.name)) for one in fields(item))
    return tuple(_contents(one) for one in item) if isinstance(item, tuple) else item
