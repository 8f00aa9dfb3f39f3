"""Convex caps g(w) <= limit of a Region that are no linear row: L1 balls, ellipsoids, tails.

    Ball        sum_i up_i (w_i - c_i)_+ + down_i (c_i - w_i)_+ <= limit     turnover, leverage, shorts, active share
    Ellipsoid   sqrt((w - c)' S (w - c)) <= limit,  S = F C F' + D           tracking error, volatility
    Tail        mean of the `count` largest entries of L w <= limit          CVaR over scenarios

Each says its excess in its own units, a subgradient (so that whoever works with linear cuts can take any of them)
and its convex form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import cvxpy as cp
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.linear import Structured
from portfolio_ebm.types import as_numpy

Array = NDArray[np.float64]


FEW = 1000
"""A tail of up to so many losses is stated as linear rows; with more of them it enters by cuts."""


@dataclass(frozen=True)
class Cap(ABC):
    """g(w) <= limit, g convex. `name` is the repr of the rule it came from."""

    name: str
    limit: float

    @property
    def unit(self) -> float:
        """What one is in the cvxpy form, in units of g: solvers' tolerances are absolute, and risks are small."""
        return 1.0

    @abstractmethod
    def value(self, w: Tensor) -> Tensor:
        """g(w) for w (..., n), (...)."""

    @abstractmethod
    def slope(self, w: Tensor) -> Tensor:
        """A subgradient of g at w (..., n), (..., n)."""

    @abstractmethod
    def to_cvxpy(self, w: Any) -> Any:
        """The cap as one cvxpy constraint on w (n,), both sides divided by `unit`."""

    @abstractmethod
    def to(self, like: Tensor) -> Self:
        """The cap in the dtype and on the device of `like`."""

    def excess(self, w: Tensor) -> Tensor:
        """g(w) - limit, (...): positive where the cap is broken."""
        return self.value(w) - self.limit

    def cut(self, w: Array) -> tuple[Array, float]:
        """(s, b): every point of the cap obeys s'x <= b, and w (n,) does not where it breaks the cap."""
        value, slope = self.taken_at(w)
        return slope, float(slope @ w) - (value - self.limit)

    @abstractmethod
    def taken_at(self, w: Array) -> tuple[float, Array]:
        """g and the subgradient at one w (n,), without what a tensor costs: cuts are taken thousands of times."""


@dataclass(frozen=True)
class Ball(Cap):
    """sum_i up_i (w_i - centre_i)_+ + down_i (centre_i - w_i)_+ <= limit.

    Attributes:
        centre: (n,). up, down: (n,), non-negative; both ones for sum |w - centre|, up zero for shorts.
    """

    centre: Tensor
    up: Tensor
    down: Tensor

    @property
    def plain(self) -> bool:
        """Whether g is sum |w - centre|."""
        return bool((self.up == 1.0).all() & (self.down == 1.0).all())

    def value(self, w: Tensor) -> Tensor:
        move = w - self.centre
        return (self.up * move.clamp_min(0.0) + self.down * (-move).clamp_min(0.0)).sum(-1)

    def slope(self, w: Tensor) -> Tensor:
        move = w - self.centre
        return torch.where(move > 0, self.up, torch.where(move < 0, -self.down, torch.zeros_like(move)))

    def taken_at(self, w: Array) -> tuple[float, Array]:
        centre, up, down = self._arrays
        move = w - centre
        slope = np.where(move > 0.0, up, np.where(move < 0.0, -down, 0.0))
        return float(slope @ move), slope

    @cached_property
    def _arrays(self) -> tuple[Array, Array, Array]:
        return as_numpy(self.centre), as_numpy(self.up), as_numpy(self.down)

    def to_cvxpy(self, w: Any) -> Any:
        centre, up, down = (x.detach().cpu().double().numpy() for x in (self.centre, self.up, self.down))
        if self.plain:
            return cp.norm1(w - centre) <= self.limit
        return up @ cp.pos(w - centre) + down @ cp.neg(w - centre) <= self.limit

    def to(self, like: Tensor) -> Ball:
        return replace(self, centre=self.centre.to(like), up=self.up.to(like), down=self.down.to(like))

    def row(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, float] | None:
        """(a, b) with a'w <= b equal to the cap on a box that decides every name's side; None where it does not."""
        above, below = lower >= self.centre, upper <= self.centre
        if not bool((above | below | ((self.up == 0.0) & (self.down == 0.0))).all()):
            return None
        a = torch.where(above, self.up, -self.down)
        return a, self.limit + float(a @ self.centre)


@dataclass(frozen=True)
class Ellipsoid(Cap):
    """sqrt((w - centre)' S (w - centre)) <= limit, in units of return; centre (n,), `matrix` S = F C F' + D."""

    centre: Tensor
    matrix: Structured

    @property
    def unit(self) -> float:
        return self.limit

    def value(self, w: Tensor) -> Tensor:
        return self.matrix.quad(w - self.centre).clamp_min(0.0).sqrt()

    def slope(self, w: Tensor) -> Tensor:
        pull = self.matrix.matvec(w - self.centre)
        size = self.value(w).unsqueeze(-1)
        return torch.where(size > 0, pull / size.clamp_min(torch.finfo(w.dtype).tiny), torch.zeros_like(pull))

    def taken_at(self, w: Array) -> tuple[float, Array]:
        centre, loadings, core, diagonal = self._arrays
        move = w - centre
        pull = loadings @ (core @ (move @ loadings)) + diagonal * move
        size = float(np.sqrt(max(float(move @ pull), 0.0)))
        return size, pull / size if size > 0.0 else np.zeros_like(pull)

    @cached_property
    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        s = self.matrix
        return as_numpy(self.centre), as_numpy(s.loadings), as_numpy(s.core), as_numpy(s.diagonal)

    def to_cvxpy(self, w: Any) -> Any:
        root = self.matrix.root().detach().cpu().double().numpy()
        return cp.norm2((root / self.unit) @ (w - self.centre.detach().cpu().double().numpy())) <= 1.0

    def to(self, like: Tensor) -> Ellipsoid:
        s = self.matrix
        matrix = Structured(s.loadings.to(like), s.core.to(like), s.diagonal.to(like))
        return replace(self, centre=self.centre.to(like), matrix=matrix)


@dataclass(frozen=True)
class Tail(Cap):
    """The mean of the `count` largest losses L w, the last by its fraction: CVaR, `losses` L (S, n)."""

    losses: Tensor
    count: float

    @property
    def unit(self) -> float:
        return max(abs(self.limit), float(self.losses.abs().mean())) or 1.0

    def value(self, w: Tensor) -> Tensor:
        worst, share = self._worst(w)
        found: Tensor = (worst.values * share).sum(-1)
        return found

    def slope(self, w: Tensor) -> Tensor:
        worst, share = self._worst(w)
        return (self.losses[worst.indices] * share.unsqueeze(-1)).sum(-2)

    def taken_at(self, w: Array) -> tuple[float, Array]:
        losses = self._array
        loss, size = losses @ w, min(int(np.ceil(self.count)), len(losses))
        worst = np.argpartition(-loss, size - 1)[:size]
        share = np.ones(size)
        share[-1] = self.count - (size - 1)  # argpartition puts the least of them last
        share /= self.count
        return float(share @ loss[worst]), share @ losses[worst]

    @cached_property
    def _array(self) -> Array:
        return as_numpy(self.losses)

    @property
    def small(self) -> bool:
        """Whether its losses are few enough to be a row each."""
        return self.losses.shape[0] <= FEW

    def lifted(self) -> tuple[Array, Array]:
        """(rows over (w, t, u), their upper ends) of the cap as a set of linear rules, u (S,) >= 0 and t free:

            count t + sum u <= count limit,   L w - t - u <= 0

        Source: Rockafellar, R. T. and Uryasev, S. (2000), Optimization of conditional value-at-risk.
        """
        size, n = self._array.shape
        first = np.concatenate([np.zeros(n), [self.count], np.ones(size)])
        rows = np.vstack([first, np.hstack([self._array, -np.ones((size, 1)), -np.eye(size)])])
        return rows, np.concatenate([[self.count * self.limit], np.zeros(size)])

    def _worst(self, w: Tensor) -> tuple[Any, Tensor]:
        size = min(int(np.ceil(self.count)), self.losses.shape[0])
        share = torch.ones(size, dtype=w.dtype, device=w.device)
        share[-1] = self.count - (size - 1)
        return (w @ self.losses.mT).topk(size, dim=-1, sorted=True), share / self.count

    def to_cvxpy(self, w: Any) -> Any:
        losses = self.losses.detach().cpu().double().numpy()
        loss, whole = (losses / self.unit) @ w, int(np.floor(self.count))
        if self.count <= 1.0:
            return cp.max(loss) <= self.limit / self.unit
        part = self.count - whole
        worst = (1.0 - part) * cp.sum_largest(loss, whole)
        if part > 0.0:
            worst = worst + part * cp.sum_largest(loss, whole + 1)
        return worst / self.count <= self.limit / self.unit

    def to(self, like: Tensor) -> Tail:
        return replace(self, losses=self.losses.to(like))
