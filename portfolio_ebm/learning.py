"""train: an energy of weights and market features, learnt from how portfolios did.

At each past decision of the strategy's schedule portfolios are drawn from its rules, seen as they would have been seen
then, and held to the next decision:

    U(w) = R - g/2 V - cost rate * sum |w - held|

R the return of the holding period, V the variance of its daily returns times their number. The energy is fitted so that
lower energies go with higher utilities (training/ranking.py); costs are known and stand beside it.

Strictly causal: an example is used where its holding period has ended by the last date of the past that is given, and
its features are those of the past cut at its own decision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.construction.certificate import feasible_sample
from portfolio_ebm.context import Context
from portfolio_ebm.data.calendar import anchor
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.data.past import Past
from portfolio_ebm.energies.costs import TradingCost
from portfolio_ebm.energies.learned import WHOLE, Learned, Recipe, features, stored, whole
from portfolio_ebm.energy import Energy, Scaled, add
from portfolio_ebm.errors import DataError, FitError, SpecError
from portfolio_ebm.market.store import Store, key
from portfolio_ebm.models.deep_sets import deep_set, initial
from portfolio_ebm.strategy import Strategy, surroundings
from portfolio_ebm.training.ranking import Lists, fit_ranking, rank_correlation, scale_of
from portfolio_ebm.types import generator

VERSION = 2
"""Raised when the same configuration and data would train to something else."""
DELAY = 1
"""Periods from a decision to its trade."""
FEASIBLE = 1e-6
FEWEST = 8
"""Portfolios of a date below which it teaches nothing."""


@dataclass(frozen=True)
class Training:
    """A trained energy.

    Attributes:
        ref: its fingerprint. energy: Learned(ref). anew: whether it was trained now, not read from the store.
        facts: what its JSON sidecar says: dates, number of examples, losses, rank correlations.
    """

    ref: str
    energy: Learned
    facts: dict[str, Any]
    anew: bool

    def __str__(self) -> str:
        f = self.facts
        how = "Trained" if self.anew else "Read from the store"
        lines = [
            f"{how}: {f['examples']} holding periods from {f['first']}, the last one ended by {f['until']}.",
            f"  {f['recipe_words']}; step {f['step']} kept",
            f"  loss on the dates learnt from {f['before']:.4f} -> {f['after']:.4f}, rank correlation with realised "
            f"utility {f['correlation']:+.3f}",
        ]
        if f["held"]:
            lines.append(
                f"  loss on the last {f['held']} dates, which chose the step, {f['held_before']:.4f} -> "
                f"{f['held_after']:.4f}, rank correlation {f['held_correlation']:+.3f}"
            )
        return "\n".join(
            [*lines, f"  Learned({self.ref!r}): no bound is known for it; for decisions from {f['until']} on"]
        )


def train(
    strategy: Strategy, panel: Panel, *, until: str | None = None, recipe: Recipe | None = None, seed: int = 0
) -> Training:
    """Train an energy on the panel's past and store it by fingerprint; the same again is read from the store.

    Args:
        strategy: its market gives the features, its constraint the portfolios, its rebalance the holding periods, its
            TradingCost the costs; other terms are not read.
        until: the last date that may be known; the panel's last if not given.
        recipe: how; the recipe of a Learned in the strategy's formula, or Recipe(), if not given.

    Raises:
        SpecError: the strategy has no market.
        DataError, FitError: too few holding periods have ended by `until`.

    Example:
        >>> found = train(strategy, panel, until="2018-12-31")
        >>> strategy.replace(energy=found.energy + TradingCost(5 * bps))
    """
    past = panel.past(-1 if until is None else until)
    return learn(strategy, past, recipe_of(strategy) if recipe is None else recipe, seed=seed)


def recipe_of(strategy: Strategy) -> Recipe:
    """The recipe of a Learned in the strategy's formula, or Recipe()."""
    given = [part.energy.recipe for part in strategy.energy.terms() if isinstance(part.energy, Learned)]
    return next((each for each in given if each is not None), Recipe())


def learn(strategy: Strategy, past: Past, recipe: Recipe, *, seed: int = 0, store: Store | None = None) -> Training:
    """`train` on all that is known at the close of `past`."""
    store = Store.default() if store is None else store
    ref = _fingerprint(strategy, past, recipe, seed)
    known = store.get(ref)
    if known is not None:
        stored(ref, store)
        return Training(ref, Learned(ref), known.facts, anew=False)
    found = list(examples(strategy, past, recipe, seed))
    if len(found) < recipe.fewest:
        raise FitError(
            f"{past.date}: Learned needs {recipe.fewest} holding periods that have ended, and there are {len(found)}; "
            "start later, bring more history, or lower Recipe(fewest=...)."
        )
    parameters, facts = _fitted(strategy, found, recipe, seed)
    facts |= {
        "kind": "learned energy", "version": VERSION, "ref": ref, "recipe": recipe.model_dump_json(),
        "recipe_words": f"{recipe.objective}, risk aversion {recipe.risk_aversion:g}", "strategy": strategy.name,
        "until": past.date, "first": found[0].date, "horizon": float(strategy.rebalance.horizon(past.dates)),
    }  # fmt: skip
    store.put(ref, parameters, facts)
    store.describe(ref, facts)
    return Training(ref, Learned(ref), facts, anew=True)


def learnt(strategy: Strategy, past: Past, seed: int = 0) -> tuple[Energy, tuple[str, ...]]:
    """The strategy's formula with each `Learned(recipe=...)` learnt from what was known at the last completed year,
    quarter or month, and what was trained anew for it.

    Raises:
        DataError: no such period is completed yet.
        FitError: too few holding periods have ended.
    """
    parts, anew = [], []
    for part in strategy.energy.terms():
        term = part.energy
        if isinstance(term, Learned) and term.recipe is not None and not term.ref:
            row = anchor(past.dates, term.recipe.refit)
            if row is None:
                raise DataError(f"{past.date}: no period of refit='{term.recipe.refit}' is completed yet; start later.")
            found = learn(strategy, past.until(row), term.recipe, seed=seed)
            anew += ["learned energy"] if found.anew else []
            part = Scaled(coefficient=part.coefficient, energy=term.replace(ref=found.ref))
        parts.append(part)
    return add(parts), tuple(anew)


@dataclass(frozen=True)
class Example:
    """One past decision: its features, C portfolios, what trading into them cost, and their realised net utility."""

    date: str
    z: Tensor
    present: Tensor
    pool: Tensor
    s: Tensor
    cost: Tensor
    utility: Tensor


def examples(strategy: Strategy, past: Past, recipe: Recipe, seed: int = 0) -> Iterator[Example]:
    """The decisions whose holding period has ended by the close of `past`, oldest first.

    Raises:
        SpecError: the strategy has no market.
    """
    if strategy.market is None:
        raise SpecError(f"'{strategy.name}' has no market, and Learned sees the market's estimates; give market=.")
    rows = np.flatnonzero(strategy.rebalance.decisions(past.dates))
    rate = sum(p.coefficient * p.energy.rate for p in strategy.energy.terms() if isinstance(p.energy, TradingCost))
    held: Tensor | None = None
    for row, following in pairwise(rows):
        if row + 1 < strategy.history or following + DELAY > len(past) - 1:
            continue
        then = past.until(int(row))
        if strategy.market.lacking(then) is not None:
            continue
        ctx = _context(strategy, then, held, seed)
        rng = generator(seed, f"{then.date}/learned")
        pool = _portfolios(strategy, ctx, recipe.pool, rng)
        if pool is None:
            held = None
            continue
        z, present, level = features(ctx, recipe.forecasts)
        value = _values(pool, past, int(row) + DELAY, int(following) + DELAY)
        cost = torch.zeros(len(pool)) if held is None else rate * (pool - held).abs().sum(-1)
        utility = _utility(value, recipe.risk_aversion) - cost
        yield Example(then.date, z, present, pool, whole(ctx, pool, level), cost, utility)
        pick = int(torch.randint(len(pool), (1,), generator=rng))
        held = _drifted(pool[pick], past, int(row) + DELAY, int(following))


def _context(strategy: Strategy, then: Past, held: Tensor | None, seed: int) -> Context:
    """What `rebalance` would see at the close of `then`."""
    assert strategy.market is not None
    horizon = strategy.rebalance.horizon(then.dates)
    outlook = strategy.market.fit(then).outlook(horizon, generator(seed, f"{then.date}/scenarios"))
    return surroundings(then, held, outlook, horizon, strategy.capital, torch.device("cpu"))


def _portfolios(strategy: Strategy, ctx: Context, count: int, rng: torch.Generator) -> Tensor | None:
    """`count` portfolios that obey the rules, some of them twice where few were found; None where hardly any was."""
    even = ctx.tradeable.double() / max(int(ctx.tradeable.sum()), 1)
    found = feasible_sample(even, strategy.constraint, ctx, rng, count)
    found = found[strategy.constraint.residual(found, ctx) <= FEASIBLE]
    if len(found) < FEWEST:
        return None
    return found[torch.arange(count) % len(found)]


def _growth(past: Past, start: int, end: int) -> tuple[Tensor, Tensor]:
    """What one unit in each asset (S, n), and in cash (S, 1), has become after each period of (start, end]."""
    returns = np.nan_to_num(past.returns[start + 1 : end + 1])
    cash = np.zeros(len(past)) if past.cash_rate is None else np.nan_to_num(past.cash_rate)
    rows = np.cumprod(1.0 + returns, axis=0), np.cumprod(1.0 + cash[start + 1 : end + 1])[:, None]
    return torch.tensor(rows[0]), torch.tensor(rows[1])


def _values(pool: Tensor, past: Past, start: int, end: int) -> Tensor:
    """Wealth after each period, (C, S), of portfolios (C, n) bought at the close of row `start` and left alone."""
    assets, cash = _growth(past, start, end)
    return (pool @ assets.T + (1.0 - pool.sum(-1, keepdim=True)) * cash.T).clamp_min(1e-9)


def _utility(value: Tensor, aversion: float) -> Tensor:
    """R - g/2 V of wealth (C, S), (C,)."""
    before = torch.cat([torch.ones_like(value[:, :1]), value[:, :-1]], dim=1)
    daily = value / before - 1.0
    return value[:, -1] - 1.0 - 0.5 * aversion * daily.var(-1, correction=0) * value.shape[-1]


def _drifted(w: Tensor, past: Past, start: int, end: int) -> Tensor:
    """The weights (n,) at the close of row `end` of what was bought at the close of `start`."""
    if end == start:
        return w
    assets, cash = _growth(past, start, end)
    grown = w * assets[-1]
    return grown / (grown.sum() + (1.0 - w.sum()) * cash[-1])


def _fitted(
    strategy: Strategy, found: list[Example], recipe: Recipe, seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Parameters, and what is to be told of them."""
    z, present, pool, s, cost, utility = (
        torch.stack([getattr(one, name) for one in found])
        for name in ("z", "present", "pool", "s", "cost", "utility")
    )  # fmt: skip
    unit = scale_of(utility)

    def energy(theta: Any, rows: slice) -> Tensor:
        return unit * deep_set(theta, z[rows], present[rows], pool[rows], s[rows]) + cost[rows]

    held = round(recipe.held_out * len(found))
    start = initial(z.shape[-1], WHOLE, recipe.hidden, generator(seed, "learned/start"))
    best = fit_ranking(
        Lists(utility, energy), start, objective=recipe.objective, held=held, steps=recipe.steps, rate=recipe.rate,
        decay=recipe.decay,
    )  # fmt: skip
    with torch.no_grad():
        agree = rank_correlation(energy(best.parameters, slice(None)), utility)
    cut = len(found) - held
    return best.parameters, {
        "examples": len(found), "held": held, "unit": unit, "step": best.step, "before": best.before,
        "after": best.after, "held_before": best.held_before if held else None,
        "held_after": best.held_after if held else None, "correlation": float(agree[:cut].mean()),
        "held_correlation": float(agree[cut:].mean()) if held else None,
    }  # fmt: skip


def _fingerprint(strategy: Strategy, past: Past, recipe: Recipe, seed: int) -> str:
    """Of all that the training reads: the recipe, the parts of the strategy, and the past."""
    costs = [part.model_dump(mode="json") for part in strategy.energy.terms() if isinstance(part.energy, TradingCost)]
    arrays: list[NDArray[Any]] = []
    words: dict[str, Any] = {}
    for item in fields(past):
        for name, value in _leaves(item.name, getattr(past, item.name)):
            if isinstance(value, np.ndarray):
                words[name] = len(arrays)
                arrays.append(value.astype(np.int64) if value.dtype.kind == "M" else value)
            elif item.name != "spellings":
                words[name] = value
    config = {
        "kind": "learned energy", "version": VERSION, "recipe": json.loads(recipe.model_dump_json()), "seed": seed,
        "market": None if strategy.market is None else strategy.market.fingerprint(), "costs": costs,
        "constraint": strategy.constraint.fingerprint(), "rebalance": strategy.rebalance.fingerprint(),
        "capital": strategy.capital, "past": words,
    }  # fmt: skip
    return key(config, *arrays)[:16]


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for inner in sorted(value):
            yield f"{name}.{inner}", value[inner]
    else:
        yield name, value
