"""Face-Gibbs: the law against enumeration of every face, invariance from exact starts, volumes, limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.samplers import face_gibbs
from portfolio_ebm.samplers.face_gibbs import FaceGibbs
from portfolio_ebm.samplers.face_set import FaceSet, FaceTarget
from portfolio_ebm.samplers.pair_gibbs import Target
from portfolio_ebm.samplers.polyhedron import Ball, Polyhedron
from portfolio_ebm.samplers.references import Reference

F64, INF, HOLE = torch.float64, math.inf, 1e-9
N, HEAT = 4, 0.15
HELD = torch.tensor([0.4, 0.3, 0.3, 0.0], dtype=F64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(d: int = N) -> Target:
    g = np.random.default_rng(0)
    root = g.normal(size=(N, N + 2))
    matrix, linear = np.zeros((d, d)), np.zeros(d)
    matrix[:N, :N], linear[:N] = root @ root.T / N, 0.5 * g.normal(size=N)
    return Target(torch.tensor(matrix), torch.tensor(linear))


def built(modes: list[list[tuple[float, ...]]], rows: list[tuple[list[float], float, float]], reference: Reference,
          named: int = N, counts: Tensor | None = None, most: float = 0.0, least: float = 0.0,
          balls: tuple[Ball, ...] = ()) -> FaceTarget:  # fmt: skip
    """The law with the modes (lower, upper, price, slope) of every coordinate."""
    many = max(len(own) for own in modes)
    full = torch.tensor([[*own, *[(INF, -INF, 0.0, 0.0)] * (many - len(own))] for own in modes], dtype=F64)
    row, low, high = (torch.tensor(part, dtype=F64) for part in zip(*rows, strict=True))
    poly = Polyhedron(torch.full((len(modes),), -INF), torch.full((len(modes),), INF), row, low, high, balls)
    counts = torch.zeros(0, len(modes), many, dtype=F64) if counts is None else counts
    ends = torch.tensor([least, most], dtype=F64).unsqueeze(-1)[:, : len(counts)]
    faces = FaceSet(
        full[..., 0], full[..., 1], counts, ends[0], ends[1], poly, torch.arange(len(modes)) < named, reference
    )
    return FaceTarget(quadratic(len(modes)), full[..., 2], full[..., 3], faces)


def tickets() -> FaceTarget:
    """Each name as it is held, or sold or bought for a ticket and a rate."""
    ticket, rate, modes = 0.12, 0.1, []
    for h in HELD.tolist():
        sold = [(0.0, h - HOLE, ticket + rate * h, -rate)] if h else []
        modes.append([(h, h, 0.0, 0.0), *sold, (h + HOLE, 1.0, ticket - rate * h, rate)])
    return built(modes, [([1.0] * N, 1.0, 1.0)], Reference(0.0, INF, 1.0, 1.0, N))


def tickets_and_choice() -> FaceTarget:
    """The same, at most two names held, with a cap on two of them and a ball."""
    ticket, modes, inside = 0.12, [], torch.zeros(1, N, 3, dtype=F64)
    for i, h in enumerate(HELD.tolist()):
        modes.append([(0.0, 0.0, ticket * (h > 0), 0.0)])
        modes[i] += [(h, h, 0.0, 0.0)] if h else []
        modes[i] += [(0.1, 1.0, ticket, 0.0)] if not h else [(0.1, h - HOLE, ticket, 0.0), (h + HOLE, 1.0, ticket, 0.0)]
    inside = torch.zeros(1, N, 4, dtype=F64)
    for i, own in enumerate(modes):
        inside[0, i, : len(own)] = torch.tensor([float(mode[1] > 0.0) for mode in own])
    ball = Ball(torch.full((N,), 0.3, dtype=F64), torch.ones(N, dtype=F64), 0.5 * torch.ones(N, dtype=F64), 0.75)
    rows = [([1.0] * N, 1.0, 1.0), ([1.0, 1.0, 0.0, 0.0], -INF, 0.8)]
    return built(modes, rows, Reference(0.1, INF, 1.0, 1.0, N), counts=inside, most=3.0, balls=(ball,))


def shorts(*, cash: bool) -> FaceTarget:
    """At most three names, each short, out or long; with cash, that may be a quarter."""
    modes = [[(0.0, 0.0, 0.0, 0.0), (-0.3, -HOLE, 0.0, 0.0), (HOLE, 0.8, 0.0, 0.0)] for _ in range(N)]
    inside = torch.ones(1, N + cash, 3, dtype=F64)
    inside[0, :, 0], inside[0, N:] = 0.0, 0.0
    if cash:
        modes.append([(0.0, 0.25, 0.0, 0.0)])
    low = 0.75 if cash else 1.0
    reference = Reference(-0.3, 0.8, low, 1.0, 3)
    return built(modes, [([1.0] * len(modes), 1.0, 1.0)], reference, counts=inside, most=3.0)


def equation() -> FaceTarget:
    """Two names or more, with an exposure that is fixed beside the budget."""
    modes = [[(0.0, 0.0, 0.0, 0.0), (0.05, 1.0, 0.0, 0.0)] for _ in range(N)]
    inside = torch.zeros(1, N, 2, dtype=F64)
    inside[0, :, 1] = 1.0
    rows = [([1.0] * N, 1.0, 1.0), ([1.0, 0.3, -0.5, 0.8], 0.4, 0.4)]
    return built(modes, rows, Reference(0.05, INF, 1.0, 1.0, N), counts=inside, most=4.0, least=3.0)


def enumerated(law: FaceTarget, floor: float, top: float, size: int, slab: float = 0.0, count: int = 40_000) -> Tensor:
    """Draws by enumeration: every choice of points and ranges of names, uniform on its reference set, then all rules
    (equations beside the budget within `slab`), then E."""
    faces, g, found, weight = law.faces, np.random.default_rng(3), [], []
    cash = faces.n > N
    low = 1.0 - (float(faces.upper[N, 0]) if cash else 0.0)
    for rests in product(*[[None, *own[p].tolist()] for own, p in zip(
        faces.lower[:N], (faces.exists & ~faces.ranged)[:N], strict=True)]):  # fmt: skip
        free = [i for i, rest in enumerate(rests) if rest is None]
        m, rest = len(free), sum(rest for rest in rests if rest is not None)
        x = np.tile(np.array([rest or 0.0 for rest in rests])[:, None], (1, count if m else 1))
        room = 1.0 - rest
        if (m and room - m * floor < 1e-9) or (not m and not cash and abs(room) > 1e-9):
            continue
        if m:
            x[free] = uniform(g, m, floor, top, (low - rest, room), x.shape[1])
        if cash:
            x = np.vstack([x, 1.0 - x.sum(0)])
        x = torch.tensor(x)
        p, inside = faces.polyhedron, torch.ones(x.shape[1], dtype=torch.bool)
        if slab:
            inside = ((p.rows[1:] @ x - p.row_lower[1:, None]).abs() <= slab).all(0)
            mode = faces.modes(x)
            held = faces.counts[0].gather(1, mode).sum(0)
            box = (x >= faces.lower.gather(1, mode) - 1e-9) & (x <= faces.upper.gather(1, mode) + 1e-9)
            inside = inside & (held >= faces.count_lower) & (held <= faces.count_upper) & box.all(0)
        else:
            points = torch.where(faces.exists & ~faces.ranged, faces.lower, INF)[free].unsqueeze(-1)
            inside = faces.holds(x) & ((x[free].unsqueeze(1) - points).abs() > 1e-8).all(1).all(0)
        found.append(x[:, inside])
        weight.append(torch.exp(-law(x[:, inside]) / HEAT) / x.shape[1])
    x, w = torch.cat(found, 1), torch.cat(weight)
    return x[:, torch.multinomial(w, size, replacement=True, generator=rng(9))]


def uniform(
    g: np.random.Generator, m: int, floor: float, top: float, ends: tuple[float, float], count: int
) -> np.ndarray:
    """Points (m, count) uniform on the reference set, by rejection where there is a top."""
    low, high = ends
    if m == 1 and low == high:
        return np.full((1, count), high)  # of mass one, within the rules or not
    if math.isinf(top) and low == high:
        return floor + (high - m * floor) * g.dirichlet(np.ones(m), count).T
    found = np.zeros((m, 0))
    while found.shape[1] < count:
        x = g.uniform(floor, top, (m, 4 * count))
        if low == high:
            x[-1] = high - x[:-1].sum(0)
        x = x[:, (x[-1] >= floor) & (x[-1] <= top) & (x.sum(0) >= low - 1e-12) & (x.sum(0) <= high + 1e-12)]
        found = np.concatenate([found, x], 1)
    return found[:, :count]


def same_law(law: FaceTarget, a: Tensor, b: Tensor) -> None:
    """Chi-square over faces, and KS over the weights in a range, for two samples (d, draws)."""
    modes = [law.faces.modes(x) for x in (a, b)]
    power = (8 ** torch.arange(len(a))).unsqueeze(-1)
    codes = [(mode * power).sum(0) for mode in modes]
    every = torch.unique(torch.cat(codes))
    table = np.array([[int((code == k).sum()) for k in every] for code in codes])
    often = table.sum(0) >= 20
    table = np.column_stack([table[:, often], table[:, ~often].sum(1)])
    table = table[:, table.sum(0) > 0]
    assert table.shape[1] > 1 and stats.chi2_contingency(table).pvalue > 1e-3
    for i in range(len(a)):
        free = [x[i][law.faces.ranged[i, mode[i]]].numpy().round(9) for x, mode in zip((a, b), modes, strict=True)]
        if min(map(len, free)) > 20:
            assert stats.ks_2samp(*free).pvalue > 1e-3 / len(a)


LAWS: list[tuple[str, Callable[[], FaceTarget], tuple[float, float, float]]] = [
    ("tickets", tickets, (0.0, INF, 0.0)),
    ("tickets and a choice", tickets_and_choice, (0.1, INF, 0.0)),
    ("shorts", lambda: shorts(cash=False), (-0.3, 0.8, 0.0)),
    ("shorts and cash", lambda: shorts(cash=True), (-0.3, 0.8, 0.0)),
    ("an equation", equation, (0.05, INF, 0.004)),
]


SOME = [
    pytest.param(*one[1:], id=one[0], marks=[pytest.mark.slow] * (one[0] in ("tickets", "shorts", "an equation")))
    for one in LAWS
]


@pytest.mark.parametrize("make, reference", SOME)
def test_chains_from_one_portfolio_reach_the_law(make, reference) -> None:
    law = make()
    truth = enumerated(law, *reference[:2], 4000, reference[2], 600_000 if reference[2] else 40_000)
    if reference[2]:
        # Draws within a slab are moved onto the equation where their own mode leaves them.
        truth = settled(law, truth)
    start = truth[:, :1].repeat(1, 2500)
    found = FaceGibbs(law).run(start, HEAT, 150, rng(1))
    assert bool(law.faces.holds(found, 1e-11).all())
    same_law(law, found, truth)


def settled(law: FaceTarget, x: Tensor) -> Tensor:
    """The nearest points on the equations, over the names with a range."""
    p, free = law.faces.polyhedron, law.faces.ranged.gather(1, law.faces.modes(x)).to(F64)
    gap = p.row_lower.unsqueeze(-1) - p.rows @ x
    gram = torch.einsum("rd,dc,sd->crs", p.rows, free, p.rows)
    step = torch.linalg.solve(gram, gap.T.unsqueeze(-1)).squeeze(-1).T
    return x + free * (p.rows.T @ step)


@pytest.mark.parametrize("make, reference", [pytest.param(*one[1:], id=one[0]) for one in (LAWS[0], LAWS[3])])
def test_every_way_of_drawing_who_moves_leaves_the_law(make, reference) -> None:
    law = make()
    truth = enumerated(law, *reference[:2], 8000)
    for kind in (face_gibbs.WITHIN, face_gibbs.ACROSS, face_gibbs.REST):
        shares = tuple(float(k == kind) for k in range(3))
        if kind == face_gibbs.REST and law.faces.n > N:
            continue  # cash has no point to rest at
        x = FaceGibbs(law, shares).run(truth[:, :4000].contiguous(), HEAT, 6, rng(10 + kind))
        assert not torch.equal(x, truth[:, :4000])
        same_law(law, x, truth[:, 4000:])


def test_every_chain_has_its_own_temperature() -> None:
    law = tickets()
    heat = torch.tensor([0.5 * HEAT, HEAT], dtype=F64).repeat_interleave(1500)
    found = FaceGibbs(law).run(HELD.unsqueeze(-1).repeat(1, 3000), heat, 150, rng(1))
    same_law(law, found[:, 1500:], enumerated(law, 0.0, INF, 4000))
    still = (found == HELD.unsqueeze(-1)).all(0).to(F64)
    assert float(still[:1500].mean()) > float(still[1500:].mean()) + 0.1


def test_a_name_that_has_all_of_the_budget_weighs_one_whatever_sums_round_to() -> None:
    # At 1 the name is at its upper limit, and sums of weights are now and then 1e-16 beyond it.
    modes = [[(0.0, 0.0, 0.0, 0.0), (-0.3, -HOLE, 0.0, 0.0), (HOLE, 1.0, 0.0, 0.0)] for _ in range(N)]
    inside = torch.ones(1, N, 3, dtype=F64)
    inside[0, :, 0] = 0.0
    law = built(modes, [([1.0] * N, 1.0, 1.0)], Reference(-0.3, 1.0, 1.0, 1.0, 2), counts=inside, most=2.0)
    x = torch.tensor([0.6, 0.4, 0.0, 0.0], dtype=F64).unsqueeze(-1).repeat(1, 1500)
    found = FaceGibbs(law).run(x, 1e6, 100, rng(1))
    # Where E does not matter all four names alone and all six pairs have mass one.
    assert abs(float(((found != 0.0).sum(0) == 1).to(F64).mean()) - 0.4) < 4.0 * math.sqrt(0.24 / 1500)


def irwin_hall(m: int, z: Fraction, power: int) -> float:
    """The density (power m - 1) or distribution (power m) of a sum of m uniforms, in whole fractions."""
    terms = [(-1) ** k * math.comb(m, k) * (z - k) ** power for k in range(m + 1) if z > k]
    return float(sum(terms, Fraction(0)) / math.factorial(power))


def test_references_have_the_volumes_of_their_sets() -> None:
    one, rest = torch.tensor(1), torch.zeros((), dtype=F64)
    for m in (2, 5, 12):
        size = m * one
        simplex = Reference(0.01, INF, 1.0, 1.0, 20).log_weight(size, rest + 0.2)
        assert float(simplex) == pytest.approx(math.lgamma(m) - (m - 1) * math.log(0.8 - 0.01 * m), rel=1e-12)
        open_ = Reference(0.0, INF, 0.5, 1.0, 20).log_weight(size, rest)
        assert float(open_) == pytest.approx(math.lgamma(m + 1) - math.log(1.0 - 0.5**m), rel=1e-12)
        z = Fraction(1 + m // 4) / Fraction(4, 5)  # floor -1/4 and a ceiling of 55 %: a range of 4/5
        box = Reference(-0.25, 0.55, float(1 + m // 4 - Fraction(m, 4)), float(1 + m // 4 - Fraction(m, 4)), 20)
        volume = irwin_hall(m, z, m - 1) * 0.8 ** (m - 1)
        assert float(box.log_weight(size, rest)) == pytest.approx(-math.log(volume), abs=2e-3)
        wide = Reference(-0.25, 0.55, box.low - 0.2, box.low, 20)
        volume = (irwin_hall(m, z, m) - irwin_hall(m, z - Fraction(1, 4), m)) * 0.8**m
        assert float(wide.log_weight(size, rest)) == pytest.approx(-math.log(volume), abs=2e-3)
    # Names with nothing to move are no face; one whose weight the sum fixes is a point.
    assert float(Reference(0.0, INF, 1.0, 1.0, 5).log_weight(2 * one, rest + 1.0)) == -INF
    assert float(Reference(0.0, INF, 1.0, 1.0, 5).log_weight(one, rest)) == 0.0


def test_weights_in_percent_have_the_same_law() -> None:
    # Faces of different dimensions: a measure that needs a unit would change their odds.
    for make in (lambda u: Reference(-0.3 * u, 0.8 * u, u, u, 4), lambda u: Reference(0.02 * u, INF, 0.7 * u, u, 4)):
        odds = []
        for unit in (1.0, 100.0):
            reference = make(unit)
            log = reference.log_weight(torch.tensor([2, 3]), torch.zeros(2, dtype=F64))
            odds.append(float(log[1] - log[0]) + math.log(unit))
        assert odds[0] == pytest.approx(odds[1], abs=1e-9)


def test_pairs_of_names_are_all_met() -> None:
    law = tickets()
    moved = set()
    for seed in range(20):
        x = FaceGibbs(law, (0.0, 0.0, 1.0)).run(HELD.unsqueeze(-1).repeat(1, 200), 10.0, 1, rng(seed))
        for column in (x != HELD.unsqueeze(-1)).T:
            moved.add(tuple(column.nonzero().flatten().tolist()))
    assert moved - {()} == set(combinations(range(N), 2))
