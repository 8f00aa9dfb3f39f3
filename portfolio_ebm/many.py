"""optimize_many: the door for many problems at once: many dates, many estimates, many formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Unpack

import numpy as np
import pandas as pd
from torch import Tensor

from portfolio_ebm.allocation import price_frames
from portfolio_ebm.constraints.base import Constraint
from portfolio_ebm.construction.base import Constructor, ShadowPrice, Solution
from portfolio_ebm.construction.batches import solve_all
from portfolio_ebm.construction.together import Problem
from portfolio_ebm.context import Context
from portfolio_ebm.energy import Energy
from portfolio_ebm.errors import DataError, PortfolioEBMError, ShapeError, SpecError
from portfolio_ebm.optimization import Read, Surroundings, read

DIMENSIONS = {"mean": 1, "covariance": 2, "scenarios": 2, "held": 1}
ENDS = ("least", "largest")


@dataclass(frozen=True)
class Allocations:
    """One row for each problem, failed ones included; frames and series share the index of the problems.

    Attributes:
        weights: problems x assets; NaN where the problem failed.
        energies: E(weights), per holding period.
        bounds: no feasible portfolio has a lower energy; NaN where none is known.
        proven: whether the bound leaves nothing between, as `Allocation.proven`.
        ok: whether the portfolio is there and certified.
        statuses: how it was found, or why there is none, in a sentence.
        residuals: problems x rules, by how much each is broken, in its own units.
        breakdown: problems x terms, each term's share of the energy; NaN for a term that a formula does not have.
        kkt: the KKT residual of each, as `Allocation.kkt`; NaN where it is None and where the problem failed.
        prices: by problem, the shadow prices of its rules, as `Allocation.prices`; `shadow_prices` is their frame.
        spans: by problem, `Allocation.ranges`; `ranges` is their frame.

    Example:
        >>> found = optimize_many(Variance(), Budget() & LongOnly(), covariance={"2020": one, "2021": other})
        >>> found.weights.loc["2021"], found.statuses[~found.ok]
    """

    weights: pd.DataFrame
    energies: pd.Series[float]
    bounds: pd.Series[float]
    proven: pd.Series[bool]
    ok: pd.Series[bool]
    statuses: pd.Series[str]
    residuals: pd.DataFrame
    breakdown: pd.DataFrame
    kkt: pd.Series[float]
    prices: Mapping[Any, tuple[ShadowPrice, ...]] = field(repr=False)
    spans: Mapping[Any, Mapping[str, tuple[float, float]]] = field(repr=False)

    @property
    def gaps(self) -> pd.Series[float]:
        """energies - bounds: how far above its optimum each can be at most; NaN where no bound is known."""
        return (self.energies - self.bounds).rename("gap")

    @cached_property
    def ranges(self) -> pd.DataFrame:
        """Problems x (term, "least" or "largest"): the shares over sampled feasible portfolios.

        Drawn when it is first read, where a constructor built each problem by itself on one core; until then the
        estimates are kept.
        """
        rows = {
            label: {(term, end): value for term, ends in span.items() for end, value in zip(ENDS, ends, strict=True)}
            for label, span in self.spans.items()
        }
        return _frame(list(rows.values()), self.weights.index, pairs=True)

    @property
    def shadow_prices(self) -> pd.DataFrame:
        """What loosening each rule that binds is worth, a row for each rule of each problem, whose label is the index;
        the columns are those of `Allocation.shadow_prices`.

        Example:
            >>> optimize_many(...).shadow_prices.loc["2021", "words"]
        """
        return price_frames(self.prices, "problem")

    def __len__(self) -> int:
        return len(self.weights)

    def __str__(self) -> str:
        lines = [f"{len(self)} problems, {int(self.ok.sum())} solved"]
        lines += [f"  {label}: {said}" for label, said in self.statuses[~self.ok].head(5).items()]
        return "\n".join(lines)


def optimize_many(
    energy: Energy | Sequence[Energy] | Mapping[Any, Energy],
    constraint: Constraint,
    *,
    mean: Any = None,
    covariance: Any = None,
    scenarios: Any = None,
    held: Any = None,
    assets: Sequence[str] | None = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    constructor: Constructor | None = None,
    jobs: int = 1,
    seed: int = 0,
    **more: Unpack[Surroundings],
) -> Allocations:
    """The lowest-energy portfolio of every one of many problems under the same rules; each as `optimize` finds it.

    Each of energy, mean, covariance, scenarios and held is one for all, or one for each problem: a sequence of them, a
    mapping from the problem's label (a date) to them, an array or tensor with the problems in front, or, for mean and
    held, a frame of problems x assets. What is alike is read and checked once; of convex problems also compiled once.
    Where energies are not convex and the rules leave no choice, the chains of all problems walk in one batch, and end
    where they would alone, up to rounding. Where tensors are on another device than the host's, the walks over choices
    of names are one batch there too, and a row that is not proven may differ from what `optimize` finds alone.

    Args:
        energy: the formula, or formulas.
        constraint: the rules.
        mean, covariance, scenarios, held, assets, groups, more: as in `optimize`.
        constructor: Convex() by default where the terms and rules are convex, else AnnealedLangevin().
        jobs: processes that solve side by side, each problem or batch by itself, where it is another constructor than
            Convex(); -1 for one a core. It changes no weight, but for rounding.
        seed: as in `optimize`, the same for each problem.

    Returns:
        Allocations; a problem whose input is bad, whose rules contradict one another, or that was not solved is a row
        with `ok` False and the sentence; the others are not touched by it.

    Raises:
        SpecError: an estimate is missing, labels disagree, or the constructor takes no such term or rule.
        ShapeError: the inputs are for different numbers of problems.

    Example:
        >>> optimize_many(Variance(), Budget() & LongOnly(), covariance={"2020": one, "2021": other}).weights

    Source: Boyd, S. and Vandenberghe, L. (2004), Convex Optimization.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs == 0:
        raise SpecError(f"optimize_many: jobs={jobs!r}; give a number of processes, or -1 for one a core.")
    spread = {"energy": _energies(energy)}
    for what, value in {"mean": mean, "covariance": covariance, "scenarios": scenarios, "held": held}.items():
        spread[what] = _spread(value, what)
    labels = _labels(spread)
    rows = [{key: found.at(place) for key, found in spread.items()} for place in range(len(labels))]
    reader = _Reader(constraint, assets, {"groups": groups, **more})
    problems: dict[int, Problem] = {}
    failed: dict[int, PortfolioEBMError] = {}
    for place, row in enumerate(rows):
        try:
            problems[place] = (row["energy"], reader(**row))
        except (DataError, ShapeError) as error:
            failed[place] = error
    solved = solve_all(list(problems.values()), constraint, constructor, seed, jobs)
    found = dict(zip(problems, solved, strict=True))
    answers = [found[place] if place in found else failed[place] for place in range(len(labels))]
    width = next((ctx.n_assets for _, ctx in problems.values()), 0)
    return _framed(answers, labels, reader.names if reader.names is not None else tuple(range(width)))


@dataclass(frozen=True)
class _Each:
    """`items`, one for each problem, with their `labels` where they have some; or one item for `all` of them."""

    items: list[Any]
    labels: list[Any] | None = None
    all: bool = False

    def at(self, place: int) -> Any:
        return self.items[0 if self.all else place]


class _Reader:
    """Reads the inputs of each problem as `optimize` does, those met before not again."""

    def __init__(self, constraint: Constraint, assets: Sequence[str] | None, shared: dict[str, Any]) -> None:
        self.constraint, self.names, self.shared = constraint, assets, shared
        self.width: int | None = None
        self._read: dict[tuple[int, ...], Read] = {}
        self._passed: set[tuple[Energy, int]] = set()

    def __call__(self, energy: Energy, **inputs: Any) -> Context:
        key = tuple(id(item) for item in inputs.values())
        if key not in self._read:
            self._read[key] = read(assets=self.names, **inputs, **self.shared)
        found = self._read[key]
        n = found.given.ctx.n_assets
        if self.width not in (None, n):
            raise ShapeError(f"The problem has {n} assets and the ones before it {self.width}.")
        if (energy, id(found)) not in self._passed:
            found.require(energy, self.constraint)
            self._passed.add((energy, id(found)))
        self.names, self.width = (self.names if self.names is not None else found.given.names), n
        return found.given.ctx


def _energies(energy: Any) -> _Each:
    if isinstance(energy, Energy):
        return _Each([energy], all=True)
    return _Each(list(energy.values()), list(energy)) if isinstance(energy, Mapping) else _Each(list(energy))


def _spread(value: Any, what: str) -> _Each:
    """An input by problem, told from one for all by its dimensions."""
    size = DIMENSIONS[what]
    if isinstance(value, pd.DataFrame) and size == 1:
        return _Each([row for _, row in value.iterrows()], list(value.index))
    if isinstance(value, Mapping):
        by_problem = any(_by_asset(item) for item in value.values()) or not value
        return _Each(list(value.values()), list(value)) if by_problem else _Each([value], all=True)
    if isinstance(value, (np.ndarray, Tensor)):
        return _Each(list(value)) if value.ndim == size + 1 else _Each([value], all=True)
    if isinstance(value, (list, tuple)):
        by_problem = any(np.ndim(item) >= size or isinstance(item, Mapping) for item in value) or not value
        return _Each(list(value)) if by_problem else _Each([value], all=True)
    return _Each([value], all=True)


def _by_asset(item: Any) -> bool:
    """Whether an item holds numbers by asset, so that it is one problem's: an array, a Series, a mapping by name."""
    return isinstance(item, Mapping) or np.ndim(item) > 0


def _labels(spread: Mapping[str, _Each]) -> list[Any]:
    """The labels of the problems: those of a mapping or frame, else their numbers.

    Raises:
        ShapeError: different numbers of problems.
        SpecError: labels disagree, or there is no problem at all.
    """
    counts = {key: len(found.items) for key, found in spread.items() if not found.all}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{key} for {count}" for key, count in counts.items())
        raise ShapeError(f"optimize_many: got {said} problems; give as many of each, or one for all.")
    if 0 in counts.values():
        raise SpecError(f"optimize_many: {', '.join(counts)} is empty; give at least one problem.")
    named = {key: found.labels for key, found in spread.items() if found.labels is not None}
    first = next(iter(named), None)
    if first is None:
        return list(range(next(iter(counts.values()), 1)))
    for key, labels in named.items():
        if labels != named[first]:
            raise SpecError(f"optimize_many: {key} and {first} have other labels; give the same ones, in one order.")
    return list(named[first])


def _framed(answers: Sequence[Solution | PortfolioEBMError], labels: list[Any], names: Sequence[Any]) -> Allocations:
    """The rows of all problems."""
    index = pd.Index(labels, name="problem")
    solved = [one if isinstance(one, Solution) else None for one in answers]
    none = np.full(len(names), np.nan)

    def series(name: str, items: list[Any], kind: Any) -> Any:
        return pd.Series(items, index=index, name=name, dtype=kind)

    return Allocations(
        weights=pd.DataFrame(
            [none if one is None else one.weights.detach().cpu().double().numpy() for one in solved],
            index=index, columns=pd.Index(names, name="asset"),
        ),
        energies=series("energy", [np.nan if one is None else one.energy for one in solved], float),
        proven=series("proven", [one is not None and one.proven for one in solved], bool),
        bounds=series("bound", [np.nan if one is None or one.bound is None else one.bound for one in solved], float),
        ok=series("ok", [one is not None and one.status.ok for one in solved], bool),
        statuses=series("status", [_said(one) for one in answers], object),
        residuals=_frame([{} if one is None else dict(one.residuals) for one in solved], index),
        breakdown=_frame([{} if one is None else dict(one.breakdown) for one in solved], index),
        kkt=series("kkt", [np.nan if one is None or one.kkt is None else one.kkt for one in solved], float),
        prices={label: one.shadow_prices for label, one in zip(labels, solved, strict=True) if one is not None},
        spans={label: {} if one is None else one.ranges for label, one in zip(labels, solved, strict=True)},
    )  # fmt: skip


def _frame(rows: Sequence[Mapping[Any, float]], index: pd.Index, pairs: bool = False) -> pd.DataFrame:
    """Rows by what they name, NaN where one does not; `pairs`: names are (term, end)."""
    columns: list[Any] = list(dict.fromkeys(key for row in rows for key in row))
    frame = pd.DataFrame([[row.get(key, np.nan) for key in columns] for row in rows], index, columns, dtype=float)
    if pairs and columns:
        frame.columns = pd.MultiIndex.from_tuples(columns, names=["term", "end"])
    return frame


def _said(answer: Solution | PortfolioEBMError) -> str:
    return str(answer.status) if isinstance(answer, Solution) else f"{type(answer).__name__}: {answer}"
