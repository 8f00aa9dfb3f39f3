"""Drawdowns inside the interior point: every step's drawdown is a variable, and falls out as a tridiagonal system.

    d_t >= d_{t-1} - x_t(w),   d_t >= 0,   and   a price on (d_t - v)_+,  or  d_t <= v,   v an entry of z.

With D the differences along each path, F, b and q the multipliers of the three, and s, d, r their slacks, the Newton
system's part of d is D'(F/s)D + G, G = b/d + k diagonal, k the curve of the price. Taken the other way round, F falls
out of M = s/F + D G^-1 D', tridiagonal and a sum of positive parts, so that nothing cancels:

    what is left for z = (w, v) is  P' M^-1 P + diag(k b/(d G)),   P = [R, D G^-1 k].

A step costs one tridiagonal solve with as many right-hand sides as there are names, and a Gram matrix.

Source: Wright, S. J. (1997), Primal-Dual Interior-Point Methods, chapter 11; Golub, G. H. and Van Loan, C. F. (2013),
Matrix Computations, section 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpttrs

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
Mask = NDArray[np.bool_]

WIDER = 10.0
"""How far from the walls drawdowns start beside all else; fewer steps are taken so."""


@dataclass(frozen=True)
class Chain:
    """T steps along paths that stand one behind the other.

    Attributes:
        rows: R (T, k), over the first k entries of z; moved (T,): x = R w + moved.
        first: bool (T,), where a path begins.
        level: (T,), the entry of z that is v, or -1 where d_t has a fixed price, `still` (T,).
        cap: (T,), the price on (d_t - v)_+; infinite where d_t <= v.
    """

    rows: Array
    moved: Array
    first: Mask
    level: Ints
    cap: Array
    still: Array

    @cached_property
    def priced(self) -> Ints:
        return np.flatnonzero(self.level >= 0)

    @cached_property
    def capped(self) -> Ints:
        """Of the priced ones, those with a price on what is above v."""
        return np.flatnonzero(np.isfinite(self.cap[self.priced]))

    @cached_property
    def columns(self) -> Ints:
        """The entries of z that are levels."""
        return np.unique(self.level[self.priced])

    @cached_property
    def places(self) -> Ints:
        """Of each priced step, where its level stands among the columns."""
        return np.searchsorted(self.columns, self.level[self.priced])

    @property
    def pairs(self) -> int:
        return 2 * len(self.moved) + len(self.priced) + len(self.capped)

    def split(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """(of the steps, of d >= 0, of the prices, of what is above v) of flat slacks or duals."""
        t, p = len(self.moved), len(self.priced)
        return x[:t], x[t : 2 * t], x[2 * t : 2 * t + p], x[2 * t + p :]

    def down(self, d: Array) -> Array:
        """D d = d_t - d_{t-1}."""
        found = d.copy()
        found[1:] -= np.where(self.first[1:], 0.0, d[:-1])
        return found

    def up(self, flow: Array) -> Array:
        """D'F = F_t - F_{t+1}."""
        found = flow.copy()
        found[:-1] -= np.where(self.first[1:], 0.0, flow[1:])
        return found

    def pull(self, dual: Array, size: int) -> Array:
        """The gradient in z (size,) at the given multipliers."""
        flow, _, q, _ = self.split(dual)
        found = np.zeros(size)
        found[: self.rows.shape[1]] -= flow @ self.rows
        np.add.at(found, self.level[self.priced], -q)
        return found

    def residuals(self, z: Array, slack: Array, dual: Array) -> tuple[Array, Array, Array]:
        """What is missing in the steps, in the prices and in the stationarity of d."""
        s, d, r, u = self.split(slack)
        flow, b, q, _ = self.split(dual)
        step = self.down(d) + self.rows @ z[: self.rows.shape[1]] + self.moved - s
        price = z[self.level[self.priced]] - d[self.priced] - r
        price[self.capped] += u
        # What rounding leaves of a sum is no error to be mended: divided by a slack near zero it would be a large one.
        noise = 8e-16 * float(np.abs(d).max())
        step[np.abs(step) <= noise] = 0.0
        price[np.abs(price) <= noise] = 0.0
        return step, price, self.up(flow) + b - self._whole(q)

    def _whole(self, q: Array) -> Array:
        found = self.still.copy()
        found[self.priced] = q
        return found

    def start(self, z: Array, mu: float) -> tuple[Array, Array]:
        """Slacks and duals whose products are WIDER mu, with nothing missing but in d's stationarity, and in v where v
        is too low."""
        mu *= WIDER
        x = self.rows @ z[: self.rows.shape[1]] + self.moved
        margin = 0.1 * float(np.abs(x).mean()) + 1e-6
        # d_t = max(d_{t-1} - x_t, 0) + margin is the margin and the drawdown of x less it; paths one above the other.
        path = np.cumsum(self.first) - 1
        risen = np.cumsum(x - margin)
        risen -= (risen - (x - margin))[self.first][path]
        above = 4.0 * (float(np.abs(risen).max()) + 1.0) * path
        d = np.maximum(np.maximum.accumulate(risen + above) - above, 0.0) - risen + margin
        s, gap = self.down(d) + x, (d[self.priced] - z[self.level[self.priced]])
        r = np.maximum(-gap, margin)
        cap = self.cap[self.priced][self.capped]
        tilt = gap[self.capped] * cap / (2.0 * mu)
        q = 0.5 * cap * (1.0 + tilt / (1.0 + np.sqrt(1.0 + tilt * tilt)))
        r[self.capped] = mu / q
        u = mu / (cap - q)
        slack = np.concatenate([s, d, r, u])
        return slack, mu / slack

    def link(self, slack: Array, dual: Array, missing: tuple[Array, Array, Array]) -> Link | None:
        """The chain's part of one Newton system; None where it cannot be factorised."""
        s, d, r, u = self.split(slack)
        flow, b, q, a = self.split(dual)
        bend = r / q
        bend[self.capped] += u / a
        curve = np.zeros(len(d))
        curve[self.priced] = 1.0 / bend
        soft = 1.0 / (curve + b / d)
        *factor, held = self._factor(s / flow, soft)
        if not np.isfinite(factor[0]).all():
            return None
        pull = np.zeros((len(d), self.rows.shape[1] + len(self.columns)), order="F")
        pull[:, : self.rows.shape[1]] = self.rows
        share = np.zeros((len(d), len(self.columns)))
        share[self.priced, self.places] = (soft * curve)[self.priced]
        pull[:, self.rows.shape[1] :] = share
        pull[1:, self.rows.shape[1] :] -= np.where(self.first[1:, None], 0.0, share[:-1])
        return Link(
            self, slack, dual, missing, curve, soft, held, (factor[0], factor[1]), pull, dpttrs(*factor, pull)[0]
        )

    def _factor(self, tight: Array, soft: Array) -> tuple[Array, Array, Mask]:
        """The pivots and the multipliers of M = tight + D soft D', tridiagonal, by sums of positive numbers alone; and
        which steps their own multipliers hold better than the steps before them do.

        A pivot is soft_t + p_t, p_t = tight_t + soft_{t-1} p_{t-1} / (soft_{t-1} + p_{t-1}): springs in a row.
        """
        after, before, doubt, springs, held = 0.0, 0.0, 0.0, [], []
        for alone, own, begins in zip(tight.tolist(), soft.tolist(), self.first.tolist(), strict=True):
            if begins:
                after = doubt = alone
            else:
                after, doubt = alone + before * (after / (before + after)), doubt + alone
            held.append(own < doubt)
            doubt = min(own, doubt)
            springs.append(after)
            before = own
        pivots = soft + np.array(springs)
        return pivots, np.where(self.first[1:], 0.0, -soft[:-1] / pivots[:-1]), np.array(held)


def joined_chain(chains: list[Chain]) -> Chain | None:
    """Several chains one behind the other; None where there is none."""
    if len(chains) < 2:
        return chains[0] if chains else None
    return Chain(*(np.concatenate([getattr(one, name.name) for one in chains]) for name in fields(Chain)))


@dataclass(frozen=True)
class Link:
    """One Newton system's elimination of the drawdowns: curve k, soft G^-1, the steps held by their own
    multipliers, the factors of M, P and M^-1 P."""

    chain: Chain
    slack: Array
    dual: Array
    missing: tuple[Array, Array, Array]
    curve: Array
    soft: Array
    held: Mask
    factor: tuple[Array, Array]
    pull: Array
    solved: Array

    def into(self, block: Array) -> None:
        """Add what is left for z to its block of the system."""
        chain, k = self.chain, self.chain.rows.shape[1]
        at = np.concatenate([np.arange(k), chain.columns])
        block[np.ix_(at, at)] += self.pull.T @ self.solved
        left = (self.curve * (1.0 - self.curve * self.soft))[chain.priced]
        np.add.at(block, (chain.level[chain.priced], chain.level[chain.priced]), left)

    def _known(self, aims: Array) -> tuple[Array, Array, Array]:
        """(m, v, beta): M dF = m - P dz; d's own right-hand side; what q changes by whatever d and v do."""
        chain = self.chain
        _, d, _, _ = chain.split(self.slack)
        flow, _, q, a = chain.split(self.dual)
        to_step, to_d, to_r, to_u = chain.split(aims)
        step, price, still = self.missing
        lag = to_r / q - price
        lag[chain.capped] -= to_u / a
        beta = np.zeros(len(d))
        beta[chain.priced] = self.curve[chain.priced] * lag
        own = still - beta + to_d / d
        return to_step / flow - step - chain.down(self.soft * own), own, beta

    def right(self, aims: Array, size: int) -> Array:
        """What the chain adds to the right-hand side of z (size,)."""
        m, own, beta = self._known(aims)
        chain, k = self.chain, self.chain.rows.shape[1]
        found, pulled = np.zeros(size), m @ self.solved
        found[:k] += pulled[:k]
        found[chain.columns] += pulled[k:]
        np.add.at(found, chain.level[chain.priced], (self.curve * self.soft * own + beta)[chain.priced])
        return found

    def back(self, aims: Array, dz: Array) -> tuple[Array, Array]:
        """The changes of the flat slacks and duals once z changes by dz."""
        chain, k = self.chain, self.chain.rows.shape[1]
        m, own, beta = self._known(aims)
        s, d, _, u = chain.split(self.slack)
        flow, b, _, a = chain.split(self.dual)
        to_step, to_d, _, to_u = chain.split(aims)
        step, price, _ = self.missing
        dflow = dpttrs(*self.factor, m)[0] - self.solved @ np.concatenate([dz[:k], dz[chain.columns]])
        rise = np.zeros(len(d))
        rise[chain.priced] = dz[chain.level[chain.priced]]
        fallen = chain.rows @ dz[:k] + step
        dd = self._depths(
            self.soft * (own + self.curve * rise + chain.up(dflow)), (to_step - s * dflow) / flow - fallen
        )
        dq = (self.curve * (dd - rise) + beta)[chain.priced]
        du = (to_u + u * dq[chain.capped]) / a
        dr = rise[chain.priced] - dd[chain.priced] + price
        dr[chain.capped] += du
        dslack = np.concatenate([chain.down(dd) + fallen, dd, dr, du])
        ddual = np.concatenate([dflow, (to_d - b * dd) / d, dq, -dq[chain.capped]])
        # Of each pair the small one follows from the large one: a small difference of large numbers is mostly rounding.
        ahead = self.slack * float(self.dual.sum()) > self.dual * float(self.slack.sum())
        return (
            np.where(ahead, dslack, (aims - self.slack * ddual) / self.dual),
            np.where(ahead, (aims - self.dual * dslack) / self.slack, ddual),
        )

    def _depths(self, alone: Array, change: Array) -> Array:
        """dd, step by step: by itself where its own multipliers hold it better, else by its `change` from the step
        before, which the multiplier of that step holds: what nothing holds is a large number times rounding."""
        first = self.chain.first & ~self.held
        risen = np.cumsum(np.where(self.held | first, 0.0, change))
        last = np.maximum.accumulate(np.where(self.held | first, np.arange(len(risen)), 0))
        return np.asarray(np.where(first, change, alone)[last] + (risen - risen[last]))
