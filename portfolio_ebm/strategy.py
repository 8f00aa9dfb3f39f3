"""A strategy is a frozen config; `rebalance` turns it and the past into tomorrow's weights.

The backtest calls the same `rebalance`, date by date, so that live equals backtest bit for bit.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor

from portfolio_ebm.allocation import Allocation, record
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.exposures import BetaNeutral, FactorExposure
from portfolio_ebm.constraints.weights import Budget, LongOnly
from portfolio_ebm.construction.base import Constructor
from portfolio_ebm.construction.certificate import FEASIBLE, residuals_of
from portfolio_ebm.construction.convex import Convex
from portfolio_ebm.construction.relaxing import build_relaxed, require_relaxable
from portfolio_ebm.context import Context
from portfolio_ebm.data.calendar import Dates, Monthly, Schedule, periods_per_year
from portfolio_ebm.data.dates import day
from portfolio_ebm.data.past import Past
from portfolio_ebm.energies.checks import check
from portfolio_ebm.energy import Energy, Sum, needs
from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.base import MarketModel, Outlook
from portfolio_ebm.market.ledoit_wolf import LedoitWolf
from portfolio_ebm.tally import Tally, require_tally
from portfolio_ebm.types import Spec, device_of, generator, numbers, require_unique

PATHS = 250
"""Paths drawn for drawdown terms."""

VOLUME_DAYS = 21
"""Periods that traded volume is averaged over."""


class Strategy(Spec):
    """What to hold and why, as data-free config.

    Attributes:
        name: for tables and the output folder.
        market: how the market is estimated; None for constructions that need no estimate (equal weight).
        energy: the formula to be minimised, per holding period.
        constraint: the rules every portfolio obeys.
        constructor: how the formula is turned into weights.
        rebalance: when.
        relax: rules of `constraint` that may give way where no portfolio obeys them all, the first one first, each as
            little as possible; Allocation.relaxed says which did.
        breaches: when a rule that holdings drift past is cured: "next trade", by the decision that the schedule brings,
            or "at once", by a decision on that very day.
        tolerance: how far a rule may be broken, in its own units, before that happens at once.
        capital: money the weights are fractions of, for terms and rules that depend on size (impact, participation).

    Example:
        >>> Strategy(name="min-variance", market=SampleMoments(lookback=252), energy=Variance(),
        ...          constraint=Budget() & LongOnly() & Box(upper=0.1), constructor=Convex(), rebalance=Monthly())
    """

    name: str
    market: MarketModel | None = None
    energy: Energy = Sum()
    constraint: Constraint = Budget() & LongOnly()
    constructor: Constructor = Convex()
    rebalance: Schedule = Monthly()
    relax: tuple[Constraint, ...] = ()
    breaches: Literal["next trade", "at once"] = "next trade"
    tolerance: float = Field(default=0.005, ge=0.0)
    capital: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _relaxable(self) -> Self:
        require_relaxable(self.constraint, self.relax)
        return self

    @property
    def history(self) -> int:
        """The least number of periods the first decision needs behind it."""
        return 1 if self.market is None else self.market.history

    @classmethod
    def load(cls, path: str | Path) -> Strategy:
        """The STRATEGY of a Python file. The file is run: load only what you trust.

        Raises:
            SpecError: no such file, it fails, or it defines no STRATEGY.
        """
        return load(path)


def load(path: str | Path) -> Strategy:
    """The STRATEGY that the Python file at `path` defines; the file is run.

    Raises:
        SpecError: no such file, it fails, or it defines no STRATEGY; the message says which and where.
    """
    path = Path(path)
    if not path.is_file():
        here = sorted(item.name for item in path.parent.glob("*.py")) if path.parent.is_dir() else []
        near = get_close_matches(path.name, here, n=3) or here[:5]
        raise SpecError(f"{path}: no such strategy file." + (f" There is {', '.join(near)}." if near else ""))
    name = f"_portfolio_ebm_strategy_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path}: not a Python file; a strategy is a .py file that defines STRATEGY.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (SpecError, ImportError, NameError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise SpecError(f"{path}{_line(error, path)}: {type(error).__name__}: {error}") from error
    found = getattr(module, "STRATEGY", None)
    if not isinstance(found, Strategy):
        what = "no STRATEGY" if found is None else f"a STRATEGY that is a {type(found).__name__}"
        raise SpecError(f"{path}: defines {what}; end it with STRATEGY = Strategy(name=..., ...).")
    return found


def rebalance(
    strategy: Strategy, past: Past, held: Any, *, tally: Tally | None = None, seed: int = 0, device: str = "cpu"
) -> Allocation:
    """Target weights at the close of `past`: the live path, and the one the backtest takes.

    Args:
        strategy: what to hold and why.
        past: what was known, `panel.past(t)`.
        held: weights held before the trade, after drift: a Series or mapping by asset, an array in the
            panel's order, or None when nothing is held.
        tally: `Allocation.tally` of the last decision, as it was left; LeastTrade reads it.
        seed: with the date, the one source of randomness.
        device: where the construction runs.

    Returns:
        Allocation with the weights as a Series.

    Raises:
        DataError: too little history, holdings the panel does not know, or a tally that is not of an earlier decision
            on these assets; the message names them.
        InfeasibleError: no portfolio obeys the rules; names the rules in conflict.
    """
    place = device_of(device)
    if len(past) < strategy.history:
        raise DataError(
            f"{past.date}: '{strategy.name}' needs {strategy.history} periods of history and has {len(past)}; "
            "start later, or shorten the market model's lookback."
        )
    horizon = strategy.rebalance.horizon(past.dates)
    market = None if strategy.market is None else strategy.market.fit(past)
    outlook = None if market is None else market.outlook(horizon, generator(seed, f"{past.date}/scenarios"))
    if outlook is not None and market is not None and "paths" in required(strategy):
        paths = market.paths(horizon, PATHS, generator(seed, f"{past.date}/paths"))
        outlook = dataclasses.replace(outlook, paths=paths)
    ctx = surroundings(
        past, held_weights(held, past.assets, place), None if outlook is None else outlook.to(place), horizon,
        strategy.capital, place,
    )  # fmt: skip
    if "long run" in strategy.constructor.asks():
        ctx = dataclasses.replace(ctx, long_run=long_run(past, horizon).to(place))
    if tally is not None:
        ctx = dataclasses.replace(ctx, tally=require_tally(tally, past.assets, ctx.date).upto(past))
    # Here, not on top: learning walks strategies over the past, and so stands on this module.
    from portfolio_ebm.learning import learnt

    energy, anew = learnt(strategy, past, seed)
    check(energy, ctx)
    rng = generator(seed, f"{past.date}/construction", place)
    solution = build_relaxed(strategy.constructor, energy, strategy.constraint, ctx, rng, strategy.relax)
    refitted = (() if market is None else market.refitted) + anew
    period = _in_words(horizon, past.dates)
    return record(
        solution, past.assets, refitted=refitted, horizon=horizon, date=past.date, period=period,
        breaches=passive_breaches(strategy.constraint, ctx),
    )  # fmt: skip


def passive_breaches(constraint: Constraint, ctx: Context) -> dict[str, float]:
    """By rule that what is held breaks before any trade, by how much, in its own units; {} where nothing is held."""
    if ctx.held is None:
        return {}
    return {rule: by for rule, by in residuals_of(ctx.held, constraint, ctx).items() if by > FEASIBLE}


def cure_due(strategy: Strategy, past: Past, held: Any) -> dict[str, float]:
    """By rule that drift has carried `held` past by more than the strategy tolerates, by how much; {} where none is.

    Where a strategy says breaches="at once" and this is not empty, `rebalance` is called at the close of `past`, as the
    backtest does. Looked at are the rules that need no estimate of the market; those that do (risk caps, betas that
    the market estimates) have one when a decision is made, and are told by it.

    Example:
        >>> if cure_due(strategy, past, held): allocation = rebalance(strategy, past, held, tally=tally)
    """
    place = device_of("cpu")
    weights = held_weights(held, past.assets, place)
    if strategy.breaches == "next trade" or weights is None:
        return {}
    horizon = strategy.rebalance.horizon(past.dates)
    ctx = surroundings(past, weights, None, horizon, strategy.capital, place)
    known = [rule for rule in strategy.constraint.rules() if not reads_market(rule)]
    found = {repr(rule): float(rule.residual(weights, ctx)) for rule in known}
    return {rule: by for rule, by in found.items() if by > strategy.tolerance}


def reads_market(rule: Constraint) -> bool:
    """Whether a rule needs an estimate of the market."""
    parts = [part for case in rule.cases() for part in case.rules()]
    return any(part.asks() or isinstance(part, (FactorExposure, BetaNeutral)) for part in parts)


def _in_words(horizon: float, dates: Dates) -> str:
    """ "a month" for a holding period of about one."""
    a_year = periods_per_year(dates) / horizon
    for count, words in (
        (252, "a day"),
        (365, "a day"),
        (52, "a week"),
        (12, "a month"),
        (4, "a quarter"),
        (1, "a year"),
    ):
        if abs(a_year / count - 1.0) <= 0.1:
            return words
    return "per holding period"


def surroundings(
    past: Past, held: Tensor | None, outlook: Outlook | None, horizon: float, capital: float | None, place: torch.device
) -> Context:
    """What terms and rules may ask for at the close of `past`, by name, each as it was known then."""

    def tensor(x: Any) -> Tensor:
        return torch.tensor(x, device=place)

    return Context(
        assets=past.assets, market=outlook, held=held, tradeable=tensor(past.tradeable), leaving=tensor(past.leaving),
        groups=past.groups, spellings=past.spellings, date=day(past.dates[-1]), span=float(horizon), capital=capital,
        benchmarks={name: tensor(item[-1]) for name, item in past.benchmark_weights.items()},
        forecasts={name: tensor(item[-1]) for name, item in past.forecasts.items()},
        prices=None if past.prices is None else tensor(past.prices),
        volume=None if past.volume is None or past.prices is None else tensor(traded_value(past)),
    )  # fmt: skip


def long_run(past: Past, horizon: float) -> Structured:
    """The covariance of simple returns over `horizon` periods by all of the past, shrunk as LedoitWolf does."""
    seen = np.isfinite(past.returns).any(axis=1)  # a panel of prices has no return in its first row
    return LedoitWolf(lookback=max(len(past) - int(seen.argmax()), 2)).fit(past).covariance.scaled(horizon)


def traded_value(past: Past) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean traded shares of the last VOLUME_DAYS periods times the last known price, (n,); NaN where never seen."""
    if past.volume is None or past.prices is None:
        raise DataError(f"{past.date}: the panel has no volume or no prices; pass volume= with prices.")
    recent = past.volume[-VOLUME_DAYS:]
    seen = np.isfinite(recent)
    mean = np.where(seen, recent, 0.0).sum(axis=0) / np.where(seen.any(axis=0), seen.sum(axis=0), np.nan)
    return np.asarray(mean * past.prices)


def held_weights(held: Any, assets: Sequence[str], device: torch.device) -> Tensor | None:
    """Holdings in any of the accepted forms as a tensor in the order of `assets`."""
    if held is None:
        return None
    if isinstance(held, (pd.Series, Mapping)):
        found = numbers(list(held.values()) if isinstance(held, Mapping) else held, "held")
        given = dict(zip(require_unique(held.keys(), "held"), found.reshape(-1).tolist(), strict=True))
        unknown = [name for name, value in given.items() if name not in set(assets) and value != 0.0]
        if unknown:
            near = get_close_matches(unknown[0], assets, n=3)
            hint = f" (near: {', '.join(near)})" if near else ""
            raise DataError(
                f"Holdings name {', '.join(unknown)}, which the panel does not have{hint}; "
                "add prices for them or sell them first."
            )
        values = [given.get(name, 0.0) for name in assets]
    else:
        values = numbers(held, "held").reshape(-1).tolist()
        if len(values) != len(assets):
            raise DataError(
                f"Holdings have {len(values)} weights and there are {len(assets)} assets; give a Series by name."
            )
    bad = [name for name, value in zip(assets, values, strict=True) if not np.isfinite(value)]
    if bad:
        raise DataError(f"The held weight of {', '.join(bad[:5])} is not a finite number; give 0 for what is not held.")
    return torch.tensor(values, dtype=torch.float64, device=device)


def _line(error: BaseException, path: Path) -> str:
    """ ", line N" of the strategy file where the error was raised, or nothing when it was raised elsewhere."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    found, step = "", error.__traceback__
    while step is not None:
        if Path(step.tb_frame.f_code.co_filename) == path:
            found = f", line {step.tb_lineno}"
        step = step.tb_next
    return found


def required(strategy: Strategy) -> frozenset[str]:
    """The estimates the strategy's formula and rules ask for: mean, covariance, scenarios, paths, marginals."""
    return needs(strategy.energy) | strategy.constraint.asks()
