"""The landscapes of many problems as one: their walks are one batch, chains (P, m, n).

    E(w)_p = E_p(w_p),   P(w)_p = the nearest portfolios to w_p in the region of problem p

Problems of one formula, with estimates of one form, are evaluated by one call if the formula obeys the law of batches:
at the starts its values and slopes have to be those of every problem by itself. Others are evaluated one after the
other. Problems with one region are projected by one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from itertools import chain, groupby
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

    @cached_property
    def form(self) -> Any:
        """Equal for problems of one formula whose estimates can be stacked."""
        return self.energy, contents(self.ctx, lambda x: (x.dtype, tuple(x.shape)))


@dataclass(frozen=True)
class Landscapes:
    """A Terrain of P problems.

    Attributes:
        sites: the problems, those of one form next to each other.
        trusted: the forms that obey the law of batches.
    """

    sites: tuple[Site, ...]
    trusted: frozenset[Any]

    @classmethod
    def of(cls, sites: Sequence[Site]) -> Landscapes:
        """The problems in the order given, in which those of one form are next to each other."""
        return cls(tuple(sites), frozenset(form for form, some in _runs(sites) if len(some) > 1 and _lawful(some)))

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
        for form, some in _runs(self.sites):
            if len(some) > 1 and form in self.trusted:
                runs.append((len(some), _bound(some)))
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
        keys = [contents((site.landscape.region, site.landscape.probes), _numbers) for site in self.sites]
        device = self.sites[0].x0.device
        return [(torch.tensor(rows, device=device), self.sites[rows[0]].landscape) for rows in _alike(keys)]


def explore_all(sites: Sequence[Site], n_steps: int, rng: torch.Generator) -> list[Explored]:
    """What `explore` finds of each problem by itself, up to rounding, in one batch; chains of all are of one shape.

    `rng` is as it would be for any of them alone: all share its noise. It is not used where all agree.

    Raises:
        SolverError: an energy or its slope was not a number on the way, of whichever problem.
    """
    order = list(chain.from_iterable(_alike([site.form for site in sites])))
    many = Landscapes.of([sites[place] for place in order])
    probe = probed(many, torch.stack([site.x0 for site in many.sites]), n_steps)
    done = agreed(many, probe).tolist()
    # Copies, since a part of the batch would keep all of it, and take all of it to another process.
    found = [Explored(x.clone(), e.clone(), e.clone(), True, 0) for x, e in zip(probe.x, probe.energy, strict=True)]
    left = [row for row, one in enumerate(done) if not one]
    if left:
        now = cycled(many.at(left), _rows(probe, left), cycles(n_steps), rng)
        for row, x, e in zip(left, now.x, now.energy, strict=True):
            found[row] = Explored(x.clone(), e.clone(), found[row].probed, False, cycles(n_steps))
    back = sorted(range(len(order)), key=order.__getitem__)
    return [found[row] for row in back]


def _rows(state: State, rows: list[int]) -> State:
    """The state of some problems."""
    at = torch.tensor(rows, device=state.x.device)
    unsound = None if state.unsound is None else state.unsound[at]
    return State(state.x[at], state.energy[at], state.gradient[at], unsound)


def _alike(keys: Sequence[Any]) -> list[list[int]]:
    """The places of equal keys, in the order in which they come up."""
    found: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        found.setdefault(key, []).append(place)
    return list(found.values())


def _runs(sites: Sequence[Site]) -> Iterator[tuple[Any, list[Site]]]:
    """The forms with their problems."""
    return ((form, list(some)) for form, some in groupby(sites, key=lambda site: site.form))


def _bound(sites: Sequence[Site]) -> Bound:
    """The energy of problems of one form as one."""
    return sites[0].energy.bind(stacked([site.ctx for site in sites]))


def _alone(bound: Bound) -> Bound:
    """A problem's own energy as that of a batch of one."""
    return lambda w: bound(w.squeeze(0)).unsqueeze(0)


def _lawful(sites: Sequence[Site]) -> bool:
    """Whether the formula of stacked estimates is that of each problem, at its starts."""
    x = torch.stack([site.x0 for site in sites])
    try:
        whole = evaluate(x, _bound(sites))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # a user's formula may fail in any way on a batch that it was not written for
        return False
    alone = [evaluate(site.x0, site.landscape.energy) for site in sites]
    value, slope = torch.stack([one.energy for one in alone]), torch.stack([one.gradient for one in alone])
    spread = x.new_tensor([[site.landscape.spread] for site in sites])
    near = ((whole.energy - value).abs() <= SAME * spread) | (whole.energy == value)
    steep = slope.abs().amax((-2, -1), keepdim=True)
    return bool(near.all() & ((whole.gradient - slope).abs() <= SAME * steep).all())


def contents(item: Any, of: Callable[[Tensor], Any]) -> Any:
    """Estimates or rules as something that can be looked up, with `of` each tensor in its place."""
    if isinstance(item, Tensor):
        return of(item)
    if is_dataclass(item):
        return type(item), tuple(contents(getattr(item, one.name), of) for one in fields(item))
    if isinstance(item, Mapping):
        return tuple((key, contents(one, of)) for key, one in item.items())
    return tuple(contents(one, of) for one in item) if isinstance(item, tuple) else item


def _numbers(x: Tensor) -> Any:
    return x.dtype, tuple(x.shape), x.detach().cpu().numpy().tobytes()
