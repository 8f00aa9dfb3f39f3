"""Whole lots: from a portfolio nearby to a low energy on the grid, by moves of single lots.

A point of the grid is changed by one lot of one name, or one lot of each of two names (the best few of all single ones,
up or down, in pairs), or by twice, four times ... as much where that is better still. While rules are broken a move has
to break them less; then it has to lower the energy; it ends where no move does. Starts are the portfolio rounded to the
nearest lots and down, and, where they lead nowhere, the point of the grid nearest to it that a mixed-integer program
finds. Where the energy has many minima, the best is shaken and brought down again. Nothing is proven.

Source: Aarts, E. and Lenstra, J. K. (1997), Local Search in Combinatorial Optimization, for exchange neighbourhoods.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from portfolio_ebm.constraints.region import Region

PARTNERS = 32
"""Single moves, each way, that are tried in pairs."""
MOVES = 400
REPAIRS = 20
"""Moves, beside one a name, after which rules that are still broken are given up: rounding is mended in fewer."""
SHAKEN = 4
FEASIBLE = 1e-9
WIDE = 10.0
NODES = 2000
"""Nodes of the mixed-integer program; counted, so that the answer is the same on every machine."""
STRIDES = 2.0 ** torch.arange(1, 9)
"""How many times a move that is taken is tried again at once."""

Value = Callable[[Tensor], Tensor]
"""Weights (..., n) to numbers (...)."""


def best_lots(
    value: Value, violation: Value, near: Tensor, region: Region, shakes: int = 0, rng: torch.Generator | None = None
) -> Tensor | None:
    """The point of least `value` on the region's grid that was found from `near`, (n,) or several, (k, n), best first:
    (n,); None where none was.

    Args:
        violation: how far all rules but the grid are broken.
        shakes: how often the best is moved by a few lots at random (by `rng`) and brought down again, for a `value`
            with many minima.
    """
    assert region.grid is not None
    step = region.grid
    size = torch.where(step > 0.0, step, torch.ones_like(step))
    points = near.reshape(-1, near.shape[-1])

    def down(w: Tensor) -> list[Tensor]:
        end = _descend(value, violation, w, step)
        return [end] if float(violation(end)) <= FEASIBLE else []

    good: list[Tensor] = []
    for point in points:
        for whole in (torch.round(point / size), torch.floor(point / size + 1e-9)):
            good += down(torch.where(step > 0.0, whole * size, point))
    if not good:
        start = _feasible(points[0], region)
        good = [] if start is None else down(start)
    best = min(good, key=lambda w: float(value(w)), default=None)
    for _ in range(shakes if best is not None else 0):
        assert best is not None
        best = min([best, *down(_shaken(best, step, rng))], key=lambda w: float(value(w)))
    return best


def _shaken(w: Tensor, step: Tensor, rng: torch.Generator | None) -> Tensor:
    """w (n,) with up to SHAKEN names moved by one or two lots."""
    names = (step > 0.0).nonzero().flatten()
    chosen = names[torch.randperm(len(names), generator=rng, device=w.device)[:SHAKEN]]
    moved = w.clone()
    lots = torch.randint(-2, 3, chosen.shape, generator=rng, device=w.device)
    moved[chosen] += lots * step[chosen]
    return moved


def _descend(value: Value, violation: Value, w: Tensor, step: Tensor) -> Tensor:
    names = (step > 0.0).nonzero().flatten()
    single = torch.zeros(2 * len(names), len(w), dtype=w.dtype, device=w.device)
    each = torch.arange(len(names), device=w.device)
    single[each, names], single[len(names) + each, names] = step[names], -step[names]
    now = (float(violation(w)), float(value(w)))
    for moved in range(MOVES):
        if now[0] > FEASIBLE and moved > REPAIRS + len(names):
            return w
        alone = value(w + single)
        up, down = alone[: len(names)], alone[len(names) :]
        take = min(PARTNERS, len(names))
        ups, downs = single[up.argsort()[:take]], single[len(names) + down.argsort()[:take]]
        pairs = (ups[:, None] + downs[None]).reshape(-1, len(w))
        better = _better(value, violation, w, torch.cat([single, pairs]), now)
        if better is None:
            return w
        move, now = better
        further = _better(value, violation, w, STRIDES.to(w)[:, None] * move, now)
        move, now = (move, now) if further is None else further
        # Counted in whole lots, so that no rounding adds up over moves.
        w = torch.where(step > 0.0, ((w + move) / torch.where(step > 0.0, step, 1.0)).round() * step, w)
    return w


def _better(
    value: Value, violation: Value, w: Tensor, moves: Tensor, now: tuple[float, float]
) -> tuple[Tensor, tuple[float, float]] | None:
    """The best of `moves` (k, n) from w, and (rules broken by, energy) there, where that is better than `now`."""
    broken, energy = violation(w + moves), value(w + moves)
    obeys = (broken <= FEASIBLE) & energy.isfinite()
    if bool(obeys.any()):
        best = int(torch.where(obeys, energy, torch.inf).argmin())
        found = (float(broken[best]), float(energy[best]))
        return (moves[best], found) if now[0] > FEASIBLE or found[1] < now[1] - 1e-13 * abs(now[1]) else None
    best = int(broken.argmin())
    found = (float(broken[best]), float(energy[best]))
    return (moves[best], found) if now[0] > FEASIBLE and found[0] < now[0] - 1e-12 else None


def _feasible(near: Tensor, region: Region) -> Tensor | None:
    """A point of the grid inside box, rows and turnover, near `near` in the L1 sense, by HiGHS; None without one."""
    region = region.folded()
    assert region.grid is not None
    lower, upper, rows, low, high, y, step = (
        x.detach().cpu().double().numpy()
        for x in (region.lower, region.upper, region.rows, region.row_lower, region.row_upper, near, region.grid)
    )
    n = len(y)
    scale = np.where(step > 0.0, step, 1.0)
    eye, none = np.eye(n), np.zeros((n, n))
    body = np.diag(scale)
    tests = [
        LinearConstraint(np.hstack([rows * scale, np.zeros((len(rows), 2 * n))]), low, high),
        LinearConstraint(np.hstack([body, -eye, none]), -np.inf, y),
        LinearConstraint(np.hstack([body, eye, none]), y, np.inf),
    ]
    if region.turnover is not None and region.anchor is not None:
        held = region.anchor.detach().cpu().double().numpy()
        tests += [
            LinearConstraint(np.hstack([body, none, -eye]), -np.inf, held),
            LinearConstraint(np.hstack([body, none, eye]), held, np.inf),
            LinearConstraint(np.hstack([np.zeros(2 * n), np.ones(n)])[None], -np.inf, region.turnover),
        ]
    box = Bounds(
        np.concatenate([np.clip(lower, -WIDE, WIDE) / scale, np.zeros(2 * n)]),
        np.concatenate([np.clip(upper, -WIDE, WIDE) / scale, np.full(2 * n, np.inf)]),
    )
    found = milp(
        np.concatenate([np.zeros(n), np.ones(n), np.zeros(n)]), constraints=[one for one in tests if one.A.size],
        bounds=box, integrality=np.concatenate([step > 0.0, np.zeros(2 * n)]), options={"node_limit": NODES},
    )  # fmt: skip
    if found.x is None:
        return None
    whole = np.where(step > 0.0, np.round(found.x[:n]) * scale, found.x[:n])
    return torch.as_tensor(whole).to(near)
