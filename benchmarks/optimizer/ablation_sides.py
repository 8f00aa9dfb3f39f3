"""The sides of the ablation: our engine with a part taken out, textbook Langevin chains, and skfolio.

no noise     one rounding, without Gumbel noise, and no heat: descent by scored swaps, and the tree
no swaps     roundings under noise, and the tree
no tree      no branch and bound: roundings under noise and annealed swaps alone
rounding     neither swaps nor tree: roundings under noise, each solved exactly on its names
penalty      textbook Langevin on E + 50 sd (budget^2 + shorts^2 + caps^2 + turnover^2), annealed
projected    annealed Langevin, every step projected exactly on the rules, the choice of names included
skfolio      MeanRisk with a cardinality: SCIP through cvxpy

A side is run in rounds, on other random numbers, until less than half of one fits into its seconds; a round once begun
ends. Where the tree is in it, each round gives it twice the nodes of the last. The ends of both Langevins are projected
on the rules and the lowest one is solved again on the names that it chose, as a solver's is: what is compared is the
choice. A ticket has no slope, so that those chains do not see it, and of their trades the 5, 10, 20, 40 or all largest
are kept, the best of these. The survey that gives them step and temperature is in their time; so is everything of ours.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import portfolio_ebm as pe
from benchmarks.optimizer.judging import feasible_value
from benchmarks.optimizer.problem import Array, Problem, formula, inputs, rules
from benchmarks.optimizer.sides import Found, polished
from portfolio_ebm.constraints.combine import project_region, region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.choosing import trades
from portfolio_ebm.construction.rugged.chains import Landscape, random_portfolios, run_chains, starts, survey, tightened
from portfolio_ebm.optimization import given_context
from portfolio_ebm.samplers.anneal import Annealed, anneal
from portfolio_ebm.samplers.kernel import Kernel
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.wrappers import Projected
from portfolio_ebm.types import as_numpy

CHAINS = 64
PENALTY = 50.0
NODES = 1500
FEWEST, MOST, TRIED = 20, 500, 5
"""Steps of an annealed run: at least, at most, and those that say how many fit."""
KEPT = (5, 10, 20, 40)
Side = Callable[[Problem, int, float], Found]


def rounds(problem: Problem, one: Callable[[int, float], Array | None], seconds: float, start: float) -> Found:
    """The best of the rounds of which, by the last, at least half fits into `seconds` from `start`, and of a first one;
    each is told the seconds left."""
    best, k, now, last = Found(None, 0.0), 0, time.process_time(), 0.0
    while k == 0 or now - start + 0.5 * last < seconds:
        found = Found(one(k, seconds - (now - start)), 0.0)
        best = found if feasible_value(problem, found) < feasible_value(problem, best) else best
        k, before, now = k + 1, now, time.process_time()
        last = now - before
    return Found(best.weights, now - start)


def engine(problem: Problem, seed: int, constructor: pe.AnnealedLangevin) -> Array:
    found = pe.optimize(formula(problem), rules(problem), constructor=constructor, seed=seed, **inputs(problem))
    return found.weights.to_numpy()


@contextmanager
def quiet_trades() -> Iterator[None]:
    """Starts of trades without their noisy part."""
    before = trades.NOISY
    trades.NOISY = 0
    try:
        yield
    finally:
        trades.NOISY = before


def part(fields: dict[str, Any], *, tree: bool, noise: bool = True) -> Side:
    """Our engine with these fields."""

    def side(problem: Problem, seed: int, seconds: float) -> Found:
        def one(k: int, _: float) -> Array:
            given = pe.AnnealedLangevin(**fields, nodes=NODES * 2**k if tree else 0)
            with nullcontext() if noise else quiet_trades():
                return engine(problem, 1000 * k + seed, given)

        return rounds(problem, one, seconds, time.process_time())

    return side


@dataclass(frozen=True)
class Place:
    """The energy without tickets, measured on the rules' relaxation; the rules; where chains start."""

    landscape: Landscape
    region: Region
    starts: Tensor
    rng: torch.Generator


def place(problem: Problem, seed: int) -> Place:
    plain, rule = formula(problem, ticket=False), rules(problem)
    ctx, rng = given_context(plain, rule, **inputs(problem)).ctx, torch.Generator().manual_seed(1000 + seed)
    region = region_of(rule, ctx)
    whole = tightened(region.relaxed())
    probes = random_portfolios(whole, region.lower, CHAINS, rng)
    middle = project_region(probes.mean(0), whole).weights
    landscape = survey(plain.bind(ctx), whole, middle, probes)
    return Place(landscape, region, starts(landscape, middle, ctx.held, CHAINS, rng), rng)


def fitting(run: Callable[[int], object], seconds: float) -> int:
    """How many annealing steps fit into the seconds."""
    start = time.process_time()
    run(TRIED)
    spent = time.process_time() - start
    return int(np.clip((seconds - spent) * TRIED / max(spent, 1e-9), FEWEST, MOST))


def penalty(problem: Problem, seed: int, seconds: float) -> Found:
    start = time.process_time()
    here = place(problem, seed)
    landscape, strength = here.landscape, PENALTY * here.landscape.spread
    held = None if problem.held is None else torch.as_tensor(problem.held)
    upper = here.region.relaxed().upper

    def walled(w: Tensor) -> Tensor:
        broken = (w.sum(-1) - 1.0).square() + w.clamp_max(0.0).square().sum(-1)
        broken = broken + (w - upper).clamp_min(0.0).square().sum(-1)
        if held is not None:
            broken = broken + ((w - held).abs().sum(-1) - problem.turnover).clamp_min(0.0).square()
        return landscape.energy(w) + strength * broken

    kernel = ULA(1.0 / (1.0 / landscape.step + (2.0 if held is None else 4.0) * strength * problem.n))

    def run(steps: int) -> Annealed:
        return anneal(kernel, walled, here.starts, schedule=landscape.cooling, n_steps=steps, rng=here.rng)

    return chains(problem, here, run, seconds, start)


def projected(problem: Problem, seed: int, seconds: float) -> Found:
    start = time.process_time()
    here = place(problem, seed)
    kernel: Kernel = Projected(ULA(here.landscape.step), lambda w: nearest(w, here.region))
    first = nearest(here.starts, here.region)
    return chains(
        problem, here, lambda steps: run_chains(here.landscape, first, steps, here.rng, kernel), seconds, start
    )


def nearest(w: Tensor, region: Region) -> Tensor:
    return project_region(w, region, prove=False).weights


def chains(problem: Problem, here: Place, run: Callable[[int], Annealed], seconds: float, start: float) -> Found:
    """Annealed runs until time is spent; after each, its lowest end on the names that it chose."""

    def one(_: int, left: float) -> Array | None:
        found = run(fitting(run, left))
        ends = as_numpy(nearest(torch.cat([found.state.x, found.best]), here.region))
        lowest = min(ends, key=problem.energy)
        options = [polished(problem, w) for w in kept(problem, lowest)]
        return min(options, key=lambda w: feasible_value(problem, Found(w, 0.0)))

    return rounds(problem, one, seconds, start)


def kept(problem: Problem, w: Array) -> list[Array]:
    """w (n,); where trades cost a ticket also w with its largest trades alone."""
    if problem.held is None:
        return [w]
    rank = np.argsort(-np.abs(w - problem.held), kind="stable")
    return [w, *(np.where(np.isin(np.arange(problem.n), rank[:size]), w, problem.held) for size in KEPT)]


def skfolio(problem: Problem, seconds: float) -> Found | None:
    """MeanRisk on the same moments or scenarios; None where it cannot state the problem: a fund's limits, exactly K
    names, tickets, a 3/2 impact and whole lots. Moments are in percent, since SCIP's tolerances are absolute."""
    if problem.limits or problem.exactly or problem.held is not None:
        return None
    from skfolio import RiskMeasure
    from skfolio.optimization import MeanRisk, ObjectiveFunction

    settings = {"limits/time": seconds, "timing/clocktype": 1, "parallel/maxnthreads": 1}
    asked: dict[str, Any] = {"cardinality": problem.names, "min_weights": 0.0, "solver": "SCIP"}
    asked |= {"threshold_long": problem.floor, "solver_params": {"scip_params": settings}}
    x = np.zeros((3, problem.n)) if problem.scenarios is None else 100.0 * problem.scenarios
    if problem.tail:
        asked |= {"risk_measure": RiskMeasure.CVAR, "cvar_beta": 0.95}
    else:
        asked["prior_estimator"] = given_moments(100.0 * problem.mean, 1e4 * problem.covariance)
    if problem.reward:
        asked["objective_function"] = ObjectiveFunction.MAXIMIZE_UTILITY
        asked["risk_aversion"] = 0.01 * problem.risk / problem.reward
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = MeanRisk(**asked).fit(x)
    except Exception as error:  # whatever a peer raises is a row without an answer
        return Found(None, time.process_time() - start, said=f"{type(error).__name__}: {error}"[:200])
    spent = time.process_time() - start
    return Found(polished(problem, np.asarray(model.weights_)), spent)


def given_moments(mean: Array, covariance: Array) -> Any:
    """A prior of skfolio that says these moments, whatever it is fitted to."""
    from skfolio.moments import BaseCovariance, BaseMu
    from skfolio.prior import EmpiricalPrior

    class Mean(BaseMu):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def fit(self, x: Array, y: Array | None = None) -> Any:
            self.mu_ = mean
            return self

    class Covariance(BaseCovariance):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(nearest=False)

        def fit(self, x: Array, y: Array | None = None) -> Any:
            self.covariance_ = covariance
            return self

    return EmpiricalPrior(mu_estimator=Mean(), covariance_estimator=Covariance())


SIDES: dict[str, Side] = {
    "no noise": part({"chains": 1, "sweeps": 0}, tree=True, noise=False),
    "no swaps": part({"swaps": False}, tree=True),
    "no tree": part({}, tree=False),
    "rounding": part({"swaps": False}, tree=False),
    "penalty": penalty,
    "projected": projected,
}
