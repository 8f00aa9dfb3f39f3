"""What a market model gives: a Market at one date or at many, and its Outlook over one holding period.

    p(r | past) = exp(-E(r | past)),   r = (*factors, *assets), the decimal returns of the next day.

A Market is this law. It must say `log_prob`, `sample` and `outlook`; all the rest has a form by sampling here, which a
market with a closed form replaces by that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.linear import Structured
from portfolio_ebm.market.marginals import Marginals as Marginals
from portfolio_ebm.market.portfolio_tails import pit_of_draws, portfolio_returns, tail_of_draws
from portfolio_ebm.types import Spec, Status, generator, lift, require_last

if TYPE_CHECKING:
    from portfolio_ebm.data.panel import Panel
    from portfolio_ebm.market.condition import Condition
    from portfolio_ebm.market.conditioned import Conditioned, ConditionedMarket

Rng: TypeAlias = torch.Generator | Sequence[torch.Generator]
"""One stream, or for a batch one a date: date i then draws exactly what its own market alone would draw."""

DRAWS = 4000
"""Draws behind a number that has no closed form; a PIT of u has the standard error sqrt(u (1 - u) / 4000) <= 0.008."""

FLOOR = -0.99
"""A simple return of one step below this is held here: a price stays positive."""


@dataclass(frozen=True)
class Outlook:
    """Estimates for one holding period: what energies and rules see of the market.

    Attributes:
        mean: simple returns, (..., n).
        covariance: F C F' + D.
        scenarios: (..., S, n) simple returns, or None.
        marginals: factor and residual densities, or None where the market has none.
        horizon: the holding period in periods of the panel.
        paths: (..., S, h, n) simple returns a period, or None where no term asked for them.
        status: where the estimates come from weighted draws, what these are worth; else None.
    """

    mean: Tensor
    covariance: Structured
    scenarios: Tensor | None
    marginals: Marginals | None
    horizon: float
    paths: Tensor | None = None
    status: Status | None = None

    def to(self, device: torch.device) -> Outlook:
        return replace(
            self,
            mean=self.mean.to(device),
            covariance=self.covariance.to(device),
            scenarios=None if self.scenarios is None else self.scenarios.to(device),
            marginals=None if self.marginals is None else self.marginals.to(device),
            paths=None if self.paths is None else self.paths.to(device),
        )


class Market(ABC):
    """A fitted market at one date, or a batch of D dates.

    A batch has its dates in front of everything: rows (D, ..., S), weights (D, ..., n), draws (D, N, S); a leading 1
    stands for all dates. Rows hold the S series (*factors, *assets) in decimals.

    Numbers without a closed form come from 4000 draws of one fixed stream, so that asking twice gives the same;
    `draws` and `rng` change that. Their standard errors: PIT sqrt(u (1 - u) / N); mean s / sqrt(N); VaR of tail p
    sqrt(p (1 - p) / N) / density there; ES about (standard deviation within the tail) / sqrt(p N).

    Example:
        >>> market = SampleMoments(252).fit(panel.past("2020-01-31"))
        >>> market.log_prob(row), market.pit(row)                       # (), (S,)
        >>> var, es = market.var_es(weights, 0.99)                      # returns: negative is a loss
    """

    # Fields of some markets and properties of others. Read-only here; at run time nothing, for a property would be
    # taken as a dataclass field's default.
    if TYPE_CHECKING:

        @property
        def assets(self) -> tuple[str, ...]: ...

        @property
        def factors(self) -> tuple[str, ...]: ...

        @property
        def status(self) -> Status: ...

        @property
        def refitted(self) -> tuple[str, ...]:
            """What was estimated anew for this market ("factor MTUM", "loadings", ...), not read from the store."""

    @property
    def series(self) -> tuple[str, ...]:
        """The names of the entries of a day's row."""
        return (*self.factors, *self.assets)

    @property
    def batch(self) -> tuple[int, ...]:
        """() at one date, (D,) for a batch."""
        return ()

    @property
    def exact(self) -> bool:
        """Whether `pit` and `var_es` are exact, with no draw in them."""
        return False

    @property
    def has_density(self) -> bool:
        """Whether `log_prob` exists; an empirical law has none."""
        return True

    @abstractmethod
    def log_prob(self, r: Tensor) -> Tensor:
        """log p(r | past) of rows r (*batch, ..., S): (*batch, ...), nats. NaN entries are integrated out.

        Raises:
            ShapeError: r has not one entry a series.
            SpecError: the law has no density.
        """

    def energy(self, r: Tensor) -> Tensor:
        """The normalised energy -log p(r | past), nats, shapes as in `log_prob`."""
        return -self.log_prob(r)

    @abstractmethod
    def sample(self, n: int, rng: Rng) -> Tensor:
        """Independent draws of the next day's row, (*batch, n, S)."""

    @abstractmethod
    def outlook(self, horizon: int, rng: torch.Generator) -> Outlook:
        """Mean, covariance, scenarios and marginals over the next `horizon` periods."""

    def scenarios(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """Simple returns of the assets over `horizon` periods, (*batch, n, n_assets).

        Here: days drawn independently from the next day's law and compounded, each held above -99 %.
        """
        days = self.sample(horizon * n, rng)[..., len(self.factors) :]
        return compound(days.unflatten(-2, (horizon, n)))

    def paths(self, horizon: int, n: int, rng: Rng) -> Tensor:
        """Simple returns of the assets, one a period, over `horizon` periods: (*batch, n, horizon, n_assets).

        Here: days drawn independently from the next day's law, each held above -99 %.
        """
        days = self.sample(horizon * n, rng)[..., len(self.factors) :].clamp_min(FLOOR)
        return days.reshape(*days.shape[:-2], n, horizon, days.shape[-1])

    @property
    def mean(self) -> Tensor:
        """The assets' expected returns of the next day, (*batch, n). Here: of 4000 draws."""
        return self._draws(DRAWS, None)[..., len(self.factors) :].mean(-2)

    @property
    def covariance(self) -> Structured:
        """The assets' covariance of the next day. Here: of 4000 draws."""
        draws = self._draws(DRAWS, None)[..., len(self.factors) :]
        centred = draws - draws.mean(-2, keepdim=True)
        return Structured.from_dense(centred.mT @ centred / (DRAWS - 1))

    @property
    def marginals(self) -> Marginals | None:
        """The tables behind the next day's free energies, or None. Here: those of the outlook of one period."""
        return self.outlook(1, generator(0, "market/marginals")).marginals

    def pit(self, r: Tensor, *, draws: int = DRAWS, rng: Rng | None = None) -> Tensor:
        """P(R_i <= r_i | past) of every series at rows r (*batch, ..., S), same shape; NaN where r is.

        Here: the mid-rank of r_i among `draws` draws.
        """
        require_last(r, len(self.series), type(self).__name__)
        return pit_of_draws(self._draws(draws, rng), r, len(self.batch))

    def var_es(
        self, weights: Tensor, level: float = 0.95, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> tuple[Tensor, Tensor]:
        """Value at risk and expected shortfall of portfolios over the next day, each (*batch, ...), as RETURNS.

        VaR is the (1 - level)-quantile of the portfolio's return and ES the mean return at and below it: losses are
        negative numbers. `level` means what it means in the energy CVaR. Here: of `draws` draws.

        Args:
            weights: (*batch, ..., n) over the assets, or (*batch, ..., S) over all series.

        Raises:
            ShapeError: weights fit neither; SpecError: a level outside (0, 1).
        """
        check = self.positions(weights)
        found = tail_of_draws(portfolio_returns(self._draws(draws, rng), check, len(self.batch)), level)
        shape = (*found[0].shape[:-1], *weights.shape[len(self.batch) : -1])
        return found[0].reshape(shape), found[1].reshape(shape)

    def free_energy(
        self, exposures: Tensor, risk_aversion: float, *, draws: int = DRAWS, rng: Rng | None = None
    ) -> Tensor:
        """(1/g) log E exp(-g b'(x - E x)) of the next day, (*batch, ...): the sure loss as bad as the risk.

        Here: where the market has `marginals`, x are its independent parts in the order of `marginals.names`, each
        density truncated to the declared bound, and the sum over parts is exact; dependence is left out. Without
        them x are the series and the expectation is that of `draws` draws: under power tails the true value is
        infinite, and the draws are what truncates it.

        Args:
            exposures: b, (*batch, ..., parts or S).
            risk_aversion: g > 0, per unit of wealth.

        Raises:
            ShapeError: exposures have not one entry a part. SpecError: g is not above zero.

        Example:
            >>> market.free_energy(market.marginals.exposures.mT @ weights, 5.0)  # weights (n,) as exposures to parts
        """
        table = self.marginals
        if table is not None:
            return additive(table.values, table.log_mass, exposures, check_aversion(risk_aversion)).sum(-1)
        require_last(exposures, len(self.series), type(self).__name__)
        x = portfolio_returns(self._draws(draws, rng), exposures, len(self.batch))
        found = entropic(x, check_aversion(risk_aversion))
        return found.reshape((*found.shape[:-1], *exposures.shape[len(self.batch) : -1]))

    def positions(self, weights: Tensor) -> Tensor:
        """Weights over the assets (..., n) as weights over all series (..., S); those of all series as they are.

        Raises:
            ShapeError: neither n nor S long, or without the batch in front.
        """
        size, n = len(self.series), len(self.assets)
        if not isinstance(weights, Tensor):
            raise ShapeError(f"weights: got a {type(weights).__name__}, expected a torch tensor: torch.as_tensor(x).")
        if weights.ndim > len(self.batch) and weights.shape[-1] == size:
            return weights
        if weights.ndim <= len(self.batch) or weights.shape[-1] != n:
            front = "".join(f"{d}, " for d in self.batch)
            raise ShapeError(
                f"{type(self).__name__}: got weights of shape {tuple(weights.shape)}, expected ({front}..., {n}) over "
                f"the assets or ({front}..., {size}) over factors and assets."
            )
        return torch.cat([weights.new_zeros(*weights.shape[:-1], size - n), weights], -1)

    def __add__(self, condition: Condition) -> ConditionedMarket:
        """This market, of one date, given a condition: a view or a stress as an added energy."""
        from portfolio_ebm.market import condition as given
        from portfolio_ebm.market import conditioned

        return conditioned.with_condition(self, condition) if isinstance(condition, given.Condition) else NotImplemented

    def clamp(self, values: Mapping[str, float] | None = None, /, **named: float) -> ConditionedMarket:
        """This market given the returns of some series over the holding period, `clamp(Mkt=-0.05)`.

        Raises:
            SpecError: no such series, or a law that gives no single value a density.
        """
        from portfolio_ebm.market import conditioned

        return conditioned.with_condition(self, conditioned.clamped(values, named))

    @classmethod
    def stack(cls, markets: Sequence[Market]) -> Market:
        """Markets of the same series at D dates as one batch. Here: kept as they are, asked one after the other."""
        from portfolio_ebm.market.stacked import StackedMarket

        return StackedMarket(tuple(markets))

    def _draws(self, n: int, rng: Rng | None) -> Tensor:
        if rng is None:
            one = [generator(0, "market/draws") for _ in range(self.batch[0] if self.batch else 1)]
            rng = one if self.batch else one[0]
        return self.sample(n, rng)


class MarketModel(Spec, ABC):
    """A spec of how to estimate a market from the past alone."""

    @property
    @abstractmethod
    def history(self) -> int:
        """The least number of periods `fit` needs."""

    def lacking(self, past: Past) -> str | None:
        """What history is still missing before this market can be fitted to `past`, or None: a walk forward starts
        on the first date on which nothing is. Depends on which cells are there, never on what they say."""
        if len(past) >= self.history:
            return None
        return f"{self.history} periods of history are needed and there are {len(past)} up to {past.date}"

    def __add__(self, condition: Condition) -> Conditioned:
        """This model given a condition: every market it fits is conditional."""
        from portfolio_ebm.market import condition as given
        from portfolio_ebm.market import conditioned

        if not isinstance(condition, given.Condition):
            return NotImplemented
        return conditioned.model_with_condition(self, condition)

    @abstractmethod
    def fit(self, past: Past) -> Market:
        """The market as it was known at the end of `past`.

        Raises:
            DataError: too little history, or a series that cannot be used; the message names it.
            FitError: training did not reach a usable model.
        """

    def fit_days(self, panel: Panel, rows: Sequence[int], *, refit: str | None = None) -> Market:
        """The batch of markets for scoring day rows[i], each known at the close of rows[i] - 1.

        Equal to `fit(panel.past(row - 1))` for each row to 1e-8; a model may have a faster way to the same.

        Args:
            panel: the whole panel; a market sees it up to its own date.
            rows: row numbers of the days to be scored, each at least 1.
            refit: replaces the field `refit` of models that have one; others estimate anew at every date.

        Raises:
            DataError, FitError: as `fit` does.
        """
        model = self.refitting(refit)
        markets = [model.fit(panel.past(row - 1)) for row in scored_rows(panel, rows)]
        return type(markets[0]).stack(markets)

    def refitting(self, refit: str | None) -> MarketModel:
        """This model with its field `refit` replaced, where it has one and `refit` is given."""
        return self if refit is None or "refit" not in type(self).model_fields else self.replace(refit=refit)


def scored_rows(panel: Panel, rows: Sequence[int]) -> list[int]:
    """`rows` as row numbers, each with a day before it.

    Raises:
        DataError: none is given, or one has no past or is not in the panel.
    """
    found = [int(row) for row in rows]
    bad = [row for row in found if not 1 <= row < len(panel)]
    if bad or not found:
        what = f"row {bad[0]} cannot be scored" if bad else "no row to score"
        raise DataError(f"{what}: give rows from 1 to {len(panel) - 1}; row 0 has no past.")
    return found


def compound(days: Tensor) -> Tensor:
    """Simple returns of days (..., h, N, n), each held above -99 %, over all h of them: (..., N, n)."""
    return torch.expm1(torch.log1p(days.clamp_min(FLOOR)).sum(-3))


def streams(rng: Rng, batch: tuple[int, ...]) -> list[torch.Generator]:
    """One stream a date; a single stream serves the dates one after the other.

    Raises:
        ShapeError: a sequence with another number of streams than dates.
    """
    days = batch[0] if batch else 1
    if isinstance(rng, torch.Generator):
        return [rng] * days
    if len(rng) != days:
        raise ShapeError(f"got {len(rng)} random streams, expected one, or one for each of {days} dates.")
    return list(rng)


def check_aversion(g: float) -> float:
    """g itself.

    Raises:
        SpecError: g is not above zero.
    """
    if not g > 0:
        raise SpecError(f"risk_aversion {g:g}: give a number above zero, per unit of wealth.")
    return g


def entropic(returns: Tensor, g: float) -> Tensor:
    """(1/g) log mean exp(-g (x - mean x)) over the N equally likely returns x (..., N, M): (..., M)."""
    centred = returns - returns.mean(-2, keepdim=True)
    log_n = torch.log(torch.tensor(float(returns.shape[-2]), dtype=returns.dtype))
    return (torch.logsumexp(-g * centred, -2) - log_n) / g


def additive(values: Tensor, log_mass: Tensor, exposures: Tensor, g: float) -> Tensor:
    """Each part's free energy at exposures (*batch, ..., K), from tables (*batch, K, G): (*batch, ..., K).

    Raises:
        ShapeError: exposures have not one entry a part.
    """
    require_last(exposures, values.shape[-2], "free_energy: exposures to the market's parts, factors and residuals")
    like = exposures.unsqueeze(-1)
    return torch.logsumexp(lift(log_mass, exposures, 2) - g * like * lift(values, exposures, 2), -1) / g
