"""The convex envelope of a fixed cost together with what it stands beside: a line, then the function itself.

    f(t) = fixed + power t^(3/2) + split t^2   at a distance t in [least, reach] from the anchor, and 0 there

    envelope(t) = slope t   up to the knee k,     f(t)   beyond;       slope = min of f(t) / t, taken at k

f / t falls until split t^2 + power/2 t^(3/2) = fixed and rises from there, so the knee is where that holds, or the
reach if it is nearer: then the line goes all the way. There the line touches f, and the slope has no jump. Where the
least distance is further it is the knee, and the slope rises at it.

A name that is out pays rate h + power h^(3/2) to sell the h that is held, and rate |t - h| + power |t - h|^(3/2) if it
stays. Less what it costs at the anchor

    f(t) = fixed + power (|t - h|^(3/2) - h^(3/2)) + rate (|t - h| - h) + split t^2

is convex from 0 on, so that f / t falls until t f' - f is zero and rises from there. Up to h the rate only tilts f, so
that a line that ends before h needs no other. A line that would go on takes the rate with it, and ends in the kink at h
or beyond it; where it ends in the kink the slope rises. On the other side of the anchor h is negative.

Source: Gunluk, O. and Linderoth, J. (2010), Perspective reformulations of mixed integer nonlinear programs with
indicator variables, Mathematical Programming 124; Frangioni, A. and Gentile, C. (2006), Perspective cuts for a class of
0-1 mixed integer programs, Mathematical Programming 106.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

STEPS = 54
"""Halvings: what is left is rounding."""


def knee_of(
    fixed: Array, power: Array, split: Array, rate: Array | float = 0.0, h: Array | float = 0.0
) -> Array:  # fmt: skip
    """The t > 0 where t f' - f rises through zero, elementwise; inf where it never does, 0 where nothing is fixed.

        t f' - f = split t^2 + power (sign(t - h) |t - h|^(1/2) (t/2 + h) + |h|^(3/2)) + (2 rate h beyond h > 0) - fixed

    By halving where there is a power; no part is negative, so that the root is not above that of one alone.
    """
    fixed, power, split, rate, h = np.broadcast_arrays(fixed, power, split, rate, h)
    past = (h > 0.0) & (split * h**2 + power * np.abs(h) ** 1.5 < fixed)
    due = np.maximum(fixed - np.where(past, 2.0 * rate * h, 0.0), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(due > 0.0, np.sqrt(due / split), 0.0)
        root = np.sqrt(np.maximum(-h, 0.0)) + np.cbrt(2.0 * due / power)
    found = np.where(past, np.maximum(found, h), found)
    at = (fixed > 0.0) & (power > 0.0)
    if at.any():
        high = np.minimum(found, np.where((h > 0.0) & ~past, h, root**2 + h))[at]
        found[at] = _halved(np.where(past, h, 0.0)[at], high, due[at], power[at], split[at], h[at])
    return np.where(fixed > 0.0, found, 0.0)


def _halved(low: Array, high: Array, due: Array, power: Array, split: Array, h: Array) -> Array:
    due = due - power * np.abs(h) ** 1.5
    for _ in range(STEPS):
        t = 0.5 * (low + high)
        z = t - h
        above = split * t**2 + power * np.copysign(np.sqrt(np.abs(z)), z) * (0.5 * t + h) > due
        low, high = np.where(above, low, t), np.where(above, t, high)
    return low


@dataclass(frozen=True)
class Envelope:
    """The envelopes of all names, each on both sides of its anchor.

    Attributes:
        anchor: (n,), where nothing is due.
        slope: (n, 2), of the lines below and above the anchor, away from it. knee: (n, 2), the distances at which they
            end; 0 where there is no line, inf where it never ends. rise: (n, 2), of the slope at the knee.
        split, power: (n,).
        touch: (n, 2), where the line meets f, inf where it does not.
        rate, held: (n,), the rate of trades that is part of f, 0 where it is not, and what trades are counted from.
    """

    anchor: Array
    slope: Array
    knee: Array
    rise: Array
    split: Array
    power: Array
    touch: Array
    rate: Array
    held: Array

    @classmethod
    def of(
        cls, anchor: Array, fixed: Array, reach: Array, split: Array, power: Array, least: Array | float = 0.0,
        rate: Array | float = 0.0, held: Array | None = None,
    ) -> Envelope:  # fmt: skip
        """Arguments (n,); `reach` and `least` (n, 2), below and above the anchor.

        Trades cost `rate` and `power` from what is `held`, by default the anchor, which is another only where something
        is fixed; of which names the rate becomes a part of f, `Envelope.rate` says.

        Example:
            >>> Envelope.of(held, np.full(n, 5e-4), np.full((n, 2), 0.1), split, np.zeros(n)).slope  # 5e-3 and more
        """
        least = np.broadcast_to(least, reach.shape)
        rate, held = np.broadcast_to(rate, anchor.shape), anchor if held is None else held
        h = np.column_stack([anchor - held, held - anchor])
        due, bent, curved, tolled = (x[:, None] for x in (fixed, power, split, rate))
        knee = np.maximum(knee_of(due, bent, curved, tolled, h), np.where(due > 0.0, least, 0.0))
        # The line goes to what is held, or beyond it, and ends somewhere.
        passes = (due > 0.0) & (h > 0.0) & (knee >= h) & (reach > h) & (np.isfinite(reach) | np.isfinite(knee))
        rate = np.where(passes.any(axis=1), rate, 0.0)
        toll = rate[:, None]
        touch = np.minimum(knee, np.maximum(reach, 0.0))
        line = (due > 0.0) & (touch > 0.0) & np.isfinite(touch)
        t = np.where(line, touch, 1.0)
        away = np.abs(t - h)
        costs = due + bent * (away**1.5 - np.abs(h) ** 1.5) + toll * (away - np.abs(h))
        slope = costs / t + curved * t
        steep = 2.0 * curved * t + 1.5 * bent * np.copysign(np.sqrt(away), t - h) + toll
        # A line that ends where it touches f goes on as f does; where the least distance or a kink ends it the slope
        # rises.
        risen = line & (knee <= reach) & ((least > 0.0) | (toll > 0.0))
        # Without an end, or without room, there is no line but zero.
        return cls(
            anchor, np.where(line, slope, 0.0), np.where(knee > reach, np.inf, knee),
            np.where(risen, np.maximum(steep - slope, 0.0), 0.0), split, power, np.where(line, touch, np.inf),
            rate, held,
        )  # fmt: skip

    @cached_property
    def constant(self) -> float:
        """split w^2 = split (w - anchor)^2 + linear w + constant: what is left over, summed."""
        return -float((self.split * self.anchor**2).sum())

    def knee_at(self, w: Array) -> Array:
        """The knee on the side of w, (n,)."""
        return np.where(w > self.anchor, self.knee[:, 1], self.knee[:, 0])

    @cached_property
    def there(self) -> Array:
        """What the rate that is a part of f and the power cost at the anchor, (n,)."""
        away = np.abs(self.held - self.anchor)
        return np.asarray(self.rate * away + self.power * away**1.5)

    def square(self, w: Array) -> Array:
        """The lines, and beyond the knees rise (t - k) + split (t - k)^2, from what f costs at the anchor: f less its
        line and what `bent` is, (n,)."""
        up = w > self.anchor
        slope, rise = (np.where(up, x[:, 1], x[:, 0]) for x in (self.slope, self.rise))
        t = np.abs(w - self.anchor)
        beyond = np.maximum(t - self.knee_at(w), 0.0)
        return np.asarray(self.there + slope * t + (rise + self.split * beyond) * beyond)

    def share(self, w: Array) -> Array:
        """How much of the fixed cost the envelope charges at w, (n,), in [0, 1]."""
        touch = np.where(w > self.anchor, self.touch[:, 1], self.touch[:, 0])
        return np.minimum(np.abs(w - self.anchor) / touch, 1.0)

    def on_line(self, w: Array) -> Mask:
        """The names on a line, where nothing bends, (n,)."""
        knee = self.knee_at(w)
        found: Mask = (knee > 0.0) & (np.abs(w - self.anchor) <= knee)
        return found

    def _begun(self, w: Array) -> Array:
        """The trade at the knee, (n,); on a line that at w."""
        t, k = w - self.anchor, self.knee_at(w)
        beyond = np.abs(t) > k
        return np.asarray(self.anchor - self.held + np.where(beyond, np.sign(t) * np.where(beyond, k, 0.0), t))

    def bent(self, w: Array) -> Array:
        """power (|z|^(3/2) - |y|^(3/2) - 3/2 sign(y) |y|^(1/2) (z - y)) of trades z beyond those at the knees, y,
        (n,)."""
        z, y = w - self.held, self._begun(w)
        root = np.sqrt(np.abs(y))
        return np.asarray(self.power * (np.abs(z) ** 1.5 + root * (0.5 * np.abs(y) - 1.5 * np.sign(y) * z)))

    def pull(self, w: Array) -> Array:
        """The slope of power |z|^(3/2) at the knees, (n,); on a line that at w."""
        y = self._begun(w)
        return np.asarray(1.5 * self.power * np.copysign(np.sqrt(np.abs(y)), y))

    def missing(self, w: Array) -> Array:
        """split t^2 + power |w - held|^(3/2) + rate |w - held| less the envelope, (n,): with the fixed cost, what that
        is short of."""
        t, z = np.abs(w - self.anchor), np.abs(w - self.held)
        real = self.split * t**2 + self.power * z**1.5 + self.rate * z
        return np.asarray(real - self.square(w) - self.bent(w))
