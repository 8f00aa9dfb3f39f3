"""Random problems with every rule and every term mixed, and what is demanded of the answer.

A planted portfolio is drawn first and most rules are drawn so that it obeys them, so that most problems have an answer.
Whatever the optimizer does, it is held to: weights obey every rule to 1e-9 and names that cannot be traded stand still;
no bound is above the energy of any portfolio known to obey the rules; none is called infeasible where the planted one
obeys; a NaN planted in what the formula reads is refused; and no error is without a type and a sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from cases_convex import market
from cases_problems import RULES as CONVEX_RULES
from cases_problems import Outcome
from cases_terms import CONVEX, POSITIVE, RATIOS, N, rich

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.discrete import Cardinality, MinPosition
from portfolio_ebm.constraints.diversified import RIC2550, UCITS, Diversified75510, TopSum
from portfolio_ebm.constraints.either import Either
from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.constraints.lots import RoundLots
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Solution
from portfolio_ebm.context import Context
from portfolio_ebm.energies.checks import check
from portfolio_ebm.energies.diversification import Herfindahl
from portfolio_ebm.energies.fixed import FixedCost
from portfolio_ebm.energies.risk import CVaR, Variance
from portfolio_ebm.energy import Bound, Curvature, Energy, needs
from portfolio_ebm.errors import InfeasibleError, PortfolioEBMError, SolverError, SpecError
from portfolio_ebm.types import require_last

FEASIBLE = 1e-9
ROUNDING = 1e-14
"""What energies of weights, to 1e-16 each, may differ by where the rules fix every term at zero."""
DOOR = AnnealedLangevin(chains=4, steps=10, walkers=2, sweeps=2, candidates=4, polish=1, nodes=100)
Draw = np.random.Generator


class Waves(Energy):
    """E(w) = -mean_k cos(f_k . w + p_k), f of norm `pitch`: smooth, with many minima; for tests."""

    pitch: float = 12.0
    seed: int = 0
    curvature: ClassVar[Curvature] = "none"

    def bind(self, ctx: Any) -> Bound:
        draw = np.random.default_rng(self.seed)
        rows = torch.tensor(draw.normal(size=(6, ctx.n_assets)))
        rows = self.pitch * rows / rows.norm(dim=-1, keepdim=True)
        phase = torch.tensor(draw.uniform(0.0, 6.28, 6))

        def energy(w: torch.Tensor) -> torch.Tensor:
            require_last(w, ctx.n_assets, "Waves")
            return -torch.cos(w @ rows.T + phase).mean(-1)

        return energy


BOUND_TO_N = ("RiskBudget(",)
TERMS = [term for term in CONVEX if not (N != 8 or repr(term).startswith(BOUND_TO_N))]
CURVED: list[Callable[[Draw], Energy]] = [
    lambda draw: -1.0 * Herfindahl(),
    lambda draw: -1.0 * Variance(),
    lambda draw: -1.0 * CVaR(0.9),
    lambda draw: Waves(seed=int(draw.integers(100))),
    lambda draw: Waves(pitch=30.0, seed=int(draw.integers(100))),
    lambda draw: RATIOS[int(draw.integers(len(RATIOS)))],
]


def _few(draw: Draw, x: torch.Tensor) -> float:
    return round(float(x[x > 0.0].min()) * draw.uniform(0.3, 1.0), 6)


def _counts(labels: tuple[str, ...], x: torch.Tensor) -> list[int]:
    return [sum(1 for i, one in enumerate(labels) if one == label and x[i] != 0.0) for label in dict.fromkeys(labels)]


def _top(draw: Draw, ctx: Context, x: torch.Tensor) -> Constraint:
    n = int(draw.integers(1, 5))
    return TopSum(n, float(x.sort(descending=True).values[:n].sum()) + float(draw.uniform(0.001, 0.1)))


def _either(draw: Draw, ctx: Context, x: torch.Tensor) -> Constraint:
    names = [name for name in DISCRETE if name not in ("Either", "RoundLots")]
    one, two = draw.choice(names, 2, replace=False)
    return Either(DISCRETE[one](draw, ctx, x), DISCRETE[two](draw, ctx, x))


DISCRETE: dict[str, Callable[[Draw, Context, torch.Tensor], Constraint]] = {
    "at most": lambda d, c, x: Cardinality(at_most=int((x > 0).sum()) + int(d.integers(2)), min_weight=_few(d, x)),
    "at most, any size": lambda d, c, x: Cardinality(at_most=int((x > 0).sum())),
    "exactly": lambda d, c, x: Cardinality(exactly=int((x > 0).sum()), min_weight=_few(d, x)),
    "at least": lambda d, c, x: Cardinality(at_least=max(int((x > 0).sum()) - 1, 1), min_weight=_few(d, x)),
    "at most by sector": lambda d, c, x: Cardinality(
        at_most=max(_counts(c.groups["sector"], x)), min_weight=_few(d, x), groups="sector"
    ),
    "minimum": lambda d, c, x: MinPosition(_few(d, x)),
    "5/10/40": lambda d, c, x: UCITS("issuer"),
    "25/50": lambda d, c, x: RIC2550("issuer"),
    "75-5-10": lambda d, c, x: Diversified75510("issuer", market_value="value"),
    "TopSum": _top,
    "RoundLots": lambda d, c, x: RoundLots(lot=float(d.choice([1.0, 100.0]))),
    "Either": _either,
}


@dataclass(frozen=True)
class Mixed:
    """One problem: energy, rules, context, the planted portfolio (n,), and whether a NaN was planted."""

    energy: Energy
    rules: Constraint
    ctx: Context
    x: torch.Tensor
    broken: bool


def surroundings(draw: Draw, n: int) -> Context:
    seed = int(draw.integers(10**6))
    ctx = rich(market(n, size=120, seed=seed), seed, paths=8, steps=6)
    houses = tuple(f"h{int(k)}" for k in draw.integers(0, max(n - 2, 2), n))
    land = tuple("east" if k % 3 else "west" for k in range(n))
    frozen = torch.ones(n, dtype=torch.bool)
    if draw.random() < 0.2:
        frozen[int(draw.integers(n))] = False
    held = None if draw.random() < 0.1 else ctx.held
    value = torch.tensor(draw.uniform(1e6, 1e8, n))
    return replace(
        ctx, groups={**ctx.groups, "issuer": houses, "land": land}, tradeable=frozen, held=held,
        forecasts={**ctx.forecasts, "value": value},
    )  # fmt: skip


def _planted(draw: Draw, ctx: Context) -> torch.Tensor:
    """A long portfolio of some of the names; what cannot be traded is in it as it is held."""
    n = ctx.n_assets
    chosen = draw.permutation(n)[: int(draw.integers(2, n + 1))]
    x = torch.zeros(n, dtype=torch.float64)
    x[torch.tensor(chosen)] = torch.tensor(draw.dirichlet(np.full(len(chosen), 3.0)))
    x = x * float(draw.choice([1.0, 1.0, 0.6]))
    return torch.where(ctx.tradeable, x, ctx.fixed)


def _with_cash(x: torch.Tensor) -> Budget:
    """Room for what whole lots leave over: they seldom add up to exactly one sum."""
    return Budget(float(x.sum()), max(float(x.sum()) - 0.2, 0.0))


def problem(seed: int) -> Mixed:
    """One to six terms under two to seven rules of any kind, n from 6 to 12."""
    draw = np.random.default_rng(seed)
    ctx = surroundings(draw, int(draw.integers(6, 13)))
    x = _planted(draw, ctx)
    rules: list[Constraint] = [Budget(float(x.sum()), max(float(x.sum()) - 0.2, 0.0) if draw.random() < 0.3 else None)]
    rules.append(LongOnly() if draw.random() < 0.7 else Box(lower=-0.3, upper=1.5))
    names = [name for name in CONVEX_RULES if name not in ("Budget", "LongOnly", "DollarNeutral")]
    if ctx.held is None:
        names = [name for name in names if name not in ("Turnover", "Participation")]
    room = float(draw.choice([0.02, 0.2, 0.6]))
    some = draw.choice(names, int(draw.integers(0, 4)), replace=False)
    rules += [CONVEX_RULES[name](draw, ctx, x, room) for name in some]
    some = draw.choice(list(DISCRETE), int(draw.integers(0, 3)), replace=False)
    rules += [DISCRETE[name](draw, ctx, x) for name in some]
    if "RoundLots" in some and draw.random() < 0.9:
        rules[0] = _with_cash(x)
    whole = rules[0]
    for rule in rules[1:]:
        whole = whole & rule
    energy = _formula(draw, ctx, rules)
    broken = draw.random() < 0.05
    if broken:
        ctx, broken = _with_nan(draw, ctx, energy)
    return Mixed(energy, whole, ctx, x, broken)


def _formula(draw: Draw, ctx: Context, rules: list[Constraint]) -> Energy:
    long = any(isinstance(rule, LongOnly) for rule in rules)
    held = ctx.held is not None
    usable = [t for t in TERMS if (long or not isinstance(t, POSITIVE)) and (held or "MarketImpact" not in repr(t))]
    terms = [usable[int(k)] for k in draw.choice(len(usable), int(draw.integers(1, 4)), replace=False)]
    if draw.random() < 0.4:
        terms.append(CURVED[int(draw.integers(len(CURVED)))](draw))
    if draw.random() < 0.15:
        terms.append(Relaxed(UCITS("issuer") if draw.random() < 0.3 else Box(upper=0.2)))
    energy: Energy = sum(float(np.exp(draw.normal())) / _size(t, ctx, draw) * t for t in terms)
    if held and draw.random() < 0.2:
        energy = energy + FixedCost(rate=float(draw.choice([1e-4, 1e-2])))
    return energy


def _size(term: Energy, ctx: Context, draw: Draw) -> float:
    """How much the term moves over long portfolios."""
    values = term.bind(ctx)(torch.tensor(draw.dirichlet(np.ones(ctx.n_assets), 8)))
    spread, level = float(values.max() - values.min()), float(values.abs().max())
    found = spread if spread > 1e-9 * level else level
    # What is a rounding of zero is not to be scaled up to matter.
    return found if found > 1e-12 and math.isfinite(found) else 1.0


def _with_nan(draw: Draw, ctx: Context, energy: Energy) -> tuple[Context, bool]:
    """A NaN in one of the estimates that the formula reads, at a name that can be traded."""
    asked = sorted(needs(energy) & {"mean", "covariance", "scenarios"})
    who = int(draw.choice(torch.nonzero(ctx.tradeable).flatten().numpy()))
    if not asked or ctx.market is None:
        return ctx, False
    what = str(draw.choice(asked))
    if what == "covariance":
        diagonal = ctx.covariance.diagonal.clone()
        diagonal[who] = torch.nan
        changed: Any = replace(ctx.covariance, diagonal=diagonal)
    else:
        changed = getattr(ctx.market, what).clone()
        changed[..., who] = torch.nan
    return replace(ctx, market=replace(ctx.market, **{what: changed})), True


def outcome(case: Mixed, *, ranges: bool = False) -> Outcome:
    """What the door makes of a problem; errors without a type of ours are not caught. Kinds are "proven", "bounded",
    "found", "infeasible", "gave up", "not offered" and "NaN refused". With `ranges` those are drawn and judged too."""
    try:
        check(case.energy, case.ctx)
        found = DOOR.build(case.energy, case.rules, case.ctx, torch.Generator().manual_seed(0))
    except InfeasibleError as error:
        return Outcome("infeasible", "called infeasible, and the planted one obeys" if _obeys(case) else "", str(error))
    except PortfolioEBMError as error:
        if case.broken:
            return Outcome(
                "NaN refused", "" if re.search(r"\bA\d", str(error)) else "refused without a name", str(error)
            )
        kind = {SolverError: "gave up", SpecError: "not offered"}.get(type(error), "refused")
        return Outcome(kind, "" if len(str(error)) > 20 else "no sentence", f"{type(error).__name__}: {error}")
    if case.broken:
        return Outcome("found", "a NaN passed", str(found.status))
    kind = "found" if found.bound is None else ("proven" if _proven(found) else "bounded")
    return Outcome(kind, _wrong(case, found) or (_outside(found) if ranges else ""), str(found.status))


def _proven(found: Solution) -> bool:
    assert found.gap is not None
    return found.gap <= 1e-8 * max(abs(found.energy), *map(abs, found.breakdown.values()), 1e-12)


def _obeys(case: Mixed) -> bool:
    """Whether the planted portfolio obeys every rule."""
    stands = torch.equal(case.x, torch.where(case.ctx.tradeable, case.x, case.ctx.fixed))
    return stands and float(case.rules.residual(case.x, case.ctx)) <= FEASIBLE


def _outside(found: Solution) -> str:
    """Each term's range is of numbers, and holds its share of the portfolio that was found."""
    room = 1e-9 * max(map(abs, found.breakdown.values()), default=0.0)
    for name, (low, high) in found.ranges.items():
        if not low - room <= found.breakdown[name] <= high + room:
            return f"the range of {name} leaves out its own share"
    return "" if set(found.ranges) == set(found.breakdown) else "a term without a range"


def _wrong(case: Mixed, found: Solution) -> str:
    broken = float(case.rules.residual(found.weights, case.ctx))
    stood = torch.where(case.ctx.tradeable, 0.0, found.weights - case.ctx.fixed).abs().max()
    if not broken <= FEASIBLE:
        return f"infeasible by {broken:.1e}"
    if float(stood) > FEASIBLE:
        return f"moved what cannot be traded by {float(stood):.1e}"
    value = float(case.energy.bind(case.ctx)(found.weights))
    if not math.isfinite(value) or abs(value - found.energy) > 1e-9 * max(abs(value), 1.0):
        return "another energy than it says"
    obeys = _obeys(case)
    planted = float(case.energy.bind(case.ctx)(case.x))
    size = max(abs(planted), *map(abs, found.breakdown.values()))
    if obeys and found.bound is not None and found.bound > planted + 1e-7 * size + ROUNDING:
        return f"a false bound, above the planted one by {(found.bound - planted) / size:.1e}"
    if obeys and found.bound is not None and _proven(found) and found.energy > planted + 1e-6 * size + ROUNDING:
        return f"called proven, above the planted one by {(found.energy - planted) / size:.1e}"
    return ""
