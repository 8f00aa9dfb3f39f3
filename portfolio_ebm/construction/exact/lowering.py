"""A formula under rules as the Program of the interior point, and the end of it read back as multipliers.

z = (free weights, one t for each tail, one s for each square). A tail is t + hinges above t; a kink is hinges on single
names, the same ones for all kinks of one centre; a cap of such parts is a row that charges for their hinges; an
ellipsoid is a curve, in squares relative to its limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from portfolio_ebm.constraints.caps import Ball, Cap, Ellipsoid
from portfolio_ebm.constraints.caps import Tail as TailCap
from portfolio_ebm.construction.exact.chain import Chain, joined_chain
from portfolio_ebm.construction.exact.duality import Box, Multipliers
from portfolio_ebm.construction.exact.falls import Falls
from portfolio_ebm.construction.exact.formula import Formula
from portfolio_ebm.construction.exact.pieces import Kink, Pieces, Tail
from portfolio_ebm.construction.exact.program import Array, Curved, Model, Program

Mask = NDArray[np.bool_]


@dataclass
class _Block:
    """Hinges (rows z - offsets)_+ with their prices, and what row j charges for them."""

    rows: Array
    offsets: Array
    prices: Array
    charges: dict[int, Array] = field(default_factory=dict)


@dataclass
class Lowered:
    """A Program under construction.

    Attributes:
        pieces: the formula's. free: bool (n,). fixed: (n,), the weights that cannot move, zero where free.
        fall: the linear part of phi. constant: what its kinks have at z = 0 beside their hinges.
        slopes, limits: rows that charge. corners: the block of each centre of kinks. tails, hinges: the blocks of the
        formula's. chains: of each of its falls. caps: by cap of the box its row or curve, its block where it is a tail,
        and the unit of its row.
    """

    formula: Formula
    pieces: Pieces
    box: Box
    free: Mask
    scale: float
    size: int
    fixed: Array
    fall: Array
    start: Array
    constant: float = 0.0
    blocks: list[_Block] = field(default_factory=list)
    slopes: list[Array] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    corners: dict[bytes, _Block] = field(default_factory=dict)
    tails: list[_Block] = field(default_factory=list)
    hinges: list[_Block] = field(default_factory=list)
    curved: list[Curved] = field(default_factory=list)
    caps: list[tuple[int, _Block | None, float]] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)

    @property
    def k(self) -> int:
        return int(self.free.sum())

    def scenarios(self, losses: Array, moved: float | Array, price: float, column: int | None = None) -> _Block:
        """Hinges above the entry `column` of z, or above zero, for each row of `losses` (S, n)."""
        rows = np.zeros((len(losses), self.size))
        rows[:, : self.k] = losses[:, self.free]
        if column is not None:
            rows[:, column] = -1.0
        offsets = np.zeros(len(losses)) + moved - losses @ self.fixed
        self.blocks.append(_Block(rows, offsets, np.full(len(losses), price)))
        return self.blocks[-1]

    def fallen(self, falls: Falls, column: int, near: Array) -> Chain:
        """The chain of falls whose levels stand from `column` on."""
        paths, steps, n = falls.returns.shape
        rows = falls.returns.reshape(-1, n)
        moved = rows @ self.fixed - np.broadcast_to(falls.moved, (paths, steps)).reshape(-1)
        depth, cap = falls.depths(near), self.scale * falls.cap
        first = np.tile(np.arange(steps) == 0, paths)
        level, prices = np.full(paths * steps, column), np.full(paths * steps, np.inf)
        if levels_of(falls) == 0:
            return Chain(rows[:, self.free], moved, first, level - column - 1, prices, np.full(len(level), cap))
        count = falls.count if not falls.whole else 1.0
        top = depth.reshape(-1) if count > 1.0 else depth.max(keepdims=True).reshape(-1)
        self.start[column] = 1.1 * np.quantile(top, max(1.0 - count / len(top), 0.0)) + 1e-6
        self.fall[column] = self.scale * falls.coefficient
        if count > 1.0:
            prices = np.full(len(level), cap)
        elif levels_of(falls) > 1:
            # One level for each path, and where not all of them count, one above which they do.
            level = column + np.repeat(np.arange(paths), steps)
            self.start[column : column + paths] = 1.1 * depth.max(1) + 1e-6
            self.fall[column : column + paths] = cap
            if levels_of(falls) > paths:
                self.above(column, paths, falls, cap)
        return Chain(rows[:, self.free], moved, first, level, prices, np.zeros(len(level)))

    def above(self, column: int, paths: int, falls: Falls, cap: float) -> None:
        """The tail of the paths' own levels, above the entry of z that follows them."""
        rows = np.eye(paths, self.size, column)
        rows[:, column + paths] = -1.0
        self.blocks.append(_Block(rows, np.zeros(paths), np.full(paths, cap)))
        self.fall[column : column + paths] = 0.0
        self.fall[column + paths] = self.scale * falls.coefficient
        worst = self.start[column : column + paths]
        self.start[column + paths] = np.quantile(worst, max(1.0 - falls.count / paths, 0.0))

    def cornered(self, centre: Array) -> _Block:
        """The hinges w_i - centre_i of all free names."""
        key = centre.tobytes()
        if key not in self.corners:
            self.blocks.append(_Block(np.eye(self.k, self.size), centre[self.free], np.zeros(self.k)))
            self.corners[key] = self.blocks[-1]
        return self.corners[key]

    def sided(self, kink: Kink) -> tuple[Array, Array]:
        """(sizes, slopes) of the free names: the kink is size (w - centre)_+ + slope (w - centre), without a corner
        where the box leaves one side only."""
        above, below = self.box.lower >= kink.centre, self.box.upper <= kink.centre
        sizes = np.where(above | below, 0.0, kink.up + kink.down)
        return sizes[self.free], np.where(above, kink.up, -kink.down)[self.free]

    def pay(self, kink: Kink) -> None:
        """Add the kink to the objective."""
        sizes, slopes = self.sided(kink)
        block = self.cornered(kink.centre)
        block.prices = block.prices + self.scale * sizes
        self.fall[: self.k] += self.scale * slopes
        self.constant += self.scale * self.aside(kink, slopes)

    def aside(self, kink: Kink, slopes: Array) -> float:
        """What the kink has beside its hinges at z = 0: that of the fixed names, and where the lines begin."""
        still = np.where(self.free, 0.0, 1.0)
        spent = Kink(kink.centre, kink.up * still, kink.down * still).value(self.fixed)
        return spent - float(slopes @ kink.centre[self.free])

    def charge(self, kink: Kink, limit: float, column: int | None = None) -> int:
        """Add the rule kink(w) <= limit, or kink(w) <= limit + z[column]: its row."""
        sizes, slopes = self.sided(kink)
        slope = np.zeros(self.size)
        slope[: self.k] = slopes
        if column is not None:
            slope[column] = -1.0
        return self.row(slope, limit - self.aside(kink, slopes), self.cornered(kink.centre), sizes)

    def row(self, slope: Array, limit: float, block: _Block, charges: Array) -> int:
        """Add slope'z + charges'(hinges of the block) <= limit: its place among the rows."""
        self.slopes.append(slope)
        self.limits.append(limit)
        block.charges[len(self.slopes) - 1] = charges
        return len(self.slopes) - 1

    def used(self) -> list[Mask]:
        """By block, the hinges that somebody pays for."""
        return [
            (block.prices > 0.0) | np.any([charge > 0.0 for charge in block.charges.values()], axis=0)
            for block in self.blocks
        ]


def lowered(formula: Formula, box: Box, free: Mask, scale: float, near: Array) -> Lowered | None:
    """The parts of the Program of `scale` times the formula, around `near` (n,), strictly inside the box; None where
    a term or a cap is of no known kind."""
    pieces = formula.pieces
    if pieces is None or not all(isinstance(cap, (Ball, Ellipsoid, TailCap)) for cap in box.caps):
        return None
    own = formula.tails + pieces.tails
    k, more = int(free.sum()), sum(isinstance(cap, TailCap) for cap in box.caps)
    before = k + len(own) + len(pieces.squares)
    size = before + sum(levels_of(falls) for falls in pieces.falls) + more
    fixed = np.where(free, 0.0, box.lower)
    found = Lowered(formula, pieces, box, free, scale, size, fixed, np.zeros(size), np.zeros(size))
    found.start[:k] = near[free]
    for column, tail in enumerate(own, start=k):
        found.tails.append(found.scenarios(tail.losses, tail.moved, scale * tail.cap, column))
        found.fall[column] = scale * tail.coefficient
        found.start[column] = _quantile(tail, near)
    for hinges in pieces.hinges:
        found.hinges.append(found.scenarios(hinges.rows, hinges.offsets, scale * hinges.price))
    for kink in pieces.kinks:
        found.pay(kink)
    if formula.cost > 0.0 and formula.held is not None:
        found.pay(Kink.even(formula.held, formula.cost))
    # The turnover's row is the first, the squares' are the next.
    if box.turnover is not None:
        found.charge(Kink.even(box.anchor, 1.0), box.turnover)
    for column, square in enumerate(pieces.squares, start=k + len(own)):
        found.charge(square.kink, 0.0, column)
        found.start[column] = square.kink.value(near) + 0.01
    column = before
    for falls in pieces.falls:
        found.chains.append(found.fallen(falls, column, near))
        column += levels_of(falls)
    for cap in box.caps:
        _cap(found, cap, column, near)
        column += isinstance(cap, TailCap)
    return found


def _quantile(tail: Tail, w: Array) -> float:
    loss = tail.loss(w)
    return float(np.quantile(loss, max(1.0 - tail.count / len(loss), 0.0)))


def _cap(found: Lowered, cap: Cap, column: int, near: Array) -> None:
    """Add a cap of the box; `column` is the t of the next tail."""
    free, k = found.free, found.k
    if isinstance(cap, Ball):
        found.caps.append((found.charge(Kink.of(cap), cap.limit), None, 1.0))
    elif isinstance(cap, Ellipsoid):
        matrix, away = cap.matrix.dense().numpy() / cap.limit**2, found.fixed - cap.centre.numpy()
        whole, pull = np.zeros((found.size, found.size)), np.zeros(found.size)
        whole[:k, :k], pull[:k] = matrix[np.ix_(free, free)], (matrix @ away)[free]
        found.caps.append((len(found.curved), None, 1.0))
        found.curved.append(Curved(whole, pull, 0.5 * float(away @ matrix @ away) - 0.5))
    elif isinstance(cap, TailCap):
        losses = cap.losses.numpy()
        unit = cap.unit
        tail = Tail(1.0, losses / unit, cap.count)
        block = found.scenarios(tail.losses, 0.0, 0.0, column)
        slope = np.zeros(found.size)
        slope[column] = 1.0
        row = found.row(slope, cap.limit / unit, block, np.full(len(losses), 1.0 / cap.count))
        found.caps.append((row, block, unit))
        found.start[column] = _quantile(tail, near)


def program_of(found: Lowered) -> Program:
    """The Program of the parts."""
    box, free, k, used = found.box, found.free, found.k, found.used()
    equal, above, below = box.sides
    part = np.zeros((len(box.rows), found.size))
    part[:, :k] = box.rows[:, free]
    moved = box.rows @ found.fixed
    lower, upper = np.full(found.size, -np.inf), np.full(found.size, np.inf)
    lower[:k], upper[:k] = box.lower[free], box.upper[free]
    charges = np.zeros((len(found.slopes), sum(int(mask.sum()) for mask in used)))
    at = 0
    for block, mask in zip(found.blocks, used, strict=True):
        for j, sizes in block.charges.items():
            charges[j, at : at + int(mask.sum())] = sizes[mask]
        at += int(mask.sum())

    def joined(parts: list[Array], none: Array) -> Array:
        return np.concatenate([none, *(one[mask] for one, mask in zip(parts, used, strict=True))])

    return Program(
        model=_model(found), hinges=joined([block.rows for block in found.blocks], np.zeros((0, found.size))),
        offsets=joined([block.offsets for block in found.blocks], np.zeros(0)),
        weights=joined([block.prices for block in found.blocks], np.zeros(0)),
        rows=np.concatenate([np.array(found.slopes).reshape(-1, found.size), part[above], -part[below]]),
        limits=np.concatenate([found.limits, (box.row_upper - moved)[above], -(box.row_lower - moved)[below]]),
        equal=part[equal], targets=(box.row_upper - moved)[equal], lower=lower, upper=upper, charges=charges,
        curved=tuple(found.curved), chain=joined_chain(found.chains),
    )  # fmt: skip


def levels_of(falls: Falls) -> int:
    """How many entries of z stand for levels of drawdown."""
    paths, steps, _ = falls.returns.shape
    if not falls.whole:
        return 0 if falls.count >= paths * steps * (1.0 - 1e-12) else 1
    return 1 if paths == 1 or falls.count <= 1.0 else paths + (falls.count < paths * (1.0 - 1e-12))


def _model(found: Lowered) -> Model:
    """phi of the Program."""
    formula, free, k, scale = found.formula, found.free, found.k, found.scale
    first = k + len(found.tails)

    def model(z: Array) -> tuple[Array, Array]:
        w = found.fixed.copy()
        w[free] = z[:k]
        _, g, h = formula.smooth_part(w)
        gradient, hessian = found.fall.copy(), np.zeros((found.size, found.size))
        gradient[:k] += scale * g[free]
        hessian[:k, :k] = scale * h[np.ix_(free, free)]
        for column, square in enumerate(found.pieces.squares, start=first):
            gradient[column] += 2.0 * scale * square.coefficient * z[column]
            hessian[column, column] += 2.0 * scale * square.coefficient
        return gradient, hessian

    return model


def read(
    found: Lowered, z: Array, q: Array, row_dual: Array, equal_dual: Array, flow: Array
) -> tuple[Array, Multipliers]:
    """Weights (n,) and multipliers, in the energy's own units, at an end of the Program."""
    box, scale = found.box, found.scale
    w = found.fixed.copy()
    w[found.free] = z[: found.k]
    duals, at = {}, 0
    for block, mask in zip(found.blocks, found.used(), strict=True):
        duals[id(block)] = np.zeros(len(mask))
        duals[id(block)][mask] = q[at : at + int(mask.sum())] / scale
        at += int(mask.sum())
    equal, above, below = box.sides
    rows, own = np.zeros(len(box.rows)), len(found.slopes)
    rows[equal] = equal_dual
    middle = own + int(above.sum())
    rows[above] += row_dual[own:middle]
    rows[below] -= row_dual[middle : middle + int(below.sum())]
    curves = row_dual[len(row_dual) - len(found.curved) :]
    caps, cap_tails = [], []
    for cap, (place, tail, unit) in zip(box.caps, found.caps, strict=True):
        cap_tails.append(np.zeros(0) if tail is None else duals[id(tail)] / unit)
        if isinstance(cap, Ellipsoid):
            # The curve is 1/2 (g / limit)^2 <= 1/2, whose slope is that of g, times g / limit^2.
            dual = float(curves[place]) * float(cap.value(torch.as_tensor(w))) / cap.limit**2
        else:
            dual = float(row_dual[place]) / unit
        caps.append(dual / scale)
    # The order of `lowered`: turnover, where it is capped, then the squares.
    capped = int(box.turnover is not None)
    squares = row_dual[capped : capped + len(found.pieces.squares)]
    return w, Multipliers(
        tails=tuple(duals[id(block)] for block in found.tails), rows=rows / scale,
        turnover=float(row_dual[0]) / scale if capped else 0.0,
        hinges=tuple(duals[id(block)] for block in found.hinges), squares=tuple(float(x) / scale for x in squares),
        caps=tuple(caps), cap_tails=tuple(cap_tails), falls=_flows(found, flow),
    )  # fmt: skip


def _flows(found: Lowered, flow: Array) -> tuple[Array, ...]:
    """What flows along the paths of each of the falls, in the energy's own units."""
    at, flows = 0, []
    for falls in found.pieces.falls:
        paths, steps, _ = falls.returns.shape
        flows.append(flow[at : at + paths * steps].reshape(paths, steps) / found.scale)
        at += paths * steps
    return tuple(flows)
