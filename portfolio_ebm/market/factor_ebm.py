"""FactorEBM: factor energies trained alone, residual energies, a dependence energy, added into one market.

    E(f, r | past) = sum_k [E_k(x_k) + log Z_k] + sum_i [E_i(eps_i) + log Z_i] + E_dep(x) + E_dep(eps),
    x = f less its causal beta times the market (the market itself as it is),   eps = r - B x.

The map (f, r) -> (x, eps) has determinant one, so the sum is the normalised joint energy of the day's returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from portfolio_ebm.data.past import Past
from portfolio_ebm.errors import DataError
from portfolio_ebm.market.base import MarketModel, scored_rows
from portfolio_ebm.market.checks import check_apart, check_assets, check_factors
from portfolio_ebm.market.composed import FactorEBMMarket
from portfolio_ebm.market.days import FactorEBMDays, Fitted, FittedWindow, fit_days
from portfolio_ebm.market.dependence import Dependence, DependenceEnergy, MovingCopula, spec_of
from portfolio_ebm.market.loadings import loadings, orthogonalise
from portfolio_ebm.market.parts import Density, Factor, Residual, factor, known_loadings, plain
from portfolio_ebm.market.parts import names as names_of
from portfolio_ebm.market.stale import without_stale
from portfolio_ebm.market.states import FAMILY, Series, states
from portfolio_ebm.market.states import family as layout
from portfolio_ebm.market.store import Store
from portfolio_ebm.market.training import Calendar, levels, train, train_dependence, untrained
from portfolio_ebm.models.calibration import SETTINGS
from portfolio_ebm.models.families import Mixed

if TYPE_CHECKING:
    from portfolio_ebm.data.panel import Panel

Array = NDArray[np.float64]


class FactorEBM(MarketModel):
    """A market of factor energies.

    Energies are trained by exact maximum likelihood at the end of the last completed year on up to `lookback` periods
    and kept in a store by content; states, loadings and dependence matrices are brought up to every date. Adding a
    factor trains that factor's energy only: a factor's series and state are made of itself and the market alone.

    Expected returns are shrunk sample means: a part with n observations keeps n / (n + n_0) of its mean, which is the
    posterior mean under a zero-centred normal prior on its Sharpe ratio a year with deviation `sharpe_prior`
    (n_0 = periods a year / sharpe_prior^2); residuals have half of that deviation.

    Attributes:
        factors: names, or `Factor`s with settings of their own; () means all the panel has.
        lookback: periods up to the anchor that energies are trained on; by default up to 50 years of days, as energies
            of daily factors scored the better the longer they looked back.
        refit: when energies are trained anew: the end of the year "YE", quarter "QE" or month "ME".
        scenarios: joint scenarios of an outlook.
        residual: the laws' family, "energy", "student" or "skew_student"; "ewma" keeps the untrained EWMA Student-t
            law; or a `Residual` with settings.
        dependence: what ties the factors: MovingCopula(), DCC(), StudentCopula(), GaussianCopula() or Independent();
            "t" is short for the first and "none" for the last.
        residual_dependence: what ties the residuals; by default the same.
        min_history: observations of every factor needed before a date can be fitted; half of them by the anchor.
        orthogonalise: "market" takes style factors less their causal beta times the market, and refuses two that still
            correlate above 0.95; "refuse" takes factors as they are and refuses any two that correlate above 0.95, as
            long-only funds do; "none" takes them as they are. True means "market", False "none".
        market: the market factor's name; without it the panel's market, else the panel's first factor.
        sharpe_prior: prior deviation of a factor's Sharpe ratio a year; small shrinks means to zero.
        groups: a grouping of the panel ("sector"): an asset with a short history then has the loadings of its group,
            and without it those of the market.
        bound: truncation of the densities behind free energies and scenarios, in their own standard deviations.
        nodes: quadrature nodes of the free-energy tables.

    Example:
        >>> market = FactorEBM(factors=("market", "MTUM", "QUAL")).fit(panel.past("2020-01-31"))
        >>> market.outlook(21, generator(0, "2020-01-31")).covariance.dense()
    """

    factors: tuple[str | Factor, ...] = ()
    lookback: int = Field(default=12600, ge=100)
    refit: Literal["YE", "QE", "ME"] = "YE"
    scenarios: int = Field(default=1000, ge=1)
    residual: Density | Literal["ewma"] | Residual = "energy"
    dependence: Annotated[DependenceEnergy, BeforeValidator(spec_of)] = MovingCopula()
    residual_dependence: Annotated[DependenceEnergy, BeforeValidator(spec_of)] | None = None
    min_history: int = Field(default=504, ge=100)
    orthogonalise: Literal["market", "none", "refuse"] = "market"
    market: str | None = None
    sharpe_prior: float = Field(default=0.5, gt=0)
    bound: float = Field(default=10.0, ge=4, le=50)
    nodes: int = Field(default=64, ge=16)
    groups: str | None = None

    @field_validator("orthogonalise", mode="before")
    @classmethod
    def _yes_or_no(cls, how: Any) -> Any:
        return {True: "market", False: "none"}[how] if isinstance(how, bool) else how

    @field_validator("factors")
    @classmethod
    def _plain_factors(cls, parts: tuple[str | Factor, ...]) -> tuple[str | Factor, ...]:
        return tuple(plain(part) for part in parts)

    @field_validator("residual")
    @classmethod
    def _plain_residual(cls, part: str | Residual) -> str | Residual:
        return part.density if isinstance(part, Residual) and part == Residual(part.density) else part

    @model_validator(mode="after")
    def _long_enough(self) -> FactorEBM:
        if self.min_history > self.lookback:
            raise ValueError(
                f"min_history {self.min_history} exceeds lookback {self.lookback}; lower it or look back further"
            )
        return self

    @property
    def history(self) -> int:
        return self.min_history

    @property
    def fewest(self) -> int:
        """Usable days up to an anchor below which a series is not trained there."""
        return self.min_history // 2

    def lacking(self, past: Past) -> str | None:
        """The factor with too few observations, if there is one."""
        short = super().lacking(past)
        if short is not None:
            return short
        names, column = self._columns(past)
        seen = np.isfinite(past.factor_returns[:, column]).sum(axis=0)
        least = int(np.argmin(seen))
        if seen[least] >= self.min_history:
            return None
        have = f"factor {names[least]} has {seen[least]} observations up to {past.date}"
        return f"{have} and {self.min_history} are needed"

    def fit(self, past: Past) -> FactorEBMMarket:
        """The market as known at the end of `past`; what was trained anew is in `refitted`.

        Raises:
            DataError: too little history, an unknown factor, or a series that cannot be used; names it and the remedy.
            FitError: an energy could not be trained.
            StoreError: a stored fit cannot be read; names the file.
        """
        return self.window(past).today()

    def fit_days(self, panel: Panel, rows: Sequence[int], *, refit: str | None = None) -> FactorEBMDays:
        """See MarketModel; energies and states of all days between two anchors come from one window.

        Raises:
            DataError, FitError, StoreError: as `fit` does.
        """
        model = self.refitting(refit)
        assert isinstance(model, FactorEBM)
        return fit_days(model, panel, scored_rows(panel, rows))

    def window(self, past: Past) -> FittedWindow:
        """States, energies and dependence over the window that ends with `past`; every row of it is causal."""
        names, column = self._columns(past)
        name = self._market(past)
        calendar = Calendar.of(past.dates, self.refit, self.lookback)
        raw = past.factor_returns[calendar.start :, column]
        returns = past.returns[calendar.start :]
        reference = past.factor_returns[calendar.start :, past.factors.index(name)]
        check_factors(raw, names, past, self.min_history)
        check_assets(returns, past)
        left = self.residual if isinstance(self.residual, Residual) else Residual(self.residual)
        returns, standing = without_stale(returns) if left.stale else (returns, None)
        market = names.index(name) if name in names else None
        x, beta = raw, np.zeros((len(raw) + 1, len(names)))
        apart = self.orthogonalise == "market"
        if apart:
            x, beta = orthogonalise(raw, reference)
            x[:, market], beta[:, market] = raw[:, market], 0.0
        if self.orthogonalise != "none":
            check_apart(x, names, past, left=apart)
        settings = self._settings(names)
        labels, known = known_loadings(past, settings, self.groups, calendar.start)
        loaded = loadings(returns, x, market, groups=labels, known=known)
        own = {"orthogonalised": apart}
        joint = own | {"factors": list(names), "market": name} | ({"groups": list(labels)} if labels else {})
        shared = (returns, reference, raw) if known is None else (returns, reference, raw, known)
        parts = (
            _Inputs("factor", names, states(x, reference), own, (raw, reference), settings),
            _Inputs(
                "residual", past.assets, states(loaded.residuals, reference), joint, shared, (left,) * len(past.assets),
            ),
        )  # fmt: skip
        factor, residual = (self._fitted(inputs, calendar) for inputs in parts)
        return FittedWindow(
            spec=self,
            calendar=calendar,
            dates=past.dates[calendar.start :],
            assets=past.assets,
            factors=names,
            market=market if apart else None,
            blocks=(factor, residual),
            loadings=loaded.path,
            beta=np.nan_to_num(beta),
            means=(
                _shrunk_means(x, past.periods_per_year, self.sharpe_prior),
                _shrunk_means(loaded.residuals, past.periods_per_year, self.sharpe_prior / 2),
            ),
            shares=standing,
        )

    def _fitted(self, inputs: _Inputs, calendar: Calendar) -> Fitted:
        """The energies and the dependence of one block, read or trained."""
        store = Store.default()
        labels = [f"{inputs.label} {name}" for name in inputs.names]
        own, *shared = inputs.data
        pool = inputs.label == "residual"
        if not labels:
            nobody = FAMILY.prior()[0].expand(0, -1)
            empty = np.empty((len(own), 0))
            return Fitted(inputs.series, FAMILY, nobody, None, Dependence.none(), empty, empty[:0], (), (), (), pool)
        family = Mixed(tuple(layout(part.density) for part in inputs.settings))
        if all(part.density == "ewma" for part in inputs.settings):
            fit = untrained(labels, family)
        else:
            lookbacks = [part.lookback if isinstance(part, Factor) else None for part in inputs.settings]
            facts = [{**inputs.facts, **({"lookback": back} if back else {})} for back in lookbacks]
            fit = train(
                inputs.series, labels, family, calendar, store, fewest=self.fewest, facts=facts, lookbacks=lookbacks,
                data=lambda m, rows: (own[:rows, m], *(array[:rows] for array in shared)),
            )  # fmt: skip
        calibrated = [part.calibrated for part in inputs.settings]
        u, theta = levels(inputs.series, family, fit, calibrated)
        anew, problems = fit.anew, fit.problems
        what = f"{inputs.label} dependence"
        chosen = (self.residual_dependence if inputs.label == "residual" else None) or self.dependence
        keys = tuple(f"{each} {SETTINGS}" if on else each for each, on in zip(fit.keys, calibrated, strict=True))
        dependence, known, new = train_dependence(
            chosen, u, keys, what, calendar, store, fewest=self.fewest, data=inputs.data
        )
        anew = (*anew, what) if new else anew
        problems = problems if dependence.status.ok else (*problems, f"{what}: {dependence.status}")
        return Fitted(
            inputs.series, family, fit.parameters, theta, dependence, u, known, anew, fit.reused, problems, pool
        )  # fmt: skip

    def _settings(self, names: tuple[str, ...]) -> tuple[Factor, ...]:
        """Each factor's settings, in the order of `names`."""
        known = {each.name: each for each in map(factor, self.factors)}
        return tuple(known.get(name, Factor(name)) for name in names)

    def _columns(self, past: Past) -> tuple[tuple[str, ...], list[int]]:
        if not past.factors:
            raise DataError(
                f"{past.date}: the panel has no factors; pass factors= (CLI: --factors FILE), or use SampleMoments."
            )
        names = names_of(self.factors) or past.factors
        unknown = [name for name in names if name not in past.factors]
        if unknown or len(set(names)) < len(names):
            what = f"has no factor {', '.join(unknown)}" if unknown else "is asked for the same factor twice"
            raise DataError(f"{past.date}: the panel {what}; it has {', '.join(past.factors)}.")
        market = self._market(past)
        if self.orthogonalise == "market" and market not in names and len(names) > 0:
            raise DataError(
                f"FactorEBM takes style factors orthogonal to the market, and '{market}' is not among its factors; "
                'add it, or set orthogonalise="none".'
            )
        return tuple(names), [past.factors.index(name) for name in names]

    def _market(self, past: Past) -> str:
        name = self.market or past.market or past.factors[0]
        if name not in past.factors:
            raise DataError(
                f"{past.date}: the panel has no factor '{name}' to be the market; it has {', '.join(past.factors)}."
            )
        return name


@dataclass(frozen=True)
class _Inputs:
    """What one block is made from: `data` is its own columns (T, M), then arrays that all columns share; `settings` say
    how each column is modelled."""

    label: str
    names: tuple[str, ...]
    series: Series
    facts: Mapping[str, Any]
    data: tuple[Array, ...]
    settings: tuple[Factor | Residual, ...]


def _shrunk_means(x: Array, periods_per_year: float, sharpe: float) -> Array:
    """n / (n + n_0) times the mean of the rows before each row of x (T, M): (T + 1, M), zero where nothing was seen."""
    seen, total = np.zeros((len(x) + 1, x.shape[1])), np.zeros((len(x) + 1, x.shape[1]))
    np.cumsum(~np.isnan(x), axis=0, out=seen[1:])
    np.cumsum(np.nan_to_num(x), axis=0, out=total[1:])
    return np.asarray(total / (seen + periods_per_year / sharpe**2))
