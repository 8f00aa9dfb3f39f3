"""The sides of the rugged table: ours, and what others do with the same CPU seconds.

multi-start     descents of 200 steps from 64 random portfolios at a time; under a choice each on random modes
basin hopping   scipy's, L-BFGS-B on softmax weights, T = 1 sd, steps of 0.5 and of 2 (the better one is shown, and each
                has all the seconds); not offered under a choice
penalty         textbook Langevin on E + 50 sd (budget^2 + shorts^2), annealed, its best ends projected
projected       the annealed projected Langevin chains alone
no noise        our engine with every temperature at zero; no swaps: without walkers and kicks
rounding        ours without the choice, rounded to it, and brought down; greedy: names added one by one

What is run in rounds is run again, on other random numbers, until the seconds are spent; a round once begun ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import basinhopping
from torch import Tensor

import portfolio_ebm as pe
from benchmarks.optimizer.rugged_cases import F64, Case
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.effort import Effort
from portfolio_ebm.construction.rugged.chains import Landscape, random_portfolios, run_chains, starts, survey, tightened
from portfolio_ebm.construction.rugged.exploring import explore_modes
from portfolio_ebm.construction.rugged.rugged import descend, explore
from portfolio_ebm.construction.rugged.slices import Low, Slices, settle
from portfolio_ebm.context import Context
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import Outlook
from portfolio_ebm.samplers.anneal import anneal
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Geometric
from portfolio_ebm.types import as_numpy

CHAINS = 64
HOPS = (0.5, 2.0)
PENALTY = 50.0


@dataclass(frozen=True)
class Run:
    """What a side reached, and the CPU seconds it took."""

    value: float
    seconds: float


def context(case: Case) -> Context:
    scenarios = None if case.scenarios is None else torch.as_tensor(case.scenarios)
    outlook = Outlook(torch.zeros(case.n, dtype=F64), Structured.from_dense(torch.eye(case.n, dtype=F64)), scenarios,
                      None, 1.0)  # fmt: skip
    names = tuple(f"a{k}" for k in range(case.n))
    return Context(names, outlook, None, torch.ones(case.n, dtype=torch.bool))


def ours(case: Case, seed: int) -> Run:
    """The public call, its certificate included."""
    start = time.process_time()
    found = pe.optimize(case.energy, case.rules(), seed=seed, **case.inputs())
    return Run(found.energy, time.process_time() - start)


def place(case: Case, seed: int) -> tuple[Landscape, Region, Tensor, torch.Generator]:
    """The surveyed energy on the rules without their choice, the rules, the starts, and the stream."""
    rng = torch.Generator().manual_seed(1000 + seed)
    region = region_of(case.rules(), context(case))
    whole = tightened(region.relaxed())
    probes = random_portfolios(whole, region.lower, CHAINS, rng)
    middle = project_region(probes.mean(0), whole).weights
    landscape = survey(case.energy.bind(context(case)), whole, middle, probes)
    return landscape, region, starts(landscape, middle, None, CHAINS, rng), rng


def measured(case: Case) -> float:
    """The standard deviation of the energy over random feasible portfolios."""
    landscape = place(case, 0)[0]
    if not case.limits:
        return landscape.spread
    found = _random_on_modes(_slices(case), np.random.default_rng(0), CHAINS)
    return float(landscape.energy(torch.as_tensor(np.array([w for _, w in found]))).std())


def rounds(one: Callable[[int], float], seconds: float) -> float:
    """The best of as many rounds as begin within the seconds."""
    start, best, k = time.process_time(), np.inf, 0
    while time.process_time() - start < seconds:
        best, k = min(best, one(k)), k + 1
    return best


def multi_start(case: Case, seed: int, seconds: float) -> float:
    landscape, _, _, rng = place(case, seed)
    if case.limits:
        slices, own = _slices(case), np.random.default_rng(seed)

        def on_modes(_: int) -> float:
            modes, points = zip(*_random_on_modes(slices, own, 8), strict=True)
            return _least(settle(slices, modes, points, as_numpy(landscape.hessian), landscape.spread, 30))

        return rounds(on_modes, seconds)

    def one(k: int) -> float:
        x = -torch.rand(CHAINS, case.n, generator=rng, dtype=F64).clamp_min(1e-12).log()
        x = x ** (4.0 if k % 2 else 1.0)
        return float(descend(landscape, x / x.sum(-1, keepdim=True), 200).energy.min())

    return rounds(one, seconds)


def hopping(case: Case, seed: int, seconds: float) -> float:
    if case.limits:
        return np.inf
    value, sd = case.energy.bind(context(case)), measured(case)

    def slope(theta: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(theta, requires_grad=True)
        energy = value(torch.softmax(point, -1))
        (found,) = torch.autograd.grad(energy, point)
        return float(energy.detach()), found.numpy()

    def with_step(length: float) -> float:
        start, seen = time.process_time(), [np.inf]

        def over(x: np.ndarray, energy: float, accepted: bool) -> bool:
            seen.append(energy)
            return time.process_time() - start > seconds

        first = np.log(np.random.default_rng(seed).dirichlet(np.ones(case.n)) + 1e-9)
        basinhopping(
            slope, first, niter=10**6, T=sd, stepsize=length, callback=over, rng=np.random.default_rng(seed),
            minimizer_kwargs={"method": "L-BFGS-B", "jac": True, "options": {"maxiter": 200}},
        )  # fmt: skip
        return min(seen)

    return min(with_step(length) for length in HOPS)


def penalty(case: Case, seed: int, seconds: float) -> float:
    landscape, region, x0, rng = place(case, seed)
    energy = landscape.energy

    def walled(w: Tensor) -> Tensor:
        shorts = w.clamp_max(0.0).square().sum(-1)
        return energy(w) + PENALTY * landscape.spread * ((w.sum(-1) - 1.0).square() + shorts)

    step = 1.0 / (1.0 / landscape.step + 2.0 * PENALTY * landscape.spread * case.n)

    def one(_: int) -> float:
        cooling = Geometric(start=10.0 * landscape.heat, end=0.01 * landscape.heat)
        run = anneal(ULA(step), walled, x0, schedule=cooling, n_steps=500, rng=rng)
        ends = torch.cat([run.state.x, run.best])
        w = project_region(ends, region, prove=False).weights if not case.limits else _on_modes(case, ends)
        return float(energy(w).min())

    return rounds(one, seconds)


def projected(case: Case, seed: int, seconds: float) -> float:
    landscape, _, x0, rng = place(case, seed)
    if case.limits:
        return np.inf
    return rounds(lambda _: float(run_chains(landscape, x0, 200, rng).best_energy.min()), seconds)


def no_noise(case: Case, seed: int, seconds: float) -> float:
    landscape, region, x0, rng = place(case, seed)
    still = Cold(**vars(landscape))
    if case.limits:
        effort = replace(_effort(), sweeps=0)
        return rounds(lambda _: _modes(case, still, region, x0, effort, rng), seconds)
    return rounds(lambda _: float(explore(still, x0, 1000, rng).energy.min()), seconds)


def no_swaps(case: Case, seed: int, seconds: float) -> float:
    landscape, region, x0, rng = place(case, seed)
    effort = replace(_effort(), swaps=False)
    return rounds(lambda _: _modes(case, landscape, region, x0, effort, rng), seconds)


class Cold(Landscape):
    """A landscape whose every temperature is next to nothing."""

    @property
    def heat(self) -> float:
        return 1e-12 * super().heat


def rounding(case: Case, seed: int, seconds: float) -> float:
    """Ours without the choice; its weights rounded to modes and brought down on them; again until time is spent."""
    slices, (landscape, _, _, _) = _slices(case), place(case, seed)

    def one(k: int) -> float:
        free = pe.optimize(case.energy, replace(case, limits="").rules(), seed=1000 * k + seed, **case.inputs())
        w = free.weights.to_numpy()
        return _least(
            settle(slices, [slices.modes_near(w[None])[0]], [w], as_numpy(landscape.hessian), landscape.spread, 60)
        )  # fmt: skip

    return rounds(one, seconds)


def greedy(case: Case, seed: int, seconds: float) -> float:
    """Names added one at a time, each the one that lowers the energy most in equal weights; then brought down."""
    if case.limits != "at most 10":
        return np.inf
    slices, (landscape, _, _, _) = _slices(case), place(case, seed)
    chosen: list[int] = []
    for size in range(1, 11):
        options = [k for k in range(case.n) if k not in chosen]
        w = torch.zeros(len(options), case.n, dtype=F64)
        for row, k in enumerate(options):
            w[row, [*chosen, k]] = 1.0 / size
        chosen.append(options[int(landscape.energy(w).argmin())])
    w = np.isin(np.arange(case.n), chosen) / 10.0
    return _least(
        settle(slices, [slices.modes_near(w[None])[0]], [w], as_numpy(landscape.hessian), landscape.spread, 60)
    )


def _effort() -> Effort:
    given = pe.AnnealedLangevin()
    return Effort(**{name: getattr(given, name) for name in Effort.__dataclass_fields__})


def _modes(case: Case, landscape: Landscape, region: Region, x0: Tensor, effort: Effort, rng: torch.Generator) -> float:
    seen = explore_modes(landscape, _slices(case), region, x0, effort, rng)
    return seen.lows[0].value


def _slices(case: Case) -> Slices:
    found = Slices.of(case.energy, region_of(case.rules(), context(case)), context(case), 0.0)
    assert found is not None
    return found


def _random_on_modes(slices: Slices, rng: np.random.Generator, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    found: list[tuple[np.ndarray, np.ndarray]] = []
    while len(found) < count:
        y = rng.dirichlet(np.full(slices.n, rng.choice([0.2, 1.0])))
        modes = slices.modes_near(y[None])[0]
        w = slices.nearest(y, modes)
        found += [] if w is None else [(modes, w)]
    return found


def _on_modes(case: Case, ends: Tensor) -> Tensor:
    slices = _slices(case)
    y = as_numpy(ends)
    near, there = slices.nearest_all(y, slices.modes_near(y))
    return torch.as_tensor(near[there])


def _least(lows: list[Low | None]) -> float:
    return min((low.value for low in lows if low is not None), default=np.inf)


Side = Callable[[Case, int, float], float]
SIDES: dict[str, Side] = {
    "multi-start": multi_start, "basin hopping": hopping, "penalty": penalty, "projected": projected,
    "no noise": no_noise, "no swaps": no_swaps, "rounding": rounding, "greedy": greedy,
}  # fmt: skip
