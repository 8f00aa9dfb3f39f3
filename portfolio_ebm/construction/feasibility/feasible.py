"""What a region leaves room for: linear questions over weights, names held and turnover, answered by HiGHS.

    min  cost'w + counted'z + sum |w - moved| + t    over the region, the walls of `loose` let out by t >= 0

z_i says whether free name i is held; it is binary where names are a choice or counted. The same question tells whether
rules can be obeyed together (cost 0), what the others leave of one rule's row (cost = the row), how few names they
need (counted = 1), how little turnover (moved = what is held), and how far one rule has to give way (loose). Caps that
are neither rows nor L1 balls make it a cone program (conic.py), or enter by cuts, to 1e-7, where names are a choice;
a tail of few losses, as a sum of the largest weights, enters whole (Tail.lifted).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from portfolio_ebm.constraints.capped import least_excess
from portfolio_ebm.constraints.caps import Ball, Tail
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.grids.sums import never
from portfolio_ebm.constraints.mixed.of_region import choices_of, reaching
from portfolio_ebm.constraints.region import Region, curved_names
from portfolio_ebm.construction.feasibility.conic import least_by_cone
from portfolio_ebm.construction.feasibility.room import Room, asked, room
from portfolio_ebm.errors import SolverError
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]
Taken = tuple[float, Array | None]
"""A value and the point where it is taken; no point where nothing bounds the value."""

_MOST_CUTS = 300
_CLOSE = 1e-7
_SECONDS, _NODES = 30.0, 2000
"""What a mixed-integer question may take; nodes where there are lots, whose sums may never be exact."""
_UNITS = 1.0, 1e-3
"""What weights are in, for HiGHS, whose tolerance for integers and rows is 1e-6: the second where the first gives a
point that is lost when its integers are fixed."""
_OPEN = 1e4  # stands for an open end of the box where names are a choice; far beyond any weight


@dataclass
class _Program:
    """Columns (w, z, t, one v per ball, those of the modes) and the rows collected so far."""

    n: int
    balls: int
    modes: Mapping[str, int] = field(default_factory=dict)
    rows: list[sp.csr_matrix] = field(default_factory=list)
    low: list[Array] = field(default_factory=list)
    high: list[Array] = field(default_factory=list)

    @property
    def sizes(self) -> dict[str, int]:
        """The columns of each block, in order."""
        plain = {"w": self.n, "z": self.n, "t": 1} | {f"v{k}": self.n for k in range(self.balls)}
        return plain | dict(self.modes)

    @property
    def width(self) -> int:
        return sum(self.sizes.values())

    @property
    def whole(self) -> Array:
        """Which columns are integers, as 1."""
        return self.filled({name: float(name in ("z", "y", "lots")) for name in self.sizes}, 0.0)

    def filled(self, values: Mapping[str, Array | float | None], other: float) -> Array:
        """One number a column, block by block; `other` where a block has none."""
        given = {name: value for name, value in values.items() if value is not None}
        return np.concatenate([np.broadcast_to(given.get(name, other), width) for name, width in self.sizes.items()])

    def add(self, low: Array | float, high: Array | float, **blocks: sp.spmatrix | Array) -> None:
        """low <= sum of blocks <= high, blocks named as in `sizes`; each (rows, its columns)."""
        size = next(iter(blocks.values())).shape[0]
        if size == 0:
            return
        parts = [
            sp.csr_matrix(blocks[name]) if name in blocks else sp.csr_matrix((size, width))
            for name, width in self.sizes.items()
        ]
        self.rows.append(sp.hstack(parts, format="csr"))
        self.low.append(np.broadcast_to(np.asarray(low, dtype=np.float64), size))
        self.high.append(np.broadcast_to(np.asarray(high, dtype=np.float64), size))


def least(
    region: Region, *, cost: Array | None = None, counted: Array | None = None, moved: Array | None = None,
    loose: Region | None = None, rounds: int = _MOST_CUTS,
) -> float | None:  # fmt: skip
    """The least value of the question above; None where the region is empty, -inf where nothing bounds it.

    `rounds` of cuts are tried where there are curved caps beside a choice of names.

    Raises:
        SolverError: HiGHS or Clarabel ended otherwise, or the cuts came to no end.

    Example:
        >>> least(region_of(Budget() & Box(upper=0.1), ctx), counted=np.ones(20))  # at least so many names
        10.0
    """
    region = reaching(region).folded()
    curved = region.curved or (loose is not None and loose.curved)
    if curved and not region.discrete and (loose is None or not loose.discrete) and counted is None:
        return least_by_cone(region, cost, moved, loose)
    for _ in range(rounds):
        found = _least(region, cost, counted, moved, loose)
        if found is None or found[1] is None:
            return None if found is None else found[0]
        w = torch.as_tensor(found[1][: region.n])
        new = [cap.cut(w.numpy()) for cap in region.curved if float(cap.excess(w)) > _CLOSE]
        eased = []
        if loose is not None:
            by = float(found[1][2 * region.n])
            eased = [cap.cut(w.numpy()) for cap in loose.curved if float(cap.excess(w)) > by + _CLOSE]
        if not new and not eased:
            return found[0]
        for slope, end in new:
            region = region.with_row(torch.as_tensor(slope), -np.inf, end, "cut")
        for slope, end in eased:
            loose = None if loose is None else loose.with_row(torch.as_tensor(slope), -np.inf, end, "cut")
    raise SolverError(
        f"{rounds} rounds of cuts did not settle whether the rules leave room under {curved_names(region, loose)}; "
        "loosen such a cap, or the choice of names beside it, a little."
    )


def _least(
    region: Region, cost: Array | None, counted: Array | None, moved: Array | None, loose: Region | None
) -> Taken | None:
    """`least` without the curved caps: the value and where it is taken."""
    n = region.n
    lower, upper = (as_numpy(x) for x in (region.lower, region.upper))
    if (lower > upper).any() or never(region) is not None:
        return None
    choice = region.discrete or (counted is not None and bool(counted.any()))
    balls = [*_balls(region), *_balls(loose)]
    shapes = [(ball.centre, ball.up, ball.down) for ball in balls]
    if moved is not None:
        shapes.append((torch.as_tensor(moved), torch.ones(n), torch.ones(n)))
    units = choices_of(replace(region, at_most=None, min_weight=0.0)) if choice else Choices.none()
    units = units.clipped(np.maximum(lower, -_OPEN), np.minimum(upper, _OPEN))
    lots = {"lots": n} if region.grid is not None else {}
    tails = {f"u{k}": one for k, one in enumerate(region.curved) if isinstance(one, Tail) and one.small}
    lifts = {name: 1 + len(one.losses) for name, one in tails.items()}
    program = _Program(n, len(shapes), {**mode_columns(units), **lots, **lifts})
    program.add(*(as_numpy(x) for x in (region.row_lower, region.row_upper)), w=as_numpy(region.rows))
    if choice:
        lower, upper = np.maximum(lower, -_OPEN), np.minimum(upper, _OPEN)
        _choices(program, region, lower, upper)
        mode_rows(program, units)
    if region.grid is not None:
        step, eye = as_numpy(region.grid), sp.identity(n, format="csr")
        at = step > 0.0
        program.add(0.0, 0.0, w=eye[at], lots=-sp.diags(step, format="csr")[at])
    for k, shape in enumerate(shapes):
        centre, up, down = (as_numpy(x) for x in shape)
        eye = sp.identity(n, format="csr")
        program.add(-np.inf, up * centre, w=sp.diags(up, format="csr"), **{f"v{k}": -eye})
        program.add(down * centre, np.inf, w=sp.diags(down, format="csr"), **{f"v{k}": eye})
    for name, tail in tails.items():
        lifted, highest = tail.lifted()
        program.add(-np.inf, highest, w=lifted[:, :n], **{name: lifted[:, n:]})
    one = np.ones((1, n))
    for k, ball in enumerate(_balls(region)):
        program.add(-np.inf, ball.limit, **{f"v{k}": one})
    if loose is not None:
        _let_out(program, loose)
        for k, ball in enumerate(_balls(loose), start=len(_balls(region))):
            program.add(-np.inf, ball.limit, t=-np.ones((1, 1)), **{f"v{k}": one})
    ends: dict[str, tuple[Array | float, Array | float]] = {
        "w": (lower, upper), "z": (0.0, float(choice)), "t": (0.0, 0.0 if loose is None else np.inf),
        "y": (0.0, units.exists.reshape(-1).astype(np.float64)), "lots": (-np.inf, np.inf),
        **{name: (np.r_[-np.inf, np.zeros(size - 1)], np.inf) for name, size in lifts.items()},
    }  # fmt: skip
    prices: dict[str, Array | float | None] = {"w": cost, "z": counted, "t": float(loose is not None)}
    if moved is not None:
        prices[f"v{len(shapes) - 1}"] = 1.0
    low = program.filled({name: both[0] for name, both in ends.items()}, 0.0)
    high = program.filled({name: both[1] for name, both in ends.items()}, np.inf)
    return _solved(program, program.filled(prices, 0.0), low, high, choice)


def possible(region: Region, rounds: int = _MOST_CUTS) -> bool:
    """Whether any portfolio lies in the region; `least` with so many rounds of cuts.

    Raises:
        SolverError: that was not settled.
    """
    folded = region.folded()
    if folded.curved and not folded.discrete:
        return bool((folded.lower <= folded.upper).all()) and least_excess(folded) <= 1e-9
    if not asked(region):
        return least(region, rounds=rounds) is not None
    found = room(region)
    if found.weights is None and not found.empty:
        raise SolverError(_open(found))
    return not found.empty


def _open(found: Room) -> str:
    """The sentence for a choice that may leave room under a cap, or may not."""
    assert found.cap is not None
    known = [f"the least seen is {found.least:.6g}"] if np.isfinite(found.least) else []
    known += [f"none is below {found.low:.6g}"] if np.isfinite(found.low) else []
    beside = f": beside the other rules {', and '.join(known)}" if known else ""
    way = "Loosen it to what was seen" if np.isfinite(found.least) else "Loosen it"
    return (
        f"No portfolio was found under {found.cap.name}, and whether there is one was not settled{beside}. "
        f"{way}, or the choice of names beside it."
    )


def _balls(region: Region | None) -> list[Ball]:
    """All L1 balls, turnover first."""
    if region is None:
        return []
    if region.turnover is None or region.anchor is None:
        return list(region.balls)
    one = torch.ones_like(region.anchor)
    return [Ball("turnover", region.turnover, region.anchor, one, one), *region.balls]


def _let_out(program: _Program, region: Region) -> None:
    """x + t >= its lower and x - t <= its upper end, for weights and rows x, where the end is finite."""
    ends = [as_numpy(x) for x in (region.lower, region.upper, region.row_lower, region.row_upper)]
    eye, rows = sp.identity(region.n, format="csr"), sp.csr_matrix(as_numpy(region.rows))
    for x, low, high in ((eye, *ends[:2]), (rows, *ends[2:])):
        above, below = np.isfinite(low), np.isfinite(high)
        program.add(low[above], np.inf, w=x[above], t=np.ones((int(above.sum()), 1)))
        program.add(-np.inf, high[below], w=x[below], t=-np.ones((int(below.sum()), 1)))


def _choices(program: _Program, region: Region, lower: Array, upper: Array) -> None:
    """A free name is zero, or held and inside its bounds; at most `at_most` are held."""
    free = ~region.frozen.cpu().numpy()
    floor = np.maximum(lower, region.min_weight) if region.min_weight > 0.0 else np.minimum(lower, 0.0)
    eye = sp.identity(region.n, format="csr")[free]
    program.add(-np.inf, 0.0, w=eye, z=-sp.diags(np.maximum(upper, 0.0), format="csr")[free])
    program.add(0.0, np.inf, w=eye, z=-sp.diags(floor, format="csr")[free])
    program.add(0.0, np.inf if region.at_most is None else region.at_most, z=free.astype(np.float64)[None])


def mode_columns(c: Choices) -> dict[str, int]:
    """The blocks that choices add: y, one for each unit and mode, and one q for each limit on a weight."""
    if not c.units:
        return {}
    return {"y": c.lower.size} | {f"q{k}": len(one.units) for k, one in enumerate(c.limits) if one.mass}


def mode_rows(program: _Program, c: Choices) -> None:
    """Every unit is in one of its modes, between its ends, and within the limits on numbers and weights."""
    if not c.units:
        return
    units, modes = c.lower.shape
    each = sp.kron(sp.identity(units), np.ones((1, modes)), format="csr")
    sums = sp.csr_matrix((np.ones(len(c.unit)), (c.unit, c.name)), shape=(units, program.n))
    low, high = (np.where(c.exists, x, 0.0).reshape(-1) for x in (c.lower, c.upper))
    program.add(1.0, 1.0, y=each)
    program.add(0.0, np.inf, w=sums, y=-each @ sp.diags(low))
    program.add(-np.inf, 0.0, w=sums, y=-each @ sp.diags(high))
    for k, limit in enumerate(c.limits):
        counted = np.zeros((units, modes))
        counted[np.ix_(limit.units, np.array(limit.modes, dtype=np.int64))] = 1.0
        if not limit.mass:
            program.add(limit.least, limit.most, y=counted.reshape(1, -1))
            continue
        _, outside = limit.split(c.exists)
        beyond = np.where(outside, c.upper[limit.units], 0.0).max(axis=1).clip(0.0)
        pick = sp.diags(beyond) @ (each @ sp.diags(counted.reshape(-1)))[limit.units]
        program.add(-beyond, np.inf, w=-sums[limit.units], y=-pick, **{f"q{k}": sp.identity(len(beyond))})
        program.add(-np.inf, limit.most, **{f"q{k}": np.ones((1, len(beyond)))})


def _solved(program: _Program, price: Array, low: Array, high: Array, choice: bool) -> Taken | None:
    """The optimum and its point: a mixed-integer one first where names are a choice, then exact on its names."""
    rows = sp.vstack(program.rows, format="csr") if program.rows else sp.csr_matrix((0, program.width))
    down, up = (np.concatenate(x) if x else np.zeros(0) for x in (program.low, program.high))
    if not choice:
        exact = _linear(price, rows, (down, up), low, high)
        if exact.status == 0:
            return float(exact.fun), np.asarray(exact.x)
        return _without_optimum(program, price, low, high, choice, exact)
    loose = None
    for unit in _UNITS:
        found = _mixed(program, price, rows, (down, up), (low, high), unit)
        if found.x is None:
            # Weights within HiGHS's tolerance of the rules in larger units are none in finer ones.
            return None if loose is not None else _without_optimum(program, price, low, high, choice, found)
        point = np.asarray(found.x)
        chosen = program.whole > 0.0
        fixed = np.where(chosen, np.round(point), low), np.where(chosen, np.round(point), high)
        exact = _linear(price, rows, (down, up), *fixed)
        if exact.status == 0:
            return float(exact.fun), np.asarray(exact.x)
        loose = loose or (float(price @ point), point)
    # HiGHS accepts a mixed-integer point to a tolerance of its own; its value stands where the exact one is lost.
    return loose


def _mixed(
    program: _Program, price: Array, rows: sp.csr_matrix, ends: tuple[Array, Array], box: tuple[Array, Array],
    unit: float,
) -> Any:  # fmt: skip
    """The mixed-integer program, with weights and rows in so small a unit; its point in ones."""
    size = np.where(program.whole > 0.0, 1.0, 1.0 / unit)
    scaled = (rows @ sp.diags(1.0 / size, format="csr")) / unit
    found = milp(
        price / size, bounds=Bounds(box[0] * size, box[1] * size), integrality=program.whole,
        constraints=[LinearConstraint(scaled, ends[0] / unit, ends[1] / unit)] if len(ends[0]) else [],
        # In the finer unit without presolve, whose points HiGHS mends with a line to stdout.
        options=({"node_limit": _NODES} if "lots" in program.sizes else {"time_limit": _SECONDS})
        | {"presolve": unit == 1.0},
    )  # fmt: skip
    if found.x is not None:
        found.x = found.x / size
    return found


def _linear(price: Array, rows: sp.csr_matrix, ends: tuple[Array, Array], low: Array, high: Array) -> Any:
    down, up = ends
    equal, above, below = down == up, (down != up) & np.isfinite(up), (down != up) & np.isfinite(down)
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    one_sided, limits = sp.vstack([rows[above], -rows[below]], format="csr"), np.concatenate([up[above], -down[below]])
    return linprog(
        price, A_ub=one_sided, b_ub=limits,
        A_eq=rows[equal], b_eq=up[equal], bounds=np.column_stack([low, high]), method="highs", options=tight,
    )  # fmt: skip


def _without_optimum(
    program: _Program, price: Array, low: Array, high: Array, choice: bool, found: Any
) -> Taken | None:
    status = found.status
    if status == 2:
        return None
    # HiGHS may answer "unbounded or infeasible": the same question without a price tells which. With lots the same
    # status says that all nodes were spent.
    if status in (3, 4) and (price != 0.0).any() and "lots" not in program.sizes:
        return None if _solved(program, np.zeros(program.width), low, high, choice) is None else (-np.inf, None)
    raise SolverError(f"HiGHS could not tell whether the rules can be obeyed together: {found.message}")
