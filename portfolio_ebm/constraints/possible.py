"""Names that fit the rules, where no candidate does: one small mixed-integer program (HiGHS).

    minimise sum |w - y|   over the box, the rows, the L1 balls, the tails of few losses,
                           w_i = 0 where z_i = 0, floor z_i <= w_i <= upper_i where z_i = 1, sum z <= K

A tail of few losses, as a sum of the largest weights, enters whole, with its quantile as a variable (Tail.lifted): cut
by cut, each swap of two names would ask for a cut of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from portfolio_ebm.constraints.caps import Tail
from portfolio_ebm.constraints.exact import Cut
from portfolio_ebm.errors import SolverError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_NO_POINT, _ERROR = 2, 4  # scipy's status for an infeasible program, and for one that ended in an error
_WIDE = 1e3  # an endless bound, where a finite one is needed
_NODES = 20_000


def possible_pattern(
    y: Array, cut: Cut, at_most: int, floor: float, frozen: Mask, tails: Sequence[Tail] = ()
) -> tuple[Mask, Array] | None:
    """A pattern (n,) whose slice is not empty and a point of it, nearest to y in the L1 sense; None where there is
    none.

    Variables w (n), z (n, 0 or 1), e (n) >= |w - y|, t, one for every kink of a ball, and those of each of `tails`.

    Raises:
        SolverError: HiGHS gave up without an answer.
    """
    n = len(y)
    lower, upper = np.clip(cut.lower, -_WIDE, _WIDE), np.clip(cut.upper, -_WIDE, _WIDE)
    top, bottom = np.where(frozen, 0.0, np.maximum(upper, 0.0)), np.where(frozen, 0.0, np.minimum(lower, 0.0))
    least = np.where(frozen, 0.0, np.maximum(floor, np.where(floor > 0, lower, 0.0)))
    loose, eye = np.diag(frozen.astype(float)) * _WIDE, np.eye(n)
    kinks, ends, owner, _ = cut.lifted()
    sizes = {"w": n, "z": n, "e": n, "t": len(owner)} | {f"u{k}": 1 + len(one.losses) for k, one in enumerate(tails)}
    tests: list[LinearConstraint] = []

    def add(low: Array | float, high: Array | float, **blocks: Array) -> None:
        height = len(next(iter(blocks.values())))
        whole = np.hstack([blocks.get(name, np.zeros((height, size))) for name, size in sizes.items()])
        tests.append(LinearConstraint(whole, low, high))

    add(cut.low, cut.high, w=cut.rows)
    add(-np.inf, 0.0, w=eye, z=-np.diag(top) - loose)
    add(0.0, np.inf, w=eye, z=np.diag(np.where(floor > 0, -least, -bottom)) + loose)
    add(-np.inf, y, w=eye, e=-eye)
    add(y, np.inf, w=eye, e=eye)
    add(0.0, at_most, z=(~frozen).astype(float)[None])
    if len(kinks):
        add(-np.inf, ends, w=kinks[:, :n], t=kinks[:, n:])
    for k, tail in enumerate(tails):
        rows, highest = tail.lifted()
        add(-np.inf, highest, **{"w": rows[:, :n], f"u{k}": rows[:, n:]})
    rest = [np.r_[-np.inf, np.zeros(len(one.losses))] for one in tails]
    box = Bounds(
        np.concatenate([lower, np.zeros(2 * n + len(owner)), *rest]),
        np.concatenate([upper, np.ones(n), np.full(n + len(owner) + sum(map(len, rest)), np.inf)]),
    )
    whole, near = (np.concatenate([np.full(size, float(name == of)) for name, size in sizes.items()]) for of in "ze")
    # HiGHS now and then ends in an error on a sound program; without presolve, or asked for any point, it does not.
    for cost, presolve in ((near, True), (near, False), (0.0 * near, True)):
        options = {"presolve": presolve, "node_limit": _NODES}
        found = milp(cost, constraints=tests, bounds=box, integrality=whole, options=options)
        if found.x is not None:
            pattern: Mask = (found.x[n : 2 * n] > 0.5) & ~frozen
            return pattern, np.asarray(found.x[:n])
        if found.status == _NO_POINT:
            return None
        if found.status != _ERROR:
            break
    raise SolverError(f"The search for names that fit the rules ended with: {found.message}; loosen a rule a little.")
