"""The Python of README and of docs/EXTENDING.md runs as it stands; tables and commands of the README are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = [
    code
    for text in (README, (ROOT / "docs" / "EXTENDING.md").read_text())
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.S)
]


def test_there_is_code_to_run() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.strip().splitlines()[2][:40])
def test_the_code_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "mine"})
    assert capsys.readouterr().out.strip()


def test_a_printed_table_stands_in_the_first_thirty_lines() -> None:
    assert "1/N" in "\n".join(README.splitlines()[:30])


def test_the_make_targets_and_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"\bmake (\w+)", README)) <= targets
    from typer.main import get_command

    from portfolio_ebm.cli import app

    commands = set(getattr(get_command(app), "commands", {}))
    assert set(re.findall(r"portfolio-ebm\s+(\w+)\s", README)) <= commands
