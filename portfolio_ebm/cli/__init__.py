"""portfolio-ebm backtest | rebalance | check | train STRATEGY.py;  portfolio-ebm anomalies;  data fetch | doctor

Exit code 0 means success, 2 bad input with one sentence on stderr; a bug gives its traceback and 1. Results go to
stdout, progress to stderr. Everything heavy is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import sys

import typer

from portfolio_ebm.cli import anomalies, data, strategies, training
from portfolio_ebm.errors import PortfolioEBMError

app = typer.Typer(
    help="Portfolios as formulas of energies: certified feasible, with a bound on how far from optimal they can be.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
app.command()(strategies.backtest)
app.command()(strategies.rebalance)
app.command()(strategies.check)
app.command()(training.train)
app.command()(anomalies.anomalies)
app.add_typer(data.app, name="data")


def main() -> None:
    """The entry point: typed errors become one sentence and exit code 2."""
    try:
        app()
    except PortfolioEBMError as error:
        print(f"portfolio-ebm: {error}", file=sys.stderr)
        raise SystemExit(2) from None
