"""Sums of densities: joint laws and products, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.errors import FitError, ShapeError
from portfolio_ebm.models.compose import Independent, Product
from portfolio_ebm.models.density import Density
from portfolio_ebm.models.gaussian import Gaussian
from portfolio_ebm.models.student import StudentT
from portfolio_ebm.types import generator


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def student(freedom: float = 3.0) -> StudentT:
    return StudentT(tensor(0.0, 1.0), tensor(1.0, 0.02), tensor(freedom))


def test_two_gaussians_multiply_to_a_gaussian() -> None:
    """Precisions add, and the mean is theirs weighted by precision; wherever the two stand."""
    m, s = tensor(0.0, 3.0, -40.0), tensor(1.0, 0.1, 2.0)
    n, t = tensor(1.0, 3.5, 40.0), tensor(2.0, 0.3, 2.0)
    law = Gaussian(m, s).of("x") + Gaussian(n, t).of("x")
    assert isinstance(law, Product) and law.status.ok
    precision = s**-2 + t**-2
    truth = Gaussian((m / s**2 + n / t**2) / precision, precision**-0.5)
    x = truth.location + truth.scale * tensor(-3.0, 0.0, 1.0, 2.5)[:, None]
    assert (law.log_prob(x) - truth.log_prob(x)).abs().max() < 1e-8
    assert (law.cdf(x) - truth.cdf(x)).abs().max() < 1e-8
    # log Z of the product of normalised Gaussians is the density of one mean under both widths together.
    overlap = Gaussian(n, (s**2 + t**2).sqrt()).log_prob(m)
    assert ((law.log_z() - overlap) / overlap.abs()).abs().max() < 1e-10


def test_tails_of_a_product_add() -> None:
    """K tails of index a make K (a + 1) - 1: the log density falls by K (a + 1) for each e-fold."""
    parts = (student(3.0), student(2.0), student(4.5))
    law = Product(parts)
    assert law.tail is not None and law.tail.tolist() == [11.5, 11.5]
    assert "3, 2, 4.5 become 11.5" in law.status.message and "sharper" in law.status.message
    x = law.location + law.scale * torch.exp(tensor(15.0, 16.0))[:, None]
    assert (law.log_prob(x).diff(dim=0) + 12.5).abs().max() < 1e-4
    twice = Product((student(), student()))
    assert twice.scale[0] < 0.8 * (student().quantile(tensor(0.84))[0])
    assert Product((student(), Gaussian(tensor(0.0), tensor(1.0)))).tail is None


def test_a_product_that_cannot_be_settled_says_so() -> None:
    far = Product((StudentT(tensor(-1e7), tensor(1e-3), tensor(1.1)), StudentT(tensor(1e7), tensor(1e-3), tensor(1.1))))
    assert not far.status.ok and "hardly overlap" in far.status.message
    near = Product((StudentT(tensor(-3.0), tensor(1.0), tensor(3.0)), StudentT(tensor(3.0), tensor(1.0), tensor(3.0))))
    assert near.status.ok


def test_a_joint_law_is_the_sum_of_its_parts() -> None:
    a, b = student().of("x"), Gaussian(tensor(0.0), tensor(2.0)).of("y")
    joint = a + b
    assert isinstance(joint, Independent) and joint.variables == ("x", "y") and joint.batch == (2,)
    x = torch.randn((5, 2, 2), generator=generator(0, "joint"), dtype=torch.float64)
    truth = a.log_prob(x[..., 0]) + b.log_prob(x[..., 1])
    assert (joint.log_prob(x) - truth).abs().max() < 1e-12
    assert torch.equal(joint.score(x)[..., 1], b.score(x[..., 1]).expand(5, 2))
    with pytest.raises(ShapeError, match="expected"):
        joint.log_prob(x[..., :1])


def test_a_joint_law_integrates_to_one_and_draws_from_itself() -> None:
    joint = Independent((student().of("x"), Gaussian(tensor(1.0), tensor(0.5)).of("y")))
    even = torch.linspace(-12, 12, 801, dtype=torch.float64)
    wide, width = torch.sinh(even), torch.cosh(even) * (24 / 800)
    a, b = torch.meshgrid(wide, wide, indexing="ij")
    one = Independent((StudentT(tensor(0.0), tensor(1.0), tensor(3.0)).of("x"), joint.parts[1]))
    value = one.log_prob(torch.stack([a, b], -1)[..., None, :]).exp()[..., 0]
    assert float(width @ value @ width) == pytest.approx(1.0, abs=1e-6)
    drawn = joint.sample((800,), generator(2, "draw"))
    assert drawn.shape == (800, 2, 2)
    for k, part in enumerate(joint.parts):
        u = part.cdf(drawn[..., k])
        assert stats.kstest(u[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert abs(stats.spearmanr(drawn[:, 0, 0].numpy(), drawn[:, 0, 1].numpy()).statistic) < 0.12


def test_sums_are_flat_and_need_names() -> None:
    a, b, c = student().of("x"), student(4.0).of("y"), student(5.0).of("z")
    assert (a + b + c).variables == (a + (b + c)).variables == ("x", "y", "z")
    both = a + b + a
    assert isinstance(both, Independent) and isinstance(both.parts[0], Product)
    thrice = both + a
    assert isinstance(thrice, Independent) and len(thrice.parts[0].parts) == 3
    assert isinstance(a + a + a, Product)
    with pytest.raises(FitError, match="name each"):
        student() + a
    with pytest.raises(FitError, match="different names"):
        Independent((a, a))
    with pytest.raises(FitError, match="two laws or more"):
        Product((a, b))


def test_only_calibrated_laws_multiply() -> None:
    class Flat(Density):
        location, scale = tensor(0.0), tensor(1.0)

        def energy(self, x: Tensor) -> Tensor:
            return -(x * x)

    with pytest.raises(FitError, match="no finite normaliser"):
        Product((student(), Flat()))


def test_gradients_reach_the_parts_of_a_product() -> None:
    """d log Z / d mean of one of two Gaussians is (n - m) / (s^2 + t^2)."""
    m = tensor(0.3).requires_grad_(True)
    law = Product((Gaussian(m, tensor(1.0)), Gaussian(tensor(1.0), tensor(2.0))))
    (slope,) = torch.autograd.grad(law.log_z().sum(), m)
    assert float(slope) == pytest.approx(0.7 / 5.0, abs=1e-8)
    assert math.isfinite(float(law.log_prob(tensor(0.0)).detach()))
