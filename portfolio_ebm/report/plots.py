"""The report's pictures, each a plotly figure as JSON; one design for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from portfolio_ebm.backtesting.metrics import drawdowns
from portfolio_ebm.backtesting.result import Result
from portfolio_ebm.report import findings

INK, QUIET, LINE = "#1b2333", "#667085", "#e7eaf0"
LEAD = ("#1d4ed8", "#98a2b3", "#d97706", "#0f766e")
MANY = (
    "#1d4ed8", "#0f766e", "#d97706", "#7c3aed", "#be185d", "#0891b2", "#65a30d",
    "#b45309", "#4338ca", "#dc2626", "#059669", "#9333ea",
)  # fmt: skip
CASH = "#dfe3ea"
POINTS = 1500
"""The most points of a line: more than a screen has columns for."""


def wealth(results: Sequence[Result]) -> str:
    """Growth of one, net of costs, on a logarithmic scale."""
    figure = go.Figure()
    for place, (item, colour) in enumerate(zip(findings.shared(results), LEAD, strict=False)):
        grown = _thin(item.wealth())
        figure.add_scatter(
            x=grown.index, y=grown.round(5), name=item.name, mode="lines",
            line={"color": colour, "width": 1.6 if place else 2.2}, hovertemplate="%{y:.3f}",
        )  # fmt: skip
    figure.update_yaxes(type="log", title="growth of 1", dtick="D2" if _spread(results) > 3.0 else None)
    return _json(figure, 360)


def drawdown(results: Sequence[Result]) -> str:
    """Loss from the highest wealth so far."""
    figure = go.Figure()
    for place, (item, colour) in enumerate(zip(findings.shared(results), LEAD, strict=False)):
        below = pd.Series(drawdowns(np.asarray(item.net, dtype=np.float64)), index=item.net.index)
        below = _thin(below)
        figure.add_scatter(
            x=below.index, y=below.round(5), name=item.name, mode="lines", fill="tozeroy" if place == 0 else None,
            line={"color": colour, "width": 1.6}, fillcolor="rgba(29,78,216,0.10)", hovertemplate="%{y:.1%}",
        )  # fmt: skip
    figure.update_yaxes(tickformat=".0%", title="below the peak")
    return _json(figure, 260)


def weights(result: Result) -> str:
    """What is held after each trade, the largest names and the rest, stacked; negative weights are drawn as lines."""
    rows = result.trades.index.union(result.weights.index[-1:])
    held = result.weights.loc[rows]
    order = held.abs().mean().sort_values(ascending=False)
    named = [name for name in order.index[: len(MANY)] if order[name] > 0.0]
    parts = {str(name): held[name] for name in named}
    rest = held.drop(columns=named).sum(axis=1)
    if (rest.abs() > 1e-9).any():
        parts["other names"] = rest
    short = bool((held < -1e-9).any().any())
    figure = go.Figure()
    colours = (*MANY[: len(named)], "#98a2b3")
    cash = result.cash.loc[rows]
    if (cash.abs() > 1e-6).any():
        parts["cash"], colours = cash, (*colours[: len(parts)], CASH)
    for (name, line), colour in zip(parts.items(), colours, strict=False):
        figure.add_scatter(
            x=line.index, y=line.round(6), name=name, mode="lines", stackgroup=None if short else "one",
            line={"color": colour if short else "white", "width": 1.4 if short else 0.5, "shape": "hv"},
            fillcolor=None if short else colour, hovertemplate="%{y:.1%}",
        )  # fmt: skip
    figure.update_yaxes(tickformat=".0%", title="weight", range=None if short else [0, 1])
    return _json(figure, 380)


def trading(result: Result) -> str:
    """Turnover of each trade, and what trading has cost so far."""
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    moved = result.turnover[result.turnover > 0.0]
    figure.add_bar(x=moved.index, y=moved.round(5), name="turnover", marker_color=LEAD[0], hovertemplate="%{y:.1%}")
    if result.costs.any():
        spent = _thin(result.costs.cumsum())
        figure.add_scatter(
            x=spent.index, y=spent.round(6), name="costs so far", mode="lines",
            line={"color": LEAD[2], "width": 1.8, "shape": "hv"},
            hovertemplate="%{y:.2%}", secondary_y=True,
        )  # fmt: skip
    figure.update_yaxes(tickformat=".0%", title="turnover", secondary_y=False)
    figure.update_yaxes(tickformat=".2%", title="costs so far", showgrid=False, rangemode="tozero", secondary_y=True)
    return _json(figure, 280)


def terms(table: pd.DataFrame) -> str:
    """Each term's range over feasible portfolios, and where the chosen portfolio lies in it (medians, in bps)."""
    figure = go.Figure()
    names = [_short(name) for name in table.index]
    figure.add_bar(
        y=names, x=(table["high"] - table["low"]) * 1e4, base=table["low"] * 1e4, orientation="h", width=0.36,
        marker_color="#c7d4f7", name="range over feasible portfolios", hovertemplate="%{base:.1f} to %{x:.1f} bps",
    )  # fmt: skip
    figure.add_scatter(
        y=names, x=table["share"] * 1e4, mode="markers", name="chosen portfolio",
        marker={"color": LEAD[0], "size": 11, "symbol": "diamond"}, hovertemplate="%{x:.1f} bps",
    )  # fmt: skip
    figure.update_xaxes(title="energy per holding period, basis points (lower is better)")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _json(figure, 150 + 46 * len(names), hover="closest")


def stages(result: Result) -> str:
    """Energy of each stage above that of the final portfolio, date by date, in basis points."""
    figure = go.Figure()
    columns = [name for name in result.decisions if str(name).startswith("stage: ") and name != "stage: final"]
    for name, colour in zip(columns, MANY, strict=False):
        above = (result.decisions[name] - result.decisions["energy"]) * 1e4
        figure.add_scatter(
            x=above.index, y=above.round(6), name=str(name).removeprefix("stage: "), mode="lines+markers",
            line={"color": colour, "width": 1.4}, marker={"size": 4}, hovertemplate="%{y:.3f} bps",
        )  # fmt: skip
    figure.update_yaxes(title="bps above the final energy")
    return _json(figure, 320)


def gaps(result: Result) -> str:
    """energy - bound per decision, in basis points of energy: how far from optimal each can be at most."""
    found = (result.decisions["gap"] * 1e4).clip(lower=0.0)
    figure = go.Figure()
    figure.add_bar(x=found.index, y=found.round(8), name="gap", marker_color=LEAD[0], hovertemplate="%{y:.4f} bps")
    figure.update_yaxes(title="gap, bps of energy", rangemode="tozero")
    figure.update_layout(showlegend=False)
    return _json(figure, 240)


def _json(figure: go.Figure, height: int, hover: str = "x unified") -> str:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 62, "r": 24, "t": 12, "b": 42},
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12.5, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        hovermode=hover,
        hoverlabel={"bgcolor": "white", "bordercolor": LINE, "font": {"color": INK}},
        bargap=0.35,
    )
    figure.update_xaxes(gridcolor=LINE, linecolor="#c9cfda", zeroline=False, tickfont={"color": QUIET})
    figure.update_yaxes(gridcolor=LINE, zerolinecolor="#c9cfda", tickfont={"color": QUIET}, title_standoff=8)
    figure.update_yaxes(title_font={"color": QUIET, "size": 12})
    figure.update_xaxes(title_font={"color": QUIET, "size": 12})
    text: Any = pio.to_json(figure, validate=False)
    return str(text)


def _thin(line: pd.Series[float]) -> pd.Series[float]:
    """At most POINTS of a line, the last one among them, evenly spaced."""
    if len(line) <= POINTS:
        return line
    rows = np.unique(np.linspace(0, len(line) - 1, POINTS).round().astype(int))
    return line.iloc[rows]


def _spread(results: Sequence[Result]) -> float:
    found = [item.wealth() for item in findings.shared(results)]
    return float(max(line.max() for line in found) / max(min(line.min() for line in found), 1e-9))


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) <= 46 else text[:45] + "…"
