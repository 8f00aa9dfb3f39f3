"""A law with an atom: a series that often does not move has a point of positive probability.

    P(dx) = share delta_at(dx) + (1 - share) p(x) dx

Its log score is the log density with respect to Lebesgue measure plus counting measure at the atom: log share on it,
log(1 - share) + log p(x) off it. The share is an exponentially weighted frequency of past hits, shrunk to half a per
cent, and zero where it does not reach `least`: a name that rarely stands still keeps its density, its score and its
PIT to the last digit, hits included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from portfolio_ebm.errors import FitError
from portfolio_ebm.models.density import Density
from portfolio_ebm.models.special import decayed_sum

HALF_LIFE = 250.0
ROWS = 60.0
PRIOR = 0.005
LEAST = 0.05


class Atomic:
    """A density with an atom; a batch of laws as the density's own.

    Args:
        law: the density off the atom.
        share: probability of the atom in [0, 1), broadcasting to the law's batch.
        at: where it is.

    Raises:
        FitError: a share outside [0, 1).

    Example:
        >>> stale = Atomic(law, shares(returns)[-1])
        >>> stale.log_prob(x), stale.pit(x, rng)
    """

    def __init__(self, law: Density, share: Tensor, at: float = 0.0) -> None:
        if not bool(((share >= 0) & (share < 1)).all()):
            raise FitError("The share of an atom must lie in [0, 1); use `shares` to estimate it.")
        self.law, self.share, self.at = law, share, at

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density with respect to Lebesgue + counting measure at the atom, nats; where share = 0, the law's own."""
        off = torch.log1p(-self.share) + self.law.log_prob(x)
        return torch.where(self._hit(x), self.share.log(), off)

    def cdf(self, x: Tensor) -> Tensor:
        """P(X <= x), the atom included."""
        return (1 - self.share) * self.law.cdf(x) + self.share * (x >= self.at)

    def pit(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """The PIT; on the atom a uniform draw between P(X < x) and P(X <= x), or their middle without `rng`.

        Only the randomised one is uniform; the middle is repeatable.
        """
        whole = (1 - self.share) * self.law.cdf(x)
        if rng is None:
            inside = torch.full_like(whole, 0.5)
        else:
            inside = torch.rand(whole.shape, generator=rng, dtype=whole.dtype, device=whole.device)
        below = torch.where(self._hit(x), inside, (x > self.at).to(whole))
        return whole + self.share * below

    def quantile(self, u: Tensor) -> Tensor:
        """The least x with P(X <= x) >= u, u in (0, 1)."""
        left = (1 - self.share) * self.law.cdf(torch.full_like(self.share, self.at))
        u = u.expand(torch.broadcast_shapes(u.shape, self.share.shape, self.law.batch))
        above = u > left + self.share
        on = (u > left) & ~above
        level = torch.where(above, u - self.share, u) / (1 - self.share)
        eps = torch.finfo(u.dtype).eps
        found = self.law.quantile(torch.where(on, 0.5, level.clamp(eps, 1 - eps)))
        return torch.where(on, self.at, found)

    def sample(self, size: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Exact draws, (*size, *batch)."""
        drawn = self.law.sample(size, rng)
        u = torch.rand(drawn.shape, generator=rng, dtype=drawn.dtype, device=drawn.device)
        return torch.where(u < self.share, self.at, drawn)

    def _hit(self, x: Tensor) -> Tensor:
        return (x == self.at) & (self.share > 0)


def shares(
    x: Tensor, at: float = 0.0, *, half_life: float = HALF_LIFE, rows: float = ROWS, least: float = LEAST
) -> Tensor:
    """The atom's share known before each row of x (T, M): (T + 1, M), causal; NaN cells do not count.

    share = (EW hits + rows * 0.5 %) / (EW rows seen + rows), and 0 where that is below `least`.
    """
    seen = ~torch.isnan(x)
    hits, count = (decayed_sum(item.to(x), half_life) for item in ((x == at) & seen, seen))
    found = (hits + rows * PRIOR) / (count + rows)
    found = torch.where(found < least, 0.0, found)
    return torch.cat([torch.zeros_like(found[:1]), found])
