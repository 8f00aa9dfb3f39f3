"""The convex envelope of a fixed cost together with what it stands beside: a line, then the function itself.

    f(t) = fixed + power t^(3/2) + split t^2   at a distance t in [least, reach] from the anchor, and 0 there

    envelope(t) = slope t   up to the knee k,     f(t)   beyond;       slope = min of f(t) / t, taken at k

f / t falls until split t^2 + power/2 t^(3/2) = fixed and rises from there, so the knee is where that holds, or the
reach if it is nearer: then the line goes all the way. There the line touches f, and the slope has no jump. Where the
least distance is further it is the knee, and the slope rises at it.

A name that is out pays rate h to sell the h that is held, and rate |t - h| if it stays. Up to h that only tilts f, so
that a line that ends before h needs no other. A line that would go on beyond takes the rate with it: there f is
fixed - 2 rate h + rate t + split t^2 above its value at the anchor, the knee where split t^2 = fixed - 2 rate h, or h
itself, where f has a kink and the slope rises, if that is further.

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

STEPS = 60


def knee_of(fixed: Array, power: Array, split: Array) -> Array:
    """The t > 0 where split t^2 + power/2 t^(3/2) = fixed > 0, elementwise; inf where there is none, 0 where nothing is
    fixed.

    By Newton's steps in r = t^(1/2): split r^4 + power/2 r^3 is convex and rises, so from above they fall to the root.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.minimum((fixed / split) ** 0.25, (2.0 * fixed / power) ** (1.0 / 3.0))
        lone = ~((split > 0.0) & (power > 0.0))
        r = np.where(lone, np.where(split > 0.0, (fixed / split) ** 0.25, (2.0 * fixed / power) ** (1.0 / 3.0)), r)
        for _ in range(0 if lone.all() else STEPS):
            height = split * r**4 + 0.5 * power * r**3 - fixed
            less = r - height / (4.0 * split * r**3 + 1.5 * power * r**2)
            if not (less < r).any():
                break
            r = np.where(less < r, less, r)
    return np.where(fixed > 0.0, r**2, 0.0)


@dataclass(frozen=True)
class Envelope:
    """The envelopes of all names, each on both sides of its anchor.

    Attributes:
        anchor: (n,), where nothing is due.
        slope: (n, 2), of the lines below and above the anchor, away from it. knee: (n, 2), the distances at which they
            end; 0 where there is no line, inf where it never ends. rise: (n, 2), of the slope at the knee.
        split, power: (n,).
        touch: (n, 2), where the line meets f, inf where it does not.
        rate, held: (n,), the rate of trades that is part of f, 0 where it is not, and what it is counted from.
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
        """Arguments (n,); `reach` and `least` (n, 2), below and above the anchor. No power where there is a least.

        Trades cost `rate` from what is `held`; of which names that becomes a part of f, `Envelope.rate` says.

        Example:
            >>> Envelope.of(held, np.full(n, 5e-4), np.full((n, 2), 0.1), split, np.zeros(n)).slope  # 5e-3 and more
        """
        least = np.broadcast_to(least, reach.shape)
        knee = np.maximum(knee_of(fixed, power, split)[:, None], np.where(fixed > 0.0, 1.0, 0.0)[:, None] * least)
        rate, held = np.broadcast_to(rate, anchor.shape), anchor if held is None else held
        h, further = held - anchor, (knee[:, 1] > held - anchor) & (reach[:, 1] > held - anchor)
        with_rate = (rate > 0.0) & (fixed > 0.0) & (power == 0.0) & (h > 0.0) & (reach[:, 0] <= 0.0) & further
        with_rate &= np.isfinite(reach[:, 1]) | (split > 0.0)
        rate = np.where(with_rate, rate, 0.0)
        beyond = np.maximum(knee_of(np.maximum(fixed - 2.0 * rate * h, 0.0), power, split), h)
        knee[:, 1] = np.where(with_rate, np.maximum(beyond, least[:, 1]), knee[:, 1])
        toll = np.column_stack([np.zeros_like(rate), rate])
        touch = np.minimum(knee, np.maximum(reach, 0.0))
        line = (fixed[:, None] > 0.0) & (touch > 0.0) & np.isfinite(touch)
        t = np.where(line, touch, 1.0)
        slope = (fixed[:, None] - 2.0 * toll * h[:, None]) / t + toll + power[:, None] * np.sqrt(t) + split[:, None] * t
        steep = 2.0 * split[:, None] * t + 1.5 * power[:, None] * np.sqrt(t) + toll
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

    def square(self, w: Array) -> Array:
        """The lines, and beyond the knees rise (t - k) + split (t - k)^2: f less its line and what `bent` is, (n,),
        with the rate that is a part of f, from what it costs at the anchor."""
        up = w > self.anchor
        slope, rise = (np.where(up, x[:, 1], x[:, 0]) for x in (self.slope, self.rise))
        t = np.abs(w - self.anchor)
        beyond = np.maximum(t - self.knee_at(w), 0.0)
        return np.asarray(self.rate * (self.held - self.anchor) + slope * t + (rise + self.split * beyond) * beyond)

    def share(self, w: Array) -> Array:
        """How much of the fixed cost the envelope charges at w, (n,), in [0, 1]."""
        touch = np.where(w > self.anchor, self.touch[:, 1], self.touch[:, 0])
        return np.minimum(np.abs(w - self.anchor) / touch, 1.0)

    def bent(self, w: Array) -> Array:
        """power (t^(3/2) - k^(3/2) - 3/2 k^(1/2) (t - k)) beyond the knees k, (n,)."""
        t, k = np.abs(w - self.anchor), self.knee_at(w)
        k = np.where(t > k, k, t)
        return np.asarray(self.power * (t**1.5 + 0.5 * k**1.5 - 1.5 * np.sqrt(k) * t))

    def missing(self, w: Array) -> Array:
        """split t^2 + power t^(3/2) + rate |w - held| less the envelope, (n,): with the fixed cost, what that is short
        of."""
        t, trade = np.abs(w - self.anchor), self.rate * np.abs(w - self.held)
        return np.asarray(self.split * t**2 + self.power * t**1.5 + trade - self.square(w) - self.bent(w))
