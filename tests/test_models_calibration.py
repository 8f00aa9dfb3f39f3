"""The calibration energy: a density on (0, 1) whatever the past says, causal, and the identity without a past."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre as numpy_legendre
from scipy import stats
from torch import Tensor

from portfolio_ebm.errors import FitError, ShapeError
from portfolio_ebm.models.calibration import (
    DEGREE,
    FLOOR,
    Calibrated,
    inverse,
    legendre,
    level,
    log_density,
    positive,
    sample,
    theta_path,
)
from portfolio_ebm.models.student import StudentT
from portfolio_ebm.types import generator

NODES, WEIGHTS = (torch.from_numpy(item) for item in np.polynomial.legendre.leggauss(40))
U, W = (NODES + 1) / 2, WEIGHTS / 2


def thetas(count: int, size: float, seed: int = 0) -> Tensor:
    drawn = torch.randn((count, DEGREE), generator=generator(seed, "theta"), dtype=torch.float64)
    return positive(size * drawn)


def test_basis_is_orthonormal_and_orthogonal_to_one() -> None:
    basis = legendre(U)
    gram = basis.mT @ (W[:, None] * basis)
    assert (gram - torch.eye(DEGREE, dtype=torch.float64)).abs().max() < 1e-13
    assert (W @ basis).abs().max() < 1e-13
    assert legendre(torch.tensor(0.25, dtype=torch.float64))[0] == pytest.approx(3**0.5 * -0.5)


@given(st.integers(0, 10_000), st.floats(0.0, 5.0))
@settings(max_examples=40, deadline=None)
def test_any_coefficients_make_a_density(seed: int, size: float) -> None:
    """Integrates to one, C rises from 0 to 1, and the least value on a far finer grid is at the floor or above."""
    theta = thetas(3, size, seed)
    c = log_density(U[:, None], theta).exp()
    assert (W @ c - 1).abs().max() < 1e-12
    fine = torch.linspace(0, 1, 20001, dtype=torch.float64)[:, None]
    assert torch.exp(log_density(fine, theta)).min() >= FLOOR - 1e-12
    rising = level(fine, theta)
    assert (rising.diff(dim=0) > 0).all()
    assert rising[0].abs().max() == 0 and (rising[-1] - 1).abs().max() < 1e-14


@given(st.integers(0, 10_000), st.floats(0.05, 5.0))
@settings(max_examples=30, deadline=None)
def test_the_factor_is_the_largest_that_serves(seed: int, size: float) -> None:
    """True least values from the roots of the derivative: one is left alone or scaled to the floor, within 0.1 %."""
    theta = size * torch.randn((2, DEGREE), generator=generator(seed, "raw"), dtype=torch.float64)
    for raw, kept in zip(theta, positive(theta), strict=True):
        series = np.concatenate([[0.0], raw.numpy() * np.sqrt(2 * np.arange(1, DEGREE + 1) + 1)])
        turns = numpy_legendre.legroots(numpy_legendre.legder(series))
        turns = np.real(turns[(np.abs(np.imag(turns)) < 1e-9) & (np.abs(np.real(turns)) < 1)])
        least = numpy_legendre.legval(np.concatenate([[-1.0, 1.0], turns]), series).min()
        factor = float((kept / raw)[0])
        best = min(1.0, (1 - FLOOR) / -least) if least < 0 else 1.0
        assert factor <= best * (1 + 1e-12)
        assert factor >= best * 0.99
        assert ((kept / raw) - factor).abs().max() < 1e-12


def test_no_evidence_is_the_identity() -> None:
    zero, u = torch.zeros(DEGREE, dtype=torch.float64), torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.equal(level(u, zero), u)
    assert torch.equal(log_density(u, zero), torch.zeros_like(u))
    assert (inverse(u, zero) - u).abs().max() < 1e-15
    empty = theta_path(torch.full((30, 2), torch.nan, dtype=torch.float64))
    assert empty.shape == (31, 2, DEGREE) and not empty.any()


def test_inverse_inverts() -> None:
    theta = thetas(50, 0.6)
    u = torch.cat([torch.linspace(0, 1, 101, dtype=torch.float64), torch.tensor([1e-12, 1e-6, 1 - 1e-9])])[:, None]
    assert (inverse(level(u, theta), theta) - u).abs().max() < 1e-10
    assert (level(inverse(u, theta), theta) - u).abs().max() < 1e-12
    tail = torch.tensor([1e-9, 1e-14], dtype=torch.float64)[:, None]
    # Near zero C(u) = u c(0), to all digits.
    assert (level(tail, theta) / (tail * log_density(0 * tail, theta).exp()) - 1).abs().max() < 1e-6
    assert torch.isnan(inverse(torch.tensor(torch.nan), theta[0].float()))


def test_draws_follow_the_series() -> None:
    theta = thetas(1, 0.3)
    drawn = sample(theta, (3000,), generator(5, "draw"))[:, 0]
    assert stats.kstest(level(drawn, theta[0]).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(drawn.numpy(), "uniform").pvalue < 1e-3


def test_coefficients_find_the_series_that_made_the_pits() -> None:
    """theta_j is the mean of L_j: with a long memory and no prior the truth is found to its standard error."""
    theta = torch.tensor([[0.15, -0.1, 0.0, 0.08, 0.0, 0.0]], dtype=torch.float64)
    u = sample(theta, (40_000,), generator(8, "truth"))
    found = theta_path(u, half_life=1e9, rows=0.0)[-1]
    assert (found - theta).abs().max() < 4 / 200
    later = theta_path(u)[20_000:-1]
    gain = (log_density(u[20_000:], later) - log_density(u[20_000:], 0 * later)).mean()
    # The Kullback-Leibler distance of the series from uniform is the most there is to gain.
    most = (W * torch.exp(log_density(U, theta)) * log_density(U, theta)).sum()
    assert 0.8 * most < gain < 1.2 * most


def test_shrinking_by_hand() -> None:
    """Half-life one, prior of two rows: theta_2 = (L(u_0)/2 + L(u_1)) / (3/2 + 2); a missing cell has no weight."""
    u = torch.tensor([[0.3, 0.5], [0.6, torch.nan]], dtype=torch.float64)
    found = theta_path(u, half_life=1.0, rows=2.0)
    expected = (legendre(u[0, 0]) / 2 + legendre(u[1, 0])) / 3.5
    assert not found[0].any()
    assert (found[2, 0] - expected).abs().max() < 1e-14
    assert (found[2, 1] - legendre(u[0, 1]) / 2 / 2.5).abs().max() < 1e-14


@pytest.mark.parametrize("poison", [0.999, torch.nan])
def test_coefficients_know_nothing_of_the_day_or_after(poison: float) -> None:
    u = torch.rand((200, 3), generator=generator(1, "pits"), dtype=torch.float64)
    bad = u.clone()
    bad[120:] = poison
    clean, dirty = theta_path(u), theta_path(bad)
    assert torch.equal(clean[:121], dirty[:121]) and not torch.equal(clean[121:], dirty[121:])
    assert torch.equal(theta_path(u[:150]), clean[:151])
    assert torch.equal(theta_path(u[:, 1:2])[:, 0], clean[:, 1])


def test_a_calibrated_law_keeps_its_normaliser_and_gains_on_what_was_wrong() -> None:
    """The law says t8 where the truth is t3: calibration recovers part of the loss and straightens the PIT."""
    one = torch.ones((), dtype=torch.float64)
    truth, law = StudentT(0 * one, one, 3 * one), StudentT(0 * one, 1.3 * one, 8 * one)
    x = truth.sample((6000,), generator(4, "t3"))
    theta = theta_path(law.cdf(x)[:, None])
    fixed = Calibrated(law, theta[:-1, 0])
    rest = slice(3000, 6000)
    assert torch.equal(fixed.log_z(), law.log_z().expand(6000))
    assert (fixed.log_prob(x) - law.log_prob(x))[rest].mean() > 0.005
    before, after = (stats.kstest(item[rest].numpy(), "uniform").statistic for item in (law.cdf(x), fixed.cdf(x)))
    assert after < before / 2


def test_bad_input_is_named() -> None:
    with pytest.raises(ShapeError, match="expected"):
        theta_path(torch.zeros(5))
    with pytest.raises(FitError, match="outside"):
        theta_path(torch.full((5, 1), 1.2))
