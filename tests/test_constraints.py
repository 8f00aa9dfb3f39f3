"""Laws that hold for every rule there is: a new rule without an example here fails the first test."""

from __future__ import annotations

from functools import cache
from inspect import isabstract

import cvxpy as cp
import pytest
import torch
from cases_rules import CONVEX, HELD, RULES, N, context, points

from portfolio_ebm.constraints import (
    discrete,
    diversified,
    either,
    envelope,
    exposures,
    leverage,
    lots,
    risk,
    trading,
    weights,
)  # fmt: skip
from portfolio_ebm.constraints.base import Constraint, Projection
from portfolio_ebm.constraints.combine import All, project_any, region_residual, regions_of
from portfolio_ebm.constraints.discrete import Cardinality
from portfolio_ebm.constraints.envelope import Relaxed
from portfolio_ebm.constraints.exposures import FactorExposure
from portfolio_ebm.constraints.trading import Turnover
from portfolio_ebm.constraints.weights import Box, Budget, LongOnly
from portfolio_ebm.construction import relaxing
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import DataError, InfeasibleError, ShapeError
from portfolio_ebm.types import Spec

F64 = torch.float64
ROOMS = (weights, exposures, leverage, risk, trading, discrete, diversified, either, lots, envelope, relaxing)


# All laws of a rule run one after the other, so that they share its projection.
every_rule = pytest.mark.parametrize("name", RULES, scope="module")
every_convex = pytest.mark.parametrize("name", CONVEX, scope="module")


@cache
def projected(name: str) -> Projection:
    """The projection of the points that most laws look at; nobody changes it."""
    return RULES[name].project(points(), context())


def tight(problem: cp.Problem) -> None:
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13)


def test_every_rule_of_the_room_has_an_example() -> None:
    known = {kind for kind in Spec.registry.values() if issubclass(kind, Constraint) and kind is not Constraint}
    ours = {kind for kind in known if kind.__module__.startswith("portfolio_ebm.") and not isabstract(kind)}
    shown = {type(part) for rule in RULES.values() for part in (rule, *rule.rules())}
    assert ours <= shown, f"no example for {ours - shown}"


@every_rule
def test_the_projection_obeys_the_rule(name: str) -> None:
    rule, ctx = RULES[name], context()
    found = projected(name)
    assert found.status.ok
    assert float(rule.residual(found.weights, ctx).max()) <= 1e-12
    assert float(found.residual.max()) <= 1e-12
    left = torch.stack([region_residual(found.weights, region) for region in regions_of(rule, ctx)])
    assert float(left.amin(0).max()) <= 1e-12


@every_rule
def test_the_rules_are_not_all_obeyed_anyway(name: str) -> None:
    """Else the test above could not fail."""
    assert float(RULES[name].residual(points(), context()).max()) > 1e-3


@every_rule
def test_idempotent(name: str) -> None:
    once = projected(name).weights
    twice = RULES[name].project(once, context()).weights
    assert float((once - twice).abs().max()) < 1e-11


@every_convex
def test_non_expansive_on_convex_sets(name: str) -> None:
    y = points(20)
    w = CONVEX[name].project(y, context()).weights
    before, after = torch.cdist(y, y), torch.cdist(w, w)
    assert bool((after <= before + 1e-9).all())


@every_convex
def test_the_variational_inequality(name: str) -> None:
    """(y - w).(x - w) <= 0 for every x of the set marks w as nearest to y, without another solver."""
    y = points(20, seed=12)
    w = CONVEX[name].project(y, context()).weights
    inside = torch.cat([w, CONVEX[name].project(points(20, seed=13), context()).weights])
    assert float(((y - w) @ inside.T - ((y - w) * w).sum(-1, keepdim=True)).max()) <= 1e-10


@every_convex
def test_equal_to_cvxpy(name: str) -> None:
    """No feasible point of Clarabel's is nearer, and it is as near to ours as its own distance allows:
    |x - w|^2 <= |x - y|^2 - |w - y|^2 for every x of a convex set and w the nearest of them to y."""
    rule, ctx, y = CONVEX[name], context(), points(4)
    found = rule.project(y, ctx).weights
    w = cp.Variable(N)
    for row, mine in zip(y, found, strict=True):
        tight(cp.Problem(cp.Minimize(100 * cp.sum_squares(w - row.numpy())), rule.to_cvxpy(w, ctx)))
        theirs = torch.tensor(w.value)
        behind = float((theirs - row).square().sum() - (mine - row).square().sum())
        apart = float((theirs - mine).square().sum())
        assert -1e-9 < behind < 1e-7
        assert apart < 1e-16 or apart <= behind + 1e-11


@every_rule
def test_cvxpy_agrees_that_projections_are_inside(name: str) -> None:
    """The convex face around a feasible point holds at that point, and so does the relaxation."""
    rule, ctx = RULES[name], context()
    for row in rule.project(points(5, seed=3), ctx).weights:
        w = cp.Variable(N, value=row.numpy())
        for near in (row, None):
            for face in rule.to_cvxpy(w, ctx, near):
                assert float(abs(face.violation()).max()) < 1e-11


@pytest.mark.parametrize("count", [15, pytest.param(40, marks=pytest.mark.slow)])
@every_rule
def test_cvxpy_agrees_on_what_is_outside(name: str, count: int) -> None:
    """At random points the slice around them holds exactly where the residual is zero; of a convex rule the slice is
    the rule itself, so that it is built anew for every tenth point and once for all others."""
    rule, ctx, w = RULES[name], context(), cp.Variable(N)
    inside = rule.project(points(count, seed=5), ctx).weights
    mixed = torch.cat([points(count, seed=4), inside, inside * 1.01 + 0.01])
    whole = rule.to_cvxpy(w, ctx) if rule.convex else None
    for i, row in enumerate(mixed):
        w.value = row.numpy()
        faces = rule.to_cvxpy(w, ctx, row) if whole is None or i % 10 == 0 else whole
        broken = max((float(abs(face.violation()).max()) for face in faces), default=0.0)
        assert (broken > 1e-9) == (float(rule.residual(row, ctx)) > 1e-9)


@every_rule
def test_the_slice_around_a_point_is_inside_the_rule(name: str) -> None:
    """Whatever cvxpy finds in the slice obeys the rule."""
    rule, ctx = RULES[name], context()
    near = rule.project(points(1, seed=6), ctx).weights[0]
    w = cp.Variable(N)
    tight(cp.Problem(cp.Minimize(cp.sum_squares(w - points(1, seed=7)[0].numpy())), rule.to_cvxpy(w, ctx, near)))
    dust = torch.tensor(w.value)
    cleaned = torch.where(dust.abs() < 1e-8, torch.zeros_like(dust), dust)
    assert float(rule.residual(cleaned, ctx)) < 1e-7


@every_rule
def test_the_relaxation_contains_the_rule(name: str) -> None:
    """No feasible portfolio is cut off: in a random direction the relaxation reaches at least as far."""
    rule, ctx = RULES[name], context()
    inside = rule.project(points(20, seed=8), ctx).weights
    direction = torch.randn(N, generator=torch.Generator().manual_seed(9), dtype=F64)
    w = cp.Variable(N)
    limits = [w >= -5, w <= 5]
    tight(cp.Problem(cp.Maximize(direction.numpy() @ w), [*rule.to_cvxpy(w, ctx), *limits]))
    reach = float(direction @ torch.tensor(w.value))
    assert bool((inside @ direction <= reach + 1e-7).all())
    relaxed = [region.relaxed() for region in regions_of(rule, ctx)]
    assert not any(region.discrete for region in relaxed)
    left = torch.stack([region_residual(inside, region) for region in relaxed])
    assert float(left.amin(0).max()) <= 1e-12


@every_rule
def test_batched_equals_looped(name: str) -> None:
    y = points(6).reshape(2, 3, N)
    batched = RULES[name].project(y, context())
    assert batched.weights.shape == y.shape and batched.residual.shape == (2, 3)
    looped = torch.stack([RULES[name].project(row, context()).weights for row in y.reshape(6, N)])
    assert float((batched.weights.reshape(6, N) - looped).abs().max()) < 1e-12
    residual = RULES[name].residual(y, context())
    assert residual.shape == (2, 3)
    one_by_one = torch.stack([RULES[name].residual(row, context()) for row in y.reshape(6, N)])
    assert torch.allclose(residual.reshape(6), one_by_one, atol=1e-15)


@every_rule
def test_the_caller_keeps_its_tensor(name: str) -> None:
    y = points(4)
    before = y.clone()
    RULES[name].project(y, context())
    RULES[name].residual(y, context())
    assert torch.equal(y, before)


@every_rule
def test_float32_works(name: str) -> None:
    y, ctx = points(6).float(), context()
    found = RULES[name].project(y, ctx)
    assert found.weights.dtype == torch.float32
    assert RULES[name].residual(found.weights, ctx).dtype == torch.float32
    assert float(RULES[name].residual(found.weights, ctx).max()) < 1e-6
    exact = RULES[name].project(y.double(), ctx).weights
    assert float((found.weights.double() - exact).abs().max()) < 1e-6


@every_rule
def test_a_wrong_shape_names_got_and_expected(name: str) -> None:
    for call in (RULES[name].project, RULES[name].residual):
        with pytest.raises(ShapeError, match=r"got shape \(2, 5\), expected \(\.\.\., 8\)"):
            call(torch.zeros(2, 5, dtype=F64), context())


@every_rule
def test_nan_is_a_typed_error(name: str) -> None:
    y = points(3)
    y[1, 4] = torch.nan
    with pytest.raises(DataError, match=r"entry \(1, 4\) is nan"):
        RULES[name].project(y, context())


@every_rule
def test_repr_pastes_back_and_json_round_trips(name: str) -> None:
    rule = RULES[name]
    names = {kind.__name__: kind for room in ROOMS for kind in vars(room).values() if isinstance(kind, type)}
    assert eval(repr(rule), names) == rule
    back = Constraint.from_json(rule.model_dump_json())
    assert back == rule and hash(back) == hash(rule) and repr(back) == repr(rule)
    assert back.fingerprint() == rule.fingerprint()


@every_rule
def test_the_rule_explains_itself(name: str) -> None:
    text = RULES[name].explain()
    assert text[0].isupper() and text.endswith(".") and len(text) > 15


@every_rule
def test_frozen_names_stay_where_they_are(name: str) -> None:
    ctx = context(frozen=(1, 6))
    regions = regions_of(RULES[name], ctx)
    if name in ("5/10/40", "a diversified fund"):
        with pytest.raises(InfeasibleError, match="2 names cannot be traded"):  # one of them is held at 20 %
            project_any(points(), regions)
        return
    found = project_any(points(), regions)
    assert bool((found.weights[:, 1] == HELD[1]).all()) and bool((found.weights[:, 6] == 0).all())
    assert float(RULES[name].residual(found.weights, ctx).max()) <= 1e-12
    for row in found.weights[:3]:
        w = cp.Variable(N, value=row.numpy())
        assert all(float(abs(face.violation()).max()) < 1e-11 for face in RULES[name].to_cvxpy(w, ctx, row))


# ---- the rule as an energy -------------------------------------------------------------------------


@every_rule
def test_the_energy_is_the_distance_and_its_gradient_k_times_the_way_back(name: str) -> None:
    rule, ctx = RULES[name], context()
    w = points().requires_grad_()
    value = rule.energy(stiffness=7.0).bind(ctx)(w)
    away = w.detach() - projected(name).weights
    assert torch.allclose(value, 3.5 * away.square().sum(-1), atol=1e-14)
    (gradient,) = torch.autograd.grad(value.sum(), w)
    assert torch.allclose(gradient, 7.0 * away, atol=1e-13)


@every_rule
def test_the_gradient_equals_finite_differences(name: str) -> None:
    """Also for names as a choice: at a random point the nearest pattern is unique and stays for a small step."""
    energy = RULES[name].energy(stiffness=2.0).bind(context())
    w = points(4, seed=11).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(w).sum(), w)
    eye = 1e-6 * torch.eye(N, dtype=F64)
    with torch.no_grad():
        numeric = (energy(w.unsqueeze(1) + eye) - energy(w.unsqueeze(1) - eye)) / 2e-6
    if RULES[name].convex or Turnover not in map(type, RULES[name].rules()):
        assert torch.allclose(gradient, numeric, atol=1e-6)


@every_rule
def test_the_energy_is_zero_where_the_rule_holds_and_a_spec(name: str) -> None:
    term = RULES[name].energy(3.0)
    inside = projected(name).weights
    assert float(term.bind(context())(inside).abs().max()) < 1e-20
    assert isinstance(term, Relaxed) and Energy.from_json(term.model_dump_json()) == term


@pytest.mark.parametrize("name", ["LongOnly", "Budget"])
def test_the_energy_is_the_same_to_cvxpy(name: str) -> None:
    """The nearest point is minimised inside the expression; both faces agree, and so does the optimum."""
    rule = {"LongOnly": LongOnly(), "Budget": Budget() & Box(upper=0.3)}[name]
    term, pull = rule.energy(3.0), torch.linspace(-1.0, 1.0, N, dtype=F64)
    w = cp.Variable(N)
    task = cp.Problem(cp.Minimize(term.to_cvxpy(w, context()) + 0.5 * cp.sum_squares(w - 2.0 * pull.numpy())))
    task.solve(solver=cp.CLARABEL)
    found = torch.tensor(w.value)
    energy = term.bind(context())
    assert task.value == pytest.approx(float(energy(found) + 0.5 * (found - 2.0 * pull).square().sum()), rel=1e-6)
    # The least of k/2 d(w)^2 + 1/2 |w - y|^2 stands at (k P y + y) / (k + 1).
    nearest = rule.project(2.0 * pull, context()).weights
    assert torch.allclose(found, (3.0 * nearest + 2.0 * pull) / 4.0, atol=1e-5)


# ---- All -----------------------------------------------------------------------------------------------


def test_all_is_flat_without_repeats_and_blind_to_order() -> None:
    a, b, c = Budget(), LongOnly(), Box(upper=0.1)
    assert (a & b) & c == a & (b & c) == c & b & a
    assert hash(a & b) == hash(b & a) and (a & b).fingerprint() == (b & a).fingerprint()
    assert All(parts=(a, All(parts=(b, All(parts=(c,)))))).parts == (a, b, c)
    assert (a & b & a & b).parts == (a, b)
    assert (a & b) != (a & c)
    assert repr(a & b & c) == "Budget() & LongOnly() & Box(upper=0.1)"
    one = a & a
    assert eval(repr(one), {"All": All, "Budget": Budget}) == one
    assert eval(repr(All()), {"All": All}) == All()


def test_all_is_convex_when_its_parts_are() -> None:
    assert (Budget() & LongOnly()).convex and not (Budget() & Cardinality(3)).convex


def test_no_rule_at_all_moves_nothing() -> None:
    y = points()
    assert torch.equal(All().project(y, context()).weights, y)
    assert bool((All().residual(y, context()) == 0).all())


@pytest.mark.parametrize("size", [1e7, 1e8])
def test_the_rounding_of_huge_weights_is_no_conflict(size: float) -> None:
    """Nothing bounds these weights: their sums are exact to a part in 2^52 of millions, and that is no empty set."""
    rules, ctx = Budget() & FactorExposure("value", upper=0.1, lower=-0.1), context()
    y = size * torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = rules.project(y, ctx)
    assert 1e-10 < float(found.residual) <= 1e-15 * float(found.weights.abs().sum())
    with pytest.raises(InfeasibleError):
        (rules & Box(lower=0.0, upper=0.1)).project(y, ctx)
