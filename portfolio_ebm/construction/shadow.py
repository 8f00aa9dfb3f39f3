"""Shadow prices: the multipliers of a minimum, handed back to the rules that own them.

A minimum has multipliers of rows, of ends of the box and of caps of the compiled region. Each rule restricted alone
tells which of those are its own: its rows stand in its place among all rows, and an end of the box is its own where
its own bound is the one that stands. dE*/d(upper bound) = -multiplier.

Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization, section 5.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import alone_of, region_of
from portfolio_ebm.constraints.families import CapRule, per_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.base import ShadowPrice
from portfolio_ebm.construction.exact.duality import Duals
from portfolio_ebm.construction.exact.formula import on_positive_weights
from portfolio_ebm.construction.exact.minimum import Minimum
from portfolio_ebm.construction.later import Later
from portfolio_ebm.context import Context
from portfolio_ebm.energies.ratio import Ratio
from portfolio_ebm.energies.returns import Return
from portfolio_ebm.energies.robust import BoxReturn, EllipsoidReturn
from portfolio_ebm.energies.views import Views
from portfolio_ebm.energy import Energy

NOTHING = 1e-9
"""Multipliers below this, relative to the largest, are rounding."""

GAINS = (Return, Views, BoxReturn, EllipsoidReturn)
"""Terms in whose coefficient an energy is expected return."""


@dataclass(frozen=True)
class Owned:
    """The region of rules, and by rule its own walls."""

    whole: Region
    parts: list[tuple[str, Region]]

    @classmethod
    def of(cls, constraint: Constraint, ctx: Context) -> Owned:
        whole = region_of(constraint, ctx)
        return cls(whole, [(repr(rule), alone_of(rule, whole, ctx)) for rule in constraint.rules()])


def told(found: Minimum, energy: Energy, constraint: Constraint, ctx: Context) -> dict[str, Any]:
    """What a minimum adds to a Solution beside its bound: arguments of `certify`."""
    known: dict[str, Any] = {"kkt": found.kkt, "size": found.size}
    if found.duals is None:
        return known
    return known | {
        "binding": Later(partial(shadow_prices, energy, constraint, ctx, found.duals)),
        "multipliers": torch.as_tensor(found.duals.lower - found.duals.upper),
    }


def shadow_prices(
    energy: Energy, constraint: Constraint, ctx: Context, duals: Duals, owned: Owned | None = None
) -> tuple[ShadowPrice, ...]:
    """The price of every bound that binds: first what can be let out a little, the dearest first, then what is the
    portfolio's mandate (no short positions, a fixed sum). `owned` are the rules' walls, where they are known.

    Example:
        >>> shadow_prices(Return() + Variance(), rules, ctx, minimize(...).duals)[0].sentence("a month")
        "One more percent of Energy (at most 0.3 now) would be worth 0.8 bps a month."
    """
    owned = Owned.of(constraint, ctx) if owned is None else owned
    whole, parts = owned.whole, owned.parts
    if on_positive_weights(energy):
        # Where the formula keeps a weight from falling, a lower end beyond is no rule that does.
        beyond = (whole.lower < 0.0).cpu().numpy()
        duals = replace(duals, lower=np.where(beyond, 0.0, duals.lower))
    found = [*_of_rows(parts, duals), *_of_box(parts, whole, ctx, duals), *_of_caps(constraint, parts, whole, duals)]
    least = NOTHING * max((abs(price.value) for price in found), default=0.0)
    unit = sum(part.coefficient for part in energy.terms() if isinstance(part.energy, GAINS))
    ratio = any(isinstance(part.energy, Ratio) for part in energy.terms())
    priced = [
        replace(price, worth=price.value / unit if unit > 0.0 else None, ratio=ratio)
        for price in found
        if abs(price.value) > least
    ]
    return tuple(sorted(priced, key=lambda price: (price.mandate, -abs(price.value))))


def _of_rows(parts: list[tuple[str, Region]], duals: Duals) -> list[ShadowPrice]:
    found, at = [], 0
    for name, region in parts:
        for low, high, dual in zip(
            region.row_lower.tolist(), region.row_upper.tolist(), duals.rows[at : at + len(region.rows)], strict=True
        ):
            if high - low <= 1e-14:
                found.append(ShadowPrice((name,), "equal", high, float(dual), None))
            elif dual != 0.0:
                side, end = ("upper", high) if dual > 0.0 else ("lower", low)
                found.append(ShadowPrice((name,), side, end, abs(float(dual)), None))
        at += len(region.rows)
    return found


def _of_box(parts: list[tuple[str, Region]], whole: Region, ctx: Context, duals: Duals) -> list[ShadowPrice]:
    """Prices of ends of the box, added up over the names that the same rules hold at the same weight."""
    totals: dict[tuple[tuple[str, ...], str, float], tuple[float, list[str]]] = {}
    frozen = whole.frozen.tolist()
    for side, values in (("upper", duals.upper), ("lower", duals.lower)):
        binding = [i for i in values.nonzero()[0].tolist() if not frozen[i]]
        ends = getattr(whole, side).tolist()
        own = [(name, getattr(region, side).tolist()) for name, region in parts]
        for i in binding:
            owners = tuple(name for name, mine in own if mine[i] == ends[i])
            total, names = totals.setdefault((owners, side, ends[i]), (0.0, []))
            names.append(ctx.assets[i])
            totals[owners, side, ends[i]] = total + float(values[i]), names
    return [
        ShadowPrice(owners, side, at, total, None, tuple(names))
        for (owners, side, at), (total, names) in totals.items()
    ]


def _of_caps(constraint: Constraint, parts: list[tuple[str, Region]], whole: Region, duals: Duals) -> list[ShadowPrice]:
    """Prices of the turnover cap and the other caps, wherever folding has put them."""
    folded = whole.folded()
    rest = len(whole.rows)
    found = list(zip(folded.names[rest:], duals.rows[rest:].tolist(), strict=True))
    found += [(cap.name, dual) for cap, dual in zip(folded.caps, duals.caps, strict=True)]
    limits = {cap.name: cap.limit for cap in whole.caps}
    prices = []
    if whole.turnover is not None and duals.turnover > 0.0:
        owners = tuple(name for name, region in parts if region.turnover == whole.turnover)
        prices.append(ShadowPrice(owners, "upper", whole.turnover, duals.turnover, None))
    elif whole.turnover is None and folded.turnover is not None:
        kept = {id(cap) for cap in folded.caps}
        at = [cap for cap in whole.balls if cap.plain and id(cap) not in kept and cap.name not in folded.names[rest:]]
        found.append((at[0].name, duals.turnover))
    # A rule's limit may be in another unit than its cap's: active share is half a sum.
    written = {repr(rule): getattr(rule, "rule", rule) for rule in constraint.rules()}
    for name, dual in found:
        if dual > 0.0:
            rule = written.get(name)
            per, step = per_of(rule), rule.step if isinstance(rule, CapRule) else CapRule.step
            prices.append(ShadowPrice((name,), "upper", limits[name] / per, dual * per, None, step=step))
    return prices
