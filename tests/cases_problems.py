"""Random problems of two terms under two rules, and their judge: cvxpy's own reading of terms and rules, by Clarabel.

Every rule is drawn so that one given portfolio obeys it, with room or without, so that most problems have an answer;
one in twelve is drawn without that care, and may have none. The judge never sees a Region: each term and each rule
speaks to it by `to_cvxpy`, on an objective of order one and with tolerances of 1e-11.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import cvxpy as cp
import numpy as np
import torch
from cases_terms import CONVEX, POSITIVE, N, world

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import region_of
from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.constraints.exposures import BetaNeutral, DollarNeutral, FactorExposure, Group
from portfolio_ebm.constraints.leverage import ActiveShare, Leverage, ShortLimit
from portfolio_ebm.constraints.risk import CVaRCap, TrackingErrorCap, VolatilityCap
from portfolio_ebm.constraints.trading import Participation, Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction.exact.minimum import Minimum, minimize
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, to_cvxpy
from portfolio_ebm.errors import InfeasibleError, SolverError

Draw = np.random.Generator
Rule = Callable[[Draw, Context, torch.Tensor, float], Constraint]
"""(draws, context, a portfolio that is to obey the rule, room it is to have) -> the rule."""

WIDE = Box(lower=-2.0, upper=2.0)
FEASIBLE = 1e-9
CLOSE = 1e-6
"""Energies agree within this, relative to the energy or to its largest slope, a unit of weight moved."""


def _sum(x: torch.Tensor) -> float:
    return float(x.sum())


def _group(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    grouping = str(draw.choice(["sector", "land"]))
    label = str(draw.choice(ctx.labels(grouping)))
    own = _sum(x[ctx.members(grouping, label)])
    if draw.random() < 0.5:
        return Group(grouping, label, upper=own + room)
    return Group(grouping, label, upper=own + room, lower=own - draw.random() * room)


def _exposure(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    own = float(ctx.exposure("size") @ x)
    return FactorExposure("size", upper=own + room, lower=own - draw.random() * room)


def _beta(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    own = float(BetaNeutral("index")._betas(ctx) @ x)
    return BetaNeutral("index", target=own, within=room)


def _index(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    own = 0.5 * float((x - ctx.benchmark("index")).abs().sum())
    return ActiveShare(own + room, benchmark="index")


def _tracking(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    own = float(ctx.covariance.quad(x - ctx.benchmark("index")).sqrt())
    return TrackingErrorCap(own + 1e-3 + 0.05 * room, benchmark="index")


def _tail(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    level, centred = float(draw.choice([0.5, 0.9, 0.953, 0.999])), bool(draw.random() < 0.5)
    cap = CVaRCap(1.0, level=level, centred=centred)
    return cap.replace(at_most=float(cap.cap(ctx).value(x)) + 1e-3 + 0.05 * room)


def _box(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    return Box(lower=float(x.min()) - room, upper=float(x.max()) + 0.5 * room, caps=(("A1", float(x[1]) + 0.5 * room),))


def _neutral(draw: Draw, ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    own = abs(_sum(x))
    return DollarNeutral(within=own + room if room > 0.1 or own > 1e-9 else 0.0)


RULES: dict[str, Rule] = {
    "Budget": lambda draw, ctx, x, room: Budget(_sum(x) + room, _sum(x) - room) if room > 0.1 else Budget(_sum(x)),
    "LongOnly": lambda draw, ctx, x, room: LongOnly(),
    "Box": _box,
    "Group": _group,
    "FactorExposure": _exposure,
    "BetaNeutral": _beta,
    "DollarNeutral": _neutral,
    "Leverage": lambda draw, ctx, x, room: Leverage(float(x.abs().sum()) + room + 1e-3),
    "ShortLimit": lambda draw, ctx, x, room: ShortLimit(float((-x).clamp_min(0.0).sum()) + room),
    "ActiveShare": _index,
    "Turnover": lambda draw, ctx, x, room: Turnover(float((x - ctx.held).abs().sum()) + room),
    "Participation": lambda draw, ctx, x, room: _participation(ctx, x, room),
    "VolatilityCap": lambda draw, ctx, x, room: VolatilityCap(
        float(ctx.covariance.quad(x).sqrt()) + 1e-3 + 0.05 * room
    ),
    "TrackingErrorCap": _tracking,
    "CVaRCap": _tail,
}


def _participation(ctx: Context, x: torch.Tensor, room: float) -> Constraint:
    traded, capital = ctx.traded("Participation")
    return Participation(float(((x - ctx.held).abs() * capital / traded).max()) * (1.0 + room) + 1e-3)


SOFT: list[Energy] = [
    Relaxed(Group("sector", "even", upper=0.3)),
    Relaxed(Turnover(0.3), priority=1),
    Relaxed(Budget() & Box(upper=0.2)),
    Relaxed(VolatilityCap(0.02), priority=2),
]
TERM_PAIRS = list(combinations([*CONVEX, *SOFT], 2))
RULE_PAIRS = list(combinations(RULES, 2))


FAR = 1e6
"""Weights beyond this are no minimum: Clarabel calls points at 1e32 one where an energy falls without end."""
ROUNDING = 1e-12
"""Energies below this, of portfolios of one, are rounding."""


@dataclass(frozen=True)
class Problem:
    """One energy under one set of rules in one context."""

    energy: Energy
    rules: Constraint
    ctx: Context


def problem(terms: tuple[Energy, ...], rules: tuple[str, ...], seed: int) -> Problem:
    """Two terms, each scaled to matter, under two rules, with or without Budget() and a wide box beside them."""
    draw = np.random.default_rng(seed)
    ctx = world(int(draw.integers(1000)), held=True)
    land = tuple("east" if i in (0, 1, 5) else "west" for i in range(N))
    ctx = replace(ctx, groups={**ctx.groups, "land": land})
    if draw.random() < 0.15:
        ctx = replace(ctx, tradeable=torch.tensor([i != int(draw.integers(N)) for i in range(N)]))
    positive = any(isinstance(part.energy, POSITIVE) for term in terms for part in term.terms())
    x = _obeys(draw, ctx, rules, positive)
    aim = x if draw.random() > 1 / 12 else torch.tensor(draw.normal(0.0, 0.3, N))
    room = float(draw.choice([0.02, 0.2, 0.6]))
    found = [RULES[name](draw, ctx, aim, room) for name in rules]
    beside = int(draw.integers(3))
    if beside > 0:
        found.append(WIDE)
    if beside > 1 and "Budget" not in rules and "DollarNeutral" not in rules:
        found.append(Budget(_sum(x)))
    whole = found[0]
    for rule in found[1:]:
        whole = whole & rule
    energy: Energy = terms[0]
    if len(terms) > 1:
        sizes = [_size(term, ctx, draw) for term in terms]
        energy = sum(float(np.exp(draw.normal())) / s * t for s, t in zip(sizes, terms, strict=True))
    return Problem(energy, whole, ctx)


def _obeys(draw: Draw, ctx: Context, rules: tuple[str, ...], positive: bool) -> torch.Tensor:
    """The portfolio that the rules are to leave room for; what cannot be traded is in it as it is held."""
    x = torch.tensor(draw.dirichlet(np.ones(N)))
    if "DollarNeutral" in rules and not positive:
        x = torch.zeros(N, dtype=torch.float64) if "LongOnly" in rules else x - 1.0 / N
    elif "LongOnly" not in rules and not positive and draw.random() < 0.5:
        x = 1.5 * x - 0.5 * torch.tensor(draw.dirichlet(np.ones(N)))
    return torch.where(ctx.tradeable, x, ctx.held)


def _size(term: Energy, ctx: Context, draw: Draw) -> float:
    """How much the term moves over long portfolios; rounding is no move (cash, where every portfolio is invested)."""
    values = term.bind(ctx)(torch.tensor(draw.dirichlet(np.ones(N), 8)))
    spread, level = float(values.max() - values.min()), float(values.abs().max())
    if spread > max(1e-9 * level, ROUNDING):
        return spread
    return level if level > ROUNDING else 1.0


@dataclass(frozen=True)
class Verdict:
    """What Clarabel says: the status, and where it has one a value with its bound below."""

    status: str
    value: float
    bound: float


def judge(energy: Energy, rules: Constraint, ctx: Context) -> Verdict:
    """min energy over the rules and what cannot be traded, by Clarabel, in units in which it ends well."""
    size = slope(energy, ctx)
    found = []
    for unit in (1.0, 0.1, 0.01, 10.0):
        one = _judged(energy, rules, ctx, unit / size)
        # Weights on the rules within a hundredth of what is demanded of Clarabel's own bound are a minimum too.
        if one.status == "optimal_inaccurate" and abs(one.value - one.bound) <= 0.01 * CLOSE * max(
            abs(one.value), size
        ):
            return replace(one, status="optimal")
        if one.status not in ("optimal_inaccurate", "failed", "user_limit"):
            return one
        found.append(one)
    return min(found, key=lambda one: one.value - one.bound if np.isfinite(one.value) else np.inf)


def _judged(energy: Energy, rules: Constraint, ctx: Context, scale: float) -> Verdict:
    w = cp.Variable(N)
    walls = rules.to_cvxpy(w, ctx)
    fixed = np.flatnonzero(~ctx.tradeable.numpy())
    if len(fixed):
        walls.append(w[fixed] == ctx.fixed.numpy()[fixed])
    task = cp.Problem(cp.Minimize(scale * to_cvxpy(energy, w, ctx)), walls)
    tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11, "max_iter": 300}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data, chain, inverse = task.get_problem_data(cp.CLARABEL, solver_opts=tight)
            raw = chain.solve_via_data(task, data, solver_opts=tight)
            task.unpack_results(raw, chain, inverse)
        except cp.error.SolverError:
            return Verdict("failed", np.nan, np.nan)
    if task.status not in ("optimal", "optimal_inaccurate"):
        return Verdict(task.status.removesuffix("_inaccurate"), np.nan, np.nan)
    dual = float(chain.invert(raw, inverse).opt_val) + float(raw.obj_val_dual) - float(raw.obj_val)
    # An inaccurate end states a value that no weights have: it counts where weights on the rules attain it.
    point = torch.as_tensor(w.value)
    off = task.status == "optimal_inaccurate" and float(rules.residual(point, ctx)) > FEASIBLE
    if off or not float(point.abs().max()) < FAR:
        return Verdict("failed", np.nan, np.nan)
    attained = float(energy.bind(ctx)(point))
    return Verdict(task.status, max(float(task.objective.value) / scale, attained), dual / scale)


def solved(case: Problem) -> Minimum:
    """Our answer."""
    return minimize(case.energy, region_of(case.rules, case.ctx), case.ctx)


def slope(energy: Energy, ctx: Context) -> float:
    """The largest slope of a term, with its coefficient, at a middling portfolio: what a unit of weight moves."""
    point = (0.9 * ctx.benchmark("index") + 0.1 / N).requires_grad_()
    slopes = []
    for part in energy.terms():
        value = part.coefficient * part.energy.bind(ctx)(point)
        slopes.append(float(torch.autograd.grad(value, point)[0].abs().max()) if value.requires_grad else 0.0)
    return max(slopes) or 1.0


@dataclass(frozen=True)
class Outcome:
    """How one problem ended.

    Attributes:
        kind: "proven", "not proven" (and the status says so) or "refused" (with a sentence).
        wrong: what is wrong with it, or nothing: infeasible, silent, worse or better than possible, refused in error.
        message: the status or the error.
    """

    kind: str
    wrong: str
    message: str


def outcome(case: Problem) -> Outcome:
    """Our answer against the judge's."""
    said = judge(case.energy, case.rules, case.ctx)
    ended = said.status.startswith("optimal")
    try:
        found = solved(case)
    except (InfeasibleError, SolverError) as error:
        # Clarabel's word counts where it is sure of a minimum, and sees nothing below it among weights of 1,000: it
        # calls points minima, now and then, where an energy falls without end.
        sure = said.status == "optimal" and np.isfinite(said.value)
        if sure:
            near = judge(case.energy, case.rules & Box(lower=-1e3, upper=1e3), case.ctx)
            sure = not near.value < said.value - CLOSE * max(abs(said.value), slope(case.energy, case.ctx))
        return Outcome("refused", "refused, and there is a minimum" if sure else "", str(error))
    kind = "proven" if found.status.ok else "not proven"
    size = max(abs(found.value), slope(case.energy, case.ctx))
    broken = float(case.rules.residual(found.weights, case.ctx))
    wrong = ""
    if broken > FEASIBLE:
        wrong = f"infeasible by {broken:.1e}"
    elif ended and found.value > said.value + CLOSE * size:
        wrong = f"above the minimum by {(found.value - said.value) / size:.1e}"
    elif said.status == "optimal" and found.value < said.bound - CLOSE * size:
        wrong = f"below what is possible by {(said.bound - found.value) / size:.1e}"
    elif said.status == "infeasible":
        wrong = "an answer where Clarabel sees none"
    elif not ended and not found.status.ok and (found.bound is None or found.value - found.bound > CLOSE * size):
        wrong = "no proof of its own, and Clarabel does not end"
    return Outcome(kind, wrong, str(found.status))
