"""Allocation: a decision as a record for people, with the proof of its feasibility and how good it can be at best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

import pandas as pd
import torch

from portfolio_ebm.construction.base import Marginal, ShadowPrice, Solution, is_proven
from portfolio_ebm.construction.later import Later
from portfolio_ebm.errors import SpecError
from portfolio_ebm.tally import Tally
from portfolio_ebm.types import Status


@dataclass(frozen=True)
class Allocation:
    """Target weights for one date, and what is known of them.

    Attributes:
        weights: a Series named "weight" when the assets have names; else an array or tensor, as the inputs were.
        status: truthy when the portfolio is certified; `str(status)` says which engine found it and how it ended.
        energy: E(weights), lower is better, per holding period.
        bound: no feasible portfolio has a lower energy than this; None where no bound is known.
        residuals: by rule, by how much the weights break it, in the rule's own units (all zero within 1e-9, but for
            what was `relaxed`).
        breakdown: by term, its share of the energy; the shares add up to `energy`.
        ranges: by term, the least and largest share it takes over sampled feasible portfolios; a mapping that draws the
            sample when it is first read. The estimates are kept until `ranges`, `prices` and `marginal` were read: who
            holds thousands of decisions reads these, or pickles them. A walk-forward keeps none.
        ablation: energy after each stage of the construction, lowest is best; where an exact solve decided, chains run
            beside it when this or `ensemble` is first read, and until then the estimates are kept, as for `ranges`. A
            walk-forward reads neither there.
        ensemble: the chains' final portfolios as a frame (chains x assets), or None; a record of the search,
            not a sample of a law; framed when it is first read.
        diagnostics: acceptance, agreement of the chains, patterns seen.
        kkt: how far the weights are from meeting the conditions of Karush, Kuhn and Tucker, relative to the energy's
            largest slope, where they are the minimum of a convex problem; the status says where it is Clarabel's own
            account. None where the conditions say nothing of the answer (a choice of names, whole lots, `Either`, a
            learned or other energy that is not convex, weights that no formula decided, `LeastTrade` with holdings),
            and where the bound alone is the proof.
        refitted: what the market model estimated anew for this decision.
        horizon: the holding period the estimates are for, in periods of the panel.
        date: the decision's date, "" when there is none.
        prices: the shadow price of each bound that binds: first of those that can be let out a little, the dearest
            first, then of the mandate (no short positions, a fixed sum); `shadow_prices` is the frame of them. Worked
            out when it is first read.
        period: the holding period in words.
        relaxed: by rule that gave way because no portfolio obeys them all, by how much, in its own units; {} mostly.
        breaches: by rule that the holdings had drifted past before this decision, by how much, in its own units; the
            decision's own weights obey it again.
        marginal: a frame by asset: `weight`; `marginal`, the slope of the energy in that weight; `reduced`, the slope
            with the rules priced in, positive for a name that a lower bound keeps from falling further, negative for
            one that an upper bound holds back; `held_by`, that bound. None where no formula decided the weights. Worked
            out when it is first read; the estimates are kept until then.
        priced: what `reduced` has priced in: "the other rules", by the multipliers of a proven minimum, or "the budget"
            alone, by the mean slope of the names that no bound holds.
        size: what gaps are relative to beside the breakdown: the size of the energy's slopes; 0 where it is not known.
        tally: of `LeastTrade`, what it has saved and what that cost so far: hand it to the next decision.

    Example:
        >>> allocation = optimize(Variance(), Budget() & LongOnly(), covariance=cov, constructor=Convex())
        >>> allocation.weights, allocation.gap, str(allocation.status)
    """

    weights: Any
    status: Status
    energy: float
    bound: float | None
    residuals: Mapping[str, float]
    breakdown: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    ablation: Mapping[str, float] = field(default_factory=dict, repr=False)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    refitted: tuple[str, ...] = ()
    horizon: float = 1.0
    date: str = ""
    period: str = "per holding period"
    relaxed: Mapping[str, float] = field(default_factory=dict)
    breaches: Mapping[str, float] = field(default_factory=dict)
    size: float = 0.0
    kkt: float | None = None
    tally: Tally | None = field(default=None, repr=False)
    walkers: Later[Any] | None = field(default=None, repr=False)
    slopes: Later[Marginal] | None = field(default=None, repr=False)
    binding: Later[tuple[ShadowPrice, ...]] | None = field(default=None, repr=False)

    @property
    def prices(self) -> tuple[ShadowPrice, ...]:
        return () if self.binding is None else self.binding()

    @property
    def ensemble(self) -> Any:
        return None if self.walkers is None else self.walkers()

    @cached_property
    def marginal(self) -> pd.DataFrame | None:
        if self.slopes is None:
            return None
        found = self.slopes()
        columns = {"weight": found.weights, "marginal": found.gradient, "reduced": found.reduced}
        numbers = {key: item.detach().cpu().double().numpy() for key, item in columns.items()}
        named = isinstance(self.weights, pd.Series)
        index = self.weights.index if named else pd.RangeIndex(len(found.held_by), name="asset")
        return pd.DataFrame({**numbers, "held_by": list(found.held_by)}, index=index)

    @property
    def priced(self) -> str:
        if self.slopes is None:
            return ""
        return "the other rules" if self.slopes().exact else "the budget"

    @property
    def gap(self) -> float | None:
        """energy - bound: how far above the optimum these weights can be at most; None where no bound is known."""
        return None if self.bound is None else self.energy - self.bound

    @property
    def proven(self) -> bool:
        """Whether the gap is zero to eight digits of the energy's scale: its terms', or `size` where that is larger."""
        return is_proven(self.energy, self.bound, self.breakdown, self.size)

    @property
    def shadow_prices(self) -> pd.DataFrame:
        """What loosening each rule that binds is worth, in the order of `prices`; empty where no multipliers are known.

        Columns: rule; bound (upper, lower, equal); at, where it stands; value, energy saved per unit by which it is
        loosened; worth, the same in expected return, where the formula has Return(); names; words, a sentence.

        Example:
            >>> optimize(...).shadow_prices["words"][0]
            'One more percent of Energy (at most 0.3 now) would be worth 0.8 bps a month.'
        """
        return price_frame(self.prices, self.period)

    @property
    def idle(self) -> tuple[str, ...]:
        """Terms that decide nothing: their range over feasible portfolios is under 1 % of the largest one's."""
        width = {name: high - low for name, (low, high) in self.ranges.items()}
        largest = max(width.values(), default=0.0)
        return tuple(name for name, size in width.items() if size < 0.01 * largest)

    def why(self, name: str) -> str:
        """Why this name has its weight, and what would change that, in a sentence.

        Example:
            >>> optimize(..., constructor=Convex()).why("KO")
            'KO has 0.00%: each percent more would raise the energy by 0.0002, the other rules priced in. ...'

        Raises:
            SpecError: no such asset.
        """
        if not isinstance(self.weights, pd.Series) or name not in self.weights.index:
            raise SpecError(f"No asset '{name}' in this allocation; why() takes the name of one of its assets.")
        said = f"{name} has {self.weights[name]:.2%}"
        if self.marginal is None:
            return f"{said}: by rule, no formula decided it."
        slope, scale = float(self.marginal["reduced"][name]), float(self.marginal["reduced"].abs().max())
        bound = self.marginal["held_by"][name]
        held = f" What holds it: {bound}." if bound else " No bound of its own holds it."
        if abs(slope) <= 1e-9 * max(scale, 1e-12):
            return f"{said}: there its marginal energy is that of the other names.{held}"
        way = "raise" if slope > 0.0 else "lower"
        by = f"{0.01 * abs(slope):.3g}"
        return f"{said}: each percent more would {way} the energy by {by}, {self.priced} priced in.{held}"

    def __str__(self) -> str:
        lines = [f"Allocation {self.date}".rstrip() + f": {self.status}"]
        if isinstance(self.weights, pd.Series):
            held = self.weights[self.weights.abs() > 1e-12].sort_values(ascending=False)
            shown = ", ".join(f"{name} {value:.2%}" for name, value in held.items())
            lines.append(f"  {shown or 'holds nothing'}")
        tail = "no bound is known" if self.gap is None else f"at most {self.gap:.2e} above the optimum"
        lines.append(f"  energy {self.energy:.6g} per holding period, {tail}")
        lines += [f"  {price.sentence(self.period)}" for price in self.prices[:3]]
        lines += [f"  What was held had drifted past {rule} by {by:.3g}." for rule, by in self.breaches.items()]
        return "\n".join(lines)


def price_frame(prices: Sequence[ShadowPrice], period: str = "per holding period") -> pd.DataFrame:
    """Shadow prices as `Allocation.shadow_prices` shows them."""
    rows = [{"rule": price.rule, **vars(price), "words": price.sentence(period)} for price in prices]
    frame = pd.DataFrame(rows, columns=["rule", "bound", "at", "value", "worth", "names", "words"])
    return frame.astype({"at": float, "value": float, "worth": float})


def price_frames(prices: Mapping[Any, Sequence[ShadowPrice]], name: str) -> pd.DataFrame:
    """Shadow prices of many portfolios, the portfolio's label in the index called `name`."""
    frame = price_frame([price for one in prices.values() for price in one])
    labels = [label for label, one in prices.items() for _ in one]
    return frame.set_axis(pd.Index(labels, name=name), axis=0)


def record(
    solution: Solution, names: tuple[str, ...] | None, *, like: Any = None,
    refitted: tuple[str, ...] = (), horizon: float = 1.0, date: str = "", period: str = "per holding period",
    breaches: Mapping[str, float] | None = None,
) -> Allocation:  # fmt: skip
    """The Allocation of a Solution: a Series when `names` are known, else the kind of array `like` is.

    `period` is the holding period in words, "a month".
    """
    weights: Any = solution.weights.detach()
    index = None if names is None else _index(names).view()
    if index is not None:
        weights = pd.Series(weights.cpu().numpy().copy(), index=index, name="weight", copy=False)
    elif not isinstance(like, torch.Tensor):
        weights = weights.cpu().numpy()
    walkers = solution.walkers
    return Allocation(
        weights=weights, status=solution.status, energy=solution.energy, bound=solution.bound,
        residuals=dict(solution.residuals), breakdown=dict(solution.breakdown), ranges=solution.ranges,
        ablation=solution.ablation, diagnostics=dict(solution.diagnostics),
        refitted=refitted, horizon=horizon, date=date, period=period,
        relaxed=dict(solution.relaxed), breaches=dict(breaches or {}),
        size=solution.size, kkt=solution.kkt, tally=solution.tally, slopes=solution.marginal, binding=solution.binding,
        walkers=None if walkers is None else Later(partial(_framed, walkers, index, isinstance(like, torch.Tensor))),
    )  # fmt: skip


@lru_cache(maxsize=32)
def _index(names: tuple[str, ...]) -> pd.Index:
    """The index of a universe, which one decision after the other asks for."""
    return pd.Index(names, name="asset")


def _framed(found: Later[torch.Tensor], index: pd.Index | None, tensor: bool) -> Any:
    """Portfolios (k, n) by the names of `index`, or, without, as a tensor or an array."""
    walkers = found().detach()
    if index is not None:
        return pd.DataFrame(walkers.cpu().numpy(), columns=list(index))
    return walkers.cpu() if tensor else walkers.cpu().numpy()
