"""Laws of the kernels, the sampling loop and its diagnostics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from portfolio_ebm.errors import ShapeError, SolverError, SpecError
from portfolio_ebm.samplers.anneal import anneal
from portfolio_ebm.samplers.diagnostics import effective_size, r_hat
from portfolio_ebm.samplers.kernel import Kernel
from portfolio_ebm.samplers.langevin import ULA
from portfolio_ebm.samplers.schedules import Constant, Cooling, Geometric
from portfolio_ebm.samplers.wrappers import Projected

A = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=torch.float64)
LARGEST = float(torch.linalg.eigvalsh(A)[-1])


def bowl(x: Tensor) -> Tensor:
    return 0.5 * ((x @ A.to(x)) * x).sum(-1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def onto_sphere_or_inside(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1.0)


KERNELS = {
    "ULA": ULA(0.1),
    "Projected": Projected(ULA(0.1), onto_sphere_or_inside),
    "ProjectedTwice": Projected(Projected(ULA(0.1), onto_sphere_or_inside), lambda x: x.clamp_min(0.0)),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3), (0, 3)])
def test_protocol(kernel: Kernel, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=dtype, generator=rng())
    before = x.clone()
    state = kernel.init(x, bowl)
    moved = kernel.step(state, bowl, 0.5, rng())
    again = kernel.step(state, bowl, 0.5, rng())
    assert torch.equal(x, before), "the caller's points were changed"
    assert torch.equal(state.x, before), "the old state was changed"
    assert moved.x.shape == moved.gradient.shape == shape
    assert moved.energy.shape == shape[:-1]
    assert moved.x.dtype == moved.energy.dtype == moved.gradient.dtype == dtype
    assert not moved.x.requires_grad
    assert torch.equal(moved.x, again.x), "same generator, other bits"
    assert torch.allclose(moved.energy, bowl(moved.x))
    assert torch.allclose(moved.gradient, moved.x @ A.to(dtype), atol=1e-5)


@every_kernel
def test_a_batch_is_a_loop_of_chains(kernel: Kernel) -> None:
    x = torch.randn(7, 3, dtype=torch.float64, generator=rng())
    noise = kernel.draw(x, rng(1))
    batch = kernel.move(kernel.init(x, bowl), bowl, 0.7, noise)
    for i in range(7):
        one = kernel.move(kernel.init(x[i], bowl), bowl, 0.7, noise[i])
        assert torch.allclose(one.x, batch.x[i], atol=1e-14, rtol=0)


@every_kernel
def test_one_temperature_per_chain(kernel: Kernel) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=rng())
    heat = torch.tensor([0.0, 0.25, 1.0, 4.0], dtype=torch.float64)
    noise = kernel.draw(x, rng(1))
    batch = kernel.move(kernel.init(x, bowl), bowl, heat, noise)
    for i, level in enumerate(heat.tolist()):
        one = kernel.move(kernel.init(x, bowl), bowl, level, noise)
        assert torch.equal(one.x[i], batch.x[i])


def test_cold_is_gradient_descent_to_the_last_bit() -> None:
    x = torch.randn(6, 3, dtype=torch.float64, generator=rng())
    run = anneal(ULA(0.2), bowl, x, schedule=Constant(0.0), n_steps=20, rng=rng(3))
    for _ in range(20):
        point = x.requires_grad_(True)
        (slope,) = torch.autograd.grad(bowl(point).sum(), point)
        x = (point - 0.2 * slope).detach()
    assert torch.equal(run.state.x, x)


def test_cold_projected_is_projected_gradient_descent() -> None:
    x = torch.full((3,), 2.0, dtype=torch.float64)
    target = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    kernel = Projected(ULA(0.5), lambda w: w.clamp_min(0.0))
    run = anneal(kernel, lambda w: (w - target).square().sum(-1), x, schedule=Constant(0.0), n_steps=60, rng=rng())
    assert torch.allclose(run.state.x, target.clamp_min(0.0), atol=1e-12)


def stationary(kernel: Kernel, temperature: float, covariance: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Covariance after `steps` from exact draws of N(0, covariance), and its standard error by entry."""
    chains = 40_000
    x = torch.randn(chains, 3, dtype=torch.float64, generator=rng(5)) @ torch.linalg.cholesky(covariance).T
    x = anneal(kernel, bowl, x, schedule=Constant(temperature), n_steps=steps, rng=rng(6)).state.x
    diagonal = covariance.diagonal()
    error = ((diagonal.unsqueeze(0) * diagonal.unsqueeze(1) + covariance.square()) / chains).sqrt()
    return x.T @ x / chains, error


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_ula_has_the_covariance_its_step_size_gives_and_no_other(temperature: float) -> None:
    h = 0.6
    exact = temperature * torch.linalg.inv(A)
    biased = exact @ torch.linalg.inv(torch.eye(3, dtype=torch.float64) - 0.5 * h * A)
    found, error = stationary(ULA(h), temperature, biased, 40)
    assert bool(((found - biased).abs() < 4.5 * error).all())
    assert bool(((found - exact).abs() > 10 * error).any()), "the bias of ULA should be seen at this step"


@every_kernel
def test_nan_is_an_error(kernel: Kernel) -> None:
    x = torch.ones(2, 3, dtype=torch.float64)
    state = kernel.init(x, bowl)
    with pytest.raises(SolverError, match="NaN"):
        kernel.step(state, lambda w: bowl(w) * float("nan"), 1.0, rng())
    with pytest.raises(SolverError, match="NaN"):
        kernel.init(x, lambda w: bowl(w) + float("nan"))
    with pytest.raises(SolverError, match="slope"):
        kernel.init(torch.zeros(2, 3, dtype=torch.float64), lambda w: w.sum(-1).sqrt())
    with pytest.raises(SolverError, match="not finite"):
        kernel.init(x, lambda w: bowl(w) + float("inf"))


def test_an_energy_must_give_one_number_per_chain() -> None:
    with pytest.raises(ShapeError, match="expected"):
        ULA(0.1).init(torch.ones(2, 3), lambda w: w)


def test_a_flat_energy_has_no_gradient_and_still_diffuses() -> None:
    state = ULA(0.5).init(torch.zeros(1000, 2, dtype=torch.float64), lambda w: w.new_zeros(w.shape[:-1]))
    state = ULA(0.5).step(state, lambda w: w.new_zeros(w.shape[:-1]), 1.0, rng())
    assert float(state.x.var()) == pytest.approx(1.0, rel=0.15)


@pytest.mark.parametrize("step_size", [0.0, -1.0, float("inf"), float("nan")])
def test_step_sizes_that_mean_nothing(step_size: float) -> None:
    with pytest.raises(SpecError, match="step_size"):
        ULA(step_size)


def test_what_cannot_be_asked() -> None:
    state = ULA(0.1).init(torch.ones(3), bowl)
    with pytest.raises(SolverError, match="temperature"):
        ULA(0.1).step(state, bowl, -1.0, rng())
    with pytest.raises(SpecError, match="n_steps"):
        anneal(ULA(0.1), bowl, torch.ones(3), schedule=Constant(1.0), n_steps=-1, rng=rng())


def test_schedules_by_hand() -> None:
    assert [Geometric(1.0, 0.01).at(k, 3) for k in range(3)] == pytest.approx([1.0, 0.1, 0.01])
    assert [Constant(0.3).at(k, 3) for k in range(3)] == [0.3] * 3
    for schedule in (Geometric(2.0, 0.1), Constant(0.0)):
        assert Cooling.from_json(schedule.model_dump_json()) == schedule
        assert schedule.at(0, 1) == schedule.at(0, 9), "one step is taken at the start"
    with pytest.raises(SpecError, match="end"):
        Geometric(start=1.0, end=0.0)


def test_annealing_finds_the_lower_of_two_wells() -> None:
    def wells(x: Tensor) -> Tensor:
        return ((x * x - 1.0).square() + 0.6 * x).sum(-1)

    x = torch.ones(64, 1, dtype=torch.float64)
    hot = anneal(ULA(0.05), wells, x, schedule=Geometric(1.0, 0.1), n_steps=400, rng=rng())
    cold = anneal(ULA(0.05), wells, x, schedule=Constant(0.0), n_steps=400, rng=rng())
    assert float((hot.state.x < 0).double().mean()) > 0.8
    assert bool((cold.state.x > 0).all())


@every_kernel
def test_the_record_of_a_run(kernel: Kernel) -> None:
    x = torch.rand(4, 3, dtype=torch.float64, generator=rng()) * 0.5
    run = anneal(kernel, bowl, x, schedule=Geometric(1.0, 0.1), n_steps=12, rng=rng(), thin=5)
    again = anneal(kernel, bowl, x, schedule=Geometric(1.0, 0.1), n_steps=12, rng=rng(), thin=5)
    assert torch.equal(run.state.x, again.state.x)
    assert run.trace.shape == (13, 4)
    assert run.draws.shape == (2, 4, 3)
    assert torch.equal(run.trace[0], bowl(x))
    assert torch.equal(run.best_energy, run.trace.min(0).values)
    assert torch.allclose(bowl(run.best), run.best_energy)
    empty = anneal(kernel, bowl, x, schedule=Constant(1.0), n_steps=0, rng=rng())
    assert torch.equal(empty.state.x, x)
    assert empty.draws.shape == (0, 4, 3)


def test_r_hat_and_effective_size_know_independent_draws() -> None:
    draws = torch.randn(1000, 4, 5, dtype=torch.float64, generator=rng())
    assert torch.allclose(r_hat(draws), torch.ones(5, dtype=torch.float64), atol=0.01)
    assert bool(((effective_size(draws) / 4000 - 1).abs() < 0.2).all())
    apart = draws + 3.0 * torch.arange(4).reshape(1, 4, 1)
    assert bool((r_hat(apart) > 2.0).all())
    assert bool((effective_size(apart) < 40).all())
    drifting = draws + torch.linspace(0, 6, 1000).reshape(-1, 1, 1)
    assert bool((r_hat(drifting) > 1.3).all())
    still = torch.ones(10, 3, dtype=torch.float64)
    assert float(r_hat(still)) == 1.0
    assert math.isinf(float(r_hat(still * torch.arange(3))))
    with pytest.raises(ShapeError, match="steps"):
        r_hat(torch.zeros(3, 2))


def test_effective_size_of_an_autoregression_is_known() -> None:
    phi, x = 0.8, torch.randn(50, dtype=torch.float64, generator=rng())
    steps = []
    for noise in torch.randn(2000, 50, dtype=torch.float64, generator=rng(1)):
        x = phi * x + math.sqrt(1 - phi * phi) * noise
        steps.append(x)
    expected = 100_000 * (1 - phi) / (1 + phi)
    assert float(effective_size(torch.stack(steps))) == pytest.approx(expected, rel=0.1)


def test_effective_size_of_many_short_chains_is_that_of_their_means() -> None:
    # Half-chains of 12 draws are too short to say what their autocorrelation is.
    phi, x, steps = 0.8, torch.randn(4000, dtype=torch.float64, generator=rng()), []
    for noise in torch.randn(24, 4000, dtype=torch.float64, generator=rng(1)):
        x = phi * x + math.sqrt(1 - phi * phi) * noise
        steps.append(x)
    lags = torch.arange(1, 24, dtype=torch.float64)
    expected = 24 * 4000 / float(1 + 2 * ((1 - lags / 24) * phi**lags).sum())
    assert float(effective_size(torch.stack(steps))) == pytest.approx(expected, rel=0.1)
