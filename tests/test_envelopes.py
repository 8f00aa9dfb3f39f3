"""Fixed costs in relaxations: envelopes and splits by hand, programs against the perspective form, bounds and trees
against all choices."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest

from portfolio_ebm.constraints.mixed.branch_and_bound import branch_and_bound
from portfolio_ebm.constraints.mixed.choices import Choices
from portfolio_ebm.constraints.mixed.fees import Fees, enveloped, furthest
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice, relax
from portfolio_ebm.constraints.mixed.programs.bent import BentProgram
from portfolio_ebm.constraints.mixed.programs.enveloped import EnvelopedProgram
from portfolio_ebm.constraints.mixed.programs.envelopes import Envelope, knee_of
from portfolio_ebm.constraints.mixed.programs.program import Program
from portfolio_ebm.constraints.mixed.programs.splitting import Split

ONE = np.ones(1)


def alone(fixed: float, reach: float, split: float = 0.0, power: float = 0.0) -> Envelope:
    """Of one name from zero."""
    return Envelope.of(0.0 * ONE, fixed * ONE, reach * np.ones((1, 2)), split * ONE, power * ONE)


def height(e: Envelope, w: np.ndarray | float) -> np.ndarray:
    return np.asarray(e.square(np.atleast_1d(w)) + e.bent(np.atleast_1d(w)))


def test_knees_by_hand() -> None:
    # split t^2 = fixed; power/2 t^(3/2) = fixed; and 1 t^2 + 1 t^(3/2) = 2 at t = 1.
    assert knee_of(4e-4 * ONE, 0.0 * ONE, 0.01 * ONE)[0] == pytest.approx(0.2, rel=1e-14)
    assert knee_of(4e-3 * ONE, 1.0 * ONE, 0.0 * ONE)[0] == pytest.approx(0.04, rel=1e-14)
    assert knee_of(2.0 * ONE, 2.0 * ONE, 1.0 * ONE)[0] == pytest.approx(1.0, rel=1e-14)
    assert np.isinf(knee_of(ONE, 0.0 * ONE, 0.0 * ONE)[0])
    assert knee_of(0.0 * ONE, ONE, ONE)[0] == 0.0
    # Counted from h = 0.04, of sign(z) |z|^(1/2) (t/2 + h) + h^(3/2) with z = t - h: at 0.05 that is 0.1 (0.025 + 0.04)
    # + 0.008, at 0.03 it is 0.008 - 0.1 (0.015 + 0.04), and at 0.05 on the other side 0.3 (0.025 - 0.04) + 0.008.
    for fixed, h, knee in ((0.0145, 0.04, 0.05), (0.0025, 0.04, 0.03), (0.0035, -0.04, 0.05)):
        assert knee_of(fixed * ONE, ONE, 0.0 * ONE, 0.0, h)[0] == pytest.approx(knee, rel=1e-12)
    # At h it jumps by 2 * 0.01 * 0.04, which takes it from 0.008 past 0.0084; 0.0153 is reached at 0.05 again.
    assert knee_of(0.0084 * ONE, ONE, 0.0 * ONE, 0.01, 0.04)[0] == 0.04
    assert knee_of(0.0153 * ONE, ONE, 0.0 * ONE, 0.01, 0.04)[0] == pytest.approx(0.05, rel=1e-12)


def test_envelopes_by_hand() -> None:
    # Nothing beside the cost: a line to the reach.
    assert height(alone(5e-4, 0.25), [0.0, 0.1, 0.25]) == pytest.approx([0.0, 2e-4, 5e-4])
    # 4e-4 + 0.01 t^2 touches its tangent from zero at 0.2 with slope 2 * 0.01 * 0.2; further out it is itself.
    e = alone(4e-4, 1.0, split=0.01)
    assert height(e, [0.1, 0.2, -0.2, 0.5]) == pytest.approx([4e-4, 8e-4, 8e-4, 4e-4 + 0.0025])
    # The reach comes before the knee: the line to (0.1, 4e-4 + 1e-4).
    assert height(alone(4e-4, 0.1, split=0.01), [0.05, 0.1]) == pytest.approx([2.5e-4, 5e-4])
    # 4e-3 + t^(3/2) touches at 0.04, where it is 0.012.
    assert height(alone(4e-3, 1.0, power=1.0), [0.02, 0.04, 0.25]) == pytest.approx([0.006, 0.012, 0.129])
    # No fixed cost: nothing but the function.
    assert height(alone(0.0, 1.0, split=2.0, power=1.0), [0.25]) == pytest.approx([0.125 + 0.125])


@pytest.mark.parametrize("seed", range(40))
def test_an_envelope_is_the_lower_hull_of_its_function(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fixed, split, power = rng.uniform(0.0, 1e-3), rng.choice([0.0, 0.01]), rng.choice([0.0, 0.02])
    reach = rng.uniform(0.02, 0.6, 2)
    e = Envelope.of(np.array([0.3]), fixed * ONE, reach[None], split * ONE, power * ONE)
    t = np.concatenate([-np.linspace(reach[0], 0.0, 300), np.linspace(0.0, reach[1], 300)[1:]])
    f = np.where(t != 0.0, fixed, 0.0) + split * t**2 + power * np.abs(t) ** 1.5
    found = height(e, 0.3 + t)
    assert (found <= f + 1e-15).all()
    # The hull of the sampled function: the largest of all chords' least values from above is the least convex one.
    hull = [0]
    for k in range(1, len(t)):
        while len(hull) > 1:
            i, j = hull[-2], hull[-1]
            if (f[j] - f[i]) * (t[k] - t[i]) < (f[k] - f[i]) * (t[j] - t[i]):
                break
            hull.pop()
        hull.append(k)
    lower = np.interp(t, t[hull], f[hull])
    assert (found <= lower + 1e-15).all()
    assert lower - found == pytest.approx(0.0, abs=2e-3 * max(f.max(), 1e-9))
    # What is missing is the function less its envelope, the fixed cost aside.
    assert e.missing(0.3 + t) + np.where(t != 0.0, fixed, 0.0) == pytest.approx(f - found, abs=1e-15)


def test_a_rate_that_a_line_passes_is_a_part_of_it_by_hand() -> None:
    def of(fixed: float, held: float, reach: float = 1.0) -> Envelope:
        ends = np.array([[0.0, reach]])
        return Envelope.of(0.0 * ONE, fixed * ONE, ends, 0.01 * ONE, 0.0 * ONE, 0.0, 1e-3 * ONE, held * ONE)

    # Without the rate the line of 4e-4 + 0.01 t^2 ends at 0.2. Held 0.05 it passes that; selling it costs 5e-5, and
    # beyond it all is 3e-4 + 1e-3 t + 0.01 t^2 above that, so that the line ends at sqrt(0.03).
    e, knee = of(4e-4, 0.05), 0.03**0.5
    assert e.rate[0] == 1e-3 and e.knee[0, 1] == pytest.approx(knee) and e.rise[0, 1] == pytest.approx(0.0, abs=1e-15)
    slope = 2 * 0.01 * knee + 1e-3
    assert height(e, [0.0, 0.1, 0.5]) == pytest.approx([5e-5, 5e-5 + 0.1 * slope, 4e-4 + 4.5e-4 + 0.0025])
    # Held 0.19: sqrt((4e-4 - 3.8e-4) / 0.01) is below, so that the line ends in the kink, at 4e-4 + 0.01 0.19^2.
    e = of(4e-4, 0.19)
    assert e.knee[0, 1] == pytest.approx(0.19) and e.rise[0, 1] > 1e-3
    assert height(e, [0.0, 0.19, 0.4]) == pytest.approx([1.9e-4, 7.61e-4, 4e-4 + 0.0016 + 2.1e-4])
    # Held 0.3, or out of reach, the kink only tilts the line: it stays with the program.
    assert of(4e-4, 0.3).rate[0] == 0.0 and of(4e-4, 0.1, reach=0.08).rate[0] == 0.0


def test_an_impact_is_a_part_of_the_line_of_a_name_that_may_be_out_by_hand() -> None:
    def of(fixed: float, rate: float = 0.0) -> Envelope:
        ends = np.array([[0.0, 1.0]])
        return Envelope.of(0.0 * ONE, fixed * ONE, ends, 0.0 * ONE, ONE, 0.0, rate * ONE, 0.04 * ONE)

    # Selling 0.04 costs 0.008. Under 0.0025 the line ends at 0.03, which costs 0.001 to come to: 0.0045 less over 0.03.
    # From there it is 0.0025 + |t - 0.04|^(3/2), at 0.04 as much as the fixed cost alone.
    assert height(of(2.5e-3), [0.0, 0.015, 0.03, 0.04, 0.13]) == pytest.approx([0.008, 0.00575, 0.0035, 0.0025, 0.0295])
    # Under 0.0145 it ends at 0.05, beyond what is held.
    assert height(of(0.0145), [0.0, 0.05, 0.13]) == pytest.approx([0.008, 0.0155, 0.0145 + 0.027])
    # With a rate of 0.01 and 0.0084 it ends in the kink at 0.04, level with the start: 0.0084 to hold it, 0.0084 to
    # sell it.
    e = of(0.0084, 0.01)
    assert e.rate[0] == 0.01 and e.rise[0, 1] == pytest.approx(0.01)
    assert height(e, [0.0, 0.02, 0.04, 0.13]) == pytest.approx([0.0084, 0.0084, 0.0084, 0.0084 + 0.027 + 9e-4])
    # A line that ends before it leaves the rate where it is.
    assert of(2.5e-3, 0.01).rate[0] == 0.0


@pytest.mark.parametrize("impact", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_an_envelope_with_what_trades_cost_is_the_lower_hull_of_its_function(seed: int, impact: bool) -> None:
    rng = np.random.default_rng(seed)
    fixed, split, rate = rng.uniform(0.0, 1e-3), rng.choice([0.0, 0.01]), rng.choice([2e-4, 2e-3])
    held, reach, least = rng.uniform(0.01, 0.4), rng.uniform(0.05, 0.6), rng.choice([0.0, 0.03])
    power, held = (rng.choice([5e-3, 2e-2]), held * rng.choice([-0.3, 1.0])) if impact else (0.0, held)
    ends, first = np.array([[0.0, reach]]), np.array([[0.0, least]])
    e = Envelope.of(0.0 * ONE, fixed * ONE, ends, split * ONE, power * ONE, first, rate * ONE, held * ONE)
    t = np.r_[0.0, np.linspace(max(least, 1e-6), reach, 3000)]
    f = np.where(t > 0.0, fixed, 0.0) + split * t**2 + rate * np.abs(t - held) + power * np.abs(t - held) ** 1.5
    beside = (rate - e.rate[0]) * np.abs(t - held)
    found = height(e, t) + beside
    assert (found <= f + 1e-15).all()
    hull = [0]
    for k in range(1, len(t)):
        while len(hull) > 1 and (f[hull[-1]] - f[hull[-2]]) * (t[k] - t[hull[-2]]) >= (f[k] - f[hull[-2]]) * (
            t[hull[-1]] - t[hull[-2]]
        ):
            hull.pop()
        hull.append(k)
    lower = np.interp(t, t[hull], f[hull])
    assert (found <= lower + 1e-12).all()
    if e.rate[0] > 0.0:  # else a line that ends before the kink, and the kink beside it, may be below both together
        assert lower - found == pytest.approx(0.0, abs=2e-3 * max(f.max(), 1e-9))
    assert e.missing(t) + np.where(t > 0.0, fixed, 0.0) == pytest.approx(f - found, abs=1e-15)


def test_splits_by_hand() -> None:
    # A diagonal is all its own; of equal correlations r the least eigenvalue 1 - r is the most on average.
    plain = Split.of(np.diag([2.0, 4.0]))
    assert plain is not None
    assert plain.diagonal == pytest.approx([1.0, 2.0], rel=0.03)
    equal = Split.of(np.full((4, 4), 0.6) + 0.4 * np.eye(4))
    assert equal is not None
    assert equal.diagonal == pytest.approx(np.full(4, 0.2), rel=0.03)
    # d1 d2 = (1 - 2 d1)(1 - 2 d2) = r^2 ends the convex region of two names: a worthier one gets more.
    one = Split.of(np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([10.0, 1.0]))
    assert one is not None and one.diagonal[0] > 2.0 * one.diagonal[1]
    # Nothing can be split off a quadratic that is flat somewhere.
    assert Split.of(np.ones((3, 3))) is None
    assert Split.of(np.zeros((3, 3))) is None


@pytest.mark.parametrize("n", [3, 12, 40, 320])
def test_what_a_split_leaves_is_convex_and_more_than_by_the_least_eigenvalue(n: int) -> None:
    rng = np.random.default_rng(n)
    loads = rng.normal(size=(n, 3)) * 0.03
    matrix = 2 * (loads @ loads.T + np.diag(rng.uniform(1e-4, 4e-3, n)))
    found = Split.of(matrix)
    assert found is not None
    assert (found.diagonal > 0.0).all()
    assert found.rest + 2.0 * np.diag(found.diagonal) == pytest.approx(matrix, abs=1e-15)
    assert np.linalg.eigvalsh(found.rest)[0] > 0.0
    size = matrix.diagonal()
    share = np.linalg.eigvalsh(matrix / np.sqrt(np.outer(size, size)))[0]
    assert (found.diagonal / size).sum() >= 0.98 * n * share / 2.0


def test_many_names_are_split_as_eigenvalues_say() -> None:
    rng = np.random.default_rng(1)
    loads = rng.normal(size=(310, 4)) * 0.05
    matrix = loads @ loads.T + np.diag(rng.uniform(1e-4, 4e-3, 310))
    c = matrix / np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal()))
    own = 1.0 / np.linalg.inv(c).diagonal()
    alike, others = (np.linalg.eigvalsh(c / np.sqrt(np.outer(x, x)))[0] * x for x in (np.ones(310), own))
    assert others.sum() > alike.sum()
    found = Split.of(matrix)
    assert found is not None
    assert 2.0 * found.diagonal / matrix.diagonal() == pytest.approx(0.99 * others, rel=1e-3)
    # A quadratic that is flat somewhere leaves nothing.
    assert Split.of(loads @ loads.T) is None


def traded(seed: int, n: int = 5, impact: bool = False, turnover: float = 0.5) -> Mixed:
    """Names held that may stay or trade for a fixed cost each, a budget, a row, a rate and a cap."""
    rng = np.random.default_rng(seed)
    loads = rng.normal(size=(n, 2)) * 0.05
    matrix = 2 * (loads @ loads.T + np.diag(rng.uniform(1e-3, 6e-3, n)))
    held = rng.dirichlet(np.full(n, 0.8)) * (rng.random(n) < 0.8)
    held = held / held.sum()
    rows, most = np.vstack([np.ones(n), (np.arange(n) < 2).astype(float)]), np.array([1.0, 0.9])
    data = matrix, -rng.normal(2e-3, 3e-3, n), np.zeros(n), np.ones(n), rows, np.array([1.0, -np.inf]), most
    rate, cap = rng.choice([0.0, 2e-4]), rng.choice([turnover, np.inf])
    p = (
        BentProgram(*data, held, rate, cap, power=rng.uniform(0.0, 8e-3, n))
        if impact
        else Program(*data, held, rate, cap)
    )
    choices = Choices.of_names(np.arange(n), [(0.0, 0.0), (0.0, 1.0)], [], "FixedCost")
    choices.lower[:, 0], choices.upper[:, 0], choices.cost[:, 1] = held, held, rng.choice([1e-4, 1e-3])
    if rng.random() < 0.4:
        number = Choices.of_names(np.arange(n), [(0.0, 0.0), (0.1, 1.0)], [(1, 0, 3, False)], "Cardinality")
        choices = choices.joined(number)
    return Mixed(p, choices)


def perspective(m: Mixed) -> float:
    """The same relaxation of `traded`, of tickets alone and without impact, in z: fixed z + split t^2 / z,
    t <= reach z."""
    p, n, c = m.program, m.program.n, m.choices
    assert p.held is not None and m.split is not None
    w, z, far = cp.Variable(n), cp.Variable((n, 2)), furthest(p)
    up, down = cp.Variable(n, nonneg=True), cp.Variable(n, nonneg=True)
    reach = np.minimum(np.column_stack([p.held, 1.0 - p.held]), far)
    d, cost = m.split.diagonal, c.cost[:, 1]
    energy = 0.5 * cp.quad_form(w, cp.psd_wrap(p.matrix - 2 * np.diag(d))) + p.linear @ w
    energy += (2 * d * p.held) @ w - d @ p.held**2 + p.rate * cp.sum(up + down)
    rules = [w == p.held + up - down, w >= 0, w <= 1, cp.sum(w) == 1, w[0] + w[1] <= 0.9, z >= 0, z <= 1]
    rules += [cp.sum(up + down) <= p.turnover] if np.isfinite(p.turnover) else []
    for k, part in enumerate((down, up)):
        rules.append(part <= cp.multiply(reach[:, k], z[:, k]))
        energy += cost @ z[:, k] + sum(d[i] * cp.quad_over_lin(part[i], z[i, k]) for i in range(n))
    problem = cp.Problem(cp.Minimize(1e3 * energy), rules)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return float(problem.value) / 1e3


def test_the_relaxation_of_tickets_is_the_perspective_one() -> None:
    seen = 0
    for seed in range(12):
        m = traded(seed)
        if m.choices.limits or m.root() is None:
            continue
        point = relax(m, m.choices.exists)
        assert point is not None
        assert point.value == pytest.approx(perspective(m), rel=1e-6, abs=1e-9)
        assert point.value - 1e-9 <= point.bound <= point.value
        seen += 1
    assert seen > 4


def enumerated(m: Mixed) -> float:
    modes = [np.flatnonzero(row) for row in m.choices.exists]
    points = (on_slice(m, np.array(one)) for one in itertools.product(*modes))
    return min((point.value for point in points if point is not None), default=np.inf)


MANY = pytest.mark.slow


@pytest.mark.parametrize(
    ("impact", "seeds"),
    [(False, range(12)), (True, range(12)),
     *(pytest.param(False, range(k, k + 37), marks=MANY) for k in range(12, 160, 37)),
     *(pytest.param(True, range(k, k + 17), marks=MANY) for k in range(12, 80, 17))],
)  # fmt: skip
def test_bounds_and_trees_of_tickets_against_all_choices(impact: bool, seeds: range) -> None:
    tighter = 0
    for seed in seeds:
        m = traded(seed, n=4, impact=impact)
        truth, root = enumerated(m), m.root()
        if root is None or not np.isfinite(truth):
            continue
        point, proof = relax(m, root), branch_and_bound(m, tolerance=1e-12)
        assert point is not None
        assert point.bound <= truth + 1e-15
        assert proof.finished and proof.bound <= truth + 1e-12
        assert proof.value == pytest.approx(truth, abs=2e-11)
        # One line a ticket, as steep as the furthest trade of all allows.
        fees = Fees.of(m.program, m.choices, root, np.full((m.program.n, 2), np.inf))
        line = np.where(fees.fixed > 0.0, fees.fixed / fees.reach.max(axis=1).clip(1e-9, 1e9), 0.0)
        loose = relax(replace(m, program=replace(m.program, rate=m.program.rate + line), choices=free(m.choices)), root)
        assert loose is not None
        fixed = float(np.where(root, m.choices.cost, np.inf).min(axis=1).sum())
        assert point.value >= loose.value + fixed - 1e-11
        tighter += point.value > loose.value + fixed + 1e-6
    assert tighter > len(seeds) // 3


def free(choices: Choices) -> Choices:
    return replace(choices, cost=np.zeros_like(choices.cost))


@pytest.mark.parametrize("seed", range(20))
def test_nodes_of_tickets_are_below_all_their_slices(seed: int) -> None:
    m, rng = traded(seed, n=6, impact=seed % 2 == 1), np.random.default_rng(seed)
    root = m.root()
    assert root is not None
    for _ in range(4):
        allowed = root & (rng.random(root.shape) < 0.7)
        allowed |= root & ~allowed.any(axis=1, keepdims=True)
        point, inside = relax(m, allowed), [np.flatnonzero(row) for row in allowed]
        for _ in range(8):
            slice_ = on_slice(m, np.array([rng.choice(one) for one in inside]))
            if slice_ is not None:
                assert point is not None
                assert point.bound <= slice_.value + 1e-15


def test_the_bound_of_an_enveloped_program_is_below_every_point_and_its_failure_is_not_a_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    m = traded(3)
    fees = Fees.of(m.program, m.choices, m.choices.exists, m.reach)
    p, constant = enveloped(m.program, fees, m.split)
    assert isinstance(p, EnvelopedProgram)
    point = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    assert point is not None
    rng = np.random.default_rng(1)
    assert p.held is not None
    for w in rng.dirichlet(np.ones(p.n), 400):
        w = p.held + (w - p.held) * min(1.0, p.turnover / np.abs(w - p.held).sum())
        if w[:2].sum() <= 0.9:
            assert point.bound <= p.value(w)
            real = m.program.value(w) + float(m.choices.cost[np.abs(w - p.held) > 1e-12, 1].sum())
            assert p.value(w) + constant <= real + 1e-15
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.programs.enveloped.by_columns", lambda *args: None)
    failed = p.minimum(p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    assert failed is not None and failed.bound <= point.value


@pytest.mark.parametrize("seed", range(4))
def test_where_the_walk_of_an_impact_fails_its_bound_is_still_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    m = traded(seed, n=4, impact=True)
    truth, root = enumerated(m), m.root()
    monkeypatch.setattr("portfolio_ebm.constraints.mixed.programs.enveloped._Walk.end", lambda *args: None)
    assert root is not None
    point = relax(m, root)
    assert point is not None and point.bound <= truth + 1e-15


def test_how_far_a_trade_can_go_by_hand() -> None:
    p = Program(
        np.eye(2), np.zeros(2), np.zeros(2), np.ones(2), np.ones((1, 2)), np.array([0.9]), np.array([1.0]),
        np.array([0.5, 0.5]), 0.0, 0.4,
    )  # fmt: skip
    # Bought b, sold s: b + s <= 0.4, -0.1 <= b - s <= 0.
    assert furthest(p) == pytest.approx(np.tile([0.25, 0.2], (2, 1)), abs=2e-9)
