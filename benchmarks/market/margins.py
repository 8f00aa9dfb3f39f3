"""Univariate baselines: AR(1) means, GARCH, GJR and EWMA variances, Student-t, skewed t and empirical laws.

    x_t = c + phi x_{t-1} + sigma_t z_t,
    GARCH  sigma_t^2 = w + a e_{t-1}^2 + b sigma_{t-1}^2,    GJR adds g e_{t-1}^2 1{e_{t-1} < 0},
    EWMA   sigma_t^2 = (1 - l) e_{t-1}^2 + l sigma_{t-1}^2,

all in percent, filtered over the whole past with the year's parameters. Every GARCH fit is checked (converged,
persistence < 1, nu > 2.05, in-sample score not below EWMA-t's by more than MARGIN); one that fails is made again from
other starts, then replaced by the EWMA-t law, and each event is listed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from benchmarks.market.laws import Empirical, Law, Skewed, Student, student_log_pdf

Array = NDArray[np.float64]

BURN_IN = 250
"""Days of a training window that no in-sample score counts: variances start there."""

MARGIN = 0.01
"""Nats a day by which a GARCH fit may trail EWMA-t in sample before it is called degenerate."""

DECAYS = (0.88, 0.9, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99)
FREEDOMS = (3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 24.0, 50.0)
STARTS = ((0.05, 0.93), (0.1, 0.88), (0.03, 0.965), (0.15, 0.8))
"""Other starts (a, b) of a GARCH fit."""


@dataclass(frozen=True)
class Margin:
    """A fitted univariate baseline: AR(1) mean and variance recursion in percent, and the law of its innovations.

    Attributes:
        constant, slope: c and phi.
        omega, alpha, gamma, beta: of the variance; EWMA has omega 0, alpha = 1 - l, beta = l.
        law: of z.
        start: variance at the first row.
        event: what had to be mended, or "".
    """

    constant: float
    slope: float
    omega: float
    alpha: float
    gamma: float
    beta: float
    law: Law
    start: float
    event: str = ""

    @property
    def persistence(self) -> float:
        return self.alpha + self.gamma / 2 + self.beta

    def filter(self, x: Array) -> Filtered:
        """Locations and scales of every row of the percent returns x (T,), each from the rows before it."""
        location = self.constant + self.slope * np.concatenate([[0.0], x[:-1]])
        e = x - location
        push = self.omega + (self.alpha + self.gamma * (e[:-1] < 0)) * e[:-1] ** 2
        variance = lfilter([1.0], [1.0, -self.beta], np.concatenate([[self.start], push]))
        return Filtered(location, np.sqrt(np.maximum(variance, 1e-12)), self.law)


@dataclass(frozen=True)
class Filtered:
    """One-step forecasts of T rows: z = (x - location) / scale follows `law`."""

    location: Array
    scale: Array
    law: Law

    def z(self, x: Array) -> Array:
        return (x - self.location) / self.scale

    def log_pdf(self, x: Array) -> Array:
        return self.law.log_pdf(self.z(x)) - np.log(self.scale)

    def pit(self, x: Array) -> Array:
        return np.clip(self.law.cdf(self.z(x)), 1e-10, 1 - 1e-10)

    def historical(self, x: Array, rows: int) -> Filtered:
        """The same forecasts with the innovations of the first `rows` rows, after the burn-in, for a law.

        Source: G. Barone-Adesi, K. Giannopoulos and L. Vosper (1999), VaR without correlations, Journal of Futures
        Markets 19: filtered historical simulation.
        """
        return Filtered(self.location, self.scale, Empirical.of(self.z(x)[BURN_IN:rows]))


Fit = Callable[[Array], Margin]


def ewma_t(x: Array) -> Margin:
    """AR(1)-EWMA-t: decay and freedom by grid maximum likelihood, the mean by least squares weighted by 1 / sigma^2."""
    before, now = x[:-1], x[1:]
    weight = np.ones(len(now))
    best: tuple[float, Margin] | None = None
    for decay in (None, *DECAYS):
        slope, constant = np.polyfit(before, now, 1, w=np.sqrt(weight))
        rough = Margin(constant, slope, 0.0, 0.06, 0.0, 0.94, Student(8.0), float(np.var(x[:BURN_IN])))
        if decay is None:  # the first round finds the weights of the mean, the others keep it
            weight = 1.0 / rough.filter(x).scale[1:] ** 2
            continue
        one = Margin(constant, slope, 0.0, 1 - decay, 0.0, decay, Student(8.0), rough.start)
        found = one.filter(x)
        z, log_scale = found.z(x)[BURN_IN:], np.log(found.scale[BURN_IN:])
        for freedom in FREEDOMS:
            score = float((student_log_pdf(z, freedom) - log_scale).mean())
            if best is None or score > best[0]:
                best = score, Margin(constant, slope, 0.0, 1 - decay, 0.0, decay, Student(freedom), rough.start)
    assert best is not None
    return best[1]


def garch_t(x: Array) -> Margin:
    """AR(1)-GARCH(1,1)-t by maximum likelihood, checked."""
    return _checked(x, asymmetric=False)


def gjr_skewt(x: Array) -> Margin:
    """AR(1)-GJR-GARCH(1,1,1) with Hansen's skewed t, by maximum likelihood, checked."""
    return _checked(x, asymmetric=True)


def in_sample(margin: Margin, x: Array) -> float:
    """Mean log score a day on the training window itself, percent units, after the burn-in."""
    return float(margin.filter(x).log_pdf(x)[BURN_IN:].mean())


def defect(margin: Margin, x: Array, converged: bool, reference: float) -> str:
    """What is wrong with a fit, or ""; `reference` is EWMA-t's in-sample score."""
    if not converged:
        return "did not converge"
    if not margin.persistence < 1 - 1e-8:
        return f"persistence {margin.persistence:.4f}"
    freedom = getattr(margin.law, "freedom", np.inf)
    if not freedom > 2.05:
        return f"nu {freedom:.3f}"
    score = in_sample(margin, x)
    if not score > reference - MARGIN:
        return f"in-sample score {score:.3f} against {reference:.3f} of EWMA-t"
    return ""


def _checked(x: Array, asymmetric: bool) -> Margin:
    plain = ewma_t(x)
    reference = in_sample(plain, x)
    margin, converged = _fit(x, asymmetric, None)
    first = defect(margin, x, converged, reference)
    if not first:
        return margin
    again = [_fit(x, asymmetric, start) for start in STARTS]
    sound = [m for m, ok in again if not defect(m, x, ok, reference)]
    if sound:
        best = max(sound, key=lambda m: in_sample(m, x))
        return replace(best, event=f"{first}; fitted again from another start")
    held = _held(margin)
    if first.startswith("persistence") and not defect(held, x, True, reference):
        return replace(held, event=f"{first} from every start; beta lowered to persistence {held.persistence:.4f}")
    return replace(plain, event=f"{first}, from every start; EWMA-t in its place")


def _held(margin: Margin, most: float = 0.9995) -> Margin:
    """An integrated fit with its beta lowered until the persistence is `most`."""
    beta = margin.beta - max(0.0, margin.persistence - most)
    return replace(margin, beta=beta)


def _fit(x: Array, asymmetric: bool, start: tuple[float, float] | None) -> tuple[Margin, bool]:
    """A fit by `arch` and whether it converged."""
    from arch import arch_model

    unit = float(np.std(x))  # the optimiser is at home with variances near one
    x = x / unit
    kind: dict[str, Any] = {"o": 1, "dist": "skewt"} if asymmetric else {"dist": "t"}
    model = arch_model(x, mean="AR", lags=1, vol="GARCH", p=1, q=1, rescale=False, **kind)
    first = None
    if start is not None:
        alpha, beta = start
        omega = float(np.var(x)) * (1 - alpha - beta)
        first = np.array([x.mean(), 0.0, omega, *((alpha / 2, alpha) if asymmetric else (alpha,)), beta, 8.0])
        first = np.append(first, 0.0) if asymmetric else first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.fit(disp="off", show_warning=False, starting_values=first, update_freq=0)
    p = found.params
    value = {name.split("[")[0]: float(number) for name, number in p.items() if not name.startswith("y[")}
    law: Law = Skewed(value["eta"], value["lambda"]) if asymmetric else Student(value["nu"])
    margin = Margin(
        constant=unit * float(p.iloc[0]), slope=float(p.iloc[1]), omega=unit**2 * value["omega"],
        alpha=value["alpha"], gamma=value.get("gamma", 0.0), beta=value["beta"], law=law,
        start=unit**2 * float(np.var(x[:BURN_IN])),
    )  # fmt: skip
    return margin, int(found.convergence_flag) == 0


@dataclass(frozen=True)
class Event:
    """One baseline fit that had to be mended."""

    law: str
    series: str
    year: str
    what: str
