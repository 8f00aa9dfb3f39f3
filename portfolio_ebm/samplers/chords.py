"""One draw on a chord: the law of t on [low, high] with density exp(-(slope t + curvature t^2 / 2) / T).

Where the mode is within 12 standard deviations of the chord this is an inverse transform of the truncated normal, in
the tail that keeps its digits. Farther out the law is an exponential but for a hair: the exponential is proposed and
taken with its Metropolis probability (over 99 in 100), so that the step leaves the law invariant there too.

Source: Robert, C. P. (1995), Simulation of truncated normal variables, Statistics and Computing 5, for the laws.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

FAR = 12.0
"""Standard deviations from the mode to the chord beyond which the exponential is proposed."""

_ROOT_HALF = 0.5**0.5

Uniforms = Callable[[], Tensor]
"""Gives fresh independent uniforms on [0, 1), (chains,)."""


def draw_on_chord(
    slope: Tensor, curvature: float, temperature: float, low: Tensor, high: Tensor, u: Tensor, more: Uniforms
) -> Tensor:
    """The new t, given that the chain stands at t = 0.

    Args:
        slope: of the energy at t = 0, (chains,).
        curvature: not negative; 0 gives the exponential and, with slope 0, the uniform law.
        temperature: T > 0.
        low, high: (chains,), low <= 0 <= high.
        u: independent uniforms on [0, 1), (chains,). more: gives as many again, asked only where some chord is far out.
    """
    if curvature * temperature <= 0.0:
        return _exponential(slope, curvature, temperature, low, high, u, more, slope >= 0.0)
    spread = (temperature / curvature) ** 0.5
    mode = slope * (-1.0 / curvature)
    # In units of sqrt(2) standard deviations, as erfc has them.
    near, far = (low - mode) * (_ROOT_HALF / spread), (high - mode) * (_ROOT_HALF / spread)
    tilt = near + far
    # Mirrored, if need be, so that the chord lies to the right of the mode, where erfc keeps its digits.
    start, end = near.maximum(-far), far.maximum(-near)
    z = torch.special.ndtri(0.5 * torch.lerp(torch.erfc(end), torch.erfc(start), u))
    size = torch.full((), spread, dtype=z.dtype, device=z.device)
    t = torch.addcmul(mode, z, torch.copysign(size, tilt), value=-1.0)
    beyond = FAR * _ROOT_HALF
    if float(start.amax()) > beyond:
        tail = _exponential(slope, curvature, temperature, low, high, u, more, tilt >= 0.0)
        t = torch.where(start > beyond, tail, t)
    return t.clamp(low, high)


def _exponential(
    slope: Tensor, curvature: float, temperature: float, low: Tensor, high: Tensor, u: Tensor, more: Uniforms,
    right: Tensor,
) -> Tensor:  # fmt: skip
    """From the end of the chord that is nearest to the mode, with the slope that the energy has there."""
    width = high - low
    pace = torch.where(right, slope + curvature * low, -(slope + curvature * high)) / temperature
    # A flat law is an exponential of a pace that no digit sees; a chord may have no length, or no end.
    pace = pace.maximum(1e-12 / width.clamp_min(1e-290)).clamp_min(1e-290)
    gone = (-torch.log1p(u * torch.expm1(-pace * width)) / pace).minimum(width)
    here = torch.where(right, -low, high)
    if curvature > 0.0:
        kept = torch.exp((-0.5 * curvature / temperature) * (gone * gone - here * here))
        gone = torch.where(more() < kept, gone, here)
    return torch.where(right, low + gone, high - gone)


def log_mass(slope: Tensor, curvature: Tensor, temperature: Tensor | float, low: Tensor, high: Tensor) -> Tensor:
    """log of the integral of exp(-(slope t + curvature t^2 / 2) / T) over [low, high], elementwise; -inf where
    low >= high. The curvature has to be positive."""
    near, far, middle, root = _standard(slope, curvature, temperature, low, high)
    # Mirrored, if need be, so that the chord lies to the right of the mode, where erfc keeps its digits.
    start, end = near.maximum(-far), far.maximum(-near)
    # Around the mode erf has the digits, where a short chord is a difference of near ones; beyond it erfc.
    part = torch.where(start < 0.5, torch.erf(end) - torch.erf(start), torch.erfc(start) - torch.erfc(end))
    found = torch.addcmul(part.clamp_min_(1e-300).log_(), middle, middle)
    empty = low >= high
    tail = ((start > FAR) & ~empty).nonzero(as_tuple=True)
    if len(tail[0]):
        parts = slope / temperature, curvature / temperature, low, high
        pace, bend, left, right = (one.expand_as(start)[tail] for one in parts)
        found[tail] = _log_tail(pace, bend, left, right, start[tail], end[tail])
    found += (0.5 * math.pi**0.5 / root).log()
    return found.masked_fill_(empty, -torch.inf)


def _standard(
    slope: Tensor, curvature: Tensor, temperature: Tensor | float, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ends of a chord and t = 0 as seen from the mode, in units of sqrt(2) standard deviations, as erfc has them;
    and what a step of t is in these."""
    root = (0.5 * curvature / temperature).sqrt()
    middle = slope * (root / curvature)
    return torch.addcmul(middle, low, root), torch.addcmul(middle, high, root), middle, root


def _log_tail(pace: Tensor, bend: Tensor, low: Tensor, high: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """log of what erfc(start) - erfc(end) and the place of t = 0 give together, far past the mode, where erfc is zero:
    the density at the nearest end times the scaled tails, which keep their digits."""
    mean = pace + 0.5 * bend * (low + high)
    first = torch.where(mean >= 0.0, low, high)
    scaled = torch.special.erfcx(start) - torch.exp((low - high) * mean.abs()) * torch.special.erfcx(end)
    found: Tensor = scaled.clamp_min(1e-300).log() - first * (pace + 0.5 * bend * first)
    return found


def fresh_on_chord(
    slope: Tensor, curvature: Tensor, temperature: Tensor, low: Tensor, high: Tensor, rng: torch.Generator
) -> Tensor:
    """Exact independent draws of t, elementwise (chains,), whatever the chains' present place; curvature positive.

    Beyond FAR standard deviations an exponential is proposed until it is taken, over 99 times in 100.
    """
    near, far, middle, root = _standard(slope, curvature, temperature, low, high)
    right = near + far >= 0.0
    start, end = near.maximum(-far), far.maximum(-near)
    u = torch.rand(low.shape, generator=rng, dtype=low.dtype, device=low.device)
    z = torch.special.ndtri(0.5 * torch.lerp(torch.erfc(end), torch.erfc(start), u))
    t = (torch.where(right, -_ROOT_HALF * z, _ROOT_HALF * z) - middle) / root
    open_ = (start > FAR * _ROOT_HALF).nonzero().squeeze(-1)
    if len(open_):
        width = (high - low)[open_]
        pace = (slope + curvature * torch.where(right, low, high))[open_].abs() / temperature[open_]
        drop = 0.5 * (curvature / temperature)[open_]
        gone, waiting = torch.zeros_like(width), torch.arange(len(open_), device=low.device)
        while len(waiting):
            u, v = torch.rand(2, len(waiting), generator=rng, dtype=low.dtype, device=low.device)
            p, w = pace[waiting], width[waiting]
            step = (-torch.log1p(u * torch.expm1(-p * w)) / p).minimum(w)
            gone[waiting] = step
            waiting = waiting[v >= torch.exp(-drop[waiting] * step * step)]
        t[open_] = torch.where(right[open_], low[open_] + gone, high[open_] - gone)
    inside: Tensor = t.maximum(low).minimum(high)
    return inside
