"""Laws that every term obeys: faces that agree, gradients, batches, convexity, homogeneity, declared needs."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import cvxpy as cp
import pytest
import torch
from cases_terms import CASES, CONVEX, HOMOGENEOUS, SUMS, N, convex, piled, points, world

import portfolio_ebm.energies
from portfolio_ebm.energies.checks import check
from portfolio_ebm.energies.faces import SmoothEnergy
from portfolio_ebm.energies.learned import Learned
from portfolio_ebm.energy import Energy, Sum, breakdown, curvature, needs, to_cvxpy
from portfolio_ebm.errors import ShapeError
from portfolio_ebm.linear import Structured
from portfolio_ebm.types import Spec

for module in pkgutil.iter_modules(portfolio_ebm.energies.__path__):
    importlib.import_module(f"portfolio_ebm.energies.{module.name}")

BOTH = CONVEX + SUMS


def test_every_energy_of_the_room_has_a_case():
    here = {k for k in Spec.registry.values() if issubclass(k, Energy) and k.__module__.startswith(energies_room())}
    here = {k for k in here if not getattr(k, "__abstractmethods__", None) and not k.__name__.startswith("_")}
    # A learned energy needs a network trained before: its laws are in test_learned.py.
    assert here - {Learned} == {type(case) for case in CASES if not isinstance(case, Sum)}


def energies_room() -> str:
    return portfolio_ebm.energies.__name__ + "."


@pytest.mark.parametrize("energy", CASES, ids=repr)
def test_gradient_is_the_finite_difference(energy):
    f = energy.bind(world())
    w = points(energy, 1)[0].requires_grad_()
    gradient = torch.autograd.grad(f(w), w)[0]
    step = 1e-6
    for i in range(N):
        d = torch.zeros(N, dtype=torch.float64)
        d[i] = step
        with torch.no_grad():
            slope = (f(w + d) - f(w - d)) / (2 * step)
        assert abs(float(slope - gradient[i])) < 1e-7 * max(1.0, float(gradient.abs().max()))


@pytest.mark.parametrize("energy", BOTH, ids=repr)
@pytest.mark.parametrize("seed", [0, 1])
def test_torch_face_is_the_cvxpy_face(energy, seed):
    ctx = world(seed, held=seed == 0)
    f = energy.bind(ctx)
    variable = cp.Variable(N)
    expression = to_cvxpy(energy, variable, ctx)
    assert expression.is_convex()
    for w in points(energy, 5, seed=seed + 1):
        variable.value = w.numpy()
        if len(expression.variables()) > 1:
            # The face has variables of its own, over which it is least.
            tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
            cp.Problem(cp.Minimize(expression), [variable == w.numpy()]).solve(solver=cp.CLARABEL, **tight)
        assert float(expression.value) == pytest.approx(float(f(w)), abs=1e-8)


@pytest.mark.parametrize("energy", CASES, ids=repr)
def test_batched_is_looped(energy):
    dates = [world(s) for s in range(3)]
    whole = piled(dates)
    w = points(energy, 3 * 5).reshape(3, 5, N)
    together, single = energy.bind(whole)(w), energy.bind(whole)(w[:, 0])
    assert together.shape == (3, 5)
    for d, ctx in enumerate(dates):
        f = energy.bind(ctx)
        torch.testing.assert_close(f(w[d]), together[d], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(f(w[d, 0]), single[d], rtol=1e-10, atol=1e-14)
        for c in range(5):
            torch.testing.assert_close(f(w[d, c]), together[d, c], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("energy", BOTH, ids=repr)
def test_convex_along_every_chord(energy):
    f = energy.bind(world())
    a, b = points(energy, 50, seed=2), points(energy, 50, seed=3)
    middle, ends = f((a + b) / 2), (f(a) + f(b)) / 2
    assert bool((middle <= ends + 1e-13 * (1.0 + ends.abs())).all())
    if curvature(energy) == "affine":
        torch.testing.assert_close(middle, ends, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("energy", [e for e in CASES if isinstance(e, HOMOGENEOUS)], ids=repr)
def test_doubling_the_portfolio_doubles_the_energy(energy):
    f, w = energy.bind(world()), points(energy, 6)
    for size in (0.3, 2.0, 7.0):
        torch.testing.assert_close(f(size * w), size * f(w), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("energy", [e for e in BOTH if e.quadratic(world()) is not None], ids=repr)
def test_quadratic_face_is_the_energy(energy):
    w = points(energy, 10)
    for ctx in (world(), piled([world(s) for s in range(2)])):
        at = w if ctx.tradeable.ndim == 1 else w.reshape(2, 5, N)
        torch.testing.assert_close(energy.quadratic(ctx)(at), energy.bind(ctx)(at), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("energy", [e for e in CASES if isinstance(e, SmoothEnergy)], ids=repr)
def test_taylor_is_value_gradient_and_hessian(energy):
    ctx = world()
    f = energy.bind(ctx)
    w = points(energy, 1)[0]
    model = energy.taylor(ctx)(w)
    torch.testing.assert_close(model(w), f(w), rtol=1e-10, atol=1e-14)

    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    slope = model.matrix.matvec(w) + model.linear
    torch.testing.assert_close(slope, gradient(w), rtol=1e-9, atol=1e-12)
    # An inner minimum is a constant to autograd, so the Hessian is taken from differences of gradients.
    step = 1e-6
    rows = [(gradient(w + step * e) - gradient(w - step * e)) / (2 * step) for e in torch.eye(N, dtype=torch.float64)]
    dense = model.matrix.dense()
    torch.testing.assert_close(dense, torch.stack(rows), rtol=1e-5, atol=1e-6 * float(dense.abs().max()) + 1e-9)


@pytest.mark.parametrize("energy", CASES, ids=repr)
def test_a_wrong_shape_is_named(energy):
    with pytest.raises(ShapeError, match=r"got shape \(9,\), expected \(\.\.\., 8\)"):
        energy.bind(world())(torch.full((9,), 1 / 9, dtype=torch.float64))


@pytest.mark.parametrize("energy", CASES, ids=repr)
def test_what_is_needed_is_declared(energy):
    ctx = world()
    kept = needs(energy)
    nan = torch.full((N,), torch.nan, dtype=torch.float64)
    look = ctx.market
    if "mean" not in kept:
        look = replace(look, mean=nan)
    if "covariance" not in kept:
        look = replace(look, covariance=Structured(*(torch.nan * x for x in vars(look.covariance).values())))
    for name in ("scenarios", "marginals", "paths"):
        if name not in kept:
            look = replace(look, **{name: None})
    w = points(energy, 2)
    bare = replace(ctx, market=look)
    check(energy, bare)
    torch.testing.assert_close(energy.bind(bare)(w), energy.bind(ctx)(w), rtol=0, atol=0)


@pytest.mark.parametrize("energy", CASES, ids=repr)
def test_shares_and_their_parts_add_up(energy):
    ctx = world()
    w = points(energy, 3)
    for parts in (False, True):
        shares = breakdown(energy, w, ctx, parts=parts)
        torch.testing.assert_close(sum(shares.values()), energy.bind(ctx)(w), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("energy", CASES, ids=repr)
def test_specs_round_trip(energy):
    again = type(energy).from_json(energy.model_dump_json())
    assert again == energy and again.fingerprint() == energy.fingerprint()
    assert convex(energy) == (energy in BOTH)
