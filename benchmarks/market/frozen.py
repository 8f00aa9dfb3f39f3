"""The configuration that is scored, frozen before the test era is looked at.

While FROZEN_ON is None nothing of ours is scored after DEVELOPMENT_END, whatever the options say: the tables of the
test era then hold the baselines alone. `--development` scores SIX on 1980 to 1999, to choose it.
"""

from __future__ import annotations

from portfolio_ebm.market.factor_ebm import FactorEBM

DEVELOPMENT_START, DEVELOPMENT_END = "1980-01-01", "1999-12-31"

SIX = FactorEBM(orthogonalise="none")
"""The model of factors alone. Factors are taken as they are, so that each one's own density is in closed form."""

DEFAULT = FactorEBM()
"""What a user gets without a choice: styles less their causal beta times the market. Scored by its joint density."""

STOCKS = FactorEBM()
"""The model of factors and stocks together."""

FROZEN_ON: str | None = "2026-11-25"
"""The day on which all three were frozen, before the tables were made."""

VARIANTS = (
    "On the factors' years 1985 to 1999, 13 settings of the prior's widths, 4 lookbacks and 2 ways to take the factors "
    "(as they are, or less their beta) were compared by log score. On 1990 to 1999 a further 5 were scored: both ways "
    "to take the factors, each with and without the calibration energy, and a drift weighed by its own recent worth; "
    "and 20 memories and priors of a calibration learned out of sample were looked at through PITs. Styles less their "
    "beta won by joint score (-1.874 nats a day in percent units against -1.891); the calibration energy (-1.879 and "
    "-1.894) and the other drift (-1.924) lost and were left out. Of the years from 2000 on, development saw the "
    "bundled five factor funds and 20 stocks of 2016 to 2022, never these factors; the baselines' scores on these "
    "factors were known"
)
"""How many variants were tried on the development years, and what had been seen of the test era before freezing."""
