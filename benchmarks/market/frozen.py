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

FROZEN_ON: str | None = "2026-11-29"
"""The day on which all three were frozen, before the tables were made."""

VARIANTS = (
    "An earlier configuration had been frozen, and its table of 2000 to 2019 had been seen, before this one was "
    "chosen: it missed the bars of a series alone and of the joint score, and SMB did worst. That was a reason to try"
    " a drift that forgets; what follows was chosen on 1985 to 1999 alone. There, 24 laws of a series alone were "
    "compared by log score (how fast the drift forgets, its predictors and its ridge; means of absolute moves in the "
    "scale; innovations less the drift; a skewed t; when training ends), then 14 copulas beside the default one (DCC,"
    " pools of both, weighted and bounded pushes, more half-lives, shares moved by recent scores; none gained 0.003 "
    "nats, so that the default stayed), and both ways to take the factors: less their beta +0.159 nats a day over "
    "GARCH-t + DCC-t there, as they are +0.140. Before that, for the earlier configuration: on 1985 to 1999 13 "
    "settings of the prior's widths, 4 lookbacks and 2 ways to take the factors; on 1990 to 1999 a further 5, and 20 "
    "memories and priors of a calibration learned out of sample, which was left out. In all 84. Of the years from "
    "2000 on, development saw besides that table the bundled five factor funds and 20 stocks of 2016 to 2022"
)
"""How many variants were tried on the development years, and what had been seen of the test era before freezing."""
