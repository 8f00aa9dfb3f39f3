"""The command line: what it writes and prints, what it says to bad input, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from portfolio_ebm import cli

ROOT = Path(__file__).resolve().parent.parent

STRATEGY = """
from portfolio_ebm import *
STRATEGY = Strategy(
    name="mine / yours", market=SampleMoments(lookback=60), energy=Variance() + TradingCost(10 * bps),
    constraint=Budget() & LongOnly() & Box(upper=0.5), constructor=Convex(), rebalance=Monthly(),
)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user would have it: a strategy, prices, groups, holdings."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(3)
    days = pd.bdate_range("2021-01-01", periods=400, name="date")
    frame = 40 * pd.DataFrame(np.exp(0.01 * rng.standard_normal((400, 4))), index=days, columns=list("ABCD")).cumprod()
    frame.to_csv(folder / "prices.csv")
    (folder / "groups.csv").write_text("asset,sector\nA,x\nB,x\nC,y\nD,y\n")
    (folder / "mine.py").write_text(STRATEGY)
    (folder / "held.csv").write_text("ticker,shares\nA,100\nB,12.5\n")
    return folder


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path):
    """The command as typed, from a folder of one's own."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "80")

    def typed(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["portfolio-ebm", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return typed


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, portfolio_ebm.cli; sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'cvxpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("command", ["backtest", "rebalance", "check"])
def test_every_command_has_the_promised_options(run, command: str) -> None:
    from typer.main import get_command

    options = {name for item in get_command(cli.app).commands[command].params for name in item.opts}
    assert {"--prices", "--factors", "--groups", "--out", "--seed", "--device"} <= options
    assert ({"--holdings", "--cash", "--asof", "--json"} if command == "rebalance" else {"--start", "--end"}) <= options
    assert run(command, "--help").code == 0


def test_backtest_prints_the_table_and_writes_the_run(run, home: Path) -> None:
    ran = run("backtest", "mine.py", "--prices", "prices.csv", "--groups", "groups.csv")
    assert ran.code == 0, ran.err
    assert "1/N" in ran.out and "Sharpe" in ran.out
    assert max(len(line) for line in ran.out.splitlines()[:-1]) <= 80
    folder = home / "runs" / "mine-yours"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"manifest.json", "weights.parquet", "trades.parquet", "returns.parquet", "report.html"}
    assert str(Path("runs") / "mine-yours" / "report.html") in ran.out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["arguments"]["seed"] == 0
    assert manifest["strategy"]["name"] == "mine / yours"


def test_the_same_command_writes_the_same_bytes(run, tmp_path: Path) -> None:
    words = ("backtest", "mine.py", "--prices", "prices.csv", "--start", "2022-01-01", "--seed", "7", "--out")
    for name in ("a", "b"):
        assert run(*words, str(tmp_path / name)).code == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_rebalance_sizes_trades_that_add_up(run, home: Path, tmp_path: Path) -> None:
    words = ("rebalance", "mine.py", "--prices", "prices.csv", "--holdings", "held.csv", "--cash", "1000")
    ran = run(*words, "--asof", "2022-03-15", "--json", "--out", str(tmp_path))
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found == json.loads((tmp_path / "rebalance.json").read_text())
    assert found["date"] == "2022-03-15" and found["ok"]
    assert sum(found["weights"].values()) + found["cash_weight"] == pytest.approx(1.0)
    price = pd.read_csv(home / "prices.csv", index_col=0).loc["2022-03-15"]
    assert found["value"] == pytest.approx(1000 + 100 * price["A"] + 12.5 * price["B"])
    paid = sum(trade["value"] for trade in found["trades"])
    assert found["cash_after"] == pytest.approx(1000 - paid - found["costs"])
    assert found["cash_after"] >= 0.0
    assert found["costs"] == pytest.approx(0.001 * sum(abs(trade["value"]) for trade in found["trades"]))
    orders = [json.loads(line) for line in (tmp_path / "alpaca_orders.jsonl").read_text().splitlines()]
    basket = pd.read_csv(tmp_path / "ibkr_basket.csv")
    sides = {trade["ticker"]: "buy" if trade["shares"] > 0 else "sell" for trade in found["trades"]}
    assert {item["symbol"]: item["side"] for item in orders} == sides
    assert dict(zip(basket["Symbol"], basket["Action"].str.lower(), strict=True)) == sides
    weights = pd.read_csv(tmp_path / "weights.csv", index_col=0)["weight"]
    assert weights[weights > 1e-12].to_dict() == pytest.approx(found["weights"])


def test_rebalance_says_what_had_drifted_and_whether_it_is_cured_at_once(run, home: Path, tmp_path: Path) -> None:
    # A is all but all of what is held, far past the half that Box allows.
    (home / "lopsided.csv").write_text("ticker,shares\nA,100\nB,1\n")
    (home / "at_once.py").write_text(STRATEGY.replace("rebalance=", 'breaches="at once", tolerance=0.01, rebalance='))
    words = ("--prices", "prices.csv", "--holdings", "lopsided.csv", "--asof", "2022-03-15", "--out", str(tmp_path))
    price = pd.read_csv(home / "prices.csv", index_col=0).loc["2022-03-15"]
    by = 100 * price["A"] / (100 * price["A"] + price["B"]) - 0.5
    patient = run("rebalance", "mine.py", *words)
    found = json.loads((tmp_path / "rebalance.json").read_text())
    assert found["breaches"] == {"Box(upper=0.5)": pytest.approx(by)} and found["cure_due"] == {}
    told = " ".join(patient.out.split())
    assert f"had drifted past Box(upper=0.5) by {by:.3g}." in told and "at once" not in told
    hasty = run("rebalance", "at_once.py", *words)
    found = json.loads((tmp_path / "rebalance.json").read_text())
    assert found["cure_due"] == found["breaches"] == {"Box(upper=0.5)": pytest.approx(by)}
    assert "The strategy cures this at once: trade today." in " ".join(hasty.out.split())


def test_rebalance_is_the_backtests_first_decision(run, tmp_path: Path) -> None:
    assert run("backtest", "mine.py", "--prices", "prices.csv", "--out", str(tmp_path / "b")).code == 0
    traded = pd.read_parquet(tmp_path / "b" / "decisions.parquet")
    first, executed = traded.index[0], traded["executed"].iloc[0]
    words = ("rebalance", "mine.py", "--prices", "prices.csv", "--asof", f"{first:%Y-%m-%d}")
    assert run(*words, "--out", str(tmp_path / "r")).code == 0
    live = json.loads((tmp_path / "r" / "rebalance.json").read_text())["weights"]
    done = pd.read_parquet(tmp_path / "b" / "weights.parquet").loc[executed]
    assert live == done[done.abs() > 1e-12].to_dict()


def test_a_decision_goes_on_from_the_tally_of_the_one_before(run, home: Path, tmp_path: Path) -> None:
    (home / "least.py").write_text(STRATEGY.replace("Convex()", "LeastTrade(0.01, unit='realised volatility')"))
    words = ("rebalance", "least.py", "--prices", "prices.csv", "--holdings", "held.csv", "--json", "--out")
    first = run(*words, str(tmp_path / "1"), "--asof", "2022-02-15")
    assert first.code == 0 and json.loads(first.out)["tally"]["decisions"] == 1, first.err
    record = str(tmp_path / "1" / "rebalance.json")
    second = run(*words, str(tmp_path / "2"), "--asof", "2022-03-15", "--after", record)
    told = json.loads(second.out)
    assert told["tally"]["decisions"] == 2 and "of the optimum's turnover was saved" in told["status"]
    told["tally"]["date"] = "soon"
    for name, text in (("dated", json.dumps(told)), ("cut", json.dumps(told)[:300]), ("deep", "[" * 100_000)):
        (home / f"{name}.json").write_text(text)
    for path, words_of_it in (
        ("prices.csv", "no rebalance.json"), ("nowhere.json", "no rebalance.json"), (record, "after 2022-01-14"),
        ("dated.json", "--after dated.json: This is no tally"), ("cut.json", "no rebalance.json"),
        ("deep.json", "no rebalance.json"),
    ):  # fmt: skip
        ran = run(*words, str(tmp_path / "3"), "--asof", "2022-01-14", "--after", path)
        assert ran.code != 0 and words_of_it in ran.err and "Traceback" not in ran.err
    assert run("backtest", "least.py", "--prices", "prices.csv", "--out", str(tmp_path / "b")).code == 0
    went_on = run(*words, str(tmp_path / "7"), "--after", str(tmp_path / "b" / "tally.json"))
    assert json.loads(went_on.out)["tally"]["decisions"] > 10, went_on.err
    other = run("rebalance", "mine.py", "--prices", "prices.csv", "--out", str(tmp_path / "4"))
    assert other.code == 0
    (home / "renamed.py").write_text((home / "least.py").read_text().replace("mine / yours", "another"))
    no_tally = run(*words, str(tmp_path / "5"), "--after", str(tmp_path / "4" / "rebalance.json"))
    assert no_tally.code != 0 and "kept no tally" in no_tally.err
    ran = run("rebalance", "renamed.py", "--prices", "prices.csv", "--out", str(tmp_path / "6"), "--after", record)
    assert ran.code != 0 and "made by 'mine / yours'" in ran.err


def test_a_tally_of_other_settings_is_not_read_silently(run, home: Path, tmp_path: Path) -> None:
    least = STRATEGY.replace("Convex()", "LeastTrade(0.01, unit='realised volatility')")
    (home / "least.py").write_text(least)
    (home / "more.py").write_text(least.replace("0.01", "0.02"))
    words = ("--prices", "prices.csv", "--out")
    assert run("rebalance", "least.py", *words, str(tmp_path / "1"), "--asof", "2022-02-15").code == 0
    assert run("backtest", "least.py", *words, str(tmp_path / "b"), "--end", "2022-02-15").code == 0
    files = [tmp_path / "1" / "rebalance.json", tmp_path / "b" / "tally.json"]
    for place, file in enumerate(files):
        out = str(tmp_path / f"next {place}")
        ran = run("rebalance", "more.py", *words, out, "--after", str(file))
        told = " ".join(ran.err.split())
        assert ran.code != 0 and "of 'mine / yours' with other settings" in told and "Traceback" not in told
        assert "strategy_fingerprint" in told and not Path(out).exists()
        assert run("rebalance", "least.py", *words, out, "--after", str(file)).code == 0
        # Files of before, and those of whoever means it, have the name alone.
        record = json.loads(file.read_text())
        assert len(record.pop("strategy_fingerprint")) == 64
        file.write_text(json.dumps(record))
        assert run("rebalance", "more.py", *words, out, "--after", str(file)).code == 0


def test_without_holdings_or_cash_there_are_weights_and_no_orders(run, tmp_path: Path) -> None:
    ran = run("rebalance", "mine.py", "--prices", "prices.csv", "--out", str(tmp_path))
    assert ran.code == 0
    assert "--holdings" in ran.out
    assert not (tmp_path / "ibkr_basket.csv").exists()


def test_check_says_what_would_be_done_without_doing_it(run, home: Path) -> None:
    before = sorted(home.rglob("*"))
    ran = run("check", "mine.py", "--prices", "prices.csv", "--out", "elsewhere")
    assert ran.code == 0, ran.err
    for part in ("Variance()", "covariance", "No short positions", "60 periods", "10 basis points", "decisions from"):
        assert part in ran.out, part
    assert sorted(home.rglob("*")) == before


CASES = {
    "no such strategy": (("check", "nothing.py"), "no such strategy file"),
    "no such prices": (("check", "mine.py", "--prices", "gone.csv"), "gone.csv"),
    "no date": (("backtest", "mine.py", "--prices", "prices.csv", "--start", "soon"), "not a date"),
    "before the data": (("rebalance", "mine.py", "--prices", "prices.csv", "--asof", "1999-01-04"), "1999-01-04"),
    "too early": (("rebalance", "mine.py", "--prices", "prices.csv", "--asof", "2021-01-29"), "periods of history"),
    "after the data": (("backtest", "mine.py", "--prices", "prices.csv", "--start", "2031-01-01"), "no decision from"),
    "unknown device": (("check", "mine.py", "--prices", "prices.csv", "--device", "abacus"), "Unknown device"),
    "out is a file": (("backtest", "mine.py", "--prices", "prices.csv", "--out", "mine.py"), "is a file"),
    "no option": (("backtest", "mine.py", "--sped", "1"), "--sped"),
    "debt": (("rebalance", "mine.py", "--prices", "prices.csv", "--cash", "-5"), "worth"),
    "no holdings": (("rebalance", "mine.py", "--prices", "prices.csv", "--holdings", "no.csv"), "no.csv"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_exit_code_2_and_a_sentence(run, case: str) -> None:
    words, part = CASES[case]
    ran = run(*words)
    assert ran.code == 2
    assert part in " ".join(ran.err.split())
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name,shares\nA,1\n", "no column 'ticker'"),
        ("ticker,shares\nA,many\n", "line 2: the shares of A"),
        ("ticker,shares\nA,1\nA,2\n", "twice"),
        ("ticker,shares\nA,1\n,2\n", "line 3: no ticker"),
        ("ticker,shares\nAA,1\n", "AA"),
        ("", "not a CSV file"),
    ],
)
def test_bad_holdings_are_told(run, tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "h.csv"
    path.write_text(text)
    ran = run("rebalance", "mine.py", "--prices", "prices.csv", "--holdings", str(path), "--out", str(tmp_path / "o"))
    assert ran.code == 2
    assert part in ran.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("rule", "part"),
    [("Box(upper=0.1)", "Box(upper=0.1)"), ("Group('sektor', 'x', upper=0.5)", "sektor")],
)
@pytest.mark.parametrize("command", ["check", "rebalance"])
def test_rules_that_cannot_be_are_told(run, tmp_path: Path, command: str, rule: str, part: str) -> None:
    path = tmp_path / "s.py"
    path.write_text(STRATEGY.replace("Box(upper=0.5)", rule))
    ran = run(command, str(path), "--prices", "prices.csv", "--groups", "groups.csv", "--out", str(tmp_path / "o"))
    assert ran.code == 2
    assert part in ran.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told(run) -> None:
    ran = run("backtest", "mine.py", "--prices", "prices.csv", "--device", "cuda")
    assert ran.code == 2
    assert "--device cpu" in ran.err


def test_a_run_in_which_every_decision_failed_is_no_success(run, tmp_path: Path) -> None:
    path = tmp_path / "impossible.py"
    path.write_text(STRATEGY.replace("upper=0.5", "upper=0.2"))
    ran = run("backtest", str(path), "--prices", "prices.csv", "--out", str(tmp_path / "out"))
    assert ran.code == 2
    assert "decisions failed, the first with InfeasibleError" in " ".join(ran.err.split())
    assert (tmp_path / "out" / "report.html").exists()


def test_check_knows_the_factors_there_are(run, tmp_path: Path) -> None:
    path = tmp_path / "factors.py"
    market = 'FactorEBM(factors=("market", "MTUM"), lookback=200, min_history=100)'
    path.write_text(STRATEGY.replace("SampleMoments(lookback=60)", market))
    ran = run("check", str(path), "--prices", "prices.csv")
    assert ran.code == 2
    assert "no factor MTUM" in ran.err
    assert "momentum" in ran.err


def test_a_bug_is_a_traceback_and_exit_code_1(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "bug.py"
    path.write_text(
        "from portfolio_ebm import *\nfrom portfolio_ebm.construction.base import Constructor\n"
        "class Broken(Constructor):\n    def build(self, *given):\n        return 1 / 0\n"
        "STRATEGY = Strategy(name='bug', constructor=Broken())\n"
    )
    words = [sys.executable, "-m", "portfolio_ebm.cli", "backtest", str(path), "--prices", "prices.csv", "--out", "b"]
    ran = subprocess.run(words, cwd=home, capture_output=True, text=True, check=False, env=_environment())
    assert ran.returncode == 1
    assert "ZeroDivisionError" in ran.stderr
    assert not (home / "b").exists()


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
