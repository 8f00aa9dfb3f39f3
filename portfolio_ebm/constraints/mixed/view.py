"""What a node's relaxation minimises: the program under envelopes of all that choices cost, a price included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from portfolio_ebm.constraints.mixed.fees import Fees, decided_cost, enveloped, worth_opening
from portfolio_ebm.constraints.mixed.programs.bent import BentProgram
from portfolio_ebm.constraints.mixed.programs.enveloped import EnvelopedProgram
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.rooted import Counted, RootedProgram
from portfolio_ebm.constraints.mixed.programs.slice import Array, Mask, Point

if TYPE_CHECKING:
    from portfolio_ebm.constraints.mixed.node import Mixed


@dataclass(frozen=True)
class View:
    """What a node's relaxation minimises: a program, a constant beside it, and the price of a limit in it."""

    mixed: Mixed
    allowed: Mask
    program: Program
    constant: float
    price: float | None

    @classmethod
    def of(cls, mixed: Mixed, allowed: Mask, start: Array | Point | None) -> View:
        view, p, constant, price = mixed.perspective, mixed.program, 0.0, None
        if view is not None and not view.idle(allowed):
            price = start.price if isinstance(start, Point) and start.price is not None else view.price
        if view is not None and price is not None and isinstance(p, RootedProgram):
            # The bound of a root has the limit in it.
            under = p.priced(view.split, price, Counted(*view.undecided(allowed, mixed.choices, p.n)))
            return cls(mixed, allowed, under, decided_cost(mixed.choices, allowed), price)
        dues, spare = mixed.dues(allowed, price)
        if dues.priced:
            p, constant = enveloped(p, Fees.of(p, dues, allowed, mixed.reach), mixed.split)
        return cls(mixed, allowed, p, decided_cost(dues, allowed) + constant - spare, price)

    @property
    def envelope(self) -> Envelope | None:
        kinds = EnvelopedProgram, BentProgram, RootedProgram
        return self.program.envelope if isinstance(self.program, kinds) else None

    def shares(self, w: Array) -> Array:
        """z of the names that the priced limit counts, (n,)."""
        assert self.mixed.perspective is not None and self.envelope is not None
        return self.mixed.perspective.shares(self.allowed, self.mixed.choices, self.envelope.share(w))

    def open(self, point: Point, enough: float) -> Mask | None:
        """The modes that the multipliers of the minimum do not exclude from being below `enough`; None for all."""
        if self.price is None or not np.isfinite(enough) or self.envelope is None:
            return None
        if isinstance(self.program, RootedProgram):
            return None  # its bound is no sum over names
        if point.bound >= enough:
            return None
        dues, _ = self.mixed.dues(self.allowed, self.price)
        # The cap on turnover is in the bound by its toll.
        rate, bend = self.program.rate + point.toll, self.program.bend(point.weights)[1]
        return worth_opening(self.envelope, dues, self.allowed, point, enough, rate, bend)

    def next_price(self, w: Array) -> float | None:
        if self.price is None or self.mixed.perspective is None:
            return None
        return self.mixed.perspective.repriced(self.allowed, self.shares(w), self.price)
