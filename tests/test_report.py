"""The report: one file, nothing from outside, no script error, and no claim that its intervals do not make."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import portfolio_ebm as pe
from portfolio_ebm.backtesting.result import Result
from portfolio_ebm.report import decisions, findings, tables
from portfolio_ebm.report.html import _proof, render

EVIL = "<script>alert('x')</script>&\"\u2028</style>"


def panel_of(days: int = 420, names: tuple[str, ...] = ("A", "B", "C")) -> pe.Panel:
    rng = np.random.default_rng(1)
    index = pd.bdate_range("2020-01-01", periods=days)
    moves = 1 + 0.0004 + 0.01 * rng.standard_normal((days, len(names)))
    return pe.Panel.from_prices(100 * pd.DataFrame(moves, index=index, columns=list(names)).cumprod())


def equal(name: str = "mine", energy: pe.energy.Energy | None = None) -> pe.Strategy:
    found = pe.Strategy(name=name, constructor=pe.EqualWeight())
    return found if energy is None else found.replace(energy=energy)


@pytest.fixture(scope="module")
def panel() -> pe.Panel:
    return panel_of()


@pytest.fixture(scope="module")
def result(panel: pe.Panel) -> Result:
    return with_search(pe.backtest(equal(), panel, costs=10 * pe.bps))


@pytest.fixture(scope="module")
def other(panel: pe.Panel) -> Result:
    return pe.backtest(equal("1/N"), panel, start="2020-03-01", costs=None)


def with_search(result: Result) -> Result:
    """The records of a search: two terms of which one decides nothing, two stages, a gap that is not always zero."""
    table = result.decisions.copy()
    n = len(table)
    table["energy"], table["bound"], table["gap"] = -0.001, -0.00101, 1e-5
    table["proven"] = [row % 2 == 0 for row in range(n)]
    table["term: Return()"], table["low: Return()"], table["high: Return()"] = -0.002, -0.003, 0.001
    table["term: TradingCost(rate=0.001)"] = 0.001
    table["low: TradingCost(rate=0.001)"], table["high: TradingCost(rate=0.001)"] = 0.001, 0.00101
    table["stage: rounding + polish"], table["stage: final"] = -0.0009, -0.001
    table["search: acceptance"], table["refitted"] = 0.574, "moments"
    return replace(result, decisions=table)


@pytest.fixture(scope="module")
def page(panel: pe.Panel, result: Result, other: Result) -> str:
    return render(equal(), panel, [result, other])


class Tags(HTMLParser):
    """The tags outside scripts, with their attributes, and the text that a reader without JavaScript sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        # The charting library is four megabytes of script; what stands in a script is the browser test's business.
        self.feed(re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", text, flags=re.S))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += data


def test_nothing_is_asked_from_outside(page: str) -> None:
    tags = Tags(page)
    for tag, attributes in tags.found:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert tag not in ("link", "iframe", "object", "embed", "img") or attributes.get("rel") == "icon"
    style = "".join(re.findall(r"<style>(.*?)</style>", page, flags=re.S))
    assert "url(" not in style
    assert "@import" not in style


def test_tables_read_without_scripts(page: str, result: Result, other: Result) -> None:
    text = Tags(page).text
    for figure in result.summary().index:
        assert figure in text
    for word in ("decides nothing", "rounding + polish", "acceptance", "moments", "2020-02-03", "survivorship"):
        assert word in text
    assert findings.compare(result, [other])[0].sentence in text


def test_text_of_users_is_escaped() -> None:
    panel = panel_of(names=("A", EVIL))
    result = pe.backtest(equal(EVIL), panel, costs=0.001)
    table = result.decisions.copy()
    table.loc[table.index[3], ["ok", "status", "names", "refitted"]] = [False, EVIL, np.nan, np.nan]
    table[f"term: {EVIL}"] = 0.1
    page = render(equal(EVIL), panel, [replace(result, decisions=table)])
    assert "<script>alert" not in page
    tags = [tag for tag, _ in Tags(page).found]
    assert tags.count("script") == 2 + page.count('id="chart-')
    assert tags.count("style") == 1
    assert Tags(page).text.count("alert('x')") >= 3


def test_the_same_run_gives_the_same_page(page: str, panel: pe.Panel, result: Result, other: Result) -> None:
    assert render(equal(), panel, [result, other]) == page


def test_failed_decisions_are_seen(panel: pe.Panel, result: Result, other: Result) -> None:
    table = result.decisions.copy()
    table.loc[table.index[2], ["ok", "status"]] = [False, "InfeasibleError: Box and Budget cannot both hold"]
    page = Tags(render(equal(), panel, [replace(result, decisions=table), other])).text
    assert f"1 of {len(table)} decisions failed" in page
    assert "Box and Budget cannot both hold" in page
    shown = tables.plain([replace(result, decisions=table), other])
    assert "1 failed" in shown
    assert "Box and Budget" in shown


def test_a_run_in_which_nothing_worked_still_has_a_report(panel: pe.Panel) -> None:
    impossible = pe.Strategy(
        name="impossible", market=pe.SampleMoments(lookback=20), energy=pe.Variance(),
        constraint=pe.Budget() & pe.LongOnly() & pe.Box(upper=0.1), constructor=pe.Convex(),
    )  # fmt: skip
    result = pe.backtest(impossible, panel)
    assert not result.decisions["ok"].any()
    text = Tags(render(impossible, panel, [result])).text
    assert "Nothing was traded" in text
    assert "InfeasibleError" in text


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.1, 0.3, "does not tell it from"), (0.1, 0.3, "above zero"), (-0.3, -0.1, "worse"), (np.nan, np.nan, "short")],
)
def test_no_claim_beyond_the_interval(low: float, high: float, word: str) -> None:
    assert word in findings.Comparison("1/N", low, (low + high) / 2, high).sentence


def test_figures_are_compared_over_shared_dates(result: Result, other: Result) -> None:
    cut = findings.shared([result, other])
    assert cut[0].net.index[0] == cut[1].net.index[0] == other.net.index[0]
    assert cut[0].net.equals(result.net.loc[other.net.index[0] :])
    shown = findings.table([result, other])
    assert shown.loc["annual return", "mine"] == f"{cut[0].summary()['annual return']:.1%}"


def test_less_than_a_year_is_told(result: Result) -> None:
    assert findings.short(result) is None
    assert "less than a year" in tables.plain([result.since("2021-03-01")])


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_table_fits_and_has_its_baselines(result: Result, other: Result, width: int) -> None:
    text = tables.plain([result, other], width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "mine" in text
    assert "1/N" in text
    assert "\x1b" not in text
    assert "…" not in text


def test_terms_and_stages_by_hand(result: Result) -> None:
    terms = decisions.term_table(result)
    assert terms.loc["Return()", "part"] == 1.0
    assert terms.loc["TradingCost(rate=0.001)", "part"] == pytest.approx(0.00001 / 0.004)
    stages = decisions.stage_table(result)
    assert stages.loc["rounding + polish", "mean"] == pytest.approx(1.0)  # 0.0001 above: one basis point
    assert stages.loc["rounding + polish", "improved"] == 1.0
    assert list(stages.index) == ["rounding + polish"]
    assert decisions.refits(result) == [("moments", len(result.decisions), len(result.decisions))]


def browser() -> str | None:
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@pytest.mark.slow
def test_a_browser_finds_no_error_and_draws_every_chart(page: str, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install '.[browser]')")
    path = browser()
    if path is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    place = tmp_path / "report.html"
    place.write_text(page, encoding="utf-8")
    errors: list[str] = []
    asked: list[str] = []
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = chromium.new_page(viewport={"width": 1100, "height": 800})
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        view.on("request", lambda request: asked.append(request.url))
        view.goto(place.as_uri())
        view.wait_for_function("document.querySelectorAll('.chart .main-svg').length > 0", timeout=120_000)
        charts = view.evaluate("document.querySelectorAll('.chart').length")
        empty = view.evaluate("[...document.querySelectorAll('.chart')].filter(c => !c.querySelector('.trace')).length")
        overflow = view.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        chromium.close()
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert charts == 7
    assert empty == 0
    assert overflow <= 0


def test_how_many_decisions_have_no_bound_is_counted_where_some_were_not_solved(panel: pe.Panel) -> None:
    result = pe.backtest(equal(), panel)
    first = len(result.decisions) - 3
    ok = np.r_[np.ones(first + 1, dtype=bool), True, False]
    table = result.decisions.assign(ok=ok, gap=0.0, proven=True)
    assert _proof(replace(result, decisions=table)).startswith(f"All {first + 3} decisions are proven optimal")
    table.loc[table.index[0], ["gap", "proven"]] = [np.nan, False]
    assert _proof(replace(result, decisions=table)).startswith(f"{first + 2} of {first + 3} decisions are proven")
