"""Tighter relaxations for a proof, once there is an incumbent: a limit on numbers priced, hopeless modes left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from portfolio_ebm.constraints.mixed.fees import known
from portfolio_ebm.constraints.mixed.node import Mixed, hull, node_box, propagate, relax
from portfolio_ebm.constraints.mixed.perspective import Perspective, Seen, perspective_of, priced_limit
from portfolio_ebm.constraints.mixed.programs.rooted import rooted
from portfolio_ebm.constraints.mixed.programs.slice import Mask, Point
from portfolio_ebm.constraints.mixed.view import View


def strengthened(mixed: Mixed, root: Mask, value: float = np.inf) -> Mixed:
    """`mixed` with relaxations that price its limit on numbers, where it has one and the energy's kind is known, and
    without the modes that they exclude from being below `value`; the parts of its `root` are then those of both."""
    limit = priced_limit(mixed.choices)
    if limit is None or not (known(mixed.program) or rooted(mixed.program)):
        return mixed
    left = root

    def moving() -> Mask:
        lower, upper, *_ = node_box(mixed, *hull(mixed.choices, left))
        # Under a root what stays at a weight is part of the product that bounds it.
        return upper > lower if known(mixed.program) else (upper > lower) | (lower != 0.0)

    def solve(view: Perspective, start: Point | None) -> Seen | None:
        nonlocal left
        one = replace(mixed, perspective=view)
        near = None if start is None else replace(start, price=view.price)
        point = None if view.idle(left) else relax(one, left, near, value)
        if point is None:
            return None
        z = View.of(one, left, near).shares(point.weights)
        tight = None if point.open is None else propagate(mixed.choices, left & point.open)
        left = left if tight is None else tight
        return Seen(view, point, z, moving())

    view = perspective_of(mixed.program.matrix, limit, moving(), solve)
    return mixed if view is None else replace(mixed, perspective=view, left=left)
