"""One-dimensional laws of variance one: what a margin's innovation z = (x - location) / scale is drawn from.

Student-t of nu degrees scaled by sqrt((nu - 2) / nu), Hansen's skewed t, and the empirical law of past innovations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, stdtr, stdtrit

Array = NDArray[np.float64]
EDGE = 1e-10


class Law(Protocol):
    """A law of z, any shape in and the same shape out."""

    def log_pdf(self, z: Array) -> Array: ...

    def cdf(self, z: Array) -> Array: ...

    def quantile(self, u: Array) -> Array: ...

    def shortfall(self, level: float) -> float:
        """E[z | z <= quantile(level)]."""
        ...


@dataclass(frozen=True)
class Student:
    """Student-t of variance one, nu > 2."""

    freedom: float

    @property
    def _unit(self) -> float:
        return math.sqrt((self.freedom - 2) / self.freedom)

    def log_pdf(self, z: Array) -> Array:
        return student_log_pdf(z, self.freedom)

    def cdf(self, z: Array) -> Array:
        return np.asarray(stdtr(self.freedom, z / self._unit))

    def quantile(self, u: Array) -> Array:
        return np.asarray(stdtrit(self.freedom, u)) * self._unit

    def shortfall(self, level: float) -> float:
        nu, q = self.freedom, float(stdtrit(self.freedom, level))
        log_height = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * math.log(nu * math.pi)
        height = math.exp(log_height - (nu + 1) / 2 * math.log1p(q * q / nu))
        return -self._unit * height * (nu + q * q) / ((nu - 1) * level)


def student_log_pdf(z: Array, freedom: float) -> Array:
    """Log density of a Student-t of variance one."""
    nu = freedom
    constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * math.log((nu - 2) * math.pi)
    out: Array = constant - (nu + 1) / 2 * np.log1p(z * z / (nu - 2))
    return out


@dataclass(frozen=True)
class Skewed:
    """Hansen's skewed t of mean zero and variance one: b c (1 + ((b z + a) / (1 -+ l))^2 / (nu - 2))^(-(nu + 1) / 2).

    The lower sign where z < -a / b. a = 4 l c (nu - 2) / (nu - 1), b^2 = 1 + 3 l^2 - a^2, and c is the constant of the
    Student-t of variance one.

    Source: B. Hansen (1994), Autoregressive conditional density estimation, International Economic Review 35.
    """

    freedom: float
    skew: float

    @property
    def _constants(self) -> tuple[float, float]:
        nu, lam = self.freedom, self.skew
        c = math.exp(float(student_log_pdf(np.zeros(1), nu)[0]))
        a = 4 * lam * c * (nu - 2) / (nu - 1)
        return a, math.sqrt(1 + 3 * lam**2 - a**2)

    def log_pdf(self, z: Array) -> Array:
        a, b = self._constants
        y = b * z + a
        return math.log(b) + student_log_pdf(y / (1 + np.where(y < 0, -self.skew, self.skew)), self.freedom)

    def cdf(self, z: Array) -> Array:
        a, b = self._constants
        y, plain = b * z + a, Student(self.freedom)
        low = (1 - self.skew) * plain.cdf(y / (1 - self.skew))
        high = (1 - self.skew) / 2 + (1 + self.skew) * (plain.cdf(y / (1 + self.skew)) - 0.5)
        return np.where(y < 0, low, high)

    def quantile(self, u: Array) -> Array:
        a, b = self._constants
        lam, plain = self.skew, Student(self.freedom)
        low = (1 - lam) * plain.quantile(np.minimum(u / (1 - lam), 0.5))
        high = (1 + lam) * plain.quantile(np.clip(0.5 + (u - (1 - lam) / 2) / (1 + lam), 0.5, 1 - 1e-16))
        return (np.where(u < (1 - lam) / 2, low, high) - a) / b

    def shortfall(self, level: float) -> float:
        a, b = self._constants
        inner = level / (1 - self.skew)
        if inner > 0.5:
            raise ValueError(f"the {level:.0%} tail of a law with skew {self.skew:g} reaches past its mode")
        return ((1 - self.skew) * Student(self.freedom).shortfall(inner) - a) / b


@dataclass(frozen=True)
class Empirical:
    """The law of given innovations (n,), sorted; it has no density."""

    sorted: Array

    @classmethod
    def of(cls, z: Array) -> Empirical:
        return cls(np.sort(z))

    def log_pdf(self, z: Array) -> Array:
        return np.full_like(z, np.nan)

    def cdf(self, z: Array) -> Array:
        """The mid-rank among n + 1."""
        low = np.searchsorted(self.sorted, z, side="left")
        high = np.searchsorted(self.sorted, z, side="right")
        return ((low + high) / 2 + 0.5) / (len(self.sorted) + 1)

    def quantile(self, u: Array) -> Array:
        place = np.ceil(np.asarray(u) * len(self.sorted) - 1e-9).astype(int) - 1
        return self.sorted[np.clip(place, 0, len(self.sorted) - 1)]

    def shortfall(self, level: float) -> float:
        return float(tail_mean(self.sorted[None], level)[0])


def tail_mean(ordered: Array, level: float) -> Array:
    """Mean of the lowest `level` share of each row of `ordered` (m, n), ascending; the last value by its fraction."""
    tail = level * ordered.shape[-1]
    whole = int(tail + 1e-9)
    rest = (tail - whole) * ordered[..., min(whole, ordered.shape[-1] - 1)]
    out: Array = (ordered[..., :whole].sum(-1) + rest) / tail
    return out
