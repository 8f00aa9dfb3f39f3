"""Which rules contradict one another: the smallest set, by name and with numbers.

No set of fewer rules is impossible (conflicts.py); so leave out any one of those named, and the others can be obeyed
together. Possible or not is decided by a linear program, by a cone program where caps are curved, or by a small
mixed-integer program where names are a choice.

Source: Chinneck, J. W. (2008), Feasibility and Infeasibility in Optimization, chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.constraints.caps import Cap, Ellipsoid, Tail
from portfolio_ebm.constraints.combine import All, region_of, regions_of
from portfolio_ebm.constraints.families import per_of
from portfolio_ebm.constraints.mixed.grids.sums import never
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.feasibility.conflicts import smallest_conflict
from portfolio_ebm.construction.feasibility.feasible import least, possible
from portfolio_ebm.construction.feasibility.room import asked, least_value
from portfolio_ebm.context import Context
from portfolio_ebm.errors import InfeasibleError, SolverError

Array = NDArray[np.float64]

ASKED = 400
"""Sets of rules asked about for the smallest conflict; then one that no rule can be left out of is named, by one more
question a rule at most, and said to be no more."""

_ROUNDS, _PATIENT = 10, 60
"""Of cuts, for a question on the way to the smallest conflict, where one is known already and where none is: any of
them may stay open, all of them may not take long."""

_CHEAP: tuple[set[str], ...] = (set(), {"curved"}, {"choice"}, {"curved", "choice"})
"""Kinds of rules that are asked about together, the cheapest first: linear programs, cone programs, mixed-integer
ones, and those with cuts. Whole lots come last: they are blamed for nothing that the others rule out without them."""


def explain_infeasible(constraint: Constraint, ctx: Context, *, looked: bool = False) -> InfeasibleError:
    """The error to raise for rules that no portfolio satisfies: the smallest conflict, with numbers.

    `looked` says that every number of lots was looked at and none obeys the rules, whatever HiGHS's tolerance says.

    `conflict` holds the repr of each rule in it. Where the rules can be obeyed after all, to the solver's tolerance,
    the message says so and the conflict is empty. Past ASKED questions, or where some stay open, there may be a
    smaller one, and the message says so. Whole lots are in it only where the other rules can be obeyed without them.

    Raises:
        SolverError: none was found, and whether there is one was not settled either; so of whole lots, where the
            solver's tolerance says that there is.

    Example:
        >>> raise explain_infeasible(Budget() & Box(upper=0.05), ctx)
        InfeasibleError: Box(upper=0.05) on 10 tradeable names allows at most 0.5 of the 1 that Budget() needs. ...
    """
    rules = list(constraint.rules())
    cheap = _impossible_part(rules, ctx)
    if cheap is None:
        lots = any(_in_lots(rule, ctx) for rule in rules)
        unsettled: SolverError | None = None
        try:
            can = _possible(rules, ctx)
        except SolverError as error:
            if not lots:
                raise
            can, unsettled = True, error
        if can and looked:
            return InfeasibleError(
                f"{_not_found(constraint, ctx)} There is none: every number of lots was ruled out. Whether fewer rules "
                f"than {len(rules)} contradict one another too was not settled.", [repr(rule) for rule in rules],
            )  # fmt: skip
        if can and lots:
            # HiGHS may call lots possible that miss an exact sum by its tolerance: that settles nothing.
            raise SolverError(f"{_not_found(constraint, ctx)} Whether there is one was not settled.") from unsettled
        if can:
            return InfeasibleError(_not_found(constraint, ctx))
    rules, smallest = _conflict(rules, cheap, ctx)
    names = [repr(rule) for rule in rules]
    frozen = int((~ctx.tradeable).sum())
    parts = [_measured(rules, ctx) or f"No portfolio obeys {_words(names)} together."]
    if frozen:
        held = float(ctx.fixed[~ctx.tradeable].sum())
        parts.append(f"{frozen} of {ctx.n_assets} names cannot be traded and stay at a total weight of {held:.4g}.")
    advice = f"Loosen or leave out any one of {_words(names)}." if len(names) > 1 else f"Loosen {names[0]}."
    parts.append(advice[:-1] + ctx.at + ".")
    if not smallest:
        parts.append(f"Whether fewer rules than {len(names)} contradict one another too was not settled.")
    return InfeasibleError(" ".join(parts), names)


def _impossible_part(rules: list[Constraint], ctx: Context) -> list[Constraint] | None:
    """The rules of the cheapest kinds that cannot be obeyed together, without the others; None where all can."""
    kinds = [_kinds(rule, ctx) for rule in rules]
    before: list[Constraint] = []
    for allowed in _CHEAP:
        part = [rule for rule, kind in zip(rules, kinds, strict=True) if kind <= allowed]
        if part and part != before and len(part) < len(rules):
            with suppress(SolverError):
                if not _possible(part, ctx):
                    return part
        before = part
    return None


def _conflict(rules: list[Constraint], part: list[Constraint] | None, ctx: Context) -> tuple[list[Constraint], bool]:
    """The smallest conflict, and whether that is settled: first in the cheap `part`, where there is one, so that of
    the dear sets of rules only those smaller than it are asked about."""
    ordered = sorted(rules, key=lambda rule: len(_kinds(rule, ctx)))
    known: list[frozenset[int]] = []
    if part is not None:
        ordered = [rule for rule in ordered if not _in_lots(rule, ctx)]
        first = smallest_conflict(len(part), _oracle(part, ctx, _PATIENT), ASKED)
        named = [part[i] for i in first.members]
        if len(part) == len(ordered):
            return named, first.smallest
        known = [frozenset(ordered.index(rule) for rule in named)]
    found = smallest_conflict(len(ordered), _oracle(ordered, ctx, _ROUNDS if known else _PATIENT), ASKED, known)
    named = [ordered[i] for i in found.members]
    return [rule for rule in rules if rule in named], found.smallest


def _oracle(rules: Sequence[Constraint], ctx: Context, rounds: int) -> Callable[[frozenset[int]], bool]:
    """Whether some of the rules can be obeyed together."""
    return lambda some: _possible([rules[i] for i in sorted(some)], ctx, rounds)


def _possible(rules: Sequence[Constraint], ctx: Context, rounds: int | None = None) -> bool:
    """Whether any case of the rules has a portfolio.

    Raises:
        SolverError: none was found, and for some case that was not settled.
    """
    open_: SolverError | None = None
    for region in regions_of(All(parts=tuple(rules)), ctx):
        try:
            if possible(region) if rounds is None else possible(region, rounds):
                return True
        except SolverError as error:
            open_ = error
    if open_ is not None:
        raise open_
    return False


def _kinds(rule: Constraint, ctx: Context) -> set[str]:
    """What makes a question about the rule dear: curved caps, a choice of names, whole lots."""
    cases = [region.folded() for region in regions_of(rule, ctx)]
    made = {
        "curved": any(bool(region.curved) for region in cases),
        "choice": any(region.ungridded().discrete for region in cases),
        "lots": any(region.grid is not None for region in cases),
    }
    return {kind for kind, has in made.items() if has}


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
    sums = never(_region(rules, ctx))
    if sums is not None:
        name, low, high, unit = sums
        wanted = f"{low:.10g}" if low == high else f"between {low:.10g} and {high:.10g}"
        return f"Every sum of whole lots is a multiple of {unit:.6g} of the capital, and {name} asks for {wanted}."
    # Beside a choice, how low a cap can be is quickly told; how far a row goes, or how few names it takes, is not.
    dear = asked(_region(rules, ctx).ungridded())
    for rule in [one for one in rules if not dear or "curved" in _kinds(one, ctx)]:
        rest = [other for other in rules if other != rule]
        alone, others = _region([rule], ctx), _region(rest, ctx)
        others_named = _words([repr(other) for other in rest]) or "What is held"
        s = "" if len(rest) > 1 else "s"
        for row, low, high in zip(alone.rows, alone.row_lower.tolist(), alone.row_upper.tolist(), strict=True):
            direction = row.cpu().numpy().astype(np.float64)
            who = others_named + (_on(row, ctx) if rest else "")
            smallest, largest = least(others, cost=direction), least(others, cost=-direction)
            if largest is not None and -largest < low - 1e-12:
                said = _digits(-largest + 0.0, low)
                return f"{who} allow{s} at most {said[0]} of the {said[1]} that {rule!r} needs."
            if smallest is not None and smallest > high + 1e-12:
                said = _digits(smallest, high)
                return f"{who} need{s} at least {said[0]}, and {rule!r} allows {said[1]}."
        who = others_named + (f" on {int(ctx.tradeable.sum())} tradeable names" if rest else "")
        if alone.turnover is not None and alone.anchor is not None:
            traded = least(others, moved=alone.anchor.cpu().numpy().astype(np.float64))
            if traded is not None:
                return (
                    f"{others_named} need{s} a turnover of at least {traded:.4g}, and {rule!r} allows "
                    f"{alone.turnover:.4g}."
                )
        for cap in alone.caps:
            needed, per = _needed(others, cap), per_of(rule)
            if needed is not None and needed > cap.limit + 1e-12:
                said = _digits(needed / per, cap.limit / per)
                return f"{others_named} need{s} at least {said[0]}, and {rule!r} allows {said[1]}."
        if alone.at_most is not None:
            count = least(others, counted=np.ones(alone.n))
            if count is not None and round(count) > alone.at_most:
                return f"{who} need{s} at least {round(count)} names, and {rule!r} allows {alone.at_most}."
    return _clash(rules, ctx)


def _digits(one: float, other: float) -> tuple[str, str]:
    """Both with as many digits as tell them apart, four at least."""
    for digits in (4, 7, 10, 13):
        said = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if said[0] != said[1]:
            break
    return said


def _needed(others: Region, cap: Cap) -> float | None:
    """What a cap is at least on the other rules, as far as it is known; None where these are empty."""
    if others.discrete and others.grid is None and isinstance(cap, (Ellipsoid, Tail)):
        found = least_value(others, cap)
        return None if found.empty else found.low
    over = least(others, loose=replace(Region.free(others.n, device=others.lower.device), caps=(cap,)))
    return None if over is None else cap.limit + over


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
