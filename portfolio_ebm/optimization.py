"""optimize: the door for whoever has their own moments or scenarios."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from portfolio_ebm.allocation import Allocation, record
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.construction.annealed import AnnealedLangevin
from portfolio_ebm.construction.base import Constructor
from portfolio_ebm.construction.relaxing import build_relaxed
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy, needs
from portfolio_ebm.errors import DataError, ShapeError, SpecError
from portfolio_ebm.linear import Structured, identity
from portfolio_ebm.market.base import Outlook
from portfolio_ebm.strategy import held_weights
from portfolio_ebm.tally import Tally, require_tally
from portfolio_ebm.types import generator, numbers, require_unique

SQUARE = ("covariance", "long_run")
"""The inputs that are covariances."""


class Surroundings(TypedDict, total=False):
    """What terms and rules may ask for by name; by asset: a Series or mapping by name, or an array in order.

    Attributes:
        paths: (S, h, n) simple returns a period, or one path (h, n), for drawdown terms.
        benchmarks: by name, weights by asset.
        forecasts: by name, numbers by asset, per holding period ("alpha", "borrow").
        exposures: by factor, exposures by asset.
        volume: traded value by asset over the holding period, in money.
        prices: the last price of each asset, in money, for whole lots.
        capital: money the weights are fractions of.
        long_run: (n, n), the covariance over one holding period in the long run, for
            LeastTrade(unit="realised volatility").
        tally: the last decision's `Allocation.tally`, `earned` up to this one.
    """

    paths: Any
    benchmarks: Mapping[str, Any]
    forecasts: Mapping[str, Any]
    exposures: Mapping[str, Any]
    volume: Any
    prices: Any
    capital: float
    long_run: Any
    tally: Tally | None


def optimize(
    energy: Energy,
    constraint: Constraint,
    *,
    mean: Any = None,
    covariance: Any = None,
    scenarios: Any = None,
    assets: Sequence[str] | None = None,
    held: Any = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    constructor: Constructor | None = None,
    relax: Constraint | Sequence[Constraint] = (),
    seed: int = 0,
    **more: Unpack[Surroundings],
) -> Allocation:
    """The lowest-energy portfolio under the rules, from the caller's own estimates per holding period.

    Args:
        energy: the formula.
        constraint: the rules.
        mean: expected simple returns, (n,).
        covariance: (n, n), symmetric positive semi-definite.
        scenarios: (S, n) simple returns; where `mean` or `covariance` is not given it is taken from these.
        assets: names; read off a DataFrame or Series where one is given.
        held: weights before the trade, for turnover and trading cost.
        groups: by grouping, the label of every asset, for rules such as Group("sector", ...); or a frame of assets x
            groupings.
        constructor: AnnealedLangevin(), the default, takes any formula and rule; Convex() the convex ones.
        relax: a rule, or rules, that may give way where no portfolio obeys them all, the first one first, each as
            little as possible; `relaxed` of the Allocation says which did, and by how much.
        seed: the one source of randomness.
        more: what terms and rules ask for by name, see Surroundings.

    Returns:
        Allocation; weights are a Series when names are known, else an array or tensor as the inputs were.

    Raises:
        DataError: an input is not finite or no numbers, a covariance is not positive semi-definite, inputs cover
            different assets, an asset is named twice, or tally= is none of these assets; names the asset.
        ShapeError: inputs disagree on the number of assets, or one is empty.
        SpecError: the formula needs an estimate that was not given, or there is no input of a name.
        InfeasibleError: no portfolio obeys the rules; names the rules in conflict.

    Example:
        >>> optimize(Variance(), Budget() & LongOnly() & Cardinality(at_most=10), covariance=frame).weights
    """
    found = given_context(
        energy,
        constraint,
        mean=mean,
        covariance=covariance,
        scenarios=scenarios,
        assets=assets,
        held=held,
        groups=groups,
        **more,
    )
    builder = AnnealedLangevin() if constructor is None else constructor
    _require_kind(builder, Constructor, "The constructor", "Convex()")
    rng = generator(seed, "optimize", found.ctx.tradeable.device)
    solution = build_relaxed(builder, energy, constraint, found.ctx, rng, relax)
    return record(solution, found.names, like=found.like)


class Given(NamedTuple):
    """The caller's inputs as a Context, the names of the assets where known, and an input whose kind weights take."""

    ctx: Context
    names: tuple[str, ...] | None
    like: Any


class Read(NamedTuple):
    """The caller's inputs, estimates checked, and which of those there are: mean, covariance, scenarios, paths."""

    given: Given
    known: frozenset[str]

    def require(self, energy: Energy, constraint: Constraint) -> None:
        """Refuse a formula or rules that ask for what is not here or cannot be used.

        Raises: DataError, ShapeError and SpecError as `optimize` does.
        """
        _require_kind(energy, Energy, "The energy", "Return() + 5 * Variance()")
        _require_kind(constraint, Constraint, "The rules", "Budget() & LongOnly()")
        missing = (needs(energy) | constraint.asks()) - self.known
        if missing:
            raise SpecError(
                f"{energy!r} under {constraint!r} needs {_words(missing)}; pass it to optimize, or use a Strategy with "
                "a market model."
            )
        for part in energy.terms():
            part.energy.check(self.given.ctx)


def _require_kind(given: object, kind: type, what: str, example: str) -> None:
    """Refuse what was never a spec, a class that was not called among it."""
    if isinstance(given, kind):
        return
    if isinstance(given, type) and issubclass(given, kind):
        raise SpecError(f"{what}: {given.__name__} is a class; write {given.__name__}(...).")
    raise SpecError(f"{what}: got {given!r}, expected the like of {example}.")


def given_context(energy: Energy, constraint: Constraint, **inputs: Any) -> Given:
    """The inputs of `optimize`, checked: nothing that no solver should see gets past here.

    Raises: DataError, ShapeError and SpecError as `optimize` does.
    """
    found = read(**inputs)
    found.require(energy, constraint)
    return found.given


def read(
    *,
    mean: Any = None,
    covariance: Any = None,
    scenarios: Any = None,
    assets: Sequence[str] | None = None,
    held: Any = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    **more: Unpack[Surroundings],
) -> Read:
    """The inputs of `optimize` as numbers, before any formula is asked what it needs of them. Errors as `optimize`."""
    _refuse_unknown(more)
    given = {"mean": mean, "covariance": covariance, "scenarios": scenarios, "paths": more.get("paths")}
    if all(value is None for value in given.values()):
        raise SpecError("optimize needs at least one of mean=, covariance=, scenarios= or paths=.")
    given["long_run"] = more.get("long_run")
    names, source = _names(given, assets)
    arrays = {key: _array(value, key, names, source) for key, value in given.items()}
    n = next(a.shape[-1] for a in arrays.values() if a is not None)
    _check(arrays, n, names)
    known = {key for key, a in arrays.items() if a is not None}
    known |= {"mean", "covariance"} if "scenarios" in known else set()
    place = next((value.device for value in given.values() if isinstance(value, Tensor)), torch.device("cpu"))
    labels = names if names is not None else tuple(str(i) for i in range(n))
    ctx = Context(
        assets=labels,
        market=_outlook(arrays, n) if place.type == "cpu" else _outlook(arrays, n).to(place),
        held=held_weights(held, labels, place),
        tradeable=torch.ones(n, dtype=torch.bool, device=place),
        groups={key: _labels(key, of, labels) for key, of in ({} if groups is None else groups).items()},
        long_run=None if arrays["long_run"] is None else _dense(arrays["long_run"]).to(place),
        tally=None if more.get("tally") is None else require_tally(more["tally"], labels),
        **_named(more, labels, place),
    )
    return Read(Given(ctx, names, next(value for value in given.values() if value is not None)), frozenset(known))


def _refuse_unknown(more: Surroundings) -> None:
    """A misspelt input would be passed over without a word."""
    for name in sorted(more.keys() - Surroundings.__annotations__.keys()):
        known = [*inspect.signature(read).parameters.keys() - {"more"}, *Surroundings.__annotations__]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}=?" if near else f"there are {', '.join(f'{one}=' for one in sorted(known))}."
        raise SpecError(f"There is no input {name}=; {hint}")


def _names(given: Mapping[str, Any], assets: Sequence[str] | None) -> tuple[tuple[str, ...] | None, str]:
    """Asset names, from `assets=` or the labels of pandas inputs, which must agree; and where they were read."""
    if assets is not None:
        return require_unique(assets, "assets"), "the list of assets"
    for what, value in given.items():
        if isinstance(value, (pd.Series, pd.DataFrame)):
            return require_unique(value.columns if isinstance(value, pd.DataFrame) else value.index, what), what
    return None, ""


def _array(
    value: Any, what: str, names: tuple[str, ...] | None, source: str
) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """One estimate as an array in the order of `names`, which were read off `source`."""
    if value is None:
        return None
    if isinstance(value, (pd.Series, pd.DataFrame)) and names is not None:
        value = _ordered(value, "columns" if isinstance(value, pd.DataFrame) else "index", what, names, source)
        if what in SQUARE:
            value = _ordered(value, "index", what, names, source)
    array = numbers(value, what)
    form = {"mean": "(n,)", "scenarios": "(S, n)", "paths": "(S, h, n)"}.get(what, "(n, n)")
    if what == "paths" and array.ndim == 2:
        array = array[None]
    if array.ndim != {"mean": 1, "paths": 3}.get(what, 2):
        raise ShapeError(f"{what}: got shape {array.shape}, expected {form}.")
    if 0 in array.shape:
        raise ShapeError(f"{what}: got shape {array.shape}, which holds nothing; give at least one of each of {form}.")
    return array


def _ordered(frame: Any, axis: str, what: str, names: tuple[str, ...], source: str) -> Any:
    """The frame in the order of `names`; it and `source`, which they were read off, must cover the same assets."""
    labels = require_unique(getattr(frame, axis), what)
    lost, surplus = [name for name in names if name not in set(labels)], [x for x in labels if x not in set(names)]
    if lost:
        raise DataError(f"{what} has no entry for {', '.join(lost[:5])}; every input must cover the same assets.")
    if surplus:
        more = f" and {len(surplus) - 5} more" if len(surplus) > 5 else ""
        raise DataError(
            f"{source} has no entry for {', '.join(surplus[:5])}{more}, which {what} has; every input must cover the "
            "same assets."
        )
    return frame.set_axis(labels, axis=axis).reindex(**{axis: list(names)})


def _check(arrays: Mapping[str, Any], n: int, names: tuple[str, ...] | None) -> None:
    """Refuse what no solver should see: non-finite numbers, disagreeing widths, an indefinite covariance."""
    if names is not None and len(names) != n:
        raise ShapeError(f"assets: got {len(names)} names, expected {n}.")
    for what, array in arrays.items():
        if array is None:
            continue
        if array.shape[-1] != n or (what in SQUARE and array.shape[0] != n):
            raise ShapeError(f"{what}: got shape {array.shape}, expected {n} assets as in the other inputs.")
        finite = np.isfinite(array)
        if not finite.all():
            bad = ~finite.reshape(-1, n).all(axis=0)
            who = [names[i] if names else f"asset {i}" for i in np.flatnonzero(bad)[:5]]
            raise DataError(
                f"{what} is not finite for {', '.join(who)}; fill or drop {'it' if bad.sum() == 1 else 'them'} first."
            )
    for what in SQUARE:
        _require_covariance(arrays[what], what)


def _require_covariance(matrix: Any, what: str) -> None:
    """Refuse a matrix that is no covariance; None is none."""
    if matrix is None:
        return
    n = len(matrix)
    scale = float(np.abs(matrix).max()) or 1.0
    if (matrix - matrix.T).max() > 1e-10 * scale:
        raise DataError(f"{what} is not symmetric; pass (C + C.T) / 2 if that is what is meant.")
    try:
        # A quick proof for the many that pass; what fails is measured.
        raised = matrix.copy()
        raised.ravel()[:: n + 1] += 1e-9 * scale * n
        np.linalg.cholesky(raised)
        return
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(matrix)[0])
    if least < -1e-9 * scale * n:
        raise DataError(
            f"{what} is not positive semi-definite (least eigenvalue {least:.3g}); "
            "shrink it or clip its eigenvalues first."
        )


def _outlook(arrays: Mapping[str, Any], n: int) -> Outlook:
    """The estimates as an Outlook; moments that were not given come from the scenarios, else are zero and unused."""
    draws, paths = arrays["scenarios"], arrays["paths"]
    mean = arrays["mean"] if arrays["mean"] is not None else (draws.mean(axis=0) if draws is not None else np.zeros(n))
    matrix = arrays["covariance"]
    if matrix is None:
        matrix = (
            np.atleast_2d(np.cov(draws, rowvar=False)) if draws is not None and len(draws) > 1 else np.zeros((n, n))
        )
    return Outlook(
        mean=torch.from_numpy(mean.copy()),
        covariance=_dense(matrix),
        scenarios=None if draws is None else torch.tensor(draws),
        marginals=None,
        horizon=1.0,
        paths=None if paths is None else torch.tensor(paths),
    )


def _dense(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> Structured:
    """The matrix itself as the core: nothing is decomposed that no term asks for."""
    n = len(matrix)
    return Structured(identity(n), torch.from_numpy((matrix + matrix.T) / 2), torch.zeros(n, dtype=torch.float64))


def _named(more: Surroundings, assets: tuple[str, ...], place: torch.device) -> dict[str, Any]:
    """The fields of a Context that are known by name, as tensors in the order of `assets`."""
    found: dict[str, Any] = {"capital": more.get("capital")}
    for key in ("benchmarks", "forecasts", "exposures"):
        items: Mapping[str, Any] = more.get(key) or {}  # type: ignore[assignment]  # the keys are those of the TypedDict
        found[key] = {str(name): _by_asset(item, f"{key}['{name}']", assets, place) for name, item in items.items()}
    for key, given in (("volume", more.get("volume")), ("prices", more.get("prices"))):
        if given is not None:
            values = _by_asset(given, key, assets, place)
            bad = [name for name, is_bad in zip(assets, (~(values >= 0.0)).tolist(), strict=True) if is_bad]
            if bad:
                raise DataError(f"{key} is negative or not a number for {', '.join(bad[:5])}; mend or drop them.")
            found[key] = values
    return found


def _by_asset(value: Any, what: str, assets: tuple[str, ...], place: torch.device) -> Tensor:
    """Numbers by asset in the order of `assets`; a name that a Series or mapping leaves out has none (NaN)."""
    if isinstance(value, (pd.Series, Mapping)):
        labels = require_unique(value.keys(), what)
        given = dict(
            zip(labels, numbers(list(value.values()) if isinstance(value, Mapping) else value, what), strict=True)
        )
        unknown = [name for name in given if name not in set(assets)]
        if unknown:
            near = get_close_matches(unknown[0], assets, n=3)
            hint = f" (near: {', '.join(near)})" if near else ""
            raise DataError(f"{what} names {', '.join(unknown[:5])}, which is no asset here{hint}.")
        empty = 0.0 if what.startswith("benchmarks") else np.nan
        value = [given.get(name, empty) for name in assets]
    array = numbers(value, what)
    if array.shape != (len(assets),):
        raise ShapeError(f"{what}: got shape {array.shape}, expected ({len(assets)},).")
    return torch.tensor(array, device=place)


def _labels(grouping: str, of: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ...]:
    labels = [label for _, label in of.items()]
    found = dict(zip(require_unique(of.keys(), f"groups['{grouping}']"), labels, strict=True))
    lost = [name for name in names if name not in found or pd.isna(found[name])]
    if lost:
        raise DataError(f"groups['{grouping}'] has no label for {', '.join(lost[:5])}.")
    return tuple(str(found[name]) for name in names)


def _words(items: frozenset[str]) -> str:
    return " and ".join(sorted(items))
