"""What a node's choices cost at least, as energies of single names: fixed costs and their envelopes.

A unit of one name whose cheapest open mode is a point (a name that stays as it is held) pays at least `fixed` for
leaving it; how far it can go, by its modes, the turnover cap and the budget, is its reach. With a part of the quadratic
split off (splitting.py) and the impact of a trade that is a function whose envelope the relaxation takes
(envelopes.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from portfolio_ebm.constraints.mixed.choices import Choices, least, some
from portfolio_ebm.constraints.mixed.programs.bent import BentProgram
from portfolio_ebm.constraints.mixed.programs.enveloped import EnvelopedProgram
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.slice import TOLERANCE, Array, Ints, Mask, Point
from portfolio_ebm.constraints.mixed.programs.splitting import Split


@dataclass(frozen=True)
class Fees:
    """Of every name: where it pays nothing, what leaving costs at least (zero: no such choice), (n,) each; how far it
    can go and has to, below and above, (n, 2) each."""

    anchor: Array
    fixed: Array
    reach: Array
    least: Array

    @classmethod
    def of(cls, program: Program, choices: Choices, allowed: Mask, furthest: Array) -> Fees:
        """Those of the open modes `allowed` (U, M); no name goes further than `furthest` (n, 2) from what is held."""
        n, c = program.n, choices
        alone = c.size[c.unit] == 1
        unit, name = c.unit[alone], c.name[alone]
        open_, low, high = allowed[unit], c.lower[unit], c.upper[unit]
        cost = np.where(open_, c.cost[unit], np.inf)
        cheapest = least(cost)
        stays = open_ & (cost == cheapest[:, None]) & (low == high)
        moves = open_ & ~stays
        where = np.take_along_axis(low, stays.argmax(axis=1)[:, None], axis=1)[:, 0]
        extra = least(np.where(moves, cost, np.inf)) - cheapest
        pays = some(stays) & some(moves) & (extra > 0.0)
        held = np.zeros(n) if program.held is None else program.held
        if not known(program):
            pays &= where == held[name]
        below = where - least(np.where(moves, low, np.inf))
        above = -least(np.where(moves, -high, np.inf)) - where
        anchor, fixed, reach = held.copy(), np.zeros(n), np.full((n, 2), np.inf)
        at = name[pays]
        anchor[at], fixed[at] = where[pays], extra[pays]
        reach[at] = np.column_stack([below, above])[pays]
        reach[anchor == held] = np.minimum(reach, furthest)[anchor == held]
        first = np.zeros((n, 2))
        with np.errstate(invalid="ignore"):
            gaps = [where[:, None] - high, low - where[:, None]]
        first[at] = np.column_stack([least(np.where(moves, np.maximum(gap, 0.0), np.inf)) for gap in gaps])[pays]
        return cls(anchor, fixed, reach, np.where(np.isfinite(first), first, 0.0))


def furthest(p: Program) -> Array:
    """How far a name can go from what is held, (n, 2) down and up: a budget makes half of the turnover of either side,
    (cap + most - sum of held) / 2 up."""
    if p.held is None or not np.isfinite(p.turnover):
        return np.full((p.n, 2), np.inf)
    was, down, up = float(p.held.sum()), p.turnover, p.turnover
    for row, low, high in zip(p.rows, p.row_lower, p.row_upper, strict=True):
        if row[0] > 0.0 and (row == row[0]).all():
            down = min(down, 0.5 * (p.turnover + was - low / row[0]))
            up = min(up, 0.5 * (p.turnover + high / row[0] - was))
    return np.tile(np.maximum([down, up], 0.0) + TOLERANCE, (p.n, 1))


def decided_cost(choices: Choices, allowed: Mask) -> float:
    """The least that the units' modes can cost."""
    return float(least(np.where(allowed, choices.cost, np.inf)).sum()) if choices.priced else 0.0


def known(program: Program) -> bool:
    """Whether the program's energy is its matrix, its rate and an impact, so that envelopes can be taken of it."""
    return type(program) is Program or type(program) is BentProgram


def envelope_of(program: Program, fees: Fees, split: Split | None) -> Envelope:
    power = program.power if isinstance(program, BentProgram) else np.zeros(program.n)
    share = np.zeros(program.n) if split is None else split.diagonal
    return Envelope.of(fees.anchor, fees.fixed, fees.reach, share, power, fees.least, program.rate, program.held)


def enveloped(program: Program, fees: Fees, split: Split | None) -> tuple[Program, float]:
    """The program with the envelopes of the fees, and a constant to add to its energies."""
    p = program
    if not known(p):
        furthest_side = fees.reach.max(axis=1)
        pays = (fees.fixed > 0.0) & (furthest_side > TOLERANCE)
        rate = np.divide(fees.fixed, furthest_side, out=np.zeros(p.n), where=pays)
        return (replace(p, rate=p.rate + rate) if rate.any() else p), 0.0
    e = envelope_of(p, fees, split)
    matrix = p.matrix if split is None else split.rest
    linear = p.linear + 2.0 * e.split * e.anchor
    rate = p.rate - e.rate if e.rate.any() else p.rate
    if isinstance(p, BentProgram):
        return replace(p, matrix=matrix, linear=linear, envelope=e, rate=rate, plain=p), e.constant
    found = EnvelopedProgram(
        matrix, linear, p.lower, p.upper, p.rows, p.row_lower, p.row_upper, p.held, rate, p.turnover, envelope=e,
        plain=p,
    )  # fmt: skip
    return found, e.constant


def missing_cost(choices: Choices, allowed: Mask, short: Array, modes: Ints) -> Array:
    """By how much the relaxation's energy is short of that of `modes` (U,), unit by unit, (U,): `short` (n,) name by
    name, and what the modes cost."""
    c = choices
    cheapest = least(np.where(allowed, c.cost, np.inf))
    return np.asarray(np.bincount(c.unit, short[c.name], c.units) + c.cost[np.arange(c.units), modes] - cheapest)


def worth_opening(
    e: Envelope, choices: Choices, allowed: Mask, point: Point, enough: float, rate: Array | float = 0.0,
    bend: Array | float = 0.0,
) -> Mask:  # fmt: skip
    """The open modes of a node, (U, M), but those of single names whose own bound is at least `enough`.

    With the multipliers of the node's minimum its bound is a sum over names of the least of envelope + price w; in a
    mode that is cost + split (w - anchor)^2 + power |w - held|^(3/2) + price w on its interval, and the difference is
    added to the bound. Trades cost `rate` (n,) beside the envelope, and what is a part of it; of the prices `bend` (n,)
    is the slope of what bends.

    Source: Atamturk, A. and Gomez, A. (2020), Safe screening rules for l0-regression from perspective relaxations,
    ICML 119.
    """
    c, w = choices, point.weights
    alone = c.size[c.unit] == 1
    unit, name = c.unit[alone], c.name[alone]
    beside, prices = np.broadcast_to(rate, w.shape), point.prices - bend
    now = (e.square(w) + e.bent(w) + beside * np.abs(w - e.held) + prices * w)[name]
    anchor, split, power, price, held, toll = (
        x[name][:, None] for x in (e.anchor, e.split, e.power, prices, e.held, e.rate + beside)
    )
    slope = 2.0 * split * (held - anchor) + price
    best = held + _furthest_gain(split, power, -slope - toll) - _furthest_gain(split, power, slope - toll)
    x = np.clip(best, c.lower[unit], c.upper[unit])
    cost = np.where(allowed[unit], c.cost[unit], np.inf)
    with np.errstate(invalid="ignore"):
        z = np.abs(x - held)
        mine = split * (x - anchor) ** 2 + power * z**1.5 + price * x + toll * z
        above = point.bound + cost - least(cost)[:, None] + mine - now[:, None] >= enough
    found = allowed.copy()
    found[unit] &= ~above
    return found


def _furthest_gain(split: Array, power: Array, gain: Array) -> Array:
    """The z >= 0 where split z^2 + power z^(3/2) - gain z is least."""
    gain = np.maximum(gain, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = 2.0 * gain / (1.5 * power + np.sqrt(2.25 * power**2 + 8.0 * split * gain))
    return np.asarray(np.where(gain > 0.0, root**2, 0.0))
