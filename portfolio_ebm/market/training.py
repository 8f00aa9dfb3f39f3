"""Which energies a market needs, which of them the store has, and the training of the rest in one batch.

Every series is trained at its anchor, the last row of the last completed year (or quarter, or month where the year
before left too little), and read back until the next one. A series' key covers its own data and configuration only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.data.calendar import anchor
from portfolio_ebm.market.dependence import Dependence, fit_dependence
from portfolio_ebm.market.states import FAMILY, Series
from portfolio_ebm.market.store import Entry, Store, key
from portfolio_ebm.models.conditional import Conditional
from portfolio_ebm.training.maximum_likelihood import maximum_likelihood
from portfolio_ebm.types import Status

Array = NDArray[np.float64]

VERSION = 2
"""Raised when the same configuration and data would train to something else."""


YOUNG = "kept at the prior"
"""What is said of a series with too little history for an energy of its own."""


@dataclass(frozen=True)
class Calendar:
    """Rows (counted from the window's first) at which energies may be trained, most settled first.

    Attributes:
        start: the window's first row in the past.
        rows: last row of the last completed year, quarter, month; None where none is completed.
        names: the dates of these rows.
    """

    start: int
    rows: tuple[int | None, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, dates: NDArray[np.datetime64], rule: str, lookback: int) -> Calendar:
        """The window reaches `lookback` rows back from the last completed period and on to today."""
        rules = ("YE", "QE", "ME")[("YE", "QE", "ME").index(rule) :]
        found = [anchor(dates, each) for each in rules]
        first = next((row for row in found if row is not None), len(dates) - 1)
        start = max(0, first + 1 - lookback)
        names = tuple("" if row is None else str(dates[row].astype("datetime64[D]")) for row in found)
        return cls(start, tuple(None if row is None else row - start for row in found), names)

    def choose(self, counts: Array, fewest: int) -> tuple[int, str] | None:
        """The first anchor with `fewest` usable rows up to it; counts (T,) are cumulative."""
        for row, name in zip(self.rows, self.names, strict=True):
            if row is not None and row >= 0 and counts[row] >= fewest:
                return row, name
        return None


@dataclass(frozen=True)
class Trained:
    """Energies of M series.

    Attributes:
        parameters: (M, P); the prior where there was too little to learn from.
        keys: what the store knows each by; "" for the prior.
        anew: labels that were trained now.
        problems: sentences about fits that did not converge or were not made.
    """

    parameters: Tensor
    keys: tuple[str, ...]
    anew: tuple[str, ...]
    problems: tuple[str, ...]


def train(
    series: Series,
    labels: Sequence[str],
    calendar: Calendar,
    store: Store,
    *,
    fewest: int,
    facts: Mapping[str, Any],
    data: Callable[[int, int], tuple[Array, ...]],
) -> Trained:
    """Energies for every column of `series`: read from the store, or trained in one batch an anchor.

    Args:
        series: the series with their states.
        labels: "factor MTUM", "residual AAPL", ...
        calendar: where training happens.
        store: where fits are kept.
        fewest: usable rows below which a series keeps the prior.
        facts: configuration that goes into every key.
        data: (column, rows) -> the arrays that this column's series was made from, cut at its anchor.
    """
    prior = FAMILY.prior()[0]
    scored = series.scored
    counts = scored.numpy().cumsum(axis=1).astype(np.float64)
    parameters: list[Tensor] = [prior] * len(labels)
    keys, problems = [""] * len(labels), list[str]()
    missing: dict[int, list[int]] = {}
    for m, label in enumerate(labels):
        found = calendar.choose(counts[m], fewest)
        if found is None:
            problems.append(f"{label}: {int(counts[m, -1])} usable rows, fewer than {fewest}: {YOUNG}")
            continue
        row, _ = found
        keys[m] = key(
            {**facts, "what": label.split(" ")[0], "family": repr(FAMILY), "version": VERSION}, *data(m, row + 1)
        )
        entry = store.get(keys[m])
        if entry is None:
            missing.setdefault(row, []).append(m)
        else:
            parameters[m] = entry.tensors["parameters"]
            _note(entry, label, problems)
    for row, models in missing.items():
        for m, entry in zip(models, _train_batch(series, labels, models, row, calendar, store, keys), strict=True):
            parameters[m] = entry.tensors["parameters"]
            _note(entry, labels[m], problems)
    anew = tuple(labels[m] for models in missing.values() for m in models)
    return Trained(torch.stack(parameters), tuple(keys), anew, tuple(problems))


def untrained(labels: Sequence[str]) -> Trained:
    """The prior, a plain EWMA Student-t law, for every label."""
    keys = tuple(f"prior {VERSION}" for _ in labels)
    return Trained(FAMILY.prior()[0].expand(len(labels), -1), keys, (), ())


def _train_batch(
    series: Series,
    labels: Sequence[str],
    models: list[int],
    row: int,
    calendar: Calendar,
    store: Store,
    keys: Sequence[str],
) -> list[Entry]:
    rows = slice(0, row + 1)
    state = series.state.models(models).rows(rows)
    fit = maximum_likelihood(FAMILY, state, series.target[models, rows], series.scored[models, rows])
    date = calendar.names[calendar.rows.index(row)]
    entries = []
    for place, m in enumerate(models):
        status = fit.statuses[place]
        facts = {
            "series": labels[m],
            "trained_to": date,
            "rows": int(series.scored[m, rows].sum()),
            "log_likelihood": float(fit.log_likelihood[place]),
            "converged": status.ok,
            "status": status.message,
        }
        entries.append(store.put(keys[m], {"parameters": fit.parameters[place]}, facts))
    return entries


def _note(entry: Entry, label: str, problems: list[str]) -> None:
    if not entry.facts.get("converged", True):
        problems.append(f"{label}: {entry.facts.get('status')}")


def levels(series: Series, parameters: Tensor) -> Array:
    """PITs of every scored row, (T, M), NaN elsewhere; series by series, which keeps the tables in the cache."""
    rows = slice(0, len(series.x))
    target, scored = series.target, series.scored
    out = np.full(series.x.shape, np.nan)
    with torch.no_grad():
        for m in range(len(parameters)):
            law = Conditional(FAMILY, parameters[m : m + 1], series.state.models([m]).rows(rows))
            u = law.pit(target[m : m + 1])[0].numpy()
            out[:, m] = np.where(scored[m].numpy(), u, np.nan)
    return out


def train_dependence(
    u: Array, keys: Sequence[str], label: str, calendar: Calendar, store: Store, *, fewest: int, data: tuple[Array, ...]
) -> tuple[Dependence, bool]:
    """The dependence of PITs u (T, K) as of its anchor, and whether it was fitted now."""
    together = ((~np.isnan(u)).sum(axis=1) >= 2).cumsum().astype(np.float64)
    found = calendar.choose(together, fewest)
    if found is None or u.shape[1] < 2:
        return Dependence.none(), False
    row, date = found
    name = key({"what": label, "parts": list(keys), "version": VERSION}, *(array[: row + 1] for array in data))
    entry = store.get(name)
    if entry is None:
        fitted = fit_dependence(u[: row + 1], first=0)
        facts = {"series": label, "trained_to": date, "freedom": fitted.freedom, "ok": fitted.status.ok}
        facts["status"] = fitted.status.message
        if np.isinf(fitted.freedom):
            facts["freedom"] = None
        store.put(name, {"shares": fitted.shares}, facts)
        return fitted, True
    freedom = entry.facts["freedom"]
    status = Status(bool(entry.facts["ok"]), str(entry.facts["status"]))
    return Dependence(entry.tensors["shares"], float("inf") if freedom is None else float(freedom), status), False
