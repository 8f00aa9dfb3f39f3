"""The joint log score of the composed market on the bundled data, out of sample, beside simpler ones.

    python benchmarks/market_score.py [--start 2016-01-04]

Every day from `start` on, the day's 6 factors and 20 assets are scored under what each market knew the day before: log
density of the 26 decimal returns, nats a day. Beside the market: its energies as an independent sum, the same with
untrained residual laws, and Student-t laws on an exponentially weighted covariance of several half-lives. Intervals:
Newey-West, 95 %. `python -m benchmarks.market` is the long version, on longer data and with more models.
"""

from __future__ import annotations

import argparse
import os
import tempfile

from portfolio_ebm import EWMA, FactorEBM, bundled, score, score_summary

FACTORS = ("market", "MTUM", "QUAL", "SIZE", "USMV", "VLUE")
SHRINKAGE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", default="2016-01-04")
    given = parser.parse_args()
    os.environ.setdefault("PORTFOLIO_EBM_HOME", tempfile.mkdtemp(prefix="portfolio_ebm-"))
    whole = FactorEBM(factors=FACTORS)
    models = {
        "composed market": whole,
        "independent sum": whole.replace(dependence="none"),
        "untrained residuals": whole.replace(residual="ewma"),
    } | {
        f"EWMA-t, half-life {half:g}": EWMA(half_life=half, freedom="fit", factors=FACTORS, shrinkage=SHRINKAGE)
        for half in (23.0, 46.0, 69.0, 138.0)
    }  # fmt: skip
    panel = bundled()
    frames = {name: score(model, panel, start=given.start, draws=200) for name, model in models.items()}
    table = score_summary(frames).xs("all", level="series")
    print(f"{len(frames['composed market'])} days from {given.start}; the difference is to the composed market")
    shown = table[["log_score", "difference", "low", "high"]].sort_values("log_score", ascending=False)
    print(shown.round(3).to_string())


if __name__ == "__main__":
    main()
