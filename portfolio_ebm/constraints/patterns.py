"""Which names to hold: the nearest point of a region whose names are a choice, batched.

Every way here proposes patterns, projects y onto each one's convex slice exactly and keeps the nearest.

    equal bounds, budget only    the k names with the largest y, k = 0..K: proven nearest, since swapping a
                                 held name for a larger one never moves the point away (with shorts and
                                 min_weight 0: the p largest and the K - p smallest)
    budget and turnover          the h largest holdings and the best of the relaxation, h the least one that
                                 the turnover cap allows; the turnover a pattern needs is known in closed form
    anything else                prefixes of the relaxed projection; not proven nearest
        and where none has a point   a small mixed-integer program, exact about emptiness
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.constraints.capped import cut_of
from portfolio_ebm.constraints.caps import Tail
from portfolio_ebm.constraints.mixed.of_region import reaching
from portfolio_ebm.constraints.possible import possible_pattern
from portfolio_ebm.constraints.projections import TOLERANCE, nearest_in, project_polyhedron
from portfolio_ebm.constraints.region import Region, curved_names
from portfolio_ebm.errors import SolverError

_ROUNDS = 200

Found = tuple[Tensor, Tensor, Tensor, bool]
"""Weights (..., n), pattern bool (..., n), largest violation (...), whether it is proven nearest."""


def nearest_with_pattern(y: Tensor, region: Region) -> Found:
    """The nearest point that is known, its pattern of free names, the violation left, and whether it is
    proven nearest. `region` is in float64 on the device of y; y (..., n) is of any floating dtype."""
    n = region.n
    flat = y.detach().reshape(-1, n).to(torch.float64)
    region = _without_dead_names(region)
    if flat.shape[0] == 0:
        return y.clone(), torch.zeros_like(y, dtype=torch.bool), y.new_zeros(y.shape[:-1], dtype=torch.float64), True
    alike, budget, turnover = _alike(region), _budget_only(region), region.turnover is not None
    proven = alike and budget and not turnover
    limit = _limit(region)
    if proven and _long(region):
        w, pattern, left = _prefixes(flat, region, limit)
    elif proven:
        w, pattern, left = _best(flat, _two_ends(flat, region, limit), region)
    elif alike and budget and _long(region):
        w, pattern, left = _best(flat, _near_holdings(flat, region, limit), region)
    else:
        w, pattern, left = _best(flat, _near_relaxation(flat, region, limit), region)
        if bool((left > TOLERANCE).any()):
            w, pattern, left = _repair(flat, region, limit, (w, pattern, left))
    return w.reshape(y.shape).to(y.dtype), pattern.reshape(y.shape), left.reshape(y.shape[:-1]), proven


def proposed(region: Region) -> bool:
    """Whether few patterns are proposed at once for every row: bounds are alike, beside a budget and turnover alone."""
    region = _without_dead_names(region)
    return _alike(region) and _budget_only(region) and (region.turnover is None or _long(region))


def _limit(region: Region) -> int:
    free = int((~region.frozen).sum())
    return free if region.at_most is None else min(region.at_most, free)


def _without_dead_names(region: Region) -> Region:
    """A free name whose cap is below min_weight cannot be held."""
    if region.min_weight == 0.0:
        return region
    dead = ~region.frozen & (region.upper < region.min_weight)
    return region.with_box(-torch.inf, torch.where(dead, torch.zeros_like(region.upper), region.upper))


def _alike(region: Region) -> bool:
    """Whether every free name has the same bounds, zero among them."""
    low, high = region.lower[~region.frozen], region.upper[~region.frozen]
    if len(low) == 0:
        return True
    return bool((low == low[0]).all() & (high == high[0]).all() & (low[0] <= 0) & (high[0] >= 0))


def _long(region: Region) -> bool:
    return region.min_weight > 0.0 or bool((region.lower[~region.frozen] >= 0).all())


def _budget_only(region: Region) -> bool:
    return region.plain and region.rows.shape[0] <= 1 and bool((region.rows == 1.0).all())


def _totals(region: Region) -> tuple[Tensor, Tensor]:
    if region.rows.shape[0] == 0:
        inf = torch.full_like(region.lower[0], torch.inf)
        return -inf, inf
    return region.row_lower[0], region.row_upper[0]


def _score(y: Tensor, region: Region) -> Tensor:
    return y.masked_fill(region.frozen, -torch.inf)


def _prefixes(y: Tensor, region: Region, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The exact answer for equal bounds and a budget alone: the k largest for every k that may be nearest,
    on the `limit` largest names (and the frozen ones) only."""
    rows, dev = len(y), y.device
    _, index = _score(y, region).topk(limit, dim=-1)
    still = region.frozen.nonzero().flatten()
    index = torch.cat([index, still.expand(rows, -1)], -1)
    v = y.gather(-1, index)
    # Without a floor, more names are never worse: only k = limit is needed.
    sizes = torch.tensor([limit] if region.min_weight == 0.0 else range(limit + 1), device=dev)
    if region.min_weight > 0.0:
        sizes = _sizes_that_fit(sizes, region)
    shown = torch.arange(index.shape[-1], device=dev) < sizes.unsqueeze(-1)
    slice_ = region.on(torch.zeros_like(region.frozen))
    full = region.on(~region.frozen)
    a_free = (~region.frozen).nonzero().flatten()[:1]
    l_in, u_in = (x[a_free].expand(limit) for x in (full.lower, full.upper))
    l_out, u_out = torch.zeros_like(l_in), torch.zeros_like(u_in)
    lower = torch.cat([torch.where(shown[:, :limit], l_in, l_out), slice_.lower[still].expand(len(sizes), -1)], -1)
    upper = torch.cat([torch.where(shown[:, :limit], u_in, u_out), slice_.upper[still].expand(len(sizes), -1)], -1)
    ones = region.rows.new_ones(region.rows.shape[0], index.shape[-1])
    many = v.unsqueeze(1).expand(-1, len(sizes), -1)
    w, left = project_polyhedron(many, lower, upper, ones, region.row_lower, region.row_upper)
    cost = (w.square() - 2 * w * many).sum(-1) + torch.where(left > TOLERANCE, torch.inf, 0.0)
    best = _argbest(cost, left)
    pick = best.reshape(-1, 1, 1).expand(-1, 1, index.shape[-1])
    chosen = w.gather(1, pick).squeeze(1)
    out = torch.zeros_like(y).scatter(-1, index, chosen)
    inside = torch.zeros_like(y, dtype=torch.bool).scatter(-1, index, shown[best])
    return out, inside & ~region.frozen, left.gather(1, best.unsqueeze(1)).squeeze(1)


def _sizes_that_fit(sizes: Tensor, region: Region) -> Tensor:
    """The pattern sizes whose bounds leave room for the budget; all of them where none does."""
    low, high = _totals(region)
    full, frozen = region.on(~region.frozen), region.frozen
    base_low, base_high = full.lower[frozen].sum(), full.upper[frozen].sum()
    each = (~frozen).nonzero().flatten()
    if len(each) == 0:
        return sizes
    least, most = (torch.where(sizes > 0, sizes * x[each[0]], 0.0) for x in (full.lower, full.upper))
    fits = (least + base_low <= high + TOLERANCE) & (most + base_high >= low - TOLERANCE)
    return sizes[fits] if bool(fits.any()) else sizes


def _argbest(cost: Tensor, left: Tensor) -> Tensor:
    """The nearest of the proposals that have a point; where none has, the least violated."""
    none = torch.isinf(cost).all(-1)
    return torch.where(none, left.argmin(-1), cost.argmin(-1))


def _best(y: Tensor, proposals: Tensor, region: Region) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest point over the proposed patterns (B, C, n)."""
    slices = region.on(proposals)
    many = y.unsqueeze(1).expand(proposals.shape)
    w, left = nearest_in(many, region, slices.lower, slices.upper)
    cost = (w - many).square().sum(-1) + torch.where(left > TOLERANCE, torch.inf, 0.0)
    best = _argbest(cost, left)
    rows = torch.arange(len(y), device=y.device)
    return w[rows, best], proposals[rows, best] & ~region.frozen, left[rows, best]


def _rank(score: Tensor) -> Tensor:
    """0 for the largest entry of a row, 1 for the next, ... (..., n)."""
    return _places(score.argsort(dim=-1, descending=True, stable=True))


def _two_ends(y: Tensor, region: Region, limit: int) -> Tensor:
    free = ~region.frozen
    rank = _rank(_score(y, region)).unsqueeze(1)
    p = torch.arange(limit + 1, device=y.device).reshape(1, -1, 1)
    return ((rank < p) | (rank >= int(free.sum()) - (limit - p))) & free


def _places(order: Tensor) -> Tensor:
    """The place of every name in an order (..., n) of names, and the other way round."""
    return torch.zeros_like(order).scatter(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )


def _relaxed_order(y: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """(free names by size in the relaxed projection, ties by y, must-holds first; that projection), (B, n)."""
    r = region.relaxed()
    w, _ = nearest_in(y, r)
    must = (region.lower > 0) | (region.upper < 0)
    score = torch.where(must, torch.full_like(w, torch.inf), w.abs()).masked_fill(region.frozen, -torch.inf)
    return _then_by(score, _score(y, region).argsort(dim=-1, descending=True, stable=True)), w


def _then_by(score: Tensor, order: Tensor) -> Tensor:
    """Names by score, largest first; ties as they come in `order`."""
    return order.gather(-1, score.gather(-1, order).argsort(dim=-1, descending=True, stable=True))


def _with_kept(kept: Tensor, order: Tensor, place: Tensor, size: Tensor, region: Region) -> Tensor:
    """`kept` (B, C, n) filled up to `size` (B, C) free names in an order (B, n) with places (B, n)."""
    open_ = ~(kept | region.frozen)
    order, place = (x.unsqueeze(1).expand(kept.shape) for x in (order, place))
    count = open_.gather(-1, order).cumsum(-1).gather(-1, place)
    room = size.unsqueeze(-1) - kept.sum(-1, keepdim=True)
    return kept | (open_ & (count <= room))


def _near_holdings(y: Tensor, region: Region, limit: int) -> Tensor:
    """Patterns for box, budget and turnover: for a few sizes, the fewest of the largest holdings that must
    stay for the turnover cap to hold, filled up from the relaxation. All of them (h = size) need the least
    turnover any pattern of that size needs, so a region with a point gives a pattern with one."""
    assert region.anchor is not None and region.turnover is not None
    order, w = _relaxed_order(y, region)
    place, free = _places(order), ~region.frozen
    weight = region.anchor.masked_fill(region.frozen, -torch.inf).expand_as(y)
    held = _places(_then_by(weight, order)).unsqueeze(1)

    def pattern(size: Tensor, kept: Tensor) -> Tensor:
        return _with_kept((held < kept.unsqueeze(-1)) & free, order, place, size, region)

    size = torch.full((len(y), 1), limit, device=y.device)
    if region.min_weight > 0.0:
        fit = _sizes_that_fit(torch.arange(limit + 1, device=y.device), region)
        needs = turnover_needed((held[0] < fit.unsqueeze(-1)) & free, region)
        like = ((w >= 0.5 * region.min_weight) & free).sum(-1).clamp(int(fit.min()), int(fit.max()))
        size = torch.stack([like, *(k.expand_as(like) for k in (fit.max(), fit.min(), fit[needs.argmin()]))], -1)
    low, high = torch.full_like(size, -1), size.clone()
    while bool((high - low > 1).any()):
        # The first look is at h = 0: no holding has to stay.
        middle = torch.where(low < 0, torch.zeros_like(low), (low + high) // 2)
        fine = turnover_needed(pattern(size, middle), region) <= region.turnover + 0.1 * TOLERANCE
        low, high = torch.where(fine, low, middle), torch.where(fine, middle, high)
    return pattern(size, high)


def turnover_needed(pattern: Tensor, region: Region) -> Tensor:
    """The least sum |w - anchor| on the slices of patterns (..., n) under box and budget, (...); inf where
    the slice cannot meet the budget.

    The point of the box nearest to the anchor is nearest name by name; every unit that the budget is then
    off by costs one unit more.
    """
    assert region.anchor is not None
    s = region.on(pattern)
    low, high = _totals(region)
    start = region.anchor.clamp(s.lower, s.upper)
    have = start.sum(-1)
    needed = (start - region.anchor).abs().sum(-1) + (have.clamp(low, high) - have).abs()
    impossible = (
        (s.upper.sum(-1) < low - TOLERANCE) | (s.lower.sum(-1) > high + TOLERANCE) | (s.lower > s.upper).any(-1)
    )
    return torch.where(impossible, torch.inf, needed)


def _near_relaxation(y: Tensor, region: Region, limit: int) -> Tensor:
    """Patterns for any region: prefixes of the relaxed projection, with the largest holdings kept or not."""
    order, w = _relaxed_order(y, region)
    place, free = _places(order), ~region.frozen
    like = ((w.abs() >= max(0.5 * region.min_weight, 1e-9)) & free).sum(-1).clamp_max(limit)
    sizes = [torch.full_like(like, limit)]
    if region.min_weight > 0.0:
        sizes += [like, (like - 1).clamp_min(0), (like + 1).clamp_max(limit)]
    size = torch.stack(sizes, -1)
    proposals = [(place.unsqueeze(1) < size.unsqueeze(-1)) & free]
    if region.anchor is not None:
        must = ((region.lower > 0) | (region.upper < 0)) & free
        held = _rank(region.anchor.abs().masked_fill(~free, -1.0)).expand_as(place).unsqueeze(1)
        for share in (0.5, 1.0):
            keep = (held < (share * size).ceil().unsqueeze(-1)) & (region.anchor != 0) & free
            fits = (keep | must).sum(-1, keepdim=True) <= size.unsqueeze(-1)
            proposals.append(_with_kept(torch.where(fits, keep | must, must), order, place, size, region))
    return torch.cat(proposals, 1)


def _repair(
    y: Tensor, region: Region, limit: int, found: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """For rows without a point: a pattern that has one, from the mixed-integer program; rows that are left
    with a violation have none."""
    w, pattern, left = found
    frozen = region.frozen.cpu().numpy()
    for i in (left > TOLERANCE).nonzero().flatten():
        chosen = _possible(y[i], region, limit, frozen)
        if chosen is None:
            break  # The region is the same for every row: empty for one, empty for all.
        one = i.unsqueeze(0)
        w[one], pattern[one], left[one] = _best(
            y[one], torch.as_tensor(chosen, device=y.device).reshape(1, 1, -1), region
        )
    return w, pattern, left


def _possible(y: Tensor, region: Region, limit: int, frozen: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """A pattern (n,) with a point, near y (n,); None where there is none. Ellipsoids and large tails enter by cuts,
    until the program's own point obeys them, which no pattern without a point can give.

    Raises:
        SolverError: no end within the rounds.
    """
    r = reaching(region).folded()
    rows, low, high = (x.cpu().numpy() for x in (r.rows, r.row_lower, r.row_upper))
    tails = [cap for cap in r.curved if isinstance(cap, Tail) and cap.small]
    others = [cap for cap in r.curved if not (isinstance(cap, Tail) and cap.small)]
    for _ in range(_ROUNDS):
        cut = cut_of(r, rows, low, high)
        found = possible_pattern(y.cpu().numpy(), cut, limit, region.min_weight, frozen, tails)
        if found is None:
            return None
        pattern, point = found
        broken = [cap for cap in others if float(cap.excess(torch.as_tensor(point).to(r.lower))) > 1e-9]
        if not broken:
            return pattern
        cuts = [cap.cut(point) for cap in broken]
        rows = np.concatenate([rows, np.stack([slope for slope, _ in cuts])])
        low = np.concatenate([low, np.full(len(cuts), -np.inf)])
        high = np.concatenate([high, [end for _, end in cuts]])
    raise SolverError(
        f"{_ROUNDS} rounds of cuts found no names that obey {curved_names(r)}, nor that there "
        "are none; loosen one of these caps a little."
    )
