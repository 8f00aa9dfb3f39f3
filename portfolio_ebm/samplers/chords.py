"""One draw on a chord: the law of t on [low, high] with density exp(-(slope t + curvature t^2 / 2) / T).

Where the mode is within 12 standard deviations of the chord this is an inverse transform of the truncated normal, in
the tail that keeps its digits. Farther out the law is an exponential but for a hair: the exponential is proposed and
taken with its Metropolis probability (over 99 in 100), so that the step leaves the law invariant there too.

Source: Robert, C. P. (1995), Simulation of truncated normal variables, Statistics and Computing 5, for the laws.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAR = 12.0
"""Standard deviations from the mode to the chord beyond which the exponential is proposed."""

_ROOT_HALF = 0.5**0.5


def draw_on_chord(
    slope: Tensor, curvature: float, temperature: float, low: Tensor, high: Tensor, u: Tensor, v: Tensor
) -> Tensor:
    """The new t, given that the chain stands at t = 0.

    Args:
        slope: of the energy at t = 0, (chains,).
        curvature: not negative; 0 gives the exponential and, with slope 0, the uniform law.
        temperature: T > 0.
        low, high: (chains,), low <= 0 <= high.
        u, v: independent uniforms on [0, 1), (chains,).
    """
    if curvature * temperature <= 0.0:
        return _exponential(slope, curvature, temperature, low, high, u, v, slope >= 0.0)
    spread = (temperature / curvature) ** 0.5
    middle = slope / curvature
    near, far = (low + middle) / spread, (high + middle) / spread
    right = near + far >= 0.0
    # Mirrored, if need be, so that the chord lies to the right of the mode, where erfc keeps its digits.
    start, end = near.maximum(-far), far.maximum(-near)
    most, least = 0.5 * torch.erfc(start * _ROOT_HALF), 0.5 * torch.erfc(end * _ROOT_HALF)
    z = torch.special.ndtri(torch.addcmul(least, u, most - least))
    t = torch.where(right, -z, z) * spread - middle
    if float(start.amax()) > FAR:
        tail = _exponential(slope, curvature, temperature, low, high, u, v, right)
        t = torch.where(start > FAR, tail, t)
    inside: Tensor = t.maximum(low).minimum(high)
    return inside


def _exponential(
    slope: Tensor, curvature: float, temperature: float, low: Tensor, high: Tensor, u: Tensor, v: Tensor, right: Tensor
) -> Tensor:
    """From the end of the chord that is nearest to the mode, with the slope that the energy has there."""
    width = high - low
    pace = torch.where(right, slope + curvature * low, -(slope + curvature * high)) / temperature
    # A flat law is an exponential of a pace that no digit sees; a chord may have no length, or no end.
    pace = pace.maximum(1e-12 / width.clamp_min(1e-290)).clamp_min(1e-290)
    gone = (-torch.log1p(u * torch.expm1(-pace * width)) / pace).minimum(width)
    here = torch.where(right, -low, high)
    if curvature > 0.0:
        kept = torch.exp((-0.5 * curvature / temperature) * (gone * gone - here * here))
        gone = torch.where(v < kept, gone, here)
    return torch.where(right, low + gone, high - gone)
