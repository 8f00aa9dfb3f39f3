"""Learned(ref): a neural energy of weights and market features, trained on the past and read back by its fingerprint.

    E(w, z) = T DeepSet(w, z, s),     z_i = features of asset i across the section,  s = features of the portfolio

T is the unit of utility it was trained with (training/ranking.py), so that E is about minus the utility of a holding
period, up to a constant of the date. z: the market's mean, volatility and correlation with the equal-weighted
portfolio, then the forecasts by name, each standardised over the tradeable names; s: volatility of the portfolio over
the mean one of the names, sum of weights and of squared weights. Nothing here knows the order of the assets, or how
many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from portfolio_ebm.context import Context
from portfolio_ebm.data.dates import stamp
from portfolio_ebm.energies.robust import deviations
from portfolio_ebm.energy import Bound, Curvature, Energy
from portfolio_ebm.errors import LookAheadError, SpecError, StoreError
from portfolio_ebm.market.store import Store
from portfolio_ebm.models.deep_sets import deep_set
from portfolio_ebm.training.ranking import Objective
from portfolio_ebm.types import Spec, lift, require_last

CLIP = 3.0
"""Standardised features beyond this are held here."""
WHOLE = 3
"""How many features of a portfolio there are."""


class Recipe(Spec):
    """How an energy is learnt from the past: see `train`.

    Attributes:
        objective: "ranking", of two sampled portfolios the one with the higher realised net utility has the lower
            energy; "imitation", the one that was best in hindsight has the lowest: luck is imitated, so it likes risk.
        risk_aversion: g in the utility R - g/2 V - costs: R the return over the holding period, V the variance of its
            daily returns times their number.
        forecasts: names of the panel's forecasts that are features, beside the market's estimates.
        pool: portfolios sampled a date. hidden: width of the network. steps, rate, decay: of Adam.
        held_out: share of the dates, the last ones, that choose the step that is kept.
        fewest: holding periods below which nothing is learnt.
        refit: in a walk-forward, when it is learnt anew: after each year "YE", quarter "QE" or month "ME"; in between
            too where labels of groups change, since the past is read with the labels of the decision's date.
    """

    objective: Objective = "ranking"
    risk_aversion: float = Field(default=5.0, ge=0.0)
    forecasts: tuple[str, ...] = ()
    pool: int = Field(default=64, ge=8)
    hidden: int = Field(default=8, ge=1)
    steps: int = Field(default=300, ge=1)
    rate: float = Field(default=0.01, gt=0.0)
    decay: float = Field(default=1e-3, ge=0.0)
    held_out: float = Field(default=0.2, ge=0.0, lt=0.9)
    fewest: int = Field(default=24, ge=4)
    refit: str = Field(default="YE", pattern="^(YE|QE|ME)$")


class Learned(Energy):
    """A neural energy of the weights, trained by `train` or `portfolio-ebm train`; see energies/learned.py.

    Units: about minus the utility of a holding period, up to a constant of the date. It is not convex: AnnealedLangevin
    searches it with its gradient engine, and no bound is known. Costs of trading are no part of it: beside it stands
    TradingCost.

    Attributes:
        ref: the fingerprint that training printed; of configuration, data and code version.
        recipe: in place of `ref`: learnt anew as the walk goes, from what was known at the last completed year.

    Example:
        >>> Strategy(name="learned", market=SampleMoments(lookback=252), energy=Learned("4f0c...") + TradingCost(1e-3))

    Raises:
        StoreError: no such fingerprint, or not the bytes that were written.
        LookAheadError: a decision before the end of the data that it was trained on.
    """

    ref: str = ""
    recipe: Recipe | None = None

    curvature: ClassVar[Curvature] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"mean", "covariance"})

    @model_validator(mode="after")
    def _one(self) -> Self:
        if not self.ref and self.recipe is None:
            raise ValueError("give the ref that `portfolio-ebm train` prints, or a recipe to learn by on the way")
        return self

    def check(self, ctx: Context) -> None:
        features(ctx, self._known(ctx).recipe.forecasts)

    def bind(self, ctx: Context) -> Bound:
        found = self._known(ctx)
        z, present, level = features(ctx, found.recipe.forecasts)

        def energy(w: Tensor) -> Tensor:
            require_last(w, ctx.n_assets, "Learned")
            return found.unit * deep_set(found.parameters(w), z, present, w, whole(ctx, w, level))

        return energy

    def _known(self, ctx: Context) -> Stored:
        if not self.ref:
            raise SpecError(
                "This Learned has a recipe and nothing learnt yet: rebalance and backtest learn it on the way; "
                "elsewhere train it first and give its ref."
            )
        found = stored(self.ref, Store.default())
        if ctx.date and stamp(ctx.date, "date") < stamp(found.until, "until"):
            raise LookAheadError(
                f"Learned('{self.ref}') was trained on data up to {found.until} and is asked for a decision at "
                f"{ctx.date}: that would be look-ahead. Start on {found.until}, train with an earlier end, or use "
                "Learned(recipe=Recipe()), which is learnt anew each year."
            )
        if ctx.span is not None and not 0.5 <= ctx.span / found.horizon <= 2.0:
            raise SpecError(
                f"Learned('{self.ref}') was trained for holding periods of {found.horizon:g} periods, and these are "
                f"of {ctx.span:g}; train it anew for this schedule."
            )
        return found

    def __repr__(self) -> str:
        # Learnt anew each year, the name of the term stays.
        return f"Learned(ref={self.ref!r})" if self.recipe is None else f"Learned(recipe={self.recipe!r})"

    __str__ = __repr__


@dataclass(frozen=True)
class Stored:
    """A trained energy.

    Attributes:
        tensors: parameters by name. recipe: as trained. unit: T. until: the last date it saw. horizon: its holding
            period in periods of the panel.
    """

    tensors: dict[str, Tensor]
    recipe: Recipe
    unit: float
    until: str
    horizon: float

    def parameters(self, like: Tensor) -> dict[str, Tensor]:
        return {name: value.to(like) for name, value in self.tensors.items()}


def stored(ref: str, store: Store) -> Stored:
    """The energy that training stored under `ref`.

    Raises:
        StoreError: none is there, or it is not what was written; a sentence with the remedy.
    """
    return _stored(ref, store.root) if store.root is not None else _read(ref, store)


@lru_cache(maxsize=64)
def _stored(ref: str, root: Any) -> Stored:
    return _read(ref, Store(root))


def _read(ref: str, store: Store) -> Stored:
    entry = store.get(ref)
    if entry is None:
        raise StoreError(
            f"Nothing trained is stored as '{ref}' in {store.root or 'memory'}; run `portfolio-ebm train` with the "
            "data at hand and give the ref that it prints, or set PORTFOLIO_EBM_HOME to where it was trained."
        )
    facts = entry.facts
    if facts.get("ref") != ref or facts.get("kind") != "learned energy":
        raise StoreError(f"What is stored as '{ref}' is something else; delete {store.path(ref)} and train again.")
    return Stored(
        entry.tensors, Recipe.from_json(facts["recipe"]), float(facts["unit"]), str(facts["until"]),
        float(facts["horizon"]),
    )  # fmt: skip


def features(ctx: Context, forecasts: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """z (*batch, n, d) across the section, which names are in it (*batch, n), and their mean volatility (*batch,).

    Raises:
        SpecError: no such forecast. DataError: a tradeable name has none.
    """
    present = ctx.tradeable
    mask = present.to(ctx.mean)
    count = mask.sum(-1, keepdim=True).clamp_min(1.0)
    deviation = deviations(ctx.covariance)
    even = mask / count
    pull = ctx.covariance.matvec(even)
    joint = (even * pull).sum(-1, keepdim=True).clamp_min(1e-300).sqrt()
    correlation = pull / (deviation * joint).clamp_min(1e-300)
    rows = [ctx.mean, deviation, correlation, *(ctx.forecast(name) for name in forecasts)]
    z = torch.stack([_standard(row, mask, count) for row in rows], dim=-1)
    return z, present, (deviation * mask).sum(-1) / count.squeeze(-1)


def whole(ctx: Context, w: Tensor, level: Tensor) -> Tensor:
    """s (*batch, ..., 3): volatility over the names' mean volatility, sum of weights, sum of squared weights."""
    variance = ctx.covariance.quad(w).clamp_min(0.0)
    relative = (variance / lift(level, w, 0).square().clamp_min(1e-300) + 1e-9).sqrt()
    return torch.stack([relative, w.sum(-1), w.square().sum(-1)], dim=-1)


def _standard(x: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """Mean zero and deviation one over the names in the mask, zero elsewhere and where all are alike."""
    x = torch.where(mask > 0.0, x, torch.zeros_like(x))
    mean = x.sum(-1, keepdim=True) / count
    away = (x - mean) * mask
    spread = (away.square().sum(-1, keepdim=True) / count).sqrt()
    floor = 1e-12 * x.abs().amax(-1, keepdim=True)
    return torch.where(spread > floor, away / spread.clamp_min(1e-300), torch.zeros_like(x)).clamp(-CLIP, CLIP)
