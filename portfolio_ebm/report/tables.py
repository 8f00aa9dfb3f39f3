"""The table of results for terminals: the strategy beside its baselines, net of costs; 80 columns are enough."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from portfolio_ebm.backtesting.result import Result
from portfolio_ebm.report import findings


def results_table(results: Sequence[Result]) -> Table:
    """A rich table with figures down and strategies across; the first strategy is the one it is about."""
    figures = findings.table(results)
    dates = findings.shared(results)[0].net.index
    shown = Table(
        box=box.SIMPLE_HEAD,
        title=f"Net of costs, {dates[0]:%Y-%m-%d} to {dates[-1]:%Y-%m-%d}",
        title_justify="left",
        title_style="",
        pad_edge=False,
    )
    shown.add_column("")
    for place, name in enumerate(figures.columns):
        shown.add_column(Text(str(name)), justify="right", style="bold" if place == 0 else "", overflow="fold")
    for figure, row in figures.iterrows():
        shown.add_row(str(figure), *(str(cell) for cell in row))
    return shown


def print_results(results: Sequence[Result], console: Console) -> None:
    """The table, what it does not show, and the decisions that failed."""
    console.print(results_table(results))
    if len(results) > 1:
        for comparison in findings.compare(results[0], results[1:]):
            console.print(Text(comparison.sentence))
    for line in notes(results[0]):
        console.print(Text(line))


def notes(result: Result) -> list[str]:
    """Decisions, bounds and failures in a few lines."""
    decisions, failed = result.decisions, findings.failures(result)
    lines = [f"{len(decisions)} decisions, {len(failed)} failed."]
    if "gap" in decisions and decisions["gap"].notna().any():
        share = decisions["proven"].eq(True).mean()
        lines[0] += f" Proven optimal: {share:.0%}; largest gap to the bound {decisions['gap'].max():.1e}."
    if warning := findings.short(result):
        lines.append(warning)
    if not result.arguments["costs"]:
        lines.append("No trading costs: the strategy has no TradingCost term, or costs were set to none.")
    if len(failed):
        lines.append(f"First failure, {failed.index[0]:%Y-%m-%d}: {failed['status'].iloc[0]}")
    return lines


def plain(results: Sequence[Result], width: int = 80) -> str:
    """What `print_results` prints, as text without colours."""
    out = io.StringIO()
    print_results(results, Console(file=out, width=width, color_system=None, legacy_windows=False))
    return out.getvalue()
