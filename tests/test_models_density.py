"""Laws of one-dimensional densities, over every implementation there is."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.conditional import Conditional, Family, State, shape_nodes, truncated_shape
from portfolio_ebm.models.density import Density
from portfolio_ebm.models.gaussian import Gaussian
from portfolio_ebm.models.quadrature import interval_rule, line_rule, to_line, to_unit
from portfolio_ebm.models.student import StudentT
from portfolio_ebm.types import generator

FAMILY = Family(ratios=3, features=4, drift=2)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def conditional(models: int = 2, rows: int = 3, wild: float = 1.0) -> Conditional:
    """A conditional energy far from its prior: every parameter moved by `wild` of its prior deviation."""
    rng = generator(7, "conditional")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    centre, spread = FAMILY.prior()
    state = State(
        level=1e-4 * torch.exp(draw(models, rows)),
        ratios=torch.exp(0.5 * draw(models, rows, 3)),
        features=torch.tanh(draw(models, rows, 4)),
        drift=torch.tanh(draw(models, rows, 2)),
    )
    return Conditional(FAMILY, centre + wild * spread * draw(models, FAMILY.size), state)


DENSITIES = {
    "gaussian": lambda: Gaussian(tensor(0.0, 1.0, -3.0), tensor(1.0, 0.01, 5.0)),
    "student": lambda: StudentT(tensor(0.0, 1.0, 0.0), tensor(1.0, 0.02, 3.0), tensor(3.0, 4.7, 12.0)),
    "conditional": lambda: conditional(2, 2),
    "conditional, wild": lambda: conditional(1, 2, wild=4.0),
}


@pytest.fixture(params=DENSITIES, name="law")
def _law(request: pytest.FixtureRequest) -> Density:
    return DENSITIES[request.param]()


def test_gaussian_normaliser_is_exact() -> None:
    law = DENSITIES["gaussian"]()
    assert (law.log_z(128) - law.closed_log_z()).abs().max() < 1e-10


@pytest.mark.parametrize("freedom", [1.5, 2.1, 2.5, 3.0, 4.7, 8.0, 30.0])
def test_student_normaliser_is_exact(freedom: float) -> None:
    law = StudentT(tensor(0.3), tensor(2.0), tensor(freedom))
    error = (law.log_z(128) - law.closed_log_z()).abs().item()
    assert error < 1e-5
    if freedom > 2:
        assert error < 1e-8


def test_plain_map_needs_its_end_smoothing() -> None:
    """The smoothed map is what buys the digits: on t3 the plain one is far worse."""
    law = StudentT(tensor(0.0), tensor(1.0), tensor(3.0))
    errors = []
    for smoothing in (True, False):
        rule = line_rule(64, end_smoothing=smoothing)
        found = torch.logsumexp(rule.log_weight - law.energy(rule.z[:, None])[:, 0], 0)
        errors.append((found - law.closed_log_z()[0]).abs().item())
    assert errors[0] < 1e-12 < 1e-7 < errors[1] < 1e-4


def test_normaliser_does_not_depend_on_nodes(law: Density) -> None:
    assert (law.log_z(128) - law.log_z(600)).abs().max() < 1e-8


def test_density_integrates_to_one(law: Density) -> None:
    """Against a plain trapezoid over a wide range, which knows nothing of the maps."""
    even = torch.linspace(-18, 18, 40001, dtype=torch.float64).reshape(-1, *[1] * len(law.batch))
    x = law.location + law.scale * torch.sinh(even)
    total = torch.trapezoid(law.log_prob(x).exp() * law.scale * torch.cosh(even), dx=36 / 40000, dim=0)
    assert (total - 1).abs().max() < 1e-6


def test_cdf_is_the_integral_of_the_density(law: Density) -> None:
    x = law.location + law.scale * torch.linspace(-4, 4, 9, dtype=torch.float64).reshape(-1, *[1] * len(law.batch))
    h = 1e-4 * law.scale
    slope = (law.cdf(x + h) - law.cdf(x - h)) / (2 * h)
    assert (slope / law.log_prob(x).exp() - 1).abs().max() < 1e-5
    assert (law.cdf(x).diff(dim=0) > 0).all()


def test_quantile_inverts_cdf(law: Density) -> None:
    u = tensor(1e-4, 0.01, 0.3, 0.5, 0.9, 0.999).reshape(-1, *[1] * len(law.batch))
    assert (law.cdf(law.quantile(u)) - u).abs().max() < 1e-9


def test_quantile_refuses_what_is_no_level(law: Density) -> None:
    with pytest.raises(FitError, match="between 0 and 1"):
        law.quantile(tensor(1.0))


def test_samples_follow_the_cdf(law: Density) -> None:
    x = law.sample((500,), generator(3, "ks"))
    u = law.cdf(x).reshape(500, -1)
    worst = min(stats.kstest(column.numpy(), "uniform").pvalue for column in u.T)
    assert worst > 1e-4
    wrong = law.cdf(x + 0.4 * law.scale).reshape(500, -1)
    assert max(stats.kstest(column.numpy(), "uniform").pvalue for column in wrong.T) < 1e-4


def test_score_is_the_slope_of_log_density(law: Density) -> None:
    x = law.location + law.scale * tensor(-2.0, 0.3, 1.7).reshape(-1, *[1] * len(law.batch))
    h = 1e-6 * law.scale
    numeric = (law.log_prob(x + h) - law.log_prob(x - h)) / (2 * h)
    assert (law.score(x) - numeric).abs().max() < 1e-5 * numeric.abs().max() + 1e-6


def test_student_against_scipy() -> None:
    x = torch.linspace(-20, 20, 11, dtype=torch.float64)
    law = StudentT(tensor(0.5), tensor(1.5), tensor(4.0))
    truth = stats.t(4.0, 0.5, 1.5)
    assert (law.log_prob(x) - torch.from_numpy(truth.logpdf(x.numpy()))).abs().max() < 1e-10
    assert (law.cdf(x) - torch.from_numpy(truth.cdf(x.numpy()))).abs().max() < 1e-10


def test_maps_invert_each_other() -> None:
    z = tensor(-1e4, -40.0, -1.0, 0.0, 0.5, 3.0, 1e4)
    back, _ = to_line(to_unit(z))
    assert ((back - z) / (1 + z.abs())).abs().max() < 1e-9


def test_interval_rule_integrates_polynomials_and_tails() -> None:
    z, log_weight = interval_rule(tensor(-2.0)[0], tensor(3.0)[0], 128)
    assert abs(float((log_weight.exp() * z**3).sum()) - (81 - 16) / 4) < 1e-10
    z, log_weight = interval_rule(tensor(1.0)[0], torch.tensor(math.inf, dtype=torch.float64), 128)
    assert abs(float((log_weight.exp() / z**4).sum()) - 1 / 3) < 1e-10


def test_pit_table_is_close_to_the_cdf() -> None:
    law = conditional(3, 50)
    x = law.location + law.scale * torch.linspace(-9, 9, 50, dtype=torch.float64)
    assert (law.pit(x) - law.cdf(x)).abs().max() < 1e-5
    one = conditional(3, 1)
    x = one.location[:, 0] + one.scale[:, 0] * torch.linspace(-9, 9, 50, dtype=torch.float64)[:, None]
    assert (one.level(x) - one.cdf(x[..., None])[..., 0]).abs().max() < 1e-8


def test_truncated_shape_is_the_truncated_law() -> None:
    law = conditional(3, 1)
    shape = truncated_shape(law, 5.0)
    mean, variance = (item[:, 0] for item in law.shape_moments())
    assert (shape.z[:, 0] - (mean - 5 * variance.sqrt())).abs().max() < 1e-9
    u = tensor(0.001, 0.2, 0.5, 0.95, 0.9999)[:, None].expand(-1, 3)
    x = law.location[:, 0] + law.scale[:, 0] * shape.quantile(u)
    edge = torch.stack([law.location[:, 0] + law.scale[:, 0] * shape.z[:, i] for i in (0, -1)])
    low, high = law.cdf(edge[..., None])[..., 0]
    inside = (law.cdf(x[..., None])[..., 0] - low) / (high - low)
    assert (inside - u).abs().max() < 1e-5
    z, log_mass = shape_nodes(law, 5.0, 64)
    assert (log_mass.exp().sum(-1) - 1).abs().max() < 1e-12
    assert ((log_mass.exp() * z).sum(-1) - shape.mean).abs().max() < 1e-9


def test_tail_is_a_finite_power_law() -> None:
    """Far out the log density falls by 2 c for each e-fold of z, whatever the network does."""
    law = conditional(2, 3, wild=4.0)
    x = law.location + law.scale * torch.exp(tensor(20.0, 21.0)).reshape(-1, 1, 1)
    fall = law.log_prob(x).diff(dim=0)[0]
    assert (fall + 2 * law.coefficients[..., 0]).abs().max() < 1e-2
    assert (law.coefficients[..., 0] >= 1.5).all()
