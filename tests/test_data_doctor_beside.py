"""Dividends and adjusted closes held against each other, and forecasts against the returns around their date."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_data_doctor import DAYS, NAMES, look, only, world

from portfolio_ebm.data.doctor.forecasts import mean_and_error, rank_ics

PRICES = world()


def quarterly(step: int = 63, jitter: int = 3) -> pd.DataFrame:
    """Half a percent on every 63rd row or so."""
    rng = np.random.default_rng(11)
    paid = pd.DataFrame(0.0, DAYS, NAMES)
    for place, name in enumerate(NAMES):
        rows = np.arange(5 + place, len(DAYS), step)
        rows = np.clip(rows + rng.integers(-jitter, jitter + 1, len(rows)), 0, len(DAYS) - 1)
        paid.loc[DAYS[rows], name] = (PRICES[name].iloc[rows] * 0.005).round(2).fillna(0.0).to_numpy()
    return paid


def adjusted_by(paid: pd.DataFrame) -> pd.DataFrame:
    """Closes whose returns are total returns."""
    growth = ((PRICES + paid) / PRICES.shift(1)).fillna(1.0).cumprod()
    return (growth / growth.ffill().iloc[-1] * PRICES.ffill().iloc[-1]).where(PRICES.notna()).round(4)


@pytest.mark.parametrize("step", [21, 63, 126])
def test_a_hole_in_regular_dividends_is_found(step: int) -> None:
    paid = quarterly(step, jitter=min(3, step // 10))
    assert not only(look(PRICES, dividends=paid))
    rows = np.flatnonzero(paid["N03"].to_numpy() > 0)
    lost = int(rows[len(rows) // 2])
    paid.loc[DAYS[lost], "N03"] = 0.0
    (item,) = only(look(PRICES, dividends=paid))
    assert (item.kind, item.asset) == ("dividend", "N03")
    assert abs(np.busday_count(item.first, str(DAYS[lost].date()))) <= 8


def test_a_name_that_stops_paying_has_no_hole() -> None:
    paid = quarterly()
    paid.loc[DAYS[450] :, "N03"] = 0.0
    assert not only(look(PRICES, dividends=paid))


def test_closes_with_dividends_agree_with_adjusted_closes_or_the_day_is_told() -> None:
    paid = quarterly()
    adjusted = adjusted_by(paid)
    assert not only(look(PRICES, dividends=paid, adjusted=adjusted))
    row = int(np.flatnonzero(paid["N03"].to_numpy() > 0)[5])
    known = paid.copy()
    known.loc[DAYS[row], "N03"] = 0.0
    (item,) = only(look(PRICES, dividends=paid, adjusted=adjusted_by(known)))
    assert (item.kind, item.asset, item.first) == ("dividend", "N03", str(DAYS[row].date()))
    assert "not in the adjusted closes" in item.what
    found = only(look(PRICES, dividends=known, adjusted=adjusted))
    assert {item.asset for item in found} == {"N03"}
    (item,) = (item for item in found if "no dividend explains" in item.what)
    assert item.first == str(DAYS[row].date())
    assert f"{paid.loc[DAYS[row], 'N03']:.2f}"[:3] in item.what  # the amount itself


def test_adjusted_closes_alone_show_the_hole_in_what_they_imply() -> None:
    paid = quarterly()
    row = int(np.flatnonzero(paid["N03"].to_numpy() > 0)[6])
    paid.loc[DAYS[row], "N03"] = 0.0
    (item,) = only(look(PRICES, adjusted=adjusted_by(paid)))
    assert (item.kind, item.asset) == ("dividend", "N03")


def signals() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(4)
    noise = pd.DataFrame(rng.standard_normal(PRICES.shape), DAYS, NAMES)
    moves = PRICES.pct_change(fill_method=None)
    slow = np.log(PRICES).diff(60)
    return noise, moves / moves.std(), slow / slow.std()


def test_forecasts_that_know_the_next_return_are_told() -> None:
    noise, moves, _ = signals()
    (item,) = only(look(PRICES, forecasts=noise + 0.4 * moves.shift(-1)))
    assert item.kind == "look-ahead" and "next row" in item.what


def test_forecasts_that_know_their_own_day_are_told_with_when_that_is_fine() -> None:
    noise, moves, _ = signals()
    (item,) = only(look(PRICES, forecasts=noise + 0.3 * moves))
    assert item.kind == "look-ahead" and "own date" in item.what and "after that close" in item.remedy


def test_momentum_reversal_and_noise_are_no_alarm() -> None:
    noise, moves, slow = signals()
    for honest in (noise, slow, noise + slow, -moves, noise - moves, slow.shift(1)):
        assert not look(PRICES, forecasts=honest).where(lambda item: item.kind == "look-ahead")


def test_rank_correlations_are_those_of_the_textbook() -> None:
    forecast = np.array([[1.0, 2.0, 3.0, 4.0, 5.0, np.nan], [1.0, 1.0, 2.0, 3.0, 4.0, 9.0]])
    returns = np.array([[5.0, 4.0, 3.0, 2.0, 1.0, 7.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    got = rank_ics(forecast, returns, 0)
    assert got[0] == pytest.approx(-1.0)
    # ties take their mean rank: 1.5 1.5 3 4 5 6 against 1 .. 6; centred dot product 17, squares 17 and 17.5
    assert got[1] == pytest.approx(17.0 / np.sqrt(17.0 * 17.5))
    assert np.isnan(rank_ics(forecast, returns, 1)[1]) and rank_ics(forecast, returns, 1)[0] == pytest.approx(1.0)


def test_the_standard_error_is_that_of_a_mean_for_independent_numbers() -> None:
    x = np.random.default_rng(0).standard_normal(20_000)
    mean, error = mean_and_error(x)
    assert mean == pytest.approx(x.mean()) and error == pytest.approx(1 / np.sqrt(20_000), rel=0.06)
    held = np.repeat(x[:4000], 3)  # each number three times: the error of a third as many
    assert mean_and_error(held)[1] > 1.4 * held.std() / np.sqrt(len(held))
