"""anomalies: cells and days of a file of prices or returns that a market, walked forward over it, finds unlikely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from portfolio_ebm.errors import DataError, SpecError, StoreError

MODELS = ("FactorEBM", "EWMA")


def anomalies(
    prices: Annotated[Path | None, typer.Option(help="Prices, CSV or parquet; or a folder of a panel.")] = None,
    returns: Annotated[Path | None, typer.Option(help="Decimal returns in place of prices, CSV or parquet.")] = None,
    factors: Annotated[Path | None, typer.Option(help="Factor prices or returns; built from the prices if not given.")]
        = None,
    start: Annotated[str | None, typer.Option(help="First date judged; the first possible if not given.")] = None,
    end: Annotated[str | None, typer.Option(help="Last date judged.")] = None,
    model: Annotated[str, typer.Option(help="FactorEBM, or EWMA: a Student-t law, faster.")] = "FactorEBM",
    level: Annotated[float, typer.Option(help="Cells less likely than this are told.")] = 1e-4,
    out: Annotated[Path, typer.Option(help="Cells, as CSV or parquet; days go beside it.")] = Path("anomalies.csv"),
) -> None:  # fmt: skip
    """Cells and days that are unlikely given the days before them, each with the rule that says so."""
    if prices is None and returns is None:
        raise SpecError("Nothing to judge: give --prices FILE, or --returns FILE.")
    if model not in MODELS:
        raise SpecError(f"--model {model}: there is {' and '.join(MODELS)}.")
    from portfolio_ebm.data.doctor.fixing import ending_of, place
    from portfolio_ebm.data.sources.files import read_panel
    from portfolio_ebm.market.anomaly.report import anomaly_report
    from portfolio_ebm.market.ewma import EWMA
    from portfolio_ebm.market.factor_ebm import FactorEBM

    ending = ending_of(out)
    days = out.with_name(out.name.removesuffix(ending) + ".days" + ending)
    for path in (out, days):
        # Said before the work is done and not after it.
        if path.exists():
            raise StoreError(f"--out {out}: {path} is there already; choose another name, or remove it.")
    if not out.absolute().parent.is_dir():
        raise StoreError(f"--out {out}: there is no folder {out.absolute().parent}; make it first.")
    panel = read_panel(prices, factors, returns=returns)
    chosen = FactorEBM() if model == "FactorEBM" else EWMA(freedom="fit")
    short = chosen.lacking(panel.past(len(panel) - 1))
    if short is not None and model == "FactorEBM" and factors is None:
        raise DataError(
            f"{short}. Factors are built from the prices here: give your own with --factors, or take "
            "--model EWMA, which needs none and less history."
        )
    report = anomaly_report(chosen, panel, start=start, end=end, level=level)
    place(out, ending, report.cells, index=False)
    try:
        place(days, ending, report.days, index=True)
    except StoreError:
        out.unlink()
        raise
    print(report)
    print(f"Written to {out} (cells) and {days} (days).")
