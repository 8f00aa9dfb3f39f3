"""train STRATEGY.py: an energy learnt from the past, stored by its fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="STRATEGY.py", help="Python file that defines STRATEGY; it is run.")]


def train(
    strategy: File,
    prices: Annotated[Path | None, typer.Option(help="Prices, CSV or parquet: a date column, then one per asset.")]
        = None,
    factors: Annotated[Path | None, typer.Option(help="Factor prices or returns; built from the prices if not given.")]
        = None,
    groups: Annotated[Path | None, typer.Option(help="Labels: an asset column, then one column per grouping.")] = None,
    until: Annotated[str | None, typer.Option(help="Last date that may be known; the last of the prices if not given.")]
        = None,
    objective: Annotated[str | None, typer.Option(help="ranking, or imitation.")] = None,
    risk_aversion: Annotated[float | None, typer.Option(help="g in the utility R - g/2 V - costs.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:  # fmt: skip
    """Learn an energy of weights and market features from how portfolios did; prints the ref for Learned(ref)."""
    import json

    from portfolio_ebm import learning
    from portfolio_ebm.data.sources.files import read_panel
    from portfolio_ebm.strategy import load

    found = load(strategy)
    panel = read_panel(prices, factors, groups)
    asked = {"objective": objective, "risk_aversion": risk_aversion}
    changes = {name: value for name, value in asked.items() if value is not None}
    recipe = learning.recipe_of(found).replace(**changes)
    trained = learning.train(found, panel, until=until, recipe=recipe, seed=seed)
    print(json.dumps(trained.facts, indent=2, allow_nan=False) if as_json else trained)
