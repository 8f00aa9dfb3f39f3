"""Training: exact likelihood finds the law that made the data, alone or in a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from portfolio_ebm.errors import FitError, ShapeError
from portfolio_ebm.models.conditional import Conditional, Family, State
from portfolio_ebm.models.families import FAMILIES, Layout
from portfolio_ebm.models.partition import mean_log_z
from portfolio_ebm.models.student import StudentT
from portfolio_ebm.training import maximum_likelihood as training
from portfolio_ebm.training.maximum_likelihood import maximum_likelihood
from portfolio_ebm.training.quasi_newton import minimise
from portfolio_ebm.types import generator

FAMILY = Family(ratios=2, features=3, drift=1)
STUDENT, SKEWED = (FAMILIES[name](ratios=2, features=3, drift=1) for name in ("student", "skew_student"))


def data(models: int, rows: int = 600) -> tuple[State, Tensor]:
    """Rows whose true scale follows the second ratio, with t5 noise of a different scale for each model."""
    rng = generator(11, "training")
    ratios = torch.exp(0.8 * torch.randn((models, rows, 2), generator=rng, dtype=torch.float64))
    state = State(
        level=torch.full((models, rows), 1e-4, dtype=torch.float64),
        ratios=ratios,
        features=torch.tanh(torch.randn((models, rows, 3), generator=rng, dtype=torch.float64)),
        drift=torch.zeros((models, rows, 1), dtype=torch.float64),
    )
    one = torch.ones((), dtype=torch.float64)
    noise = StudentT(0 * one, (3 / 5) ** 0.5 * one, 5 * one).sample((models, rows), rng)
    return state, 0.01 * ratios[..., 1].sqrt() * noise


def test_quasi_newton_reaches_the_minimum_of_a_quartic() -> None:
    """f(x) = sum_j a_j (x_j - m_j)^2 + (x_j - m_j)^4: the gradient at the end is zero, m is the minimiser."""
    scale = torch.tensor([[1.0, 10.0, 100.0], [1000.0, 1.0, 0.1]], dtype=torch.float64)
    centre = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)

    def objective(x: Tensor, models: Tensor) -> Tensor:
        off = x - centre[models]
        return (scale[models] * off.square() + off**4).sum(-1)

    found = minimise(objective, torch.zeros_like(centre), tolerance=1e-14)
    assert found.converged.all()
    assert (found.parameters - centre).abs().max() < 1e-5


def test_quasi_newton_leaves_what_is_not_finite() -> None:
    def objective(x: Tensor, models: Tensor) -> Tensor:
        return x.square().sum(-1) + torch.where(models == 1, torch.nan, 0.0)

    found = minimise(objective, torch.ones(3, 2, dtype=torch.float64))
    assert found.converged.tolist() == [True, False, True]
    assert found.parameters[1].tolist() == [1.0, 1.0]


def test_training_beats_the_prior_and_nears_the_truth() -> None:
    state, x = data(1, 4000)
    seen = torch.ones_like(x, dtype=torch.bool)
    first = slice(0, 3000)
    fit = maximum_likelihood(FAMILY, state.rows(first), x[:, first], seen[:, first])
    assert fit.statuses[0].ok and "converged" in fit.statuses[0].message
    rest = state.rows(slice(3000, 4000))
    truth = StudentT(torch.zeros(()), 0.01 * (0.6 * rest.ratios[..., 1]).sqrt(), torch.tensor(5.0))
    held = [
        law.log_prob(x[:, 3000:]).mean().item()
        for law in (
            truth,
            Conditional(FAMILY, fit.parameters, rest),
            Conditional(FAMILY, FAMILY.prior()[0][None], rest),
        )
    ]
    assert held[0] - held[1] < 0.03
    assert held[1] - held[2] > 0.02


def test_gradient_of_the_likelihood_vanishes() -> None:
    """Optimality: a small step along any random direction does not lower the penalised loss."""
    state, x = data(1)
    seen = torch.ones_like(x, dtype=torch.bool)
    fit = maximum_likelihood(FAMILY, state, x, seen, tolerance=1e-10)
    centre, spread = FAMILY.prior()

    def loss(flat: Tensor) -> float:
        inside = 0.5 * ((flat - centre) / spread).square().sum() / x.shape[1]
        return float(inside - Conditional(FAMILY, flat, state).log_prob(x).mean())

    rng = generator(2, "directions")
    here = loss(fit.parameters)
    for _ in range(20):
        step = spread * torch.randn(FAMILY.size, generator=rng, dtype=torch.float64)
        for size in (1e-3, -1e-3):
            assert loss(fit.parameters + size * step) > here - 1e-8


@pytest.mark.parametrize("family", [FAMILY, STUDENT, SKEWED], ids=lambda f: type(f).__name__)
def test_a_batch_is_its_models_one_by_one(family: Layout) -> None:
    state, x = data(4)
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[2, :100] = False
    together = maximum_likelihood(family, state, x, seen, tolerance=1e-9)
    for m in range(4):
        alone = maximum_likelihood(family, state.models([m]), x[m : m + 1], seen[m : m + 1], tolerance=1e-9)
        assert (alone.parameters[0] - together.parameters[m]).abs().max() < 1e-8
        assert abs(float(alone.log_likelihood[0] - together.log_likelihood[m])) < 1e-10


def test_rows_that_do_not_count_do_not_count() -> None:
    state, x = data(1)
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[0, 5:50] = False
    poisoned = torch.where(seen, x, 1e3)
    one, two = (maximum_likelihood(FAMILY, state, v, seen).parameters for v in (x, poisoned))
    assert torch.equal(one, two)


def test_mean_log_z_and_its_gradient_are_those_of_the_sum_written_out() -> None:
    """Over more rows than one block; a row without weight counts nothing even where it overflows."""
    rng = generator(4, "mean log Z")
    a, phi = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((2, 5000, 3), (2, 16, 3)))
    edge = torch.randn(16, generator=rng, dtype=torch.float64)
    weight = torch.rand((2, 5000), generator=rng, dtype=torch.float64)
    a.requires_grad_(True), phi.requires_grad_(True)
    slow = (weight * torch.logsumexp(edge - a @ phi.mT, -1)).sum(-1)
    fast = mean_log_z(a, phi, edge, weight)
    assert (fast / slow - 1).abs().max() < 1e-13
    slope = torch.tensor([2.0, -0.5], dtype=torch.float64)
    for one, two in zip(*(torch.autograd.grad(slope @ value, (a, phi)) for value in (slow, fast)), strict=True):
        assert (one - two).abs().max() < 1e-11 * one.abs().max()
    with torch.no_grad():
        a[:, 7], weight[:, 7] = 1e4, 0.0
        assert torch.isfinite(mean_log_z(a, phi, edge, weight)).all()


@pytest.mark.parametrize("family", [FAMILY, STUDENT, SKEWED], ids=lambda f: type(f).__name__)
def test_every_form_has_its_mean_log_z(family: Layout) -> None:
    state, x = data(2, 300)
    law = Conditional(family, family.prior()[0].expand(2, -1), state)
    weight = torch.rand(x.shape, generator=generator(3, "w"), dtype=torch.float64)
    assert (law.form.mean_log_z(weight, 32) - (law.log_z(32) * weight).sum(-1)).abs().max() < 1e-11


def test_a_curvature_shortens_the_way_to_the_same_minimum() -> None:
    """A quadratic of condition 10^6 in two models: with its own Hessian, one step and two to see that it is over."""
    scale = torch.logspace(-3, 3, 30, dtype=torch.float64)
    centre = torch.linspace(-1, 1, 30, dtype=torch.float64).expand(2, -1)

    def objective(x: Tensor, models: Tensor) -> Tensor:
        return (scale * (x - centre[models]).square()).sum(-1)

    def curvature(x: Tensor, models: Tensor) -> Tensor:
        return torch.diag_embed((2 * scale).sqrt()).expand(len(models), -1, -1)

    start = torch.zeros(2, 30, dtype=torch.float64)
    found = minimise(objective, start, tolerance=1e-12, curvature=curvature)
    assert found.converged.all() and int(found.iterations.max()) <= 3
    assert (found.parameters - centre).abs().max() < 1e-12
    assert int(minimise(objective, start, tolerance=1e-12).iterations.min()) > 10


def test_nodes_are_not_deceived() -> None:
    """Few rows and many parameters invite a spike between the nodes: what is reported holds at 4,000 of them."""
    state, x = data(3, 60)
    fit = maximum_likelihood(FAMILY, state, x, torch.ones_like(x, dtype=torch.bool))
    law = Conditional(FAMILY, fit.parameters, state)
    assert (law.log_z(4000) - law.log_z(128)).abs().max() < 1e-4
    assert (fit.log_likelihood - (-law.energy(x) - law.log_z(4000)).mean(-1)).abs().max() < 1e-4


def test_what_few_nodes_did_not_see_is_trained_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """With eight nodes the normaliser is wrong; the fit notices and ends as if trained with 128."""
    state, x = data(2, 400)
    seen = torch.ones_like(x, dtype=torch.bool)
    monkeypatch.setattr(training, "SETTLED", 1e-7)
    monkeypatch.setattr(training, "TRAINING_NODES", 8)
    rescued = maximum_likelihood(FAMILY, state, x, seen, tolerance=1e-10)
    monkeypatch.setattr(training, "TRAINING_NODES", 128)
    fine = maximum_likelihood(FAMILY, state, x, seen, tolerance=1e-10)
    assert all(status.ok for status in rescued.statuses)
    assert (rescued.log_likelihood - fine.log_likelihood).abs().max() < 1e-7


def test_bad_input_is_named() -> None:
    state, x = data(2, 50)
    with pytest.raises(ShapeError, match="must agree"):
        maximum_likelihood(FAMILY, state, x[:, :-1], torch.ones(2, 49, dtype=torch.bool))
    with pytest.raises(FitError, match="Model 1"):
        seen = torch.ones_like(x, dtype=torch.bool)
        seen[1] = False
        maximum_likelihood(FAMILY, state, x, seen)
    with pytest.raises(FitError, match="not finite"):
        bad = x.clone()
        bad[0, 3] = torch.inf
        maximum_likelihood(FAMILY, state, bad, torch.ones_like(x, dtype=torch.bool))


def test_too_few_steps_is_a_status() -> None:
    state, x = data(1)
    fit = maximum_likelihood(FAMILY, state, x, torch.ones_like(x, dtype=torch.bool), iterations=2)
    assert not fit.statuses[0].ok
    assert "before converging" in fit.statuses[0].message
