"""The configuration that is scored, frozen before the test era is looked at.

While FROZEN_ON is None nothing of ours is scored after DEVELOPMENT_END, whatever the options say: the tables of the
test era then hold the baselines alone. `--development` scores SIX on 1980 to 1999, to choose it.
"""

from __future__ import annotations

from portfolio_ebm.market.factor_ebm import FactorEBM

DEVELOPMENT_START, DEVELOPMENT_END = "1980-01-01", "1999-12-31"

SIX = FactorEBM(orthogonalise="none", lookback=20000)
"""The model of factors alone. Factors are taken as they are, so that each one's own density is in closed form."""

STOCKS = FactorEBM()
"""The model of factors and stocks together."""

FROZEN_ON: str | None = "2026-11-24"
"""The day on which SIX and STOCKS were frozen, before the tables were made."""

VARIANTS = (
    "On the factors' years 1985 to 1999, 13 settings of the prior's widths, 4 lookbacks and 2 ways to take the factors "
    "(as they are, or less their beta) were compared by log score. Of the years from 2000 on, development saw the "
    "bundled five factor funds and 20 stocks of 2016 to 2022, never these factors."
)
"""How many variants were tried on the development years, and what had been seen of the test era before freezing."""
