"""Mixed problems that are stopped: the table of what was dealt so far is printed, and no worker is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks import mixed_problems

ROOT = Path(__file__).resolve().parent.parent

HANGS = """
import signal, sys
sys.path[:0] = {paths}
import mixed_problems

def one(seed):
    if seed < 5:
        return "proven", "made up" * (seed == 4), "the fourth", 0.0
    signal.pause()

class Seeds:
    def integers(self, most, size):
        return mixed_problems.np.arange(1, size + 1)

if __name__ == "__main__":
    mixed_problems.one, mixed_problems.np.random.default_rng = one, lambda seed: Seeds()
    sys.argv[1:] = ["--problems", "50", "--jobs", "2"]
    sys.exit(mixed_problems.main())
"""
"""Four answers, of which the last is wrong and so printed; all after them never come."""


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    before = {stop: signal.getsignal(stop) for stop in mixed_problems.STOPS}
    yield
    for stop, handler in before.items():
        signal.signal(stop, handler)


@pytest.mark.parametrize("stop", mixed_problems.STOPS)
def test_a_signal_ends_it_with_what_was_dealt_so_far(
    stop: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(count: int, seed: int, jobs: int) -> Iterator[tuple[str, str, str, float]]:
        yield from [("proven", "", "", 1.0), ("found", "", "", 3.0)]
        signal.raise_signal(stop)
        yield "crashed", "never dealt", "", 0.0

    monkeypatch.setattr(mixed_problems, "answers", answers)
    monkeypatch.setattr(sys, "argv", ["mixed_problems.py", "--problems", "7"])
    assert mixed_problems.main() == 130
    said = " ".join(capsys.readouterr().out.split())
    assert "stopped after 2 of 7 problems" in said and "2.00 CPU s in the middle, 3.0 at most. 0 wrong." in said
    assert "never dealt" not in said


def test_a_signal_before_the_first_answer_and_none_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mixed_problems.py"])
    monkeypatch.setattr(mixed_problems, "answers", lambda *_: iter(lambda: signal.raise_signal(signal.SIGTERM), 0))
    assert mixed_problems.main() == 130 and "stopped after 0 of 10000" in capsys.readouterr().out
    monkeypatch.setattr(mixed_problems, "answers", lambda *_: iter([("proven", "", "", 1.0)]))
    assert mixed_problems.main() == 0 and "stopped" not in capsys.readouterr().out


def test_a_signal_to_all_processes_waits_for_no_worker(tmp_path: Path) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS.format(paths=[str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]))
    run = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stdout is not None and "made up: the fourth" in run.stdout.readline()
    os.killpg(run.pid, signal.SIGTERM)
    try:
        said, wrong = run.communicate(timeout=300)
    finally:  # where one is waited for, nothing stays behind
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert "stopped after 4 of 50" in " ".join(said.split()) and "1 wrong" in said
    assert (run.returncode, wrong) == (1, "")
