"""score: a market model out of sample, day by day; score_summary: models beside one another.

    log_score_t = log p(r_t | past up to t - 1),    pit_t = P(R <= r_t | past up to t - 1), ...

The market of day t sees nothing after the close of t - 1. Higher log scores are better; the difference of two models'
means estimates how much closer, in nats a day, the one is to the true law (Kullback-Leibler).

Source: T. Gneiting and A. Raftery (2007), Strictly proper scoring rules, prediction, and estimation, Journal of the
American Statistical Association 102.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from portfolio_ebm.data.panel import Panel, When
from portfolio_ebm.errors import DataError, SpecError
from portfolio_ebm.market.base import DRAWS, Market, MarketModel
from portfolio_ebm.market.portfolio_tails import pit_of_draws, tail_of_draws
from portfolio_ebm.market.scoring_rules import Z95, christoffersen, fz0, hits, kupiec, newey_west, uniform_distance
from portfolio_ebm.types import generator

Array = NDArray[np.float64]
TAILS = (1, 5)
"""Percent of the tails of which value at risk and expected shortfall are forecast."""

ROOM = 8_000_000
"""Numbers that one batch of days may hold at once."""

FEWEST_DRAWS = 200
COLUMNS = (
    *("days", "log_score", "difference", "low", "high"),
    *(f"{what}{tail}" for tail in TAILS for what in ("hits", "kupiec", "christoffersen")),
    *("pit_ks", "pit_p", "fz5", "fz5_difference", "fz5_low", "fz5_high"),
)
ALL = "all"


def score(
    model: MarketModel,
    panel: Panel,
    *,
    start: When,
    end: When | None = None,
    refit: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Each day's forecast by `model` from the days before it, and how the day came out.

    Columns: `log_score` (nats, the joint density of the day's decimal returns of all series) and `observed`, the
    number of series behind it: a series that is missing on a day is integrated out, and the score is the density of
    those observed; NaN where none is or the law has no density. Then for each series NAME: `return:NAME`, `pit:NAME`
    (NaN where missing), and `var1:`, `es1:`, `var5:`, `es5:`, value at risk and expected shortfall of the worst 1 %
    and 5 %, as returns (losses negative). These are exact where the market has them in closed form (`Market.exact`),
    else from `draws` joint draws, one stream for each (seed, date): a PIT then has a standard error of at most
    1 / (2 sqrt(draws)).

    `attrs` of the frame: model, panel (fingerprint), seed, draws, days, exact.

    Args:
        model: any market model.
        panel: with the factors that the model names; a panel of factors alone will do.
        start, end: first and last day scored, dates or rows; without `end`, to the panel's last.
        refit: replaces the field `refit` of a model that trains at anchors ("YE", "QE", "ME"); other models estimate
            anew every day. None keeps the model's own.
        draws: draws a day, at least 200.
        seed: of the draws.

    Raises:
        DataError: too little history at `start` (the message has the first date possible), or data the model refuses.
        SpecError: too few draws.

    Example:
        >>> frame = score(EWMA(half_life=23, freedom="fit"), panel, start="2015-01-01")
        >>> frame["log_score"].mean()
    """
    if draws < FEWEST_DRAWS:
        raise SpecError(f"draws={draws}: give at least {FEWEST_DRAWS}; the 1 % tail is read off them.")
    rows = scored(model, panel, start, end)
    parts: list[dict[str, Array]] = []
    exact, at = True, 0
    size = len(panel.assets) + len(panel.factors)
    step = int(np.clip(ROOM // max(draws * size, size * size), 1, 252))
    while at < len(rows):
        chunk = rows[at : at + step]
        market = model.fit_days(panel, chunk, refit=refit)
        exact = exact and market.exact
        dates = [str(panel.dates[row].astype("datetime64[D]")) for row in chunk]
        parts.append(_score_days(market, realised(panel, market, chunk), dates, draws, seed))
        at += step
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    frame = pd.DataFrame(table, index=pd.DatetimeIndex(panel.dates[rows], name="date"))
    frame["observed"] = frame["observed"].astype(int)
    frame.attrs = {
        "model": repr(model.refitting(refit)),
        "panel": panel.fingerprint(),
        "seed": seed,
        "draws": None if exact else draws,
        "days": len(rows),
        "exact": exact,
    }
    return frame


def score_summary(frames: Mapping[str, pd.DataFrame], *, lags: int | None = None) -> pd.DataFrame:
    """Models beside one another, on the same days and series.

    Rows are (model, series); the series "all" has the joint log score and means over the series. Columns:

    - days, log_score (mean, nats a day); difference, low, high: less the first model's, with its 95 % interval
      (Newey-West, `lags`, or the rule 4 (T / 100)^(2/9));
    - hits1, hits5: share of days at or below value at risk; kupiec1, ..., christoffersen1, ...: p-values of the tests
      of coverage and of conditional coverage, per series only, for series are not independent of one another;
    - pit_ks, pit_p: Kolmogorov-Smirnov distance of the PITs from uniform, and its p-value;
    - fz5: mean FZ0 loss of the 5 % tail, lower is better; fz5_difference, fz5_low, fz5_high: less the first model's.

    Raises:
        DataError: no frame, or frames of different days, series or returns; the message says which.

    Example:
        >>> score_summary({"EWMA-t": score(EWMA(freedom="fit"), panel, start=t), "ours": score(ours, panel, start=t)})
    """
    if not frames:
        raise DataError("score_summary: give at least one frame, {name: score(model, panel, start=...)}.")
    first_name = next(iter(frames))
    first = frames[first_name]
    names = _series(first, first_name)
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, frame in frames.items():
        _check_alike(first_name, first, name, frame)
        single = {series: _single(frame, first, series, lags) for series in names}
        found[name, ALL] = _joint(frame, first, single, lags)
        found |= {(name, series): row for series, row in single.items()}
    index = pd.MultiIndex.from_tuples(list(found), names=["model", "series"])
    return pd.DataFrame(list(found.values()), index=index, columns=list(COLUMNS))


def scored(model: MarketModel, panel: Panel, start: When | None, end: When | None) -> list[int]:
    """The rows to be scored, all with history enough; without `start` the first such row and all after it.

    Raises:
        DataError: too little history at `start`, with the first date possible; or no date has enough.
    """
    part = panel.cut(start, end)
    first = int(np.searchsorted(panel.dates, part.dates[0]))
    missing = "a day is scored from the days before it" if first == 0 else model.lacking(panel.past(first - 1))
    if missing is None:
        return list(range(first, first + len(part)))
    low, high = max(first, 1), len(panel)
    # History only grows, so the first date with enough of it is found by halving.
    while low < high:
        middle = (low + high) // 2
        if model.lacking(panel.past(middle - 1)) is None:
            high = middle
        else:
            low = middle + 1
    if start is None and low < first + len(part):
        return list(range(low, first + len(part)))
    hint = f"start at {_day(panel, low)}" if low < len(panel) else f"no date up to {panel.end} has enough of it"
    raise DataError(f"{_day(panel, first)} cannot be scored: {missing}; {hint}.")


def realised(panel: Panel, market: Market, rows: list[int]) -> Tensor:
    """The days' returns in the market's order, (D, S)."""
    columns = [panel.factors.index(name) for name in market.factors]
    both = np.concatenate([panel.factor_returns[rows][:, columns], panel.returns[rows]], axis=1)
    if len(set(market.series)) < len(market.series):
        twice = sorted({name for name in market.series if market.series.count(name) > 1})
        raise DataError(f"{', '.join(twice)}: both a factor and an asset; rename one, scores are kept by name.")
    return torch.from_numpy(both)


def _score_days(market: Market, r: Tensor, dates: list[str], draws: int, seed: int) -> dict[str, Array]:
    """The columns of one batch of days with returns r (D, S)."""
    observed = (~torch.isnan(r)).sum(-1)
    value = torch.full((len(r),), torch.nan, dtype=r.dtype)
    if market.has_density:
        value = torch.where(observed > 0, market.log_prob(r), torch.nan)
    levels = [1 - tail / 100 for tail in TAILS]
    if market.exact:
        pit = market.pit(r)
        single = torch.eye(r.shape[-1], dtype=r.dtype)[None]
        tails = [market.var_es(single, level) for level in levels]
    else:
        drawn = market.sample(draws, [generator(seed, f"{date}/score") for date in dates])
        pit = pit_of_draws(drawn, r, 1)
        tails = [tail_of_draws(drawn, level) for level in levels]
    out = {"log_score": value.numpy(), "observed": observed.numpy().astype(np.float64)}
    for i, name in enumerate(market.series):
        out |= {f"return:{name}": r[:, i].numpy(), f"pit:{name}": pit[:, i].numpy()}
        for tail, (var, es) in zip(TAILS, tails, strict=True):
            out |= {f"var{tail}:{name}": var[:, i].numpy(), f"es{tail}:{name}": es[:, i].numpy()}
    return out


def _joint(
    frame: pd.DataFrame, first: pd.DataFrame, single: Mapping[str, Mapping[str, float]], lags: int | None
) -> dict[str, float]:
    """The joint log score, and means over the series."""
    value, other = _column(frame, "log_score"), _column(first, "log_score")
    row = {"days": float(len(frame)), "log_score": _mean(value)} | _against(value - other, lags, "")
    for column in ("hits1", "hits5", "pit_ks", "fz5"):
        row[column] = _mean(np.array([item[column] for item in single.values()]))
    gap = np.stack([_loss(frame, name) - _loss(first, name) for name in single], axis=1)
    known = np.isfinite(gap)
    count = known.sum(axis=1)
    daily = np.where(count > 0, np.where(known, gap, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
    return row | _against(daily, lags, "fz5_")


def _single(frame: pd.DataFrame, first: pd.DataFrame, name: str, lags: int | None) -> dict[str, float]:
    r = _column(frame, f"return:{name}")
    row = {"days": float(np.isfinite(r).sum())}
    for tail in TAILS:
        hit = hits(r, _column(frame, f"var{tail}:{name}"))
        row[f"hits{tail}"] = _mean(hit)
        row[f"kupiec{tail}"] = kupiec(hit, tail / 100)
        row[f"christoffersen{tail}"] = christoffersen(hit, tail / 100)
    row["pit_ks"], row["pit_p"] = uniform_distance(_column(frame, f"pit:{name}"))
    loss = _loss(frame, name)
    row["fz5"] = _mean(loss)
    return row | _against(loss - _loss(first, name), lags, "fz5_")


def _loss(frame: pd.DataFrame, name: str) -> Array:
    r, var, es = (_column(frame, f"{what}:{name}") for what in ("return", "var5", "es5"))
    return fz0(r, var, es, 0.05)


def _against(gap: Array, lags: int | None, prefix: str) -> dict[str, float]:
    """The mean difference with its 95 % interval."""
    mean, half = _mean(gap), Z95 * newey_west(gap, lags)
    return {f"{prefix}difference": mean, f"{prefix}low": mean - half, f"{prefix}high": mean + half}


def _check_alike(first_name: str, first: pd.DataFrame, name: str, frame: pd.DataFrame) -> None:
    if not frame.index.equals(first.index):
        raise DataError(
            f"score_summary: '{name}' has {len(frame)} days and '{first_name}' {len(first)}, or other ones; "
            "score both with the same start and end."
        )
    mine, theirs = set(_series(frame, name)), set(_series(first, first_name))
    if mine != theirs:
        odd = ", ".join(sorted(mine ^ theirs)[:8])
        raise DataError(
            f"score_summary: '{name}' and '{first_name}' are not over the same series ({odd}); densities over "
            "different series cannot be compared: give plain models the same factors=(...)."
        )
    for series in theirs:
        if not np.array_equal(_column(frame, f"return:{series}"), _column(first, f"return:{series}"), equal_nan=True):
            raise DataError(f"score_summary: '{name}' and '{first_name}' saw different returns of {series}.")


def _series(frame: pd.DataFrame, name: str) -> list[str]:
    found = [str(column)[len("return:") :] for column in frame.columns if str(column).startswith("return:")]
    if not found or "log_score" not in frame:
        raise DataError(f"score_summary: '{name}' is no frame of score(): it has no column log_score or return:NAME.")
    return found


def _column(frame: pd.DataFrame, name: str) -> Array:
    return np.asarray(frame[name], dtype=np.float64)


def _mean(x: Array) -> float:
    x = x[np.isfinite(x)]
    return float(x.mean()) if len(x) else float("nan")


def _day(panel: Panel, row: int) -> str:
    return str(panel.dates[row].astype("datetime64[D]"))
