"""The report as one file: tables that read without JavaScript, charts with plotly's code inside, nothing from outside.

The same result gives the same bytes: there is no wall-clock time in it. All text of users is escaped by the template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from portfolio_ebm.backtesting.result import Result
from portfolio_ebm.data.panel import Panel
from portfolio_ebm.report import decisions, findings, plots
from portfolio_ebm.strategy import Strategy

CARDS = (
    "annual return",
    "annual volatility",
    "Sharpe ratio (annual)",
    "max drawdown",
    "turnover a year",
    "costs a year",
)


def render(strategy: Strategy, panel: Panel, results: Sequence[Result]) -> str:
    """The report of `results[0]`, a run of `strategy`, beside the others as one self-contained HTML document.

    Example:
        >>> html = render(strategy, panel, [result, one_over_n])
        >>> Path("report.html").write_text(html, encoding="utf-8")
    """
    result, others = results[0], results[1:]
    table = findings.table(results)
    dates = findings.shared(results)[0].net.index
    terms, stages = decisions.term_table(result), decisions.stage_table(result)
    rules = [(repr(rule), rule.explain()) for rule in strategy.constraint.rules()]
    page: dict[str, Any] = {
        "name": result.name,
        "first": f"{dates[0]:%Y-%m-%d}",
        "last": f"{dates[-1]:%Y-%m-%d}",
        "cards": _cards(table),
        "table": [(figure, list(row)) for figure, row in zip(table.index, table.to_numpy().tolist(), strict=True)],
        "columns": list(table.columns),
        "comparisons": findings.compare(result, others),
        "short": findings.short(result) or "",
        "formula": repr(strategy.energy),
        "parts": _parts(strategy),
        "rules": rules,
        "terms": _term_rows(terms),
        "stages": _stage_rows(stages),
        "search": [(name, [f"{value:.4g}" for value in row]) for name, row in _rows(decisions.search_table(result))],
        "refits": decisions.refits(result),
        "lines": decisions.lines(result),
        "failed": len(findings.failures(result)),
        "proof": _proof(result),
        "exact": _exact(result),
        "events": [{k: str(v) for k, v in row.items()} for row in _events(result)],
        "assumptions": findings.assumptions(result, panel),
        "data": panel.describe().splitlines(),
        "manifest": json.dumps(dict(result.manifest), indent=2, sort_keys=True),
        "charts": {name: Markup(_embedded(text)) for name, text in _charts(results, terms, stages).items()},
        "plotly": Markup(_plotly()),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = (files("portfolio_ebm.report") / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(page)


def _cards(table: Any) -> list[dict[str, str]]:
    lead, beside = table.columns[0], table.columns[1:2]
    rows = [name for name in CARDS if name in table.index]
    return [
        {
            "label": name.removesuffix(" (annual)"),
            "value": str(table.loc[name, lead]),
            "beside": f"{beside[0]}: {table.loc[name, beside[0]]}" if len(beside) else "",
        }
        for name in rows
    ]


def _parts(strategy: Strategy) -> list[tuple[str, str]]:
    market = "none: the construction needs no estimates" if strategy.market is None else repr(strategy.market)
    return [("Market", market), ("Constructor", repr(strategy.constructor)), ("Decides", repr(strategy.rebalance))]


def _term_rows(terms: Any) -> list[dict[str, str]]:
    rows = []
    for name, row in _rows(terms):
        share, low, high, _, part = (float(value) for value in row)
        known = part == part
        rows.append({
            "name": name, "share": f"{share * 1e4:.2f}",
            "range": f"{low * 1e4:.2f} to {high * 1e4:.2f}" if known else "–",
            "part": f"{part:.0%}" if known else "–",
            "verdict": "decides nothing" if part < 0.01 else "decides little" if part < 0.1 else "",
        })  # fmt: skip
    return rows


def _stage_rows(stages: Any) -> list[dict[str, str]]:
    shown = {"mean": ".4f", "worst": ".4f", "improved": ".0%", "dates": ".0f"}
    return [
        {"name": name, **{what: f"{value:{how}}" for (what, how), value in zip(shown.items(), row, strict=True)}}
        for name, row in _rows(stages)
    ]


def _proof(result: Result) -> str:
    table = result.decisions
    if "gap" not in table or not table["gap"].notna().any():
        return "No bound is known for these decisions, so nothing is said about how far from optimal they are."
    known = table.loc[table["gap"].notna()]
    share, blank = known["proven"].astype(bool).mean(), int((table["ok"].astype(bool) & table["gap"].isna()).sum())
    rest = f" For {blank} more no bound is known." if blank else ""
    if share == 1.0:
        who = f"{len(known)} of {len(known) + blank}" if blank else f"All {len(known)}"
        return f"{who} decisions are proven optimal to eight digits: no feasible portfolio is better.{rest}"
    largest, middle = known["gap"].max() * 1e4, known["gap"].median() * 1e4
    told = f"{share:.0%} of {len(known)} decisions are proven optimal to eight digits. For the others"
    if share == 0.0:
        told = f"None of {len(known)} decisions is proven optimal to eight digits:"
    return (
        f"{told} the bound leaves room for at most {largest:.3f} bps of energy (median {middle:.3f} bps); "
        f"how much of that room is real is not known.{rest}"
    )


def _exact(result: Result) -> str:
    """What is to say of decisions that chains had no part in; "" where there are none."""
    (count, proven), total = decisions.exact(result), len(result.decisions)
    if not count:
        return ""
    who = f"All {total}" if count == total > 1 else f"{count} of {total}"
    said = "were solved exactly"
    if proven < count:
        said = f"took one convex solve each, {proven} proven exact to eight digits and {count - proven} not"
    return f"{who} decisions {said}, so no chains ran there and there are no stages of theirs to compare."


def _events(result: Result) -> list[Mapping[str, Any]]:
    frame = result.events.copy()
    frame["date"] = [f"{when:%Y-%m-%d}" for when in frame["date"]]
    frame["weight"] = [f"{value:.2%}" for value in frame["weight"]]
    return [dict(row) for _, row in frame.iterrows()]


def _rows(frame: Any) -> list[tuple[str, list[Any]]]:
    return [(str(name), list(row)) for name, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)]


def _charts(results: Sequence[Result], terms: Any, stages: Any) -> dict[str, str]:
    lead = results[0]
    charts = {"wealth": plots.wealth(results), "drawdown": plots.drawdown(results)}
    if len(lead.trades):
        charts |= {"weights": plots.weights(lead), "trading": plots.trading(lead)}
    if len(terms) > 1 and terms["width"].notna().all():
        charts["terms"] = plots.terms(terms)
    if len(stages):
        charts["stages"] = plots.stages(lead)
    if "gap" in lead.decisions and not lead.decisions["proven"].eq(True).all() and lead.decisions["gap"].notna().any():
        charts["gaps"] = plots.gaps(lead)
    return charts


def _embedded(text: str) -> str:
    """JSON that can stand inside a script element: no tag can open or close in it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("</script", "<\\/script")
