"""Allocation: a decision as a record for people, with the proof of its feasibility and how good it can be at best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch

from portfolio_ebm.construction.base import ShadowPrice, Solution
from portfolio_ebm.errors import SpecError
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
        ranges: by term, the least and largest share it takes over sampled feasible portfolios.
        ablation: energy after each stage of the construction, lowest is best.
        ensemble: the chains' final portfolios as a frame (chains x assets), or None; a record of the search,
            not a sample of a law.
        diagnostics: acceptance, agreement of the chains, patterns seen.
        refitted: what the market model estimated anew for this decision.
        horizon: the holding period the estimates are for, in periods of the panel.
        date: the decision's date, "" when there is none.
        prices: the shadow price of each bound that binds, the dearest first; `shadow_prices` is the frame of them.
        period: the holding period in words.
        relaxed: by rule that gave way because no portfolio obeys them all, by how much, in its own units; {} mostly.
        breaches: by rule that the holdings had drifted past before this decision, by how much, in its own units; the
            decision's own weights obey it again.
        reduced: by asset, the marginal energy with the rules priced in: positive for a name that a lower bound keeps
            from falling further, negative for one that an upper bound holds back; None where no multipliers are known.

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
    ablation: Mapping[str, float] = field(default_factory=dict)
    ensemble: Any = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    refitted: tuple[str, ...] = ()
    horizon: float = 1.0
    date: str = ""
    prices: tuple[ShadowPrice, ...] = ()
    period: str = "per holding period"
    relaxed: Mapping[str, float] = field(default_factory=dict)
    breaches: Mapping[str, float] = field(default_factory=dict)
    reduced: Any = None

    @property
    def gap(self) -> float | None:
        """energy - bound: how far above the optimum these weights can be at most; None where no bound is known."""
        return None if self.bound is None else self.energy - self.bound

    @property
    def proven(self) -> bool:
        """Whether the gap is zero to eight digits of the energy's scale."""
        if self.gap is None:
            return False
        scale = max((abs(value) for value in self.breakdown.values()), default=abs(self.energy))
        return self.gap <= 1e-8 * max(scale, 1e-12)

    @property
    def shadow_prices(self) -> pd.DataFrame:
        """What loosening each rule that binds is worth, the dearest first; empty where no multipliers are known.

        Columns: rule; bound (upper, lower, equal); at, where it stands; value, energy saved per unit by which it is
        loosened; worth, the same in expected return, where the formula has Return(); names; words, a sentence.

        Example:
            >>> optimize(...).shadow_prices["words"][0]
            'One more percent of Energy (at most 0.3 now) would be worth 0.8 bps a month.'
        """
        rows = [{**vars(price), "words": price.sentence(self.period)} for price in self.prices]
        frame = pd.DataFrame(rows, columns=["rule", "bound", "at", "value", "worth", "names", "words"])
        return frame.astype({"at": float, "value": float, "worth": float})

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
            'KO has 0.00%: each percent more would raise the energy by 0.0002, the other rules priced in.'

        Raises:
            SpecError: no such asset.
        """
        if not isinstance(self.weights, pd.Series) or name not in self.weights.index:
            raise SpecError(f"No asset '{name}' in this allocation; why() takes the name of one of its assets.")
        said = f"{name} has {self.weights[name]:.2%}"
        if self.reduced is None:
            return f"{said}; no multipliers are known, so why is not known either: use constructor=Convex()."
        slope = float(self.reduced[name])
        if abs(slope) <= 1e-9 * max(float(self.reduced.abs().max()), 1e-12):
            return f"{said}: there its marginal energy is that of the other names, and no bound of its own holds it."
        way = "raise" if slope > 0.0 else "lower"
        return (
            f"{said}: each percent more would {way} the energy by {0.01 * abs(slope):.3g}, the other rules priced in."
        )

    def __str__(self) -> str:
        lines = [f"Allocation {self.date}".rstrip() + f": {self.status}"]
        if isinstance(self.weights, pd.Series):
            held = self.weights[self.weights.abs() > 1e-12].sort_values(ascending=False)
            lines.append("  " + ", ".join(f"{name} {value:.2%}" for name, value in held.items()))
        tail = "no bound is known" if self.gap is None else f"at most {self.gap:.2e} above the optimum"
        lines.append(f"  energy {self.energy:.6g} per holding period, {tail}")
        lines += [f"  {price.sentence(self.period)}" for price in self.prices[:3]]
        lines += [f"  What was held had drifted past {rule} by {by:.3g}." for rule, by in self.breaches.items()]
        return "\n".join(lines)


def record(
    solution: Solution, names: tuple[str, ...] | None, *, like: Any = None,
    refitted: tuple[str, ...] = (), horizon: float = 1.0, date: str = "", period: str = "per holding period",
    breaches: Mapping[str, float] | None = None,
) -> Allocation:  # fmt: skip
    """The Allocation of a Solution: a Series when `names` are known, else the kind of array `like` is.

    `period` is the holding period in words, "a month".
    """
    weights: Any = solution.weights.detach().cpu()
    reduced: Any = None if solution.reduced is None else solution.reduced.detach().cpu().numpy()
    if names is not None and reduced is not None:
        reduced = pd.Series(reduced, index=pd.Index(names, name="asset"), name="reduced")
    ensemble: Any = None if solution.ensemble is None else solution.ensemble.detach().cpu()
    if names is not None:
        weights = pd.Series(weights.numpy(), index=pd.Index(names, name="asset"), name="weight")
        ensemble = None if ensemble is None else pd.DataFrame(ensemble.numpy(), columns=list(names))
    elif isinstance(like, torch.Tensor):
        weights = solution.weights.detach()
    else:
        weights, ensemble = weights.numpy(), None if ensemble is None else ensemble.numpy()
    return Allocation(
        weights=weights, status=solution.status, energy=solution.energy, bound=solution.bound,
        residuals=dict(solution.residuals), breakdown=dict(solution.breakdown), ranges=dict(solution.ranges),
        ablation=dict(solution.ablation), ensemble=ensemble, diagnostics=dict(solution.diagnostics),
        refitted=refitted, horizon=horizon, date=date, prices=solution.shadow_prices, period=period,
        relaxed=dict(solution.relaxed), breaches=dict(breaches or {}), reduced=reduced,
    )  # fmt: skip
