"""Which rules contradict one another: the smallest set, by name and with numbers.

A deletion filter: rules are left out one by one, and a rule without which the rest is still impossible is no part of
the conflict. What stays is irreducible: leave out any one of its rules, and the others can be obeyed together.
Possible or not is decided by a linear program, or a small mixed-integer one where names are a choice.

Source: Chinneck, J. W. (2008), Feasibility and Infeasibility in Optimization, chapter 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All, region_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.context import Context
from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]

_OPEN = 1e4  # stands for an open end of the box where names are a choice; far beyond any weight


def explain_infeasible(constraint: Constraint, ctx: Context) -> InfeasibleError:
    """The error to raise for rules that no portfolio satisfies: the smallest conflict, with numbers.

    `conflict` holds the repr of each rule in it. Where the rules can be obeyed after all, to the solver's tolerance,
    the message says so and the conflict is empty.

    Example:
        >>> raise explain_infeasible(Budget() & Box(upper=0.05), ctx)
        InfeasibleError: Box(upper=0.05) on 10 tradeable names allows at most 0.5 of the 1 that Budget() needs. ...
    """
    rules = list(constraint.rules())
    where = f" at {ctx.date}" if ctx.date else ""
    if possible(_region(rules, ctx)):
        return InfeasibleError(
            f"No portfolio was found{where}, although {constraint!r} can be obeyed up to rounding; "
            "the rules leave almost no room: loosen one of them slightly."
        )
    for rule in list(rules):
        rest = [other for other in rules if other != rule]
        if not possible(_region(rest, ctx)):
            rules = rest
    names = [repr(rule) for rule in rules]
    frozen = int((~ctx.tradeable).sum())
    parts = [_reason(rules, ctx) or f"No portfolio obeys {_words(names)} together."]
    if frozen:
        held = float(ctx.fixed[~ctx.tradeable].sum())
        parts.append(f"{frozen} of {ctx.n_assets} names cannot be traded and stay at a total weight of {held:.4g}.")
    advice = f"Loosen or leave out any one of {_words(names)}." if len(names) > 1 else f"Loosen {names[0]}."
    return InfeasibleError(" ".join([*parts, advice[:-1] + where + "."]), names)


def possible(region: Region) -> bool:
    """Whether any portfolio lies in the region."""
    return _extreme(region, np.zeros(region.n), np.zeros(region.n)) is not None


def _region(rules: Sequence[Constraint], ctx: Context) -> Region:
    return region_of(All(parts=tuple(rules)), ctx)


def _reason(rules: list[Constraint], ctx: Context) -> str | None:
    """One sentence with the numbers of the conflict, from the first rule that can be measured against the others."""
    for rule in rules:
        rest = [other for other in rules if other != rule]
        alone, others = _region([rule], ctx), _region(rest, ctx)
        who = _words([repr(other) for other in rest]) or "What is held"
        free = f" on {int(ctx.tradeable.sum())} tradeable names" if rest else ""
        s = "" if len(rest) > 1 else "s"
        for row, low, high in zip(alone.rows, alone.row_lower, alone.row_upper, strict=True):
            direction = row.cpu().numpy().astype(np.float64)
            most, least = _extreme(others, -direction), _extreme(others, direction)
            if most is not None and -most < float(low) - 1e-12:
                return f"{who}{free} allow{s} at most {-most:.4g} of the {float(low):.4g} that {rule!r} needs."
            if least is not None and least > float(high) + 1e-12:
                return f"{who}{free} need{s} at least {least:.4g}, and {rule!r} allows {float(high):.4g}."
        if alone.turnover is not None and alone.anchor is not None:
            anchor = alone.anchor.cpu().numpy().astype(np.float64)
            traded = _extreme(others, np.zeros(alone.n), anchor=anchor)
            if traded is not None:
                return f"{who} need{s} a turnover of at least {traded:.4g}, and {rule!r} allows {alone.turnover:.4g}."
        if alone.at_most is not None:
            count = _extreme(others, np.zeros(alone.n), np.ones(alone.n))
            if count is not None and round(count) > alone.at_most:
                return f"{who}{free} need{s} at least {round(count)} names, and {rule!r} allows {alone.at_most}."
    return _clash(rules, ctx)


def _clash(rules: list[Constraint], ctx: Context) -> str | None:
    """Bounds on one name that exclude each other."""
    box = _region(rules, ctx)
    low, high = box.lower.clamp_min(-np.inf), box.upper
    wrong = (low > high).nonzero().flatten()
    if len(wrong) == 0:
        return None
    i = int(wrong[0])
    return (
        f"Together {_words([repr(rule) for rule in rules])} ask that {ctx.assets[i]} weighs at least "
        f"{float(low[i]):.4g} and at most {float(high[i]):.4g}."
    )


def _extreme(region: Region, cost: Array, counted: Array | None = None, anchor: Array | None = None) -> float | None:
    """min cost'w + counted'(w is held) + sum |w - anchor| over the region; None where it is empty, -inf if unbounded.

    Variables w, z (held or not, only where names are counted or a choice), v >= |w - anchor|.

    Raises:
        SolverError: HiGHS ended otherwise.
    """
    n = region.n
    lower, upper = (x.cpu().numpy().astype(np.float64) for x in (region.lower, region.upper))
    if (lower > upper).any():
        return None
    choice = region.discrete or (counted is not None and bool(counted.any()))
    frozen = region.frozen.cpu().numpy()
    point = (
        region.anchor.cpu().numpy().astype(np.float64)
        if region.turnover is not None and region.anchor is not None
        else None
    )
    moved = anchor if anchor is not None else point
    eye, none = np.eye(n), np.zeros((n, n))
    rows = region.rows.cpu().numpy().astype(np.float64)
    tests = []
    if len(rows):
        low, high = region.row_lower.cpu().numpy(), region.row_upper.cpu().numpy()
        tests.append(LinearConstraint(np.hstack([rows, np.zeros((len(rows), 2 * n))]), low, high))
    if choice:
        lower, upper = np.maximum(lower, -_OPEN), np.minimum(upper, _OPEN)
        free = ~frozen
        floor = np.maximum(lower, region.min_weight) if region.min_weight > 0.0 else np.minimum(lower, 0.0)
        tests.append(LinearConstraint(np.hstack([eye, -np.diag(np.maximum(upper, 0.0)), none])[free], -np.inf, 0.0))
        tests.append(LinearConstraint(np.hstack([eye, -np.diag(floor), none])[free], 0.0, np.inf))
        most = np.inf if region.at_most is None else region.at_most
        tests.append(LinearConstraint(np.concatenate([np.zeros(n), free.astype(float), np.zeros(n)])[None], 0.0, most))
    if moved is not None:
        tests.append(LinearConstraint(np.hstack([eye, none, -eye]), -np.inf, moved))
        tests.append(LinearConstraint(np.hstack([eye, none, eye]), moved, np.inf))
    if point is not None:
        tests.append(LinearConstraint(np.concatenate([np.zeros(2 * n), np.ones(n)])[None], 0.0, region.turnover))
    top = np.full(n, np.inf) if moved is not None else np.zeros(n)
    box = Bounds(
        np.concatenate([lower, np.zeros(2 * n)]), np.concatenate([upper, np.ones(n) if choice else np.zeros(n), top])
    )
    whole = np.concatenate([np.zeros(n), np.ones(n) if choice else np.zeros(n), np.zeros(n)])
    price = np.concatenate(
        [cost, counted if counted is not None else np.zeros(n), np.full(n, float(anchor is not None))]
    )
    found = milp(price, constraints=tests, bounds=box, integrality=whole, options={"time_limit": 30.0})
    if found.x is not None:
        return float(found.fun)
    if found.status == 2:
        return None
    # HiGHS may answer "unbounded or infeasible": a bounded copy of the question tells which.
    if found.status in (3, 4) and (price != 0.0).any():
        return None if _extreme(region, np.zeros(n)) is None else -np.inf
    raise SolverError(f"HiGHS could not tell whether the rules can be obeyed together: {found.message}")


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
