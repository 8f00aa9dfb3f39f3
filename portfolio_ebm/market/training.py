"""Which energies a market needs, which of them the store has, and the training of the rest in one batch.

Every series is trained at its anchor, the last row of the last completed year (or quarter, or month where the year
before left too little), and read back until the next one. A series' key covers its own data and configuration only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.data.calendar import anchor
from portfolio_ebm.market.dependence import Dependence, DependenceEnergy, Independent, scores
from portfolio_ebm.market.states import Series
from portfolio_ebm.market.store import Entry, Store, key
from portfolio_ebm.models import calibration
from portfolio_ebm.models.conditional import Conditional
from portfolio_ebm.models.families import Layout, Mixed
from portfolio_ebm.training.maximum_likelihood import maximum_likelihood
from portfolio_ebm.types import Status

Array = NDArray[np.float64]

VERSION = 8
"""Raised when the same configuration and data would train to something else."""

SCORES = "scores"
"""What scores are stored as, beside the tensors of the dynamics: they take longer to make than all the correlations."""

YOUNG = "kept at the prior"
"""What is said of a series with too little history for an energy of its own."""

FEW = "held near the prior"
"""What is said of an energy that was trained on fewer days than it has parameters."""


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
        reused: labels read from the store, with the seconds that their training took when it was done.
        problems: sentences about fits that did not converge or were not made.
        known: PITs of the rows up to the anchor, kept beside each fit; none for the prior.
    """

    parameters: Tensor
    keys: tuple[str, ...]
    anew: tuple[str, ...]
    reused: tuple[tuple[str, float], ...]
    problems: tuple[str, ...]
    known: tuple[Tensor, ...]


def train(
    series: Series,
    labels: Sequence[str],
    family: Mixed,
    calendar: Calendar,
    store: Store,
    *,
    fewest: int,
    facts: Sequence[Mapping[str, Any]],
    data: Callable[[int, int], tuple[Array, ...]],
    lookbacks: Sequence[int | None] | None = None,
) -> Trained:
    """Energies for every column of `series`: read from the store, or trained in one batch an anchor and a family.

    Args:
        series: the series with their states.
        labels: "factor MTUM", "residual AAPL", ...
        family: each column's family.
        calendar: where training happens.
        store: where fits are kept.
        fewest: usable rows below which a series keeps the prior.
        facts: configuration that goes into each column's key.
        data: (column, rows) -> the arrays that this column's series was made from, cut at its anchor.
        lookbacks: usable rows up to the anchor that each column learns from; None for all.
    """
    scored = series.scored
    counts = scored.numpy().cumsum(axis=1).astype(np.float64)
    parameters = [each.prior()[0] for each in family.families]
    keys, problems, reused = [""] * len(labels), list[str](), list[tuple[str, float]]()
    known = [torch.empty(0, dtype=torch.float64)] * len(labels)
    missing: dict[int, list[int]] = {}
    for m, label in enumerate(labels):
        found = calendar.choose(counts[m], fewest)
        if found is None:
            problems.append(f"{label}: {int(counts[m, -1])} usable rows, fewer than {fewest}: {YOUNG}")
            continue
        row, _ = found
        own = {**facts[m], "what": label.split(" ")[0], "family": repr(family.families[m]), "version": VERSION}
        keys[m] = key(own, *data(m, row + 1))
        entry = store.get(keys[m])
        if entry is None:
            missing.setdefault(row, []).append(m)
        else:
            parameters[m], known[m] = entry.tensors["parameters"], entry.tensors["levels"]
            reused.append((label, float(entry.facts.get("seconds", 0.0))))
            _note(entry, label, family.families[m], problems)
    for row, models in missing.items():
        learn = _last(scored[:, : row + 1], lookbacks)
        for m, entry in _train_batch(series, learn, labels, models, family, calendar, store, keys):
            parameters[m], known[m] = entry.tensors["parameters"], entry.tensors["levels"]
            _note(entry, labels[m], family.families[m], problems)
    anew = tuple(labels[m] for models in missing.values() for m in models)
    return Trained(family.join(parameters), tuple(keys), anew, tuple(reused), tuple(problems), tuple(known))


def untrained(labels: Sequence[str], family: Mixed) -> Trained:
    """The prior, a plain EWMA Student-t law, for every label."""
    keys = tuple(f"prior {VERSION}" for _ in labels)
    return Trained(family.prior()[0], keys, (), (), (), (torch.empty(0, dtype=torch.float64),) * len(labels))


def _last(scored: Tensor, lookbacks: Sequence[int | None] | None) -> Tensor:
    """Bool (M, N): the last so many of each column's usable rows."""
    if lookbacks is None or not any(lookbacks):
        return scored
    most = torch.tensor([each or scored.shape[1] for each in lookbacks])
    left = scored.flip(-1).cumsum(-1).flip(-1)
    return scored & (left <= most[:, None])


def _train_batch(
    series: Series,
    learn: Tensor,
    labels: Sequence[str],
    models: list[int],
    family: Mixed,
    calendar: Calendar,
    store: Store,
    keys: Sequence[str],
) -> list[tuple[int, Entry]]:
    """Each model of `models` with its stored fit; `learn` (M, N) are the rows that count, up to the anchor."""
    rows = slice(0, learn.shape[1])
    date = calendar.names[calendar.rows.index(learn.shape[1] - 1)]
    found = []
    for layout, places in family.models(models).groups:
        mine = [models[place] for place in places]
        began = time.perf_counter()
        fit = maximum_likelihood(
            layout, series.state.models(mine).rows(rows), series.target[mine, rows], learn[mine]
        )  # fmt: skip
        seconds = (time.perf_counter() - began) / len(mine)
        for place, m in enumerate(mine):
            facts = {
                "series": labels[m],
                "trained_to": date,
                "rows": int(learn[m].sum()),
                "log_likelihood": float(fit.log_likelihood[place]),
                "converged": fit.statuses[place].ok,
                "status": fit.statuses[place].message,
                "seconds": seconds,
            }
            tensors = {"parameters": fit.parameters[place]}
            tensors["levels"] = _levels(series, m, layout, fit.parameters[place], rows)
            found.append((m, store.put(keys[m], tensors, facts)))
    return found


def _note(entry: Entry, label: str, layout: Layout, problems: list[str]) -> None:
    if not entry.facts.get("converged", True):
        problems.append(f"{label}: {entry.facts.get('status')}")
    elif entry.facts["rows"] < layout.size:
        problems.append(f"{label}: {entry.facts['rows']} usable rows, fewer than its {layout.size} parameters: {FEW}")


def levels(series: Series, family: Mixed, fit: Trained, calibrated: Sequence[bool]) -> tuple[Array, Tensor | None]:
    """PITs of every scored row, (T, M), NaN elsewhere, and the calibration of every row, (M, T + 1, 6), or None.

    A calibrated part's PITs are the calibrated ones: what a copula should see. Those up to the anchor come with the
    fit, and the days since then are few.
    """
    days = len(series.x)
    found = []
    for m, layout in enumerate(family.families):
        since = slice(len(fit.known[m]), days)
        found.append(torch.cat([fit.known[m], _levels(series, m, layout, fit.parameters[m], since)]))
    out = torch.stack(found, -1)
    if not any(calibrated):
        return out.numpy(), None
    path = calibration.theta_path(out) * torch.tensor(calibrated, dtype=torch.float64)[:, None]
    return calibration.level(out, path[:-1]).numpy(), path.transpose(0, 1).contiguous()


def _levels(series: Series, m: int, layout: Layout, parameters: Tensor, rows: slice) -> Tensor:
    """PITs of some rows of series m, NaN where it is not scored: one series at a time keeps the tables in the cache."""
    with torch.no_grad():
        law = Conditional(layout, parameters[None, : layout.size], series.state.models([m]).rows(rows))
        return torch.where(series.scored[m, rows], law.pit(series.target[m : m + 1, rows])[0], torch.nan)


def train_dependence(
    spec: DependenceEnergy,
    u: Array,
    keys: Sequence[str],
    label: str,
    calendar: Calendar,
    store: Store,
    *,
    fewest: int,
    data: tuple[Array, ...],
) -> tuple[Dependence, Array, bool]:
    """The dependence of PITs u (T, K) as of its anchor, its scores up to there, and whether it was fitted now."""
    nothing = np.empty((0, u.shape[1]))
    if isinstance(spec, Independent):
        return Dependence.none(), nothing, False
    together = ((~np.isnan(u)).sum(axis=1) >= 2).cumsum().astype(np.float64)
    found = calendar.choose(together, fewest)
    if found is None or u.shape[1] < 2:
        return Dependence.none(), nothing, False
    row, date = found
    question = {"what": label, "spec": spec.model_dump_json(), "parts": list(keys), "version": VERSION}
    name = key(question, *(array[: row + 1] for array in data))
    entry = store.get(name)
    if entry is None:
        fitted = spec.fit(u[: row + 1])
        facts = {"series": label, "trained_to": date, "ok": fitted.status.ok, "status": fitted.status.message}
        facts["freedom"] = None if np.isinf(fitted.freedom) else fitted.freedom
        tensors = {} if fitted.dynamics is None else fitted.dynamics.tensors()
        known = scores(u[: row + 1], fitted.freedom)
        store.put(name, tensors | {SCORES: torch.from_numpy(known)}, facts)
        return fitted, known, True
    freedom = entry.facts["freedom"]
    status = Status(bool(entry.facts["ok"]), str(entry.facts["status"]))
    tensors = {what: tensor for what, tensor in entry.tensors.items() if what != SCORES}
    dynamics = spec.dynamics(tensors) if tensors else None
    found_again = Dependence(dynamics, float("inf") if freedom is None else float(freedom), status)
    return found_again, entry.tensors[SCORES].numpy(), False
