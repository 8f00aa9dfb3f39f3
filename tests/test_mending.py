"""What rounding or too few cuts leave beside the rules is brought back before anyone sees it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_mixed import choices, mixed, program

import portfolio_ebm as pe
from portfolio_ebm.constraints.caps import Ellipsoid, Tail
from portfolio_ebm.constraints.mixed import node
from portfolio_ebm.constraints.mixed.branch_and_bound import branch_and_bound
from portfolio_ebm.constraints.mixed.node import Mixed, on_slice
from portfolio_ebm.constraints.mixed.programs.mending import mended
from portfolio_ebm.constraints.mixed.programs.slice import Slice
from portfolio_ebm.constraints.region import Region
from portfolio_ebm.construction.rugged.chains import FAR, survey
from portfolio_ebm.linear import Structured


def capped(seed: int) -> Mixed:
    """At most three names under a cap on volatility, with an energy without curvature: cuts come down slowly."""
    p = program(7, seed)
    root = torch.as_tensor(np.linalg.cholesky(p.matrix))
    zero = torch.zeros(7, dtype=torch.float64)
    s = Structured(root, torch.eye(7, dtype=torch.float64), zero)
    ball = Ellipsoid("volatility", 1.0, zero, s)
    middle = torch.as_tensor(np.array([0.4, 0.35, 0.25, 0, 0, 0, 0]))
    ball = replace(ball, limit=1.0001 * float(ball.value(middle)))
    return Mixed(replace(p, matrix=np.zeros((7, 7)), linear=1e-2 * p.linear), choices("at most", 7), (ball,))


@pytest.mark.parametrize("seed", range(4))
def test_where_the_rounds_of_cuts_end_a_slice_still_gives_a_portfolio(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = capped(seed)
    modes = np.array([1, 1, 1, 0, 0, 0, 0])
    exact = on_slice(m, modes)
    monkeypatch.setattr(node, "CUTS", 2)
    rough = on_slice(m, modes)
    assert exact is not None and rough is not None
    assert float(m.caps[0].excess(torch.as_tensor(rough.weights))) <= 1e-9
    assert rough.bound <= exact.value + 1e-12 <= rough.value + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_takes_no_portfolio_that_its_cuts_left_outside_and_calls_nothing_proven(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = branch_and_bound(capped(seed), tolerance=1e-10)
    monkeypatch.setattr(node, "CUTS", 2)
    proof = branch_and_bound(capped(seed), tolerance=1e-10)
    assert proof.weights is not None and whole.weights is not None
    assert float(capped(seed).caps[0].excess(torch.as_tensor(proof.weights))) <= 1e-9
    assert proof.bound <= whole.value + 1e-10
    assert not proof.proven or proof.value <= whole.value + 1e-9


def test_by_hand() -> None:
    """(0.7, 0.5) under a budget of one and a largest weight of 0.55: (0.55, 0.45)."""
    p = replace(program(2, 0), rows=np.ones((1, 2)), row_lower=np.ones(1), row_upper=np.ones(1))
    cap = Tail("largest", 0.55, torch.eye(2, dtype=torch.float64), 1.0)
    slice_ = Slice(p, np.zeros(2), np.ones(2), p.rows, p.row_lower, p.row_upper)
    found = mended(slice_, (cap,), np.array([0.7, 0.5]))
    assert found == pytest.approx([0.55, 0.45], abs=1e-10)
    nowhere = replace(cap, limit=0.45)
    assert mended(slice_, (nowhere,), np.array([0.7, 0.5])) is None


def test_turnover_is_kept() -> None:
    p = replace(mixed("at most", 0).program, held=np.full(7, 1 / 7), turnover=0.1)
    slice_ = Slice(p, p.lower, p.upper, p.rows, p.row_lower, p.row_upper)
    found = mended(slice_, (), np.eye(7)[0])
    assert found is not None
    assert np.abs(found - p.held).sum() <= 0.1 + 1e-9 and found.sum() == pytest.approx(1.0)


def test_a_straight_energy_does_not_send_its_chains_out_of_sight() -> None:
    """A linear energy has no curvature to take a step from."""
    n = 6
    slope = torch.linspace(-1.0, 1.0, n, dtype=torch.float64)
    probes = torch.as_tensor(np.random.default_rng(0).dirichlet(np.ones(n), 64))
    one = torch.ones(n, dtype=torch.float64)
    region = Region.free(n).with_box(0.0 * one, one).with_row(one, 1.0, 1.0, "Budget()")
    found = survey(lambda w: w @ slope, region, probes.mean(0), probes)
    reach = float((probes - probes.mean(0)).norm(dim=-1).max())
    assert found.step * float(slope.norm()) <= FAR * reach * (1.0 + 1e-12)
    assert found.step > 0.0


def test_a_slope_endless_at_zero_still_has_a_choice_of_names() -> None:
    """The entropy's slope at a weight of zero is endless, and a name that is out stands there."""
    rules = pe.Budget() & pe.LongOnly() & pe.Cardinality(exactly=2, min_weight=0.2)
    held = np.array([0.5, 0.5, 0.0, 0.0, 0.0])
    found = pe.optimize(
        2.0 * pe.Return() + pe.NegativeEntropy() + pe.FixedCost(rate=1e-4), rules,
        mean=np.linspace(0.0, 0.02, 5), covariance=1e-2 * np.eye(5), held=held,
    )  # fmt: skip
    w = np.asarray(found.weights)
    assert (w > 0.0).sum() == 2 and w.sum() == pytest.approx(1.0)
    # Two names at x and 1 - x: the entropy alone asks for halves, and the means of the best pair lean a little.
    pairs = [np.eye(5)[i] * x + np.eye(5)[j] * (1 - x)
             for i in range(5) for j in range(i) for x in np.linspace(0.2, 0.8, 601)]  # fmt: skip
    logs = [float((v[v > 0] * np.log(v[v > 0])).sum()) for v in pairs]
    tickets = [1e-4 * float((np.abs(v - held) > 1e-12).sum()) for v in pairs]
    energies = [
        -2.0 * float(v @ np.linspace(0.0, 0.02, 5)) + log + t for v, log, t in zip(pairs, logs, tickets, strict=True)
    ]
    assert found.energy <= min(energies) + 1e-9
