"""Laws of one-dimensional densities, over every implementation there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.calibration import Calibrated, positive
from portfolio_ebm.models.compose import Product
from portfolio_ebm.models.conditional import Conditional, Family, State, shape_nodes, truncated_shape
from portfolio_ebm.models.density import Density
from portfolio_ebm.models.families import FAMILIES, Layout, Mixed
from portfolio_ebm.models.gaussian import Gaussian
from portfolio_ebm.models.quadrature import interval_rule, line_rule, power_for, to_line, to_unit
from portfolio_ebm.models.skew_student import SkewStudent
from portfolio_ebm.models.student import StudentT
from portfolio_ebm.types import generator

FAMILY = Family(ratios=3, features=4, drift=2)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def conditional(models: int = 2, rows: int = 3, wild: float = 1.0, family: Layout | Mixed = FAMILY) -> Conditional:
    """A conditional law far from its prior: every parameter moved by `wild` of its prior deviation."""
    rng = generator(7, "conditional")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    centre, spread = family.prior()
    state = State(
        level=1e-4 * torch.exp(draw(models, rows)),
        ratios=torch.exp(0.5 * draw(models, rows, 3)),
        features=torch.tanh(draw(models, rows, 4)),
        drift=torch.tanh(draw(models, rows, 2)),
    )
    return Conditional(family, centre + wild * spread * draw(models, family.size), state)


STUDENT, SKEWED = (FAMILIES[name](ratios=3, features=4, drift=2) for name in ("student", "skew_student"))
MIXED = Mixed((FAMILY, SKEWED, FAMILY, STUDENT))


def skewed() -> SkewStudent:
    return SkewStudent(tensor(0.0, 1.0, -2.0), tensor(1.0, 0.02, 3.0), tensor(2.3, 5.0, 12.0), tensor(0.6, -0.3, 0.0))


def calibrated() -> Calibrated:
    theta = positive(0.15 * torch.randn((3, 6), generator=generator(1, "theta"), dtype=torch.float64))
    return Calibrated(DENSITIES["student"](), theta)


def conditional_calibrated(family: Layout | Mixed = FAMILY, models: int = 2) -> Conditional:
    """A conditional law with a calibration at every row."""
    law = conditional(models, 2, family=family)
    theta = positive(0.15 * torch.randn((models, 2, 6), generator=generator(2, "theta"), dtype=torch.float64))
    return Conditional(law.family, law.flat, law.state, theta)


def product() -> Product:
    a = StudentT(tensor(0.0, 1.0), tensor(1.0, 0.01), tensor(3.0, 2.2))
    return Product((a, Gaussian(tensor(0.5, 1.03), tensor(2.0, 0.03)), StudentT(tensor(0.2), tensor(0.5), tensor(4.0))))


DENSITIES = {
    "gaussian": lambda: Gaussian(tensor(0.0, 1.0, -3.0), tensor(1.0, 0.01, 5.0)),
    "student": lambda: StudentT(tensor(0.0, 1.0, 0.0), tensor(1.0, 0.02, 3.0), tensor(3.0, 4.7, 12.0)),
    "skewed student": skewed,
    "calibrated": calibrated,
    "product": product,
    "conditional": lambda: conditional(2, 2),
    "conditional, wild": lambda: conditional(1, 2, wild=4.0),
    "conditional student": lambda: conditional(2, 2, wild=2.0, family=STUDENT),
    "conditional skewed": lambda: conditional(2, 2, wild=2.0, family=SKEWED),
    "conditional calibrated": conditional_calibrated,
    "conditional calibrated mixed": lambda: conditional_calibrated(MIXED, 4),
    "conditional mixed": lambda: conditional(4, 2, family=MIXED),
}
CLOSED = ("gaussian", "student", "conditional student")


@pytest.fixture(params=DENSITIES, name="law")
def _law(request: pytest.FixtureRequest) -> Density:
    return DENSITIES[request.param]()


@pytest.mark.parametrize("name", CLOSED)
def test_closed_normaliser_is_the_quadrature(name: str) -> None:
    law = DENSITIES[name]()
    assert (law.quadrature(128) - law.log_z()).abs().max() < 1e-10
    assert (law.quadrature(4000) - law.log_z()).abs().max() < 1e-10


@pytest.mark.parametrize("freedom", [1.02, 1.2, 1.5, 2.1, 2.5, 3.0, 4.7, 8.0, 15.9, 30.0])
def test_the_map_that_matches_the_tail_is_exact(freedom: float) -> None:
    """At 128 nodes to rounding, whatever the tail; the one map for all loses digits below 2 and only there."""
    law = StudentT(tensor(0.3), tensor(2.0), tensor(freedom))
    assert (law.quadrature(128) - law.log_z()).abs().item() < 1e-12
    assert (law.quadrature(48) - law.log_z()).abs().item() < 1e-8
    rule = line_rule(128)
    plain = torch.logsumexp(rule.log_weight + law.log_prob(0.3 + 2 * rule.z), 0) + math.log(2)
    assert abs(plain.item()) < (1e-5 if freedom < 2 else 1e-9)
    assert freedom > 2 or abs(plain.item()) > 1e-8


def test_the_matched_power_makes_the_integrand_start_as_a_polynomial() -> None:
    tail = tensor(0.7, 1.5, 2.0, 3.0, 4.7, 10.0, 15.9)
    whole = power_for(tail) * tail
    assert (whole - whole.round()).abs().max() < 1e-12 and (whole >= 2).all()
    assert power_for(tensor(16.0, torch.inf)).tolist() == [1.0, 1.0]


def test_conditional_normaliser_does_not_depend_on_nodes_or_map() -> None:
    for wild in (1.0, 4.0):
        law = conditional(2, 3, wild)
        truth = law.log_z(4000)
        assert (law.log_z(128) - truth).abs().max() < 1e-9
        assert (law.log_z(32) - truth).abs().max() < (1e-6 if wild == 1 else 2e-3)
        assert (law.form.quadrature(128) - truth).abs().max() < 1e-8


@pytest.mark.parametrize("name", [name for name in DENSITIES if "skewed" not in name and "mixed" not in name])
def test_normaliser_of_every_law_is_that_of_4000_nodes(name: str) -> None:
    """But for skewed laws, whose curvature jumps at the mode: they have a closed form, tested below."""
    law = DENSITIES[name]()
    assert (law.log_z(128) - law.quadrature(4000)).abs().max() < 1e-8


def halves(law: SkewStudent, power: float = 0.0) -> Tensor:
    """Integral of ((x - location) / scale)^power exp(-E) over both sides of the mode, where the curvature jumps."""
    edge = -law._shift / law._stretch
    found = []
    for low, high in ((torch.full_like(edge, -torch.inf), edge), (edge, torch.full_like(edge, torch.inf))):
        z, log_weight = interval_rule(low, high, 200, power=power_for(law.tail))
        found.append((z**power * torch.exp(log_weight - law.energy(law.location + law.scale * z))).sum(0))
    return sum(found) * law.scale


def test_skewed_normaliser_mean_and_variance_are_what_they_say() -> None:
    law = skewed()
    assert (halves(law).log() - law.log_z()).abs().max() < 1e-10
    assert (halves(law, 1.0) / law.log_z().exp()).abs().max() < 1e-6
    spread = halves(law, 2.0) / law.log_z().exp()
    # The variance of freedom 2.3 is nearly infinite: its integrand falls as |z|^-1.3.
    assert (spread[1:] - 1).abs().max() < 1e-6 and abs(float(spread[0]) - 1) < 0.1
    third = halves(law, 3.0) / law.log_z().exp()
    assert third[1] < -0.5 and third[2].abs() < 1e-8, "negative skew has its long tail on the left"
    with pytest.raises(FitError, match="above 2"):
        SkewStudent(tensor(0.0), tensor(1.0), tensor(2.0), tensor(0.0))


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
    assert (slope / law.log_prob(x).exp() - 1).abs().max() < 2e-5
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


@pytest.mark.parametrize("name", sorted(name for name in DENSITIES if "calibrated" not in name))
def test_score_is_autograd_of_log_density(name: str) -> None:
    """But for calibrated laws: no gradient passes through its cdf, and the test above holds its closed form."""
    law = DENSITIES[name]()
    x = law.location + law.scale * tensor(-2.0, 0.3, 1.7).reshape(-1, *[1] * len(law.batch))
    x = x.expand(3, *law.batch).clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    assert (law.score(x) - slope).abs().max() <= 1e-12 * slope.abs().max()


@pytest.mark.parametrize("family", [FAMILY, STUDENT, SKEWED, MIXED], ids=lambda f: type(f).__name__)
def test_a_batch_is_its_models_one_by_one(family: Layout | Mixed) -> None:
    law = conditional(4, 3, family=family)
    x = law.location + law.scale * tensor(-3.0, 0.2, 1.0)
    for m in range(4):
        own = family.models([m]) if isinstance(family, Mixed) else family
        one = Conditional(own, law.flat[m : m + 1], law.state.models([m]))
        for what in (lambda f, v: f.log_prob(v), lambda f, v: f.cdf(v), lambda f, v: f.pit(v), lambda f, v: f.score(v)):
            got, alone = what(law, x)[m], what(one, x[m : m + 1])[0]
            assert ((got - alone) / (1 + alone.abs())).abs().max() < 1e-12


def test_student_against_scipy() -> None:
    x = torch.linspace(-20, 20, 11, dtype=torch.float64)
    law = StudentT(tensor(0.5), tensor(1.5), tensor(4.0))
    truth = stats.t(4.0, 0.5, 1.5)
    assert (law.log_prob(x) - torch.from_numpy(truth.logpdf(x.numpy()))).abs().max() < 1e-10
    assert (law.cdf(x) - torch.from_numpy(truth.cdf(x.numpy()))).abs().max() < 1e-10


def test_skewed_student_without_skew_is_student() -> None:
    x = torch.linspace(-8, 8, 11, dtype=torch.float64)
    law = SkewStudent(tensor(0.5), tensor(1.5), tensor(4.0), tensor(0.0))
    truth = stats.t(4.0, 0.5, 1.5 * math.sqrt(0.5))
    assert (law.log_prob(x) - torch.from_numpy(truth.logpdf(x.numpy()))).abs().max() < 1e-12
    assert (law.cdf(x) - torch.from_numpy(truth.cdf(x.numpy()))).abs().max() < 1e-12


def test_skewed_student_against_arch() -> None:
    arch = pytest.importorskip("arch.univariate")
    x = torch.linspace(-6, 6, 13, dtype=torch.float64)
    law = SkewStudent(tensor(0.0), tensor(1.0), tensor(5.0), tensor(-0.3))
    theirs = arch.SkewStudent()
    shape = np.array([5.0, -0.3])
    ours = law.log_prob(x).numpy()
    assert ours == pytest.approx(theirs.loglikelihood(shape, x.numpy(), np.ones(13), individual=True), abs=1e-12)
    assert law.cdf(x).numpy() == pytest.approx(theirs.cdf(x.numpy(), shape), abs=1e-12)


def test_conditional_skewed_is_hansens_with_its_own_width() -> None:
    """Same power, reach and skew: z of the form over its deviation is Hansen's standardised law."""
    law = conditional(2, 2, wild=2.0, family=SKEWED)
    law.form.power.clamp_min_(2.0)
    form = type(law.form)(law.form.power, law.form.reach, law.form.skew)
    mean, variance = form.moments()
    z = torch.linspace(-5, 5, 9, dtype=torch.float64).reshape(-1, 1, 1)
    hansen = SkewStudent(mean, variance.sqrt(), 2 * form.power - 1, form.skew)
    assert mean.abs().max() == 0
    assert (form.log_prob(z) - hansen.log_prob(z)).abs().max() < 1e-9
    assert (form.cdf(z) - hansen.cdf(z)).abs().max() < 1e-9


@pytest.mark.parametrize("power", [None, tensor(0.8), tensor(2.0)])
def test_maps_invert_each_other(power: Tensor | None) -> None:
    z = tensor(-1e4, -40.0, -1.0, 0.0, 0.5, 3.0, 1e4)
    back, slope = to_line(to_unit(z, power), power)
    assert ((back - z) / (1 + z.abs())).abs().max() < 1e-9
    v = tensor(0.01, 0.3, 0.5, 0.9)
    numeric = (to_line(v + 1e-6, power)[0] - to_line(v - 1e-6, power)[0]) / 2e-6
    assert (to_line(v, power)[1] - numeric.log()).abs().max() < 1e-6
    assert torch.isfinite(slope).all()


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
    assert (one.level(x[..., None]) - one.cdf(x[..., None])).abs().max() < 1e-8


@pytest.mark.parametrize("family", [FAMILY, STUDENT, SKEWED, Mixed((SKEWED, FAMILY, STUDENT))], ids=repr)
def test_truncated_shape_is_the_truncated_law(family: Layout | Mixed) -> None:
    law = conditional(3, 1, family=family)
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
    # A skewed law's curvature jumps at its mode: 64 nodes and 128 agree to six digits, elsewhere to nine.
    assert ((log_mass.exp() * z).sum(-1) - shape.mean).abs().max() < (1e-9 if family in (FAMILY, STUDENT) else 1e-6)


def test_tail_is_a_finite_power_law() -> None:
    """Far out the log density falls by 2 c for each e-fold of z, whatever the network does."""
    law = conditional(2, 3, wild=4.0)
    x = law.location + law.scale * torch.exp(tensor(20.0, 21.0)).reshape(-1, 1, 1)
    fall = law.log_prob(x).diff(dim=0)[0]
    assert (fall + 2 * law.form.power).abs().max() < 1e-2
    assert (law.form.power >= 1.5).all()
