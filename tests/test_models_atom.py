"""A law with an atom: its measure, its PIT, its share."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.atom import Atomic, shares
from portfolio_ebm.models.student import StudentT
from portfolio_ebm.types import generator


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def law() -> StudentT:
    return StudentT(tensor(0.001, 0.0), tensor(0.01, 0.02), tensor(4.0, 4.0))


def test_measure_adds_to_one() -> None:
    """The share, and the density off it: by hand at the atom and by a trapezoid elsewhere."""
    stale = Atomic(law(), tensor(0.3, 0.1))
    assert stale.log_prob(tensor(0.0)).tolist() == pytest.approx([math.log(0.3), math.log(0.1)])
    even = torch.linspace(-16, 16, 40000, dtype=torch.float64)[:, None]
    x = 0.001 + 0.01 * torch.sinh(even)
    mass = torch.trapezoid(stale.log_prob(x).exp() * 0.01 * torch.cosh(even), dx=32 / 39999, dim=0)
    assert (mass - tensor(0.7, 0.9)).abs().max() < 1e-6


def test_cdf_jumps_by_the_share() -> None:
    stale = Atomic(law(), tensor(0.3, 0.1))
    step = stale.cdf(tensor(0.0)) - stale.cdf(tensor(-1e-15))
    assert (step - tensor(0.3, 0.1)).abs().max() < 1e-9
    u = tensor(0.01, 0.3, 0.36, 0.5, 0.7, 0.99)[:, None]
    x = stale.quantile(u)
    assert (stale.cdf(x) >= u - 1e-9).all() and (stale.cdf(x - 1e-9) < u + 1e-6).all()
    assert (x == 0).any() and (x != 0).any()


def test_randomised_pit_is_uniform_and_the_middle_is_repeatable() -> None:
    stale = Atomic(law(), tensor(0.3, 0.1))
    x = stale.sample((3000,), generator(1, "stale"))
    assert abs(float((x[:, 0] == 0).double().mean()) - 0.3) < 0.04
    u = stale.pit(x, generator(2, "within"))
    for k in range(2):
        assert stats.kstest(u[:, k].numpy(), "uniform").pvalue > 1e-3
    middle = stale.pit(tensor(0.0))
    assert torch.equal(middle, stale.pit(tensor(0.0)))
    assert (middle - (stale.cdf(tensor(0.0)) - tensor(0.15, 0.05))).abs().max() < 1e-12
    assert stats.kstest(stale.pit(x)[:, 0].numpy(), "uniform").pvalue < 1e-3


def test_no_share_leaves_a_law_untouched_hits_included() -> None:
    plain, stale = law(), Atomic(law(), tensor(0.0, 0.0))
    x = tensor(0.0, 0.02)
    assert torch.equal(stale.log_prob(x), plain.log_prob(x))
    assert torch.equal(stale.pit(x), plain.cdf(x))
    assert torch.equal(stale.quantile(tensor(0.2, 0.6)), plain.quantile(tensor(0.2, 0.6)))
    with pytest.raises(FitError, match="share"):
        Atomic(law(), tensor(1.0))


def test_shares_by_hand_and_causally() -> None:
    """Half-life one, one prior row at half a per cent: (1/2 + 1 + .005) / (1/2 + 1 + 1) after two hits."""
    x = torch.tensor([[0.0, 0.1], [0.0, torch.nan], [0.2, 0.0]], dtype=torch.float64)
    found = shares(x, half_life=1.0, rows=1.0)
    assert found[0].tolist() == [0.0, 0.0]
    assert float(found[2, 0]) == pytest.approx(1.505 / 2.5)
    assert found[2, 1] == 0.0
    assert float(found[3, 1]) == pytest.approx(1.005 / (1 + 0.25 + 1))
    x = torch.where(torch.rand((300, 1), generator=generator(3, "hits")) < 0.3, 0.0, 1.0).double()
    later = x.clone()
    later[200:] = 0.0
    assert torch.equal(shares(x)[:201], shares(later)[:201])
    assert abs(float(shares(x)[-1]) - 0.3) < 0.1


def test_a_name_that_seldom_stands_still_has_no_atom() -> None:
    x = torch.where(torch.rand((2000, 1), generator=generator(4, "seldom")) < 0.01, 0.0, 1.0).double()
    assert not shares(x).any()
