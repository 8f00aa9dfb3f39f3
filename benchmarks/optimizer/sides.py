"""The sides that use this library: the optimizer, textbook rounding, greedy, and the polish of another's choice."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

import portfolio_ebm as pe
from benchmarks.optimizer.problem import FEASIBLE, FUNDS, HELD, Array, Problem, formula, inputs, rules
from portfolio_ebm.errors import InfeasibleError


@dataclass(frozen=True)
class Found:
    """What a side returned: weights (n,) or None, CPU seconds, and whether it says that nothing is better."""

    weights: Array | None
    seconds: float
    proven: bool = False
    gap: float | None = None
    said: str = ""


def ours(problem: Problem, seed: int = 0) -> Found:
    """The public call, its certificate included."""
    start = time.process_time()
    found = pe.optimize(formula(problem), rules(problem), seed=seed, **inputs(problem))
    seconds = time.process_time() - start
    return Found(found.weights.to_numpy(), seconds, found.proven, found.gap, str(found.status))


def unproven(problem: Problem) -> Found:
    """The same call without a tree: what the chains find."""
    start = time.process_time()
    found = pe.optimize(formula(problem), rules(problem), constructor=pe.AnnealedLangevin(nodes=0), **inputs(problem))
    return Found(found.weights.to_numpy(), time.process_time() - start, found.proven, found.gap)


def certified(problem: Problem, seconds: float) -> Found:
    """BranchAndBound under a clock, which is the wall's."""
    start = time.process_time()
    found = pe.optimize(
        formula(problem), rules(problem), constructor=pe.BranchAndBound(time_limit=seconds), **inputs(problem)
    )
    return Found(found.weights.to_numpy(), time.process_time() - start, found.proven, found.gap)


def relaxed(problem: Problem) -> Array:
    """The optimum without the choice, without tickets and lots."""
    found = pe.optimize(
        formula(problem, ticket=False), rules(problem, choice=False), constructor=pe.Convex(), **inputs(problem)
    )
    return found.weights.to_numpy()


def on_choice(problem: Problem, chosen: Array) -> Array | None:
    """The optimum where only `chosen` (n,) of the names are held, or above the threshold; None: none is."""
    caps, floors, extra = {}, {}, rules(problem, choice=False)
    given = inputs(problem)
    for k in range(problem.n):
        if problem.limits:
            fund = FUNDS[problem.limits]
            caps[f"a{k}"] = fund.largest if chosen[k] else fund.threshold
        elif chosen[k]:
            floors[f"a{k}"] = problem.floor
        else:
            caps[f"a{k}"] = 0.0
    extra = extra & pe.Box(caps=caps, floors=floors)
    if problem.limits and chosen.any():
        labels = {f"a{k}": "large" if chosen[k] else "small" for k in range(problem.n)}
        given["groups"] = {"size": labels}
        extra = extra & pe.Group("size", "large", upper=FUNDS[problem.limits].together)
    try:
        found = pe.optimize(formula(problem, ticket=False), extra, constructor=pe.Convex(), **given)
    except InfeasibleError:
        return None
    return found.weights.to_numpy()


def choice_of(problem: Problem, w: Array, tolerance: float) -> Array:
    """What w (n,) chose: names held, or above the threshold."""
    if problem.limits:
        return w > FUNDS[problem.limits].threshold + tolerance
    return w > tolerance


def on_trades(problem: Problem, w: Array) -> Array | None:
    """The optimum where what w (n,) leaves as held stays, what it sells is sold, and the rest is traded; None: none is.

    Whole lots are those nearest to w.
    """
    assert problem.held is not None
    if problem.lots is not None:
        return np.asarray(np.round(w / problem.lots) * problem.lots)
    still, sold = np.abs(w - problem.held) <= 1e-6, w <= 1e-6
    low = np.where(still, problem.held, np.where(sold, 0.0, problem.floor))
    high = np.where(still, problem.held, np.where(sold, 0.0, 1.0))
    box = pe.Box(
        floors={f"a{k}": float(v) for k, v in enumerate(low)}, caps={f"a{k}": float(v) for k, v in enumerate(high)}
    )
    plain = formula(problem, ticket=False)
    try:
        found = pe.optimize(plain, rules(problem, choice=False) & box, constructor=pe.Convex(), **inputs(problem))
    except InfeasibleError:
        return None
    return found.weights.to_numpy()


def polished(problem: Problem, w: Array) -> Array:
    """The optimum on what w (n,), feasible to a millionth, chose; w itself where no portfolio is on that choice."""
    if problem.choosing_trades:
        better = on_trades(problem, w)
        return w if better is None or problem.violation(better) > FEASIBLE else better
    choice = choice_of(problem, w, 1e-6)
    if problem.names and choice.sum() > problem.names:
        choice = np.isin(np.arange(problem.n), np.argsort(-w)[: problem.names])
    better = on_choice(problem, choice)
    return w if better is None else better


def rounding(problem: Problem) -> Found:
    """Relax, keep the largest, solve again. For a fund's limits: the largest above the threshold, as many as fit."""
    start = time.process_time()
    w = relaxed(problem)
    if problem.choosing_trades:
        w = w if problem.lots is None else np.floor(w / problem.lots + HELD) * problem.lots
        return Found(w, time.process_time() - start)
    order = np.argsort(-w, kind="stable")
    if problem.limits:
        above = order[w[order] > FUNDS[problem.limits].threshold + HELD]
        fits = np.cumsum(w[above]) <= FUNDS[problem.limits].together + HELD
        chosen = np.isin(np.arange(problem.n), above[fits])
    else:
        kept = order[: problem.names]
        chosen = np.isin(np.arange(problem.n), kept if problem.exactly else kept[w[kept] > HELD])
    found = on_choice(problem, chosen)
    return Found(found, time.process_time() - start)


def greedy(problem: Problem) -> Found:
    """Names added one at a time, each the one of the least slope where the others are optimal; the best on the way."""
    if not problem.names or problem.choosing_trades:
        return Found(None, 0.0)
    start = time.process_time()
    alone = [problem.energy(row) for row in np.eye(problem.n)]
    chosen = np.arange(problem.n) == int(np.argmin(alone))
    best: Array | None = None
    for size in range(1, problem.names + 1):
        w = on_choice(problem, chosen)
        last = size == problem.names
        if w is not None and (last or not problem.exactly):
            best = w if best is None else min(best, w, key=problem.energy)
        if not last:
            slope = problem.gradient(np.eye(problem.n)[int(np.argmin(alone))] if w is None else w)
            chosen = chosen | (np.arange(problem.n) == int(np.argmin(np.where(chosen, np.inf, slope))))
    return Found(best, time.process_time() - start)
