"""Which rules contradict one another: the smallest set, by name and with numbers.

No set of fewer rules is impossible (conflicts.py); so leave out any one of those named, and the others can be obeyed
together. Possible or not is decided by a linear program, by a cone program where caps are curved, or by a small
mixed-integer program where names are a choice.

Source: Chinneck, J. W. (2008), Feasibility and Infeasibility in Optimization, chapter 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.combine import All, region_of, regions_of
from portfolio_ebm.constraints.families import per_of
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.conflicts import smallest_conflict
from portfolio_ebm.construction.feasible import least, possible
from portfolio_ebm.context import Context
from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]

ASKED = 400
"""Sets of rules asked about, at most, for the smallest conflict; then an irreducible one is named, and said to be no
more. Twenty-two rules with two conflicts among them take some fifty questions, sixty-seven some seventy."""


def explain_infeasible(constraint: Constraint, ctx: Context) -> InfeasibleError:
    """The error to raise for rules that no portfolio satisfies: the smallest conflict, with numbers.

    `conflict` holds the repr of each rule in it. Where the rules can be obeyed after all, to the solver's tolerance,
    the message says so and the conflict is empty. Past ASKED questions it is irreducible, and the message says that
    there may be a smaller one.

    Raises:
        SolverError: there are whole lots, none were found, and whether there are any was not settled either.

    Example:
        >>> raise explain_infeasible(Budget() & Box(upper=0.05), ctx)
        InfeasibleError: Box(upper=0.05) on 10 tradeable names allows at most 0.5 of the 1 that Budget() needs. ...
    """
    rules = list(constraint.rules())
    plain = [rule for rule in rules if not _in_lots(rule, ctx)]
    if 0 < len(plain) < len(rules) and _possible(plain, ctx) is False:
        # Lots are dear to ask about, and the others contradict one another without them.
        rules = plain
    open_ = _possible(rules, ctx) if rules is not plain else False
    if open_ is not False:
        said = _not_found(constraint, ctx)
        if open_ is None:
            raise SolverError(f"{said} Whether there is one was not settled.")
        return InfeasibleError(said)
    found = smallest_conflict(
        len(rules), lambda some: _possible([rules[i] for i in sorted(some)], ctx) is not False, ASKED
    )
    rules = [rules[i] for i in found.members]
    names = [repr(rule) for rule in rules]
    frozen = int((~ctx.tradeable).sum())
    parts = [_measured(rules, ctx) or f"No portfolio obeys {_words(names)} together."]
    if frozen:
        held = float(ctx.fixed[~ctx.tradeable].sum())
        parts.append(f"{frozen} of {ctx.n_assets} names cannot be traded and stay at a total weight of {held:.4g}.")
    advice = f"Loosen or leave out any one of {_words(names)}." if len(names) > 1 else f"Loosen {names[0]}."
    parts.append(advice[:-1] + ctx.at + ".")
    if not found.smallest:
        parts.append(f"Of so many rules others may contradict one another too, and fewer of them than {len(names)}.")
    return InfeasibleError(" ".join(parts), names)


def _possible(rules: Sequence[Constraint], ctx: Context) -> bool | None:
    """Whether any case of the rules has a portfolio; None where whole lots leave it open."""
    open_ = False
    for region in regions_of(All(parts=tuple(rules)), ctx):
        try:
            if possible(region):
                return True
        except SolverError:
            if region.grid is None:
                raise
            open_ = True
    return None if open_ else False


def _in_lots(rule: Constraint, ctx: Context) -> bool:
    """Whether any case of the rule asks for whole lots."""
    return any(region.grid is not None for region in regions_of(rule, ctx))


def _not_found(constraint: Constraint, ctx: Context) -> str:
    """The sentence for rules that may well have a portfolio where none was found."""
    rules = {repr(rule): regions_of(rule, ctx) for rule in constraint.rules()}
    if not any(_in_lots(rule, ctx) for rule in constraint.rules()):
        return (
            f"No portfolio was found{ctx.at}, although {constraint!r} can be obeyed up to rounding; "
            "the rules leave almost no room: loosen one of them slightly."
        )
    exact = [
        name for name, cases in rules.items() if any(bool((one.row_lower == one.row_upper).any()) for one in cases)
    ]
    if not exact:
        why = f"{constraint!r} leave almost no room for them: loosen one of them"
    else:
        asks = "asks" if len(exact) == 1 else "ask"
        why = (
            f"{_words(exact)} {asks} for one exact sum, which lots seldom add up to: give a range, Budget(at_least=...)"
        )
    return f"No portfolio in whole lots was found{ctx.at}. {why}, or smaller lots, or more capital."


def _region(rules: Sequence[Constraint], ctx: Context) -> Region:
    return region_of(All(parts=tuple(rules)), ctx)


def _measured(rules: list[Constraint], ctx: Context) -> str | None:
    """`_reason`; None where its numbers could not be had: the rules in conflict are known all the same."""
    try:
        return _reason(rules, ctx)
    except SolverError:
        return None


def _reason(rules: list[Constraint], ctx: Context) -> str | None:
    """One sentence with the numbers of the conflict, from the first rule that can be measured against the others."""
    if any(len(rule.cases()) > 1 for rule in rules):
        return None
    for rule in rules:
        rest = [other for other in rules if other != rule]
        alone, others = _region([rule], ctx), _region(rest, ctx)
        others_named = _words([repr(other) for other in rest]) or "What is held"
        s = "" if len(rest) > 1 else "s"
        for row, low, high in zip(alone.rows, alone.row_lower.tolist(), alone.row_upper.tolist(), strict=True):
            direction = row.cpu().numpy().astype(np.float64)
            who = others_named + (_on(row, ctx) if rest else "")
            smallest, largest = least(others, cost=direction), least(others, cost=-direction)
            if largest is not None and -largest < low - 1e-12:
                return f"{who} allow{s} at most {-largest + 0.0:.4g} of the {low:.4g} that {rule!r} needs."
            if smallest is not None and smallest > high + 1e-12:
                return f"{who} need{s} at least {smallest:.4g}, and {rule!r} allows {high:.4g}."
        who = others_named + (f" on {int(ctx.tradeable.sum())} tradeable names" if rest else "")
        if alone.turnover is not None and alone.anchor is not None:
            traded = least(others, moved=alone.anchor.cpu().numpy().astype(np.float64))
            if traded is not None:
                return (
                    f"{others_named} need{s} a turnover of at least {traded:.4g}, and {rule!r} allows "
                    f"{alone.turnover:.4g}."
                )
        for cap in alone.caps:
            over = least(others, loose=replace(Region.free(alone.n, device=alone.lower.device), caps=(cap,)))
            if over is not None and over > 1e-12:
                per = per_of(rule)
                needed, limit = (cap.limit + over) / per, cap.limit / per
                return f"{others_named} need{s} at least {needed:.4g}, and {rule!r} allows {limit:.4g}."
        if alone.at_most is not None:
            count = least(others, counted=np.ones(alone.n))
            if count is not None and round(count) > alone.at_most:
                return f"{who} need{s} at least {round(count)} names, and {rule!r} allows {alone.at_most}."
    return _clash(rules, ctx)


def _on(row: Tensor, ctx: Context) -> str:
    """ " on its 4 tradeable names" for a row on a part of them, " on 10 tradeable names" for one on all."""
    touched = row != 0
    count = int((touched & ctx.tradeable).sum())
    its = "" if bool(touched.all()) else "its "
    return f" on {its}{count} tradeable name{'' if count == 1 else 's'}"


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


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""
