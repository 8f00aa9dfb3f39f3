"""The calibration energy: what past PITs say a law gets wrong, added to it without changing its normaliser.

    E_cal(u) = -log c(u),   c(u) = 1 + sum_{j=1..6} th_j L_j(u),   u = F(x | s) in (0, 1),
    L_j(u) = sqrt(2j + 1) P_j(2u - 1), orthonormal on (0, 1):   integral of c = 1, and th_j = E L_j(u),
    th_t = sum_{k<t} lam^(t-1-k) L(u_k) / (sum_{k<t} lam^(t-1-k) + rows),  lam = 2^(-1 / half_life).

c is a density while it is positive. The rule: th is scaled by the largest factor in [0, 1] that keeps the least value
of c on [0, 1] at 0.1 or above. The least value comes from 257 Chebyshev points and a bound on what lies between them,
so it is never overrated. The calibrated PIT C(u) = integral of c is what a copula should see.

Source: J. Neyman (1937), Smooth test for goodness of fit, Skandinavisk Aktuarietidskrift 20; H. Ehlich and
K. Zeller (1964), Schwankung von Polynomen zwischen Gitterpunkten, Mathematische Zeitschrift 86.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from portfolio_ebm.errors import FitError, ShapeError
from portfolio_ebm.models.density import Density
from portfolio_ebm.models.quadrature import NODES
from portfolio_ebm.models.special import decayed_sum

DEGREE = 6
HALF_LIFE = 350.0
"""Rows. What a trained law gets wrong passes: the last years tell it, not all that the law was trained on."""
ROWS = 250.0
"""Rows of the prior, which says th = 0."""
FLOOR = 0.1
SETTINGS = f"degree {DEGREE}, half-life {HALF_LIFE:g}, prior {ROWS:g}, floor {FLOOR:g}"
"""What a dependence fitted to calibrated PITs is stored under."""
CELLS = 256
STEPS = 60


def legendre(u: Tensor) -> Tensor:
    """L_1 ... L_6 at u: (..., 6)."""
    value, _ = _polynomials(u)
    return value[..., 1:] * _norms(u)


def theta_path(u: Tensor, half_life: float = HALF_LIFE, rows: float = ROWS, floor: float = FLOOR) -> Tensor:
    """Coefficients known before each row, from the PITs of the rows before it: causal, row 0 is zero.

    Args:
        u: PITs (T, M) in [0, 1]; NaN cells do not count.
        half_life: of the exponential weights, in rows.
        rows: how many rows of a uniform PIT the prior is worth.
        floor: the least value of c.

    Returns:
        (T + 1, M, 6), the last row for the day to come.

    Raises:
        ShapeError: u is not (T, M). FitError: a PIT outside [0, 1].

    Example:
        >>> th = theta_path(u)
        >>> calibrated = level(u, th[:-1]), log_density(u, th[:-1])
    """
    if u.ndim != 2:
        raise ShapeError(f"theta_path: got PITs of shape {tuple(u.shape)}, expected (rows, models).")
    seen = ~torch.isnan(u)
    if bool((seen & ((u < 0) | (u > 1))).any()):
        raise FitError("theta_path: a PIT lies outside [0, 1]; give cdf values, and NaN where there is none.")
    known = torch.where(seen, u, 0.5)
    total = decayed_sum(legendre(known) * seen[..., None], half_life)
    weight = decayed_sum(seen.to(u), half_life)
    mean = total / (weight + rows)[..., None]
    return positive(torch.cat([torch.zeros_like(mean[:1]), mean]), floor)


def positive(theta: Tensor, floor: float = FLOOR) -> Tensor:
    """theta (..., 6) times the largest factor in [0, 1] that keeps c at `floor` or above."""
    flat = theta.reshape(-1, DEGREE)
    # |L_j| is at most sqrt(2j + 1): most rows need no look at the grid.
    loud = (flat.abs() * _norms(theta)).sum(-1) > 1 - floor
    factor = torch.ones_like(flat[:, 0])
    if bool(loud.any()):
        factor[loud] = ((1 - floor) / (-_least(flat[loud])).clamp_min(1e-300)).clamp_max(1.0)
    return theta * factor.reshape(theta.shape[:-1])[..., None]


def log_density(u: Tensor, theta: Tensor) -> Tensor:
    """-E_cal(u) = log c(u) for u (...) and theta (..., 6), nats; NaN where u is."""
    return torch.log1p((legendre(u) * theta).sum(-1))


def slope(u: Tensor, theta: Tensor) -> Tensor:
    """d log c(u) / du = c'(u) / c(u), shapes as in `log_density`."""
    value, bend = _polynomials(u)
    norms = _norms(u) * theta
    return (2 * bend[..., 1:] * norms).sum(-1) / (1 + (value[..., 1:] * norms).sum(-1))


def level(u: Tensor, theta: Tensor) -> Tensor:
    """C(u) = integral of c from 0 to u: the calibrated PIT, with relative precision near 0."""
    return u * (1 - (1 - u) * _bend(u, theta))


def inverse(level_: Tensor, theta: Tensor) -> Tensor:
    """The u with C(u) = level_, by Newton steps inside a bracket; to 1e-14."""
    target, _ = torch.broadcast_tensors(level_, theta[..., 0])
    low, high, u = torch.zeros_like(target), torch.ones_like(target), target.clone()
    for _ in range(STEPS):
        gap = level(u, theta) - target
        low, high = torch.where(gap < 0, u, low), torch.where(gap > 0, u, high)
        step = u - gap / (1 + (legendre(u) * theta).sum(-1))
        inside = (step >= low) & (step <= high)
        new = torch.where(inside, step, (low + high) / 2)
        moved, u = (new - u).abs(), new
        # A NaN target stays NaN and is not waited for.
        if not bool((moved > 1e-15 + 1e-14 * u).any()):
            break
    return torch.where(torch.isnan(target), torch.nan, u)


def sample(theta: Tensor, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Exact draws of u, (*size, *theta.shape[:-1])."""
    u = torch.rand((*size, *theta.shape[:-1]), generator=rng, dtype=theta.dtype, device=theta.device)
    return inverse(u, theta)


class Calibrated(Density):
    """A law with a calibration energy added: E(x) + E_cal(F(x)), of the same normaliser.

    Args:
        law: any density.
        theta: (*batch, 6), as `theta_path` gives them.

    Example:
        >>> Calibrated(law, theta_path(law.cdf(x))[-1]).log_prob(next_x)
    """

    def __init__(self, law: Density, theta: Tensor) -> None:
        self.law, self.theta = law, theta
        self.location, self.scale, self.variable = law.location, law.scale, law.variable

    @property
    def batch(self) -> torch.Size:
        return torch.Size(torch.broadcast_shapes(self.law.batch, self.theta.shape[:-1]))

    @property
    def tail(self) -> Tensor | None:
        return self.law.tail

    def energy(self, x: Tensor) -> Tensor:
        return self.law.energy(x) - log_density(self.law.cdf(x), self.theta)

    def log_z(self, nodes: int = NODES) -> Tensor:
        return self.law.log_z(nodes).expand(self.batch)

    def score(self, x: Tensor) -> Tensor:
        """The law's own, plus p(x) c'(u) / c(u) at u = F(x)."""
        u = self.law.cdf(x)
        return self.law.score(x) + self.law.log_prob(x).exp() * slope(u, self.theta)

    def cdf(self, x: Tensor, nodes: int = NODES) -> Tensor:
        return level(self.law.cdf(x, nodes), self.theta)

    def _invert(self, u: Tensor) -> Tensor:
        tiny = torch.finfo(u.dtype).tiny
        return self.law.quantile(inverse(u, self.theta).clamp(tiny, 1 - torch.finfo(u.dtype).eps))


def _polynomials(u: Tensor) -> tuple[Tensor, Tensor]:
    """P_0 ... P_6 and their derivatives at 2u - 1, each (..., 7), by the three-term recursion."""
    x = 2 * u - 1
    value, slope = [torch.ones_like(x), x], [torch.zeros_like(x), torch.ones_like(x)]
    for j in range(1, DEGREE):
        value.append(((2 * j + 1) * x * value[j] - j * value[j - 1]) / (j + 1))
        slope.append(slope[j - 1] + (2 * j + 1) * value[j])
    return torch.stack(value, -1), torch.stack(slope, -1)


def _norms(like: Tensor) -> Tensor:
    return torch.tensor([math.sqrt(2 * j + 1) for j in range(1, DEGREE + 1)], dtype=torch.float64).to(like)


def _bend(u: Tensor, theta: Tensor) -> Tensor:
    """(u - C(u)) / (u (1 - u)): the integral of L_j from 0 to u is -2 sqrt(2j+1) / (j (j+1)) u (1-u) P_j'(2u - 1)."""
    j = torch.arange(1, DEGREE + 1).to(u)
    _, slope = _polynomials(u)
    return (theta * slope[..., 1:] * 2 * _norms(u) / (j * (j + 1))).sum(-1)


def _least(theta: Tensor) -> Tensor:
    """A lower bound of the least value of sum_j th_j L_j on [0, 1], for theta (R, 6): at most 0.1 % below it.

    With x = cos(a), s is an even trigonometric polynomial of degree 6 in a; |s''| <= 36 max |s| (Bernstein), and a
    least value lies within half a cell of a point, so that it is at most (cell / 2)^2 / 2 * 36 max |s| below it.
    """
    cell = math.pi / CELLS
    points = (1 + torch.cos(cell * torch.arange(CELLS + 1, dtype=torch.float64).to(theta))) / 2
    found = []
    for rows in theta.split(65536):
        s = rows @ legendre(points).mT
        most = s.abs().amax(-1) / math.cos(DEGREE * cell / 2)
        found.append(s.amin(-1) - cell**2 / 8 * DEGREE**2 * most)
    return torch.cat(found)
